//! Hot responses: a thread keeps responses that are requested often. They equal those of the store, and end when the store
//! would respond differently.

use std::{sync::atomic::Ordering, thread};

use crate::common::{MINUTE, Plain, SECOND, counting, get, ok, one_rule, outcome, send, text, until};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use tower::Layer;
use tower_response_cache::{__private::Backend, CacheLayer, Clock, Memory, Outcome, Rule, Rules, Store, status::Miss};

/// Number of hits after which a response is hot. Of more than sixteen following hits, most are then served from the thread.
const OFTEN: usize = 200;

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

fn with_manual_clock(capacity: usize) -> (Clock, Memory) {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(capacity).clock(clock.clone()).build();
    (clock, store)
}

/// Responds with the number of the call.
fn numbered(_: &Request<Plain>, call: usize) -> Response<Plain> {
    ok(call.to_string())
}

#[tokio::test]
async fn hot_response_equals_the_stored_one() {
    let mut stored = ok("the body");
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-twice", "first"),
        ("x-own-name", ""),
        ("x-twice", "second"),
        ("etag", "\"7\""),
        ("content-language", "de"),
    ] {
        stored.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let mut token = HeaderValue::from_static("whose");
    token.set_sensitive(true);
    stored.headers_mut().insert("x-token", token);
    let (inner, calls) = counting(move |_, _| stored.clone());
    let cache = CacheLayer::new(Memory::new(1 << 20)).rules(one_rule(Rule::ttl(MINUTE))).cache_status("c").layer(inner);
    send(&cache, get("/t/a")).await;

    let first = send(&cache, get("/t/a")).await.into_parts();
    let body = first.1.collect().await.expect("a body").to_bytes();
    for _ in 0..OFTEN {
        let (parts, content) = send(&cache, get("/t/a")).await.into_parts();
        assert_eq!(parts.status, first.0.status);
        let fields = |headers: &http::HeaderMap| {
            let but_age = headers.iter().filter(|(name, _)| *name != header::AGE && *name != "cache-status");
            but_age.map(|(name, value)| (name.clone(), value.clone(), value.is_sensitive())).collect::<Vec<_>>()
        };
        assert_eq!(fields(&parts.headers), fields(&first.0.headers));
        assert_eq!(parts.headers.len(), first.0.headers.len());
        let same: Bytes = content.collect().await.expect("a body").to_bytes();
        assert_eq!((same.as_ptr(), same.len()), (body.as_ptr(), body.len()), "the body is not copied");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn hot_response_ages_and_expires() {
    let (clock, store) = with_manual_clock(1 << 20);
    let cache = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(numbered).0);
    for round in 1..4 {
        for second in 0..60 {
            for _ in 0..20 {
                let response = send(&cache, get("/t/a")).await;
                assert_eq!(response.headers().get(header::AGE).map_or("0", |age| age.to_str().unwrap()), second.to_string());
                assert_eq!(text(response).await, round.to_string());
            }
            clock.advance(SECOND);
        }
    }
}

#[tokio::test]
async fn hot_response_is_invalidated_in_every_way() {
    for rule in [Rule::ttl(MINUTE), Rule::http().default_ttl(MINUTE)] {
        let store = Memory::new(1 << 20);
        let rules = Rules::new().route("/t/{table}", rule.namespace("t:{table}"));
        let cache = CacheLayer::new(store.clone()).rules(rules.clone()).layer(counting(numbered).0);
        let key = rules.key(&store, &get("/t/a")).expect("a rule covers it");
        for call in 1..9 {
            for _ in 0..OFTEN {
                assert_eq!(text(send(&cache, get("/t/a")).await).await, call.to_string());
            }
            match call % 4 {
                0 => store.invalidate(["t:a"]).await.unwrap(),
                1 => store.invalidate_key(&key).await.unwrap(),
                2 => store.invalidate_softly(["t:a"]).await.unwrap(),
                _ => {
                    let store = store.clone();
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    thread::spawn(move || runtime.block_on(store.invalidate(["t:a"]))).join().unwrap().unwrap();
                }
            }
        }
    }
}

/// A client may request a new response although the old one is fresh. From then on the new one is served, in all threads.
#[tokio::test]
async fn hot_response_is_replaced_with_its_entry() {
    let (inner, _) = counting(|_, call| {
        let mut response = ok(call.to_string());
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        response
    });
    let store = Memory::new(1 << 20);
    let cache = CacheLayer::new(store).rules(one_rule(Rule::http())).layer(inner);
    for call in 1..5 {
        let cache_there = cache.clone();
        let there = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut anew = get("/t/a");
            anew.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            runtime.block_on(async { text(send(&cache_there, anew).await).await })
        });
        assert_eq!(there.join().unwrap(), call.to_string());
        for _ in 0..OFTEN {
            assert_eq!(text(send(&cache, get("/t/a")).await).await, call.to_string());
        }
    }
}

