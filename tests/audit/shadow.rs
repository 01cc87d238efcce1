//! Shadow mode: the client gets the responses of the inner service, and the figures are those of a real cache.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{
    CacheBody, CacheLayer, Clock, InvalidateLayer, Memory, Outcome, ResponseCache, Rule, Rules, Store, Switch,
    stats::{Difference, ShadowStats},
    status::Bypass,
};
use tower_test::mock;

use crate::{Origin, common::*, memory, route};

fn rules() -> Rules {
    one_rule(Rule::ttl(MINUTE).namespace("t:{table}").etag())
}

fn shadowed(store: &Memory) -> CacheLayer {
    CacheLayer::new(store.clone()).rules(rules()).shadow(true).audit_grace(Duration::ZERO)
}

fn shadow(store: &impl Store) -> ShadowStats {
    route(store).shadow
}

/// A database of three tables, and a handler that answers conditions and ranges.
#[derive(Clone, Default)]
struct Tables(Arc<Mutex<[u32; 3]>>);

impl Tables {
    fn handle(&self, request: &Request<Plain>) -> Response<Plain> {
        let path = request.uri().path();
        let Some(n) = path.strip_prefix("/t/").and_then(|name| name.parse::<usize>().ok()).filter(|n| *n < 3) else {
            let mut response = ok("no such table");
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        let mut tables = self.0.lock().unwrap();
        if request.method() == Method::POST {
            tables[n] += 1;
            return ok("written");
        }
        let (body, tag) = (format!("rows {n} of version {}", tables[n]), format!("\"{}\"", tables[n]));
        let mut response = match request.headers() {
            headers if headers.get("if-none-match").is_some_and(|asked| *asked == tag) => {
                let mut response = ok("");
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            headers if headers.contains_key("range") => {
                let mut response = ok(body[..4].to_owned());
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                response.headers_mut().insert("content-range", format!("bytes 0-3/{}", body.len()).parse().unwrap());
                response
            }
            _ if request.method() == Method::HEAD => ok(""),
            _ => ok(body),
        };
        response.headers_mut().insert("etag", tag.parse().unwrap());
        response
    }

    fn service(
        &self,
    ) -> impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static + use<>
    {
        let tables = self.clone();
        tower::service_fn(move |request| {
            let response = tables.handle(&request);
            async move { Ok(response) }
        })
    }
}

/// Returns a random request.
fn random(random: &mut fastrand::Rng, with_conditions: bool) -> Request<Plain> {
    let target = format!("/t/{}", random.usize(0..4));
    let (method, field) = match random.u8(0..if with_conditions { 10 } else { 7 }) {
        0 => (Method::POST, None),
        7 => (Method::HEAD, None),
        8 => (Method::GET, Some(("range", "bytes=0-3".to_owned()))),
        9 => (Method::GET, Some(("if-none-match", format!("\"{}\"", random.u8(0..4))))),
        _ => (Method::GET, None),
    };
    let mut request = Request::builder().method(method).uri(target);
    if let Some((name, value)) = field {
        request = request.header(name, value);
    }
    request.body(Plain::default()).unwrap()
}

/// Returns a copy of a request.
fn copy(request: &Request<Plain>) -> Request<Plain> {
    let mut copy = Request::builder().method(request.method()).uri(request.uri()).body(Plain::default()).unwrap();
    *copy.headers_mut() = request.headers().clone();
    copy
}

async fn parts<B: http_body::Body<Error: std::fmt::Debug>>(response: Response<B>) -> (StatusCode, http::HeaderMap, Bytes) {
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn client_gets_the_response_of_the_bare_service() {
    for seed in 0..40 {
        let (bare, behind, store) = (Tables::default(), Tables::default(), memory());
        let cache = shadowed(&store).layer(behind.service());
        let service = InvalidateLayer::new(store.clone()).rules(rules()).layer(cache);
        let mut rng = fastrand::Rng::with_seed(seed);
        for n in 0..60 {
            let request = random(&mut rng, true);
            let expected = parts(bare.service().oneshot(copy(&request)).await.unwrap()).await;
            let shown = format!("seed {seed}, request {n}: {request:?}");
            let response = send(&service, request).await;
            assert_eq!(parts(response).await, expected, "{shown}");
        }
        assert_eq!((store.stats().hits, store.stats().stale_hits, store.stats().collapsed), (0, 0, 0));
    }
}

#[tokio::test]
async fn figures_are_those_of_a_real_cache() {
    for seed in 0..40 {
        let (store, real) = (memory(), memory());
        let shadows =
            InvalidateLayer::new(store.clone()).rules(rules()).layer(shadowed(&store).layer(Tables::default().service()));
        let serves = CacheLayer::new(real.clone()).rules(rules()).layer(Tables::default().service());
        let serves = InvalidateLayer::new(real.clone()).rules(rules()).layer(serves);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let request = random(&mut rng, false);
            parts(send(&serves, copy(&request)).await).await;
            parts(send(&shadows, request).await).await;
        }
        let (found, expected) = (shadow(&store), real.stats());
        assert_eq!((found.hits, found.misses, found.collapsed), (expected.hits, expected.misses(), 0), "seed {seed}");
        assert_eq!(found.expected_hit_ratio(), expected.hit_ratio());
        assert_eq!((found.same, found.differed), (found.hits, 0), "seed {seed}: every write passes through the cache");
        assert_eq!(store.stats().stored, expected.stored);
    }
}

#[tokio::test]
async fn differing_hit_is_found_by_its_parts() {
    let (store, origin) = (memory(), Origin::new("old"));
    origin.set_field("x-version", "1");
    let cache = shadowed(&store).layer(origin.service());
    text(send(&cache, get("/t/a")).await).await;
    origin.set("new and longer");
    origin.set_field("x-version", "2");
    let response = send(&cache, get("/t/a")).await;
    assert_eq!(outcome(&response), Outcome::Bypass(Bypass::Shadow));
    assert_eq!(text(response).await, "new and longer");
    eventually(|| shadow(&store).differed == 1).await;
    let expected = [(Difference::Field("x-version".into()), 1), (Difference::Body, 1)];
    assert_eq!(shadow(&store).differences, expected);
    assert!(store.stats().to_string().contains("shadow: 1 would have been answered, 1 misses, 1 hits differed"));
}

#[tokio::test]
async fn difference_by_a_write_through_the_cache_counts_as_changed() {
    let (store, (inner, mut handle)) = (memory(), mock::pair::<_, Response<Plain>>());
    let cache = shadowed(&store).layer(inner);
    let call = |request| tokio::spawn(begin_and_read(cache.clone(), request));
    let first = call(get("/t/a"));
    next_call(&mut handle).await.1.send_response(ok("old"));
    first.await.unwrap();
    let second = call(get("/t/a"));
    let (_, reply) = next_call(&mut handle).await;
    store.invalidate(["t:a"]).await.unwrap();
    reply.send_response(ok("new"));
    assert_eq!(second.await.unwrap(), "new");
    eventually(|| shadow(&store).changed == 1).await;
    assert_eq!(shadow(&store).differed, 0);
}

async fn begin_and_read<S, R>(service: S, request: Request<Plain>) -> String
where
    S: Service<Request<Plain>, Response = Response<R>> + Clone,
    S::Error: std::fmt::Debug,
    R: http_body::Body<Error: Into<tower_response_cache::BoxError>>,
{
    text(send(&service, request).await).await
}

#[tokio::test]
async fn request_that_would_follow_a_fill_calls_the_inner_service() {
    let (store, (inner, mut handle)) = (memory(), mock::pair::<_, Response<Plain>>());
    let cache = shadowed(&store).layer(inner);
    let first = tokio::spawn(begin_and_read(cache.clone(), get("/t/a")));
    let (_, reply) = next_call(&mut handle).await;
    let second = tokio::spawn(begin_and_read(cache.clone(), get("/t/a")));
    next_call(&mut handle).await.1.send_response(ok("second"));
    assert_eq!(second.await.unwrap(), "second", "it does not wait for the first");
    reply.send_response(ok("first"));
    assert_eq!(first.await.unwrap(), "first");
    assert_eq!((shadow(&store).collapsed, shadow(&store).misses), (1, 1));
}

#[tokio::test]
async fn response_that_the_client_leaves_is_neither_stored_nor_compared() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let cache = shadowed(&store).layer(origin.service());
    drop(send(&cache, get("/t/a")).await);
    assert_eq!(store.stats().stored, 0);
    text(send(&cache, get("/t/a")).await).await;
    drop(send(&cache, get("/t/a")).await);
    assert_eq!((shadow(&store).misses, shadow(&store).hits, shadow(&store).not_compared), (2, 1, 1));
}

#[tokio::test]
async fn switch_changes_the_mode_in_both_directions() {
    let (store, origin, switch) = (memory(), Origin::new("old"), Switch::new(true));
    let cache = shadowed(&store).shadow(&switch).layer(origin.service());
    let read = async || {
        let response = send(&cache, get("/t/a")).await;
        (outcome(&response), text(response).await)
    };
    let shadowed = |body: &str| (Outcome::Bypass(Bypass::Shadow), body.to_owned());
    assert_eq!(read().await, shadowed("old"));
    origin.set("new");
    assert_eq!(read().await, shadowed("new"));
    switch.set(false);
    assert_eq!(read().await, (Outcome::Hit, "old".into()), "the stored response is served from now on");
    switch.set(true);
    assert_eq!(read().await, shadowed("new"));
    let handle = ResponseCache::new(store).shadow(&switch);
    handle.set_shadow(false);
    assert!(!handle.is_shadow() && !switch.is_on());
}

#[tokio::test]
async fn rule_in_shadow_mode_stands_beside_rules_that_serve() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let rules = Rules::new().route("/t/{table}", Rule::ttl(MINUTE).shadow()).route("/served", Rule::ttl(MINUTE));
    let cache = ResponseCache::new(store.clone()).rules(rules);
    let service = cache.cache_layer().layer(origin.service());
    for (target, last) in [("/t/a", Outcome::Bypass(Bypass::Shadow)), ("/served", Outcome::Hit)] {
        for n in 0..3 {
            let response = send(&service, get(target)).await;
            assert!(n == 0 || outcome(&response) == last, "{target}");
            text(response).await;
        }
        let explained = cache.explain(&get(target)).await;
        assert_eq!((explained.outcome(), explained.outcome_if_enabled()), (Some(last), Some(Outcome::Hit)));
    }
    let routes = store.stats().routes;
    let of = |name: &str| routes.iter().find(|route| route.route.as_deref() == Some(name)).unwrap().shadow.hits;
    assert_eq!((of("/t/{table}"), of("/served"), origin.calls()), (2, 0, 4));
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn shared_store_is_filled_and_read() {
    use tower_response_cache::Redis;
    let server = crate::common::redis::Server::start().await;
    let builder = Redis::builder(&server.url()).command_timeout(2 * SECOND).max_round_trip(SECOND / 2);
    let (store, origin) = (builder.memory(8 << 20).build().await.unwrap(), Origin::new("old"));
    let layer = CacheLayer::new(store.clone()).rules(rules()).shadow(true).audit_grace(Duration::ZERO);
    let cache = layer.layer(origin.service());
    assert_eq!(begin_and_read(cache.clone(), get("/t/a")).await, "old");
    eventually(|| store.stats().stored == 1).await;
    assert_eq!(begin_and_read(cache.clone(), get("/t/a")).await, "old");
    origin.set("new");
    assert_eq!(begin_and_read(cache.clone(), get("/t/a")).await, "new");
    eventually(|| shadow(&store).differed == 1).await;
    let found = shadow(&store);
    assert_eq!((found.hits, found.misses, found.same), (2, 1, 1));
}

/// Returns a layer in shadow mode over channel bodies of this length, and the sources of the bodies.
fn by_channel(
    store: &Memory,
    switch: &Switch,
    length: Option<u64>,
    stated: Option<u64>,
) -> (
    impl Service<Request<Plain>, Response = Response<CacheBody<ChannelBody>>, Error = Infallible, Future: Send> + Clone + use<>,
    mpsc::UnboundedReceiver<BodySource>,
) {
    let (sender, sources) = mpsc::unbounded_channel();
    let inner = tower::service_fn(move |_: Request<Plain>| {
        let (source, body) = channel_body(length);
        let mut response = Response::new(body);
        if let Some(stated) = stated {
            response.headers_mut().insert("content-length", stated.into());
        }
        sender.send(source).unwrap();
        async move { Ok(response) }
    });
    let layer = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).shadow(switch);
    (layer.max_buffered_bytes(1000).layer(inner), sources)
}

