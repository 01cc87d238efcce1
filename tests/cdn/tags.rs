//! Every response that a rule covers carries its namespaces as cache tags.

use http::{HeaderValue, Method, Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{CacheLayer, CachePolicy, CacheTags, Clock, Memory, Namespace, Outcome, ResponseCache, Rule, Rules};

use crate::common::{
    MINUTE, Plain, SECOND, begin, channel_response, counting, get, mocked, next_call, ok, one_rule, opened, outcome, piece,
    poll_once, post, send, warnings::warned,
};

const TAGS: &str = "%2A,db,db:orders,row,row:17";

fn tags_of<B>(response: &Response<B>) -> Vec<&str> {
    response.headers().get_all("cache-tag").iter().map(|line| line.to_str().expect("ASCII")).collect()
}

fn value<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().expect("ASCII"))
}

fn with(name: &'static str, value: &'static str) -> Request<Plain> {
    let mut request = get("/t/orders");
    request.headers_mut().insert(name, HeaderValue::from_static(value));
    request
}

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("db:{table}")
}

fn layer(store: Memory, rule: Rule) -> CacheLayer {
    CacheLayer::new(store).rules(one_rule(rule)).cache_tags(CacheTags::cloudflare())
}

/// Returns a response whose handler names a row.
fn row(mut response: Response<Plain>) -> Response<Plain> {
    response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "17"])));
    response.headers_mut().insert("etag", HeaderValue::from_static("\"tag\""));
    response
}

