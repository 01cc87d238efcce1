//! Clients that leave, and leaders that are not polled.

use std::time::Duration;

use crate::{
    common::*,
    setup::{layer, memory},
};
use tokio::time::timeout;
use tower_response_cache::{CacheLayer, Memory, Outcome, Rule, Store, status::Miss};

#[tokio::test(start_paused = true)]
async fn followers_share_the_call_of_a_leader_that_left() {
    for polled in [false, true] {
        let store = memory();
        let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
        let mut first = begin(&cache, get("/t/a")).await;
        if polled {
            assert!(poll_once(&mut first).is_pending());
        }
        let before = begin(&cache, get("/t/a")).await;
        drop(first);
        let after = begin(&cache, get("/t/a")).await;
        next_call(&mut handle).await.1.send_response(ok("rows"));
        for one in [before, after] {
            let response = one.await.unwrap();
            assert_eq!(outcome(&response), Outcome::Collapsed);
            assert_eq!(text(response).await, "rows");
        }
        assert_eq!(store.stats().inner_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn followers_share_the_body_of_a_leader_that_left() {
    for length in [Some(9), None] {
        let store = memory();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)));
        let first = begin(&cache, get("/t/a")).await;
        let before = begin(&cache, get("/t/a")).await;
        let (response, source) = channel_response(length);
        next_call(&mut handle).await.1.send_response(response);
        let mut body = opened(first.await.unwrap());
        source.send("one");
        assert_eq!(piece(&mut body).await, Some(Ok("one".to_owned())));
        drop(body);
        let after = begin(&cache, get("/t/a")).await;
        source.send("two");
        source.send("end");
        drop(source);
        for one in [before, after] {
            let response = one.await.unwrap();
            assert_eq!(outcome(&response), Outcome::Collapsed, "{length:?}");
            assert_eq!(text(response).await, "onetwoend", "{length:?}");
        }
        assert_eq!(outcome(&begin(&cache, get("/t/a")).await.await.unwrap()), Outcome::Hit);
        assert_eq!(store.stats().inner_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn fill_is_stored_though_all_clients_left() {
    let store = memory();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)));
    // All clients leave during the call.
    let crowd = [begin(&cache, get("/t/a")).await, begin(&cache, get("/t/a")).await];
    let (_, answer) = next_call(&mut handle).await;
    drop(crowd);
    let (response, source) = channel_response(Some(4));
    source.send("rows");
    drop(source);
    answer.send_response(response);
    until("the response is stored", || store.stats().stored == 1).await;
    assert_eq!(text(begin(&cache, get("/t/a")).await.await.unwrap()).await, "rows");
    // All clients leave during the body.
    let leader = begin(&cache, get("/t/b")).await;
    let follower = begin(&cache, get("/t/b")).await;
    let (response, source) = channel_response(None);
    next_call(&mut handle).await.1.send_response(response);
    drop((leader.await.unwrap(), follower));
    source.send("more ");
    source.send("rows");
    drop(source);
    until("the response is stored", || store.stats().stored == 2).await;
    assert_eq!(text(begin(&cache, get("/t/b")).await.await.unwrap()).await, "more rows");
    assert_eq!(store.stats().inner_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn follower_of_an_announced_body_gets_bytes_early() {
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&memory(), Rule::ttl(MINUTE)));
    let leader = begin(&cache, get("/t/a")).await;
    let follower = begin(&cache, get("/t/a")).await;
    let (response, source) = channel_response(Some(6));
    next_call(&mut handle).await.1.send_response(response);
    // The response is kept, and its body is never read.
    let _leader = leader.await.unwrap();
    let mut body = opened(follower.await.unwrap());
    source.send("one");
    assert_eq!(piece(&mut body).await, Some(Ok("one".to_owned())));
    source.send("two");
    assert_eq!(piece(&mut body).await, Some(Ok("two".to_owned())));
    drop(source);
    assert_eq!(piece(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn unpolled_leader_does_not_delay_its_follower() {
    for polled in [false, true] {
        let (cache, mut handle) = mocked(&layer(&memory(), Rule::ttl(MINUTE)));
        let mut leader = begin(&cache, get("/t/a")).await;
        if polled {
            assert!(poll_once(&mut leader).is_pending());
        }
        let follower = begin(&cache, get("/t/a")).await;
        next_call(&mut handle).await.1.send_response(ok("rows"));
        let response = follower.await.unwrap();
        assert_eq!(outcome(&response), Outcome::Collapsed);
        assert_eq!(text(response).await, "rows");
        assert_eq!(text(leader.await.unwrap()).await, "rows");
    }
}

#[tokio::test(start_paused = true)]
async fn leader_polled_late_gets_its_response() {
    let (cache, mut handle) = mocked(&layer(&memory(), Rule::ttl(MINUTE)));
    let mut leader = tokio::spawn(begin(&cache, get("/t/a")).await);
    let follower = begin(&cache, get("/t/a")).await;
    assert!(poll_once(&mut leader).is_pending());
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(text(follower.await.unwrap()).await, "rows");
    assert_eq!(
        text(timeout(SECOND, leader).await.expect("the leader is woken at the end of its fill").unwrap().unwrap()).await,
        "rows"
    );
}

#[tokio::test(start_paused = true)]
async fn fill_with_a_follower_outlasts_its_first_client() {
    for arrived in [false, true] {
        let store = memory();
        let layer = layer(&store, Rule::ttl(MINUTE)).fill_limit(SECOND).wait_limit(30 * SECOND);
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/a")).await;
        let (_, answer) = next_call(&mut handle).await;
        let follower = tokio::spawn(begin(&cache, get("/t/a")).await);
        let (response, source) = channel_response(None);
        if arrived {
            answer.send_response(response);
            drop(leader.await.unwrap());
            tokio::time::sleep(5 * SECOND).await;
        } else {
            drop(leader);
            tokio::time::sleep(5 * SECOND).await;
            answer.send_response(response);
        }
        source.send("rows");
        drop(source);
        let response = timeout(SECOND, follower).await.expect("the follower has its response").unwrap().unwrap();
        assert_eq!(outcome(&response), Outcome::Collapsed);
        assert_eq!(text(response).await, "rows");
        assert_eq!(store.stats().inner_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn abandoned_fill_is_dropped_at_its_limit() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)).fill_limit(SECOND));
    drop(begin(&cache, get("/t/a")).await);
    let _held = next_call(&mut handle).await;
    assert_eq!(store.stats().flights, 1);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(store.stats().flights, 0);
    let again = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(outcome(&again.await.unwrap()), Outcome::Miss(Miss::Absent));
}

#[tokio::test(start_paused = true)]
async fn abandoned_endless_body_is_dropped_at_the_limit() {
    for leaves_early in [false, true] {
        let store = memory();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)).fill_limit(SECOND));
        let leader = begin(&cache, get("/t/a")).await;
        let (_, answer) = next_call(&mut handle).await;
        let (response, _pipe) = channel_response(Some(9));
        if leaves_early {
            drop(leader);
            answer.send_response(response);
        } else {
            answer.send_response(response);
            drop(leader.await.unwrap());
        }
        assert_eq!(store.stats().flights, 1);
        tokio::time::sleep(4 * SECOND).await;
        assert_eq!(store.stats().flights, 0, "left during the call: {leaves_early}");
    }
}

/// The limit counts from the moment when the last client has left, not from when the fill moved to a task.
#[tokio::test(start_paused = true)]
async fn fill_limit_begins_when_the_last_client_has_left() {
    let layer = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).fill_limit(MINUTE);
    let (service, mut handle) = mocked::<Plain>(&layer);
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { send(&service, get("/t/a")).await })
    };
    let first = ask();
    let (_, call) = next_call(&mut handle).await;
    let second = ask();
    tokio::time::sleep(MINUTE - Duration::from_secs(1)).await;
    first.abort();
    second.abort();
    tokio::time::sleep(Duration::from_secs(2)).await;
    call.send_response(ok("in time"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = tokio::time::timeout(MINUTE, send(&service, get("/t/a"))).await.expect("the fill was dropped too early");
    assert_eq!(outcome(&again), Outcome::Hit);
}
