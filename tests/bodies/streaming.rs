//! Bodies that pass while they are stored: event streams, trailers, first bytes, complete bodies, lengths.

use crate::{
    common::*,
    setup::{minute, shared_bodies, storing, with_length},
};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use tower_response_cache::{
    Outcome, Store,
    status::{Bypass, NoStore, Storing},
};

// ---- Event streams ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn server_sent_events_are_never_delayed_or_stored() {
    for kind in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
        let (store, layer) = minute();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/events")).await;
        let follower = tokio::spawn(begin(&cache, get("/t/events")).await);

        let (source, body) = channel_body(None);
        let events = |body| {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
            response
        };
        within(next_call(&mut handle)).await.1.send_response(events(body));
        let response = within(leader).await.unwrap();
        assert_eq!(storing(&response), Storing::Not(NoStore::EventStream));
        let mut stream = opened(response);
        source.send("data: one\n\n");
        assert_eq!(within(piece(&mut stream)).await.unwrap().unwrap(), "data: one\n\n", "the stream is still open");
        source.send("data: two\n\n");
        assert_eq!(within(piece(&mut stream)).await.unwrap().unwrap(), "data: two\n\n");

        // The follower gets its own stream, while the first is still open.
        let (own, body) = channel_body(None);
        within(next_call(&mut handle)).await.1.send_response(events(body));
        let mut another = opened(within(follower).await.unwrap().unwrap());
        own.send("data: other\n\n");
        assert_eq!(within(piece(&mut another)).await.unwrap().unwrap(), "data: other\n\n");

        drop(source);
        assert!(within(piece(&mut stream)).await.is_none());
        assert_eq!(store.stats().stored, 0);
        let _third = begin(&cache, get("/t/events")).await;
        within(next_call(&mut handle)).await;
    }
}

#[tokio::test]
async fn event_stream_ends_with_its_client() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/events")).await;
    let (source, body) = channel_body(None);
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, "text/event-stream".parse().unwrap());
    within(next_call(&mut handle)).await.1.send_response(response);
    drop(within(leader).await.unwrap());
    assert!(source.is_dropped());
}

// ---- Trailers --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn trailers_of_an_uncacheable_post_pass() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let call = begin(&cache, post("/t/rpc")).await;
    let (source, body) = channel_body(None);
    within(next_call(&mut handle)).await.1.send_response(Response::new(body));
    let response = within(call).await.unwrap();
    assert_eq!(outcome(&response), Outcome::Bypass(Bypass::Method));

    source.send("message");
    source.trailers("grpc-status", "0");
    drop(source);
    let whole = within(response.into_body().collect()).await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), "message");
}

