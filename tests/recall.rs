//! Targets that are remembered: what they save, nobody can see. A layer that remembers and one that never does answer alike.

mod common;

use std::time::Duration;

use common::{MINUTE, Plain, SECOND, counting, get, ok, outcome, send, text, until};
use http::{HeaderValue, Method, Request, Response, header};
use proptest::prelude::*;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Clock, Extracted, Headers, KeyExtractor, KeyWriter, Memory, Outcome, RequestView, RouteAndQuery, Rule, Rules,
    Store, remember_at_once,
};

/// The same keys as another extractor writes, which are not remembered.
struct Forgotten<K>(K);

impl<K: KeyExtractor> KeyExtractor for Forgotten<K> {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        self.0.extract(request, key)
    }
}

/// A hit is remembered in its turn, one in eight: after so many every target that nothing else displaces is.
const ENOUGH: usize = 40;

const TARGETS: [&str; 10] = [
    "/t/a?x=1&y=2",
    "/t/a?y=2&x=1",
    "/t/a",
    "/t/a?",
    "/t/b",
    "/t/%61",
    "http://one.example/t/a",
    "http://two.example/t/a",
    "/h/a",
    "/f/a",
];

#[derive(Debug, Clone)]
struct Asked {
    target: &'static str,
    method: &'static str,
    hosts: &'static [&'static str],
    fields: &'static [(&'static str, &'static str)],
    again: usize,
}

