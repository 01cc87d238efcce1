//! Requests for a response whose body is still running: they share it as it comes, and no end has to be waited for.

use crate::common::*;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tower_response_cache::{CacheLayer, Clock, Memory, Miss, NoStore, Outcome, Rule, Store};

fn layer(store: &Memory, rule: Rule) -> CacheLayer {
    CacheLayer::new(store.clone()).rules(one_rule(rule))
}

/// How many responses were not stored for this reason.
fn not_stored(store: &Memory, why: NoStore) -> u64 {
    store.stats().not_stored.iter().find(|(reason, _)| *reason == why).expect("every reason is listed").1
}

/// Forever a little more: no length is announced.
fn rows() -> (Tap, Response<Tapped>) {
    let (tap, body) = tapped(None);
    (tap, Response::new(body))
}

fn rules() -> [(Rule, Option<&'static str>); 2] {
    [(Rule::ttl(MINUTE), None), (Rule::http(), Some("max-age=60"))]
}

#[tokio::test]
async fn second_client_of_an_endless_body_hears_it_as_it_comes() {
    for (rule, control) in rules() {
        let store = Memory::new(16 << 20);
        let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, rule));
        let leader = start(&cache, get("/t/watch")).await;
        let early = start(&cache, get("/t/watch")).await;
        let (tap, mut response) = rows();
        if let Some(control) = control {
            response.headers_mut().insert("cache-control", control.parse().unwrap());
        }
        within(next_call(&mut hand)).await.1.send_response(response);
        let mut leader = opened(within(leader).await.unwrap());
        tap.send("one");
        assert_eq!(within(piece(&mut leader)).await.unwrap().unwrap(), "one");

        // One that came before the response, and one that comes in the middle of its body.
        let late = start(&cache, get("/t/watch")).await;
        let mut bodies = Vec::new();
        for follower in [early, late] {
            let response = within(follower).await.unwrap();
            assert_eq!(outcome(&response), Outcome::Collapsed);
            let mut body = opened(response);
            assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
            bodies.push(body);
        }
        tap.send("two");
        for body in &mut bodies {
            assert_eq!(within(piece(body)).await.unwrap().unwrap(), "two");
        }
        no_call(&mut hand).await;
        // If it ends after all, it is stored.
        drop(tap);
        for body in &mut bodies {
            assert!(within(piece(body)).await.is_none());
        }
        let hit = within(start(&cache, get("/t/watch")).await).await.unwrap();
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, "onetwo"));
    }
}

#[tokio::test]
async fn body_that_outgrows_its_limit_reaches_its_followers_whole() {
    let store = Memory::new(16 << 20);
    let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, Rule::ttl(MINUTE).max_body(100 << 10)));
    let leader = start(&cache, get("/t/large")).await;
    let follower = start(&cache, get("/t/large")).await;
    let (tap, response) = rows();
    within(next_call(&mut hand)).await.1.send_response(response);
    let leader = within(leader).await.unwrap();
    let follower = within(follower).await.unwrap();
    assert_eq!(outcome(&follower), Outcome::Collapsed);
    let chunk = |n: u8| Bytes::from(vec![b'a' + n; 30 << 10]);
    (0..20).for_each(|n| tap.send(chunk(n)));
    tap.trailers("x-sum", "7");
    drop(tap);
    let whole: Vec<u8> = (0..20).flat_map(chunk).collect();
    // One after the other would have each of them wait for the other.
    let (one, other) = within(async { tokio::join!(text(leader), text(follower)) }).await;
    assert!(one.as_bytes() == whole && other.as_bytes() == whole);
    assert_eq!(not_stored(&store, NoStore::TooLarge), 1);
    assert_eq!(store.stats().flights, 0);
    // Who comes after that does not wait.
    let _next = start(&cache, get("/t/large")).await;
    within(next_call(&mut hand)).await;
}

#[tokio::test]
async fn body_that_outgrew_its_limit_is_joined_by_nobody() {
    let store = Memory::new(16 << 20);
    let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, Rule::ttl(MINUTE).max_body(8)));
    let leader = start(&cache, get("/t/large")).await;
    let late = start(&cache, get("/t/large")).await;
    let (tap, response) = rows();
    within(next_call(&mut hand)).await.1.send_response(response);
    let leader = within(leader).await.unwrap();
    tap.send("0123456789");
    eventually(|| not_stored(&store, NoStore::TooLarge) == 1).await;
    let (own, response) = rows();
    let late = tokio::spawn(late);
    within(next_call(&mut hand)).await.1.send_response(response);
    own.send("own");
    drop(own);
    let late = within(late).await.unwrap().unwrap();
    assert_eq!(outcome(&late), Outcome::Miss(Miss::NotShared));
    assert_eq!(text(late).await, "own");
    drop(tap);
    assert_eq!(within(text(leader)).await, "0123456789");
}

