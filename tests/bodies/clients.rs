//! Clients that leave, and clients that are slow.

use crate::{
    common::*,
    setup::{minute, with_length},
};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tower_response_cache::{Outcome, Store};

#[tokio::test]
async fn leader_leaving_during_the_call_costs_others_nothing() {
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let mut leader = begin(&cache, get("/t/rows")).await;
    assert!(poll_once(&mut leader).is_pending());
    let before = begin(&cache, get("/t/rows")).await;
    let answer = within(next_call(&mut handle)).await.1;
    drop(leader);
    let after = begin(&cache, get("/t/rows")).await;
    let (source, body) = channel_body(None);
    answer.send_response(Response::new(body));
    source.send("one");
    source.send("two");
    drop(source);
    for follower in [before, after] {
        assert_eq!(text(within(follower).await.unwrap()).await, "onetwo");
    }
    assert_eq!(store.stats().inner_calls, 1);
    assert_eq!(store.stats().stored, 1);
}

#[tokio::test]
async fn call_whose_only_client_leaves_is_stored() {
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer);
    // The client leaves before its future was polled for the first time, and after.
    for (target, polls) in [("/t/a", 0), ("/t/b", 1)] {
        let mut leader = begin(&cache, get(target)).await;
        (0..polls).for_each(|_| assert!(poll_once(&mut leader).is_pending()));
        let answer = within(next_call(&mut handle)).await.1;
        drop(leader);
        answer.send_response(ok("rows"));
        let hit = within(begin(&cache, get(target)).await).await.unwrap();
        assert_eq!(text(hit).await, "rows");
    }
    assert_eq!(store.stats().inner_calls, 2);
}

#[tokio::test]
async fn leader_leaving_during_the_body_costs_others_nothing() {
    for length in [None, Some(9)] {
        let (store, layer) = minute();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/rows")).await;
        let before = tokio::spawn(begin(&cache, get("/t/rows")).await);
        let (source, body) = channel_body(None);
        within(next_call(&mut handle)).await.1.send_response(with_length(body, length));
        let mut leading = opened(within(leader).await.unwrap());
        source.send("one");
        assert_eq!(within(piece(&mut leading)).await.unwrap().unwrap(), "one");
        drop(leading);
        source.send("two");
        let after = tokio::spawn(begin(&cache, get("/t/rows")).await);
        source.send("six");
        drop(source);
        for follower in [before, after] {
            assert_eq!(text(within(follower).await.unwrap().unwrap()).await, "onetwosix", "length {length:?}");
        }
        assert_eq!(store.stats().inner_calls, 1);
        let hit = within(begin(&cache, get("/t/rows")).await).await.unwrap();
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, "onetwosix"));
    }
}

#[tokio::test]
async fn slow_reader_delays_no_other() {
    for length in [None, Some(6)] {
        let (store, layer) = minute();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/rows")).await;
        let slow = tokio::spawn(begin(&cache, get("/t/rows")).await);
        let quick = tokio::spawn(begin(&cache, get("/t/rows")).await);
        let (source, body) = channel_body(None);
        within(next_call(&mut handle)).await.1.send_response(with_length(body, length));
        let unread = within(leader).await.unwrap();
        source.send("one");
        source.send("two");
        drop(source);
        let slow = within(slow).await.unwrap().unwrap();
        assert_eq!(text(within(quick).await.unwrap().unwrap()).await, "onetwo");
        eventually(|| store.stats().stored == 1).await;
        let hit = within(begin(&cache, get("/t/rows")).await).await.unwrap();
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, "onetwo"));
        // The slow readers still get the whole body.
        assert_eq!(text(unread).await, "onetwo");
        assert_eq!(text(slow).await, "onetwo");
    }
}

#[tokio::test]
async fn unpolled_leader_delays_no_follower() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer);
    let idle = begin(&cache, get("/t/rows")).await;
    let follower = begin(&cache, get("/t/rows")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("rows"));
    assert_eq!(text(within(follower).await.unwrap()).await, "rows");
    assert_eq!(text(within(idle).await.unwrap()).await, "rows");
}

#[tokio::test]
async fn leaving_follower_ends_no_fill() {
    for length in [None, Some(6)] {
        let (store, layer) = minute();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/rows")).await;
        let mut follower = begin(&cache, get("/t/rows")).await;
        assert!(poll_once(&mut follower).is_pending());
        let (source, body) = channel_body(None);
        within(next_call(&mut handle)).await.1.send_response(with_length(body, length));
        let leader = within(leader).await.unwrap();
        source.send("one");
        let read_to_end = poll_once(&mut follower).map(|response| opened(response.unwrap()));
        drop((follower, read_to_end));
        source.send("two");
        drop(source);
        assert_eq!(within(text(leader)).await, "onetwo");
        assert_eq!(store.stats().stored, 1);
    }
}
