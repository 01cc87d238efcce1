//! One target has many spellings: a write invalidates the entries of all.

use std::convert::Infallible;

use super::nested::{ABSENT, HIT, Nest, Shape, invalidates};
use crate::common::{MINUTE, Plain, counting, get, ok, outcome, outcome_in_extension, send, text};
use axum::body::Body;
use http::{Request, Response};
use proptest::prelude::*;
use tower::{Layer, service_fn};
use tower_response_cache::{
    CacheLayer, Identity, InvalidateLayer, Memory, Outcome, RouteAndQuery, Rule, Rules, Store, semantics::NoVarySearch,
    status::Bypass,
};

// ---- Targets ---------------------------------------------------------------------------------------------------------

/// RFC 9110, section 4.2.3, and RFC 3986, section 6.2.2 and 6.2.3.
#[tokio::test]
async fn write_invalidates_every_spelling_of_its_uri() {
    let shape = Shape { nest: Nest::Flat, cache_inside: false, invalidate_inside: false, normalize: None };
    let app = shape.app(&Memory::default(), &Rules::new().fallback(Rule::http()));
    for (read, write) in [
        (("s.test", "/a1"), ("s.test:80", "/a1")),
        (("s.test", "/a2"), ("s.test:", "/a2")),
        (("s.test", "/a3"), ("S.TEST:080", "/a3")),
        (("s.test:8080", "/a4"), ("s.test:08080", "/a4")),
        (("s.test", "/a5"), ("s.test", "http://s.test/a5")),
        (("s.test", "/a6"), ("s.test", "https://s.test:443/a6")),
        (("[::1]", "/a7"), ("[::1]:80", "/a7")),
        (("s.test", "/z~1"), ("s.test", "/z%7E1")),
        (("s.test", "/z%7e2"), ("s.test", "/z~2")),
        (("s.test", "/caf%c3%a9"), ("s.test", "/caf%C3%A9")),
        (("s.test", "/b/1"), ("s.test", "/b/./1")),
        (("s.test", "/b/2"), ("s.test", "/c/../b/2")),
        (("s.test", "/b/3"), ("s.test", "/c/%2e%2E/b/3")),
        (("s.test", "/b/4"), ("s.test", "//b/4")),
        (("s.test", "/q?a=~1&b=2"), ("s.test", "/q?b=2&a=%7E1")),
        (("s.test", "/q?a%7e=1&b=2"), ("s.test", "/q?a~=1&b=2")),
    ] {
        assert!(invalidates(&app, read, "PUT", write).await, "{read:?} {write:?}");
    }
    for (read, write) in [
        (("s.test", "/d1"), ("s.test:81", "/d1")),
        (("s.test", "/d2"), ("t.test", "/d2")),
        (("s.test", "/d3"), ("s.test", "/d3?a=1")),
        (("s.test", "/d4"), ("s.test", "/d%34x")),
    ] {
        assert!(!invalidates(&app, read, "PUT", write).await, "{read:?} {write:?}");
    }
}

#[tokio::test]
async fn uncounted_query_hides_no_entry() {
    let shape = Shape { nest: Nest::Flat, cache_inside: false, invalidate_inside: false, normalize: None };
    let rule = Rule::http().key(RouteAndQuery.without_query(["utm_*"]));
    let app = shape.app(&Memory::default(), &Rules::new().fallback(rule));
    for (read, write) in [
        ("/1?a=1&utm_x=2", "/1?a=1"),
        ("/2?a=1&utm%5Fx=2", "/2?a=1&utm_x=2"),
        ("/3?a=1&utm_x=2", "/3?a=1&utm%5fx=2"),
        ("/4?a%7E=1&utm_x=2", "/4?utm_x=2&a~=1"),
    ] {
        assert!(invalidates(&app, ("s.test", read), "PUT", ("s.test", write)).await, "{read} {write}");
    }
}

/// If a router behind the cache serves these spellings, a write to them has changed the same resource.
#[tokio::test]
async fn write_matches_its_route_in_every_spelling() {
    let shape = Shape { nest: Nest::Flat, cache_inside: false, invalidate_inside: false, normalize: None };
    let rules = Rules::new()
        .route("/orders/{id}", Rule::ttl(MINUTE).namespace("order:{id}"))
        .route("/files/{*path}", Rule::ttl(MINUTE).namespace("file:{path}"));
    for (read, writes) in [
        (
            "/orders/7",
            &["//orders/7", "/./orders/7", "/orders/%37", "/%6frders/7", "/orders/7/", "/x/../orders/7", "/orders//7"]
                as &[_],
        ),
        ("/files/a/b", &["/files/a//b", "/files/./a/b", "/files/a/b/", "/files/c/../a/b"]),
    ] {
        for write in writes {
            let app = shape.app(&Memory::default(), &rules);
            assert!(invalidates(&app, ("s.test", read), "PUT", ("s.test", write)).await, "{read} {write}");
        }
    }
}

