//! What may be stored, and what a hit carries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::common::{MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, outcome, send, text};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Bypass, CacheLayer, CachePolicy, CacheStatus, Clock, MAX_NAMESPACES, Memory, Miss, Namespace, NoStore, Outcome, Rule,
    Stale, Store, Storing,
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);
/// Something is stored for the key, but not what these request fields ask for (RFC 9111, section 4.1).
const OTHER_VARIANT: Outcome = Outcome::Miss(Miss::Variant);
const HIT: Outcome = Outcome::Hit;

type Fields = &'static [(&'static str, &'static str)];

fn append(headers: &mut HeaderMap, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
}

fn asking(target: &str, fields: &[(&str, &str)]) -> Request<Plain> {
    let mut request = get(target);
    append(request.headers_mut(), fields);
    request
}

fn answering(body: impl Into<bytes::Bytes>, fields: &[(&str, &str)]) -> Response<Plain> {
    let mut response = ok(body);
    append(response.headers_mut(), fields);
    response
}

fn stored<B>(response: &Response<B>) -> Option<Storing> {
    response.extensions().get::<CacheStatus>().expect("a rule covers it").stored()
}

fn lines<B>(response: &Response<B>, name: &str) -> Vec<String> {
    response.headers().get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
}

/// What became of a response with these fields, and the second answer for the same request.
async fn kept(fields: Fields) -> (Storing, Response<tower_response_cache::CacheBody<Plain>>) {
    let (inner, _) = counting(move |_, call| answering(call.to_string(), fields));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let first = send(&service, get("/t/a")).await;
    (stored(&first).expect("the inner service was asked"), send(&service, get("/t/a")).await)
}

// ---- Cookies ---------------------------------------------------------------------------------------------------------

const TEMPTING: [&str; 9] = [
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
async fn no_directive_makes_a_cookie_reach_another_client() {
    for directive in TEMPTING {
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
async fn no_directive_makes_a_cookie_reach_a_client_that_waited() {
    for directive in TEMPTING {
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
            let response = answer.await.expect("no panic").expect("an answer");
            let cookies = lines(&response, "set-cookie");
            assert!(cookies.is_empty() || matches!(outcome(&response), Outcome::Miss(_)), "{directive}");
            seen.extend(cookies);
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "{directive}: one cookie for two");
        drop(service);
        server.await.expect("no panic");
    }
}

// ---- Directives ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_a_response_forbids_counts_in_any_case_on_any_line_and_after_any_comma() {
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
        let (storing, second) = kept(fields).await;
        assert_eq!(storing, Storing::Not(*why), "{fields:?}");
        assert!(matches!(outcome(&second), Outcome::Miss(_)), "{fields:?}");
    }
    for (fields, _) in allowing {
        assert_eq!(outcome(&kept(fields).await.1), HIT, "{fields:?}");
    }
}

#[tokio::test]
async fn fields_that_are_private_or_of_the_connection_are_not_in_what_is_stored() {
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
    for (fields, gone, there) in table {
        let (_, second) = kept(fields).await;
        assert_eq!(outcome(&second), HIT, "{fields:?}");
        for name in gone {
            assert!(!second.headers().contains_key(*name), "{fields:?}: {name}");
        }
        for name in there {
            assert!(second.headers().contains_key(*name), "{fields:?}: {name}");
        }
    }
}

// ---- Vary ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_varies_by_everything_is_not_stored() {
    let table: [Fields; 5] = [
        &[("vary", "*")],
        &[("vary", "accept, *")],
        &[("vary", "accept"), ("vary", "*")],
        &[("vary", "not a name")],
        &[("vary", "a, b, c, d, e, f, g, h, i")],
    ];
    for fields in table {
        let (storing, second) = kept(fields).await;
        assert_eq!(storing, Storing::Not(NoStore::Vary), "{fields:?}");
        assert!(matches!(outcome(&second), Outcome::Miss(_)));
    }
}

/// Answers in the language that is asked for, and says so.
fn multilingual(request: &Request<Plain>, call: usize) -> Response<Plain> {
    let asked: Vec<_> = request.headers().get_all("accept-language").iter().map(|v| v.to_str().expect("text")).collect();
    answering(format!("{} {call}", asked.join("|")), &[("vary", "Accept-Language")])
}

