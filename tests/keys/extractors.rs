//! Keys: two requests share one if, and only if, they are the same request.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use crate::common::{MINUTE, counting, get, ok, one_rule, outcome, post, send, text};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use proptest::prelude::*;
use tower::Layer;
use tower_response_cache::{
    Bypass, CacheLayer, Cookie, CredentialFields, Headers, Identity, InvalidateLayer, Key, KeyExtractor, MAX_KEY_LEN, Memory,
    Miss, Outcome, RequestView, RouteAndQuery, Rule, Rules, Secret, Store,
};

// ---- The normalisation, told a second time ---------------------------------------------------------------------------

/// A query as the docs say that it counts.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Absent,
    AsSent(String),
    /// By name, each with its parameters in the order in which they came.
    ByName(BTreeMap<String, Vec<String>>),
}

fn told(query: Option<&str>, counts: impl Fn(&str) -> bool) -> Told {
    let Some(query) = query else { return Told::Absent };
    let named: Vec<(&str, &str)> = query.split('&').map(|piece| (piece.split('=').next().unwrap_or(""), piece)).collect();
    let odd = query.contains(';') || named.iter().any(|(name, _)| name.contains(['%', '+', '[', ']']));
    let counted: Vec<_> = named.into_iter().filter(|(name, _)| counts(name)).collect();
    if odd || counted.len() > 32 {
        return Told::AsSent(query.to_owned());
    }
    let mut by_name = BTreeMap::<String, Vec<String>>::new();
    for (name, piece) in counted {
        by_name.entry(name.to_owned()).or_default().push(piece.to_owned());
    }
    Told::ByName(by_name)
}

#[derive(Debug, Clone)]
struct Asked {
    head: bool,
    /// In the target, or else in `Host`.
    authority: Option<&'static str>,
    host: Option<&'static str>,
    path: &'static str,
    pieces: Option<Vec<&'static str>>,
}

impl Asked {
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