/// An HTTP/1 server turns an exact length into `Content-Length`, which excludes trailers.
#[tokio::test]
async fn hit_with_trailers_has_no_exact_length() {
    let (_, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let first = begin(&cache, get("/t/a")).await;
    let (source, body) = channel_body(None);
    source.send("rows");
    source.trailers("x-sum", "9");
    drop(source);
    next_call(&mut handle).await.1.send_response(Response::new(body));
    drop(within(first).await.unwrap());
    let hit = within(begin(&cache, get("/t/a")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert_eq!((hit.body().size_hint().exact(), hit.body().size_hint().lower()), (None, 4));
    assert_eq!(hit.into_body().collect().await.unwrap().trailers().unwrap()["x-sum"], "9");
}

#[tokio::test]
async fn trailers_of_a_get_reach_leader_follower_and_hit() {
    for at_once in [true, false] {
        for length in [None, Some(7)] {
            let (_store, layer) = minute();
            let (cache, mut handle) = mocked::<ChannelBody>(&layer);
            let leader = tokio::spawn(begin(&cache, get("/t/rpc")).await);
            let follower = tokio::spawn(begin(&cache, get("/t/rpc")).await);
            let (source, body) = channel_body(length);
            let answer = within(next_call(&mut handle)).await.1;
            let finish = || {
                source.send("message");
                source.trailers("grpc-status", "0");
            };
            if at_once {
                finish();
                drop(source);
                answer.send_response(Response::new(body));
            } else {
                answer.send_response(Response::new(body));
                source.send("");
                eventually(|| leader.is_finished()).await;
                finish();
                drop(source);
            }
            let responses = [
                within(leader).await.unwrap().unwrap(),
                within(follower).await.unwrap().unwrap(),
                within(begin(&cache, get("/t/rpc")).await).await.unwrap(),
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
async fn first_byte_does_not_wait_for_the_last() {
    for length in [None, Some(6)] {
        let (_store, layer) = minute();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/slow")).await;
        let (source, body) = channel_body(None);
        within(next_call(&mut handle)).await.1.send_response(with_length(body, length));
        // The head does not even wait for the first byte.
        let response = within(leader).await.unwrap();
        assert_eq!(storing(&response), Storing::Pending);
        let mut body = opened(response);
        source.send("one");
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
        source.send("two");
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "two");
        drop(source);
        assert!(within(piece(&mut body)).await.is_none());
    }
}

#[tokio::test]
async fn follower_of_a_known_length_gets_bytes_early() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/slow")).await;
    let early = begin(&cache, get("/t/slow")).await;
    let (source, body) = channel_body(None);
    within(next_call(&mut handle)).await.1.send_response(with_length(body, Some(6)));
    let _leader = within(leader).await.unwrap();
    source.send("one");

    // One follower came before the response, the other comes in the middle of its body.
    let late = begin(&cache, get("/t/slow")).await;
    let bodies = shared_bodies([early, late]).await;
    source.send("two");
    drop(source);
    for mut body in bodies {
        assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "two");
        assert!(within(piece(&mut body)).await.is_none());
    }
}

// ---- Complete bodies -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn complete_body_is_stored_without_being_polled() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer);
    let leader = begin(&cache, get("/t/full")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("rows"));
    let response = within(leader).await.unwrap();
    assert_eq!(storing(&response), Storing::Stored);
    drop(response);
    let hit = within(begin(&cache, get("/t/full")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert_eq!(text(hit).await, "rows");
}

#[tokio::test]
async fn empty_body_is_stored_without_being_polled() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<Empty<Bytes>>(&layer);
    let leader = begin(&cache, get("/t/empty")).await;
    within(next_call(&mut handle)).await.1.send_response(Response::new(Empty::new()));
    let response = within(leader).await.unwrap();
    assert_eq!(storing(&response), Storing::Stored);
    assert!(response.body().is_end_stream());
    drop(response);
    let hit = within(begin(&cache, get("/t/empty")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert!(hit.body().is_end_stream());
    assert_eq!(text(hit).await, "");
}

#[tokio::test]
async fn body_is_stored_though_its_client_stops_early() {
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/slow")).await;
    let (source, body) = channel_body(None);
    within(next_call(&mut handle)).await.1.send_response(with_length(body, Some(3)));
    let mut body = opened(within(leader).await.unwrap());
    source.send("one");
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
    drop((body, source));
    eventually(|| store.stats().stored == 1).await;
    let hit = within(begin(&cache, get("/t/slow")).await).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
}

#[tokio::test]
async fn complete_large_body_is_not_copied() {
    for shared in [false, true] {
        let (_store, layer) = minute();
        let (cache, mut handle) = mocked::<Full<Bytes>>(&layer);
        let data = Bytes::from(vec![b'x'; 256 << 10]);
        let place = data.as_ptr();
        let kept = shared.then(|| data.clone());
        let leader = begin(&cache, get("/t/large")).await;
        within(next_call(&mut handle)).await.1.send_response(ok(data));
        let miss = within(leader).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(miss.as_ptr(), place, "the miss, shared: {shared}");
        for _ in 0..2 {
            let hit = within(begin(&cache, get("/t/large")).await).await.unwrap();
            assert_eq!(outcome(&hit), Outcome::Hit);
            let hit = hit.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(hit.as_ptr(), place, "a hit, shared: {shared}");
        }
        drop(kept);
    }
}

#[tokio::test]
async fn stored_slice_does_not_keep_its_large_buffer() {
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer);
    let buffer = Bytes::from(vec![b'x'; 256 << 10]);
    let leader = begin(&cache, get("/t/slice")).await;
    within(next_call(&mut handle)).await.1.send_response(ok(buffer.slice(..16)));
    drop(within(leader).await.unwrap());
    assert_eq!(store.stats().stored, 1);
    assert!(buffer.is_unique(), "the store keeps the whole buffer");
}

// ---- Lengths ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn size_hint_never_exceeds_the_rest_of_the_body() {
    let (_store, layer) = minute();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = begin(&cache, get("/t/rows")).await;
    let follower = begin(&cache, get("/t/rows")).await;
    let (source, body) = channel_body(None);
    within(next_call(&mut handle)).await.1.send_response(with_length(body, Some(6)));
    let mut bodies = [opened(within(leader).await.unwrap()), opened(within(follower).await.unwrap())];
    bodies.iter().for_each(|body| assert_eq!(body.size_hint().exact(), Some(6)));
    source.send("one");
    for body in &mut bodies {
        within(piece(body)).await.unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(3));
    }
    source.send("two");
    drop(source);
    for body in &mut bodies {
        within(piece(body)).await.unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}

#[tokio::test]
async fn follower_gets_no_empty_head_response() {
    // HEADs with empty responses, before, during and after a GET.
    let (store, layer) = minute();
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer);
    let head = || Request::head("/t/rows").body(Plain::default()).unwrap();
    let before = begin(&cache, head()).await;
    let leader = begin(&cache, get("/t/rows")).await;
    let during = begin(&cache, head()).await;
    let follower = begin(&cache, get("/t/rows")).await;
    for _ in 0..3 {
        let (request, answer) = within(next_call(&mut handle)).await;
        answer.send_response(ok(if request.method() == "HEAD" { "" } else { "rows" }));
    }
    for (call, expected) in [(before, ""), (during, ""), (leader, "rows"), (follower, "rows")] {
        assert_eq!(text(within(call).await.unwrap()).await, expected);
    }
    assert_eq!(store.stats().stored, 1);
    let hit = within(begin(&cache, head()).await).await.unwrap();
    assert_eq!((outcome(&hit), hit.headers()[header::CONTENT_LENGTH].to_str().unwrap()), (Outcome::Hit, "4"));
    assert_eq!(text(within(begin(&cache, get("/t/rows")).await).await.unwrap()).await, "rows");
}