#[tokio::test]
async fn body_that_nobody_reads_any_more_is_let_go() {
    for large in [false, true] {
        let store = Memory::new(16 << 20);
        let rule = Rule::ttl(MINUTE).max_body(if large { 8 } else { 1 << 20 });
        let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, rule).fill_limit(std::time::Duration::from_millis(1)));
        let leader = start(&cache, get("/t/large")).await;
        let follower = start(&cache, get("/t/large")).await;
        let (tap, response) = rows();
        within(next_call(&mut hand)).await.1.send_response(response);
        let leader = within(leader).await.unwrap();
        let mut follower = opened(within(follower).await.unwrap());
        tap.send("0123456789");
        drop(leader);
        assert_eq!(within(piece(&mut follower)).await.unwrap().unwrap(), "0123456789");
        assert!(!tap.is_dropped(), "somebody reads it");
        drop(follower);
        within(tap.dropped()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_nothing_holds_up_others_for_a_while_only() {
    let store = Memory::new(16 << 20);
    let layer = layer(&store, Rule::ttl(MINUTE).max_body(100 << 10)).wait_limit(5 * SECOND);
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let leader = start(&cache, get("/t/large")).await;
    let follower = start(&cache, get("/t/large")).await;
    let (tap, response) = rows();
    within(next_call(&mut hand)).await.1.send_response(response);
    let leader = within(leader).await.unwrap();
    let follower = within(follower).await.unwrap();
    (0..20).for_each(|_| tap.send(vec![b'x'; 30 << 10]));
    drop(tap);
    assert_eq!(within(text(leader)).await.len(), 20 * (30 << 10));
    let error = follower.into_body().collect().await.expect_err("it was cut off");
    assert!(error.to_string().contains("too slow"), "{error}");
}

#[tokio::test]
async fn request_after_an_invalidation_does_not_join_a_running_body() {
    let store = Memory::new(16 << 20);
    let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, Rule::ttl(MINUTE).namespace("rows")));
    let leader = start(&cache, get("/t/watch")).await;
    let (tap, response) = rows();
    within(next_call(&mut hand)).await.1.send_response(response);
    let _leader = within(leader).await.unwrap();
    tap.send("old");
    store.invalidate(["rows"]).await.unwrap();
    let late = start(&cache, get("/t/watch")).await;
    let late = tokio::spawn(late);
    let (tap, response) = rows();
    within(next_call(&mut hand)).await.1.send_response(response);
    tap.send("new");
    drop(tap);
    assert_eq!(text(within(late).await.unwrap().unwrap()).await, "new");
}

#[tokio::test]
async fn request_after_the_lifetime_does_not_join_a_running_body() {
    for (rule, control) in rules() {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, rule));
        let answer = |mut response: Response<Tapped>| {
            if let Some(control) = control {
                response.headers_mut().insert("cache-control", control.parse().unwrap());
            }
            response
        };
        let leader = start(&cache, get("/t/watch")).await;
        let (old, response) = rows();
        within(next_call(&mut hand)).await.1.send_response(answer(response));
        let mut leader = opened(within(leader).await.unwrap());
        old.send("old");
        clock.advance(MINUTE);
        // Both of them share one new call, and the old one goes on.
        let late = [start(&cache, get("/t/watch")).await, start(&cache, get("/t/watch")).await].map(tokio::spawn);
        let (new, response) = rows();
        within(next_call(&mut hand)).await.1.send_response(answer(response));
        new.send("new");
        drop(new);
        for late in late {
            assert_eq!(text(within(late).await.unwrap().unwrap()).await, "new", "{control:?}");
        }
        assert_eq!(within(piece(&mut leader)).await.unwrap().unwrap(), "old");
        no_call(&mut hand).await;
    }
}

#[tokio::test]
async fn follower_of_a_body_that_breaks_off_gets_an_error() {
    let store = Memory::new(16 << 20);
    let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, Rule::ttl(MINUTE)));
    let leader = start(&cache, get("/t/watch")).await;
    let follower = start(&cache, get("/t/watch")).await;
    let (tap, response) = rows();
    within(next_call(&mut hand)).await.1.send_response(response);
    let mut leader = opened(within(leader).await.unwrap());
    let mut follower = opened(within(follower).await.unwrap());
    tap.send("one");
    tap.fail("the disk is gone");
    for (body, words) in [(&mut leader, "the disk is gone"), (&mut follower, "broke off")] {
        assert_eq!(within(piece(body)).await.unwrap().unwrap(), "one");
        let error = within(piece(body)).await.expect("no clean end").unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(store.stats().stored, 0);
}

/// Frames without data, without an end.
struct Hollow;

impl http_body::Body for Hollow {
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
async fn frames_without_data_keep_no_thread_for_themselves() {
    let store = Memory::new(16 << 20);
    let layer = layer(&store, Rule::ttl(MINUTE)).fill_limit(std::time::Duration::from_millis(1));
    let (cache, mut hand) = in_hand::<Hollow>(&layer);
    let leader = start(&cache, get("/t/hollow")).await;
    within(next_call(&mut hand)).await.1.send_response(Response::new(Hollow));
    let response = within(leader).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(response);
    // It would never end, so it is given up.
    eventually(|| not_stored(&store, NoStore::Truncated) == 1).await;
}

/// A body that ends before, or after, the length that it tells of itself.
#[tokio::test]
async fn body_that_differs_from_its_size_hint_is_not_stored() {
    for hint in [2, 10] {
        for at_once in [true, false] {
            let store = Memory::new(16 << 20);
            let (cache, mut hand) = in_hand::<Tapped>(&layer(&store, Rule::ttl(MINUTE)));
            let leader = start(&cache, get("/t/short")).await;
            let (tap, body) = tapped(Some(hint));
            let answer = within(next_call(&mut hand)).await.1;
            if at_once {
                tap.send("12345");
                drop(tap);
                answer.send_response(Response::new(body));
                assert_eq!(text(within(leader).await.unwrap()).await, "12345");
            } else {
                answer.send_response(Response::new(body));
                let response = within(leader).await.unwrap();
                tap.send("12345");
                drop(tap);
                assert_eq!(text(response).await, "12345");
            }
            assert_eq!((store.stats().stored, not_stored(&store, NoStore::Truncated)), (0, 1), "{hint}, {at_once}");
        }
    }
}