    fn told(&self) -> (Option<&'static str>, String, &'static str, Told) {
        let name = self.authority.or(self.host).unwrap_or("").to_ascii_lowercase();
        // A field that contradicts the target is told besides: a handler may believe either.
        let host = match self.host.map(str::to_ascii_lowercase) {
            Some(field) if field != name => format!("{name}, or {field}"),
            _ => name,
        };
        // A target with an authority has a scheme, too.
        (self.authority.map(|_| "http"), host, self.path, told(self.query().as_deref(), |_| true))
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

fn asked() -> impl Strategy<Value = Asked> {
    let hosts = || prop::option::of(prop::sample::select(&["a.example", "A.Example", "b.example", "a.example:80"][..]));
    let paths = prop::sample::select(&["/a", "/A", "/a/", "/%61", "/a/b", "/a%2Fb", "//a", "/b"][..]);
    (any::<bool>(), hosts(), hosts(), paths, prop::option::of(pieces()))
        .prop_map(|(head, authority, host, path, pieces)| Asked { head, authority, host, path, pieces })
}

/// A request and another that differs in a little, or in nothing that counts.
fn alike() -> impl Strategy<Value = (Asked, Asked)> {
    let other = |one: Asked, two: Asked, which: u8, order: Vec<&'static str>| {
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
    (asked(), asked(), 0_u8..8).prop_flat_map(move |(one, two, which)| {
        let shuffled = Just(one.pieces.clone().unwrap_or_default()).prop_shuffle();
        (Just(one), Just(two), Just(which), shuffled).prop_map(move |(one, two, which, order)| other(one, two, which, order))
    })
}

fn everything(rule: Rule) -> Rules {
    Rules::new().route("/{*path}", rule)
}

fn key_of<B>(rules: &Rules, store: &Memory, request: &Request<B>) -> Key {
    rules.key(store, request).expect("a key")
}

thread_local! {
    /// One store for all cases: its tables are larger than the cases.
    static STORE: Memory = Memory::new(64 << 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn two_requests_share_a_key_iff_they_are_the_same_request((one, two) in alike()) {
        let rules = everything(Rule::ttl(MINUTE));
        let (a, b) = STORE.with(|store| (key_of(&rules, store, &one.request()), key_of(&rules, store, &two.request())));
        prop_assert_eq!(a == b, one.told() == two.told(), "{:?} {:?}", one.told(), two.told());
        prop_assert_eq!(a.canonical() == b.canonical(), a.hash() == b.hash());
    }

    #[test]
    fn a_list_of_parameters_takes_out_what_it_names_and_nothing_else(
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
        prop_assert_eq!(key(&one) == key(&two), told(Some(&one), counts) == told(Some(&two), counts), "{} {}", one, two);
    }

    #[test]
    fn the_parts_of_a_key_never_join(one in parts(), two in parts()) {
        let extract = |request: &RequestView<'_>| Some(field(request.headers(), "x-c"));
        let rules = everything(
            Rule::ttl(MINUTE).key(Headers::new(["x-a", "x-b"]).and(extract).and(Cookie::new("d")).and(Cookie::new("e"))),
        );
        let key = |parts: &Parts| STORE.with(|store| key_of(&rules, store, &parts.request()));
        prop_assert_eq!(key(&one) == key(&two), one == two);
    }
}

fn field(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map_or(String::new(), |value| value.to_str().expect("text").to_owned())
}

/// What extractors look at: lines of two fields, one value of a closure, two cookies.
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
    // The bytes of tags and of small lengths that a field may hold, too.
    let text = || prop::sample::select(&["", "a", "b", "ab", "\t", "\tb", "x-b"][..]).prop_map(str::to_owned);
    let lines = || prop::collection::vec(text(), 0..3);
    let cookie = || prop::option::of(prop::sample::select(&["", "a", "ab", "b"][..]).prop_map(str::to_owned));
    (lines(), lines(), text(), cookie(), cookie()).prop_map(|(a, b, c, d, e)| Parts { a, b, c, d, e })
}

// ---- The same, as tables ---------------------------------------------------------------------------------------------

#[test]
fn the_query_counts_in_the_default_key() {
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
        // What a strict parser refuses is keyed all the same, never as if there were no query.
        ("/t/a?id=5&id=6", "/t/a?id=5", false),
        ("/t/a?id=5&id=6", "/t/a", false),
        ("/t/a?a[b]=1", "/t/a", false),
        ("/t/a?a[b]=1", "/t/a?a[b]=2", false),
        ("/t/a?a[b]=1&c=1", "/t/a?c=1&a[b]=1", false),
        ("/t/a?%zz=1", "/t/a?%zz=2", false),
        // As sent: two spellings of one name are told apart.
        ("/t/a?%61=1", "/t/a?a=1", false),
        ("/t/a?a=%31", "/t/a?a=1", false),
        ("/t/%61", "/t/a", false),
    ] {
        assert_eq!(key(one) == key(two), same, "{one} {two}");
    }
}

#[test]
fn a_query_kept_as_sent_is_never_sorted() {
    let store = Memory::new(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE).key(RouteAndQuery.query_as_sent()));
    assert_ne!(key_of(&rules, &store, &get("/t/a?b=1&a=2")), key_of(&rules, &store, &get("/t/a?a=2&b=1")));
}

#[test]
fn the_host_is_in_the_key_unless_it_is_taken_out() {
    let store = Memory::new(64 << 10);
    let hosted = one_rule(Rule::ttl(MINUTE));
    let anywhere = one_rule(Rule::ttl(MINUTE).key(RouteAndQuery.without_host()));
    let request = |host: &str| Request::get("/t/a").header("host", host).body(()).expect("valid");
    let absolute = Request::get("http://A.example/t/a").body(()).expect("valid");
    let differ = |rules: &Rules, a: &Request<()>, b: &Request<()>| key_of(rules, &store, a) != key_of(rules, &store, b);
    assert!(differ(&hosted, &request("a.example"), &request("b.example")));
    assert!(!differ(&hosted, &request("a.EXAMPLE"), &request("A.example")));
    assert!(differ(&hosted, &request("a.example"), &absolute), "a target with a scheme is another");
    let both = Request::get("http://a.example/t/a").header("host", "A.example").body(()).expect("valid");
    assert!(!differ(&hosted, &both, &absolute));
    assert!(!differ(&anywhere, &request("a.example"), &request("b.example")));
}

