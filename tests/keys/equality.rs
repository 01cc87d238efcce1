//! Equal keys for equal requests, against a second normalisation and in tables.

use std::collections::BTreeMap;

use super::{everything, key_of};
use crate::common::{MINUTE, get, one_rule};
use http::{HeaderMap, HeaderValue, Request};
use proptest::prelude::*;
use tower_response_cache::{
    KeyExtractor, Memory, RouteAndQuery, Rule, Rules,
    key::{Cookie, Headers, RequestView},
};

// ---- Properties: keys against a second normalisation -----------------------------------------------------------------

/// A query, normalised as the docs specify.
#[derive(Debug, PartialEq, Eq)]
enum NormalQuery {
    Absent,
    AsSent(String),
    /// Parameters by name, each list in the order of the query.
    ByName(BTreeMap<String, Vec<String>>),
}

fn normal(query: Option<&str>, counts: impl Fn(&str) -> bool) -> NormalQuery {
    let Some(query) = query else { return NormalQuery::Absent };
    let named: Vec<(&str, &str)> = query.split('&').map(|piece| (piece.split('=').next().unwrap_or(""), piece)).collect();
    let odd = query.contains(';') || named.iter().any(|(name, _)| name.contains(['%', '+', '[', ']']));
    let counted: Vec<_> = named.into_iter().filter(|(name, _)| counts(name)).collect();
    if odd || counted.len() > 32 {
        return NormalQuery::AsSent(query.to_owned());
    }
    let mut by_name = BTreeMap::<String, Vec<String>>::new();
    for (name, piece) in counted {
        by_name.entry(name.to_owned()).or_default().push(piece.to_owned());
    }
    NormalQuery::ByName(by_name)
}

#[derive(Debug, Clone)]
struct Target {
    head: bool,
    /// Authority in the target. Without it, `host` counts.
    authority: Option<&'static str>,
    host: Option<&'static str>,
    path: &'static str,
    pieces: Option<Vec<&'static str>>,
}

impl Target {
    fn query(&self) -> Option<String> {
        self.pieces.as_ref().map(|pieces| pieces.join("&"))
    }

    fn request(&self) -> Request<()> {
        let query = self.query().map_or(String::new(), |query| format!("?{query}"));
        let prefix = self.authority.map_or(String::new(), |authority| format!("http://{authority}"));
        let mut request = Request::builder().uri(format!("{prefix}{}{query}", self.path));
        if let Some(host) = self.host {
            request = request.header("host", host);
        }
        request.method(if self.head { "HEAD" } else { "GET" }).body(()).expect("valid")
    }

    fn normal(&self) -> (Option<&'static str>, String, &'static str, NormalQuery) {
        let name = self.authority.or(self.host).unwrap_or("").to_ascii_lowercase();
        // A field that contradicts the target counts in addition: a handler may use either.
        let host = match self.host.map(str::to_ascii_lowercase) {
            Some(field) if field != name => format!("{name}, or {field}"),
            _ => name,
        };
        // A target with an authority has a scheme, which counts, too.
        (self.authority.map(|_| "http"), host, self.path, normal(self.query().as_deref(), |_| true))
    }
}

const PIECES: [&str; 21] = [
    "",
    "a",
    "a=",
    "a=1",
    "a=2",
    "A=1",
    "b",
    "b=1",
    "=1",
    "ab=1",
    "c[]=1",
    "c[x]=1",
    "%61=1",
    "a+b=1",
    "a;b=1",
    "b=1;c",
    "a=%31",
    "a=1=2",
    "utm_source=x",
    "utm=y",
    "z=+",
];

fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        6 => prop::collection::vec(prop::sample::select(&PIECES[..]), 1..6),
        4 => prop::collection::vec(prop::sample::select(&["a=1", "a=2", "b=1", "b", "ab=1", ""][..]), 1..5),
        1 => prop::collection::vec(prop::sample::select(&["a=1", "b=1"][..]), 31..35),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    let hosts = || prop::option::of(prop::sample::select(&["a.example", "A.Example", "b.example", "a.example:80"][..]));
    let paths = prop::sample::select(&["/a", "/A", "/a/", "/%61", "/a/b", "/a%2Fb", "//a", "/b"][..]);
    (any::<bool>(), hosts(), hosts(), paths, prop::option::of(pieces()))
        .prop_map(|(head, authority, host, path, pieces)| Target { head, authority, host, path, pieces })
}