#[tokio::test]
async fn hot_response_serves_no_other_variant() {
    let (inner, _) = counting(|request, _| {
        let mut response = ok(request.headers()[header::ACCEPT_LANGUAGE].as_bytes().to_vec());
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-language"));
        response
    });
    let cache = CacheLayer::new(Memory::new(1 << 20)).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    for language in ["de", "en", "de", "fr"] {
        for _ in 0..OFTEN {
            let mut request = get("/t/a");
            request.headers_mut().insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static(language));
            assert_eq!(text(send(&cache, request).await).await, language);
        }
    }
}

#[tokio::test]
async fn hot_response_ends_with_its_evicted_entry() {
    let (_, store) = with_manual_clock(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE));
    let (inner, calls) = counting(numbered);
    let cache = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    for _ in 0..OFTEN {
        send(&cache, get("/t/hot")).await;
    }
    let key = rules.key(&store, &get("/t/hot")).expect("a rule covers it");
    let mut others = 0;
    while store.get_now(key.as_ref()).expect("memory answers at once").found.is_some() {
        for n in others..others + 1_000 {
            for _ in 0..4 {
                send(&cache, get(&format!("/t/{n}"))).await;
            }
        }
        others += 1_000;
        assert!(others < 100_000, "the entry is never evicted");
    }
    let before = calls.load(Ordering::SeqCst);
    assert_eq!(outcome(&send(&cache, get("/t/hot")).await), ABSENT);
    assert_eq!(calls.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn requested_hot_response_is_not_evicted() {
    let (_, store) = with_manual_clock(64 << 10);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(numbered).0);
    send(&cache, get("/t/hot")).await;
    for n in 0..2_000 {
        for _ in 0..20 {
            assert_eq!(outcome(&send(&cache, get("/t/hot")).await), Outcome::Hit, "after {n}");
        }
        for _ in 0..3 {
            send(&cache, get(&format!("/t/{n}"))).await;
        }
    }
    assert!(store.stats().evictions > 1_000);
}

#[tokio::test]
async fn hits_of_hot_responses_are_counted() {
    let store = Memory::new(1 << 20);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(numbered).0);
    send(&cache, get("/t/a")).await;
    for n in 1..=OFTEN as u64 {
        assert_eq!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit);
        assert_eq!((store.stats().hits, store.stats().misses()), (n, 1));
    }
}

#[tokio::test]
async fn stale_hot_response_is_refreshed() {
    let (clock, store) = with_manual_clock(1 << 20);
    let rule = Rule::ttl(MINUTE).stale_while_revalidate(MINUTE);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(numbered).0);
    for round in 1..4 {
        for _ in 0..OFTEN {
            assert_eq!(text(send(&cache, get("/t/a")).await).await, round.to_string());
        }
        clock.advance(MINUTE);
        assert_eq!(text(send(&cache, get("/t/a")).await).await, round.to_string());
        until("the entry is refreshed", || store.stats().stored == round + 1).await;
    }
}