#[test]
fn two_routes_with_the_same_parameter_or_the_same_closure_key_never_meet() {
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
fn a_header_that_is_absent_is_not_one_that_is_empty() {
    let store = Memory::new(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE).key(Headers::new(["accept-language"])));
    let mut one = get("/t/a");
    let absent = key_of(&rules, &store, &one);
    one.headers_mut().insert("accept-language", HeaderValue::from_static(""));
    assert_ne!(absent, key_of(&rules, &store, &one));
}

#[test]
#[should_panic(expected = "is not the name of a header field")]
fn a_name_that_is_no_header_is_refused() {
    let _ = Headers::new(["no header"]);
}

#[test]
fn a_name_that_is_no_parameter_is_refused_with_the_reason() {
    for name in ["", "a*b", "**", "a=b", "a&b", "%61"] {
        let refused = std::panic::catch_unwind(|| RouteAndQuery.without_query([name])).expect_err(name);
        let text = refused.downcast_ref::<String>().expect("a message");
        assert!(text.contains("names no query parameter"), "{name:?}: {text}");
    }
}

// ---- Secrets ---------------------------------------------------------------------------------------------------------

const SECRET: &str = "s3cr3t-T0ken";

fn holds(bytes: &[u8], needle: &str) -> bool {
    bytes.to_ascii_lowercase().windows(needle.len()).any(|window| window == needle.to_ascii_lowercase().as_bytes())
}

fn with_secrets(target: &str) -> Request<Full<Bytes>> {
    let mut request = get(target);
    let headers = request.headers_mut();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {SECRET}")).expect("valid"));
    headers.insert("cookie", HeaderValue::from_str(&format!("a=b; session={SECRET}")).expect("valid"));
    headers.insert("x-api-key", HeaderValue::from_static(SECRET));
    let mut marked = HeaderValue::from_static(SECRET);
    marked.set_sensitive(true);
    headers.insert("x-marked", marked);
    request
}

fn secretive() -> Vec<Rule> {
    let by = |request: &RequestView<'_>| Some(field(request.headers(), "x-api-key"));
    let rule = || Rule::ttl(MINUTE);
    vec![
        rule().identity(Identity::bearer()).namespace("user:{identity}"),
        rule().identity(Identity::header("x-api-key")).namespace("user:{identity}"),
        rule().identity(Identity::cookie("session")).namespace("user:{identity}"),
        rule().identity(Identity::by(by)).namespace("user:{identity}"),
        rule().key(Headers::new(["authorization", "cookie", "x-api-key", "x-marked"])).ignore_credentials(),
        rule().key(Cookie::new("session")).ignore_credentials(),
    ]
}

#[test]
fn no_secret_is_in_the_bytes_of_a_key_nor_in_what_debug_shows() {
    let store = Memory::builder().secret(Secret::new(*b"0123456789abcdef0123456789abcdef")).build();
    let clear = with_secrets("/t/a");
    for rule in secretive() {
        let shown = format!("{rule:?}");
        let rules = one_rule(rule);
        let key = key_of(&rules, &store, &clear);
        assert!(!holds(key.canonical(), SECRET), "{shown}");
        assert!(!holds(format!("{key:?} {:?} {shown} {rules:?}", key.as_ref()).as_bytes(), SECRET));
    }
    let shown = format!("{:?} {store:?}", Secret::new(*b"0123456789abcdef0123456789abcdef"));
    assert!(!holds(shown.as_bytes(), "0123456789abcdef") && !holds(shown.as_bytes(), "48, 49"), "{shown}");
}

#[test]
fn the_credentials_of_a_target_enter_its_key_as_a_hash_and_letter_for_letter() {
    let store = Memory::new(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE));
    let key = |user: &str| {
        let request = Request::get(format!("http://{user}A.example/t/a")).body(()).expect("valid");
        key_of(&rules, &store, &request)
    };
    let user = format!("me:{SECRET}@");
    assert!(!holds(key(&user).canonical(), SECRET));
    assert_ne!(key(&user), key(&user.to_ascii_lowercase()));
    assert_ne!(key(&user), key(""));
}

