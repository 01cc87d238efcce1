//! Bodies on their way through the cache: when they begin, how they end, who hears them, and which of them are kept.

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

use crate::common::*;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{
    BoxError, Bypass, CacheLayer, CacheStatus, Clock, Memory, Miss, NoStore, Outcome, Rule, Stale, Stats, Store, Storing,
};

fn caching(rule: Rule) -> (Memory, CacheLayer) {
    let store = Memory::new(16 << 20);
    (store.clone(), CacheLayer::new(store).rules(one_rule(rule)))
}

fn minute() -> (Memory, CacheLayer) {
    caching(Rule::ttl(MINUTE))
}

/// A response with this body, and with the announced length where there is one.
fn with_length<B>(body: B, length: Option<u64>) -> Response<B> {
    let mut response = Response::new(body);
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

fn storing<B>(response: &Response<B>) -> Storing {
    let status = response.extensions().get::<CacheStatus>().expect("a rule covers the request");
    status.stored().expect("the inner service was asked")
}

/// Reads to the end: what came, and the words of the error if there was one.
async fn heard<B>(response: Response<B>) -> (String, Option<String>)
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let mut body = opened(response);
    let mut all = String::new();
    while let Some(next) = piece(&mut body).await {
        match next {
            Ok(data) => all += &data,
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

fn stats(store: &Memory) -> Stats {
    store.stats()
}

/// How many responses were not stored for this reason.
fn not_stored(store: &Memory, why: NoStore) -> u64 {
    stats(store).not_stored.iter().find(|(reason, _)| *reason == why).expect("every reason is listed").1
}

// ---- Event streams ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn server_sent_events_begin_at_once_and_are_never_stored() {
    for kind in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
        let (store, layer) = minute();
        let (cache, mut hand) = in_hand::<Tapped>(&layer);
        let leader = start(&cache, get("/t/events")).await;
        let follower = tokio::spawn(start(&cache, get("/t/events")).await);

        let (tap, body) = tapped(None);
        let events = |body| {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
            response
        };
        within(next_call(&mut hand)).await.1.send_response(events(body));
        let response = within(leader).await.unwrap();
        assert_eq!(storing(&response), Storing::Not(NoStore::EventStream));
        let mut stream = opened(response);
        tap.send("data: one\n\n");
        assert_eq!(within(piece(&mut stream)).await.unwrap().unwrap(), "data: one\n\n", "the stream is still open");
        tap.send("data: two\n\n");
        assert_eq!(within(piece(&mut stream)).await.unwrap().unwrap(), "data: two\n\n");

        // Who waited gets a stream of its own, while the first is still open.
        let (own, body) = tapped(None);
        within(next_call(&mut hand)).await.1.send_response(events(body));
        let mut another = opened(within(follower).await.unwrap().unwrap());
        own.send("data: other\n\n");
        assert_eq!(within(piece(&mut another)).await.unwrap().unwrap(), "data: other\n\n");

        drop(tap);
        assert!(within(piece(&mut stream)).await.is_none());
        assert_eq!(stats(&store).stored, 0);
        let _third = start(&cache, get("/t/events")).await;
        within(next_call(&mut hand)).await;
    }
}

#[tokio::test]
async fn an_event_stream_that_its_client_leaves_is_left_by_the_cache_at_once() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let leader = start(&cache, get("/t/events")).await;
    let (tap, body) = tapped(None);
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, "text/event-stream".parse().unwrap());
    within(next_call(&mut hand)).await.1.send_response(response);
    drop(within(leader).await.unwrap());
    assert!(tap.is_dropped());
}

// ---- Trailers --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn trailers_of_an_uncacheable_post_pass() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let call = start(&cache, post("/t/rpc")).await;
    let (tap, body) = tapped(None);
    within(next_call(&mut hand)).await.1.send_response(Response::new(body));
    let response = within(call).await.unwrap();
    assert_eq!(outcome(&response), Outcome::Bypass(Bypass::Method));

    tap.send("message");
    tap.trailers("grpc-status", "0");
    drop(tap);
    let whole = within(response.into_body().collect()).await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), "message");
}

