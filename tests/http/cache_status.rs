//! `Cache-Status` on responses from the store (RFC 9211): one line of this cache, after those of caches closer to the origin.

use crate::common::{MINUTE, Plain, SECOND, channel_response, counting, get, ok, one_rule, send, text};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, Clock, Memory, Rule, Rules};

fn lines<B>(response: &Response<B>) -> Vec<&str> {
    response.headers().get_all("cache-status").iter().map(|line| line.to_str().expect("text")).collect()
}

fn with(name: &'static str, value: &'static str) -> Request<Plain> {
    let mut request = get("/t/a");
    request.headers_mut().insert(name, HeaderValue::from_static(value));
    request
}

fn tagged(body: &'static str, fields: &[(&'static str, &'static str)]) -> Response<Plain> {
    let mut response = ok(body);
    for (name, value) in [("etag", "\"tag\"")].iter().chain(fields) {
        response.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    response
}

fn rules() -> Rules {
    one_rule(Rule::ttl(MINUTE))
}

#[tokio::test]
async fn every_kind_of_hit_has_one_status_line() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let (inner, _) = counting(|_, _| tagged("0123456789", &[]));
    let cache = CacheLayer::new(store).rules(rules()).cache_status("c").layer(inner);
    assert_eq!(lines(&send(&cache, get("/t/a")).await), ["c; fwd=uri-miss; stored"]);
    clock.advance(7 * SECOND);
    let mut head = get("/t/a");
    *head.method_mut() = Method::HEAD;
    for (request, status) in [
        (get("/t/a"), StatusCode::OK),
        (head, StatusCode::OK),
        (with("range", "bytes=2-3"), StatusCode::PARTIAL_CONTENT),
        (with("range", "bytes=2-3,5-6"), StatusCode::PARTIAL_CONTENT),
        (with("range", "bytes=20-"), StatusCode::RANGE_NOT_SATISFIABLE),
        (with("if-none-match", "\"tag\""), StatusCode::NOT_MODIFIED),
        (with("if-none-match", "\"other\""), StatusCode::OK),
    ] {
        let response = send(&cache, request).await;
        assert_eq!((response.status(), lines(&response)), (status, vec!["c; hit; ttl=53"]));
        assert_eq!(response.headers()[header::AGE], "7");
    }
}

#[tokio::test]
async fn remaining_lifetime_is_stated_in_seconds() {
    for (lifetime, waited, expected) in [
        (1, 0, "c; hit; ttl=1"),
        (1800, 0, "c; hit; ttl=1800"),
        (1801, 0, "c; hit; ttl=1801"),
        (1801, 1, "c; hit; ttl=1800"),
        (86_400, 400, "c; hit; ttl=86000"),
    ] {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let (inner, _) = counting(|_, _| ok("x"));
        let cache = CacheLayer::new(store).route("/t/{table}", Rule::ttl(lifetime * SECOND)).cache_status("c").layer(inner);
        send(&cache, get("/t/a")).await;
        clock.advance(waited * SECOND);
        assert_eq!(lines(&send(&cache, get("/t/a")).await), [expected]);
    }
}

#[tokio::test]
async fn hit_appends_to_the_lines_of_other_caches() {
    let (inner, _) = counting(|_, _| tagged("x", &[("cache-status", "near; hit"), ("cache-status", "far; fwd=stale")]));
    let store = Memory::builder().clock(Clock::manual()).build();
    let cache = CacheLayer::new(store).rules(rules()).cache_status("c").layer(inner);
    assert_eq!(lines(&send(&cache, get("/t/a")).await), ["near; hit", "far; fwd=stale", "c; fwd=uri-miss; stored"]);
    for request in [get("/t/a"), with("if-none-match", "\"tag\"")] {
        assert_eq!(lines(&send(&cache, request).await), ["near; hit", "far; fwd=stale", "c; hit; ttl=60"]);
    }
}

