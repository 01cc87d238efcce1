//! Invalidation by writes (RFC 9111, section 4.4) and by cache groups (RFC 9875).

use crate::{
    common::{MINUTE, Plain, get, ok, outcome, send},
    script::{FRESH, Fields, fields},
};
use http::{Method, Request};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    CacheLayer, Identity, InvalidateLayer, KeyExtractor, Memory, Outcome, RouteAndQuery, Rule, Rules,
    key::{Headers, RequestView},
    status::Miss,
};

/// Returns whether a write invalidates the stored response to a GET.
async fn is_invalidated(rules: Rules, stored: &str, write: Request<Plain>, status: u16, response_fields: Fields) -> bool {
    let store = Memory::default();
    let inner = service_fn(move |request: Request<Plain>| {
        let mut response = ok("x");
        response.headers_mut().extend(fields(FRESH));
        if request.method() != Method::GET {
            *response.status_mut() = status.try_into().expect("a status");
            *response.headers_mut() = fields(response_fields);
        }
        let failed = request.method() != Method::GET && status == 599;
        async move { if failed { Err("no answer") } else { Ok(response) } }
    });
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let service = InvalidateLayer::new(store).rules(rules).layer(service);
    send(&service, get(stored)).await;
    assert_eq!(outcome(&send(&service, get(stored)).await), Outcome::Hit);
    let _ = service.clone().oneshot(write).await;
    outcome(&send(&service, get(stored)).await) != Outcome::Hit
}

