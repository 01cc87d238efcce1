//! Remembered targets: a layer that remembers targets responds and counts like one that never does.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use crate::common::{MINUTE, Plain, counting, get, ok, outcome, send, text, until};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tower::Layer;
use tower_response_cache::{
    __private::remember_at_once,
    CacheLayer, CacheStatus, Clock, Identity, InvalidateLayer, KeyExtractor, Memory, Namespace, Outcome, RouteAndQuery, Rule,
    Rules, Store,
    key::{Extracted, Headers, KeyWriter, RequestView},
    semantics::Normalise,
    status::{Bypass, Miss},
};

/// Writes the keys of another extractor, which are not remembered.
pub(crate) struct Unremembered<K>(pub(crate) K);

impl<K: KeyExtractor> KeyExtractor for Unremembered<K> {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        self.0.extract(request, key)
    }

    fn identity(&self) -> Option<&Identity> {
        self.0.identity()
    }
}

/// One hit in eight is remembered: after this number of hits, every target is remembered that no other displaces.
pub(crate) const ENOUGH: usize = 40;

const TARGETS: &[&str] = &[
    "/t/a?x=1&y=2",
    "/t/a?y=2&x=1",
    "/t/a?x=1",
    "/t/a?y=2",
    "/t/a?x=1&x=2",
    "/t/a?x=2&x=1",
    "/t/a?x[]=1",
    "/t/a",
    "/t/a?",
    "/t/a/",
    "/t//",
    "/t/b",
    "/t/%61",
    "http://one.example/t/a",
    "https://one.example/t/a",
    "http://ONE.example/t/a",
    "http://ada@one.example/t/a",
    "http://two.example/t/a",
    "/f/a",
    "/",
];

const HOSTS: &[&[&str]] = &[
    &[],
    &["one.example"],
    &["ONE.example"],
    &["two.example"],
    &["ada@one.example"],
    &["one.example:80"],
    &[""],
    &["one.example", "one.example"],
    &["one.example", "two.example"],
];

