//! Fills that never end, that panic or that fail.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use crate::{
    common::*,
    setup::{minute, read_to_end, with_length},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, Clock, Memory, Outcome, Rule, Store, status::Stale};

// ---- Fills that never end --------------------------------------------------------------------------------------------

/// Counts its drops.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns an inner service that never answers, and the counts of its calls and of dropped calls.
fn never() -> (
    impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    Arc<AtomicUsize>,
    Arc<AtomicUsize>,
) {
    let (calls, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, end) = (calls.clone(), ended.clone());
    let service = service_fn(move |_: Request<Plain>| {
        count.fetch_add(1, Ordering::SeqCst);
        let guard = Dropped(end.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(ok(""))
        }
    });
    (service, calls, ended)
}

#[tokio::test(start_paused = true)]
async fn abandoned_call_is_dropped_after_the_fill_limit() {
    let (_store, layer) = minute();
    let (inner, calls, ended) = never();
    let cache = layer.fill_limit(5 * SECOND).layer(inner);
    drop(begin(&cache, get("/t/rows")).await);
    eventually(|| calls.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(ended.load(Ordering::SeqCst), 0, "before the limit");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(ended.load(Ordering::SeqCst), 1, "after the limit");
    // The key is not blocked.
    let _next = begin(&cache, get("/t/rows")).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn abandoned_body_is_dropped_after_the_fill_limit() {
    for length in [None, Some(100)] {
        let (store, layer) = minute();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer.fill_limit(5 * SECOND));
        let leader = begin(&cache, get("/t/rows")).await;
        let (source, body) = channel_body(None);
        next_call(&mut handle).await.1.send_response(with_length(body, length));
        let leader = leader.await.unwrap();
        source.send("one");
        // The limit does not count while a client reads.
        tokio::time::sleep(30 * SECOND).await;
        assert!(!source.is_dropped());
        drop(leader);
        tokio::time::sleep(11 * SECOND).await;
        assert!(source.is_dropped());
        assert_eq!(store.stats().stored, 0);
        let _next = begin(&cache, get("/t/rows")).await;
        next_call(&mut handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn call_with_a_follower_outlasts_the_fill_limit() {
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer.fill_limit(5 * SECOND).wait_limit(MINUTE));
    let leader = begin(&cache, get("/t/rows")).await;
    let follower = tokio::spawn(begin(&cache, get("/t/rows")).await);
    let answer = next_call(&mut handle).await.1;
    drop(leader);
    tokio::time::sleep(12 * SECOND).await;
    answer.send_response(ok("rows"));
    let response = within(follower).await.unwrap().unwrap();
    assert_eq!(outcome(&response), Outcome::Collapsed);
    assert_eq!(text(response).await, "rows");
    assert_eq!(store.stats().inner_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn body_with_a_follower_outlasts_the_fill_limit() {
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer.fill_limit(5 * SECOND).wait_limit(MINUTE));
    let leader = begin(&cache, get("/t/rows")).await;
    let follower = tokio::spawn(begin(&cache, get("/t/rows")).await);
    let (source, body) = channel_body(None);
    next_call(&mut handle).await.1.send_response(Response::new(body));
    drop(leader.await.unwrap());
    source.send("one");
    tokio::time::sleep(12 * SECOND).await;
    source.send("two");
    drop(source);
    let response = within(follower).await.unwrap().unwrap();
    assert_eq!(outcome(&response), Outcome::Collapsed);
    assert_eq!(text(response).await, "onetwo");
    assert_eq!(store.stats().inner_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn endless_refresh_is_dropped_after_the_fill_limit() {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(1 << 20).clock(clock.clone()).build();
    let rule = Rule::ttl(MINUTE).stale_while_revalidate(60 * MINUTE);
    let (cache, mut handle) = mocked::<Full<Bytes>>(&CacheLayer::new(store).rules(one_rule(rule)).fill_limit(5 * SECOND));
    let first = begin(&cache, get("/t/rows")).await;
    next_call(&mut handle).await.1.send_response(ok("old"));
    drop(first.await.unwrap());

    clock.advance(2 * MINUTE);
    let stale = begin(&cache, get("/t/rows")).await.await.unwrap();
    assert_eq!(outcome(&stale), Outcome::Stale(Stale::WhileRevalidate));
    let never_answered = next_call(&mut handle).await;
    tokio::time::sleep(10 * SECOND).await;
    let stale = begin(&cache, get("/t/rows")).await.await.unwrap();
    assert_eq!(outcome(&stale), Outcome::Stale(Stale::WhileRevalidate));
    let again = tokio::time::timeout(SECOND, next_call(&mut handle)).await.expect("another refresh begins");
    again.1.send_response(ok("new"));
    eventually(|| {
        let Poll::Ready(Ok(response)) = poll_once(&mut Box::pin(cache.clone().oneshot(get("/t/rows")))) else { return false };
        outcome(&response) == Outcome::Hit
    })
    .await;
    drop(never_answered);
}

// ---- Panics and errors -----------------------------------------------------------------------------------------------

/// Returns an inner service that panics in its first call, once it is notified, and answers all others.
fn panicking_once(
    go: Arc<Notify>,
) -> impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static {
    let calls = Arc::new(AtomicUsize::new(0));
    service_fn(move |_: Request<Plain>| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        let go = go.clone();
        async move {
            if call == 1 {
                go.notified().await;
                panic!("this panic is part of the test");
            }
            Ok(ok(format!("call {call}")))
        }
    })
}

#[tokio::test]
async fn panic_reaches_the_leader_and_blocks_no_key() {
    let (store, layer) = minute();
    let go = Arc::new(Notify::new());
    let cache = layer.layer(panicking_once(go.clone()));
    let leader = tokio::spawn(begin(&cache, get("/t/rows")).await);
    go.notify_one();
    assert!(within(leader).await.unwrap_err().is_panic());
    assert_eq!(text(within(send(&cache, get("/t/rows"))).await).await, "call 2");
    assert_eq!(store.stats().inner_calls, 2);
}

#[tokio::test]
async fn followers_of_a_panicked_call_elect_a_leader() {
    let (store, layer) = minute();
    let go = Arc::new(Notify::new());
    let cache = layer.layer(panicking_once(go.clone()));
    let leader = tokio::spawn(begin(&cache, get("/t/rows")).await);
    let mut followers = Vec::new();
    for _ in 0..10 {
        followers.push(tokio::spawn(begin(&cache, get("/t/rows")).await));
    }
    go.notify_one();
    assert!(within(leader).await.unwrap_err().is_panic(), "the panic also passes if the call was moved to a task");
    for follower in followers {
        assert_eq!(text(within(follower).await.unwrap().unwrap()).await, "call 2");
    }
    assert_eq!(store.stats().inner_calls, 2);
}

#[tokio::test]
async fn followers_of_a_panicked_detached_call_elect_a_leader() {
    let (_store, layer) = minute();
    let go = Arc::new(Notify::new());
    let cache = layer.layer(panicking_once(go.clone()));
    let leader = begin(&cache, get("/t/rows")).await;
    let follower = begin(&cache, get("/t/rows")).await;
    drop(leader);
    go.notify_one();
    assert_eq!(text(within(follower).await.unwrap()).await, "call 2");
}

#[tokio::test]
async fn panicked_refresh_blocks_no_key() {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(1 << 20).clock(clock.clone()).build();
    let rule = Rule::ttl(MINUTE).stale_while_revalidate(60 * MINUTE);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(service_fn(move |_: Request<Plain>| {
        let call = counter.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            assert_ne!(call, 2, "this panic is part of the test");
            Ok::<_, Infallible>(ok(format!("call {call}")))
        }
    }));
    assert_eq!(text(send(&cache, get("/t/rows")).await).await, "call 1");
    clock.advance(2 * MINUTE);
    assert_eq!(text(send(&cache, get("/t/rows")).await).await, "call 1", "stale, while the refresh is about to panic");
    eventually(|| calls.load(Ordering::SeqCst) == 2).await;
    within(async {
        loop {
            let response = send(&cache, get("/t/rows")).await;
            if outcome(&response) == Outcome::Hit {
                break assert_eq!(text(response).await, "call 3");
            }
            assert_eq!(outcome(&response), Outcome::Stale(Stale::WhileRevalidate));
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(store.stats().refreshes, 2);
}

/// A body that returns one piece, then waits, then panics.
struct PanickingBody {
    first: Option<Bytes>,
    go: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Body for PanickingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        ready!(self.go.as_mut().poll(cx));
        panic!("this panic is part of the test");
    }
}

#[tokio::test]
async fn panicked_body_ends_with_an_error_for_all_readers() {
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<PanickingBody>(&layer);
    let leader = begin(&cache, get("/t/rows")).await;
    let follower = begin(&cache, get("/t/rows")).await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let body = PanickingBody { first: Some("one".into()), go: Box::pin(async { wait.await.unwrap_or_default() }) };
    within(next_call(&mut handle)).await.1.send_response(with_length(body, Some(6)));
    let responses = [within(leader).await.unwrap(), within(follower).await.unwrap()];
    go.send(()).unwrap();
    for response in responses {
        let (all, error) = within(read_to_end(response)).await;
        assert_eq!(all, "one");
        assert!(error.is_some());
    }
    assert_eq!(store.stats().stored, 0);
    let _next = begin(&cache, get("/t/rows")).await;
    within(next_call(&mut handle)).await;
}

#[tokio::test]
async fn followers_of_a_failed_call_get_their_own_response() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer);
    let leader = begin(&cache, get("/t/rows")).await;
    let follower = tokio::spawn(begin(&cache, get("/t/rows")).await);
    within(next_call(&mut handle)).await.1.send_error("no connection");
    assert_eq!(within(leader).await.unwrap_err().to_string(), "no connection");
    within(next_call(&mut handle)).await.1.send_response(ok("rows"));
    assert_eq!(text(within(follower).await.unwrap().unwrap()).await, "rows");
}