#[tokio::test]
async fn layers_over_one_store_use_their_own_names() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock).build();
    let (inner, calls) = counting(|_, _| tagged("x", &[]));
    let layer = |name: Option<&str>| {
        let layer = CacheLayer::new(store.clone()).rules(rules());
        name.map_or(layer.clone(), |name| layer.cache_status(name)).layer(inner.clone())
    };
    let (one, other, silent) = (layer(Some("one")), layer(Some("other")), layer(None));
    for first in [&one, &silent] {
        let target = if std::ptr::eq(first, &one) { "/t/a" } else { "/t/b" };
        send(first, get(target)).await;
        assert_eq!(lines(&send(&one, get(target)).await), ["one; hit; ttl=60"]);
        assert_eq!(lines(&send(&other, get(target)).await), ["other; hit; ttl=60"]);
        let response = send(&silent, get(target)).await;
        assert!(lines(&response).is_empty());
        assert_eq!(response.headers().len(), 2, "age and etag: {:?}", response.headers());
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 2);
}

#[tokio::test]
async fn validated_response_has_one_status_line() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let (inner, _) = counting(|request, _| {
        assert!(!request.headers().contains_key("cache-status"));
        match request.headers().contains_key(header::IF_NONE_MATCH) {
            true => {
                let mut response = tagged("", &[("cache-control", "max-age=60")]);
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            false => tagged("x", &[("cache-control", "max-age=60")]),
        }
    });
    let cache = CacheLayer::new(store).route("/t/{table}", Rule::http()).cache_status("c").layer(inner);
    send(&cache, get("/t/a")).await;
    for _ in 0..2 {
        clock.advance(61 * SECOND);
        let validated = send(&cache, get("/t/a")).await;
        let hit = send(&cache, get("/t/a")).await;
        for (response, expected) in [(&validated, "c; fwd=stale; fwd-status=304; stored; ttl="), (&hit, "c; hit; ttl=")] {
            let lines = lines(response);
            assert!(lines.len() == 1 && lines[0].starts_with(expected), "{lines:?}");
        }
        assert_eq!(text(validated).await, "x");
    }
}

#[tokio::test]
async fn follower_has_one_status_line() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(Some(receiver)));
    let inner = service_fn(move |_: Request<Plain>| {
        let receiver = receiver.clone();
        async move {
            let receiver = receiver.lock().await.take().expect("one call");
            Ok::<_, std::convert::Infallible>(receiver.await.expect("a response"))
        }
    });
    let cache = CacheLayer::new(Memory::new(1 << 20)).rules(rules()).cache_status("c").layer(inner);
    let ask = || tokio::spawn(cache.clone().oneshot(get("/t/a")));
    let (leader, follower) = (ask(), ask());
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
    let (response, source) = channel_response(Some(4));
    assert!(sender.send(response).is_ok());
    let (leader, follower) =
        (leader.await.expect("no panic").expect("no error"), follower.await.expect("no panic").expect("no error"));
    source.send("done");
    drop(source);
    assert_eq!(lines(&leader), ["c; fwd=uri-miss"]);
    assert_eq!(lines(&follower), ["c; fwd=uri-miss; collapsed"]);
    assert_eq!((text(leader).await, text(follower).await), ("done".to_owned(), "done".to_owned()));
}

#[tokio::test]
async fn response_without_age_has_no_empty_line() {
    let (inner, _) = counting(|_, _| tagged("x", &[("connection", "age"), ("cache-control", "private=\"age\"")]));
    let store = Memory::builder().clock(Clock::manual()).build();
    let named = CacheLayer::new(store.clone()).rules(rules()).cache_status("c").layer(inner.clone());
    let silent = CacheLayer::new(store).rules(rules()).layer(inner);
    send(&named, get("/t/a")).await;
    assert_eq!(lines(&send(&named, get("/t/a")).await), ["c; hit; ttl=60"]);
    assert!(lines(&send(&silent, get("/t/a")).await).is_empty());
}

#[tokio::test]
async fn layer_without_a_name_leaves_other_lines() {
    let (inner, _) = counting(|_, _| {
        let mut response = ok("x");
        for (name, value) in [("server", "s"), ("cache-status", ""), ("cache-status", "origin; hit")] {
            response.headers_mut().append(name, HeaderValue::from_static(value));
        }
        response
    });
    let silent = CacheLayer::new(Memory::new(1 << 20)).rules(rules()).layer(inner);
    for _ in 0..2 {
        assert_eq!(lines(&send(&silent, get("/t/a")).await), ["", "origin; hit"]);
    }
}