const FIELDS: &[&[(&str, &str)]] = &[
    &[],
    &[("accept", "text/html"), ("user-agent", "test")],
    &[("cookie", "session=1")],
    &[("authorization", "Bearer ada")],
    &[("authorization", "Bearer bob")],
    &[("authorization", "bearer ada"), ("x-forwarded-proto", "https")],
    &[("authorization", "Bearer\tada")],
    &[("authorization", "Bearer")],
    &[("authorization", "Basic YQ==")],
    &[("authorization", "Bearer ada"), ("cookie", "session=1")],
    &[("authorization", "Bearer ada"), ("accept-language", "de")],
    &[("cookie", "session=2; theme=dark")],
    &[("cookie", "session=1; session=2")],
    &[("proxy-authorization", "Basic YQ==")],
    &[("x-api-key", "key")],
    &[("private-token", "key")],
    &[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")],
    &[("x-forwarded-proto", "https"), ("accept", "text/html")],
    &[("x-forwarded-proto", "http")],
    &[("x-forwarded-host", "one.example"), ("x-forwarded-proto", "https")],
    &[("x-forwarded-host", "one.example"), ("x-forwarded-host", "https")],
    &[("forwarded", "for=192.0.2.1;host=one.example")],
    &[("forwarded", "for=192.0.2.2;host=\"one.example\", host=two.example")],
    &[("range", "bytes=0-1")],
    &[("range", "bytes=0-1"), ("if-range", "\"tag\"")],
    &[("range", "bytes=90000-")],
    &[("if-none-match", "\"tag\"")],
    &[("if-none-match", "\"other\"")],
    &[("if-modified-since", "Thu, 01 Jan 2099 00:00:00 GMT")],
    &[("if-match", "\"tag\"")],
    &[("cache-control", "no-cache")],
    &[("cache-control", "no-store")],
    &[("cache-control", "max-age=5")],
    &[("cache-control", "max-stale=60")],
    &[("cache-control", "min-fresh=20")],
    &[("cache-control", "only-if-cached")],
    &[("pragma", "no-cache")],
    &[("accept-language", "de")],
    &[("accept-language", "en, de;q=0.5")],
    &[("accept-encoding", "gzip")],
    &[("x-tenant", "acme")],
    &[("x-answer", "500")],
    &[("x-answer", "404")],
    &[("x-http-method-override", "DELETE")],
    &[("upgrade", "websocket")],
];

const METHODS: &[&str] = &["GET", "GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "QUERY"];

#[derive(Debug, Clone)]
struct TargetRequest {
    target: &'static str,
    method: &'static str,
    hosts: &'static [&'static str],
    fields: &'static [(&'static str, &'static str)],
    content: &'static str,
    again: usize,
}

#[derive(Debug, Clone)]
enum Step {
    Request(TargetRequest),
    Invalidate(&'static str, bool),
    Wait(u64),
}

/// Returns steps over few targets, so that they are requested again.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = |all: &'static [&'static str]| prop::sample::subsequence(all, 1..4);
    let fields = prop::sample::subsequence(FIELDS, 1..5);
    (some(TARGETS), prop::sample::subsequence(HOSTS, 1..3), fields).prop_flat_map(|(targets, hosts, fields)| {
        let again = prop::sample::select(vec![1, 1, 2, ENOUGH]);
        let fields = prop_oneof![1 => Just(&[] as &[(&str, &str)]), 1 => prop::sample::select(fields)];
        let (targets, hosts, method) =
            (prop::sample::select(targets), prop::sample::select(hosts), prop::sample::select(METHODS));
        let content = prop_oneof![12 => Just(""), 1 => Just("content")];
        let target =
            (targets, method, hosts, fields, content, again).prop_map(|(target, method, hosts, fields, content, again)| {
                Step::Request(TargetRequest { target, method, hosts, fields, content, again })
            });
        let clear = (prop::sample::select(vec!["t:a", "t:b", "acme", "other"]), any::<bool>());
        let clear = clear.prop_map(|(name, softly)| Step::Invalidate(name, softly));
        prop::collection::vec(prop_oneof![10 => target, 1 => clear, 2 => (1..90u64).prop_map(Step::Wait)], 1..24)
    })
}

fn request(target: &TargetRequest) -> Request<Plain> {
    let mut request = get(target.target).map(|_| Plain::from(target.content));
    *request.method_mut() = target.method.parse().expect("a method");
    for host in target.hosts {
        request.headers_mut().append(header::HOST, HeaderValue::from_static(host));
    }
    for (name, value) in target.fields {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    request
}

/// A rule, and the responses of the inner service.
#[derive(Debug, Clone)]
struct Setup {
    lifetime: u8,
    key: u8,
    options: [bool; 8],
    answers: &'static [(&'static str, &'static str)],
}

fn setup() -> impl Strategy<Value = Setup> {
    let answers = prop::sample::select(vec![
        &[("etag", "\"tag\""), ("cache-control", "max-age=30"), ("vary", "accept-language")] as &[(&str, &str)],
        &[],
        &[],
        &[("cache-control", "public, max-age=30, stale-while-revalidate=20"), ("etag", "\"tag\"")],
        &[("cache-control", "max-age=30, must-revalidate"), ("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")],
        &[("cache-control", "private")],
        &[("vary", "accept-encoding, accept-language"), ("content-language", "de")],
        &[("vary", "cookie")],
        &[("vary", "*")],
        &[("set-cookie", "a=b")],
        &[("age", "20"), ("cache-status", "inner; hit")],
    ]);
    (0..8u8, 0..12u8, any::<[bool; 8]>(), answers).prop_map(|(lifetime, key, options, answers)| Setup {
        lifetime,
        key,
        options,
        answers,
    })
}

/// A key of the authority, from the target and from `Host`, and of the path.
struct Authority;

impl KeyExtractor for Authority {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        let host = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes);
        let stated = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        stated.into_iter().chain(host).for_each(|authority| key.part(authority));
        key.part(request.path());
        Extracted::Key
    }

    fn depends_only_on_target(&self) -> bool {
        true
    }
}

