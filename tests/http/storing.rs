//! Responses that may be stored, and the fields of a hit.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    common::{MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, outcome, send, text},
    script::Fields,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use tower::{Layer, ServiceExt};
use tower_response_cache::{
    CacheLayer, CacheStatus, Clock, Memory, Outcome, Rule,
    status::{Bypass, Miss, NoStore, StatusBody, Storing},
};

pub(crate) const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

pub(crate) const HIT: Outcome = Outcome::Hit;

fn append(headers: &mut HeaderMap, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
}

pub(crate) fn asking(target: &str, fields: &[(&str, &str)]) -> Request<Plain> {
    let mut request = get(target);
    append(request.headers_mut(), fields);
    request
}

pub(crate) fn answering(body: impl Into<bytes::Bytes>, fields: &[(&str, &str)]) -> Response<Plain> {
    let mut response = ok(body);
    append(response.headers_mut(), fields);
    response
}

pub(crate) fn stored<B: StatusBody>(response: &Response<B>) -> Option<Storing> {
    CacheStatus::of(response).expect("a rule covers it").stored()
}

fn lines<B>(response: &Response<B>, name: &str) -> Vec<String> {
    response.headers().get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
}

/// Returns whether a response with these fields is stored, and the response to a second, equal request.
pub(crate) async fn store_and_repeat(fields: Fields) -> (Storing, Response<tower_response_cache::CacheBody<Plain>>) {
    let (inner, _) = counting(move |_, call| answering(call.to_string(), fields));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let first = send(&service, get("/t/a")).await;
    (stored(&first).expect("the inner service was called"), send(&service, get("/t/a")).await)
}

// ---- Cookies ---------------------------------------------------------------------------------------------------------

const PERMISSIVE: [&str; 9] = [
    "",
    "public",
    "public, max-age=31536000, immutable",
    "s-maxage=600",
    "private=\"set-cookie\"",
    "no-cache=\"Set-Cookie\"",
    "no-cache=set-cookie, public",
    "private=\"x-user, set-cookie\", max-age=60",
    "must-understand, stale-while-revalidate=60",
];

#[tokio::test]
async fn no_directive_sends_a_cookie_to_another_client() {
    for directive in PERMISSIVE {
        let (inner, _) = counting(move |_, call| {
            let cookie = format!("session={call}");
            answering("x", &[("cache-control", directive), ("set-cookie", &cookie), ("set-cookie", "b=1")])
        });
        let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
        for call in 1..5 {
            let response = send(&service, get("/t/a")).await;
            let own = vec![format!("session={call}"), "b=1".to_owned()];
            match outcome(&response) {
                Outcome::Miss(_) => assert_eq!(lines(&response, "set-cookie"), own, "{directive}"),
                other => assert_eq!(lines(&response, "set-cookie"), [""; 0], "{directive} {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn no_directive_sends_a_cookie_to_a_follower() {
    for directive in PERMISSIVE {
        let layer = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE)));
        let (service, mut handle) = mocked::<Plain>(&layer);
        let ask = || tokio::spawn(service.clone().oneshot(get("/t/a")));
        let asking: Vec<_> = (0..4).map(|_| ask()).collect();
        let server = tokio::spawn(async move {
            for n in 0.. {
                let Some((_, call)) = handle.next_request().await else { return };
                call.send_response(answering("x", &[("cache-control", directive), ("set-cookie", &format!("session={n}"))]));
            }
        });
        let mut seen = Vec::new();
        for answer in asking {
            let response = answer.await.expect("no panic").expect("a response");
            let cookies = lines(&response, "set-cookie");
            assert!(cookies.is_empty() || matches!(outcome(&response), Outcome::Miss(_)), "{directive}");
            seen.extend(cookies);
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "{directive}: two clients got one cookie");
        drop(service);
        server.await.expect("no panic");
    }
}

// ---- Directives ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn directives_count_in_any_case_line_and_position() {
    use NoStore::{NoCache, NoStore as Never, Private};
    let table: [(Fields, NoStore); 20] = [
        (&[("cache-control", "no-store")], Never),
        (&[("cache-control", "No-Store")], Never),
        (&[("Cache-Control", "NO-STORE")], Never),
        (&[("cache-control", "public, max-age=60 ,no-store")], Never),
        (&[("cache-control", "public"), ("cache-control", "no-store")], Never),
        (&[("cache-control", ""), ("cache-control", ","), ("cache-control", ",, no-store")], Never),
        (&[("cache-control", "ext=\"a, b\", no-store")], Never),
        (&[("cache-control", "ext=\"a\\\", b\", no-store")], Never),
        (&[("cache-control", "ext=\"never closed, no-store")], Never),
        (&[("cache-control", "must-understand, no-store")], Never),
        (&[("cache-control", "private")], Private),
        (&[("cache-control", "PRIVATE")], Private),
        (&[("cache-control", "public, Private")], Private),
        (&[("cache-control", "max-age=60"), ("cache-control", "x, private")], Private),
        (&[("cache-control", "private=\"\"")], Private),
        (&[("cache-control", "private=\"x-user\", private")], Private),
        (&[("cache-control", "no-cache")], NoCache),
        (&[("cache-control", "No-Cache")], NoCache),
        (&[("cache-control", "ext=\"no-store\"")], Never),
        (&[("cache-control", "no-storex, x-private, nocache")], Never),
    ];
    let (forbidding, allowing) = table.split_at(18);
    for (fields, why) in forbidding {
        let (storing, second) = store_and_repeat(fields).await;
        assert_eq!(storing, Storing::Not(*why), "{fields:?}");
        assert!(matches!(outcome(&second), Outcome::Miss(_)), "{fields:?}");
    }
    for (fields, _) in allowing {
        assert_eq!(outcome(&store_and_repeat(fields).await.1), HIT, "{fields:?}");
    }
}