#[derive(Debug, Clone)]
enum Step {
    Ask(Asked),
    Clear(&'static str),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hosts = prop::sample::select(vec![&[] as &[&str], &["one.example"], &["two.example"], &["one.example", "two.example"]]);
    let fields = prop::sample::select(vec![
        &[] as &[(&str, &str)],
        &[],
        &[],
        &[("cookie", "session=1")],
        &[("range", "bytes=0-1")],
        &[("if-none-match", "\"tag\"")],
        &[("if-match", "\"tag\"")],
        &[("cache-control", "no-cache")],
        &[("accept-language", "de")],
        &[("x-http-method-override", "DELETE")],
    ]);
    let method = prop::sample::select(vec!["GET", "GET", "GET", "HEAD", "POST"]);
    let again = prop::sample::select(vec![1, 2, ENOUGH]);
    let asked = (prop::sample::select(TARGETS.to_vec()), method, hosts, fields, again)
        .prop_map(|(target, method, hosts, fields, again)| Step::Ask(Asked { target, method, hosts, fields, again }));
    let clear = prop::sample::select(vec!["t:a", "t:b", "other"]).prop_map(Step::Clear);
    prop::collection::vec(prop_oneof![8 => asked, 1 => clear, 1 => (1..90u64).prop_map(Step::Wait)], 1..24)
}

fn request(asked: &Asked) -> Request<Plain> {
    let mut request = get(asked.target);
    *request.method_mut() = asked.method.parse().expect("a method");
    for host in asked.hosts {
        request.headers_mut().append(header::HOST, HeaderValue::from_static(host));
    }
    for (name, value) in asked.fields {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    request
}

/// Three kinds of rules, and a fallback; each remembers, or none does.
fn rules(remember: bool) -> Rules {
    let key = |rule: Rule| match remember {
        true => rule.key(RouteAndQuery),
        false => rule.key(Forgotten(RouteAndQuery)),
    };
    Rules::new()
        .route("/t/{table}", key(Rule::ttl(MINUTE)).namespace("t:{table}"))
        .route("/h/{table}", key(Rule::http()))
        .fallback(key(Rule::ttl(MINUTE)))
}

/// What the inner service makes of a request; a response to one language is another than that to the next.
fn answer(request: &Request<Plain>, call: usize) -> Response<Plain> {
    let mut response = ok(format!("{} {:?} {call}", request.uri(), request.headers().get(header::HOST)));
    for (name, value) in [("etag", "\"tag\""), ("cache-control", "max-age=30"), ("vary", "accept-language")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_layer_that_remembers_targets_answers_as_one_that_does_not(steps in steps()) {
        remember_at_once();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let clock = Clock::manual();
            let new = |remember| {
                let store = Memory::builder().clock(clock.clone()).build();
                let (inner, calls) = counting(answer);
                let layer = CacheLayer::new(store.clone()).rules(rules(remember)).cache_status("c");
                (store, layer.layer(inner), calls)
            };
            let ((one_store, one, one_calls), (other_store, other, other_calls)) = (new(true), new(false));
            for step in &steps {
                match step {
                    Step::Ask(asked) => for _ in 0..asked.again {
                        let (one, other) = (send(&one, request(asked)).await, send(&other, request(asked)).await);
                        prop_assert_eq!(one.status(), other.status());
                        prop_assert_eq!(one.headers(), other.headers(), "{:?}", asked);
                        prop_assert_eq!(text(one).await, text(other).await, "{:?}", asked);
                    },
                    Step::Clear(name) => for store in [&one_store, &other_store] {
                        store.invalidate([*name]).await.expect("memory can be cleared");
                    },
                    Step::Wait(seconds) => clock.advance(std::time::Duration::from_secs(*seconds)),
                }
            }
            prop_assert_eq!(one_calls.load(std::sync::atomic::Ordering::SeqCst), other_calls.load(std::sync::atomic::Ordering::SeqCst));
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn layers_with_other_rules_for_a_target_remember_it_each_for_itself() {
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
async fn a_key_that_depends_on_more_than_the_target_is_never_remembered_by_it() {
    assert!(RouteAndQuery.is_of_target());
    assert!(RouteAndQuery.without_host().is_of_target());
    assert!(RouteAndQuery.and(RouteAndQuery.without_query(["utm_*"])).is_of_target());
    assert!(!RouteAndQuery.and(Headers::new(["accept-language"])).is_of_target());
    assert!(!(|_: &RequestView<'_>| None::<String>).is_of_target());

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
async fn a_remembered_target_is_refreshed_with_the_parameters_of_its_route() {
    let (store, clock) = {
        let clock = Clock::manual();
        (Memory::builder().clock(clock.clone()).build(), clock)
    };
    let (inner, calls) = counting(|_, call| ok(call.to_string()));
    let cache = CacheLayer::new(store.clone()).route("/t/{table}", Rule::ttl(MINUTE).namespace("t:{table}")).layer(inner);
    for _ in 0..ENOUGH {
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "1");
    }
    // Found to be over on the short way, and fetched again under its own namespaces.
    clock.advance(MINUTE);
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "2");
    store.invalidate(["t:b"]).await.expect("memory can be cleared");
    assert_eq!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit);
    store.invalidate(["t:a"]).await.expect("memory can be cleared");
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "3");
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 3);
    let mut post = get("/t/a");
    *post.method_mut() = Method::POST;
    assert_eq!(text(send(&cache, post).await).await, "4");
}

/// The key of a feed whose address is a secret.
struct Feed;

impl KeyExtractor for Feed {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        key.identity(request.param("token"));
        Extracted::Key
    }

    fn is_of_target(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_target_that_says_who_is_asking_goes_on_saying_it() {
    let (inner, _) = counting(|_, call| ok(call.to_string()));
    let cache = CacheLayer::new(Memory::new(1 << 20)).route("/feeds/{token}", Rule::ttl(MINUTE).key(Feed)).layer(inner);
    for _ in 0..ENOUGH {
        let mut request = get("/feeds/ada");
        request.headers_mut().insert(header::COOKIE, HeaderValue::from_static("theme=dark"));
        assert_eq!(text(send(&cache, request).await).await, "1");
    }
}

#[tokio::test]
async fn a_rule_that_asks_another_cache_on_the_short_way_does_not_panic() {
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
        // What comes next is known by its target, found to be cleared, and fetched again.
        store.invalidate(["t:a"]).await.expect("memory can be cleared");
    }
}

/// XFetch draws once for each hit: a target that is remembered is not drawn for twice, which would refresh it more seldom.
#[tokio::test]
async fn a_target_that_is_remembered_is_refreshed_early_as_often_as_one_that_is_not() {
    let refreshes = async |rule: Rule| {
        fastrand::seed(20);
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let (inner, _) = counting({
            let clock = clock.clone();
            move |_, _| {
                clock.advance(SECOND);
                ok("x")
            }
        });
        let layer = CacheLayer::new(store.clone()).rules(Rules::new().route("/t/{x}", rule.early_refresh(10.0)));
        let cache = layer.layer(inner);
        send(&cache, get("/t/a")).await;
        for _ in 0..ENOUGH {
            send(&cache, get("/t/a")).await;
        }
        let mut seen = store.stats().refreshes;
        let mut early = 0;
        // Where half of the hits are early: e^(-left / 10 s) is one half.
        let half = Duration::from_secs_f64(600.0 - 10.0 * std::f64::consts::LN_2);
        clock.advance(half);
        for _ in 0..400 {
            assert_eq!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit);
            if store.stats().refreshes > seen {
                (seen, early) = (store.stats().refreshes, early + 1);
                until("it is renewed", || store.stats().stored == seen + 1).await;
                clock.advance(half);
            }
        }
        early
    };
    let rule = || Rule::ttl(10 * MINUTE);
    for early in [refreshes(rule()).await, refreshes(rule().key(Forgotten(RouteAndQuery))).await] {
        assert!((160..240).contains(&early), "{early} of 400");
    }
}