impl Setup {
    fn rules(&self, remembers: bool) -> Rules {
        Rules::new().route("/t/{table}", self.rule(remembers).namespace("t:{table}")).fallback(self.rule(remembers))
    }

    fn rule(&self, remembers: bool) -> Rule {
        let rule = match self.lifetime {
            0 | 1 => Rule::ttl(MINUTE),
            2 => Rule::ttl_by(|request| Duration::from_secs(20 * request.headers().len() as u64)),
            3 => Rule::ttl_by_response(|response| Some(Duration::from_secs(10 * response.headers.len() as u64))),
            4 | 5 => Rule::http().default_ttl(MINUTE),
            6 => Rule::http(),
            _ => Rule::uncached(),
        };
        let [soft, cookies, credentials, tags, by, normalises, identity, forwarded] = self.options;
        let mut rule = self.keyed(rule, remembers);
        if soft {
            rule = rule.stale_while_revalidate(MINUTE / 2).stale_if_error(MINUTE);
        }
        if cookies {
            rule = rule.ignore_cookies();
        }
        if forwarded {
            rule = rule.ignore_forwarded();
        }
        if credentials {
            rule = rule.ignore_credentials();
        }
        if tags {
            rule = rule.etag();
        }
        if by {
            rule = rule.namespaces_by(|request| {
                let tenant = request.headers().get("x-tenant");
                tenant.map(|tenant| Namespace::of([tenant.to_str().expect("text")])).into_iter().collect::<Vec<_>>()
            });
        }
        if normalises {
            rule = rule.normalise(Normalise::rfc());
        }
        match identity {
            true if self.key == 1 => rule.identity(Identity::cookie("session")),
            true if self.key == 2 => rule.identity(Identity::header("x-api-key").required()),
            true if self.key == 3 => rule.identity(Identity::by(|request| Some(request.param("table").to_owned()))),
            true => rule.identity(Identity::bearer()),
            false => rule,
        }
    }

    fn keyed(&self, rule: Rule, remembers: bool) -> Rule {
        let target = RouteAndQuery.without_query([] as [&str; 0]);
        match (self.key, remembers) {
            (0..4, true) => rule.key(RouteAndQuery),
            (0..4, false) => rule.key(Unremembered(RouteAndQuery)),
            (4, true) => rule.key(target.without_host()),
            (4, false) => rule.key(Unremembered(target.without_host())),
            (5, true) => rule.key(target.only_query(["x"])),
            (5, false) => rule.key(Unremembered(target.only_query(["x"]))),
            (6, true) => rule.key(target.without_query(["y"])),
            (6, false) => rule.key(Unremembered(target.without_query(["y"]))),
            (7, true) => rule.key(target.query_as_sent()),
            (7, false) => rule.key(Unremembered(target.query_as_sent())),
            (8, true) => rule.key(RouteAndQuery.and(Headers::new(["x-tenant", "authorization"]))),
            (8, false) => rule.key(Unremembered(RouteAndQuery.and(Headers::new(["x-tenant", "authorization"])))),
            (9, true) => rule.key(Authority),
            (9, false) => rule.key(Unremembered(Authority)),
            (10, true) => rule.key(Feed),
            (10, false) => rule.key(Unremembered(Feed)),
            // A closure is never remembered.
            _ => rule.key(|request: &RequestView<'_>| {
                Some(format!("{} {:?}", request.uri(), request.headers().get("x-tenant"))).filter(|_| request.query().is_none())
            }),
        }
    }
}

/// Returns requests by outcome: fresh hits, stale hits, collapsed, misses, bypasses.
fn outcomes<St: Store>(store: &St) -> [u64; 5] {
    let stats = store.stats();
    [stats.hits, stats.stale_hits, stats.collapsed, stats.misses(), stats.bypasses.iter().map(|(_, n)| n).sum()]
}

