//! Bodies that are not stored: too large, truncated or failed.

use crate::{
    common::*,
    setup::{caching, minute, not_stored, read_to_end, with_length},
};
use http::Response;
use http_body::Body;
use tower_response_cache::{
    CacheLayer, Memory, Outcome, Rule, Store,
    status::{Miss, NoStore},
};

/// A body, as the cache receives it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    content_length: Option<u64>,
    hint: Option<u64>,
    pieces: &'static [&'static str],
    /// Text of the error at its end.
    fails: Option<&'static str>,
}

const SHAPE: Shape = Shape { content_length: None, hint: None, pieces: &[], fails: None };

/// Passes a body through the cache, complete at once and piece by piece. It must reach the client unchanged, and not be stored.
async fn passes_unstored(shape: Shape, rule: Rule, reason: NoStore) {
    for at_once in [true, false] {
        let how = format!("{shape:?}, at once: {at_once}");
        let (store, layer) = caching(rule.clone());
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leader = begin(&cache, get("/t/odd")).await;
        let (source, body) = channel_body(shape.hint);
        let answer = within(next_call(&mut handle)).await.1;
        let send = || {
            shape.pieces.iter().for_each(|piece| source.send(*piece));
            shape.fails.iter().for_each(|words| source.fail(words));
        };
        let response = if at_once {
            send();
            drop(source);
            answer.send_response(with_length(body, shape.content_length));
            within(leader).await.unwrap()
        } else {
            answer.send_response(with_length(body, shape.content_length));
            let response = within(leader).await.unwrap();
            send();
            drop(source);
            response
        };
        assert_eq!(response.status(), 200, "{how}");
        let (all, error) = within(read_to_end(response)).await;
        assert_eq!(all, shape.pieces.concat(), "{how}");
        assert_eq!(error.as_deref(), shape.fails, "{how}");
        eventually(|| not_stored(&store, reason) == 1).await;
        assert_eq!(store.stats().stored, 0, "{how}");
        assert_eq!(store.stats().entries, 0, "{how}");
        let _next = begin(&cache, get("/t/odd")).await;
        within(next_call(&mut handle)).await;
    }
}