#[tokio::test]
async fn private_and_connection_fields_are_not_stored() {
    let table: [(Fields, &[&str], &[&str]); 4] = [
        (&[("cache-control", "private=\"x-user\""), ("x-user", "1"), ("x-b", "2")], &["x-user"], &["x-b", "cache-control"]),
        (&[("cache-control", "no-cache=\"x-user\""), ("x-user", "1")], &["x-user"], &["cache-control"]),
        (&[("connection", "close, X-Hop"), ("x-hop", "1"), ("x-b", "2")], &["connection", "x-hop"], &["x-b"]),
        (
            &[("keep-alive", "timeout=5"), ("proxy-authenticate", "Basic"), ("x-b", "2")],
            &["keep-alive", "proxy-authenticate"],
            &["x-b"],
        ),
    ];
    for (fields, is_gone, there) in table {
        let (_, second) = store_and_repeat(fields).await;
        assert_eq!(outcome(&second), HIT, "{fields:?}");
        for name in is_gone {
            assert!(!second.headers().contains_key(*name), "{fields:?}: {name}");
        }
        for name in there {
            assert!(second.headers().contains_key(*name), "{fields:?}: {name}");
        }
    }
}

// ---- Statuses and methods --------------------------------------------------------------------------------------------

#[tokio::test]
async fn only_listed_statuses_are_stored() {
    const LISTED: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];
    let (inner, _) = counting(|request, _| {
        let status = request.uri().path().rsplit('/').next().expect("a status");
        Response::builder().status(status).body(Plain::default()).expect("valid")
    });
    let rule = Rule::ttl(MINUTE).status(StatusCode::IM_A_TEAPOT, MINUTE).status(StatusCode::MOVED_PERMANENTLY, Duration::ZERO);
    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
    for status in 100..600 {
        let ask = || send(&service, get(&format!("/t/{status}")));
        let want = (LISTED.contains(&status) && status != 301) || status == 418;
        let first = ask().await;
        assert_eq!((first.status().as_u16(), stored(&first) == Some(Storing::Stored)), (status, want), "{status}");
        let second = ask().await;
        assert_eq!((second.status().as_u16(), outcome(&second) == HIT), (status, want), "{status}");
    }
}