/// A server over HTTP/1 announces an exact length with `Content-Length`, and then has no place for trailers.
#[tokio::test]
async fn a_hit_with_trailers_does_not_announce_an_exact_length() {
    let (_, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let first = start(&cache, get("/t/a")).await;
    let (tap, body) = tapped(None);
    tap.send("rows");
    tap.trailers("x-sum", "9");
    drop(tap);
    next_call(&mut hand).await.1.send_response(Response::new(body));
    drop(within(first).await.unwrap());
    let hit = within(start(&cache, get("/t/a")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert_eq!((hit.body().size_hint().exact(), hit.body().size_hint().lower()), (None, 4));
    assert_eq!(hit.into_body().collect().await.unwrap().trailers().unwrap()["x-sum"], "9");
}

#[tokio::test]
async fn trailers_of_a_get_reach_leader_follower_and_hit() {
    for at_once in [true, false] {
        for length in [None, Some(7)] {
            let (_store, layer) = minute();
            let (cache, mut hand) = in_hand::<Tapped>(&layer);
            let leader = tokio::spawn(start(&cache, get("/t/rpc")).await);
            let follower = tokio::spawn(start(&cache, get("/t/rpc")).await);
            let (tap, body) = tapped(length);
            let answer = within(next_call(&mut hand)).await.1;
            let finish = || {
                tap.send("message");
                tap.trailers("grpc-status", "0");
            };
            if at_once {
                finish();
                drop(tap);
                answer.send_response(Response::new(body));
            } else {
                answer.send_response(Response::new(body));
                tap.send("");
                eventually(|| leader.is_finished()).await;
                finish();
                drop(tap);
            }
            let responses = [
                within(leader).await.unwrap().unwrap(),
                within(follower).await.unwrap().unwrap(),
                within(start(&cache, get("/t/rpc")).await).await.unwrap(),
            ];
            for (response, who) in responses.into_iter().zip(["leader", "follower", "hit"]) {
                let how = format!("{who}, at once: {at_once}, length: {length:?}");
                let whole = within(response.into_body().collect()).await.unwrap();
                let trailers = whole.trailers().unwrap_or_else(|| panic!("no trailers: {how}"));
                assert_eq!(trailers["grpc-status"], "0", "{how}");
                assert_eq!(whole.to_bytes(), "message", "{how}");
            }
        }
    }
}

// ---- The first byte --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_first_byte_does_not_wait_for_the_last() {
    for length in [None, Some(6)] {
        let (_store, layer) = minute();
        let (cache, mut hand) = in_hand::<Tapped>(&layer);
        let leader = start(&cache, get("/t/slow")).await;
        let (tap, body) = tapped(None);
        within(next_call(&mut hand)).await.1.send_response(with_length(body, length));
        // Not even the first byte is waited for before the head goes out.
        let response = within(leader).await.unwrap();
        assert_eq!(storing(&response), Storing::Pending);
        let mut body = opened(response);
        tap.send("one");
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
        tap.send("two");
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "two");
        drop(tap);
        assert!(within(piece(&mut body)).await.is_none());
    }
}

#[tokio::test]
async fn a_follower_hears_the_first_byte_before_the_last_if_the_length_is_known() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let leader = start(&cache, get("/t/slow")).await;
    let early = start(&cache, get("/t/slow")).await;
    let (tap, body) = tapped(None);
    within(next_call(&mut hand)).await.1.send_response(with_length(body, Some(6)));
    let _leader = within(leader).await.unwrap();
    tap.send("one");

    // Both who came before the response and who comes in the middle of its body.
    let late = start(&cache, get("/t/slow")).await;
    let mut bodies = Vec::new();
    for follower in [early, late] {
        let response = within(follower).await.unwrap();
        assert_eq!(outcome(&response), Outcome::Collapsed);
        let mut body = opened(response);
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
        bodies.push(body);
    }
    tap.send("two");
    drop(tap);
    for mut body in bodies {
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "two");
        assert!(within(piece(&mut body)).await.is_none());
    }
}