#[tokio::test]
async fn body_over_the_limit_passes_and_is_not_stored() {
    let small = || Rule::ttl(MINUTE).max_body(8);
    let shapes = [
        Shape { content_length: Some(10), pieces: &["0123456789"], ..SHAPE },
        Shape { content_length: Some(10), pieces: &["01234", "56789"], ..SHAPE },
        Shape { hint: Some(10), pieces: &["01234", "56789"], ..SHAPE },
        Shape { pieces: &["0123456789"], ..SHAPE },
        Shape { pieces: &["01234567", "8"], ..SHAPE },
        Shape { pieces: &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"], ..SHAPE },
        // The client sees an error beyond the limit, too.
        Shape { pieces: &["01234", "56789"], fails: Some("the disk is gone"), ..SHAPE },
    ];
    for shape in shapes {
        passes_unstored(shape, small(), NoStore::TooLarge).await;
    }
}

#[tokio::test]
async fn body_at_the_limit_is_stored() {
    let (store, layer) = caching(Rule::ttl(MINUTE).max_body(8));
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    for (target, at_once) in [("/t/a", true), ("/t/b", false)] {
        let leader = begin(&cache, get(target)).await;
        let (source, body) = channel_body(None);
        let answer = within(next_call(&mut handle)).await.1;
        if at_once {
            ["0123", "4567"].iter().for_each(|data| source.send(*data));
            drop(source);
            answer.send_response(Response::new(body));
            drop(within(leader).await.unwrap());
        } else {
            answer.send_response(Response::new(body));
            let _response = within(leader).await.unwrap();
            ["0123", "4567"].iter().for_each(|data| source.send(*data));
            drop(source);
        }
        let hit = within(begin(&cache, get(target)).await).await.unwrap();
        assert_eq!(text(hit).await, "01234567");
    }
    assert_eq!(store.stats().inner_calls, 2);
}

#[tokio::test]
async fn truncated_body_is_not_stored() {
    for pieces in [&["0123456789"][..], &["01234", "56789"], &[]] {
        for announced in [4, 11] {
            let shape = Shape { content_length: Some(announced), pieces, ..SHAPE };
            passes_unstored(shape, Rule::ttl(MINUTE), NoStore::Truncated).await;
        }
    }
}

#[tokio::test]
async fn failed_body_is_not_stored_and_its_error_passes() {
    for pieces in [&["01234", "56789"][..], &[]] {
        for length in [None, Some(20)] {
            let shape = Shape { content_length: length, pieces, fails: Some("the disk is gone"), ..SHAPE };
            passes_unstored(shape, Rule::ttl(MINUTE), NoStore::BodyError).await;
        }
    }
}

#[tokio::test]
async fn followers_of_an_unstored_body_call_the_inner_service() {
    let shapes =
        [Shape { pieces: &["01234", "56789"], ..SHAPE }, Shape { pieces: &["0123"], fails: Some("the disk is gone"), ..SHAPE }];
    for shape in shapes {
        for at_once in [true, false] {
            let (store, layer) = caching(Rule::ttl(MINUTE).max_body(8));
            let (cache, mut handle) = mocked::<ChannelBody>(&layer);
            let leader = begin(&cache, get("/t/odd")).await;
            let followers = [begin(&cache, get("/t/odd")).await, begin(&cache, get("/t/odd")).await].map(tokio::spawn);
            let (source, body) = channel_body(None);
            let answer = within(next_call(&mut handle)).await.1;
            let send = || {
                shape.pieces.iter().for_each(|piece| source.send(*piece));
                shape.fails.iter().for_each(|words| source.fail(words));
            };
            if at_once {
                send();
                answer.send_response(Response::new(body));
            } else {
                answer.send_response(Response::new(body));
                eventually(|| store.stats().inner_calls == 1).await;
                send();
            }
            // The calls overlap, and the leader need not have read anything.
            let first = within(next_call(&mut handle)).await.1;
            let second = within(next_call(&mut handle)).await.1;
            for (answer, own) in [(first, "own one"), (second, "own two")] {
                let (source, body) = channel_body(None);
                source.send(own);
                answer.send_response(Response::new(body));
            }
            let mut bodies = Vec::new();
            for follower in followers {
                let response = within(follower).await.unwrap().unwrap();
                assert_eq!(outcome(&response), Outcome::Miss(Miss::NotShared));
                bodies.push(within(text(response)).await);
            }
            bodies.sort();
            assert_eq!(bodies, ["own one", "own two"]);
            drop(source);
            let (all, error) = within(read_to_end(within(leader).await.unwrap())).await;
            assert_eq!((all, error.as_deref()), (shape.pieces.concat(), shape.fails));
        }
    }
}

#[tokio::test]
async fn follower_of_a_failed_body_sees_no_clean_end() {
    // Before the failure came no piece, or one.
    for pieces in [&[][..], &["0123"]] {
        for failure in [Some("the disk is gone"), None] {
            let (store, layer) = minute();
            let (cache, mut handle) = mocked::<ChannelBody>(&layer);
            let leader = begin(&cache, get("/t/odd")).await;
            let follower = begin(&cache, get("/t/odd")).await;
            let (source, body) = channel_body(None);
            within(next_call(&mut handle)).await.1.send_response(with_length(body, Some(10)));
            let _leader = within(leader).await.unwrap();
            let response = within(follower).await.unwrap();
            assert_eq!(outcome(&response), Outcome::Collapsed);
            let mut body = opened(response);
            pieces.iter().for_each(|piece| source.send(*piece));
            failure.iter().for_each(|words| source.fail(words));
            drop(source);
            for data in pieces {
                assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), *data);
            }
            let end = within(piece(&mut body)).await;
            match failure {
                Some(_) => assert!(end.expect("no clean end").is_err()),
                // Without an error the body ends early: the server sees that the announced length is not reached.
                None => assert!(end.is_none_or(|end| end.is_err()) && body.size_hint().exact() != Some(10)),
            }
            assert_eq!(store.stats().stored, 0);
        }
    }
}

#[tokio::test]
async fn full_buffers_cut_off_no_follower() {
    let store = Memory::new(16 << 20);
    let layer = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).max_buffered_bytes(8);
    let (cache, mut handle) = mocked::<ChannelBody>(&layer);
    let leader = tokio::spawn(begin(&cache, get("/t/large")).await);
    let follower = tokio::spawn(begin(&cache, get("/t/large")).await);
    // The follower gets a whole body, shared or its own.
    let feed = tokio::spawn(async move {
        while let Some((_, answer)) = handle.next_request().await {
            let (source, body) = channel_body(None);
            answer.send_response(with_length(body, Some(12)));
            for data in ["0123", "4567", "89ab"] {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                source.send(data);
            }
        }
    });
    for client in [leader, follower] {
        let response = within(client).await.unwrap().unwrap();
        assert_eq!(within(read_to_end(response)).await, ("0123456789ab".to_owned(), None));
    }
    drop(cache);
    within(feed).await.unwrap();
    assert_eq!(store.stats().stored, 0);
}
