//! Limits of fills, waiters, buffers and waits.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    common::*,
    setup::{layer, memory, of_user, user},
};
use http::{Request, Response};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{BoxError, Outcome, Rule, status::Miss};

/// The limit of buffered bytes decides which bodies may *begin* to be shared. It cuts off no follower of a shared body.
#[tokio::test(start_paused = true)]
async fn shared_body_survives_a_full_buffer() {
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&memory(), Rule::ttl(MINUTE)).max_buffered_bytes(10));
    let leader = begin(&cache, get("/t/a")).await;
    let follower = begin(&cache, get("/t/a")).await;
    let (response, first) = channel_response(Some(8));
    next_call(&mut handle).await.1.send_response(response);
    let bodies = [leader.await.unwrap(), follower.await.unwrap()];
    first.send("1234");
    // The second body does not fit beside the first: its follower calls the inner service.
    let leader = begin(&cache, get("/t/b")).await;
    let follower = tokio::spawn(begin(&cache, get("/t/b")).await);
    let (response, second) = channel_response(Some(8));
    next_call(&mut handle).await.1.send_response(response);
    let second_body = leader.await.unwrap();
    second.send("12345678");
    let (response, alone) = channel_response(Some(8));
    alone.send("12345678");
    next_call(&mut handle).await.1.send_response(response);
    drop((second, alone));
    let follower = follower.await.unwrap().unwrap();
    assert_eq!(outcome(&follower), Outcome::Miss(Miss::NotShared));
    assert_eq!(text(follower).await, "12345678");
    assert_eq!(text(second_body).await, "12345678");
    first.send("5678");
    drop(first);
    for body in bodies {
        assert_eq!(text(body).await, "12345678");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_fill_limit_call_at_once() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).max_concurrent_fills(1);
    let (cache, mut handle) = mocked(&layer);
    let leader = begin(&cache, get("/t/a")).await;
    let (_, held) = next_call(&mut handle).await;
    let beyond = begin(&cache, get("/t/b")).await;
    next_call(&mut handle).await.1.send_response(ok("b"));
    let response = beyond.await.unwrap();
    assert_eq!(outcome(&response), Outcome::Miss(Miss::FlightLimit));
    // The response is stored nevertheless.
    assert_eq!(outcome(&begin(&cache, get("/t/b")).await.await.unwrap()), Outcome::Hit);
    held.send_response(ok("a"));
    leader.await.unwrap();
    let next = begin(&cache, get("/t/c")).await;
    next_call(&mut handle).await.1.send_response(ok("c"));
    assert_eq!(outcome(&next.await.unwrap()), Outcome::Miss(Miss::Absent));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_waiter_limit_call_at_once() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).max_waiters(1);
    let (cache, mut handle) = mocked(&layer);
    let leader = begin(&cache, get("/t/a")).await;
    let waiter = begin(&cache, get("/t/a")).await;
    let (_, held) = next_call(&mut handle).await;
    let beyond = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("alone"));
    let response = beyond.await.unwrap();
    assert_eq!(outcome(&response), Outcome::Miss(Miss::FlightLimit));
    assert_eq!(text(response).await, "alone");
    drop(waiter);
    serves_after_a_waiter_left(&cache, held, leader).await;
}

/// Checks that requests are served after a waiter has left.
async fn serves_after_a_waiter_left<S, F>(
    cache: &S,
    held: tower_test::mock::SendResponse<Response<Plain>>,
    leader: std::pin::Pin<Box<F>>,
) where
    S: Service<Request<Plain>, Response = Response<tower_response_cache::CacheBody<Plain>>, Error = BoxError, Future = F>
        + Clone,
    F: Future<Output = Result<S::Response, BoxError>>,
{
    // The lone request has stored its response: a hit does not wait.
    assert_eq!(outcome(&begin(cache, get("/t/a")).await.await.unwrap()), Outcome::Hit);
    held.send_response(ok("rows"));
    assert_eq!(text(leader.await.unwrap()).await, "rows");
}

#[tokio::test(start_paused = true)]
async fn follower_calls_after_the_wait_limit() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).wait_limit(10 * SECOND);
    let (cache, mut handle) = mocked(&layer);
    let _leader = begin(&cache, get("/t/a")).await;
    let waiter = tokio::spawn(begin(&cache, get("/t/a")).await);
    let _held = next_call(&mut handle).await;
    let start = Instant::now();
    let (_, answer) = next_call(&mut handle).await;
    assert_eq!(start.elapsed().as_secs(), 10);
    answer.send_response(ok("alone"));
    let response = waiter.await.unwrap().unwrap();
    assert_eq!(outcome(&response), Outcome::Miss(Miss::WaitLimit));
    assert_eq!(text(response).await, "alone");
}

#[tokio::test(start_paused = true)]
async fn wait_limit_counts_over_all_leaders() {
    let calls = Arc::new(AtomicUsize::new(0));
    let inner = service_fn({
        let calls = calls.clone();
        move |request: Request<Plain>| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move {
                match user(&request).as_str() {
                    "last" => Ok::<_, Infallible>(ok("rows")),
                    _ => {
                        tokio::time::sleep(6 * SECOND).await;
                        panic!("the handler panics")
                    }
                }
            }
        }
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).wait_limit(10 * SECOND).layer(inner);
    let start = Instant::now();
    let mut doomed = Vec::new();
    for i in 0..5 {
        doomed.push(tokio::spawn(begin(&cache, of_user("/t/a", i)).await));
    }
    let last = Request::get("/t/a").header("x-user", "last").body(Plain::default()).unwrap();
    let response = tokio::spawn(begin(&cache, last).await).await.unwrap().unwrap();
    assert!(start.elapsed() <= 11 * SECOND, "waited {:?}", start.elapsed());
    assert_eq!(text(response).await, "rows");
}

#[tokio::test(start_paused = true)]
async fn handler_calling_its_own_cached_route_does_not_wait() {
    type Own = tower::util::BoxCloneService<Request<Plain>, Response<tower_response_cache::CacheBody<Plain>>, Infallible>;
    let own: Arc<std::sync::OnceLock<std::sync::Mutex<Own>>> = Arc::default();
    let depth = Arc::new(AtomicUsize::new(0));
    let inner = service_fn({
        let own = own.clone();
        move |_: Request<Plain>| {
            let (own, outermost) = (own.clone(), depth.fetch_add(1, Ordering::SeqCst) == 0);
            async move {
                if !outermost {
                    return Ok::<_, Infallible>(ok("inner"));
                }
                let service = own.get().unwrap().lock().unwrap().clone();
                let answer = text(service.oneshot(get("/t/a")).await?).await;
                Ok(ok(format!("outer of {answer}")))
            }
        }
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).wait_limit(5 * SECOND).layer(inner);
    own.set(std::sync::Mutex::new(cache.clone().boxed_clone())).ok().unwrap();
    let start = Instant::now();
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "outer of inner");
    assert_eq!(start.elapsed().as_secs(), 0);
}
