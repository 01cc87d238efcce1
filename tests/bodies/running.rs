//! Requests for a response whose body is still running: they share it as it comes, without waiting for its end.

use std::time::Duration;

use crate::{
    common::*,
    setup::{caching, not_stored, shared_bodies},
};
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tower_response_cache::{
    CacheLayer, Clock, Memory, Outcome, Rule, Store,
    status::{Miss, NoStore},
};

/// Returns a response of unknown length, and the source of its body.
fn running_response() -> (BodySource, Response<ChannelBody>) {
    let (source, body) = channel_body(None);
    (source, Response::new(body))
}

fn rules() -> [(Rule, Option<&'static str>); 2] {
    [(Rule::ttl(MINUTE), None), (Rule::http(), Some("max-age=60"))]
}

#[tokio::test]
async fn endless_body_is_shared_as_it_comes() {
    for (rule, control) in rules() {
        let (_store, layer) = caching(rule);
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/watch")).await;
        let early = begin(&cache, get("/t/watch")).await;
        let (source, mut response) = running_response();
        if let Some(control) = control {
            response.headers_mut().insert("cache-control", control.parse().unwrap());
        }
        within(next_call(&mut handle)).await.1.send_response(response);
        let mut leader = opened(within(leader).await.unwrap());
        source.send("one");
        assert_eq!(within(piece(&mut leader)).await.unwrap().unwrap(), "one");

        // One follower came before the response, the other comes in the middle of its body.
        let late = begin(&cache, get("/t/watch")).await;
        let mut bodies = shared_bodies([early, late]).await;
        source.send("two");
        for body in &mut bodies {
            assert_eq!(within(piece(body)).await.unwrap().unwrap(), "two");
        }
        no_call(&mut handle).await;
        // A body that ends after all is stored.
        drop(source);
        for body in &mut bodies {
            assert!(within(piece(body)).await.is_none());
        }
        let hit = within(begin(&cache, get("/t/watch")).await).await.unwrap();
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, "onetwo"));
    }
}

#[tokio::test]
async fn body_outgrowing_its_limit_reaches_followers_whole() {
    let (store, layer) = caching(Rule::ttl(MINUTE).max_body(100 << 10));
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/large")).await;
    let follower = begin(&cache, get("/t/large")).await;
    let (source, response) = running_response();
    within(next_call(&mut handle)).await.1.send_response(response);
    let leader = within(leader).await.unwrap();
    let follower = within(follower).await.unwrap();
    assert_eq!(outcome(&follower), Outcome::Collapsed);
    let chunk = |n: u8| Bytes::from(vec![b'a' + n; 30 << 10]);
    (0..20).for_each(|n| source.send(chunk(n)));
    source.trailers("x-sum", "7");
    drop(source);
    let whole: Vec<u8> = (0..20).flat_map(chunk).collect();
    // Read one after the other, each of them would wait for the other.
    let (one, other) = within(async { tokio::join!(text(leader), text(follower)) }).await;
    assert!(one.as_bytes() == whole && other.as_bytes() == whole);
    assert_eq!(not_stored(&store, NoStore::TooLarge), 1);
    assert_eq!(store.stats().flights, 0);
    // The next request does not wait.
    let _next = begin(&cache, get("/t/large")).await;
    within(next_call(&mut handle)).await;
}

#[tokio::test]
async fn body_that_outgrew_its_limit_is_not_joined() {
    let (store, layer) = caching(Rule::ttl(MINUTE).max_body(8));
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/large")).await;
    let late = begin(&cache, get("/t/large")).await;
    let (source, response) = running_response();
    within(next_call(&mut handle)).await.1.send_response(response);
    let leader = within(leader).await.unwrap();
    source.send("0123456789");
    eventually(|| not_stored(&store, NoStore::TooLarge) == 1).await;
    let (own, response) = running_response();
    let late = tokio::spawn(late);
    within(next_call(&mut handle)).await.1.send_response(response);
    own.send("own");
    drop(own);
    let late = within(late).await.unwrap().unwrap();
    assert_eq!(outcome(&late), Outcome::Miss(Miss::NotShared));
    assert_eq!(text(late).await, "own");
    drop(source);
    assert_eq!(within(text(leader)).await, "0123456789");
}

