//! The cache among other layers: over axum, beside tower's and tower-http's, and over real connections.

use std::{
    cell::Cell,
    convert::Infallible,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::common::*;
use axum::{
    Extension, Router,
    body::Body as AxumBody,
    extract::{MatchedPath, Path, State},
    routing,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::net::{TcpListener, TcpStream};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer,
    service_fn,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    metrics::InFlightRequestsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::{ResponseBodyTimeoutLayer, TimeoutLayer},
    trace::TraceLayer,
};
use tower_response_cache::{
    Bypass, CacheLayer, CacheStatus, Clock, InvalidateLayer, Memory, Miss, Outcome, Rule, Stale, Store,
};

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("table:{table}")
}

fn minute() -> CacheLayer {
    CacheLayer::new(Memory::new(16 << 20)).rules(one_rule(rule()))
}

fn with_clock(rule: Rule) -> (Clock, CacheLayer) {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(16 << 20).clock(clock.clone()).build();
    (clock, CacheLayer::new(store).rules(one_rule(rule)))
}

// ---- axum ------------------------------------------------------------------------------------------------------------

#[derive(Clone)]
struct Shared {
    name: &'static str,
    calls: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Tenant(&'static str);

/// Takes all that an extractor can take from a request, and says which call of it this is.
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

fn from_axum(target: &str) -> Request<AxumBody> {
    Request::get(target).body(AxumBody::empty()).unwrap()
}

/// What a handler with all extractors says, on the first request, on a hit, on another key, and when a stale response is
/// refreshed in the background.
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
    assert_eq!(ask("/t/orders").await, "/t/{table} orders state acme call 5", "too old to be served");
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
async fn one_layer_on_many_routes_has_one_store_and_a_hit_in_every_clone() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = |calls: &Arc<AtomicUsize>| {
        let calls = calls.clone();
        routing::get(async move || format!("call {}", calls.fetch_add(1, Ordering::SeqCst) + 1))
    };
    let store = Memory::new(1 << 20);
    let rules = one_rule(rule()).route("/u/{table}", rule());
    // axum applies it once to each of these routes.
    let cache = CacheLayer::new(store.clone()).rules(rules.clone());
    let router: Router =
        Router::new().route("/t/{table}", count(&calls)).route("/u/{table}", count(&calls)).layer(cache.clone());
    assert_eq!(text(send(&router, from_axum("/t/a")).await).await, "call 1");
    assert_eq!(text(send(&router.clone(), from_axum("/t/a")).await).await, "call 1");
    assert_eq!(text(send(&router, from_axum("/u/a")).await).await, "call 2");
    assert_eq!(store.stats().entries, 2);
    // Another router under the same layer, and one under another layer over the same store.
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
async fn a_layer_around_nested_routers_keeps_their_keys_apart() {
    let rules = tower_response_cache::Rules::new().route("/{part}/list", Rule::ttl(MINUTE));
    let part = |name: &'static str| Router::new().route("/list", routing::get(async move || name));
    let router: Router = Router::new().nest("/a", part("list of a")).nest("/b", part("list of b"));
    let router = router.layer(CacheLayer::new(Memory::new(1 << 20)).rules(rules));
    for expected in [Outcome::Miss(Miss::Absent), Outcome::Hit] {
        for (target, body) in [("/a/list", "list of a"), ("/b/list", "list of b")] {
            let response = send(&router, from_axum(target)).await;
            assert_eq!(outcome(&response), expected);
            assert_eq!(text(response).await, body);
        }
    }
}

// ---- Types -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_error_is_that_of_the_inner_service() {
    #[derive(Debug, PartialEq)]
    struct Own(u8);
    fn error_is_own<S: Service<Request<Plain>, Error = Own>>(service: S) -> S {
        service
    }
    let inner = service_fn(async |_: Request<Plain>| Err::<Response<Plain>, _>(Own(7)));
    let cache = error_is_own(minute().layer(inner));
    assert_eq!(cache.clone().oneshot(get("/t/a")).await.unwrap_err(), Own(7), "a miss");
    assert_eq!(cache.clone().oneshot(post("/t/a")).await.unwrap_err(), Own(7), "a bypass");
    assert_eq!(cache.oneshot(get("/other")).await.unwrap_err(), Own(7), "not covered");
}

/// `Clone` and `Send`, and not `Sync`.
#[derive(Clone)]
struct NotSync<S>(S, PhantomData<Cell<()>>);

impl<R, S: Service<R>> Service<R> for NotSync<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

#[tokio::test]
async fn a_hit_does_not_need_the_inner_service_to_be_sync() {
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    let cache = minute().layer(NotSync(inner, PhantomData));
    let mut task = cache.clone();
    let call = tokio::spawn(async move { task.ready().await.unwrap().call(get("/t/a")).await });
    assert_eq!(text(call.await.unwrap().unwrap()).await, "call 1");
    let hit = cache.oneshot(get("/t/a")).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
}

#[tokio::test]
async fn a_response_body_need_be_neither_sync_nor_unpin() {
    let cache = minute().layer(service_fn(async |_: Request<Plain>| {
        let (source, body) = channel_body(None);
        source.send("rows");
        Ok::<_, Infallible>(Response::new(body))
    }));
    // In a task, and as a body of axum's.
    let miss = tokio::spawn(cache.clone().oneshot(get("/t/a"))).await.unwrap().unwrap();
    assert_eq!(text(miss.map(AxumBody::new)).await, "rows");
    let hit = cache.oneshot(get("/t/a")).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
}

#[tokio::test]
async fn a_request_that_cannot_be_cloned_passes_while_its_body_is_still_coming() {
    let inner = service_fn(async |request: Request<ChannelBody>| {
        let mut body = Box::pin(request.into_body());
        let first = piece(&mut body).await.unwrap().unwrap();
        let (source, answer) = channel_body(None);
        source.send(first);
        source.send(body.collect().await.unwrap().to_bytes());
        Ok::<_, Infallible>(Response::new(answer))
    });
    let cache = minute().layer(inner);
    for method in [Method::POST, Method::GET] {
        let (source, body) = channel_body(None);
        let request = Request::builder().method(method.clone()).uri("/t/a").body(body).unwrap();
        let mut call = Box::pin(begin(&cache, request).await);
        assert!(poll_once(&mut call).is_pending());
        source.send("one");
        assert!(poll_once(&mut call).is_pending());
        source.send("two");
        drop(source);
        let response = within(call).await.unwrap();
        let why = if method == Method::GET { Bypass::RequestBody } else { Bypass::Method };
        assert_eq!(outcome(&response), Outcome::Bypass(why));
        assert_eq!(text(response).await, "onetwo");
    }
}

#[tokio::test]
async fn requests_that_no_rule_covers_pass_untouched() {
    let cache = minute().cache_status("cache");
    let (service, mut handle) = mocked::<ChannelBody>(&cache);
    let mut request = get("/other?x=1");
    request.headers_mut().insert(header::IF_NONE_MATCH, "\"a\"".parse().unwrap());
    request.extensions_mut().insert(Tenant("acme"));
    let call = begin(&service, request).await;
    let (seen, answer) = within(next_call(&mut handle)).await;
    assert_eq!(
        (seen.uri().to_string().as_str(), seen.headers()[header::IF_NONE_MATCH].as_bytes()),
        ("/other?x=1", &b"\"a\""[..])
    );
    assert_eq!(seen.extensions().get::<Tenant>().unwrap().0, "acme");
    let (source, body) = channel_body(None);
    answer.send_response(Response::new(body));
    let response = within(call).await.unwrap();
    assert!(response.headers().is_empty());
    assert!(response.extensions().get::<CacheStatus>().is_none());
    let mut body = opened(response);
    source.send("one");
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one", "while the body is open");
    drop(body);
    assert!(source.is_dropped());
}

#[tokio::test]
async fn the_inner_service_is_not_called_before_the_look_up() {
    let (service, mut handle) = mocked::<Plain>(&minute());
    let miss = begin(&service, get("/t/a")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("rows"));
    drop(within(miss).await.unwrap());
    for _ in 0..3 {
        let hit = within(begin(&service, get("/t/a")).await).await.unwrap();
        assert_eq!(outcome(&hit), Outcome::Hit);
    }
    drop(service);
    assert!(within(handle.next_request()).await.is_none(), "only the first request came through");
}

#[tokio::test]
async fn dropping_one_clone_stops_nothing() {
    let (clock, layer) = with_clock(Rule::ttl(MINUTE).stale_while_revalidate(MINUTE));
    let (service, mut handle) = mocked::<Plain>(&layer);
    drop(layer.clone());
    let one = service.clone();
    let leader = begin(&one, get("/t/a")).await;
    let follower = begin(&service, get("/t/a")).await;
    drop((one, leader));
    drop(layer);
    within(next_call(&mut handle)).await.1.send_response(ok("one"));
    assert_eq!(text(within(follower).await.unwrap()).await, "one");
    // A refresh goes on although the clone that began it is gone.
    clock.advance(MINUTE + SECOND);
    let last = service.clone();
    let stale = within(begin(&last, get("/t/a")).await).await.unwrap();
    drop(last);
    assert_eq!(outcome(&stale), Outcome::Stale(Stale::WhileRevalidate));
    within(next_call(&mut handle)).await.1.send_response(ok("two"));
    within(async {
        while text(within(begin(&service, get("/t/a")).await).await.unwrap()).await != "two" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

// ---- tower -----------------------------------------------------------------------------------------------------------

/// An inner service that lets others run before it answers, and counts its calls.
fn yielding() -> (
    impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = service_fn(move |request: Request<Plain>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            Ok(ok(request.uri().to_string()))
        }
    });
    (service, calls)
}

/// Many requests at once, over some keys: all get their answer, and each key is asked for once.
async fn all_finish<S, B>(service: S, calls: Arc<AtomicUsize>)
where
    S: Service<Request<Plain>, Response = Response<B>, Error: std::fmt::Debug, Future: Send> + Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<tower_response_cache::BoxError>> + Send + 'static,
{
    for keys in [1, 5] {
        let before = calls.load(Ordering::SeqCst);
        let mut tasks = Vec::new();
        for i in 0..20 {
            let (service, target) = (service.clone(), format!("/t/{keys}?key={}", i % keys));
            tasks.push(tokio::spawn(async move {
                let response = service.oneshot(get(&target)).await.expect("an answer");
                assert_eq!(text(response).await, target);
            }));
        }
        for task in tasks {
            within(task).await.unwrap();
        }
        assert_eq!(calls.load(Ordering::SeqCst) - before, keys);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_requests_finish_over_a_concurrency_limit_of_one() {
    let (inner, calls) = yielding();
    let cache = ServiceBuilder::new().layer(minute()).layer(ConcurrencyLimitLayer::new(1)).service(inner);
    for _ in 0..3 {
        within(send(&cache, get("/t/sequential"))).await;
        within(send(&cache, post("/t/sequential"))).await;
    }
    all_finish(cache, calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_requests_finish_under_a_concurrency_limit() {
    for limit in [1, 2] {
        let (inner, calls) = yielding();
        all_finish(ServiceBuilder::new().layer(ConcurrencyLimitLayer::new(limit)).layer(minute()).service(inner), calls).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_requests_finish_with_buffers_inside_and_outside() {
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(BufferLayer::new(4)).layer(minute()).service(inner), calls).await;
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(minute()).layer(BufferLayer::new(4)).service(inner), calls).await;
    let (inner, calls) = yielding();
    let limited = ServiceBuilder::new().layer(BufferLayer::new(4)).layer(minute()).concurrency_limit(1).service(inner);
    all_finish(limited, calls).await;
}

#[tokio::test]
async fn followers_give_their_permit_back_while_they_wait() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let cache = ServiceBuilder::new().layer(minute()).concurrency_limit(2).service(mock);
    let leader = begin(&cache, get("/t/a")).await;
    // It keeps its service, as a connection does.
    let mut kept = cache.clone();
    let follower = within(kept.ready()).await.unwrap().call(get("/t/a"));
    let other = within(begin(&cache, get("/t/b"))).await;
    let (_, first) = within(next_call(&mut handle)).await;
    let (request, second) = within(next_call(&mut handle)).await;
    assert_eq!(request.uri(), "/t/b");
    second.send_response(ok("b"));
    assert_eq!(text(within(other).await.unwrap()).await, "b");
    first.send_response(ok("a"));
    assert_eq!(text(within(follower).await.unwrap()).await, "a");
    assert_eq!(text(within(leader).await.unwrap()).await, "a");
}

/// Giving it back at once would cost a clone of the inner service on every hit; the contract of `poll_ready` lets a caller
/// keep what it was promised until it calls again or drops the service.
#[tokio::test]
async fn what_was_made_ready_for_a_hit_serves_the_next_call_and_is_given_back_with_the_service() {
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    let cache = ServiceBuilder::new().layer(minute()).concurrency_limit(1).service(inner);
    within(send(&cache, get("/t/a"))).await;
    let mut kept = cache.clone();
    for _ in 0..3 {
        let hit = within(kept.ready()).await.unwrap().call(get("/t/a")).await.unwrap();
        assert_eq!(outcome(&hit), Outcome::Hit);
    }
    let miss = within(kept.ready()).await.unwrap().call(get("/t/b")).await.unwrap();
    assert_eq!(text(miss).await, "call 2");
    drop(kept);
    within(send(&cache, get("/t/c"))).await;
}

#[tokio::test]
async fn load_shed_inside_sheds_misses_and_never_hits() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let cache = ServiceBuilder::new().layer(minute()).layer(LoadShedLayer::new()).concurrency_limit(1).service(mock);
    let first = begin(&cache, get("/t/a")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("a"));
    drop(within(first).await.unwrap());
    let busy = begin(&cache, get("/t/b")).await;
    let shed = within(begin(&cache, get("/t/c")).await).await.unwrap_err();
    assert!(shed.is::<tower::load_shed::error::Overloaded>());
    assert_eq!(text(within(begin(&cache, get("/t/a")).await).await.unwrap()).await, "a");
    within(next_call(&mut handle)).await.1.send_response(ok("b"));
    drop(within(busy).await.unwrap());
    // What was shed is not remembered.
    let again = begin(&cache, get("/t/c")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("c"));
    assert_eq!(text(within(again).await.unwrap()).await, "c");
}

#[tokio::test]
async fn load_shed_outside_lets_requests_through_that_the_cache_can_take() {
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(LoadShedLayer::new()).layer(minute()).service(inner), calls).await;
}

// ---- tower-http ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn trace_works_inside_and_outside() {
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(TraceLayer::new_for_http()).layer(minute()).service(inner), calls).await;
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(minute()).layer(TraceLayer::new_for_http()).service(inner), calls).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_answers_all_who_wait_and_is_not_stored() {
    let layer = minute();
    let (mock, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 5 * SECOND);
    let cache = ServiceBuilder::new().layer(layer).layer(timeout).service(mock);
    let leader = tokio::spawn(begin(&cache, get("/t/a")).await);
    let follower = tokio::spawn(begin(&cache, get("/t/a")).await);
    let _held = next_call(&mut handle).await;
    assert_eq!(leader.await.unwrap().unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(text(follower.await.unwrap().unwrap()).await, "rows");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_ends_the_wait_and_not_the_fill() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 5 * SECOND);
    let cache = ServiceBuilder::new().layer(timeout).layer(minute()).service(mock);
    let leader = begin(&cache, get("/t/a")).await;
    assert_eq!(leader.await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    let (_, answer) = next_call(&mut handle).await;
    let follower = begin(&cache, get("/t/a")).await;
    answer.send_response(ok("rows"));
    assert_eq!(text(follower.await.unwrap()).await, "rows");
}

fn from_origin(origin: &str) -> Request<Plain> {
    let mut request = get("/t/a");
    request.headers_mut().insert(header::ORIGIN, origin.parse().unwrap());
    request
}

#[tokio::test]
async fn nobody_gets_the_cors_headers_of_another_origin() {
    let cors = || CorsLayer::new().allow_origin(["http://one", "http://two"].map(HeaderValue::from_static));
    let allowed = |response: &http::HeaderMap| response.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned();
    for inside in [false, true] {
        let (inner, calls) = counting(|_, call| ok(format!("call {call}")));
        let responses = if inside {
            let cache = ServiceBuilder::new().layer(minute()).layer(cors()).service(inner);
            let mut responses = Vec::new();
            for origin in ["http://one", "http://two", "http://one", "http://two", "http://three"] {
                responses.push((origin, send(&cache, from_origin(origin)).await.headers().clone()));
            }
            responses
        } else {
            let cache = ServiceBuilder::new().layer(cors()).layer(minute()).service(inner);
            let mut responses = Vec::new();
            for origin in ["http://one", "http://two", "http://one", "http://two", "http://three"] {
                responses.push((origin, send(&cache, from_origin(origin)).await.headers().clone()));
            }
            responses
        };
        for (origin, headers) in responses {
            let expected = (origin != "http://three").then(|| HeaderValue::from_str(origin).unwrap());
            assert_eq!(allowed(&headers), expected, "{origin}, inside: {inside}");
        }
        assert_eq!(calls.load(Ordering::SeqCst), if inside { 3 } else { 1 });
    }
}

#[tokio::test]
async fn request_ids_outside_are_each_client_s_own_also_on_a_hit() {
    let (inner, calls) = counting(|_, call| ok(format!("call {call}")));
    let cache = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(minute())
        .service(inner);
    let first = send(&cache, get("/t/a")).await.headers()["x-request-id"].clone();
    let second = send(&cache, get("/t/a")).await.headers()["x-request-id"].clone();
    assert_ne!(first, second);
    let mut own = get("/t/a");
    own.headers_mut().insert("x-request-id", "own".parse().unwrap());
    assert_eq!(send(&cache, own).await.headers()["x-request-id"], "own");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn request_ids_set_inside_do_not_keep_a_response_from_being_stored() {
    let (inner, calls) = counting(|request, _| ok(request.headers()["x-request-id"].to_str().unwrap().to_owned()));
    let cache = ServiceBuilder::new().layer(minute()).layer(SetRequestIdLayer::x_request_id(MakeRequestUuid)).service(inner);
    let first = text(send(&cache, get("/t/a")).await).await;
    assert_eq!(text(send(&cache, get("/t/a")).await).await, first);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_caught_panic_is_a_500_that_is_not_stored_inside_and_outside() {
    let handler = |calls: Arc<AtomicUsize>| {
        service_fn(move |_: Request<Plain>| {
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                assert_ne!(call, 1, "this panic is part of the test");
                Ok::<_, Infallible>(ok(format!("call {call}")))
            }
        })
    };
    let inside = ServiceBuilder::new().layer(minute()).layer(CatchPanicLayer::new()).service(handler(Arc::default()));
    assert_eq!(send(&inside, get("/t/a")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(send(&inside, get("/t/a")).await).await, "call 2");
    let outside = ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(minute()).service(handler(Arc::default()));
    assert_eq!(send(&outside, get("/t/a")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(send(&outside, get("/t/a")).await).await, "call 2");
}

// ---- Compression -----------------------------------------------------------------------------------------------------

fn encoded(encoding: Option<&str>) -> Request<Plain> {
    let mut request = get("/t/a");
    if let Some(encoding) = encoding {
        request.headers_mut().insert(header::ACCEPT_ENCODING, encoding.parse().unwrap());
    }
    request
}

fn long() -> String {
    "a row of some length, ".repeat(200)
}

/// The encoding and the body; a body in gzip is unpacked and compared.
async fn received<B>(response: Response<B>) -> (Option<String>, Bytes)
where
    B: http_body::Body<Error: Into<tower_response_cache::BoxError>>,
{
    let vary: Vec<_> =
        response.headers().get_all(header::VARY).iter().map(|v| v.to_str().unwrap().to_ascii_lowercase()).collect();
    assert!(vary.iter().any(|vary| vary.contains("accept-encoding")), "Vary: {vary:?}");
    let encoding = response.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.map_err(Into::into).unwrap().to_bytes();
    match encoding.as_deref() {
        None => assert_eq!(body, long()),
        Some("gzip") => {
            let mut plain = String::new();
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).unwrap();
            assert_eq!(plain, long());
        }
        Some(_) => assert!(body.len() < long().len() / 2),
    }
    (encoding, body)
}

const ENCODINGS: [(Option<&str>, Option<&str>); 4] =
    [(Some("gzip"), Some("gzip")), (Some("br"), Some("br")), (Some("identity"), None), (None, None)];

#[tokio::test]
async fn compression_outside_is_served_from_one_uncompressed_entry() {
    let (inner, calls) = counting(|_, _| ok(long()));
    let layer = minute();
    let outside = ServiceBuilder::new().layer(CompressionLayer::new()).layer(layer.clone()).service(inner.clone());
    for _ in 0..2 {
        for (asked, expected) in ENCODINGS {
            assert_eq!(received(send(&outside, encoded(asked)).await).await.0.as_deref(), expected);
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // The entry itself is plain.
    let bare = send(&layer.layer(inner), encoded(Some("gzip"))).await;
    assert_eq!(outcome(&bare), Outcome::Hit);
    assert_eq!(text(bare).await, long());
}

#[tokio::test]
async fn compression_inside_is_done_once_per_encoding() {
    let (inner, calls) = counting(|_, _| ok(long()));
    let cache = ServiceBuilder::new().layer(minute()).layer(CompressionLayer::new()).service(inner);
    let mut first = Vec::new();
    for (asked, expected) in ENCODINGS {
        let (encoding, body) = received(send(&cache, encoded(asked)).await).await;
        assert_eq!(encoding.as_deref(), expected);
        first.push(body);
    }
    assert_eq!(calls.load(Ordering::SeqCst), ENCODINGS.len());
    for _ in 0..2 {
        for ((asked, expected), body) in ENCODINGS.iter().zip(&first) {
            let hit = send(&cache, encoded(*asked)).await;
            assert_eq!(outcome(&hit), Outcome::Hit);
            assert_eq!(received(hit).await, (expected.map(str::to_owned), body.clone()));
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), ENCODINGS.len());
}

#[tokio::test]
async fn compression_inside_gives_clients_that_come_together_their_own_encoding() {
    let (inner, calls) = yielding_long();
    let cache = ServiceBuilder::new().layer(minute()).layer(CompressionLayer::new()).service(inner);
    let mut clients = Vec::new();
    for _ in 0..4 {
        for (asked, expected) in ENCODINGS {
            clients.push((tokio::spawn(begin(&cache, encoded(asked)).await), expected));
        }
    }
    for (client, expected) in clients {
        let response = within(client).await.unwrap().unwrap();
        assert_eq!(within(received(response)).await.0.as_deref(), expected);
    }
    assert_eq!(calls.load(Ordering::SeqCst), ENCODINGS.len());
}

fn yielding_long() -> (
    impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    Arc<AtomicUsize>,
) {
    let (inner, calls) = yielding();
    (inner.map_response(|_| ok(long())), calls)
}

// ---- InvalidateLayer in the same stack ---------------------------------------------------------------------------------

/// What a write brings through an [`InvalidateLayer`] around these bodies, which have no default.
async fn clears_around<S, B>(inner: S, store: &Memory)
where
    S: Service<Request<Plain>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower_response_cache::BoxError>,
{
    let before = store.stats().bumps;
    let service = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    for (request, bumps) in [(get("/t/a"), before), (post("/t/a"), before + 1)] {
        assert_eq!(text(send(&service, request).await).await, "rows");
        assert_eq!(store.stats().bumps, bumps);
    }
}

#[tokio::test]
async fn invalidate_layer_wraps_bodies_without_a_default() {
    let store = Memory::new(1 << 20);
    let handler = || service_fn(async |_: Request<Plain>| Ok::<_, Infallible>(ok("rows")));
    let (in_flight, _) = InFlightRequestsLayer::pair();
    clears_around(TraceLayer::new_for_http().layer(handler()), &store).await;
    clears_around(ResponseBodyTimeoutLayer::new(MINUTE).layer(handler()), &store).await;
    clears_around(in_flight.layer(handler()), &store).await;
    clears_around(minute().layer(TraceLayer::new_for_http().layer(handler())), &store).await;

    // As a stack of axum has them.
    let (in_flight, counter) = InFlightRequestsLayer::pair();
    let stack = ServiceBuilder::new()
        .layer(InvalidateLayer::new(store.clone()).rules(one_rule(rule())))
        .layer(TraceLayer::new_for_http())
        .layer(in_flight)
        .layer(ResponseBodyTimeoutLayer::new(MINUTE));
    let router = Router::new().route("/t/{table}", routing::get(async || "rows").post(async || "rows")).layer(stack);
    let before = store.stats().bumps;
    let response = send(&router, Request::post("/t/a").body(AxumBody::empty()).expect("a request")).await;
    assert_eq!((counter.get(), store.stats().bumps), (1, before + 1));
    assert_eq!(text(response).await, "rows");
    assert_eq!(counter.get(), 0, "the body's end is seen");
}

#[tokio::test]
async fn a_write_shows_in_the_next_read_whichever_layer_is_outside() {
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

// ---- Real connections ------------------------------------------------------------------------------------------------

type Client = hyper_util::client::legacy::Client<hyper_util::client::legacy::connect::HttpConnector, Plain>;

/// Serves a router on the loopback: its address, and how many connections it has taken.
async fn serve(router: Router) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let listener = axum::serve::ListenerExt::tap_io(listener, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, connections)
}

fn client() -> Client {
    hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http()
}

fn over_http(method: Method, address: &str, target: &str) -> Request<Plain> {
    Request::builder().method(method).uri(format!("http://{address}{target}")).body(Plain::default()).unwrap()
}

/// A GET over a connection of its own, to be left whenever the test wants.
async fn bare(address: &str, target: &str) -> TcpStream {
    let connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    connection.writable().await.unwrap();
    assert_eq!(connection.try_write(request.as_bytes()).unwrap(), request.len());
    connection
}

#[tokio::test]
async fn hits_over_one_kept_connection() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = async move || {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        ([(header::ETAG, "\"v1\"")], format!("call {call}"))
    };
    let router = Router::new().route("/t/{table}", routing::get(handler)).layer(minute().cache_status("c"));
    let (address, connections) = serve(router).await;
    let client = client();
    for _ in 0..3 {
        let response = within(client.request(over_http(Method::GET, &address, "/t/a"))).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "6");
        assert_eq!(within(text(response)).await, "call 1");
    }
    let head = within(client.request(over_http(Method::HEAD, &address, "/t/a"))).await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "6");
    assert!(head.headers()["cache-status"].to_str().unwrap().starts_with("c; hit"));
    assert_eq!(within(text(head)).await, "");

    let mut conditional = over_http(Method::GET, &address, "/t/a");
    conditional.headers_mut().insert(header::IF_NONE_MATCH, "\"v1\"".parse().unwrap());
    let response = within(client.request(conditional)).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(response.headers()[header::ETAG], "\"v1\"");
    assert_eq!(within(text(response)).await, "");

    let mut changed = over_http(Method::GET, &address, "/t/a");
    changed.headers_mut().insert(header::IF_NONE_MATCH, "\"v0\"".parse().unwrap());
    let response = within(client.request(changed)).await.unwrap();
    assert_eq!((response.status(), within(text(response)).await.as_str()), (StatusCode::OK, "call 1"));
    assert_eq!((calls.load(Ordering::SeqCst), connections.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_client_that_disconnects_in_the_middle_takes_nothing_from_the_next() {
    let (source, body) = channel_body(None);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = async move || {
        count.fetch_add(1, Ordering::SeqCst);
        AxumBody::new(body.lock().unwrap().take().expect("only one call"))
    };
    let store = Memory::new(1 << 20);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule()));
    let (address, _) = serve(Router::new().route("/t/{table}", routing::get(handler)).layer(cache)).await;

    let leaver = bare(&address, "/t/a").await;
    source.send("first part, ");
    let mut seen = Vec::new();
    while !seen.ends_with(b"first part, \r\n") {
        within(leaver.readable()).await.unwrap();
        let mut buffer = [0; 1024];
        match leaver.try_read(&mut buffer) {
            Ok(read) => {
                assert_ne!(read, 0, "the connection is still open");
                seen.extend_from_slice(&buffer[..read]);
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    drop(leaver);
    let client = client();
    let next = tokio::spawn(client.request(over_http(Method::GET, &address, "/t/a")));
    source.send("second part");
    drop(source);
    assert_eq!(within(text(within(next).await.unwrap().unwrap())).await, "first part, second part");
    assert_eq!((calls.load(Ordering::SeqCst), store.stats().stored), (1, 1));
}

#[tokio::test]
async fn a_client_that_disconnects_during_the_call_does_not_end_it() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = async move || {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        wait.clone().wait_for(|go| *go).await.unwrap();
        format!("call {call}")
    };
    let (address, _) = serve(Router::new().route("/t/{table}", routing::get(handler)).layer(minute())).await;
    let leaver = bare(&address, "/t/a").await;
    eventually(|| calls.load(Ordering::SeqCst) == 1).await;
    drop(leaver);
    let next = tokio::spawn(client().request(over_http(Method::GET, &address, "/t/a")));
    go.send(true).unwrap();
    assert_eq!(within(text(within(next).await.unwrap().unwrap())).await, "call 1");
}

#[tokio::test]
async fn a_streamed_response_begins_over_http_before_it_ends() {
    let (source, body) = channel_body(None);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let handler = async move || AxumBody::new(body.lock().unwrap().take().expect("only one call"));
    let (address, _) = serve(Router::new().route("/t/{table}", routing::get(handler)).layer(minute())).await;
    let response = within(client().request(over_http(Method::GET, &address, "/t/a"))).await.unwrap();
    let mut body = opened(response);
    source.send("one");
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
    source.send("two");
    drop(source);
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "two");
    assert!(within(piece(&mut body)).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_looked_before_a_fill_landed_does_not_begin_another() {
    let (inner, calls) = yielding();
    let cache = minute().layer(inner);
    for round in 0..1000 {
        let target = format!("/t/a?round={round}");
        let mut tasks = Vec::new();
        for i in 0..16 {
            let (service, request) = (cache.clone(), get(&target));
            tasks.push(tokio::spawn(async move {
                // Some come while the first is still under way, some when it has just landed.
                for _ in 0..i {
                    tokio::task::yield_now().await;
                }
                drop(service.oneshot(request).await.unwrap());
            }));
        }
        for task in tasks {
            within(task).await.unwrap();
        }
        assert_eq!(calls.load(Ordering::SeqCst), round + 1);
    }
}

#[tokio::test]
async fn stored_responses_say_how_long_they_are_where_that_is_wished() {
    let length = |response: &Response<tower_response_cache::CacheBody<ChannelBody>>| {
        response.headers().get(header::CONTENT_LENGTH).cloned()
    };
    for (wished, says) in [(false, None), (true, Some("4"))] {
        let (service, mut handle) = mocked::<ChannelBody>(&minute().content_length(wished));
        let call = begin(&service, get("/t/a")).await;
        let (_, answer) = within(next_call(&mut handle)).await;
        let (source, body) = channel_body(None);
        source.send("rows");
        drop(source);
        answer.send_response(Response::new(body));
        let miss = within(call).await.unwrap();
        assert_eq!(length(&miss), None, "the inner service's response is as it was");
        let hit = within(begin(&service, get("/t/a")).await).await.unwrap();
        assert_eq!(length(&hit), says.map(HeaderValue::from_static));
        assert_eq!(within(text(hit)).await, "rows");
        // Where it is needed it is said in any case.
        let mut head = get("/t/a");
        *head.method_mut() = Method::HEAD;
        assert_eq!(length(&within(begin(&service, head).await).await.unwrap()), Some(HeaderValue::from_static("4")));
        let mut part = get("/t/a");
        part.headers_mut().insert(header::RANGE, HeaderValue::from_static("bytes=1-2"));
        assert_eq!(length(&within(begin(&service, part).await).await.unwrap()), Some(HeaderValue::from_static("2")));
    }
}

#[tokio::test]
async fn no_length_is_stated_where_there_must_be_none() {
    let (service, mut handle) = mocked::<ChannelBody>(&minute().content_length(true));
    for (target, status, trailers) in [("/t/a", StatusCode::OK, true), ("/t/b", StatusCode::NO_CONTENT, false)] {
        let call = begin(&service, get(target)).await;
        let (_, answer) = within(next_call(&mut handle)).await;
        let (source, body) = channel_body(None);
        if trailers {
            source.send("rows");
            source.trailers("grpc-status", "0");
        }
        drop(source);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        answer.send_response(response);
        drop(within(call).await.unwrap());
        for method in [Method::GET, Method::HEAD] {
            let mut request = get(target);
            *request.method_mut() = method.clone();
            let hit = within(begin(&service, request).await).await.unwrap();
            assert_eq!((hit.status(), hit.headers().get(header::CONTENT_LENGTH)), (status, None), "{method} {target}");
        }
    }
}
