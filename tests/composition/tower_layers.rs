//! Beside the layers of tower: limits, buffers and load shedding.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{minute, yielding};
use crate::common::*;
use bytes::Bytes;
use http::{Request, Response};
use tower::{Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer};
use tower_response_cache::Outcome;

/// Sends many requests for a few keys at once. All get a response, and the inner service is called once per key.
pub(crate) async fn all_finish<S, B>(service: S, calls: Arc<AtomicUsize>)
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
async fn followers_release_their_permit_while_they_wait() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let cache = ServiceBuilder::new().layer(minute()).concurrency_limit(2).service(mock);
    let leader = begin(&cache, get("/t/a")).await;
    // The follower keeps its service, as a connection does.
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

/// Releasing readiness at once would cost a clone of the inner service on every hit. The contract of `poll_ready` lets a caller
/// keep it until the next call or until the service is dropped.
#[tokio::test]
async fn readiness_unused_by_a_hit_serves_the_next_call() {
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
async fn inner_load_shed_sheds_misses_and_never_hits() {
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
    // A shed request is not remembered.
    let again = begin(&cache, get("/t/c")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("c"));
    assert_eq!(text(within(again).await.unwrap()).await, "c");
}

#[tokio::test]
async fn outer_load_shed_passes_requests_that_the_cache_accepts() {
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(LoadShedLayer::new()).layer(minute()).service(inner), calls).await;
}