#[tokio::test]
async fn abandoned_running_body_is_dropped() {
    for large in [false, true] {
        let rule = Rule::ttl(MINUTE).max_body(if large { 8 } else { 1 << 20 });
        let (_store, layer) = caching(rule);
        let (cache, mut handle) = mocked::<ChannelBody>(&layer.fill_limit(Duration::from_millis(1)));
        let leader = begin(&cache, get("/t/large")).await;
        let follower = begin(&cache, get("/t/large")).await;
        let (source, response) = running_response();
        within(next_call(&mut handle)).await.1.send_response(response);
        let leader = within(leader).await.unwrap();
        let mut follower = opened(within(follower).await.unwrap());
        source.send("0123456789");
        drop(leader);
        assert_eq!(within(piece(&mut follower)).await.unwrap().unwrap(), "0123456789");
        assert!(!source.is_dropped(), "a follower reads it");
        drop(follower);
        within(source.dropped()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn stalled_client_delays_others_up_to_the_wait_limit() {
    let (_store, layer) = caching(Rule::ttl(MINUTE).max_body(100 << 10));
    let (cache, mut handle) = mocked::<ChannelBody>(&layer.wait_limit(5 * SECOND));
    let leader = begin(&cache, get("/t/large")).await;
    let follower = begin(&cache, get("/t/large")).await;
    let (source, response) = running_response();
    within(next_call(&mut handle)).await.1.send_response(response);
    let leader = within(leader).await.unwrap();
    let follower = within(follower).await.unwrap();
    (0..20).for_each(|_| source.send(vec![b'x'; 30 << 10]));
    drop(source);
    assert_eq!(within(text(leader)).await.len(), 20 * (30 << 10));
    let error = follower.into_body().collect().await.expect_err("the stalled client is cut off");
    assert!(error.to_string().contains("too slow"), "{error}");
}

#[tokio::test]
async fn request_after_an_invalidation_joins_no_running_body() {
    let (store, layer) = caching(Rule::ttl(MINUTE).namespace("rows"));
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/watch")).await;
    let (source, response) = running_response();
    within(next_call(&mut handle)).await.1.send_response(response);
    let _leader = within(leader).await.unwrap();
    source.send("old");
    store.invalidate(["rows"]).await.unwrap();
    let late = begin(&cache, get("/t/watch")).await;
    let late = tokio::spawn(late);
    let (source, response) = running_response();
    within(next_call(&mut handle)).await.1.send_response(response);
    source.send("new");
    drop(source);
    assert_eq!(text(within(late).await.unwrap().unwrap()).await, "new");
}

#[tokio::test]
async fn request_after_the_lifetime_joins_no_running_body() {
    for (rule, control) in rules() {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let (cache, mut handle) = mocked::<ChannelBody>(&CacheLayer::new(store).rules(one_rule(rule)));
        let answer = |mut response: Response<ChannelBody>| {
            if let Some(control) = control {
                response.headers_mut().insert("cache-control", control.parse().unwrap());
            }
            response
        };
        let leader = begin(&cache, get("/t/watch")).await;
        let (old, response) = running_response();
        within(next_call(&mut handle)).await.1.send_response(answer(response));
        let mut leader = opened(within(leader).await.unwrap());
        old.send("old");
        clock.advance(MINUTE);
        // Both requests share one new call, and the old one goes on.
        let late = [begin(&cache, get("/t/watch")).await, begin(&cache, get("/t/watch")).await].map(tokio::spawn);
        let (new, response) = running_response();
        within(next_call(&mut handle)).await.1.send_response(answer(response));
        new.send("new");
        drop(new);
        for late in late {
            assert_eq!(text(within(late).await.unwrap().unwrap()).await, "new", "{control:?}");
        }
        assert_eq!(within(piece(&mut leader)).await.unwrap().unwrap(), "old");
        no_call(&mut handle).await;
    }
}

#[tokio::test]
async fn follower_of_a_failed_running_body_gets_an_error() {
    let (store, layer) = caching(Rule::ttl(MINUTE));
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/watch")).await;
    let follower = begin(&cache, get("/t/watch")).await;
    let (source, response) = running_response();
    within(next_call(&mut handle)).await.1.send_response(response);
    let mut leader = opened(within(leader).await.unwrap());
    let mut follower = opened(within(follower).await.unwrap());
    source.send("one");
    source.fail("the disk is gone");
    for (body, words) in [(&mut leader, "the disk is gone"), (&mut follower, "broke off")] {
        assert_eq!(within(piece(body)).await.unwrap().unwrap(), "one");
        let error = within(piece(body)).await.expect("no clean end").unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(store.stats().stored, 0);
}

/// An endless body of frames without data.
struct EmptyFrames;

impl http_body::Body for EmptyFrames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::new()))))
    }
}

#[tokio::test]
async fn frames_without_data_block_no_thread() {
    let (store, layer) = caching(Rule::ttl(MINUTE));
    let (cache, mut handle) = mocked::<EmptyFrames>(&layer.fill_limit(Duration::from_millis(1)));
    let leader = begin(&cache, get("/t/hollow")).await;
    within(next_call(&mut handle)).await.1.send_response(Response::new(EmptyFrames));
    let response = within(leader).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(response);
    // The body would never end, so the fill is dropped.
    eventually(|| not_stored(&store, NoStore::Truncated) == 1).await;
}

/// The body ends before, or after, the length of its size hint.
#[tokio::test]
async fn body_unlike_its_size_hint_is_not_stored() {
    for hint in [2, 10] {
        for at_once in [true, false] {
            let (store, layer) = caching(Rule::ttl(MINUTE));
            let (cache, mut handle) = mocked::<ChannelBody>(&layer);
            let leader = begin(&cache, get("/t/short")).await;
            let (source, body) = channel_body(Some(hint));
            let answer = within(next_call(&mut handle)).await.1;
            if at_once {
                source.send("12345");
                drop(source);
                answer.send_response(Response::new(body));
                assert_eq!(text(within(leader).await.unwrap()).await, "12345");
            } else {
                answer.send_response(Response::new(body));
                let response = within(leader).await.unwrap();
                source.send("12345");
                drop(source);
                assert_eq!(text(response).await, "12345");
            }
            assert_eq!((store.stats().stored, not_stored(&store, NoStore::Truncated)), (0, 1), "{hint}, {at_once}");
        }
    }
}