// ---- Complete at once ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_body_that_is_complete_at_once_is_stored_although_nobody_polls_it() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer);
    let leader = start(&cache, get("/t/full")).await;
    within(next_call(&mut hand)).await.1.send_response(ok("rows"));
    let response = within(leader).await.unwrap();
    assert_eq!(storing(&response), Storing::Stored);
    drop(response);
    let hit = within(start(&cache, get("/t/full")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert_eq!(text(hit).await, "rows");
}

#[tokio::test]
async fn an_empty_body_is_stored_although_nobody_polls_it() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Empty<Bytes>>(&layer);
    let leader = start(&cache, get("/t/empty")).await;
    within(next_call(&mut hand)).await.1.send_response(Response::new(Empty::new()));
    let response = within(leader).await.unwrap();
    assert_eq!(storing(&response), Storing::Stored);
    assert!(response.body().is_end_stream());
    drop(response);
    let hit = within(start(&cache, get("/t/empty")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert!(hit.body().is_end_stream());
    assert_eq!(text(hit).await, "");
}

#[tokio::test]
async fn a_body_that_streams_is_stored_although_its_client_stops_at_the_last_byte() {
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let leader = start(&cache, get("/t/slow")).await;
    let (tap, body) = tapped(None);
    within(next_call(&mut hand)).await.1.send_response(with_length(body, Some(3)));
    let mut body = opened(within(leader).await.unwrap());
    tap.send("one");
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
    drop((body, tap));
    eventually(|| stats(&store).stored == 1).await;
    let hit = within(start(&cache, get("/t/slow")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
}

#[tokio::test]
async fn a_large_body_that_is_complete_at_once_is_not_copied() {
    for shared in [false, true] {
        let (_store, layer) = minute();
        let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer);
        let data = Bytes::from(vec![b'x'; 256 << 10]);
        let place = data.as_ptr();
        let kept = shared.then(|| data.clone());
        let leader = start(&cache, get("/t/large")).await;
        within(next_call(&mut hand)).await.1.send_response(ok(data));
        let miss = within(leader).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(miss.as_ptr(), place, "the miss, shared: {shared}");
        for _ in 0..2 {
            let hit = within(start(&cache, get("/t/large")).await).await.unwrap();
            assert_eq!(outcome(&hit), Outcome::Hit);
            let hit = hit.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(hit.as_ptr(), place, "a hit, shared: {shared}");
        }
        drop(kept);
    }
}

#[tokio::test]
async fn a_small_slice_of_a_large_buffer_does_not_keep_the_buffer() {
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer);
    let buffer = Bytes::from(vec![b'x'; 256 << 10]);
    let leader = start(&cache, get("/t/slice")).await;
    within(next_call(&mut hand)).await.1.send_response(ok(buffer.slice(..16)));
    drop(within(leader).await.unwrap());
    assert_eq!(stats(&store).stored, 1);
    assert!(buffer.is_unique(), "the store holds on to the whole buffer");
}

// ---- What is not stored ----------------------------------------------------------------------------------------------

/// How a body is given to the cache.
#[derive(Debug, Clone, Copy)]
struct Shape {
    content_length: Option<u64>,
    hint: Option<u64>,
    pieces: &'static [&'static str],
    /// The words of the error that it ends with.
    fails: Option<&'static str>,
}

const SHAPE: Shape = Shape { content_length: None, hint: None, pieces: &[], fails: None };

/// Lets a body of this shape pass, there at once and bit by bit: it must reach the client as it is, and not be stored.
async fn passes_unstored(shape: Shape, rule: Rule, why: NoStore) {
    for at_once in [true, false] {
        let how = format!("{shape:?}, at once: {at_once}");
        let (store, layer) = caching(rule.clone());
        let (cache, mut hand) = in_hand::<Tapped>(&layer);
        let leader = start(&cache, get("/t/odd")).await;
        let (tap, body) = tapped(shape.hint);
        let answer = within(next_call(&mut hand)).await.1;
        let give = || {
            shape.pieces.iter().for_each(|piece| tap.send(*piece));
            shape.fails.iter().for_each(|words| tap.fail(words));
        };
        let response = if at_once {
            give();
            drop(tap);
            answer.send_response(with_length(body, shape.content_length));
            within(leader).await.unwrap()
        } else {
            answer.send_response(with_length(body, shape.content_length));
            let response = within(leader).await.unwrap();
            give();
            drop(tap);
            response
        };
        assert_eq!(response.status(), 200, "{how}");
        let (all, error) = within(heard(response)).await;
        assert_eq!(all, shape.pieces.concat(), "{how}");
        assert_eq!(error.as_deref(), shape.fails, "{how}");
        eventually(|| not_stored(&store, why) == 1).await;
        assert_eq!(stats(&store).stored, 0, "{how}");
        assert_eq!(stats(&store).entries, 0, "{how}");
        let _next = start(&cache, get("/t/odd")).await;
        within(next_call(&mut hand)).await;
    }
}

#[tokio::test]
async fn a_body_over_the_limit_passes_whole_and_is_not_stored() {
    let small = || Rule::ttl(MINUTE).max_body(8);
    let shapes = [
        Shape { content_length: Some(10), pieces: &["0123456789"], ..SHAPE },
        Shape { content_length: Some(10), pieces: &["01234", "56789"], ..SHAPE },
        Shape { hint: Some(10), pieces: &["01234", "56789"], ..SHAPE },
        Shape { pieces: &["0123456789"], ..SHAPE },
        Shape { pieces: &["01234567", "8"], ..SHAPE },
        Shape { pieces: &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"], ..SHAPE },
        // An error beyond the limit is the client's to see, too.
        Shape { pieces: &["01234", "56789"], fails: Some("the disk is gone"), ..SHAPE },
    ];
    for shape in shapes {
        passes_unstored(shape, small(), NoStore::TooLarge).await;
    }
}

#[tokio::test]
async fn a_body_just_at_the_limit_is_stored() {
    let (store, layer) = caching(Rule::ttl(MINUTE).max_body(8));
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    for (target, at_once) in [("/t/a", true), ("/t/b", false)] {
        let leader = start(&cache, get(target)).await;
        let (tap, body) = tapped(None);
        let answer = within(next_call(&mut hand)).await.1;
        if at_once {
            ["0123", "4567"].iter().for_each(|data| tap.send(*data));
            drop(tap);
            answer.send_response(Response::new(body));
            drop(within(leader).await.unwrap());
        } else {
            answer.send_response(Response::new(body));
            let _response = within(leader).await.unwrap();
            ["0123", "4567"].iter().for_each(|data| tap.send(*data));
            drop(tap);
        }
        let hit = within(start(&cache, get(target)).await).await.unwrap();
        assert_eq!(text(hit).await, "01234567");
    }
    assert_eq!(stats(&store).inner_calls, 2);
}

#[tokio::test]
async fn a_truncated_body_is_not_stored() {
    for pieces in [&["0123456789"][..], &["01234", "56789"], &[]] {
        for announced in [4, 11] {
            let shape = Shape { content_length: Some(announced), pieces, ..SHAPE };
            passes_unstored(shape, Rule::ttl(MINUTE), NoStore::Truncated).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_is_not_stored_and_its_error_reaches_the_client() {
    for pieces in [&["01234", "56789"][..], &[]] {
        for length in [None, Some(20)] {
            let shape = Shape { content_length: length, pieces, fails: Some("the disk is gone"), ..SHAPE };
            passes_unstored(shape, Rule::ttl(MINUTE), NoStore::BodyError).await;
        }
    }
}

#[tokio::test]
async fn followers_of_a_body_that_is_not_stored_go_alone() {
    let shapes =
        [Shape { pieces: &["01234", "56789"], ..SHAPE }, Shape { pieces: &["0123"], fails: Some("the disk is gone"), ..SHAPE }];
    for shape in shapes {
        for at_once in [true, false] {
            let (store, layer) = caching(Rule::ttl(MINUTE).max_body(8));
            let (cache, mut hand) = in_hand::<Tapped>(&layer);
            let leader = start(&cache, get("/t/odd")).await;
            let followers = [start(&cache, get("/t/odd")).await, start(&cache, get("/t/odd")).await].map(tokio::spawn);
            let (tap, body) = tapped(None);
            let answer = within(next_call(&mut hand)).await.1;
            let give = || {
                shape.pieces.iter().for_each(|piece| tap.send(*piece));
                shape.fails.iter().for_each(|words| tap.fail(words));
            };
            if at_once {
                give();
                answer.send_response(Response::new(body));
            } else {
                answer.send_response(Response::new(body));
                eventually(|| stats(&store).inner_calls == 1).await;
                give();
            }
            // All at once, not one after the other: the calls overlap, and the leader need not have read anything.
            let first = within(next_call(&mut hand)).await.1;
            let second = within(next_call(&mut hand)).await.1;
            for (answer, own) in [(first, "own one"), (second, "own two")] {
                let (tap, body) = tapped(None);
                tap.send(own);
                answer.send_response(Response::new(body));
            }
            let mut heard_by = Vec::new();
            for follower in followers {
                let response = within(follower).await.unwrap().unwrap();
                assert_eq!(outcome(&response), Outcome::Miss(Miss::NotShared));
                heard_by.push(within(text(response)).await);
            }
            heard_by.sort();
            assert_eq!(heard_by, ["own one", "own two"]);
            drop(tap);
            let (all, error) = within(heard(within(leader).await.unwrap())).await;
            assert_eq!((all, error.as_deref()), (shape.pieces.concat(), shape.fails));
        }
    }
}

#[tokio::test]
async fn a_follower_never_takes_a_broken_body_for_a_whole_one() {
    // Whatever had come: nothing, or a part.
    for pieces in [&[][..], &["0123"]] {
        for failure in [Some("the disk is gone"), None] {
            let (store, layer) = minute();
            let (cache, mut hand) = in_hand::<Tapped>(&layer);
            let leader = start(&cache, get("/t/odd")).await;
            let follower = start(&cache, get("/t/odd")).await;
            let (tap, body) = tapped(None);
            within(next_call(&mut hand)).await.1.send_response(with_length(body, Some(10)));
            let _leader = within(leader).await.unwrap();
            let response = within(follower).await.unwrap();
            assert_eq!(outcome(&response), Outcome::Collapsed);
            let mut body = opened(response);
            pieces.iter().for_each(|piece| tap.send(*piece));
            failure.iter().for_each(|words| tap.fail(words));
            drop(tap);
            for data in pieces {
                assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), *data);
            }
            let end = within(piece(&mut body)).await;
            match failure {
                Some(_) => assert!(end.expect("no clean end").is_err()),
                // Cut short without a word: the server sees that the announced length is not reached.
                None => assert!(end.is_none_or(|end| end.is_err()) && body.size_hint().exact() != Some(10)),
            }
            assert_eq!(stats(&store).stored, 0);
        }
    }
}

#[tokio::test]
async fn a_follower_is_not_cut_off_because_too_much_is_in_flight() {
    let store = Memory::new(16 << 20);
    let layer = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).max_buffered_bytes(8);
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let leader = tokio::spawn(start(&cache, get("/t/large")).await);
    let follower = tokio::spawn(start(&cache, get("/t/large")).await);
    // What the follower gets, shared or its own, is whole.
    let feed = tokio::spawn(async move {
        while let Some((_, answer)) = hand.next_request().await {
            let (tap, body) = tapped(None);
            answer.send_response(with_length(body, Some(12)));
            for data in ["0123", "4567", "89ab"] {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                tap.send(data);
            }
        }
    });
    for client in [leader, follower] {
        let response = within(client).await.unwrap().unwrap();
        assert_eq!(within(heard(response)).await, ("0123456789ab".to_owned(), None));
    }
    drop(cache);
    within(feed).await.unwrap();
    assert_eq!(stats(&store).stored, 0);
}

// ---- Who leaves, who is slow -----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_that_leaves_during_the_inner_call_takes_nothing_from_the_rest() {
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let mut leader = start(&cache, get("/t/rows")).await;
    assert!(polled(&mut leader).is_pending());
    let before = start(&cache, get("/t/rows")).await;
    let answer = within(next_call(&mut hand)).await.1;
    drop(leader);
    let after = start(&cache, get("/t/rows")).await;
    let (tap, body) = tapped(None);
    answer.send_response(Response::new(body));
    tap.send("one");
    tap.send("two");
    drop(tap);
    for follower in [before, after] {
        assert_eq!(text(within(follower).await.unwrap()).await, "onetwo");
    }
    assert_eq!(stats(&store).inner_calls, 1);
    assert_eq!(stats(&store).stored, 1);
}

#[tokio::test]
async fn a_call_whose_only_client_leaves_is_finished_and_stored() {
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer);
    // Left before it was polled for the first time, and after.
    for (target, polls) in [("/t/a", 0), ("/t/b", 1)] {
        let mut leader = start(&cache, get(target)).await;
        (0..polls).for_each(|_| assert!(polled(&mut leader).is_pending()));
        let answer = within(next_call(&mut hand)).await.1;
        drop(leader);
        answer.send_response(ok("rows"));
        let hit = within(start(&cache, get(target)).await).await.unwrap();
        assert_eq!(text(hit).await, "rows");
    }
    assert_eq!(stats(&store).inner_calls, 2);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_the_body_takes_nothing_from_the_rest() {
    for length in [None, Some(9)] {
        let (store, layer) = minute();
        let (cache, mut hand) = in_hand::<Tapped>(&layer);
        let leader = start(&cache, get("/t/rows")).await;
        let before = tokio::spawn(start(&cache, get("/t/rows")).await);
        let (tap, body) = tapped(None);
        within(next_call(&mut hand)).await.1.send_response(with_length(body, length));
        let mut leading = opened(within(leader).await.unwrap());
        tap.send("one");
        assert_eq!(within(piece(&mut leading)).await.unwrap().unwrap(), "one");
        drop(leading);
        tap.send("two");
        let after = tokio::spawn(start(&cache, get("/t/rows")).await);
        tap.send("six");
        drop(tap);
        for follower in [before, after] {
            assert_eq!(text(within(follower).await.unwrap().unwrap()).await, "onetwosix", "length {length:?}");
        }
        assert_eq!(stats(&store).inner_calls, 1);
        let hit = within(start(&cache, get("/t/rows")).await).await.unwrap();
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, "onetwosix"));
    }
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up() {
    for length in [None, Some(6)] {
        let (store, layer) = minute();
        let (cache, mut hand) = in_hand::<Tapped>(&layer);
        let leader = start(&cache, get("/t/rows")).await;
        let slow = tokio::spawn(start(&cache, get("/t/rows")).await);
        let quick = tokio::spawn(start(&cache, get("/t/rows")).await);
        let (tap, body) = tapped(None);
        within(next_call(&mut hand)).await.1.send_response(with_length(body, length));
        let unread = within(leader).await.unwrap();
        tap.send("one");
        tap.send("two");
        drop(tap);
        let slow = within(slow).await.unwrap().unwrap();
        assert_eq!(text(within(quick).await.unwrap().unwrap()).await, "onetwo");
        eventually(|| stats(&store).stored == 1).await;
        let hit = within(start(&cache, get("/t/rows")).await).await.unwrap();
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, "onetwo"));
        // They find all of it when they come to it.
        assert_eq!(text(unread).await, "onetwo");
        assert_eq!(text(slow).await, "onetwo");
    }
}