#[tokio::test]
async fn misses_and_all_kinds_of_hits_carry_the_same_tags() {
    let (inner, calls) = counting(|_, _| row(ok("0123456789")));
    let cache = layer(Memory::new(1 << 20), rule()).layer(inner);
    // Several times, because a thread answers a repeated request from its hot response.
    for _ in 0..4 {
        for (request, status) in [
            (get("/t/orders"), StatusCode::OK),
            (with("if-none-match", "\"tag\""), StatusCode::NOT_MODIFIED),
            (with("range", "bytes=2-3"), StatusCode::PARTIAL_CONTENT),
        ] {
            let response = send(&cache, request).await;
            assert_eq!((response.status(), tags_of(&response)), (status, vec![TAGS]));
        }
        let mut request = get("/t/orders");
        *request.method_mut() = Method::HEAD;
        assert_eq!(tags_of(&send(&cache, request).await), [TAGS]);
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn responses_that_are_not_stored_carry_their_tags() {
    let answer = |request: &Request<Plain>, _| match request.uri().path() {
        "/t/private" => {
            let mut response = row(ok("private"));
            response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
            response
        }
        _ => row(ok("a body that is too large to be stored")),
    };
    let (inner, _) = counting(answer);
    let cache = layer(Memory::new(1 << 20), rule().max_body(8)).layer(inner);
    assert_eq!(tags_of(&send(&cache, get("/t/orders")).await), [TAGS], "too large");
    assert_eq!(tags_of(&send(&cache, get("/t/private")).await), ["%2A,db,db:private,row,row:17"]);
    let mut head = get("/t/orders");
    *head.method_mut() = Method::HEAD;
    assert_eq!(tags_of(&send(&cache, head).await), [TAGS], "HEAD without an entry");
    assert_eq!(tags_of(&send(&cache, with("authorization", "Bearer a")).await), [TAGS], "a bypass");
    assert_eq!(tags_of(&send(&cache, post("/t/orders")).await), [TAGS], "a write");
    assert!(tags_of(&send(&cache, get("/other")).await).is_empty(), "no rule covers it");
}

#[tokio::test]
async fn path_that_may_name_another_route_is_not_stored_by_cdns() {
    let (inner, _) = counting(|_, _| ok("rows"));
    let cache = layer(Memory::new(1 << 20), rule()).layer(inner);
    let response = send(&cache, get("/t/%2E%2E")).await;
    assert!(tags_of(&response).is_empty());
    assert_eq!(value(&response, "cdn-cache-control"), Some("no-store"));
}

#[tokio::test]
async fn responses_of_uncached_rules_carry_their_tags() {
    let (inner, _) = counting(|_, _| row(ok("rows")));
    let cache = layer(Memory::new(1 << 20), Rule::uncached().namespace("db:{table}")).layer(inner);
    assert_eq!(tags_of(&send(&cache, get("/t/orders")).await), [TAGS]);
}

#[tokio::test]
async fn responses_carry_no_tags_by_default() {
    let (inner, _) = counting(|_, _| row(ok("rows")));
    let cache = CacheLayer::new(Memory::new(1 << 20)).rules(one_rule(rule())).layer(inner);
    for _ in 0..3 {
        assert!(tags_of(&send(&cache, get("/t/orders")).await).is_empty());
    }
}

#[tokio::test]
async fn entries_stored_without_tags_are_sent_with_them() {
    let store = Memory::new(1 << 20);
    let (inner, calls) = counting(|_, _| row(ok("rows")));
    let rules = one_rule(rule());
    send(&CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner.clone()), get("/t/orders")).await;
    let cache = CacheLayer::new(store).rules(rules).cache_tags(CacheTags::surrogate_key()).layer(inner);
    let response = send(&cache, get("/t/orders")).await;
    assert_eq!(value(&response, "surrogate-key"), Some("%2A db db:orders row row:17"));
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn stale_responses_carry_their_tags() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let answer = |_: &Request<Plain>, call| match call {
        1 => row(ok("rows")),
        _ => {
            let mut response = ok("down");
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    };
    let (inner, _) = counting(answer);
    let cache = layer(store, rule().stale_if_error(10 * MINUTE)).layer(inner);
    send(&cache, get("/t/orders")).await;
    clock.advance(MINUTE + SECOND);
    let stale = send(&cache, get("/t/orders")).await;
    assert!(matches!(outcome(&stale), Outcome::Stale(_)), "{:?}", outcome(&stale));
    assert_eq!(tags_of(&stale), [TAGS]);
}

#[tokio::test]
async fn validated_response_keeps_the_tags_of_its_handler() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let answer = |_: &Request<Plain>, call| match call {
        1 => {
            let mut response = row(ok("rows"));
            response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
            response.headers_mut().insert("cache-tag", HeaderValue::from_static("own"));
            response
        }
        _ => {
            // It repeats neither the policy nor the tag.
            let mut response = ok("");
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().insert("etag", HeaderValue::from_static("\"tag\""));
            response
        }
    };
    let (inner, _) = counting(answer);
    let cache = layer(store, Rule::http().namespace("db:{table}")).layer(inner);
    let all = format!("own,{TAGS}");
    assert_eq!(tags_of(&send(&cache, get("/t/orders")).await), [&all]);
    clock.advance(MINUTE + SECOND);
    let validated = send(&cache, get("/t/orders")).await;
    assert_eq!((validated.status(), tags_of(&validated)), (StatusCode::OK, vec![all.as_str()]));
    assert_eq!(tags_of(&send(&cache, get("/t/orders")).await), [&all]);
}

#[tokio::test]
async fn followers_of_a_body_that_arrives_get_the_tags() {
    let (cache, mut handle) = mocked(&layer(Memory::new(1 << 20), rule()));
    let mut leader = begin(&cache, get("/t/orders")).await;
    let mut follower = begin(&cache, get("/t/orders")).await;
    assert!(poll_once(&mut leader).is_pending() && poll_once(&mut follower).is_pending());
    let (_, call) = next_call(&mut handle).await;
    let (mut response, body) = channel_response(None);
    response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "17"])));
    call.send_response(response);
    let (leader, follower) = (leader.await.expect("a response"), follower.await.expect("a response"));
    assert_eq!((tags_of(&leader), tags_of(&follower)), (vec![TAGS], vec![TAGS]));
    assert_eq!(outcome(&follower), Outcome::Collapsed);
    body.send("rows");
    drop(body);
    let mut read = opened(follower);
    assert_eq!(piece(&mut read).await, Some(Ok("rows".to_owned())));
}

#[test]
fn too_many_tags_are_sent_as_no_store_and_warned_of_once() {
    let warnings = warned(too_many_tags());
    assert_eq!(warnings.with(""), 1);
    assert_eq!(warnings.with("/t/{table}") * warnings.with("Name fewer"), 1);
}

async fn too_many_tags() {
    let answer = |_: &Request<Plain>, _| {
        let policy = (0..60).fold(CachePolicy::new(), |policy, n| policy.namespace(Namespace::of(["row", &n.to_string()])));
        let mut response = ok("rows");
        response.headers_mut().insert("cache-control", HeaderValue::from_static("public, s-maxage=600"));
        response.extensions_mut().insert(policy);
        response
    };
    let (inner, calls) = counting(answer);
    let cache = ResponseCache::new(Memory::new(1 << 20))
        .rules(Rules::new().route("/t/{table}", rule()))
        .cache_tags(CacheTags::google())
        .cache_layer()
        .layer(inner);
    for _ in 0..4 {
        let response = send(&cache, get("/t/orders")).await;
        assert!(tags_of(&response).is_empty());
        assert_eq!(value(&response, "cache-control"), Some("private, no-store"));
        assert_eq!(value(&response, "cdn-cache-control"), Some("no-store"));
        assert_eq!(value(&response, "surrogate-control"), Some("no-store"));
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1, "the cache itself stores it");
}