#[tokio::test]
async fn trailers_after_an_announced_length_are_stored() {
    for (length, polls_on) in [(Some(4), true), (Some(4), false), (None, false)] {
        let (store, switch) = (memory(), Switch::new(true));
        let (cache, mut sources) = by_channel(&store, &switch, length, None);
        let mut body = opened(send(&cache, get("/t/a")).await);
        let source = sources.recv().await.unwrap();
        source.send("rows");
        source.trailers("grpc-status", "0");
        assert_eq!(piece(&mut body).await.unwrap().unwrap(), "rows");
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        drop(source);
        if polls_on {
            assert!(body.frame().await.is_none());
        }
        drop(body);
        switch.set(false);
        let hit = send(&cache, get("/t/a")).await;
        assert_eq!(outcome(&hit), Outcome::Hit);
        let hit = hit.into_body().collect().await.unwrap();
        assert_eq!(hit.trailers().expect("trailers")["grpc-status"], "0");
    }
}

#[tokio::test]
async fn body_of_another_length_than_announced_is_not_stored() {
    for (announced, sent) in [(9, "rows"), (3, "rows")] {
        for (length, stated) in [(Some(announced), None), (None, Some(announced))] {
            let (store, switch) = (memory(), Switch::new(true));
            let (cache, mut sources) = by_channel(&store, &switch, length, stated);
            let response = send(&cache, get("/t/a")).await;
            sources.recv().await.unwrap().send(sent);
            assert_eq!(text(response).await, sent);
            assert_eq!(store.stats().stored, 0, "{length:?} {stated:?} {sent}");
        }
    }
}