#[tokio::test]
async fn a_leader_that_is_never_polled_holds_up_no_follower() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer);
    let idle = start(&cache, get("/t/rows")).await;
    let follower = start(&cache, get("/t/rows")).await;
    within(next_call(&mut hand)).await.1.send_response(ok("rows"));
    assert_eq!(text(within(follower).await.unwrap()).await, "rows");
    assert_eq!(text(within(idle).await.unwrap()).await, "rows");
}

#[tokio::test]
async fn a_follower_that_leaves_ends_nothing() {
    for length in [None, Some(6)] {
        let (store, layer) = minute();
        let (cache, mut hand) = in_hand::<Tapped>(&layer);
        let leader = start(&cache, get("/t/rows")).await;
        let mut follower = start(&cache, get("/t/rows")).await;
        assert!(polled(&mut follower).is_pending());
        let (tap, body) = tapped(None);
        within(next_call(&mut hand)).await.1.send_response(with_length(body, length));
        let leader = within(leader).await.unwrap();
        tap.send("one");
        let heard = polled(&mut follower).map(|response| opened(response.unwrap()));
        drop((follower, heard));
        tap.send("two");
        drop(tap);
        assert_eq!(within(text(leader)).await, "onetwo");
        assert_eq!(stats(&store).stored, 1);
    }
}