/// Forwarding fields are part of the key, and do not limit the invalidations of a write.
#[tokio::test]
async fn write_invalidates_its_uri_for_all_forwarding_fields() {
    let shape = Shape { nest: Nest::Flat, cache_inside: false, invalidate_inside: false, normalize: None };
    let (store, rules) = (Memory::default(), Rules::new().fallback(Rule::http()));
    let app = shape.app(&store, &rules);
    let ask = async |method: &str, target: &str, fields: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(target).header("host", "s.test");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = send(&app, request.body(Body::empty()).expect("a request")).await;
        outcome_in_extension(&response)
    };
    let forwarded: &[(&str, &str)] = &[("x-forwarded-host", "shop.test"), ("x-forwarded-proto", "https")];
    for (n, target) in ["/a?b=1", "/a/b~", "/%7Ea?c=%7E"].into_iter().enumerate() {
        for fields in [forwarded, &[]] {
            assert_eq!(ask("GET", target, fields).await, Some(ABSENT), "{target}");
            assert_eq!(ask("GET", target, fields).await, Some(HIT), "{target}");
        }
        let by = if n == 0 { forwarded } else { &[] };
        ask("PUT", target, by).await;
        for fields in [forwarded, &[]] {
            assert_eq!(ask("GET", target, fields).await, Some(ABSENT), "{target}");
        }
        let key = rules.key(&store, &Request::get(target).header("host", "s.test").body(()).expect("a request"));
        store.invalidate_key(&key.expect("a key")).await.expect("memory is reachable");
        for fields in [forwarded, &[]] {
            assert_eq!(ask("GET", target, fields).await, Some(ABSENT), "{target}");
        }
    }
}

#[derive(Debug, Clone)]
struct Spelling {
    host: &'static str,
    path: String,
}

/// Returns a path under the prefix, in spellings that RFC 3986 calls equivalent.
fn spelling(segments: Vec<&'static str>) -> impl Strategy<Value = Spelling> {
    let hosts = prop::sample::select(&["s.test", "S.test", "s.test:80", "s.test:", "s.TEST:0080", "%73.test"][..]);
    let odd = prop::collection::vec((0..5_u8, any::<prop::sample::Index>()), segments.len());
    (hosts, odd).prop_map(move |(host, odd)| {
        let mut path = String::new();
        for (segment, (how, at)) in segments.iter().zip(odd) {
            let at = at.index(segment.len());
            let encoded = format!("{}%{:02X}{}", &segment[..at], segment.as_bytes()[at], &segment[at + 1..]);
            path += &match how {
                0 => format!("/{segment}"),
                1 => format!("/./{segment}"),
                2 => format!("/gone/../{segment}"),
                3 if segment.as_bytes()[at] != b'%' => format!("/{encoded}"),
                _ => format!("/{}", segment.replace("%2f", "%2F")),
            };
        }
        Spelling { host, path }
    })
}