#[tokio::test]
async fn an_entry_shows_neither_the_secrets_of_its_request_nor_its_body() {
    for rule in secretive() {
        let store = Memory::default();
        let rules = one_rule(rule);
        let (inner, _) = counting(|_, _| {
            let mut response = ok("a body that is for one user alone");
            response.headers_mut().insert("x-secret-answer", HeaderValue::from_static("fortytwo"));
            response
        });
        let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
        send(&service, with_secrets("/t/a")).await;
        let key = key_of(&rules, &store, &with_secrets("/t/a"));
        let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("stored");
        let shown = format!("{entry:?}");
        assert!(!shown.contains(SECRET) && !shown.contains("one user") && !shown.contains("fortytwo"), "{shown}");
    }
}

/// Writes down every field of every event and span.
struct Scribe(Arc<Mutex<String>>);

impl tracing::Subscriber for Scribe {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut Pen(&self.0));
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Pen(&self.0));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Pen(&self.0));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Pen<'a>(&'a Mutex<String>);

impl tracing::field::Visit for Pen<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        *self.0.lock().expect("not poisoned") += &format!("{field}={value:?}\n");
    }
}

#[test]
fn no_secret_is_in_what_is_traced() {
    let written = Arc::new(Mutex::new(String::new()));
    tracing::subscriber::with_default(Scribe(written.clone()), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for rule in secretive() {
                // Too many names for an entry: the one event that tells names.
                let many = |_: &RequestView<'_>| (0..200).map(|n| format!("n{n}").try_into().expect("valid")).collect();
                for rule in [rule.clone(), rule.namespaces_by(many)] {
                    let (inner, _) = counting(|_, _| ok("x"));
                    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
                    for _ in 0..2 {
                        send(&service, with_secrets("/t/a")).await;
                    }
                    let mut ranged = with_secrets("/t/a");
                    ranged.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
                    send(&service, ranged).await;
                }
            }
        });
    });
    let written = written.lock().expect("not poisoned");
    for word in ["hit", "miss", "cache bypassed", "not stored"] {
        assert!(written.contains(word), "nothing heard of {word:?}: {written}");
    }
    assert!(!holds(written.as_bytes(), SECRET), "{written}");
}

// ---- Who asks --------------------------------------------------------------------------------------------------------

/// Asks once with each of these fields; says what became of each.
async fn outcomes(rule: Rule, requests: &[&[(&str, &str)]]) -> Vec<Outcome> {
    let (inner, _) = counting(|request, _| ok(format!("{:?}", request.headers())));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
    let mut outcomes = Vec::new();
    for fields in requests {
        let mut request = get("/t/a");
        for (name, value) in *fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
        }
        outcomes.push(outcome(&send(&service, request).await));
    }
    outcomes
}

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);
const HIT: Outcome = Outcome::Hit;
const CREDENTIALS: Outcome = Outcome::Bypass(Bypass::Credentials);
const EXTRACTOR: Outcome = Outcome::Bypass(Bypass::Extractor);
const REPEATED: Outcome = Outcome::Bypass(Bypass::IdentityAmbiguous);
const MISSING: Outcome = Outcome::Bypass(Bypass::IdentityMissing);

#[tokio::test]
async fn credentials_without_an_identity_in_the_key_bypass() {
    let requests: [&[(&str, &str)]; 5] =
        [&[], &[("authorization", "Bearer a")], &[("cookie", "a=b")], &[("authorization", "")], &[]];
    let got = outcomes(Rule::ttl(MINUTE), &requests).await;
    assert_eq!(got, [ABSENT, CREDENTIALS, CREDENTIALS, CREDENTIALS, HIT]);
    let got = outcomes(Rule::ttl(MINUTE).ignore_credentials(), &requests).await;
    assert_eq!(got, [ABSENT, HIT, HIT, HIT, HIT]);
    let got = outcomes(Rule::ttl(MINUTE).ignore_cookies(), &requests).await;
    assert_eq!(got, [ABSENT, CREDENTIALS, HIT, CREDENTIALS, HIT]);
    // A cookie tells variants apart, not users.
    let got = outcomes(Rule::ttl(MINUTE).key(Cookie::new("a")), &requests[2..3]).await;
    assert_eq!(got, [CREDENTIALS]);
}