/// Two requests that differ in one part, or in nothing that counts.
fn similar_targets() -> impl Strategy<Value = (Target, Target)> {
    let other = |one: Target, two: Target, which: u8, order: Vec<&'static str>| {
        let mut like = one.clone();
        match which {
            0 => like.head = two.head,
            1 => like.authority = two.authority,
            2 => like.host = two.host,
            3 => like.path = two.path,
            4 => like.pieces = two.pieces,
            _ => like.pieces = Some(order),
        }
        (one, like)
    };
    (target(), target(), 0_u8..8).prop_flat_map(move |(one, two, which)| {
        let shuffled = Just(one.pieces.clone().unwrap_or_default()).prop_shuffle();
        (Just(one), Just(two), Just(which), shuffled).prop_map(move |(one, two, which, order)| other(one, two, which, order))
    })
}

thread_local! {
    /// One store for all cases: its tables are larger than the cases.
    static STORE: Memory = Memory::new(64 << 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn requests_share_a_key_iff_they_are_the_same((one, two) in similar_targets()) {
        let rules = everything(Rule::ttl(MINUTE));
        let (a, b) = STORE.with(|store| (key_of(&rules, store, &one.request()), key_of(&rules, store, &two.request())));
        prop_assert_eq!(a == b, one.normal() == two.normal(), "{:?} {:?}", one.normal(), two.normal());
        prop_assert_eq!(a.canonical() == b.canonical(), a.hash() == b.hash());
    }

    #[test]
    fn listed_parameters_are_left_out_of_the_key(
        one in pieces(), two in pieces(), order in any::<bool>(), only: bool,
    ) {
        let listed = |name: &str| name == "a" || name.starts_with("utm_");
        let counts = |name: &str| listed(name) == only;
        let target = match only {
            true => RouteAndQuery.only_query(["a", "utm_*"]),
            false => RouteAndQuery.without_query(["a", "utm_*"]),
        };
        let rules = everything(Rule::ttl(MINUTE).key(target));
        let two = if order { one.iter().rev().copied().collect() } else { two };
        let (one, two) = (one.join("&"), two.join("&"));
        let key = |query: &str| STORE.with(|store| key_of(&rules, store, &get(&format!("/a?{query}"))));
        prop_assert_eq!(key(&one) == key(&two), normal(Some(&one), counts) == normal(Some(&two), counts), "{} {}", one, two);
    }

    #[test]
    fn parts_of_a_key_never_join(one in parts(), two in parts()) {
        let extract = |request: &RequestView<'_>| Some(field(request.headers(), "x-c"));
        let rules = everything(
            Rule::ttl(MINUTE).key(Headers::new(["x-a", "x-b"]).and(extract).and(Cookie::new("d")).and(Cookie::new("e"))),
        );
        let key = |parts: &Parts| STORE.with(|store| key_of(&rules, store, &parts.request()));
        prop_assert_eq!(key(&one) == key(&two), one == two);
    }
}

pub(crate) fn field(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map_or(String::new(), |value| value.to_str().expect("text").to_owned())
}

/// Input of the extractors: lines of two fields, one value of a closure, two cookies.
#[derive(Debug, Clone, PartialEq)]
struct Parts {
    a: Vec<String>,
    b: Vec<String>,
    c: String,
    d: Option<String>,
    e: Option<String>,
}

impl Parts {
    fn request(&self) -> Request<()> {
        let mut request = Request::get("/a");
        for (name, lines) in [("x-a", &self.a), ("x-b", &self.b)] {
            for line in lines {
                request = request.header(name, line);
            }
        }
        let pair = |name, value: &Option<String>| value.as_ref().map(|value| format!("{name}={value}"));
        let cookies: Vec<_> = [pair("d", &self.d), pair("e", &self.e)].into_iter().flatten().collect();
        request.header("x-c", &self.c).header("cookie", cookies.join("; ")).body(()).expect("valid")
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    // The values include bytes of tags and small lengths that a field may contain.
    let text = || prop::sample::select(&["", "a", "b", "ab", "\t", "\tb", "x-b"][..]).prop_map(str::to_owned);
    let lines = || prop::collection::vec(text(), 0..3);
    let cookie = || prop::option::of(prop::sample::select(&["", "a", "ab", "b"][..]).prop_map(str::to_owned));
    (lines(), lines(), text(), cookie(), cookie()).prop_map(|(a, b, c, d, e)| Parts { a, b, c, d, e })
}

// ---- Tables ----------------------------------------------------------------------------------------------------------

#[test]
fn default_key_includes_the_query() {
    let store = Memory::new(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE));
    let key = |target: &str| key_of(&rules, &store, &get(target));
    for (one, two, same) in [
        ("/t/a", "/t/a", true),
        ("/t/a", "/t/a?", false),
        ("/t/a?id=5", "/t/a?id=6", false),
        ("/t/a?id=5", "/t/a", false),
        ("/t/a?b=1&a=2", "/t/a?a=2&b=1", true),
        ("/t/a?a=1&a=2", "/t/a?a=2&a=1", false),
        ("/t/a?a=1&b=2&a=3", "/t/a?b=2&a=1&a=3", true),
        // A query that a strict parser refuses is part of the key, too, and never treated as absent.
        ("/t/a?id=5&id=6", "/t/a?id=5", false),
        ("/t/a?id=5&id=6", "/t/a", false),
        ("/t/a?a[b]=1", "/t/a", false),
        ("/t/a?a[b]=1", "/t/a?a[b]=2", false),
        ("/t/a?a[b]=1&c=1", "/t/a?c=1&a[b]=1", false),
        ("/t/a?%zz=1", "/t/a?%zz=2", false),
        // As sent, two spellings of one name are different.
        ("/t/a?%61=1", "/t/a?a=1", false),
        ("/t/a?a=%31", "/t/a?a=1", false),
        ("/t/%61", "/t/a", false),
    ] {
        assert_eq!(key(one) == key(two), same, "{one} {two}");
    }
}

#[test]
fn query_kept_as_sent_is_not_sorted() {
    let store = Memory::new(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE).key(RouteAndQuery.query_as_sent()));
    assert_ne!(key_of(&rules, &store, &get("/t/a?b=1&a=2")), key_of(&rules, &store, &get("/t/a?a=2&b=1")));
}

