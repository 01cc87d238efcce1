//! Response rules: which responses they match, and what becomes of these.

use std::time::Duration;

use crate::common::{MINUTE, Plain, SECOND, counting, get, ok, one_rule, outcome, post, send};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{
    CachePolicy, CacheStatus, Clock, Identity, Memory, Namespace, Outcome, ResponseCache, Rule, Rules,
    namespace::MAX_NAMESPACES,
    rules::ResponseRule,
    status::{NoStore, Storing},
};

/// The head of a response: its status, and its fields as `name: value`, separated by `|`.
type Head = (u16, &'static str);

fn response((status, fields): Head) -> Response<Plain> {
    let mut response = ok("rows");
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for field in fields.split('|').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once(": ").expect("a field");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        response.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
    }
    response
}

/// The fate of a response.
#[derive(Debug, PartialEq)]
enum Fate {
    /// Its lifetime in seconds, and which of the namespaces `a`, `b` and `t:x` its entry belongs to.
    Stored(u64, Vec<&'static str>),
    Not(NoStore),
}

/// Sends a response through the cache, and returns its fate.
async fn fate(rules: &Rules, respond: impl Fn() -> Response<Plain> + Clone + Send + Sync + 'static) -> Fate {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(1 << 20).clock(clock.clone()).build();
    let cache = ResponseCache::new(store).rules(rules.clone()).status_extension(true);
    let service = cache.layer().layer(counting(move |_, _| respond()).0);
    let first = send(&service, get("/t/x")).await;
    match CacheStatus::of(&first).expect("a rule covers it").stored() {
        Some(Storing::Stored) => {}
        Some(Storing::Not(why)) => return Fate::Not(why),
        other => panic!("{other:?}"),
    }
    let is_hit = async || outcome(&send(&service, get("/t/x")).await) == Outcome::Hit;
    if !is_hit().await {
        return Fate::Stored(0, Vec::new());
    }
    let mut names = Vec::new();
    for name in ["a", "b", "t:x"] {
        assert!(is_hit().await, "it is stored");
        cache.invalidate([name]).await.expect("memory");
        if !is_hit().await {
            names.push(name);
        }
    }
    cache.invalidate(["*"]).await.expect("memory");
    send(&service, get("/t/x")).await;
    let mut seconds = 0;
    while is_hit().await {
        clock.advance(SECOND);
        seconds += 1;
    }
    Fate::Stored(seconds, names)
}

fn stored(seconds: u64, names: &[&'static str]) -> Fate {
    Fate::Stored(seconds, names.to_vec())
}

const HTML: &str = "content-type: text/html; charset=utf-8";

#[tokio::test]
async fn first_matching_response_rule_decides() {
    let new = ResponseRule::new;
    let not_found = StatusCode::NOT_FOUND;
    for (responses, head, want) in [
        // Statuses.
        (vec![], (200, ""), stored(60, &[])),
        (vec![new().status(not_found).ttl(5 * SECOND)], (404, ""), stored(5, &[])),
        (vec![new().status(not_found).ttl(5 * SECOND)], (200, ""), stored(60, &[])),
        (vec![new().statuses(500..=599).ttl(5 * SECOND)], (500, ""), stored(5, &[])),
        (vec![new().statuses(500..=599).ttl(5 * SECOND)], (599, ""), stored(5, &[])),
        (vec![new().statuses(500..=598).ttl(5 * SECOND)], (599, ""), Fate::Not(NoStore::Status)),
        (vec![new().status(not_found).statuses(500..=599).ttl(5 * SECOND)], (404, ""), stored(5, &[])),
        (vec![new().status(not_found).no_store()], (404, ""), Fate::Not(NoStore::NoStore)),
        (vec![new().status(not_found).ttl(Duration::ZERO)], (404, ""), Fate::Not(NoStore::Lifetime)),
        // A status that is not stored by default needs a condition for it.
        (vec![new().ttl(5 * SECOND)], (500, ""), Fate::Not(NoStore::Status)),
        (vec![new().content_type("text/html").ttl(5 * SECOND)], (500, HTML), Fate::Not(NoStore::Status)),
        (vec![new().statuses(500..=599).namespace("a")], (500, ""), Fate::Not(NoStore::Status)),
        // Content types.
        (vec![new().content_type("text/html").ttl(5 * SECOND)], (200, HTML), stored(5, &[])),
        (vec![new().content_type("TEXT/*").ttl(5 * SECOND)], (200, HTML), stored(5, &[])),
        (vec![new().content_type("text/htm").ttl(5 * SECOND)], (200, HTML), stored(60, &[])),
        (vec![new().content_type("image/*").content_type("*/html").ttl(5 * SECOND)], (200, HTML), stored(5, &[])),
        (vec![new().content_type("*/*").ttl(5 * SECOND)], (200, ""), stored(60, &[])),
        // Header fields.
        (vec![new().header("x-draft", "*").no_store()], (200, "x-draft: "), Fate::Not(NoStore::NoStore)),
        (vec![new().header("x-draft", "*").no_store()], (200, ""), stored(60, &[])),
        (vec![new().header("x-kind", "page").namespace("a")], (200, "x-kind: page"), stored(60, &["a"])),
        (vec![new().header("x-kind", "page").namespace("a")], (200, "x-kind: Page"), stored(60, &[])),
        (vec![new().header("x-kind", "p*").namespace("a")], (200, "x-kind: x|x-kind: page"), stored(60, &["a"])),
        (vec![new().header("x-a", "1").header("x-b", "2").ttl(5 * SECOND)], (200, "x-a: 1|x-b: 2"), stored(5, &[])),
        (vec![new().header("x-a", "1").header("x-b", "2").ttl(5 * SECOND)], (200, "x-a: 1"), stored(60, &[])),
        // All conditions must be met.
        (vec![new().status(not_found).content_type("text/*").ttl(5 * SECOND)], (404, HTML), stored(5, &[])),
        (vec![new().status(not_found).content_type("text/*").ttl(5 * SECOND)], (404, ""), stored(60, &[])),
        // The first one that matches decides, also if it has no effect.
        (vec![new().namespace("a"), new().ttl(5 * SECOND).namespace("b")], (200, ""), stored(60, &["a"])),
        (vec![new().status(not_found).namespace("a"), new().namespace("b")], (200, ""), stored(60, &["b"])),
        (vec![new().header("x-ok", "*"), new().no_store()], (200, "x-ok: 1"), stored(60, &[])),
        (vec![new().header("x-ok", "*"), new().no_store()], (200, ""), Fate::Not(NoStore::NoStore)),
        // Namespaces with parameters.
        (vec![new().namespace("t:{table}").namespace("a")], (200, ""), stored(60, &["a", "t:x"])),
    ] {
        let rule = responses.iter().cloned().fold(Rule::ttl(MINUTE), Rule::response_rule);
        assert_eq!(fate(&one_rule(rule), move || response(head)).await, want, "{responses:?} {head:?}");
    }
}

#[tokio::test]
async fn lifetimes_have_their_order_of_precedence() {
    let rule = |rule: Rule| one_rule(rule.response_rule(ResponseRule::new().statuses(200..=404).ttl(5 * SECOND)));
    let by_status = Rule::ttl(MINUTE).status(StatusCode::NOT_FOUND, 20 * SECOND);
    assert_eq!(fate(&rule(by_status), || response((404, ""))).await, stored(5, &[]));
    let by_handler = || {
        let mut response = response((200, ""));
        response.extensions_mut().insert(CachePolicy::new().ttl(7 * SECOND).namespace(Namespace::of(["b"])));
        response
    };
    assert_eq!(fate(&rule(Rule::ttl(MINUTE)), by_handler).await, stored(7, &["b"]));
    let forbids = one_rule(Rule::ttl(MINUTE).response_rule(ResponseRule::new().no_store()));
    assert_eq!(fate(&forbids, by_handler).await, Fate::Not(NoStore::NoStore));
    for (control, want) in [
        ("", stored(5, &[])),
        ("cache-control: max-age=9", stored(9, &[])),
        ("cache-control: s-maxage=0, max-age=9", Fate::Not(NoStore::Lifetime)),
        ("expires: Thu, 01 Jan 1970 00:00:00 GMT", stored(0, &[])),
    ] {
        assert_eq!(fate(&rule(Rule::http()), move || response((200, control))).await, want, "{control}");
    }
}

#[tokio::test]
async fn response_rule_stores_nothing_that_may_not_be_stored() {
    let all = || ResponseRule::new().statuses(100..=999).ttl(MINUTE).namespace("a");
    for rule in [Rule::ttl(MINUTE), Rule::http()] {
        let rules = one_rule(rule.response_rule(all()));
        for (fields, why) in [
            ("cache-control: no-store", NoStore::NoStore),
            ("cache-control: private", NoStore::Private),
            ("cache-control: private, max-age=60", NoStore::Private),
            ("set-cookie: a=b", NoStore::SetCookie),
            ("vary: *", NoStore::Vary),
            ("content-type: text/event-stream", NoStore::EventStream),
        ] {
            assert_eq!(fate(&rules, move || response((200, fields))).await, Fate::Not(why), "{fields}");
        }
        assert_eq!(fate(&rules, || response((206, "content-range: bytes 0-3/9"))).await, Fate::Not(NoStore::Partial));
    }
}

#[tokio::test]
async fn response_rule_shares_nothing_between_users() {
    let all = || ResponseRule::new().ttl(MINUTE);
    let request = |secret: &str| {
        let request = Request::get("/t/x").header("authorization", format!("Bearer {secret}"));
        request.body(Plain::default()).expect("a request")
    };
    for rule in [Rule::ttl(MINUTE), Rule::http(), Rule::ttl(MINUTE).identity(Identity::bearer())] {
        let cache = ResponseCache::new(Memory::default()).rules(one_rule(rule.response_rule(all()))).status_extension(true);
        let service = cache.layer().layer(counting(|_, _| ok("rows")).0);
        for secret in ["ada", "bob"] {
            assert_ne!(outcome(&send(&service, request(secret)).await), Outcome::Hit, "{secret}");
        }
        assert_ne!(outcome(&send(&service, get("/t/x")).await), Outcome::Hit);
    }
}

#[tokio::test]
async fn writes_on_the_route_invalidate_conditional_namespaces() {
    let own = || Rule::ttl(MINUTE).response_rule(ResponseRule::new().status(StatusCode::OK).namespace("a"));
    let other = Rule::uncached().invalidates("a");
    for (rules, write) in
        [(Rules::new().route("/t/{table}", own()), "/t/y"), (Rules::new().route("/t/{table}", own()).route("/w", other), "/w")]
    {
        let cache = ResponseCache::new(Memory::default()).rules(rules).status_extension(true);
        let service = cache.layer().layer(counting(|_, _| ok("rows")).0);
        send(&service, get("/t/x")).await;
        assert_eq!(outcome(&send(&service, get("/t/x")).await), Outcome::Hit);
        send(&service, post(write)).await;
        assert_ne!(outcome(&send(&service, get("/t/x")).await), Outcome::Hit, "{write}");
    }
}

#[tokio::test]
async fn stricter_response_rule_ends_older_entries_at_a_reload() {
    let draft = (200, "x-draft: yes|cache-control: public");
    let forbids = || Rule::ttl(MINUTE).namespace("t").response_rule(ResponseRule::new().header("x-draft", "*").no_store());
    let shorter = |seconds| {
        Rule::ttl(MINUTE).namespace("t").response_rule(ResponseRule::new().header("x-draft", "*").ttl(seconds * SECOND))
    };
    for (before, after, is_kept) in [
        (Rule::ttl(MINUTE).namespace("t"), forbids(), false),
        (shorter(50), forbids(), false),
        (shorter(50), shorter(5), true),
        (Rule::ttl(MINUTE).namespace("t"), shorter(5), true),
    ] {
        let cache = ResponseCache::new(Memory::default()).rules(one_rule(before)).status_extension(true);
        let service = cache.layer().layer(counting(move |_, _| response(draft)).0);
        send(&service, get("/t/x")).await;
        cache.reload(one_rule(after)).await.expect("memory");
        assert_eq!(outcome(&send(&service, get("/t/x")).await) == Outcome::Hit, is_kept);
    }
}

#[test]
fn summary_names_conditions_and_effects() {
    let rule = Rule::ttl(MINUTE).response_rule(ResponseRule::new().status(StatusCode::GONE).statuses(500..=599).ttl(SECOND));
    let rule = rule.response_rule(ResponseRule::new().content_type("text/*").header("x-a", "*").no_store());
    let cache = ResponseCache::new(Memory::default()).rules(one_rule(rule.response_rule(ResponseRule::new().namespace("a"))));
    let options = cache.rule_summaries()[0].options().to_vec();
    for expected in ["status 410 or 500-599: for 1s", "text/* and x-a = \"*\": not stored", "any response: in a"] {
        assert!(options.iter().any(|option| option == expected), "{expected}: {options:?}");
    }
}

#[test]
fn faulty_response_rules_are_refused() {
    let new = ResponseRule::new;
    for (response, message) in [
        (
            new().statuses(std::ops::RangeInclusive::new(599, 500)),
            "response rule 1: invalid statuses 599-500: expected a range within 100-999",
        ),
        (new().status(StatusCode::NOT_MODIFIED), "response rule 1: a 304 response cannot be stored"),
        (new().content_type("html"), "invalid content type \"html\": expected a media type"),
        (new().content_type("text/html; charset=utf-8"), "expected a media type such as \"text/html\""),
        (new().no_store().ttl(SECOND), "`no_store` stands beside a lifetime or a namespace; only one can hold"),
        (new().namespace("t:{id}"), "the route has no parameter `{id}`"),
        ((0..=MAX_NAMESPACES).fold(new(), |rule, n| rule.namespace(format!("n{n}"))), "too many namespaces"),
    ] {
        let error = Rules::new().try_route("/t/{table}", Rule::ttl(MINUTE).response_rule(response)).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[cfg(feature = "config")]
#[tokio::test]
async fn response_rules_of_a_file_are_those_of_code() {
    for (lines, head, want) in [
        ("status = 404\nttl = '5s'", (404, ""), stored(5, &[])),
        ("status = '404'\nttl = '5s'", (404, ""), stored(5, &[])),
        ("status = [410, '500-599']\nttl = '5s'", (503, ""), stored(5, &[])),
        ("status = [410, '500-599']\nttl = '5s'", (404, ""), stored(60, &[])),
        ("content_type = 'text/*'\nttl = '5s'", (200, HTML), stored(5, &[])),
        ("content_type = ['image/*', 'text/html']\nttl = '5s'", (200, HTML), stored(5, &[])),
        (
            "headers = { x-kind = 'p*', X-Draft = '*' }\nno_store = true",
            (200, "x-kind: page|x-draft: 1"),
            Fate::Not(NoStore::NoStore),
        ),
        ("headers = { x-kind = 'p*', X-Draft = '*' }\nno_store = true", (200, "x-kind: page"), stored(60, &[])),
        ("no_store = false", (200, ""), stored(60, &[])),
        ("namespaces = ['a', 't:{table}']", (200, ""), stored(60, &["a", "t:x"])),
        ("status = 404\n[[route.response_rules]]\nnamespaces = ['b']", (200, ""), stored(60, &["b"])),
    ] {
        let text = format!("[[route]]\npath = '/t/{{table}}'\nttl = '60s'\n[[route.response_rules]]\n{lines}\n");
        let rules = Rules::from_toml(&text).unwrap_or_else(|error| panic!("{text}{error}"));
        assert_eq!(fate(&rules, move || response(head)).await, want, "{text}{head:?}");
    }
}