#[tokio::test]
async fn variants_live_side_by_side_and_none_is_served_for_another() {
    let variants: [Fields; 7] = [
        &[],
        &[("accept-language", "")],
        &[("accept-language", "en")],
        &[("accept-language", "de")],
        &[("accept-language", "de, en")],
        &[("accept-language", "en, de")],
        // The first line alone is that of another variant.
        &[("accept-language", "en"), ("accept-language", "fr")],
    ];
    let (inner, calls) = counting(multilingual);
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let mut bodies = Vec::new();
    for fields in variants {
        let response = send(&service, asking("/t/a", fields)).await;
        let want = if bodies.is_empty() { ABSENT } else { OTHER_VARIANT };
        assert_eq!(outcome(&response), want, "{fields:?}");
        bodies.push(text(response).await);
    }
    for (fields, body) in variants.iter().zip(&bodies).rev() {
        let response = send(&service, asking("/t/a", fields)).await;
        assert_eq!((outcome(&response), text(response).await), (HIT, body.clone()), "{fields:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), variants.len());
    // RFC 9111, section 4.1: a list on two lines is the list on one.
    let joined = [("accept-language", "de"), ("accept-language", "en")];
    assert_eq!(text(send(&service, asking("/t/a", &joined)).await).await, bodies[4]);
}

#[tokio::test]
async fn a_field_that_the_first_response_did_not_name_counts_from_the_second_on() {
    let (inner, _) = counting(|request, call| {
        let tenant = request.headers().get("x-tenant").map_or("", |tenant| tenant.to_str().expect("text"));
        let vary = if call == 1 { "accept-language" } else { "x-tenant" };
        answering(format!("{tenant} {call}"), &[("vary", vary)])
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let ask = async |language: &str, tenant: &str| {
        text(send(&service, asking("/t/a", &[("accept-language", language), ("x-tenant", tenant)])).await).await
    };
    assert_eq!(ask("en", "1").await, "1 1");
    assert_eq!(ask("de", "1").await, "1 2");
    assert_eq!(ask("de", "2").await, "2 3");
    for _ in 0..2 {
        assert_eq!(ask("de", "1").await, "1 2");
        assert_eq!(ask("de", "2").await, "2 3");
    }
}

#[tokio::test]
async fn an_answer_that_forgets_vary_is_not_served_to_those_of_whom_it_is_known_to_vary() {
    // RFC 9111, section 4.1: "some resources mistakenly omit the Vary header field from their default response".
    let (inner, _) = counting(|request, call| match request.headers().contains_key("accept-language") {
        true => multilingual(request, call),
        false => ok("default"),
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let ask = async |fields: Fields| text(send(&service, asking("/t/a", fields)).await).await;
    assert_eq!(ask(&[("accept-language", "de")]).await, "de 1");
    assert_eq!(ask(&[]).await, "default");
    assert_eq!(ask(&[("accept-language", "de")]).await, "de 1");
    assert_eq!(ask(&[("accept-language", "en")]).await, "en 3");
    assert_eq!(ask(&[]).await, "default");
}

#[tokio::test]
async fn stale_if_error_serves_the_variant_that_is_asked_for() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let failing = Arc::new(AtomicBool::new(false));
    let down = failing.clone();
    let (inner, _) = counting(move |request, call| match down.load(Ordering::SeqCst) {
        true => Response::builder().status(503).body(Plain::default()).expect("valid"),
        false => multilingual(request, call),
    });
    let rule = Rule::ttl(MINUTE).stale_if_error(MINUTE);
    let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
    let ask = async |language: &str| {
        let response = send(&service, asking("/t/a", &[("accept-language", language)])).await;
        (outcome(&response), response.status().as_u16(), text(response).await)
    };
    ask("en").await;
    ask("de").await;
    clock.advance(MINUTE);
    failing.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(ask("en").await, (Outcome::Stale(Stale::IfError), 200, "en 1".into()));
        assert_eq!(ask("de").await, (Outcome::Stale(Stale::IfError), 200, "de 2".into()));
        assert_eq!(ask("fr").await, (OTHER_VARIANT, 503, String::new()));
    }
}

#[tokio::test]
async fn all_variants_of_a_key_are_cleared_with_it() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE));
    let (inner, _) = counting(multilingual);
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let ask = async |language: &str| outcome(&send(&service, asking("/t/a", &[("accept-language", language)])).await);
    assert_eq!((ask("en").await, ask("de").await, ask("en").await), (ABSENT, OTHER_VARIANT, HIT));
    store.invalidate_key(&rules.key(&store, &get("/t/a")).expect("a key")).await.expect("memory answers");
    assert_eq!((ask("en").await, ask("de").await, ask("en").await), (ABSENT, OTHER_VARIANT, HIT));
}

// ---- Statuses and methods --------------------------------------------------------------------------------------------

#[tokio::test]
async fn of_all_statuses_only_those_listed_are_stored() {
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
async fn a_part_is_never_stored_as_the_whole_nor_a_304_as_an_answer() {
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
async fn only_get_and_head_are_answered_from_the_cache_and_only_get_is_stored() {
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
async fn a_refusal_of_somebody_unknown_is_never_served_to_who_is_known() {
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

// ---- What a hit carries ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_age_of_a_hit_is_that_of_its_response_and_grows_with_the_clock() {
    // Ages beyond the beginning of the clock's count are told as from there: decades, in any case.
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
async fn an_age_counts_from_before_the_body_was_stored_and_a_lifetime_from_after_the_answer() {
    let clock = Clock::manual();
    let layer = CacheLayer::new(Memory::builder().clock(clock.clone()).build()).rules(one_rule(Rule::ttl(MINUTE)));
    let (service, mut handle) = mocked::<Plain>(&layer);
    let asking = tokio::spawn(service.clone().oneshot(get("/t/a")));
    let (_, call) = next_call(&mut handle).await;
    clock.advance(30 * SECOND);
    call.send_response(ok("x"));
    asking.await.expect("no panic").expect("an answer");
    clock.advance(59 * SECOND);
    let response = send(&service, get("/t/a")).await;
    assert_eq!(outcome(&response), HIT);
    let age: u64 = lines(&response, "age")[0].parse().expect("a number");
    assert!((59..=89).contains(&age), "{age}");
}

#[tokio::test]
async fn a_hit_carries_every_header_and_repeated_ones_in_their_order() {
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

// ---- What a handler says ---------------------------------------------------------------------------------------------

async fn hinted(rule: Rule, hints: CachePolicy) -> (Storing, bool, Clock, Memory, impl AsyncFn() -> Outcome) {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let (inner, _) = counting(move |_, _| {
        let mut response = ok("x");
        response.extensions_mut().insert(hints.clone());
        response
    });
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
    let first = send(&service, get("/t/a")).await;
    let leaks = first.extensions().get::<CachePolicy>().is_some();
    let ask = async move || outcome(&send(&service, get("/t/a")).await);
    (stored(&first).expect("asked"), leaks, clock, store, ask)
}

fn named(names: &[&str]) -> CachePolicy {
    names.iter().fold(CachePolicy::new(), |hints, name| hints.namespace(Namespace::new(name).expect("a name")))
}

#[tokio::test]
async fn a_handler_says_how_long_its_response_lives() {
    for (by_rule, ttl) in [(MINUTE, 5 * MINUTE), (5 * MINUTE, SECOND), (Duration::ZERO, SECOND)] {
        let (storing, leaks, clock, _, ask) = hinted(Rule::ttl(by_rule), CachePolicy::new().ttl(ttl)).await;
        assert_eq!((storing, leaks), (Storing::Stored, false));
        clock.advance(ttl - Duration::from_nanos(1));
        assert_eq!(ask().await, HIT);
        clock.advance(Duration::from_nanos(1));
        assert_eq!(ask().await, Outcome::Miss(Miss::Expired));
    }
    let (storing, ..) = hinted(Rule::ttl(MINUTE), CachePolicy::new().ttl(Duration::ZERO)).await;
    assert_eq!(storing, Storing::Not(NoStore::Lifetime));
}

#[tokio::test]
async fn a_handler_forbids_storing() {
    let (storing, leaks, _, store, ask) = hinted(Rule::ttl(MINUTE), CachePolicy::no_store()).await;
    assert_eq!((storing, leaks), (Storing::Not(NoStore::NoStore), false));
    assert!(matches!(ask().await, Outcome::Miss(_)));
    assert_eq!(store.usage().entries, 0);
}

#[tokio::test]
async fn a_handler_names_what_its_response_belongs_to() {
    for (cleared, gone) in [("row:7", true), ("row", true), ("row:8", false), ("db:a", true), ("*", true), ("row:77", false)] {
        let rule = Rule::ttl(MINUTE).namespace("db:{table}");
        let (storing, _, _, store, ask) = hinted(rule, named(&["row:7"])).await;
        assert_eq!((storing, ask().await), (Storing::Stored, HIT));
        store.invalidate([cleared]).await.expect("a name");
        assert_eq!(ask().await == ABSENT, gone, "{cleared}");
    }
}

#[tokio::test]
async fn response_may_name_as_many_namespaces_as_are_allowed() {
    let rows = |count: usize, levels: &str| (0..count).map(|n| format!("{levels}{n}")).collect::<Vec<_>>();
    let most = MAX_NAMESPACES - 1;
    for (names, want) in [
        (rows(64, ""), Storing::Stored),
        (rows(most, ""), Storing::Stored),
        // Neither ancestors count, nor what is named twice or comes by itself.
        (rows(most, "a:b:c:d:e:f"), Storing::Stored),
        (["a", "a:b", "db", "db:a", "*"].map(String::from).into_iter().chain(rows(most, "a:b:c")).collect(), Storing::Stored),
        (rows(most + 1, ""), Storing::Not(NoStore::Namespaces)),
        (rows(most + 1, "a:b:c:d:e:f"), Storing::Not(NoStore::Namespaces)),
        (rows(100_000, "a:"), Storing::Not(NoStore::Namespaces)),
    ] {
        let rule = Rule::ttl(MINUTE).namespace("db:{table}");
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(hinted(rule, named(&names)).await.0, want, "{} such as {:?}", names.len(), names.last());
    }
    let long: Vec<_> = (0..1000).map(|n| format!("{}ä{n}", "n".repeat(190))).collect();
    let long: Vec<_> = long.iter().chain(&long).map(String::as_str).collect();
    assert_eq!(hinted(Rule::ttl(MINUTE), named(&long)).await.0, Storing::Not(NoStore::Namespaces));
}

#[tokio::test]
async fn each_of_many_namespaces_and_its_ancestors_invalidate() {
    let rows: Vec<_> = (0..100).map(|n| format!("row:t{}:{n}", n % 3)).collect();
    let rows: Vec<_> = rows.iter().map(String::as_str).collect();
    for (cleared, gone) in [("row:t0:99", true), ("row:t1:1", true), ("row:t2", true), ("row", true), ("row:t0:1", false)] {
        let (storing, _, _, store, ask) = hinted(Rule::ttl(MINUTE), named(&rows)).await;
        assert_eq!((storing, ask().await), (Storing::Stored, HIT));
        store.invalidate([cleared]).await.expect("a name");
        assert_eq!(ask().await == ABSENT, gone, "{cleared}");
    }
}

/// RFC 9111, section 5.1: of a list the first member counts, under whatever rule.
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

/// The lifetime that a rule sets for a status counts from the arrival; one that it sets where HTTP states none counts as HTTP's do, from
/// when the response was made.
#[tokio::test]
async fn lifetime_of_a_status_counts_from_arrival_and_a_default_from_the_age() {
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

/// What was chosen by a field of the request is not for a request that differs in it, whatever `Vary` says.
#[tokio::test]
async fn negotiated_response_is_not_shared_without_vary() {
    let cases: [(&str, &str, &str, &str, &str); 3] = [
        ("accept-encoding", "gzip, br", "identity", "content-encoding", "gzip"),
        ("accept-language", "de", "en", "content-language", "de"),
        ("origin", "https://a.example", "https://b.example", "access-control-allow-origin", "https://a.example"),
    ];
    for (asks, one, other, says, value) in cases {
        for (rule, plain_before) in [(Rule::ttl(MINUTE), 0), (Rule::ttl(MINUTE), 70), (Rule::http().default_ttl(MINUTE), 0)] {
            // As a handler does that forgets `Vary`.
            let (inner, _) = counting(move |request, call| {
                let negotiated = request.headers().get(asks).is_some_and(|asked| asked == one);
                let fields: Vec<_> = negotiated.then_some((says, value)).into_iter().collect();
                answering(call.to_string(), &fields)
            });
            let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
            for n in 0..plain_before {
                send(&service, get(&format!("/t/{n}"))).await;
            }
            let mut seen = Vec::new();
            for _ in 0..3 {
                for fields in [&[(asks, one)][..], &[(asks, other)], &[]] {
                    let response = send(&service, asking("/t/a", fields)).await;
                    let is_one = fields.first().is_some_and(|(_, value)| *value == one);
                    assert!(is_one || !response.headers().contains_key(says), "{asks}: {fields:?}");
                    seen.push(outcome(&response));
                }
            }
            assert_eq!(seen[6..], [HIT; 3], "{asks}, {plain_before} before");
        }
    }
}

/// What is the same for every request is shared by all of them.
#[tokio::test]
async fn response_that_was_not_negotiated_is_shared() {
    let fields = [
        ("content-encoding", "identity"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://c.example"),
    ];
    for field in fields {
        let (inner, calls) = counting(move |_, _| answering("a", &[field]));
        let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
        for asked in [("origin", "https://a.example"), ("accept-encoding", "gzip"), ("origin", "https://b.example")] {
            send(&service, asking("/t/a", &[asked])).await;
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{field:?}");
    }
}
