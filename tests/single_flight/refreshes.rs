//! Background refreshes of stale entries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use crate::{
    common::*,
    setup::{CROWD, layer, with_manual_clock},
};
use http::Request;
use tokio::{sync::Notify, time::timeout};
use tower::{Layer, ServiceBuilder, service_fn};
use tower_response_cache::{Outcome, Rule, Store, status::Stale};

#[tokio::test(start_paused = true)]
async fn thousand_stale_hits_make_one_refresh() {
    let (store, clock) = with_manual_clock();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)));
    let first = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("old"));
    first.await.unwrap();
    clock.advance(2 * SECOND);
    for _ in 0..CROWD {
        let Poll::Ready(response) = poll_once(&mut begin(&cache, get("/t/a")).await) else {
            panic!("a stale hit does not wait")
        };
        let response = response.unwrap();
        assert_eq!(outcome(&response), Outcome::Stale(Stale::WhileRevalidate));
        assert_eq!(text(response).await, "old");
    }
    let (_, answer) = next_call(&mut handle).await;
    no_call(&mut handle).await;
    answer.send_response(ok("new"));
    until("the entry is refreshed", || store.stats().stored == 2).await;
    assert_eq!(text(begin(&cache, get("/t/a")).await.await.unwrap()).await, "new");
    assert_eq!(store.stats().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn soft_invalidations_during_a_refresh_start_no_second_one() {
    let (store, _) = with_manual_clock();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE).namespace("t").stale_while_revalidate(MINUTE)));
    let first = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("old"));
    first.await.unwrap();
    let stale = async || {
        store.invalidate_softly(["t"]).await.expect("a name");
        let response = begin(&cache, get("/t/a")).await.await.unwrap();
        assert_eq!(outcome(&response), Outcome::Stale(Stale::WhileRevalidate));
        assert_eq!(text(response).await, "old");
    };
    stale().await;
    let (_, answer) = next_call(&mut handle).await;
    for _ in 0..CROWD {
        stale().await;
    }
    no_call(&mut handle).await;
    // The refresh began before the last invalidation. What it stores is stale as well, and the next read refreshes that.
    answer.send_response(ok("old"));
    until("the entry is refreshed", || store.stats().stored == 2 && store.stats().flights == 0).await;
    let response = begin(&cache, get("/t/a")).await.await.unwrap();
    assert_eq!(outcome(&response), Outcome::Stale(Stale::WhileRevalidate));
    next_call(&mut handle).await.1.send_response(ok("new"));
    until("the entry is refreshed again", || store.stats().stored == 3).await;
    let response = begin(&cache, get("/t/a")).await.await.unwrap();
    assert_eq!((outcome(&response), text(response).await), (Outcome::Hit, "new".into()));
}

#[tokio::test(start_paused = true)]
async fn stale_entry_is_refreshed_under_concurrency_limit_one() {
    let (store, clock) = with_manual_clock();
    let (inner, calls) = counting(|_, call| ok(call.to_string()));
    let inner = ServiceBuilder::new().concurrency_limit(1).service(inner);
    let cache = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).layer(inner);
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "1");
    for round in 1..5_usize {
        clock.advance(2 * SECOND);
        assert_eq!(text(send(&cache, get("/t/a")).await).await, round.to_string());
        until("the entry is refreshed", || store.stats().stored as usize == round + 1).await;
        let fresh = send(&cache, get("/t/a")).await;
        assert_eq!(outcome(&fresh), Outcome::Hit);
        assert_eq!(text(fresh).await, (round + 1).to_string());
    }
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn failed_refresh_does_not_block_its_key() {
    for panics in [true, false] {
        let (store, clock) = with_manual_clock();
        let ended = Arc::new(Notify::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let inner = service_fn({
            let (calls, ended) = (calls.clone(), ended.clone());
            move |_: Request<Plain>| {
                let (call, ended) = (calls.fetch_add(1, Ordering::SeqCst), ended.clone());
                async move {
                    match call {
                        1 if panics => {
                            ended.notify_one();
                            panic!("the handler panics")
                        }
                        1 => {
                            ended.notify_one();
                            Err("away")
                        }
                        call => Ok(ok(call.to_string())),
                    }
                }
            }
        });
        let cache = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).layer(inner);
        send(&cache, get("/t/a")).await;
        clock.advance(2 * SECOND);
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "0");
        ended.notified().await;
        tokio::task::yield_now().await;
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "0");
        until("the entry is refreshed", || store.stats().stored == 2).await;
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "2");
    }
}

#[tokio::test(start_paused = true)]
async fn hung_refresh_is_dropped_at_its_limit() {
    let (store, clock) = with_manual_clock();
    let layer = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).fill_limit(10 * SECOND);
    let (cache, mut handle) = mocked(&layer);
    let first = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("old"));
    first.await.unwrap();
    clock.advance(2 * SECOND);
    begin(&cache, get("/t/a")).await.await.unwrap();
    let _hangs = next_call(&mut handle).await;
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(store.stats().flights, 0);
    begin(&cache, get("/t/a")).await.await.unwrap();
    let (_, answer) = timeout(SECOND, handle.next_request()).await.expect("another refresh").unwrap();
    answer.send_response(ok("new"));
    until("the entry is refreshed", || store.stats().stored == 2).await;
}