#[tokio::test]
async fn neither_part_nor_304_is_stored_as_a_response() {
    let table: [(u16, Fields, NoStore); 4] = [
        (206, &[("content-range", "bytes 0-0/5")], NoStore::Partial),
        (206, &[], NoStore::Partial),
        (200, &[("content-range", "bytes 0-0/5")], NoStore::Partial),
        (304, &[("etag", "\"a\"")], NoStore::Status),
    ];
    for (status, fields, why) in table {
        let (inner, _) = counting(move |_, _| {
            let mut response = answering("x", fields);
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            response
        });
        let rule = Rule::ttl_by_response(|_| Some(MINUTE));
        let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
        assert_eq!(stored(&send(&service, get("/t/a")).await), Some(Storing::Not(why)), "{status}");
        assert_ne!(outcome(&send(&service, get("/t/a")).await), HIT);
    }
}

#[tokio::test]
async fn get_and_head_are_served_and_get_is_stored() {
    let (inner, calls) = counting(|request, call| ok(format!("{} {call}", request.method())));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let methods = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "get"];
    for stored in [false, true] {
        if stored {
            assert_eq!(outcome(&send(&service, get("/t/a")).await), ABSENT);
        }
        for method in methods {
            let before = calls.load(Ordering::SeqCst);
            let request = Request::builder().method(method).uri("/t/a").body(Plain::default()).expect("valid");
            let response = send(&service, request).await;
            assert_eq!(outcome(&response), Outcome::Bypass(Bypass::Method), "{method}");
            assert_eq!(text(response).await, format!("{method} {}", before + 1));
        }
    }
    assert_eq!(text(send(&service, get("/t/a")).await).await, format!("GET {}", methods.len() + 1));
    let head = Request::builder().method(Method::HEAD).uri("/t/a").body(Plain::default()).expect("valid");
    assert_eq!(outcome(&send(&service, head).await), HIT);
}

#[tokio::test]
async fn refusal_of_an_unknown_user_reaches_no_known_user() {
    for status in [401, 403, 429] {
        let stored_by_rule = Rule::ttl(MINUTE).status(StatusCode::from_u16(status).expect("a status"), MINUTE);
        for rule in [Rule::ttl(MINUTE), stored_by_rule] {
            let rules = [rule.clone(), rule.identity(tower_response_cache::Identity::bearer())];
            for rule in rules {
                let (inner, _) = counting(move |request, _| {
                    let status = if request.headers().contains_key("authorization") { 200 } else { status };
                    Response::builder().status(status).body(Plain::default()).expect("valid")
                });
                let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
                for _ in 0..2 {
                    assert_eq!(send(&service, get("/t/a")).await.status().as_u16(), status);
                    let known = asking("/t/a", &[("authorization", "Bearer a")]);
                    assert_eq!(send(&service, known).await.status().as_u16(), 200);
                }
            }
        }
    }
}

// ---- Fields of a hit -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn age_of_a_hit_continues_that_of_its_response() {
    // Ages beyond the origin of the clock are stated as from there: decades, in any case.
    const DECADES: u64 = 1 << 30;
    let table: [(Fields, u64); 9] = [
        (&[], 0),
        (&[("age", "0")], 0),
        (&[("age", "10")], 10),
        (&[("age", "18446744073709551615")], DECADES),
        (&[("age", "99999999999999999999999999")], DECADES),
        (&[("age", "-1")], 0),
        (&[("age", "1.5")], 0),
        (&[("age", "soon")], 0),
        (&[("age", "")], 0),
    ];
    for (fields, from) in table {
        let clock = Clock::manual();
        let (inner, _) = counting(move |_, _| answering("x", fields));
        let store = Memory::builder().clock(clock.clone()).build();
        let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(100 * MINUTE))).layer(inner);
        let first = send(&service, get("/t/a")).await;
        assert_eq!(first.headers().get("age").map(HeaderValue::as_bytes), fields.first().map(|(_, age)| age.as_bytes()));
        let mut passed = 0;
        for step in [0, 1, 58, 1, 3539, 1, 1, 1000] {
            clock.advance(step * SECOND + Duration::from_millis(1));
            passed += u64::from(step);
            let response = send(&service, get("/t/a")).await;
            assert_eq!(outcome(&response), HIT, "{fields:?}");
            let [age] = &lines(&response, "age")[..] else { panic!("one age") };
            let age: u64 = age.parse().expect("a number");
            assert!(if from == DECADES { age >= from + passed } else { age == from + passed }, "{fields:?}: {age}");
        }
    }
}

