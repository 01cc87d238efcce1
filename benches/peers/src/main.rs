//! Other caches on the very work that ours is measured on, counted by the same harness.
//!
//! `cargo run --release` prints the table; it takes some minutes. Each cache is set up as its documentation shows, with a minute's
//! lifetime; what it leaves out of a correct answer stands in the README.

use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hitbox::policy::PolicyConfig;
use hitbox_http::{
    extractors::{Method, path::PathExtractor, query::QueryExtractor},
    predicates::{NeutralRequestPredicate, NeutralResponsePredicate},
};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use tower::{Layer, Service, ServiceExt};
use tower_http_cache::prelude::{CacheLayer, InMemoryBackend};
use tower_response_cache_cost::{
    Case, Limit,
    cases::{CASES, in_runtime},
    measure,
    work::{Origin, fresh_item, item, request},
};

const MINUTE: Duration = Duration::from_secs(60);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How many entries fit where misses evict, as in the store that ours is measured with.
const FEW: u64 = 4_000;

fn main() {
    let cases: Vec<_> = CASES.iter().copied().map(|case| Case { limit: Limit::None, ..case }).chain(peers()).collect();
    measure::main(&cases);
}

fn peers() -> impl Iterator<Item = Case> {
    let hit = "a request and an empty service";
    let miss = "distinct requests and an empty service";
    let case = |name, less, make| Case { name, less, calls: 500, limit: Limit::None, make };
    [
        case("axum-response-cache 0.5, hit", hit, || again(in_axum(KIB))),
        case("axum-response-cache 0.5, hit, 1 MiB", hit, || again(in_axum(MIB))),
        case("axum-response-cache 0.5, miss", miss, || distinct(in_axum(KIB))),
        case("tower-http-cache 0.6, hit", hit, || again(in_tower_http(KIB, 100_000))),
        case("tower-http-cache 0.6, hit, 1 MiB", hit, || again(in_tower_http(MIB, 100_000))),
        case("tower-http-cache 0.6, miss", miss, || distinct(in_tower_http(KIB, FEW))),
        case("hitbox 0.2 (JSON), hit", hit, || again(in_hitbox(KIB, 100_000))),
        case("hitbox 0.2 (JSON), miss", miss, || distinct(in_hitbox(KIB, FEW))),
        case("http-cache-tower-server 0.2, hit", hit, || again(in_http_cache(KIB, 100_000))),
        case("http-cache-tower-server 0.2, miss", miss, || distinct(in_http_cache(KIB, FEW))),
    ]
    .into_iter()
}

/// It wants axum's bodies, on both sides, and keeps what it has until its time is over.
fn in_axum(bytes: usize) -> impl Answers {
    let origin = Origin::of(bytes);
    let inner = tower::service_fn(move |_: Request<AxumBody>| {
        let response = origin.respond().map(AxumBody::new);
        async move { Ok::<_, Infallible>(response) }
    });
    axum_response_cache::CacheLayer::with_lifespan(MINUTE)
        .layer(inner)
        .map_request(|request: Request<Empty<Bytes>>| request.map(AxumBody::new))
}

fn in_tower_http(bytes: usize, entries: u64) -> impl Answers {
    let policy =
        CacheLayer::builder(InMemoryBackend::new(entries)).ttl(MINUTE).min_body_size(Some(0)).max_body_size(Some(4 * MIB));
    policy.build().layer(Origin::of(bytes))
}

fn in_hitbox(bytes: usize, entries: u64) -> impl Answers {
    let extractor = Method::new().path("/items/{id}").query("page".to_owned()).query("sort".to_owned());
    let config = hitbox::Config::builder()
        .request_predicate(NeutralRequestPredicate::new())
        .response_predicate(NeutralResponsePredicate::new())
        .extractor(extractor)
        .policy(PolicyConfig::builder().ttl(MINUTE).build())
        .build();
    let backend = hitbox_moka::MokaBackend::builder().max_entries(entries).build();
    hitbox_tower::Cache::builder().backend(backend).config(config).build().layer(Origin::of(bytes))
}

fn in_http_cache(bytes: usize, entries: u64) -> impl Answers {
    let manager = http_cache::MokaManager::new(http_cache::MokaCache::new(entries));
    http_cache_tower_server::ServerCacheLayer::new(manager).layer(Origin::of(bytes))
}

/// A service that takes the request of all and answers with bytes, by whatever body and error.
trait Answers {
    fn send(&mut self, request: Request<Empty<Bytes>>) -> usize;
}

impl<S, B> Answers for S
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    fn send(&mut self, request: Request<Empty<Bytes>>) -> usize {
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(self.poll_ready(cx).is_ready());
        let mut answer = pin!(self.call(black_box(request)));
        let response = loop {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                break answer.unwrap_or_else(|_| panic!("an error in place of an answer"));
            }
        };
        let (parts, body) = response.into_parts();
        black_box(&parts);
        let mut body = pin!(body);
        let mut read = 0;
        while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(cx) {
            read += black_box(frame).into_data().map_or(0, |data| data.len());
        }
        assert!(read > 0, "no body");
        read
    }
}

fn again<S: Answers + 'static>(mut service: S) -> Box<dyn FnMut()> {
    in_runtime(move || {
        for _ in 0..100 {
            service.send(request(item()));
        }
        Box::new(move || {
            black_box(service.send(request(item())));
        })
    })
}

fn distinct<S: Answers + 'static>(mut service: S) -> Box<dyn FnMut()> {
    in_runtime(move || {
        for n in 0..2 * FEW {
            service.send(request(fresh_item(n)));
        }
        let mut n = 1_000_000;
        Box::new(move || {
            n += 1;
            black_box(service.send(request(fresh_item(n))));
        })
    })
}