#[tokio::test]
async fn a_bearer_has_an_entry_of_its_own_and_other_credentials_bypass() {
    let rule = || Rule::ttl(MINUTE).identity(Identity::bearer());
    let got = outcomes(
        rule(),
        &[
            &[("authorization", "Bearer a")],
            &[("authorization", "bearer  a ")],
            &[("authorization", "Bearer b")],
            &[("authorization", "Bearer A")],
            &[("authorization", "Basic a")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
            &[("cookie", "session=a")],
            &[],
            &[],
        ],
    )
    .await;
    let own = [ABSENT, HIT, ABSENT, ABSENT];
    let others = [CREDENTIALS, CREDENTIALS, CREDENTIALS, REPEATED, CREDENTIALS];
    assert_eq!(got, [&own[..], &others[..], &[ABSENT, HIT]].concat());
    let got = outcomes(rule().key(RouteAndQuery.and(Identity::bearer().required())), &[&[], &[]]).await;
    assert_eq!(got, [MISSING, MISSING]);
}

#[tokio::test]
async fn a_cookie_names_a_user_only_if_it_stands_once() {
    let got = outcomes(
        Rule::ttl(MINUTE).identity(Identity::cookie("session")),
        &[
            &[("cookie", "a=b; session=1")],
            &[("cookie", "session=1")],
            &[("cookie", "a=b"), ("cookie", "session=1 ; c=d")],
            &[("cookie", "session=2")],
            &[("cookie", "session=1; session=2")],
            &[("cookie", "session=1"), ("cookie", "session=1")],
            &[("cookie", "Session=1")],
            &[("authorization", "Bearer x")],
            &[],
            &[],
        ],
    )
    .await;
    assert_eq!(got, [ABSENT, HIT, HIT, ABSENT, REPEATED, REPEATED, CREDENTIALS, CREDENTIALS, ABSENT, HIT]);
}

#[tokio::test]
async fn what_names_a_user_twice_is_never_taken_for_nobody() {
    let twice: &[(&str, &str)] = &[("x-api-key", "a"), ("x-api-key", "b")];
    let got = outcomes(Rule::ttl(MINUTE).identity(Identity::header("x-api-key")), &[twice, &[], &[("x-api-key", "a")]]).await;
    assert_eq!(got, [REPEATED, ABSENT, ABSENT]);
    let twice: &[(&str, &str)] = &[("cookie", "session=a; session=b")];
    let ignoring = Rule::ttl(MINUTE).identity(Identity::cookie("session")).ignore_credentials();
    assert_eq!(outcomes(ignoring, &[twice, &[]]).await, [REPEATED, ABSENT]);
}

#[tokio::test]
async fn a_cookie_that_stands_twice_is_never_taken_for_absent() {
    let twice: &[(&str, &str)] = &[("cookie", "lang=de; lang=en")];
    let rule = Rule::ttl(MINUTE).key(Cookie::new("lang")).ignore_credentials();
    assert_eq!(outcomes(rule, &[twice, &[], &[("cookie", "lang=de")]]).await, [EXTRACTOR, ABSENT, ABSENT]);
}

#[tokio::test]
async fn a_closure_names_the_user() {
    let by = |request: &RequestView<'_>| request.headers().get("x-user").map(|user| user.to_str().expect("text").to_owned());
    let requests: [&[(&str, &str)]; 5] =
        [&[("x-user", "1")], &[("x-user", "2")], &[("x-user", "1"), ("cookie", "a=b")], &[], &[("cookie", "a=b")]];
    let got = outcomes(Rule::ttl(MINUTE).identity(Identity::by(by)), &requests).await;
    assert_eq!(got, [ABSENT, ABSENT, HIT, ABSENT, CREDENTIALS]);
    let got = outcomes(Rule::ttl(MINUTE).identity(Identity::by(by).required()), &requests).await;
    assert_eq!(got, [ABSENT, ABSENT, HIT, MISSING, MISSING]);
}

#[tokio::test]
async fn an_identity_is_what_the_store_says_it_is() {
    let store = Memory::default();
    let (inner, calls) = counting(|_, _| ok("x"));
    let rule = Rule::ttl(MINUTE).identity(Identity::bearer()).namespace("auth:user:{identity}");
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
    let request = |token: &str| {
        let mut request = get("/t/a");
        request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).expect("valid"));
        request
    };
    for token in ["a", "b"] {
        send(&service, request(token)).await;
    }
    store.invalidate([format!("auth:user:{}", store.identity("a"))]).await.expect("valid");
    assert_eq!(outcome(&send(&service, request("a")).await), ABSENT);
    assert_eq!(outcome(&send(&service, request("b")).await), HIT);
    send(&service, get("/t/a")).await;
    store.invalidate(["auth:user:anonymous"]).await.expect("valid");
    assert_eq!(outcome(&send(&service, get("/t/a")).await), ABSENT);
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