#[tokio::test]
async fn invalidation() {
    let write = |method: &str, target: &str| {
        Request::builder().method(method).uri(target).body(Plain::default()).expect("a valid request")
    };
    let (own, other) = ("http://a.test/x?q=1", "http://a.test/y");
    let other_origin: Fields = &[("location", "http://b.test/y")];
    for (name, stored, method, status, response_fields, want) in [
        ("4.4: the target", own, "POST", 200, &[] as Fields, true),
        ("4.4: an unknown method", own, "FROB", 204, &[], true),
        ("4.4: another query is another URI", "http://a.test/x?q=2", "POST", 200, &[], false),
        ("4.4: 3xx is no error", own, "PUT", 303, &[], true),
        ("4.4: a client error changes nothing", own, "PUT", 403, &[("location", "/y")], false),
        ("a 5xx may have been executed", own, "DELETE", 500, &[], true),
        ("a failed call may have been executed", own, "DELETE", 599, &[], true),
        ("4.4: Location", other, "POST", 201, &[("location", "/y")], true),
        ("4.4: Content-Location", other, "POST", 200, &[("content-location", "http://a.test/y")], true),
        ("4.4: not of another origin", other, "POST", 201, other_origin, false),
        ("4.4: not with an error", other, "POST", 500, &[("location", "/y")], false),
        ("9.2.1 of RFC 9110: a safe method", own, "OPTIONS", 200, &[], false),
    ] {
        let got =
            is_invalidated(Rules::new().fallback(Rule::http()), stored, write(method, own), status, response_fields).await;
        assert_eq!(got, want, "{name}");
    }
    let skipping = || Rules::new().fallback(Rule::http().skip_on_error());
    for (name, status, want) in [
        ("4.4: no error", 200, true),
        ("4.4: a server error", 500, false),
        ("4.4: a client error", 403, false),
        ("no answer", 599, true),
    ] {
        assert_eq!(is_invalidated(skipping(), own, write("POST", own), status, &[]).await, want, "skip_on_error: {name}");
    }
    // The write has another user, another language and a referer.
    type Make = fn() -> Rule;
    let by_more: [(&str, Make); 4] = [
        ("of another user", || Rule::http().identity(Identity::bearer())),
        ("in another language", || Rule::http().key(RouteAndQuery.and(Headers::new(["accept-language"])))),
        ("with a key by a closure", || Rule::http().key(|request: &RequestView<'_>| Some(format!("{:?}", request.headers())))),
        ("bypassed", || {
            Rule::http().key(|request: &RequestView<'_>| request.headers().get("referer").is_none().then(|| "x".to_owned()))
        }),
    ];
    for (name, rule) in by_more {
        for (stored, location, want) in [(own, "/", true), (other, "/y", true), ("http://a.test/z", "/y", false)] {
            let mut write = write("POST", own);
            for (field, value) in [("accept-language", "de"), ("authorization", "Bearer b"), ("referer", "http://a.test/form")]
            {
                write.headers_mut().insert(field, value.parse().expect("a value"));
            }
            let response_fields: Fields = if location == "/y" { &[("location", "/y")] } else { &[] };
            let got = is_invalidated(Rules::new().fallback(rule()), stored, write, 201, response_fields).await;
            assert_eq!(got, want, "4.4: the entry of the URI is invalidated, {name}: {stored}");
        }
    }
    let ttl = Rules::new().fallback(Rule::ttl(MINUTE));
    assert!(!is_invalidated(ttl, own, write("POST", own), 200, &[]).await, "a ttl rule invalidates only its namespaces");
}

/// Returns the outcome of a second request for a response in some groups, after a write to another URI that invalidates groups.
async fn in_groups(rule: Rule, joins: Fields, write: (&str, &str, u16), invalidates: Fields) -> Outcome {
    let store = Memory::default();
    let inner = service_fn(move |request: Request<Plain>| {
        let mut response = ok("x");
        let read = request.method() == Method::GET && request.uri().path() == "/x";
        response.headers_mut().extend(fields(FRESH));
        response.headers_mut().extend(fields(if read { joins } else { invalidates }));
        if !read {
            *response.status_mut() = write.2.try_into().expect("a status");
        }
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let rules = Rules::new().fallback(rule);
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let service = InvalidateLayer::new(store).rules(rules).layer(service);
    send(&service, get("http://a.test/x")).await;
    let request = Request::builder().method(write.0).uri(write.1).body(Plain::default()).expect("a valid request");
    send(&service, request).await;
    outcome(&send(&service, get("http://a.test/x")).await)
}

#[tokio::test]
async fn cache_groups_are_invalidated_by_name() {
    const GONE: Outcome = Outcome::Miss(Miss::Absent);
    let (joins, invalidates): (Fields, Fields) =
        (&[("cache-groups", "\"a\", \"b\"")], &[("cache-group-invalidation", "\"b\"")]);
    let many: Fields = &[("cache-groups", "\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"b\"")];
    let post = ("POST", "http://a.test/y", 200);
    let by_choice = || Rule::http().cache_groups();
    for (name, rule, joins, write, invalidates, want) in [
        ("3: a named group is invalidated", by_choice(), joins, post, invalidates, GONE),
        ("3: no other group is", by_choice(), joins, post, &[("cache-group-invalidation", "\"c\"")], Outcome::Hit),
        (
            "3: a name is compared byte for byte",
            by_choice(),
            joins,
            post,
            &[("cache-group-invalidation", "\"B\"")],
            Outcome::Hit,
        ),
        ("3: an error that names it invalidates it", by_choice(), joins, ("POST", "http://a.test/y", 409), invalidates, GONE),
        (
            "3: a safe method invalidates nothing",
            by_choice(),
            joins,
            ("GET", "http://a.test/y", 200),
            invalidates,
            Outcome::Hit,
        ),
        (
            "2.1: another origin has other groups",
            by_choice(),
            joins,
            ("POST", "http://b.test/y", 200),
            invalidates,
            Outcome::Hit,
        ),
        ("2: more groups than an entry has room for", by_choice(), many, post, invalidates, GONE),
        (
            "3: a malformed field invalidates nothing",
            by_choice(),
            joins,
            post,
            &[("cache-group-invalidation", "b")],
            Outcome::Hit,
        ),
        ("2: a response with a malformed field is not stored", by_choice(), &[("cache-groups", "\"a\", b")], post, &[], GONE),
        ("without the option", Rule::http(), joins, post, invalidates, Outcome::Hit),
        ("under a ttl rule, too", Rule::ttl(MINUTE).cache_groups(), joins, post, invalidates, GONE),
    ] {
        let got = in_groups(rule, joins, write, invalidates).await;
        // After an unstorable response, the second request does not wait.
        let got = if matches!(got, Outcome::Miss(_)) { GONE } else { got };
        assert_eq!(got, want, "RFC 9875, {name}");
    }
}