fn shapes() -> impl Strategy<Value = Shape> {
    let nests = prop::sample::select(&[Nest::Flat, Nest::Router, Nest::Service][..]);
    let normalize = prop::sample::select(&[None, Some(true), Some(false)][..]);
    (nests, any::<bool>(), any::<bool>(), normalize).prop_map(|(nest, cache_inside, invalidate_inside, normalize)| Shape {
        nest,
        cache_inside,
        invalidate_inside,
        normalize,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Through real routers: any layer reads, any layer writes, and both use any spelling of the target.
    #[test]
    fn equivalent_targets_are_invalidated_together(
        shape in shapes().prop_filter("known", Shape::is_known),
        (read, write) in prop::collection::vec(prop::sample::select(&["a", "b~", "c-d", "e%2f"][..]), 1..4)
            .prop_flat_map(|segments| (spelling(segments.clone()), spelling(segments))),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let app = shape.app(&Memory::new(64 << 10), &Rules::new().fallback(Rule::http()));
        let at = |spelling: &Spelling| format!("{}{}", shape.prefix(), spelling.path);
        let (from, to) = (at(&read), at(&write));
        let gone = runtime.block_on(invalidates(&app, (read.host, &from), "PUT", (write.host, &to)));
        prop_assert!(gone, "{:?} {} {} {} {}", shape, read.host, from, write.host, to);
    }
}

#[tokio::test]
async fn redirect_to_https_is_not_served_over_https() {
    let redirect = |request: &Request<Plain>, _: usize| match request.uri().scheme_str() {
        Some("http") => {
            Response::builder().status(301).header("location", "https://shop.test/").body(Plain::default()).unwrap()
        }
        _ => ok("the shop"),
    };
    for rule in [Rule::ttl(MINUTE), Rule::ttl(MINUTE).key(RouteAndQuery.without_host())] {
        tower_response_cache::__private::remember_at_once();
        let cache = CacheLayer::new(Memory::default()).rules(Rules::new().fallback(rule)).layer(counting(redirect).0);
        for expected in [ABSENT, HIT, HIT] {
            for (target, status) in [("http://shop.test/", 301), ("https://shop.test/", 200), ("/", 200)] {
                let response = send(&cache, get(target)).await;
                assert_eq!((response.status().as_u16(), outcome(&response)), (status, expected), "{target}");
            }
        }
    }
}

// ---- Queries and paths -----------------------------------------------------------------------------------------------

/// A handler that splits the query at `;` too, and responds with the last parameter `a`.
fn last_a(request: &Request<Plain>, _: usize) -> Response<Plain> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let last = query.split(['&', ';']).filter_map(|piece| piece.strip_prefix("a=")).next_back().unwrap_or_default().to_owned();
    ok(last)
}

#[tokio::test]
async fn semicolon_in_a_value_poisons_no_other_query() {
    type Make = fn() -> Rule;
    let rules: [(&str, Make); 4] = [
        ("sorted", || Rule::ttl(MINUTE)),
        ("without", || Rule::ttl(MINUTE).key(RouteAndQuery.without_query(["utm_*"]))),
        ("only", || Rule::ttl(MINUTE).key(RouteAndQuery.only_query(["a"]))),
        ("No-Vary-Search", || {
            Rule::ttl(MINUTE).key(RouteAndQuery.no_vary_search(NoVarySearch::ignoring(["utm_content", "b"])))
        }),
    ];
    for (name, rule) in rules {
        for (attack, honest) in [("/?a=1&utm_content=x;a=evil", "/?a=1"), ("/?b=1;a=x&a=y", "/?a=y&b=1;a=x")] {
            let cache = CacheLayer::new(Memory::default()).rules(Rules::new().fallback(rule())).layer(counting(last_a).0);
            let first = text(send(&cache, get(attack)).await).await;
            let second = text(send(&cache, get(honest)).await).await;
            assert_ne!(first, second, "{name}: {attack} {honest}");
        }
    }
}

/// A path that a handler may resolve to another route is not cached, unless the rule states that it is text.
#[tokio::test]
async fn wildcard_that_may_leave_its_route_bypasses() {
    let rules = |text: bool| {
        let rule = || if text { Rule::http().path_as_text() } else { Rule::http() }.ignore_cookies();
        // The second pattern does not consist of whole segments: it is matched by the tree.
        Rules::new().route("/static/{*path}", rule()).route("/t/{id}", rule()).route("/v{version}/{*path}", rule())
    };
    let inner = service_fn(async |_: Request<Plain>| {
        let response = Response::builder().header("cache-control", "max-age=60").body(Plain::default());
        Ok::<_, Infallible>(response.expect("a response"))
    });
    let odd = Outcome::Bypass(Bypass::AmbiguousPath);
    for (target, expected) in [
        ("/static/../account", odd),
        ("/static/..%2faccount", odd),
        ("/static/..%2Faccount", odd),
        ("/static/%2e%2e/account", odd),
        ("/static/a/./b", odd),
        ("/static/..", odd),
        ("/static/..;x/account", odd),
        ("/static/..%5caccount", odd),
        ("/static/a%5Cb", odd),
        ("/static/a%2Fb", odd),
        ("/v1/..%2faccount", odd),
        ("/v1/a%2fb", odd),
        ("/t/..", odd),
        ("/t/..%2faccount", odd),
        ("/t/%2e%2e", odd),
        ("/static/app.js", ABSENT),
        ("/static/.well-known/x", ABSENT),
        ("/static/a..b/...", ABSENT),
        ("/static/caf%C3%A9", ABSENT),
        ("/v1/app.js", ABSENT),
        ("/t/a%2Fb", ABSENT),
        ("/t/.hidden", ABSENT),
    ] {
        let cache = CacheLayer::new(Memory::default()).rules(rules(false)).layer(inner);
        assert_eq!(outcome(&send(&cache, get(target)).await), expected, "{target}");
        let cache = CacheLayer::new(Memory::default()).rules(rules(true)).layer(inner);
        assert_eq!(outcome(&send(&cache, get(target)).await), ABSENT, "{target}, as text");
    }
}

/// The documented table of equivalent targets: an empty query equals an absent one.
#[tokio::test]
async fn write_reaches_every_spelling_of_its_query() {
    let same: [&[&str]; 4] = [
        &["/t/x", "/t/x?", "/t//x?", "/t/%78?", "/t/x/?"],
        &["/t/x?a=1", "/t/x?a=%31", "/t//x?%61=1"],
        &["/t/x?a=1&b=2", "/t/x?b=2&a=1", "/t/x?b=%32&a=1", "/t//x?%62=2&a=1"],
        &["/t/x?a[]=1&b=2", "/t/x?b=2&a[]=1", "/t/x?a%5B%5D=1&b=2"],
    ];
    for rule in [Rule::http(), Rule::http().key(RouteAndQuery.without_query(["utm_*"]))] {
        for route in [None, Some("/t/{*path}")] {
            for spellings in same {
                for read in spellings {
                    for write in spellings {
                        let rules = match route {
                            None => Rules::new().fallback(rule.clone()),
                            Some(route) => Rules::new().route(route, rule.clone()),
                        };
                        let store = Memory::default();
                        let (inner, _) = counting(|_, n| {
                            let mut response = ok(format!("{n}"));
                            response.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
                            response
                        });
                        let cache = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
                        let app = InvalidateLayer::new(store).rules(rules).layer(cache);
                        send(&app, get(read)).await;
                        assert_eq!(outcome(&send(&app, get(read)).await), HIT, "{read}");
                        let mut put = get(write);
                        *put.method_mut() = http::Method::PUT;
                        send(&app, put).await;
                        assert_ne!(outcome(&send(&app, get(read)).await), HIT, "GET {read}, PUT {write}, {route:?}");
                    }
                }
            }
        }
    }
}

// ---- Identities ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn write_invalidates_every_spelling_of_its_identity() {
    let sid = || Identity::cookie("sid");
    let inner = service_fn(async |_: Request<Plain>| Ok::<_, Infallible>(ok("x")));
    for (identity, field, read, write) in [
        (sid(), "cookie", "sid=ada", "sid =ada"),
        (sid(), "cookie", "sid=ada", "sid=\"ada\""),
        (sid(), "cookie", "sid=ada", "sid= ada"),
        (sid(), "cookie", "sid=ada", "a=b; sid\t=\t\"ada\" ; c=d"),
        (sid(), "cookie", "sid=ada", "sid=%61da"),
        (sid(), "cookie", "sid=\"ada\"", "sid=ada"),
        (sid(), "cookie", "sid=%61da", "sid=ada"),
        (sid(), "cookie", "sid=ada", "sid =bob; sid=ada"),
        (Identity::bearer(), "authorization", "Bearer ada", "bearer\tada"),
        (Identity::bearer(), "authorization", "Bearer ada", "BEARER   ada"),
        (Identity::header("x-api-key"), "x-api-key", "ada", " ada "),
    ] {
        let store = Memory::default();
        let rules = Rules::new().fallback(Rule::ttl(MINUTE).identity(identity.clone()).namespace("user:{identity}"));
        let app = InvalidateLayer::new(store.clone())
            .rules(rules.clone())
            .layer(CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner));
        let ask = |method: &str, value: &str| {
            let mut request = Request::builder().method(method).uri("/").body(Plain::default()).expect("a request");
            request.headers_mut().insert(field, value.parse().expect("a value"));
            send(&app, request)
        };
        assert_eq!(outcome(&ask("GET", read).await), ABSENT);
        assert_eq!(outcome(&ask("GET", read).await), HIT);
        ask("POST", write).await;
        assert_eq!(outcome(&ask("GET", read).await), ABSENT, "{identity:?} {read} {write}");
        let other = read.replace("ada", "bob").replace("%61da", "bob");
        let first = outcome(&ask("GET", &other).await);
        ask("POST", read).await;
        assert_eq!((first, outcome(&ask("GET", &other).await)), (ABSENT, HIT), "another's, {identity:?} {read}");
    }
}

/// A handler that trims names uses the first cookie, a handler that does not trim uses the second.
#[tokio::test]
async fn spaced_cookie_beside_a_plain_one_is_ambiguous() {
    let inner = service_fn(async |_: Request<Plain>| Ok::<_, Infallible>(ok("x")));
    for (identity, field, value) in [
        (Identity::cookie("sid"), "cookie", "sid =ada; sid=bob"),
        (Identity::cookie("sid"), "cookie", "sid =ada"),
        (Identity::bearer(), "authorization", "Bearer\tada"),
    ] {
        let rules = Rules::new().fallback(Rule::ttl(MINUTE).identity(identity).ignore_credentials());
        let cache = CacheLayer::new(Memory::default()).rules(rules).layer(inner);
        let mut request = get("/");
        request.headers_mut().insert(field, value.parse().expect("a value"));
        assert_eq!(outcome(&send(&cache, request).await), Outcome::Bypass(Bypass::IdentityAmbiguous), "{value}");
    }
}
