//! The cache over axum: extractors, nested routers, layers on routes.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Tenant, from_axum, minute, rule, with_clock};
use crate::common::*;
use axum::{
    Extension, Router,
    body::Body as AxumBody,
    extract::{MatchedPath, Path, State},
    routing,
};
use bytes::Bytes;
use http::{Request, Response};
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_http::{metrics::InFlightRequestsLayer, timeout::ResponseBodyTimeoutLayer, trace::TraceLayer};
use tower_response_cache::{CacheLayer, Clock, InvalidateLayer, Memory, Outcome, Rule, Store, status::Miss};

#[derive(Clone)]
struct Shared {
    name: &'static str,
    calls: Arc<AtomicUsize>,
}

/// A handler with every kind of extractor. Its response contains their values and the number of the call.
async fn rows(
    matched: MatchedPath,
    Path(table): Path<String>,
    State(shared): State<Shared>,
    Extension(tenant): Extension<Tenant>,
) -> String {
    let call = shared.calls.fetch_add(1, Ordering::SeqCst) + 1;
    format!("{} {table} {} {} call {call}", matched.as_str(), shared.name, tenant.0)
}

fn shared() -> Shared {
    Shared { name: "state", calls: Arc::default() }
}

/// Checks the responses of a handler with all extractors: to a first request, a hit, a request for another key, and during
/// the background refresh of a stale response.
async fn extractors_work(router: Router, clock: Clock) {
    let ask = async |target| text(send(&router, from_axum(target)).await).await;
    assert_eq!(ask("/t/orders").await, "/t/{table} orders state acme call 1");
    assert_eq!(ask("/t/orders").await, "/t/{table} orders state acme call 1");
    assert_eq!(ask("/t/orders?page=2").await, "/t/{table} orders state acme call 2");
    assert_eq!(ask("/t/users").await, "/t/{table} users state acme call 3");
    clock.advance(MINUTE + SECOND);
    assert_eq!(ask("/t/orders").await, "/t/{table} orders state acme call 1", "stale");
    within(async {
        while ask("/t/orders").await != "/t/{table} orders state acme call 4" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    clock.advance(10 * MINUTE);
    assert_eq!(ask("/t/orders").await, "/t/{table} orders state acme call 5", "the entry is too old to be served");
}

#[tokio::test]
async fn axum_extractors_work_on_every_request_under_layer() {
    for inside in [true, false] {
        let (clock, cache) = with_clock(Rule::ttl(MINUTE).stale_while_revalidate(MINUTE));
        let router = Router::new().route("/t/{table}", routing::get(rows));
        let router = match inside {
            true => router.layer(Extension(Tenant("acme"))).layer(cache),
            false => router.layer(cache).layer(Extension(Tenant("acme"))),
        };
        extractors_work(router.with_state(shared()), clock).await;
    }
}

#[tokio::test]
async fn axum_extractors_work_on_every_request_under_route_layer() {
    let (clock, cache) = with_clock(Rule::ttl(MINUTE).stale_while_revalidate(MINUTE));
    let router = Router::new().route("/t/{table}", routing::get(rows));
    let router = router.route_layer(cache).layer(Extension(Tenant("acme")));
    extractors_work(router.with_state(shared()), clock).await;
}

#[tokio::test]
async fn axum_extractors_work_under_a_layer_on_one_route() {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(1 << 20).clock(clock.clone()).build();
    let cache = CacheLayer::new(store).rule(Rule::ttl(MINUTE).stale_while_revalidate(MINUTE));
    let router = Router::new().route("/t/{table}", routing::get(rows).layer(cache));
    extractors_work(router.layer(Extension(Tenant("acme"))).with_state(shared()), clock).await;
}

#[tokio::test]
async fn one_layer_on_many_routes_shares_its_store() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = |calls: &Arc<AtomicUsize>| {
        let calls = calls.clone();
        routing::get(async move || format!("call {}", calls.fetch_add(1, Ordering::SeqCst) + 1))
    };
    let store = Memory::new(1 << 20);
    let rules = one_rule(rule()).route("/u/{table}", rule());
    // axum applies the layer once to each route.
    let cache = CacheLayer::new(store.clone()).rules(rules.clone());
    let router: Router =
        Router::new().route("/t/{table}", count(&calls)).route("/u/{table}", count(&calls)).layer(cache.clone());
    assert_eq!(text(send(&router, from_axum("/t/a")).await).await, "call 1");
    assert_eq!(text(send(&router.clone(), from_axum("/t/a")).await).await, "call 1");
    assert_eq!(text(send(&router, from_axum("/u/a")).await).await, "call 2");
    assert_eq!(store.stats().entries, 2);
    // Another router uses the same layer, and a third another layer over the same store.
    for cache in [cache, CacheLayer::new(store.clone()).rules(rules)] {
        let another: Router = Router::new().route("/t/{table}", count(&calls)).layer(cache);
        assert_eq!(text(send(&another, from_axum("/t/a")).await).await, "call 1");
    }
}

#[tokio::test]
async fn services_of_one_layer_share_one_fill() {
    let cache = minute();
    let (inner, calls) = counting(|_, call| ok(format!("call {call}")));
    let (held, mut handle) = mocked::<Plain>(&cache);
    let leader = begin(&held, get("/t/a")).await;
    let follower = begin(&cache.layer(inner), get("/t/a")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("the one"));
    assert_eq!(text(within(follower).await.unwrap()).await, "the one");
    assert_eq!(text(within(leader).await.unwrap()).await, "the one");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn nested_routers_keep_their_keys_apart() {
    let cache =
        CacheLayer::new(Memory::new(1 << 20)).rules(tower_response_cache::Rules::new().route("/list", Rule::ttl(MINUTE)));
    let part = |name: &'static str| Router::new().route("/list", routing::get(async move || name)).layer(cache.clone());
    let router: Router = Router::new().nest("/a", part("list of a")).nest("/b", part("list of b"));
    for _ in 0..2 {
        for (target, expected) in [("/a/list", "list of a"), ("/b/list", "list of b")] {
            assert_eq!(text(send(&router, from_axum(target)).await).await, expected, "{target}");
        }
    }
}

#[tokio::test]
async fn layer_around_nested_routers_keeps_their_keys_apart() {
    let rules = tower_response_cache::Rules::new().route("/{part}/list", Rule::ttl(MINUTE));
    let part = |name: &'static str| Router::new().route("/list", routing::get(async move || name));
    let router: Router = Router::new().nest("/a", part("list of a")).nest("/b", part("list of b"));
    let router = router.layer(CacheLayer::new(Memory::new(1 << 20)).rules(rules).status_extension(true));
    for expected in [Outcome::Miss(Miss::Absent), Outcome::Hit] {
        for (target, body) in [("/a/list", "list of a"), ("/b/list", "list of b")] {
            let response = send(&router, from_axum(target)).await;
            assert_eq!(outcome_in_extension(&response), Some(expected));
            assert_eq!(text(response).await, body);
        }
    }
}

/// Checks a write through an [`InvalidateLayer`] around bodies without a `Default`.
async fn invalidates_around<S, B>(inner: S, store: &Memory)
where
    S: Service<Request<Plain>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower_response_cache::BoxError> + Send,
{
    let before = store.stats().invalidations;
    let service = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    for (request, bumps) in [(get("/t/a"), before), (post("/t/a"), before + 1)] {
        assert_eq!(text(send(&service, request).await).await, "rows");
        assert_eq!(store.stats().invalidations, bumps);
    }
}

#[tokio::test]
async fn invalidate_layer_wraps_bodies_without_a_default() {
    let store = Memory::new(1 << 20);
    let handler = || service_fn(async |_: Request<Plain>| Ok::<_, Infallible>(ok("rows")));
    let (in_flight, _) = InFlightRequestsLayer::pair();
    invalidates_around(TraceLayer::new_for_http().layer(handler()), &store).await;
    invalidates_around(ResponseBodyTimeoutLayer::new(MINUTE).layer(handler()), &store).await;
    invalidates_around(in_flight.layer(handler()), &store).await;
    invalidates_around(minute().layer(TraceLayer::new_for_http().layer(handler())), &store).await;

    // The bodies of an axum stack.
    let (in_flight, counter) = InFlightRequestsLayer::pair();
    let stack = ServiceBuilder::new()
        .layer(InvalidateLayer::new(store.clone()).rules(one_rule(rule())))
        .layer(TraceLayer::new_for_http())
        .layer(in_flight)
        .layer(ResponseBodyTimeoutLayer::new(MINUTE));
    let router = Router::new().route("/t/{table}", routing::get(async || "rows").post(async || "rows")).layer(stack);
    let before = store.stats().invalidations;
    let response = send(&router, Request::post("/t/a").body(AxumBody::empty()).expect("a request")).await;
    assert_eq!((counter.get(), store.stats().invalidations), (1, before + 1));
    assert_eq!(text(response).await, "rows");
    assert_eq!(counter.get(), 0, "the end of the body is seen");
}

#[tokio::test]
async fn write_shows_at_once_in_either_layer_order() {
    async fn check<S, B>(service: S)
    where
        S: Service<Request<Plain>, Response = Response<B>, Error = Infallible> + Clone,
        B: http_body::Body<Error: Into<tower_response_cache::BoxError>>,
    {
        assert_eq!(text(send(&service, get("/t/a")).await).await, "call 1");
        assert_eq!(text(send(&service, get("/t/a")).await).await, "call 1");
        assert_eq!(text(send(&service, post("/t/a")).await).await, "call 2");
        assert_eq!(text(send(&service, get("/t/a")).await).await, "call 3");
        assert_eq!(text(send(&service, get("/t/a")).await).await, "call 3");
    }
    let store = Memory::new(1 << 20);
    let (cache, invalidate) = (CacheLayer::new(store.clone()), InvalidateLayer::new(store));
    let (cache, invalidate) = (cache.rules(one_rule(rule())), invalidate.rules(one_rule(rule())));
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    check(ServiceBuilder::new().layer(cache).layer(invalidate).service(inner)).await;

    let store = Memory::new(1 << 20);
    let (cache, invalidate) = (CacheLayer::new(store.clone()), InvalidateLayer::new(store));
    let (cache, invalidate) = (cache.rules(one_rule(rule())), invalidate.rules(one_rule(rule())));
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    check(ServiceBuilder::new().layer(invalidate).layer(cache).service(inner)).await;
}