// ---- What is left alone ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_request_that_the_key_cannot_tell_bypasses() {
    use Bypass::{MethodOverride, Precondition, Upgrade};
    for (name, value, why) in [
        ("if-match", "\"a\"", Precondition),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", Precondition),
        ("x-http-method-override", "DELETE", MethodOverride),
        ("X-HTTP-Method", "DELETE", MethodOverride),
        ("x-method-override", "PATCH", MethodOverride),
        ("upgrade", "websocket", Upgrade),
    ] {
        let asked: &[(&str, &str)] = &[(name, value)];
        let got = outcomes(Rule::ttl(MINUTE), &[&[], asked, &[]]).await;
        assert_eq!(got, [ABSENT, Outcome::Bypass(why), HIT], "{name}");
    }
}

#[tokio::test]
async fn a_get_with_content_bypasses_and_its_content_arrives() {
    let (inner, calls) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    for _ in 0..2 {
        let request = Request::get("/t/a").body(Full::from("content")).expect("valid");
        assert_eq!(outcome(&send(&service, request).await), Outcome::Bypass(Bypass::RequestBody));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn head_is_answered_from_what_get_has_stored_and_stores_nothing_itself() {
    let (inner, calls) = counting(|request, _| ok(if request.method() == "HEAD" { "" } else { "rows" }));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let head = || Request::head("/t/a").body(Full::default()).expect("valid");
    assert_eq!(outcome(&send(&service, head()).await), Outcome::Miss(Miss::Head));
    let response = send(&service, get("/t/a")).await;
    assert_eq!((outcome(&response), text(response).await.as_str()), (ABSENT, "rows"));
    let response = send(&service, head()).await;
    assert_eq!(response.headers()["content-length"], "4");
    assert_eq!((outcome(&response), text(response).await.as_str()), (HIT, ""));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_key_that_is_too_long_bypasses() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE));
    let (inner, _) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let request = |len: usize| get(&format!("/t/{}", "a".repeat(len)));
    assert_eq!(outcome(&send(&service, request(MAX_KEY_LEN)).await), Outcome::Bypass(Bypass::KeyTooLong));
    assert!(rules.key(&store, &request(MAX_KEY_LEN)).is_none());
    assert_eq!(outcome(&send(&service, request(MAX_KEY_LEN - 200)).await), ABSENT);
    assert_eq!(outcome(&send(&service, request(MAX_KEY_LEN - 200)).await), HIT);
    assert!(key_of(&rules, &store, &request(MAX_KEY_LEN - 200)).canonical().len() <= MAX_KEY_LEN);
}

#[tokio::test]
async fn an_extractor_that_says_none_leaves_the_request_alone() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE).key(|request: &RequestView<'_>| {
        let table = request.param("table");
        (table != "secret").then(|| table.to_owned())
    }));
    let (inner, _) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    for (target, want) in [("/t/secret", EXTRACTOR), ("/t/secret", EXTRACTOR), ("/t/open", ABSENT), ("/t/open?a", HIT)] {
        assert_eq!(outcome(&send(&service, get(target)).await), want, "{target}");
    }
    assert!(rules.key(&store, &get("/t/secret")).is_none());
}

#[tokio::test]
async fn an_extractor_sees_parameters_as_handlers_do() {
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

/// Content of which every touch is counted.
struct Watched(Arc<AtomicUsize>);

impl Body for Watched {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(None)
    }
}