#[tokio::test]
async fn age_counts_from_request_and_lifetime_from_response() {
    let clock = Clock::manual();
    let layer = CacheLayer::new(Memory::builder().clock(clock.clone()).build()).rules(one_rule(Rule::ttl(MINUTE)));
    let (service, mut handle) = mocked::<Plain>(&layer);
    let asking = tokio::spawn(service.clone().oneshot(get("/t/a")));
    let (_, call) = next_call(&mut handle).await;
    clock.advance(30 * SECOND);
    call.send_response(ok("x"));
    asking.await.expect("no panic").expect("a response");
    clock.advance(59 * SECOND);
    let response = send(&service, get("/t/a")).await;
    assert_eq!(outcome(&response), HIT);
    let age: u64 = lines(&response, "age")[0].parse().expect("a number");
    assert!((59..=89).contains(&age), "{age}");
}

#[tokio::test]
async fn hit_keeps_repeated_fields_in_order() {
    let fields: Fields = &[
        ("link", "</c>"),
        ("x-one", "1"),
        ("link", "</a>"),
        ("content-type", "text/plain"),
        ("link", "</b>"),
        ("etag", "\"v\""),
        ("x-empty", ""),
        ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("warning", "1"),
        ("warning", "1"),
    ];
    let (inner, _) = counting(move |_, _| {
        let mut response = answering("rows", fields);
        *response.status_mut() = StatusCode::NON_AUTHORITATIVE_INFORMATION;
        response.headers_mut().insert("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").expect("a value"));
        response
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let first = send(&service, get("/t/a")).await;
    let second = send(&service, get("/t/a")).await;
    assert_eq!((outcome(&second), second.status()), (HIT, first.status()));
    let mut expected = first.headers().clone();
    expected.insert("age", HeaderValue::from_static("0"));
    assert_eq!(*second.headers(), expected);
    assert_eq!(lines(&second, "link"), ["</c>", "</a>", "</b>"]);
    assert_eq!(text(second).await, "rows");
}

/// RFC 9111, section 5.1: the first member of a list counts, under every rule.
#[tokio::test]
async fn first_age_of_a_list_counts() {
    for (age, want) in [("3, 9", "3"), ("3,9", "3"), ("x, 9", "0"), (", 9", "0")] {
        for rule in [Rule::ttl(MINUTE), Rule::http().status(StatusCode::OK, MINUTE)] {
            let store = Memory::builder().clock(Clock::manual()).build();
            let (inner, _) = counting(move |_, _| answering("a", &[("age", age)]));
            let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
            send(&service, get("/t/a")).await;
            let second = send(&service, get("/t/a")).await;
            assert_eq!((outcome(&second), lines(&second, "age")), (HIT, vec![want.to_owned()]), "{age}");
        }
    }
}

/// The lifetime that a rule sets for a status counts from the arrival. A default lifetime counts like those of HTTP, from
/// the creation of the response.
#[tokio::test]
async fn status_lifetime_counts_from_arrival_and_default_from_age() {
    let rules = [
        (Rule::ttl(MINUTE), true),
        (Rule::http().status(StatusCode::OK, MINUTE), true),
        (Rule::http().default_ttl(MINUTE), false),
    ];
    for (rule, from_arrival) in rules {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let (inner, _) = counting(|_, _| answering("a", &[("age", "40")]));
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        send(&service, get("/t/a")).await;
        clock.advance(19 * SECOND);
        assert_eq!(outcome(&send(&service, get("/t/a")).await), HIT);
        clock.advance(SECOND);
        assert_eq!(outcome(&send(&service, get("/t/a")).await) == HIT, from_arrival);
    }
}
