//! Two layers of one cache around a handler, by mistake or in nested routers: the inner one passes the requests of the outer one on.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::from_axum;
use crate::common::*;
use axum::{Router, routing};
use http::{Request, Response};
use http_body::Body;
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_response_cache::{BoxError, CacheLayer, Clock, Memory, Outcome, ResponseCache, Rule, Rules, Store, status::Bypass};

fn cache(rule: Rule) -> ResponseCache {
    ResponseCache::new(Memory::builder().clock(Clock::tokio()).build()).rules(one_rule(rule))
}

fn minute() -> Rule {
    Rule::ttl(MINUTE).namespace("t:{table}")
}

/// Returns a service under two pairs of layers, and the count of its calls. Each body is the number of the call.
fn twice(
    cache: &ResponseCache,
) -> (impl Service<Request<Plain>, Response = Response<impl AnyBody>, Error = Infallible> + Clone, Arc<AtomicUsize>) {
    let (inner, calls) = counting(|_, call| ok(call.to_string()));
    (ServiceBuilder::new().layer(cache.layer()).layer(cache.layer()).service(inner), calls)
}

trait AnyBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static {}
impl<B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static> AnyBody for B {}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_its_own_fill() {
    let begin = Instant::now();
    let cache = cache(minute());
    let (service, _) = twice(&cache);
    for call in ["1", "3"] {
        assert_eq!(text(send(&service, get("/t/orders")).await).await, call);
        assert_eq!(text(send(&service, get("/t/orders")).await).await, call, "a hit");
        send(&service, post("/t/orders")).await;
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses(), stats.stored, stats.inner_calls), (2, 2, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn forwarded_request_does_not_wait_for_its_own_fill() {
    let begin = Instant::now();
    let cache = cache(minute());
    let (service, _) = twice(&cache);
    let mut request = get("/t/orders");
    request.headers_mut().insert("x-forwarded-host", "a.example".parse().expect("a value"));
    assert_eq!(text(send(&service, request).await).await, "1");
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_its_own_fill_in_axum() {
    let begin = Instant::now();
    for rule in ["/api/t/{table}", "/t/{table}"] {
        let cache = ResponseCache::new(Memory::builder().clock(Clock::tokio()).build())
            .rules(Rules::new().route(rule, minute()))
            .status_extension(true);
        let route = routing::get(async || "rows").layer(cache.layer());
        let app: Router =
            Router::new().nest("/api", Router::new().route("/t/{table}", route).layer(cache.layer())).layer(cache.layer());
        assert_eq!(text(send(&app, from_axum("/api/t/orders")).await).await, "rows");
        assert_eq!(outcome_in_extension(&send(&app, from_axum("/api/t/orders")).await), Some(Outcome::Hit), "{rule}");
        assert_eq!(cache.stats().stored, 1, "{rule}");
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

/// The inner layer would serve the stale response to the refresh, which would store it with a new lifetime.
#[tokio::test(start_paused = true)]
async fn refresh_is_not_served_from_the_same_store() {
    for rule in [minute().stale_while_revalidate(MINUTE), minute().refresh_ahead(1.0)] {
        let cache = cache(rule);
        let (service, _) = twice(&cache);
        assert_eq!(text(send(&service, get("/t/orders")).await).await, "1");
        advance(MINUTE - SECOND).await;
        for _ in 0..2 {
            advance(2 * SECOND).await;
            text(send(&service, get("/t/orders")).await).await;
            tokio::task::yield_now().await;
            sleep(SECOND / 10).await;
        }
        assert_eq!(text(send(&service, get("/t/orders")).await).await, "2");
    }
}

/// Two layers that were built from one store and not from each other's clones have separate fills.
#[tokio::test(start_paused = true)]
async fn layers_with_separate_fills_and_one_store_agree() {
    let store = Memory::builder().clock(Clock::tokio()).build();
    let layer = || CacheLayer::new(store.clone()).rules(one_rule(minute().stale_while_revalidate(MINUTE)));
    let (inner, _) = counting(|_, call| ok(call.to_string()));
    let service = ServiceBuilder::new().layer(layer()).layer(layer()).service(inner);
    assert_eq!(text(send(&service, get("/t/orders")).await).await, "1");
    assert_eq!(store.stats().stored, 1);
    advance(MINUTE + SECOND).await;
    text(send(&service, get("/t/orders")).await).await;
    sleep(SECOND / 10).await;
    assert_eq!(text(send(&service, get("/t/orders")).await).await, "2");
}

/// A handler that requests another resource of its own application finds the cache as usual.
#[tokio::test(start_paused = true)]
async fn handler_requests_other_resources_through_the_cache() {
    let cache = cache(minute());
    let (parts, calls) = counting(|_, call| ok(call.to_string()));
    let parts = cache.layer().layer(parts);
    let whole = service_fn(move |request: Request<Plain>| {
        let parts = parts.clone();
        async move {
            let target = if request.uri().path() == "/t/whole" { "/t/part" } else { "/t/other" };
            Ok::<_, Infallible>(ok(text(send(&parts, get(target)).await).await))
        }
    });
    let whole = cache.layer().layer(whole);
    assert_eq!(text(send(&whole, get("/t/whole")).await).await, "1");
    cache.invalidate(["t:whole"]).await.expect("memory");
    assert_eq!(text(send(&whole, get("/t/whole")).await).await, "1", "the part is stored");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn inner_layer_marks_the_requests_that_it_passes() {
    let cache = cache(minute());
    let (inner, _) = counting(|_, call| ok(call.to_string()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let marks = seen.clone();
    let service = ServiceBuilder::new()
        .layer(cache.layer())
        .map_response(move |response: Response<_>| {
            marks.lock().unwrap().push(outcome(&response));
            response
        })
        .layer(cache.layer())
        .service(inner);
    send(&service, get("/t/orders")).await;
    assert_eq!(*seen.lock().unwrap(), [Outcome::Bypass(Bypass::Nested)]);
    assert!(cache.stats().bypasses.contains(&(Bypass::Nested, 1)));
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn no_request_waits_for_its_own_fill_over_redis() {
    let server = crate::common::redis::Server::start().await;
    let store = tower_response_cache::Redis::builder(&server.url()).build().await.expect("a store");
    let rule = minute().distributed_lock(30 * SECOND);
    let cache = ResponseCache::new(store).rules(one_rule(rule)).map_cache_layer(|layer| layer.wait_limit(10 * MINUTE));
    let (service, _) = twice(&cache);
    assert_eq!(text(send(&service, get("/t/orders")).await).await, "1");
    assert_eq!(cache.stats().stored, 1);
}