#[tokio::test]
async fn no_extractor_touches_the_content_of_a_request() {
    let touched = Arc::new(AtomicUsize::new(0));
    let inner = tower::service_fn(|request: Request<Watched>| async move {
        drop(request);
        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("x")))
    });
    let rule =
        Rule::ttl(MINUTE).key(RouteAndQuery.and(|_: &RequestView<'_>| Some("a".to_owned()))).identity(Identity::bearer());
    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
    for method in ["GET", "POST", "HEAD"] {
        let request = Request::builder().method(method).uri("/t/a").body(Watched(touched.clone())).expect("valid");
        assert!(matches!(outcome(&send(&service, request).await), Outcome::Bypass(_)), "{method}");
    }
    assert_eq!(touched.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_no_route_matches_passes_unmarked() {
    let (inner, _) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    for request in [get("/u/a"), get("/t"), get("/t/a/b"), post("/t")] {
        let response = send(&service, request).await;
        assert!(response.extensions().get::<tower_response_cache::CacheStatus>().is_none());
    }
}

#[tokio::test]
async fn every_listed_credential_field_bypasses_without_an_identity() {
    let named = ["x-auth-token", "ApiKey", "Api-Key", "X-Access-Token", "Private-Token", "Cf-Access-Jwt-Assertion"];
    let list = CredentialFields::default();
    let names = list.names().map(str::to_owned).chain(named.map(str::to_owned));
    for name in names {
        let field: &[(&str, &str)] = &[(&name, "secret")];
        let got = outcomes(Rule::ttl(MINUTE), &[&[], field, &[]]).await;
        assert_eq!(got, [ABSENT, CREDENTIALS, HIT], "{name}");
    }
}

#[tokio::test]
async fn owner_extends_and_shortens_the_credential_fields() {
    let fields = CredentialFields::default().with(["x-tenant-token", "Accept"]).without(["X-Api-Key", "cookie"]);
    let rules = Rules::new().route("/t/{table}", Rule::ttl(MINUTE)).credential_fields(fields);
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    let service = CacheLayer::new(Memory::default()).rules(rules).layer(inner);
    for (name, want) in [
        ("x-request-id", ABSENT),
        ("x-tenant-token", CREDENTIALS),
        ("accept", CREDENTIALS),
        ("authorization", CREDENTIALS),
        ("x-api-key", HIT),
        ("cookie", HIT),
    ] {
        let mut request = get("/t/a");
        request.headers_mut().insert(name, HeaderValue::from_static("a"));
        assert_eq!(outcome(&send(&service, request).await), want, "{name}");
    }
}

#[test]
fn credential_enters_a_key_only_as_a_hash() {
    const SECRET: &str = "top-secret-value";
    let store = Memory::default();
    for (name, fields) in [
        ("private-token", CredentialFields::default()),
        ("x-tenant-token", CredentialFields::default().with(["x-tenant-token"])),
        ("authorization", CredentialFields::default().without(["authorization"])),
    ] {
        let rule = Rule::ttl(MINUTE).key(RouteAndQuery.and(Headers::new([name])));
        let rules = Rules::new().credential_fields(fields).route("/t/{table}", rule);
        let key = |value: &str| {
            let request = Request::get("/t/a").header(name, value).body(()).expect("a request");
            rules.key(&store, &request).expect("a key")
        };
        assert!(!holds(key(SECRET).canonical(), SECRET), "{name}");
        assert_ne!(key(SECRET), key("another"), "{name}");
    }
}

// ---- Forwarding fields -----------------------------------------------------------------------------------------------

/// Answers with each field that a proxy may have set.
async fn forwarded(rule: Rule, requests: &[&[(&'static str, &'static str)]]) -> Vec<(Outcome, String)> {
    let (inner, _) = counting(|request, _| {
        let seen = |name: &&str| request.headers().get_all(*name).iter().map(|value| format!("{value:?}")).collect::<Vec<_>>();
        ok(FORWARDING.iter().flat_map(seen).collect::<Vec<_>>().join(" "))
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
    let mut answers = Vec::new();
    for fields in requests {
        let mut request = get("/t/a");
        fields.iter().for_each(|(name, value)| {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        });
        let response = send(&service, request).await;
        answers.push((outcome(&response), text(response).await));
    }
    answers
}

const FORWARDING: [&str; 14] = [
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-original-url",
    "x-rewrite-url",
    "x-host",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-forwarded-server",
    "x-scheme",
    "x-original-host",
    "x-http-host-override",
    "forwarded",
];

#[tokio::test]
async fn page_made_for_forwarding_fields_is_served_for_them_alone() {
    for rule in
        [Rule::ttl(MINUTE), Rule::http().default_ttl(MINUTE), Rule::ttl(MINUTE).key(|_: &RequestView<'_>| Some(String::new()))]
    {
        for name in FORWARDING {
            let value = if name == "forwarded" { "host=evil.test" } else { "evil.test" };
            let other = if name == "forwarded" { "host=a.test" } else { "a.test" };
            let requests: [&[_]; 6] =
                [&[(name, value)], &[], &[(name, other)], &[(name, value)], &[(name, value), (name, other)], &[]];
            let got = forwarded(rule.clone(), &requests).await;
            let outcomes: Vec<_> = got.iter().map(|(outcome, _)| *outcome).collect();
            assert_eq!(outcomes, [ABSENT, ABSENT, ABSENT, HIT, ABSENT, HIT], "{name}");
            assert_eq!(got[1].1, "", "{name}");
            assert_eq!(got[0].1, got[3].1, "{name}");
        }
    }
}

#[tokio::test]
async fn fields_that_identify_the_client_are_not_in_the_key() {
    let requests: [&[_]; 4] = [
        &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")],
        &[("x-forwarded-for", "192.0.2.2"), ("x-forwarded-proto", "https")],
        &[("forwarded", "for=192.0.2.1;proto=https")],
        &[("forwarded", "for=192.0.2.2;by=192.0.2.9;proto=https")],
    ];
    let outcomes: Vec<_> = forwarded(Rule::ttl(MINUTE), &requests).await.into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(outcomes, [ABSENT, HIT, ABSENT, HIT]);
}

#[tokio::test]
async fn more_than_eight_forwarding_fields_bypass() {
    let many = [("x-forwarded-host", "a.test"); 9];
    let requests: [&[_]; 4] = [&many[..8], &many[..8], &many, &many[..7]];
    let got = forwarded(Rule::ttl(MINUTE), &requests).await;
    let outcomes: Vec<_> = got.into_iter().map(|(outcome, _)| outcome).collect();
    assert_eq!(outcomes, [ABSENT, HIT, Outcome::Bypass(Bypass::Forwarding), ABSENT]);
}

#[tokio::test]
async fn rule_that_ignores_forwarded_shares_one_entry() {
    let requests: [&[_]; 3] = [&[("x-forwarded-host", "a.test")], &[("forwarded", "host=b.test")], &[]];
    let got = forwarded(Rule::ttl(MINUTE).ignore_forwarded(), &requests).await;
    assert_eq!(got.into_iter().map(|(outcome, _)| outcome).collect::<Vec<_>>(), [ABSENT, HIT, HIT]);
}

#[tokio::test]
async fn write_invalidates_whatever_forwarding_fields_its_readers_sent() {
    let store = Memory::default();
    let rules = one_rule(Rule::http().default_ttl(MINUTE));
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    let service =
        (CacheLayer::new(store.clone()).rules(rules.clone()), InvalidateLayer::new(store.clone()).rules(rules.clone()));
    let service = service.layer(inner);
    let read = async |host: Option<&'static str>| {
        let mut request = get("/t/a");
        if let Some(host) = host {
            request.headers_mut().insert("x-forwarded-host", HeaderValue::from_static(host));
        }
        outcome(&send(&service, request).await)
    };
    let hosts = [None, Some("a.test"), Some("b.test")];
    for host in hosts {
        assert_eq!(read(host).await, ABSENT);
        assert_eq!(read(host).await, HIT);
    }
    let mut write = post("/t/a");
    write.headers_mut().insert("x-forwarded-host", HeaderValue::from_static("b.test"));
    send(&service, write).await;
    for host in hosts {
        assert!(matches!(read(host).await, Outcome::Miss(_)), "{host:?} after a write");
        assert_eq!(read(host).await, HIT);
    }
    // A key names what it names for every client.
    let request = Request::get("/t/a").header("x-forwarded-host", "c.test").body(()).expect("a request");
    store.invalidate_key(&rules.key(&store, &request).expect("a key")).await.expect("in memory");
    for host in hosts {
        assert!(matches!(read(host).await, Outcome::Miss(_)), "{host:?} after its key was invalidated");
    }
}
