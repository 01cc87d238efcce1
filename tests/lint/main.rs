//! Mistakes in the configuration: each is planted and found, and its correction has no finding.

#[path = "../common/mod.rs"]
mod common;

mod examples;
#[cfg(feature = "redis")]
mod redis;

use std::{iter, time::Duration};

use common::{app::answering, *};
use http::{HeaderName, HeaderValue, Request, Response};
use tower::Layer;
use tower_response_cache::{
    Identity, Memory, ResponseCache, Rule, Rules,
    lint::{Finding, FindingKind, Lint},
};

type Answer = fn(&Request<Plain>, usize) -> Response<Plain>;

fn lint() -> Lint {
    Lint::new().min_requests(10)
}

/// Returns a rule of a minute with a namespace.
fn rule(namespace: &str) -> Rule {
    Rule::ttl(MINUTE).namespace(namespace)
}

fn plain(_: &Request<Plain>, call: usize) -> Response<Plain> {
    ok(format!("answer {call}"))
}

fn reads(target: &str, count: usize) -> impl Iterator<Item = Request<Plain>> {
    iter::repeat_with(|| get(target)).take(count)
}

fn with(mut request: Request<Plain>, name: &'static str, value: &str) -> Request<Plain> {
    request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    request
}

fn answer_with(fields: &[(&'static str, &'static str)]) -> Response<Plain> {
    let mut response = ok("answer");
    for (name, value) in fields {
        response.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Returns the findings after these requests through both layers.
async fn findings(rules: Rules, answer: Answer, requests: impl Iterator<Item = Request<Plain>>) -> Vec<Finding> {
    let cache = ResponseCache::new(Memory::default()).rules(rules);
    let service = cache.layer().layer(counting(answer).0);
    for request in requests {
        text(send(&service, request).await).await;
    }
    cache.lint_with(&lint())
}

/// Returns the findings before the first request.
fn at_start(rules: Rules) -> Vec<Finding> {
    ResponseCache::new(Memory::default()).rules(rules).lint_with(&lint())
}

/// Fails unless there is one finding, of this kind and about this route.
#[track_caller]
fn assert_one(found: &[Finding], kind: FindingKind, route: Option<&str>) {
    assert_eq!(found.iter().map(|found| (found.kind(), found.route())).collect::<Vec<_>>(), [(kind, route)], "{found:#?}");
}

#[track_caller]
fn assert_none(found: &[Finding]) {
    assert!(found.is_empty(), "{found:#?}");
}

// ---- Mistakes in the rules ----------------------------------------------------------------------------------------------

#[test]
fn fallback_behind_routes_of_every_path_is_found() {
    let rules = |last: &str| Rules::new().route("/", rule("a")).route(last, rule("a")).fallback(rule("a"));
    assert_one(&at_start(rules("/{*rest}")), FindingKind::UnmatchedRule, Some("(any)"));
    assert_none(&at_start(rules("/files/{*rest}")));
}

#[test]
fn replaced_fallback_is_found() {
    let once = Rules::new().fallback(rule("a"));
    assert_none(&at_start(once.clone()));
    assert_one(&at_start(once.fallback(rule("a"))), FindingKind::UnmatchedRule, Some("(any)"));
}

#[test]
fn namespace_that_no_write_invalidates_is_found() {
    let rules = |write: &str| {
        let a = Rule::ttl(MINUTE).namespace("rows:{table}").invalidates(write).invalidates("b");
        Rules::new().route("/a/{table}", a).route("/b", rule("b"))
    };
    assert_one(&at_start(rules("b")), FindingKind::NamespaceNotInvalidated, Some("/a/{table}"));
    assert_none(&at_start(rules("rows:{table}")));
    assert_none(&at_start(rules("rows")));
    let cache = ResponseCache::new(Memory::default()).rules(rules("b"));
    assert_none(&cache.lint_with(&lint().invalidated_elsewhere("rows:{table}")));
}

#[test]
fn unknown_invalidations_prevent_a_false_alarm() {
    let a = rule("a").invalidates_nothing();
    assert_none(&at_start(Rules::new().route("/a", a)));
    let by_closure = rule("a").invalidates_by(|_, _| Vec::new());
    assert_none(&at_start(Rules::new().route("/a", by_closure)));
}

#[test]
fn namespace_that_no_response_carries_is_found() {
    let rules = |write: &str| Rules::new().route("/a", rule("rows:a")).route("/a/{id}", Rule::uncached().invalidates(write));
    assert_one(&at_start(rules("row:a")), FindingKind::NamespaceNotCarried, Some("/a/{id}"));
    assert_one(&at_start(rules("rows:a:{id}")), FindingKind::NamespaceNotCarried, Some("/a/{id}"));
    for write in ["rows:a", "rows", "*", "rows:{id}"] {
        assert_none(&at_start(rules(write)));
    }
    assert_none(&at_start(rules("row:a").route("/b", rule("b").namespaces_by(|_| Vec::new()))));
}

#[test]
fn lifetime_beyond_the_requested_staleness_is_found() {
    let cache = |stale: u64| {
        let rule = Rule::ttl(20 * SECOND).stale_while_revalidate(Duration::from_secs(stale)).namespace("a");
        ResponseCache::new(Memory::default()).route("/a", rule)
    };
    let limit = lint().max_staleness(30 * SECOND);
    assert_one(&cache(11).lint_with(&limit), FindingKind::Lifetime, Some("/a"));
    assert_none(&cache(10).lint_with(&limit));
    assert_none(&cache(11).lint());
}

// ---- Mistakes that show in the traffic ----------------------------------------------------------------------------------

#[tokio::test]
async fn rule_without_requests_among_used_ones_is_found() {
    let rules = || Rules::new().route("/a", rule("a")).route("/typo", rule("a"));
    assert_one(&findings(rules(), plain, reads("/a", 20)).await, FindingKind::UnmatchedRule, Some("/typo"));
    assert_none(&findings(rules(), plain, reads("/a", 19)).await);
    assert_none(&findings(rules(), plain, reads("/a", 19).chain(reads("/typo", 1))).await);
}

#[tokio::test]
async fn rules_that_match_no_request_are_one_finding() {
    let rules = || Rules::new().route("/a", rule("a")).route("/b", rule("a"));
    assert_one(&findings(rules(), plain, reads("/api/a", 1_000)).await, FindingKind::UnmatchedRule, None);
    assert_none(&findings(rules(), plain, reads("/api/a", 999)).await);
}

#[tokio::test]
async fn authenticated_route_without_identity_is_found() {
    let requests = |signed_in: usize| {
        let some = iter::repeat_with(|| with(get("/a"), "authorization", "Bearer anna")).take(signed_in);
        some.chain(reads("/a", 5)).chain(iter::repeat_with(|| post("/a")).take(20))
    };
    let rules = || Rules::new().route("/a", rule("a"));
    assert_one(&findings(rules(), plain, requests(6)).await, FindingKind::Credentials, Some("/a"));
    assert_none(&findings(rules(), plain, requests(5)).await);
    assert_none(&findings(rules(), plain, requests(4)).await);
    let with_identity = Rules::new().route("/a", rule("a").identity(Identity::bearer()));
    assert_none(&findings(with_identity, plain, requests(6)).await);
}

#[tokio::test]
async fn vary_that_explodes_is_found() {
    let requests = |users: usize| (0..200).map(move |n| with(get("/a"), "x-id", &(n % users).to_string()));
    let answer: Answer = |_, _| answer_with(&[("vary", "x-id")]);
    let rules = || Rules::new().route("/a", rule("a"));
    assert_one(&findings(rules(), answer, requests(40)).await, FindingKind::Vary, Some("/a"));
    assert_none(&findings(rules(), answer, requests(31)).await);
}

#[tokio::test]
async fn session_layer_that_always_sets_a_cookie_is_found() {
    let rules = || Rules::new().route("/a", rule("a"));
    let always: Answer = |_, _| answer_with(&[("set-cookie", "id=1")]);
    assert_one(&findings(rules(), always, reads("/a", 20)).await, FindingKind::SetCookie, Some("/a"));
    assert_none(&findings(rules(), always, reads("/a", 9)).await);
    let rarely: Answer = |_, call| answer_with(if call == 1 { &[("set-cookie", "id=1")] } else { &[] });
    assert_none(&findings(rules(), rarely, reads("/a", 20)).await);
}

#[tokio::test]
async fn compression_without_vary_is_found() {
    let rules = || Rules::new().route("/a", rule("a"));
    let silent: Answer = |_, _| answer_with(&[("content-encoding", "gzip")]);
    assert_one(&findings(rules(), silent, reads("/a", 1)).await, FindingKind::Compression, Some("/a"));
    let stated: Answer = |_, _| answer_with(&[("content-encoding", "gzip"), ("vary", "accept-encoding")]);
    assert_none(&findings(rules(), stated, reads("/a", 20)).await);
    let translated: Answer = |_, _| answer_with(&[("content-language", "en")]);
    assert_none(&findings(rules(), translated, reads("/a", 20)).await);
}

#[tokio::test]
async fn two_layers_over_one_route_are_found() {
    for twice in [true, false] {
        let cache = ResponseCache::new(Memory::default()).route("/a", rule("a"));
        let inner = cache.cache_layer().layer(counting(plain).0);
        match twice {
            true => _ = text(send(&cache.cache_layer().layer(inner), get("/a")).await).await,
            false => _ = text(send(&inner, get("/a")).await).await,
        }
        match twice {
            true => assert_one(&cache.lint_with(&lint()), FindingKind::Nested, Some("/a")),
            false => assert_none(&cache.lint_with(&lint())),
        }
    }
}

#[tokio::test]
async fn rule_by_post_without_its_layer_is_found() {
    let rules = || Rules::new().route("/a", rule("a").reads_by_post());
    assert_one(&findings(rules(), plain, iter::once(post("/a"))).await, FindingKind::RequestBodyUnread, Some("/a"));
    let cache = ResponseCache::new(Memory::default()).rules(rules());
    let service = cache.layer_with_request_bodies().layer(answering(|_, _| ok("answer")).0);
    text(send(&service, post("/a")).await).await;
    assert_none(&cache.lint_with(&lint()));
}

#[tokio::test]
async fn writes_beside_entries_without_namespace_are_found() {
    let requests = || reads("/a", 20).chain([post("/a")]);
    let bare = || Rules::new().route("/a", Rule::ttl(MINUTE));
    assert_one(&findings(bare(), plain, requests()).await, FindingKind::NeverInvalidated, Some("/a"));
    assert_none(&findings(bare(), plain, reads("/a", 20)).await);
    assert_none(&findings(Rules::new().route("/a", rule("*")), plain, requests()).await);
}

#[tokio::test]
async fn lifetime_of_zero_is_found() {
    let rules = |ttl| Rules::new().route("/a", Rule::ttl(ttl).namespace("a"));
    assert_one(&findings(rules(Duration::ZERO), plain, reads("/a", 20)).await, FindingKind::NothingStored, Some("/a"));
    assert_none(&findings(rules(MINUTE), plain, reads("/a", 20)).await);
}

#[tokio::test]
async fn uncovered_write_is_found() {
    let rules = || Rules::new().route("/a", rule("a"));
    assert_one(&findings(rules(), plain, iter::once(post("/b"))).await, FindingKind::UncoveredWrites, None);
    assert_none(&findings(rules(), plain, iter::once(post("/a"))).await);
}

// ---- Findings -----------------------------------------------------------------------------------------------------------

#[test]
fn finding_prints_its_kind_route_problem_and_remedy() {
    let found = at_start(Rules::new().fallback(rule("a")).fallback(rule("a"))).remove(0);
    let expected = format!("unmatched-rule (any): a later fallback has replaced this one; {}", found.remedy());
    assert_eq!(found.to_string(), expected);
}

#[test]
fn words_of_the_kinds_are_tokens_and_differ() {
    let mut words: Vec<_> = FindingKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert!(words.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-')), "{words:?}");
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), FindingKind::ALL.len());
}

/// The guide lists each kind with its word.
#[test]
fn guide_lists_each_kind() {
    let guide = include_str!("../../docs/observability.md");
    for kind in FindingKind::ALL {
        assert!(guide.contains(&format!("| `{kind}` |")), "{kind}");
    }
}