// ---- Fills without an end --------------------------------------------------------------------------------------------

/// Says when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An inner service that never answers, with the counts of its calls and of those that were given up.
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
async fn a_call_nobody_wants_is_given_up_after_the_fill_limit() {
    let (_store, layer) = minute();
    let (inner, calls, ended) = never();
    let cache = layer.fill_limit(5 * SECOND).layer(inner);
    drop(start(&cache, get("/t/rows")).await);
    eventually(|| calls.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(ended.load(Ordering::SeqCst), 0, "before the limit");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(ended.load(Ordering::SeqCst), 1, "after the limit");
    // The key is free again.
    let _next = start(&cache, get("/t/rows")).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_nobody_wants_is_given_up_after_the_fill_limit() {
    for length in [None, Some(100)] {
        let (store, layer) = minute();
        let (cache, mut hand) = in_hand::<Tapped>(&layer.fill_limit(5 * SECOND));
        let leader = start(&cache, get("/t/rows")).await;
        let (tap, body) = tapped(None);
        next_call(&mut hand).await.1.send_response(with_length(body, length));
        let leader = leader.await.unwrap();
        tap.send("one");
        // As long as somebody listens it goes on, however long that takes.
        tokio::time::sleep(30 * SECOND).await;
        assert!(!tap.is_dropped());
        drop(leader);
        tokio::time::sleep(11 * SECOND).await;
        assert!(tap.is_dropped());
        assert_eq!(stats(&store).stored, 0);
        let _next = start(&cache, get("/t/rows")).await;
        next_call(&mut hand).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_follower_waits_for_is_not_given_up() {
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer.fill_limit(5 * SECOND).wait_limit(MINUTE));
    let leader = start(&cache, get("/t/rows")).await;
    let follower = tokio::spawn(start(&cache, get("/t/rows")).await);
    let answer = next_call(&mut hand).await.1;
    drop(leader);
    tokio::time::sleep(12 * SECOND).await;
    answer.send_response(ok("rows"));
    let response = within(follower).await.unwrap().unwrap();
    assert_eq!(outcome(&response), Outcome::Collapsed);
    assert_eq!(text(response).await, "rows");
    assert_eq!(stats(&store).inner_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_that_a_follower_waits_for_is_not_given_up() {
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer.fill_limit(5 * SECOND).wait_limit(MINUTE));
    let leader = start(&cache, get("/t/rows")).await;
    let follower = tokio::spawn(start(&cache, get("/t/rows")).await);
    let (tap, body) = tapped(None);
    next_call(&mut hand).await.1.send_response(Response::new(body));
    drop(leader.await.unwrap());
    tap.send("one");
    tokio::time::sleep(12 * SECOND).await;
    tap.send("two");
    drop(tap);
    let response = within(follower).await.unwrap().unwrap();
    assert_eq!(outcome(&response), Outcome::Collapsed);
    assert_eq!(text(response).await, "onetwo");
    assert_eq!(stats(&store).inner_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_background_refresh_without_an_end_is_given_up_after_the_fill_limit() {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(1 << 20).clock(clock.clone()).build();
    let rule = Rule::ttl(MINUTE).stale_while_revalidate(60 * MINUTE);
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&CacheLayer::new(store).rules(one_rule(rule)).fill_limit(5 * SECOND));
    let first = start(&cache, get("/t/rows")).await;
    next_call(&mut hand).await.1.send_response(ok("old"));
    drop(first.await.unwrap());

    clock.advance(2 * MINUTE);
    let stale = start(&cache, get("/t/rows")).await.await.unwrap();
    assert_eq!(outcome(&stale), Outcome::Stale(Stale::WhileRevalidate));
    let never_answered = next_call(&mut hand).await;
    tokio::time::sleep(10 * SECOND).await;
    let stale = start(&cache, get("/t/rows")).await.await.unwrap();
    assert_eq!(outcome(&stale), Outcome::Stale(Stale::WhileRevalidate));
    let again = tokio::time::timeout(SECOND, next_call(&mut hand)).await.expect("another refresh is begun");
    again.1.send_response(ok("new"));
    eventually(|| {
        let Poll::Ready(Ok(response)) = polled(&mut Box::pin(cache.clone().oneshot(get("/t/rows")))) else { return false };
        outcome(&response) == Outcome::Hit
    })
    .await;
    drop(never_answered);
}

// ---- Panics ----------------------------------------------------------------------------------------------------------

/// An inner service that panics in its first call, once it is told to, and answers all others.
fn panics_first(
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
async fn a_panic_reaches_the_leader_and_blocks_no_key() {
    let (store, layer) = minute();
    let go = Arc::new(Notify::new());
    let cache = layer.layer(panics_first(go.clone()));
    let leader = tokio::spawn(start(&cache, get("/t/rows")).await);
    go.notify_one();
    assert!(within(leader).await.unwrap_err().is_panic());
    assert_eq!(text(within(send(&cache, get("/t/rows"))).await).await, "call 2");
    assert_eq!(stats(&store).inner_calls, 2);
}

#[tokio::test]
async fn those_who_wait_for_a_call_that_panics_elect_another() {
    let (store, layer) = minute();
    let go = Arc::new(Notify::new());
    let cache = layer.layer(panics_first(go.clone()));
    let leader = tokio::spawn(start(&cache, get("/t/rows")).await);
    let mut followers = Vec::new();
    for _ in 0..10 {
        followers.push(tokio::spawn(start(&cache, get("/t/rows")).await));
    }
    go.notify_one();
    assert!(within(leader).await.unwrap_err().is_panic(), "also when followers have moved the call to a task");
    for follower in followers {
        assert_eq!(text(within(follower).await.unwrap().unwrap()).await, "call 2");
    }
    assert_eq!(stats(&store).inner_calls, 2);
}

#[tokio::test]
async fn those_who_wait_for_a_call_that_panics_after_its_client_left_elect_another() {
    let (_store, layer) = minute();
    let go = Arc::new(Notify::new());
    let cache = layer.layer(panics_first(go.clone()));
    let leader = start(&cache, get("/t/rows")).await;
    let follower = start(&cache, get("/t/rows")).await;
    drop(leader);
    go.notify_one();
    assert_eq!(text(within(follower).await.unwrap()).await, "call 2");
}

#[tokio::test]
async fn a_background_refresh_that_panics_blocks_no_key() {
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
    assert_eq!(stats(&store).refreshes, 2);
}

/// A body that gives one piece, then waits, then panics.
struct Panics {
    first: Option<Bytes>,
    go: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Body for Panics {
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
async fn a_body_that_panics_ends_with_an_error_for_all_who_hear_it() {
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Panics>(&layer);
    let leader = start(&cache, get("/t/rows")).await;
    let follower = start(&cache, get("/t/rows")).await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let body = Panics { first: Some("one".into()), go: Box::pin(async { wait.await.unwrap_or_default() }) };
    within(next_call(&mut hand)).await.1.send_response(with_length(body, Some(6)));
    let responses = [within(leader).await.unwrap(), within(follower).await.unwrap()];
    go.send(()).unwrap();
    for response in responses {
        let (all, error) = within(heard(response)).await;
        assert_eq!(all, "one");
        assert!(error.is_some());
    }
    assert_eq!(stats(&store).stored, 0);
    let _next = start(&cache, get("/t/rows")).await;
    within(next_call(&mut hand)).await;
}

// ---- Never empty -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_follower_never_sees_an_empty_body_in_place_of_the_response() {
    // A HEAD that is answered with nothing, while a GET is under way, and before and after it.
    let (store, layer) = minute();
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer);
    let head = || Request::head("/t/rows").body(Plain::default()).unwrap();
    let before = start(&cache, head()).await;
    let leader = start(&cache, get("/t/rows")).await;
    let during = start(&cache, head()).await;
    let follower = start(&cache, get("/t/rows")).await;
    for _ in 0..3 {
        let (request, answer) = within(next_call(&mut hand)).await;
        answer.send_response(ok(if request.method() == "HEAD" { "" } else { "rows" }));
    }
    for (call, expected) in [(before, ""), (during, ""), (leader, "rows"), (follower, "rows")] {
        assert_eq!(text(within(call).await.unwrap()).await, expected);
    }
    assert_eq!(stats(&store).stored, 1);
    let hit = within(start(&cache, head()).await).await.unwrap();
    assert_eq!((outcome(&hit), hit.headers()[header::CONTENT_LENGTH].to_str().unwrap()), (Outcome::Hit, "4"));
    assert_eq!(text(within(start(&cache, get("/t/rows")).await).await.unwrap()).await, "rows");
}

#[tokio::test]
async fn followers_of_a_call_that_fails_get_a_response_of_their_own() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Full<Bytes>>(&layer);
    let leader = start(&cache, get("/t/rows")).await;
    let follower = tokio::spawn(start(&cache, get("/t/rows")).await);
    within(next_call(&mut hand)).await.1.send_error("no connection");
    assert_eq!(within(leader).await.unwrap_err().to_string(), "no connection");
    within(next_call(&mut hand)).await.1.send_response(ok("rows"));
    assert_eq!(text(within(follower).await.unwrap().unwrap()).await, "rows");
}

#[tokio::test]
async fn the_length_that_is_left_of_a_body_is_never_more_than_what_will_come() {
    let (_store, layer) = minute();
    let (cache, mut hand) = in_hand::<Tapped>(&layer);
    let leader = start(&cache, get("/t/rows")).await;
    let follower = start(&cache, get("/t/rows")).await;
    let (tap, body) = tapped(None);
    within(next_call(&mut hand)).await.1.send_response(with_length(body, Some(6)));
    let mut bodies = [opened(within(leader).await.unwrap()), opened(within(follower).await.unwrap())];
    bodies.iter().for_each(|body| assert_eq!(body.size_hint().exact(), Some(6)));
    tap.send("one");
    for body in &mut bodies {
        within(piece(body)).await.unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(3));
    }
    tap.send("two");
    drop(tap);
    for body in &mut bodies {
        within(piece(body)).await.unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
