//! Counts the allocations of a hit, of a miss and of a request without a rule.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use http_body_util::{Empty, Full};
use tower::{Layer, Service};
use tower_response_cache::{CacheLayer, CacheService, Memory, Rule, Rules, Store};

/// Answers immediately, always with the same body.
#[derive(Clone)]
struct Origin(Bytes);

impl Service<Request<Empty<Bytes>>> for Origin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        let mut response = Response::new(Full::new(self.0.clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"5f3a9c0b7d21\""));
        ready(Ok(response))
    }
}

fn request(target: &'static str) -> Request<Empty<Bytes>> {
    let request = Request::get(target).header("host", "api.example.com").header("accept-encoding", "gzip");
    request.body(Empty::new()).expect("a request")
}

/// Sends a request and reads the body to its end; returns its length.
fn send<S, B>(service: &mut S, request: Request<Empty<Bytes>>) -> usize
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(cx) else {
        panic!("the response is not ready immediately")
    };
    let mut body = pin!(response.into_body());
    let mut read = 0;
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(cx) {
        read += frame.into_data().expect("data").len();
    }
    read
}

/// Returns the number of allocations of a request. Earlier requests have made all state that stays, such as the cached target.
fn allocations<S, B>(service: &mut S, target: &'static str, length: usize) -> u64
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    for _ in 0..WARM {
        assert_eq!(send(service, request(target)), length);
    }
    let mut once = || {
        let request = request(target);
        let mut read = 0;
        let count = measure(|| read = send(service, request)).count_total;
        assert_eq!(read, length);
        count
    };
    // All requests cost the same: none of them pays for the others.
    let count = once();
    assert!((0..WARM).all(|_| once() == count));
    count
}

const WARM: u64 = 24;

fn cache(bytes: usize, extension: bool) -> (CacheService<Origin>, Memory) {
    let (layer, store) = layer(extension);
    (layer.layer(Origin(vec![b'7'; bytes].into())), store)
}

fn layer(extension: bool) -> (CacheLayer, Memory) {
    let store = Memory::new(64 << 20);
    let rule = Rule::ttl(Duration::from_secs(60)).namespace("items").max_body(4 << 20);
    let rules = Rules::new().route("/items/{id}", rule);
    let layer = CacheLayer::new(store.clone()).rules(rules);
    (if extension { layer.status_extension(true) } else { layer }, store)
}

const ITEM: &str = "/items/42?page=3&sort=asc";

#[tokio::test]
async fn hit_allocates_its_header_map_only() {
    for bytes in [0, 1 << 10, 1 << 20] {
        let (mut cache, store) = cache(bytes, false);
        assert_eq!(allocations(&mut cache, ITEM, bytes), 2, "{bytes} bytes");
        assert_eq!(store.stats().hits, 2 * WARM, "a measured request was not a hit");
    }
}

#[tokio::test]
async fn status_field_of_a_hit_allocates_nothing() {
    for lifetime in [60, 3_600, 86_400] {
        let rule = Rule::ttl(Duration::from_secs(lifetime));
        let layer = CacheLayer::new(Memory::new(64 << 20)).rule(rule).cache_status("items");
        let mut cache = layer.layer(Origin(vec![b'7'; 1 << 10].into()));
        assert_eq!(allocations(&mut cache, ITEM, 1 << 10), 2, "{lifetime} s");
    }
}

/// The eight: the key, the request's state, the flight, the call and the body while it is read; the entry, its own field values and its body.
#[tokio::test]
async fn miss_makes_eight_allocations_of_its_own() {
    let (mut cache, store) = cache(1 << 10, false);
    let mut uncached = Origin(vec![b'7'; 1 << 10].into());
    let mut least = (u64::MAX, u64::MAX);
    // The minimum, because tables grow occasionally, and request fields are stored until responses turn out not to vary.
    for item in 0..200 {
        let target = format!("/items/{item}?page=3");
        let request = || Request::get(&target).header("host", "api.example.com").body(Empty::new()).expect("a request");
        let (missed, alone) = (request(), request());
        least.0 = least.0.min(measure(|| _ = send(&mut cache, missed)).count_total);
        least.1 = least.1.min(measure(|| _ = send(&mut uncached, alone)).count_total);
    }
    assert_eq!(store.stats().stored, 200);
    assert_eq!(least.0 - least.1, 8);
}

/// The seven: the key, the request's state, the flight, the call and the body while it is read; the stored body and values. The entry
/// reuses the memory of the evicted one.
#[tokio::test]
async fn miss_that_evicts_makes_seven_allocations() {
    let store = Memory::new(1 << 20);
    let rules = Rules::new().route("/items/{id}", Rule::ttl(Duration::from_secs(60)));
    let mut cache = CacheLayer::new(store.clone()).rules(rules).layer(Origin(vec![b'7'; 1 << 10].into()));
    let mut uncached = Origin(vec![b'7'; 1 << 10].into());
    let mut least = (u64::MAX, u64::MAX);
    for item in 0..2_000 {
        let target = format!("/items/{item}?page=3");
        let request = || Request::get(&target).header("host", "api.example.com").body(Empty::new()).expect("a request");
        let (missed, alone) = (request(), request());
        least.0 = least.0.min(measure(|| _ = send(&mut cache, missed)).count_total);
        least.1 = least.1.min(measure(|| _ = send(&mut uncached, alone)).count_total);
    }
    assert!(store.stats().evictions > 1_000);
    assert_eq!(least.0 - least.1, 7);
}

/// Spawning would panic, because there is no runtime.
#[test]
fn miss_with_a_complete_body_spawns_no_task() {
    assert!(tokio::runtime::Handle::try_current().is_err());
    let (mut cache, store) = cache(1 << 10, true);
    for item in 0..10 {
        let target = format!("/items/{item}");
        for _ in 0..2 {
            assert_eq!(send(&mut cache, Request::get(&target).body(Empty::new()).expect("a request")), 1 << 10);
        }
    }
    let stats = store.stats();
    assert_eq!((stats.misses(), stats.stored, stats.hits), (10, 10, 10));
}

#[tokio::test]
async fn status_extension_makes_three_more_allocations() {
    let (mut cache, _) = cache(1 << 10, true);
    assert_eq!(allocations(&mut cache, ITEM, 1 << 10), 5);
}

#[tokio::test]
async fn request_without_a_rule_makes_no_allocation() {
    let (mut cache, _) = cache(1 << 10, true);
    let mut uncached = Origin(vec![b'7'; 1 << 10].into());
    for target in ["/other/42?page=3", "/items", "/", "/items/42/more"] {
        assert_eq!(allocations(&mut cache, target, 1 << 10), allocations(&mut uncached, target, 1 << 10), "{target}");
    }
}
