//! `Rule::http()`: validation of stale responses, and HEAD. Each case names its section of RFC 9111.

use std::sync::{Arc, Mutex};

use crate::{
    common::{MINUTE, Plain, get, mocked, next_call, ok, one_rule, outcome, send, text},
    script::{FRESH, Fields, NO_CACHE, Step, TAGGED, fields, step, walk},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    CacheLayer, Clock, Memory, Outcome, Rule, Rules, Store,
    semantics::Normalise,
    status::{Miss, Storing},
};

const TAGGED_BY_LANGUAGE: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("vary", "accept-language")];

const TAGGED_BY_MODE: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("vary", "accept-language, x-mode")];

const RELOAD_FROM_A: Fields = &[("cache-control", "no-cache"), ("origin", "https://a.example")];

const ALLOWS_A: (&str, &str) = ("access-control-allow-origin", "https://a.example");

#[tokio::test]
async fn stored_response_is_validated() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4.3.1, 4.3.4: a 304 to the condition of the cache freshens",
            &[
                step(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("x-a", "old")], "a")),
                    "miss 200 a",
                ),
                step(60, &[], Some((304, &[("etag", "\"1\""), ("x-a", "new")], "")), "validated 200 a")
                    .sends(&[("if-none-match", "\"1\"")])
                    .returns(&[("age", "0"), ("x-a", "new"), ("etag", "\"1\"")]),
                step(59, &[], None, "hit 200 a").returns(&[("x-a", "new"), ("age", "59")]),
            ],
        ),
        (
            "4.3.1: Last-Modified",
            &[
                step(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60"), ("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")], "a")),
                    "miss 200 a",
                ),
                step(60, &[], Some((304, &[], "")), "validated 200 a")
                    .sends(&[("if-modified-since", "Thu, 01 Jan 2015 00:00:00 GMT"), ("if-none-match", "-")]),
                step(0, &[], None, "hit 200 a"),
            ],
        ),
        (
            "4.3.3: a 200 replaces the entry",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(60, &[], Some((200, TAGGED, "b")), "miss 200 b"),
                step(0, &[], None, "hit 200 b"),
            ],
        ),
        (
            "4.3.1: the condition of the client is evaluated after the validation",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(60, &[("if-none-match", "\"1\"")], Some((304, TAGGED, "")), "validated 304")
                    .sends(&[("if-none-match", "\"1\"")]),
                step(60, &[("if-none-match", "\"0\"")], Some((304, TAGGED, "")), "validated 200 a")
                    .sends(&[("if-none-match", "\"1\"")]),
                step(
                    60,
                    &[("if-none-match", "\"2\"")],
                    Some((200, &[("cache-control", "max-age=9"), ("etag", "\"2\"")], "b")),
                    "miss 304",
                )
                .sends(&[("if-none-match", "\"1\"")]),
                step(0, &[], None, "hit 200 b"),
            ],
        ),
        (
            "4.3.3: a 304 to the condition of the client does not freshen",
            &[
                step(
                    0,
                    &[("cache-control", "no-store"), ("if-none-match", "\"c\"")],
                    Some((304, &[("etag", "\"c\"")], "")),
                    "miss 304",
                )
                .sends(&[("if-none-match", "\"c\"")]),
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a").sends(&[("if-none-match", "-")]),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn validation_answers_reloads_and_stale_requests() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4.3.4: a 304 with another tag freshens nothing, and is not requested again",
            &[
                step(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60, must-revalidate"), ("etag", "\"1\"")], "a")),
                    "miss 200 a",
                ),
                step(60, &[], Some((304, &[("etag", "\"other\"")], "")), "miss 502"),
                step(0, &[], Some((200, TAGGED, "b")), "miss 200 b").sends(&[("if-none-match", "-")]),
            ],
        ),
        (
            "4.3.4, 3: a 304 with no-store removes the entry",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(60, &[], Some((304, &[("cache-control", "no-store"), ("etag", "\"1\"")], "")), "validated 200 a"),
                step(0, &[], Some((200, TAGGED, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.4: a reload validates a fresh entry",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(30, NO_CACHE, Some((304, TAGGED, "")), "validated 200 a").sends(&[("if-none-match", "\"1\"")]),
                step(59, &[], None, "hit 200 a"),
            ],
        ),
        (
            "RFC 5861 3: stale during its validation",
            &[
                step(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60, stale-while-revalidate=10"), ("etag", "\"1\"")], "a")),
                    "miss 200 a",
                ),
                step(61, &[], Some((304, TAGGED, "")), "refreshed 200 a").sends(&[("if-none-match", "\"1\"")]),
                step(0, &[], None, "hit 200 a").returns(&[("age", "0")]),
            ],
        ),
        (
            "an unused entry is not kept forever",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(60 + 24 * 3600, &[], Some((200, TAGGED, "b")), "miss 200 b"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn head_updates_the_stored_response() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4: a HEAD is served from a stored GET, and never the other way",
            &[
                step(0, &[], Some((200, FRESH, "")), "miss 200").by("HEAD"),
                step(0, &[], Some((200, FRESH, "abc")), "miss 200 abc"),
                step(1, &[], None, "hit 200").by("HEAD").returns(&[("content-length", "3"), ("age", "1")]),
            ],
        ),
        (
            "4.3.5: a HEAD with the same validator freshens",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(60, &[], Some((200, TAGGED, "")), "miss 200").by("HEAD"),
                step(59, &[], None, "hit 200 a").returns(&[("age", "59")]),
            ],
        ),
        (
            "4.3.5: a HEAD with another validator makes the entry stale",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(1, NO_CACHE, Some((200, &[("etag", "\"2\"")], "")), "miss 200").by("HEAD"),
                step(0, &[], Some((200, TAGGED, "b")), "miss 200 b").sends(&[("if-none-match", "\"1\"")]),
            ],
        ),
        (
            "4.3.5: a HEAD without a validator freshens nothing, with or without a length",
            &[
                step(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                step(60, &[], Some((200, FRESH, "")), "miss 200").by("HEAD"),
                step(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
                step(60, &[], Some((200, &[("cache-control", "max-age=60"), ("content-length", "1")], "")), "miss 200")
                    .by("HEAD"),
                step(0, &[], Some((200, FRESH, "c")), "miss 200 c"),
            ],
        ),
        (
            "4.3.5: an invalid validator freshens nothing",
            &[
                step(0, &[], Some((200, &[("cache-control", "max-age=60"), ("etag", "1")], "a")), "miss 200 a"),
                step(60, &[], Some((200, &[("cache-control", "max-age=60"), ("etag", "1")], "")), "miss 200").by("HEAD"),
                step(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn head_about_another_response_changes_nothing() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4.3.5: another length makes the entry stale, also without a validator",
            &[
                step(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                step(1, NO_CACHE, Some((200, &[("content-length", "2")], "")), "miss 200").by("HEAD"),
                step(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.1: a HEAD that varies by more fields is about another response, and changes nothing",
            &[
                step(0, &[("x-mode", "1")], Some((200, TAGGED_BY_LANGUAGE, "a")), "miss 200 a"),
                step(1, &[("cache-control", "no-cache"), ("x-mode", "1")], Some((200, TAGGED_BY_MODE, "")), "miss 200")
                    .by("HEAD"),
                step(0, &[], None, "hit 200 a").returns(&[("vary", "accept-language"), ("age", "1")]),
                step(0, NO_CACHE, Some((200, &[("etag", "\"2\""), ("vary", "x-mode")], "")), "miss 200").by("HEAD"),
                step(0, &[], None, "hit 200 a"),
            ],
        ),
        (
            "4.1: a HEAD with an Origin field is about another response, with or without Vary",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(1, RELOAD_FROM_A, Some((200, &[("etag", "\"1\""), ("vary", "origin"), ALLOWS_A], "")), "miss 200")
                    .by("HEAD"),
                step(0, &[], None, "hit 200 a").returns(&[("access-control-allow-origin", "-"), ("vary", "-")]),
                step(1, RELOAD_FROM_A, Some((200, &[("etag", "\"1\""), ALLOWS_A], "")), "miss 200").by("HEAD"),
                step(0, &[], None, "hit 200 a").returns(&[("access-control-allow-origin", "-"), ("age", "2")]),
            ],
        ),
        (
            "4.3.5: an error to a HEAD changes nothing",
            &[
                step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                step(1, NO_CACHE, Some((404, &[], "")), "miss 404").by("HEAD"),
                step(0, &[], None, "hit 200 a"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn missing_entity_tag_is_generated() {
    for (name, rule) in [("ttl", Rule::ttl(MINUTE).etag()), ("http", Rule::http().etag())] {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let asked: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let inner = {
            let asked = asked.clone();
            service_fn(move |request: Request<Plain>| {
                asked.lock().expect("not poisoned").push(request.headers().clone());
                let mut response = ok("abc");
                response
                    .headers_mut()
                    .extend(fields(&[("cache-control", "max-age=60"), ("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")]));
                async move { Ok::<_, std::convert::Infallible>(response) }
            })
        };
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        let first = send(&service, get("/t/a")).await;
        let tag = first.headers()["etag"].clone();
        assert!(tag.to_str().is_ok_and(|tag| tag.starts_with('"') && tag.len() == 34), "{name}: {tag:?}");
        let mut request = get("/t/a");
        request.headers_mut().insert("if-none-match", tag.clone());
        let second = send(&service, request).await;
        assert_eq!((outcome(&second), second.status().as_u16()), (Outcome::Hit, 304), "{name}");
        clock.advance(MINUTE);
        let third = send(&service, get("/t/a")).await;
        assert_eq!(third.headers()["etag"], tag, "{name}: the same content, the same tag");
        // The inner service does not know the generated tag (RFC 9111, section 4.3.1).
        assert!(asked.lock().expect("not poisoned").iter().all(|asked| !asked.contains_key("if-none-match")), "{name}");
    }
}

#[tokio::test]
async fn one_validation_serves_all_followers() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let (service, mut handle) = mocked::<Plain>(&CacheLayer::new(store).rules(one_rule(Rule::http())));
    let asking = |service: &tower_response_cache::CacheService<_, _>| tokio::spawn(service.clone().oneshot(get("/t/a")));
    let first = asking(&service);
    let (_, answer) = next_call(&mut handle).await;
    let mut whole = ok("a");
    whole.headers_mut().extend(fields(TAGGED));
    answer.send_response(whole);
    first.await.expect("no panic").expect("a response");
    clock.advance(MINUTE);
    let all: Vec<_> = (0..10).map(|_| asking(&service)).collect();
    let (request, answer) = next_call(&mut handle).await;
    assert_eq!(request.headers()["if-none-match"], "\"1\"");
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let mut not_modified: Response<Plain> = Response::new(Full::default());
    *not_modified.status_mut() = http::StatusCode::NOT_MODIFIED;
    not_modified.headers_mut().extend(fields(TAGGED));
    answer.send_response(not_modified);
    let mut seen = Vec::new();
    for one in all {
        let response = one.await.expect("no panic").expect("a response");
        seen.push(outcome(&response));
        assert_eq!(text(response).await, "a");
    }
    assert_eq!(seen.iter().filter(|seen| **seen == Outcome::Revalidated).count(), 1, "{seen:?}");
    assert_eq!(seen.iter().filter(|seen| **seen == Outcome::Collapsed).count(), 9, "{seen:?}");
}

#[tokio::test]
async fn entry_invalidated_during_its_validation_is_not_stored() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rule = Rule::http().namespace("t:{table}");
    let (service, mut handle) = mocked::<Plain>(&CacheLayer::new(store.clone()).rules(one_rule(rule)));
    let asking = || tokio::spawn(service.clone().oneshot(get("/t/a")));
    let first = asking();
    let (_, answer) = next_call(&mut handle).await;
    let mut whole = ok("a");
    whole.headers_mut().extend(fields(TAGGED));
    answer.send_response(whole);
    first.await.expect("no panic").expect("a response");
    clock.advance(MINUTE);
    let second = asking();
    let (_, answer) = next_call(&mut handle).await;
    // The stamp is older than the invalidation: the 304 may have been sent before the write.
    store.invalidate(["t:a"]).await.expect("valid");
    let mut not_modified: Response<Plain> = Response::new(Full::default());
    *not_modified.status_mut() = http::StatusCode::NOT_MODIFIED;
    not_modified.headers_mut().extend(fields(TAGGED));
    answer.send_response(not_modified);
    let response = second.await.expect("no panic").expect("a response");
    let status = tower_response_cache::CacheStatus::of(&response).expect("covered");
    assert_eq!(status.outcome(), Outcome::Revalidated);
    assert!(matches!(status.stored(), Some(Storing::Not(tower_response_cache::status::NoStore::Invalidated))), "{status}");
    let third = asking();
    let (request, answer) = next_call(&mut handle).await;
    assert!(!request.headers().contains_key("if-none-match"), "an invalidated entry is not revalidated");
    answer.send_response(ok("b"));
    let response = third.await.expect("no panic").expect("a response");
    assert_eq!(outcome(&response), Outcome::Miss(Miss::Absent));
}

#[tokio::test]
async fn followers_of_an_unreusable_response_call_at_once() {
    // Section 4: for responses that may not be reused, each request calls the inner service, not one after the other.
    let (service, mut handle) = mocked::<Plain>(&CacheLayer::new(Memory::default()).rules(one_rule(Rule::http())));
    let all: Vec<_> = (0..3).map(|_| tokio::spawn(service.clone().oneshot(get("/t/a")))).collect();
    let respond = || {
        let mut response = ok("a");
        response.headers_mut().extend(fields(&[("cache-control", "max-age=0"), ("etag", "\"1\"")]));
        response
    };
    next_call(&mut handle).await.1.send_response(respond());
    // Both calls run at once.
    let (two, three) = (next_call(&mut handle).await, next_call(&mut handle).await);
    two.1.send_response(respond());
    three.1.send_response(respond());
    for one in all {
        let response = one.await.expect("no panic").expect("a response");
        assert!(matches!(outcome(&response), Outcome::Miss(_)), "{:?}", outcome(&response));
    }
}

/// RFC 9111, section 4.3.5, for the copy that is kept for requests that prefer its language.
#[tokio::test]
async fn head_with_a_new_tag_invalidates_selected_languages() {
    let inner = {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let calls = Arc::new(calls);
        service_fn(move |_: Request<Plain>| {
            let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            let mut response = ok(format!("v{call}"));
            *response.headers_mut() =
                fields(&[("cache-control", "max-age=600"), ("vary", "accept-language"), ("content-language", "de")]);
            response.headers_mut().insert("etag", HeaderValue::try_from(format!("\"{call}\"")).expect("a tag"));
            async move { Ok::<_, std::convert::Infallible>(response) }
        })
    };
    let mut normalise = Normalise::rfc();
    normalise.select_language = true;
    let store = Memory::builder().clock(Clock::manual()).build();
    let cache = CacheLayer::new(store).rules(Rules::new().fallback(Rule::http().normalise(normalise))).layer(inner);
    let send_in = |method: Method, language: &'static str, control: &'static str| {
        let mut request = get("/");
        *request.method_mut() = method;
        *request.headers_mut() = fields(&[]);
        request.headers_mut().insert("accept-language", HeaderValue::from_static(language));
        request.headers_mut().insert("cache-control", HeaderValue::from_static(control));
        send(&cache, request)
    };
    assert_eq!(text(send_in(Method::GET, "de", "x").await).await, "v1");
    let other = send_in(Method::GET, "de, en;q=0.5", "x").await;
    assert_eq!((outcome(&other), text(other).await.as_str()), (Outcome::Hit, "v1"));
    // The HEAD passes, and its response has another tag.
    send_in(Method::HEAD, "de", "no-cache").await;
    for language in ["de, en;q=0.5", "de"] {
        assert_ne!(outcome(&send_in(Method::GET, language, "x").await), Outcome::Hit, "{language}");
    }
}

/// RFC 9111, section 4.3.5: a HEAD may update an entry, but not one that was stored while the HEAD was answered.
#[tokio::test]
async fn head_never_overwrites_a_newer_fill() {
    for head_tag in ["\"1\"", "\"0\""] {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let layer = CacheLayer::new(store).rules(Rules::new().fallback(Rule::http()));
        let (cache, mut handle) = mocked(&layer);
        let tagged = |tag: &'static str, body: &'static str| {
            let mut response = ok(body);
            *response.headers_mut() = fields(&[("cache-control", "max-age=60")]);
            response.headers_mut().insert("etag", HeaderValue::from_static(tag));
            response
        };
        let first = tokio::spawn(cache.clone().oneshot(get("/")));
        next_call(&mut handle).await.1.send_response(tagged("\"1\"", "v1"));
        assert_eq!(text(first.await.expect("no panic").expect("a response")).await, "v1");
        clock.advance(MINUTE);
        let mut head = get("/");
        *head.method_mut() = Method::HEAD;
        let head = tokio::spawn(cache.clone().oneshot(head));
        let (_, head_answer) = next_call(&mut handle).await;
        let second = tokio::spawn(cache.clone().oneshot(get("/")));
        next_call(&mut handle).await.1.send_response(tagged("\"2\"", "v2"));
        assert_eq!(text(second.await.expect("no panic").expect("a response")).await, "v2");
        head_answer.send_response(tagged(head_tag, ""));
        assert_eq!(outcome(&head.await.expect("no panic").expect("a response")), Outcome::Miss(Miss::Head));
        let third = send(&cache, get("/")).await;
        assert_eq!((outcome(&third), text(third).await.as_str()), (Outcome::Hit, "v2"), "{head_tag}");
    }
}