/// Returns the counts that an outcome adds.
fn counted_as(outcome: Outcome) -> [u64; 5] {
    match outcome {
        Outcome::Hit => [1, 0, 0, 0, 0],
        Outcome::Stale(_) => [0, 1, 0, 0, 0],
        Outcome::Collapsed => [0, 0, 1, 0, 0],
        Outcome::Miss(_) | Outcome::Revalidated => [0, 0, 0, 1, 0],
        Outcome::Bypass(_) => [0, 0, 0, 0, 1],
        _ => [0; 5],
    }
}

/// Returns true for a miss of an expired entry. A thread removes expired entries from both stores each second of real time, and from one before
/// the other.
fn store_may_have_been_swept(status: Option<CacheStatus>) -> bool {
    status.is_some_and(|status| status.outcome() == Outcome::Miss(Miss::Expired))
}

/// Returns the status fields that the miss would have had without the expired entry.
fn swept((mut headers, status): (HeaderMap, String)) -> (HeaderMap, String) {
    let field = headers["cache-status"].to_str().expect("text").replace("fwd=stale", "fwd=uri-miss");
    headers.insert("cache-status", field.parse().expect("a value"));
    (headers, status.replace("Miss(Expired)", "Miss(Absent)"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn remembering_layer_responds_and_counts_as_any_other(setup in setup(), steps in steps()) {
        remember_at_once();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let clock = Clock::manual();
            let new = |remembers| {
                let store = Memory::builder().clock(clock.clone()).build();
                let answers = setup.answers;
                // The response contains the request, so that different requests get different responses.
                let (inner, calls) = counting(move |request: &Request<Plain>, call| {
                    let mut response = ok(format!("{} {:?} {call}", request.uri(), request.headers()));
                    response.headers_mut().extend(answers.iter().map(|(name, value)| {
                        (HeaderName::from_static(name), HeaderValue::from_static(value))
                    }));
                    if let Some(status) = request.headers().get("x-answer") {
                        *response.status_mut() = status.as_bytes().try_into().expect("a status");
                    }
                    response
                });
                let layer = CacheLayer::new(store.clone()).rules(setup.rules(remembers)).cache_status("c");
                (store, layer.layer(inner), calls)
            };
            let ((one_store, one, one_calls), (other_store, other, other_calls)) = (new(true), new(false));
            for step in &steps {
                match step {
                    Step::Request(target) => for _ in 0..target.again {
                        let mut both = Vec::new();
                        for (store, cache) in [(&one_store, &one), (&other_store, &other)] {
                            let before = outcomes(store);
                            let response = send(cache, request(target)).await;
                            let status = CacheStatus::of(&response);
                            let (head, body) = response.into_parts();
                            let counted = status.map_or([0; 5], |status| counted_as(status.outcome()));
                            let body = body.collect().await.expect("a body");
                            let trailers = body.trailers().cloned();
                            // Background work ends before the next request.
                            until("no fill is running", || store.stats().flights == 0).await;
                            let after = outcomes(store);
                            prop_assert_eq!(
                                std::array::from_fn::<_, 5, _>(|at| after[at] - before[at]), counted, "{:?} {:?}", status, target
                            );
                            let told = (head.headers, format!("{status:?}"));
                            let (headers, status) = if store_may_have_been_swept(status) { swept(told) } else { told };
                            both.push((head.status, headers, status, body.to_bytes(), trailers));
                        }
                        prop_assert_eq!(&both[0], &both[1], "{:?}", target);
                    },
                    Step::Invalidate(name, softly) => for store in [&one_store, &other_store] {
                        match softly {
                            true => store.invalidate_softly([*name]).await.expect("memory can be invalidated"),
                            false => store.invalidate([*name]).await.expect("memory can be invalidated"),
                        }
                    },
                    Step::Wait(seconds) => clock.advance(Duration::from_secs(*seconds)),
                }
            }
            prop_assert_eq!(one_calls.load(SeqCst), other_calls.load(SeqCst));
            // Under HTTP rules, entries whose key may depend on more than the target have one more namespace.
            let [one, other] = [&one_store, &other_store].map(|store| {
                let mut stats = store.stats();
                // A sweep may have removed expired entries from one of the stores.
                (stats.bytes, stats.entries, stats.expired) = (0, 0, 0);
                for route in &mut stats.routes {
                    route.stored_bytes = 0;
                    route.requests.retain(|of| !matches!(of.outcome, Outcome::Miss(Miss::Absent | Miss::Expired)));
                }
                let is_swept = |(reason, _): &(Miss, u64)| matches!(reason, Miss::Absent | Miss::Expired);
                let swept: u64 = stats.misses.extract_if(.., |miss| is_swept(miss)).map(|(_, count)| count).sum();
                format!("{swept} {stats:?}")
            });
            prop_assert_eq!(one, other);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn layers_remember_targets_under_their_own_rules() {
    let store = Memory::new(1 << 20);
    let (inner, _) = counting(|request, _| ok(request.uri().to_string()));
    let sorted = CacheLayer::new(store.clone()).route("/t/{table}", Rule::ttl(MINUTE)).layer(inner.clone());
    let bare = Rule::ttl(MINUTE).key(RouteAndQuery.only_query(["page"]));
    let paged = CacheLayer::new(store).route("/t/{table}", bare).layer(inner);
    for _ in 0..ENOUGH {
        assert_eq!(text(send(&sorted, get("/t/a?x=1")).await).await, "/t/a?x=1");
        assert_eq!(text(send(&paged, get("/t/a?x=2")).await).await, "/t/a?x=2");
        assert_eq!(text(send(&paged, get("/t/a?x=1")).await).await, "/t/a?x=2");
    }
}

#[tokio::test]
async fn key_of_more_than_the_target_is_not_remembered() {
    assert!(RouteAndQuery.depends_only_on_target());
    assert!(RouteAndQuery.without_host().depends_only_on_target());
    assert!(RouteAndQuery.and(RouteAndQuery.without_query(["utm_*"])).depends_only_on_target());
    assert!(!RouteAndQuery.and(Headers::new(["accept-language"])).depends_only_on_target());
    assert!(!(|_: &RequestView<'_>| None::<String>).depends_only_on_target());

    let rule = Rule::ttl(MINUTE).key(RouteAndQuery.and(Headers::new(["x-tenant"])));
    let (inner, _) = counting(|request, _| ok(request.headers()["x-tenant"].as_bytes().to_vec()));
    let cache = CacheLayer::new(Memory::new(1 << 20)).route("/t/{table}", rule).layer(inner);
    for _ in 0..ENOUGH {
        for tenant in ["acme", "other"] {
            let mut request = get("/t/a");
            request.headers_mut().insert("x-tenant", HeaderValue::from_static(tenant));
            assert_eq!(text(send(&cache, request).await).await, tenant);
        }
    }
}

#[tokio::test]
async fn remembered_target_keeps_the_parameters_of_its_route() {
    let (store, clock) = {
        let clock = Clock::manual();
        (Memory::builder().clock(clock.clone()).build(), clock)
    };
    let (inner, calls) = counting(|_, call| ok(call.to_string()));
    let cache = CacheLayer::new(store.clone()).route("/t/{table}", Rule::ttl(MINUTE).namespace("t:{table}")).layer(inner);
    for _ in 0..ENOUGH {
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "1");
    }
    // The fast path finds the entry expired, and it is filled again under its own namespaces.
    clock.advance(MINUTE);
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "2");
    store.invalidate(["t:b"]).await.expect("memory can be invalidated");
    assert_eq!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit);
    store.invalidate(["t:a"]).await.expect("memory can be invalidated");
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "3");
    assert_eq!(calls.load(SeqCst), 3);
    let mut post = get("/t/a");
    *post.method_mut() = Method::POST;
    assert_eq!(text(send(&cache, post).await).await, "4");
}

/// The key of a feed whose URL is a secret.
struct Feed;

impl KeyExtractor for Feed {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        key.identity(request.param("token"));
        Extracted::Key
    }

    fn depends_only_on_target(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn target_with_an_identity_keeps_it() {
    let (inner, _) = counting(|_, call| ok(call.to_string()));
    let cache = CacheLayer::new(Memory::new(1 << 20)).route("/feeds/{token}", Rule::ttl(MINUTE).key(Feed)).layer(inner);
    for _ in 0..ENOUGH {
        let mut request = get("/feeds/ada");
        request.headers_mut().insert(header::COOKIE, HeaderValue::from_static("theme=dark"));
        assert_eq!(text(send(&cache, request).await).await, "1");
    }
}

#[tokio::test]
async fn remembered_target_serves_each_identity_its_own_response() {
    remember_at_once();
    let (inner, calls) = counting(|request, _| ok(format!("{:?}", request.headers().get(header::AUTHORIZATION))));
    let store = Memory::new(1 << 20);
    let rule = Rule::ttl(MINUTE).identity(Identity::bearer()).namespace("user:{identity}");
    let cache = CacheLayer::new(store.clone()).route("/me", rule.clone()).layer(inner.clone());
    let request = |user: usize| {
        let mut request = get("/me");
        request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {user:08}").parse().expect("a value"));
        request
    };
    let seen = async |user: usize| text(send(&cache, request(user)).await).await;
    for turn in 0..3 {
        for user in 0..30 {
            for _ in 0..1 + (user + turn) % 3 {
                assert_eq!(seen(user).await, format!("Some({:?})", format!("Bearer {user:08}")));
            }
        }
    }
    assert_eq!(calls.load(SeqCst), 30);
    assert_eq!(text(send(&cache, get("/me")).await).await, "None", "nobody is no user");
    let mut twice = request(1);
    twice.headers_mut().append(header::AUTHORIZATION, HeaderValue::from_static("Bearer 00000002"));
    assert_eq!(outcome(&send(&cache, twice).await), Outcome::Bypass(Bypass::IdentityAmbiguous));

    let write = InvalidateLayer::new(store).rules(Rules::new().route("/me", rule)).layer(inner);
    let mut post = request(7);
    *post.method_mut() = Method::POST;
    send(&write, post).await;
    let mut hits = 0;
    for user in 0..30 {
        let is_hit = outcome(&send(&cache, request(user)).await) == Outcome::Hit;
        assert!(!is_hit || user != 7, "its own write has invalidated it");
        hits += usize::from(is_hit);
    }
    assert!(hits > 20, "names that share an epoch are invalidated together: {hits}");
}

#[tokio::test]
async fn rule_may_call_another_cache_on_the_fast_path() {
    let (inner, _) = counting(|_, call| ok(call.to_string()));
    let other = CacheLayer::new(Memory::new(1 << 20)).rule(Rule::ttl(MINUTE)).layer(inner.clone());
    let rule = Rule::ttl(MINUTE).namespace("t:{table}").namespaces_by(move |_| {
        for n in 0..ENOUGH {
            let mut other = other.clone();
            drop(tower::Service::call(&mut other, get(&format!("/o/{}", n % 3))));
        }
        Vec::new()
    });
    let store = Memory::new(1 << 20);
    let cache = CacheLayer::new(store.clone()).route("/t/{table}", rule).layer(inner);
    for _ in 0..3 {
        for _ in 0..ENOUGH {
            send(&cache, get("/t/a")).await;
        }
        // The next request is found by its target, is invalidated, and is filled again.
        store.invalidate(["t:a"]).await.expect("memory can be invalidated");
    }
}

/// The keys of this crate treat both alike, those of other extractors perhaps not.
#[tokio::test]
async fn empty_host_differs_from_an_absent_one() {
    let (inner, _) = counting(|request, _| ok(format!("{:?}", request.headers().get(header::HOST))));
    let rule = Rule::ttl(MINUTE).key(Authority);
    let cache = CacheLayer::new(Memory::new(1 << 20)).route("/t/{table}", rule).layer(inner);
    for _ in 0..ENOUGH {
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "None");
        let mut request = get("/t/a");
        request.headers_mut().insert(header::HOST, HeaderValue::from_static(""));
        assert_eq!(text(send(&cache, request).await).await, "Some(\"\")");
    }
}