#[test]
fn host_is_in_the_key_unless_left_out() {
    let store = Memory::new(64 << 10);
    let hosted = one_rule(Rule::ttl(MINUTE));
    let anywhere = one_rule(Rule::ttl(MINUTE).key(RouteAndQuery.without_host()));
    let request = |host: &str| Request::get("/t/a").header("host", host).body(()).expect("valid");
    let absolute = Request::get("http://A.example/t/a").body(()).expect("valid");
    let differ = |rules: &Rules, a: &Request<()>, b: &Request<()>| key_of(rules, &store, a) != key_of(rules, &store, b);
    assert!(differ(&hosted, &request("a.example"), &request("b.example")));
    assert!(!differ(&hosted, &request("a.EXAMPLE"), &request("A.example")));
    assert!(differ(&hosted, &request("a.example"), &absolute), "a target with a scheme has another key");
    let both = Request::get("http://a.example/t/a").header("host", "A.example").body(()).expect("valid");
    assert!(!differ(&hosted, &both, &absolute));
    assert!(!differ(&anywhere, &request("a.example"), &request("b.example")));
}

#[test]
fn routes_with_equal_parameters_never_share_a_key() {
    let store = Memory::new(64 << 10);
    let by_id = || Rule::ttl(MINUTE).key(|request: &RequestView<'_>| Some(request.param("id").to_owned()));
    let constant = || Rule::ttl(MINUTE).key(|_: &RequestView<'_>| Some("1".to_owned()));
    let rules = Rules::new().route("/users/{id}", by_id()).route("/orders/{id}", by_id()).fallback(constant());
    let keys: Vec<_> = ["/users/1", "/orders/1", "/else", "/elsewhere", "/users"]
        .into_iter()
        .map(|target| key_of(&rules, &store, &get(target)))
        .collect();
    for (i, key) in keys.iter().enumerate() {
        assert!(!keys[..i].contains(key), "{i}");
    }
}

#[test]
fn absent_header_differs_from_an_empty_one() {
    let store = Memory::new(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE).key(Headers::new(["accept-language"])));
    let mut one = get("/t/a");
    let absent = key_of(&rules, &store, &one);
    one.headers_mut().insert("accept-language", HeaderValue::from_static(""));
    assert_ne!(absent, key_of(&rules, &store, &one));
}

#[test]
#[should_panic(expected = "is not a header name")]
fn invalid_header_name_is_refused() {
    let _ = Headers::new(["no header"]);
}

#[test]
fn invalid_parameter_name_is_refused_with_its_reason() {
    for name in ["", "a*b", "**", "a=b", "a&b", "%61"] {
        let refused = std::panic::catch_unwind(|| RouteAndQuery.without_query([name])).expect_err(name);
        let text = refused.downcast_ref::<String>().expect("a message");
        assert!(text.contains("is not a query parameter"), "{name:?}: {text}");
    }
}

#[tokio::test]
async fn extractor_sees_parameters_like_handlers() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE).key(|request: &RequestView<'_>| Some(request.param("table").to_owned())));
    assert_eq!(key_of(&rules, &store, &get("/t/caf%C3%A9")), key_of(&rules, &store, &get("/t/caf%c3%a9")));
    let seen = Rule::ttl(MINUTE).key(|request: &RequestView<'_>| {
        assert_eq!((request.param("table"), request.param("other"), request.path()), ("café", "", "/t/caf%C3%A9"));
        assert_eq!((request.query(), request.method().as_str()), (Some("a=%20"), "GET"));
        Some(String::new())
    });
    assert!(one_rule(seen).key(&store, &get("/t/caf%C3%A9?a=%20")).is_some());
}
