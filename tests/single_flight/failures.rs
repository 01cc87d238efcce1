//! Leaders that fail, panic, or are lost with their runtime.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    common::*,
    setup::{layer, memory, with_manual_clock},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    runtime::Builder,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tower::{Layer, Service, service_fn};
use tower_response_cache::{
    Outcome, Rule, Store,
    status::{Miss, Stale},
};
use tower_test::mock;

#[tokio::test(start_paused = true)]
async fn failed_body_is_an_error_for_all_readers() {
    let store = memory();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)));
    let leader = begin(&cache, get("/t/a")).await;
    let follower = begin(&cache, get("/t/a")).await;
    let (response, source) = channel_response(Some(6));
    next_call(&mut handle).await.1.send_response(response);
    source.send("one");
    let (leader, follower) = (leader.await.unwrap(), follower.await.unwrap());
    source.fail("the upstream broke off");
    let error = leader.into_body().collect().await.unwrap_err();
    assert_eq!(error.to_string(), "the upstream broke off");
    follower.into_body().collect().await.unwrap_err();
    assert_eq!(store.stats().stored, 0);
    assert_eq!(store.stats().flights, 0);
}

#[tokio::test(start_paused = true)]
async fn followers_of_a_failed_call_call_at_once() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    let leader = begin(&cache, get("/t/a")).await;
    let mut rest = Vec::new();
    for _ in 0..10 {
        rest.push(tokio::spawn(begin(&cache, get("/t/a")).await));
    }
    let start = Instant::now();
    next_call(&mut handle).await.1.send_error("away");
    assert_eq!(leader.await.unwrap_err().to_string(), "away");
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(next_call(&mut handle).await.1);
    }
    answers.into_iter().for_each(|answer| answer.send_response(ok("rows")));
    for one in rest {
        assert_eq!(text(one.await.unwrap().unwrap()).await, "rows");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn followers_of_a_failed_call_are_served_stale() {
    type Fails = fn(mock::SendResponse<Response<Plain>>);
    let fails: [Fails; 2] = [
        |call| call.send_error("away"),
        |call| call.send_response(Response::builder().status(503).body(Plain::default()).expect("a response")),
    ];
    for fails in fails {
        let (store, clock) = with_manual_clock();
        let rule = Rule::ttl(MINUTE).stale_if_error(MINUTE);
        let (cache, mut handle) = mocked(&layer(&store, rule));
        let first = tokio::spawn(begin(&cache, get("/t/a")).await);
        next_call(&mut handle).await.1.send_response(ok("old rows"));
        assert_eq!(text(first.await.unwrap().unwrap()).await, "old rows");
        clock.advance(MINUTE);
        let mut crowd = Vec::new();
        for _ in 0..10 {
            crowd.push(tokio::spawn(begin(&cache, get("/t/a")).await));
        }
        fails(next_call(&mut handle).await.1);
        no_call(&mut handle).await;
        for one in crowd {
            let response = timeout(SECOND, one).await.expect("no follower waits").unwrap().unwrap();
            assert_eq!((outcome(&response), text(response).await.as_str()), (Outcome::Stale(Stale::IfError), "old rows"));
        }
        assert_eq!(store.stats().inner_calls, 2);
    }
}

/// An invalidated entry is not served for an error, even to followers that began to wait before the invalidation.
#[tokio::test(start_paused = true)]
async fn followers_of_a_failed_call_get_no_invalidated_entry() {
    let (store, clock) = with_manual_clock();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE)));
    let first = tokio::spawn(begin(&cache, get("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("old rows"));
    first.await.unwrap().unwrap();
    clock.advance(MINUTE);
    let leader = tokio::spawn(begin(&cache, get("/t/a")).await);
    let (_, call) = next_call(&mut handle).await;
    let follower = tokio::spawn(begin(&cache, get("/t/a")).await);
    no_call(&mut handle).await;
    store.invalidate(["table:a"]).await.unwrap();
    call.send_error("away");
    assert!(leader.await.unwrap().is_err());
    next_call(&mut handle).await.1.send_response(ok("new rows"));
    assert_eq!(text(follower.await.unwrap().unwrap()).await, "new rows");
}

/// `stale_if_error` is zero unless it is set: neither leader nor follower gets a softly invalidated entry for an error.
#[tokio::test(start_paused = true)]
async fn soft_invalidation_without_stale_if_error_serves_no_stale() {
    for (rule, stands_in) in [(Rule::ttl(MINUTE), false), (Rule::ttl(MINUTE).stale_if_error(SECOND), true)] {
        let store = memory();
        let (cache, mut handle) = mocked(&layer(&store, rule));
        let first = begin(&cache, get("/t/a")).await;
        next_call(&mut handle).await.1.send_response(ok("old"));
        assert_eq!(text(first.await.unwrap()).await, "old");
        store.invalidate_softly(["table:a"]).await.unwrap();
        let (leader, follower) = (begin(&cache, get("/t/a")).await, begin(&cache, get("/t/a")).await);
        let (leader, follower) = (tokio::spawn(leader), tokio::spawn(follower));
        let fail = async |handle: &mut Handle| {
            let mut response = ok("failed");
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            within(next_call(handle)).await.1.send_response(response);
        };
        fail(&mut handle).await;
        if !stands_in {
            // The follower calls the inner service.
            fail(&mut handle).await;
        }
        for one in [leader, follower] {
            let response = one.await.unwrap().unwrap();
            let stale = outcome(&response) == Outcome::Stale(Stale::IfError);
            assert_eq!((stale, text(response).await.as_str()), (stands_in, if stands_in { "old" } else { "failed" }));
        }
    }
}

/// The inner service panics in its call or in its future.
#[tokio::test(start_paused = true)]
async fn panicked_leader_is_replaced_at_once() {
    for in_call in [false, true] {
        let calls = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let inner = service_fn({
            let (calls, gate) = (calls.clone(), gate.clone());
            move |_: Request<Plain>| {
                let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
                assert!(!(first && in_call), "the handler panics");
                let gate = gate.clone();
                async move {
                    let _ = gate.acquire().await;
                    assert!(!first, "the handler panics");
                    Ok::<_, Infallible>(ok("rows"))
                }
            }
        });
        let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
        let start = Instant::now();
        if in_call {
            let cache = cache.clone();
            tokio::spawn(async move { begin(&cache, get("/t/a")).await.await }).await.unwrap_err();
        }
        let leader = begin(&cache, get("/t/a")).await;
        let mut rest = Vec::new();
        for _ in 0..10 {
            rest.push(tokio::spawn(begin(&cache, get("/t/a")).await));
        }
        let leader = tokio::spawn(leader);
        gate.add_permits(1);
        for one in rest {
            assert_eq!(text(one.await.unwrap().unwrap()).await, "rows");
        }
        assert_eq!(leader.await.is_err(), !in_call, "the panic reaches the leader");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[test]
fn leader_lost_with_its_runtime_is_replaced_at_once() {
    let runtime = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    // Before its runtime ends, the leader has a follower of its own runtime, of another runtime, or none.
    for followed_by in ["own", "other", "none"] {
        let (own_runtime, other_runtime) = (runtime(), runtime());
        let (inner, calls) = counting(|_, _| ok("rows"));
        let hold = Arc::new(AtomicBool::new(true));
        let inner = service_fn({
            let hold = hold.clone();
            move |request: Request<Plain>| {
                let (held, answer) = (hold.swap(false, Ordering::SeqCst), inner.clone().call(request));
                async move {
                    if held {
                        pending::<()>().await;
                    }
                    answer.await
                }
            }
        });
        let cache = other_runtime.block_on(async { layer(&memory(), Rule::ttl(MINUTE)).layer(inner) });
        other_runtime.block_on(async {
            tokio::spawn(begin(&cache, get("/t/a")).await);
            tokio::task::yield_now().await;
            if followed_by == "own" {
                tokio::spawn(begin(&cache, get("/t/a")).await);
                tokio::task::yield_now().await;
            }
        });
        own_runtime.block_on(async {
            let start = Instant::now();
            let early = match followed_by {
                "none" => None,
                _ => Some(begin(&cache, get("/t/a")).await),
            };
            std::thread::spawn(move || drop(other_runtime)).join().unwrap();
            let late = begin(&cache, get("/t/a")).await;
            for one in early.into_iter().chain([late]) {
                assert_eq!(text(one.await.unwrap()).await, "rows", "{followed_by}");
            }
            assert_eq!(start.elapsed(), Duration::ZERO, "{followed_by}");
        });
        assert_eq!(calls.load(Ordering::SeqCst), 2, "{followed_by}");
    }
}

#[test]
fn unpolled_fill_is_waited_for_once() {
    let runtime = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (own_runtime, other_runtime) = (runtime(), runtime());
    let store = memory();
    let (cache, mut handle) = other_runtime.block_on(async { mocked(&layer(&store, Rule::ttl(MINUTE))) });
    let leader = other_runtime.block_on(begin(&cache, get("/t/a")));
    // The client leaves: the fill becomes a task of a runtime that exists and does not run.
    drop(leader);
    own_runtime.block_on(async {
        let _lost = next_call(&mut handle).await;
        let start = Instant::now();
        let first = tokio::spawn(begin(&cache, get("/t/a")).await);
        let mut failed = ok("own");
        *failed.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        next_call(&mut handle).await.1.send_response(failed);
        assert_eq!(outcome(&first.await.unwrap().unwrap()), Outcome::Miss(Miss::WaitLimit));
        let waited = start.elapsed();
        assert!(waited >= 30 * SECOND);
        // The next request leads, has followers and stores.
        let [second, third] = [begin(&cache, get("/t/a")).await, begin(&cache, get("/t/a")).await].map(tokio::spawn);
        next_call(&mut handle).await.1.send_response(ok("rows"));
        let outcomes = [second.await.unwrap().unwrap(), third.await.unwrap().unwrap()].map(|response| outcome(&response));
        assert_eq!(outcomes, [Outcome::Miss(Miss::Absent), Outcome::Collapsed]);
        assert_eq!(start.elapsed(), waited);
        assert_eq!(store.stats().stored, 1);
    });
}

#[test]
fn call_survives_the_runtime_of_its_follower() {
    let runtime = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (own_runtime, other_runtime) = (runtime(), runtime());
    let (cache, mut handle) = own_runtime.block_on(async { mocked(&layer(&memory(), Rule::ttl(MINUTE))) });
    let leader = own_runtime.block_on(begin(&cache, get("/t/a")));
    let follower = other_runtime.block_on(begin(&cache, get("/t/a")));
    drop(follower);
    drop(other_runtime);
    own_runtime.block_on(async {
        next_call(&mut handle).await.1.send_response(ok("rows"));
        assert_eq!(text(leader.await.unwrap()).await, "rows");
    });
}