#[tokio::test]
async fn response_whose_server_stops_at_its_stated_length_is_stored() {
    let (store, switch) = (memory(), Switch::new(true));
    let (cache, mut sources) = by_channel(&store, &switch, None, Some(4));
    let mut body = opened(send(&cache, get("/t/a")).await);
    sources.recv().await.unwrap().send("rows");
    assert_eq!(piece(&mut body).await.unwrap().unwrap(), "rows");
    drop(body);
    assert_eq!(store.stats().stored, 1);
}

#[tokio::test]
async fn lifetime_begins_with_the_response_and_not_with_its_end() {
    let clock = Clock::manual();
    let (store, switch) = (Memory::builder().clock(clock.clone()).build(), Switch::new(true));
    let (cache, mut sources) = by_channel(&store, &switch, None, None);
    let response = send(&cache, get("/t/a")).await;
    clock.advance(40 * SECOND);
    sources.recv().await.unwrap().send("rows");
    assert_eq!(text(response).await, "rows");
    switch.set(false);
    assert_eq!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit);
    clock.advance(30 * SECOND);
    assert_ne!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit, "it is 70 seconds old");
}

#[tokio::test]
async fn bodies_that_clients_read_slowly_are_kept_within_the_limit() {
    let (store, switch) = (memory(), Switch::new(true));
    let (cache, mut sources) = by_channel(&store, &switch, None, None);
    let (mut slow, other) = (opened(send(&cache, get("/t/a")).await), send(&cache, get("/t/b")).await);
    let (first, second) = (sources.recv().await.unwrap(), sources.recv().await.unwrap());
    first.send("a".repeat(700));
    piece(&mut slow).await.unwrap().unwrap();
    second.send("b".repeat(700));
    drop(second);
    assert_eq!(text(other).await.len(), 700);
    assert_eq!(store.stats().stored, 0, "the buffer is full");
    drop(first);
    assert!(piece(&mut slow).await.is_none());
    assert_eq!(store.stats().stored, 1);
    let response = send(&cache, get("/t/b")).await;
    sources.recv().await.unwrap().send("b".repeat(700));
    text(response).await;
    assert_eq!(store.stats().stored, 2, "the buffer is free again");
}
