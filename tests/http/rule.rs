//! `Rule::http()`: RFC 9111 as a shared cache, over the layer with the inner service in the hand. Each case names its section.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{MINUTE, Plain, SECOND, get, ok, one_rule, outcome, send, text};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    Bypass, CacheLayer, Clock, Headers, Identity, InvalidateLayer, KeyExtractor, Memory, Miss, Outcome, RequestView,
    RouteAndQuery, Rule, Rules, Stale, Store, Storing,
    semantics::{Normalise, Weights},
};

type Fields = &'static [(&'static str, &'static str)];

/// One request, so many seconds after the last one, and what is expected of it.
#[derive(Clone, Copy)]
struct Step {
    after: u64,
    method: &'static str,
    asks: Fields,
    /// What the inner service answers, with status 0 for a failure; `None`: it must not be called.
    answer: Option<(u16, Fields, &'static str)>,
    /// Fields that the inner service is asked with; `-`: without.
    sends: Fields,
    /// The outcome, the status, the body.
    want: &'static str,
    /// Fields of the answer; `-`: none.
    has: Fields,
}

const fn ask(after: u64, asks: Fields, answer: Option<(u16, Fields, &'static str)>, want: &'static str) -> Step {
    Step { after, method: "GET", asks, answer, sends: &[], want, has: &[] }
}

impl Step {
    const fn sends(self, sends: Fields) -> Self {
        Self { sends, ..self }
    }

    const fn has(self, has: Fields) -> Self {
        Self { has, ..self }
    }

    const fn by(self, method: &'static str) -> Self {
        Self { method, ..self }
    }
}

fn fields(of: Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in of {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Hit => "hit",
        Outcome::Stale(Stale::WhileRevalidate) => "refreshed",
        Outcome::Stale(Stale::IfError) => "instead",
        Outcome::Stale(Stale::MaxStale) => "accepted",
        Outcome::Stale(_) => "stale",
        Outcome::Revalidated => "validated",
        Outcome::OnlyIfCached => "refused",
        Outcome::Miss(_) => "miss",
        Outcome::Bypass(_) => "bypass",
        _ => "other",
    }
}

fn check(map: &HeaderMap, want: Fields, place: &str) {
    for (name, value) in want {
        let lines: Vec<_> = map.get_all(*name).iter().map(|line| line.to_str().expect("text")).collect();
        let got = if lines.is_empty() { "-".to_owned() } else { lines.join(", ") };
        assert_eq!(got, *value, "{place}: {name}");
    }
}

/// Puts the steps of one case to a fresh cache under this rule.
async fn walk(name: &str, rule: Rule, steps: &[Step]) {
    type Script = (VecDeque<(u16, Fields, &'static str)>, Vec<HeaderMap>);
    let script: Arc<Mutex<Script>> = Arc::default();
    let inner = {
        let script = script.clone();
        service_fn(move |request: Request<Plain>| {
            let mut script = script.lock().expect("not poisoned");
            script.1.push(request.headers().clone());
            let (status, headers, body) = script.0.pop_front().unwrap_or((599, &[], "not to be asked"));
            let mut response = ok(body);
            *response.headers_mut() = fields(headers);
            let answer = match status {
                0 => Err("no answer"),
                status => {
                    *response.status_mut() = status.try_into().expect("a status");
                    Ok(response)
                }
            };
            async move { answer }
        })
    };
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rules = Rules::new().fallback(rule);
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let service = InvalidateLayer::new(store).rules(rules).layer(service);
    for (i, step) in steps.iter().enumerate() {
        let place = format!("{name}, step {i}");
        clock.advance(Duration::from_secs(step.after));
        let before = {
            let mut script = script.lock().expect("not poisoned");
            script.0 = step.answer.into_iter().collect();
            script.1.len()
        };
        let mut request = get("http://a.test/x");
        *request.method_mut() = Method::from_bytes(step.method.as_bytes()).expect("a method");
        *request.headers_mut() = fields(step.asks);
        let got = match service.clone().oneshot(request).await {
            Err(error) => error.to_owned(),
            Ok(response) => {
                check(response.headers(), step.has, &place);
                let (what, status) = (word(outcome(&response)), response.status().as_u16());
                format!("{what} {status} {}", text(response).await).trim_end().to_owned()
            }
        };
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(got, step.want, "{place}");
        let script = script.lock().expect("not poisoned");
        assert_eq!(script.1.len() - before, usize::from(step.answer.is_some()), "{place}: calls of the inner service");
        if let Some(asked) = script.1.get(before) {
            check(asked, step.sends, &place);
        }
    }
}

const FRESH: Fields = &[("cache-control", "max-age=60")];
const TAGGED: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\"")];
const NO_CACHE: Fields = &[("cache-control", "no-cache")];
const TAGGED_BY_LANGUAGE: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("vary", "accept-language")];
const TAGGED_BY_MODE: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("vary", "accept-language, x-mode")];
const RELOAD_FROM_A: Fields = &[("cache-control", "no-cache"), ("origin", "https://a.example")];
const ALLOWS_A: (&str, &str) = ("access-control-allow-origin", "https://a.example");

#[tokio::test]
async fn storing_and_freshness() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4.2.1: max-age",
            &[
                ask(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                ask(59, &[], None, "hit 200 a").has(&[("age", "59")]),
                ask(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.1: s-maxage goes before max-age",
            &[
                ask(0, &[], Some((200, &[("cache-control", "max-age=600, s-maxage=10")], "a")), "miss 200 a"),
                ask(9, &[], None, "hit 200 a"),
                ask(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.1: Expires less Date",
            &[
                ask(
                    0,
                    &[],
                    Some((
                        200,
                        &[("date", "Thu, 01 Jan 2099 00:00:00 GMT"), ("expires", "Thu, 01 Jan 2099 00:00:30 GMT")],
                        "a",
                    )),
                    "miss 200 a",
                ),
                ask(29, &[], None, "hit 200 a"),
                ask(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.2: what states no lifetime has none",
            &[
                ask(0, &[], Some((200, &[("etag", "\"1\"")], "a")), "miss 200 a"),
                ask(0, &[], Some((200, &[], "b")), "miss 200 b").sends(&[("if-none-match", "\"1\"")]),
            ],
        ),
        (
            "4.2.3: Age counts",
            &[
                ask(0, &[], Some((200, &[("cache-control", "max-age=60"), ("age", "50")], "a")), "miss 200 a"),
                ask(9, &[], None, "hit 200 a").has(&[("age", "59")]),
                ask(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.3: an Age too large is 2^31, and nothing breaks",
            &[
                ask(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60"), ("age", "18446744073709551615")], "a")),
                    "miss 200 a",
                ),
                ask(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "3: a status that is not understood by default needs a lifetime",
            &[
                ask(0, &[], Some((599, &[], "a")), "miss 599 a"),
                ask(0, &[], Some((599, FRESH, "b")), "miss 599 b"),
                ask(1, &[], None, "hit 599 b"),
            ],
        ),
        (
            "5.2.2.5: no-store",
            &[
                ask(0, &[], Some((200, &[("cache-control", "max-age=60, no-store")], "a")), "miss 200 a"),
                ask(0, &[], Some((200, &[("cache-control", "private")], "b")), "miss 200 b"),
                ask(0, &[], Some((200, FRESH, "c")), "miss 200 c"),
                ask(0, &[], None, "hit 200 c"),
            ],
        ),
        (
            "5.2.2.7: private=\"f\" is stored without f",
            &[
                ask(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60, private=\"x-user\""), ("x-user", "ann")], "a")),
                    "miss 200 a",
                )
                .has(&[("x-user", "ann")]),
                ask(0, &[], None, "hit 200 a").has(&[("x-user", "-")]),
            ],
        ),
        (
            "5.2.2.4: no-cache is validated each time",
            &[
                ask(0, &[], Some((200, &[("cache-control", "max-age=60, no-cache"), ("etag", "\"1\"")], "a")), "miss 200 a"),
                ask(1, &[], Some((304, &[("etag", "\"1\"")], "")), "validated 200 a"),
                ask(1, &[], Some((304, &[("etag", "\"1\"")], "")), "validated 200 a"),
            ],
        ),
        (
            "7.3: a cookie is not stored",
            &[
                ask(0, &[], Some((200, &[("cache-control", "max-age=60"), ("set-cookie", "a=b")], "a")), "miss 200 a"),
                ask(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "3.5: Authorization",
            &[
                ask(0, &[("authorization", "x")], Some((200, FRESH, "a")), "miss 200 a"),
                ask(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
                ask(0, &[], None, "hit 200 b"),
                ask(0, &[("authorization", "x")], Some((200, FRESH, "c")), "miss 200 c"),
                ask(0, &[], None, "hit 200 b"),
                ask(60, &[("authorization", "x")], Some((200, &[("cache-control", "s-maxage=60")], "d")), "miss 200 d"),
                ask(0, &[], None, "hit 200 d"),
                ask(0, &[("authorization", "y")], None, "hit 200 d"),
                ask(0, &[("cookie", "y=z")], None, "hit 200 d"),
            ],
        ),
        (
            "4.1: variants",
            &[
                ask(0, &[("x-t", "1")], Some((200, &[("cache-control", "max-age=60"), ("vary", "x-t")], "a")), "miss 200 a"),
                ask(0, &[("x-t", "2")], Some((200, &[("cache-control", "max-age=60"), ("vary", "x-t")], "b")), "miss 200 b"),
                ask(0, &[("x-t", "1")], None, "hit 200 a"),
                ask(0, &[("x-t", "2")], None, "hit 200 b"),
            ],
        ),
        (
            "4.1: a stale variant is validated, the other is not asked about",
            &[
                ask(
                    0,
                    &[("x-t", "1")],
                    Some((200, &[("cache-control", "max-age=60"), ("vary", "x-t"), ("etag", "\"1\"")], "a")),
                    "miss 200 a",
                ),
                ask(
                    0,
                    &[("x-t", "2")],
                    Some((200, &[("cache-control", "max-age=90"), ("vary", "x-t"), ("etag", "\"2\"")], "b")),
                    "miss 200 b",
                ),
                ask(60, &[("x-t", "1")], Some((304, TAGGED, "")), "validated 200 a").sends(&[("if-none-match", "\"1\"")]),
                ask(0, &[("x-t", "2")], None, "hit 200 b"),
            ],
        ),
        (
            "RFC 9110 6.6.1: a date is given to what has none",
            &[ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"), ask(1, &[], None, "hit 200 a").has(&[("age", "1")])],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn request_directives() {
    const STALE: Step = ask(0, &[], Some((200, FRESH, "a")), "miss 200 a");
    let cases: &[(&str, &[Step])] = &[
        (
            "5.2.1.4: no-cache asks, and the answer is stored",
            &[
                STALE,
                ask(0, NO_CACHE, Some((200, FRESH, "b")), "miss 200 b"),
                ask(0, &[], None, "hit 200 b"),
                ask(0, &[("pragma", "no-cache")], Some((200, FRESH, "c")), "miss 200 c"),
            ],
        ),
        (
            "5.2.1.1: max-age",
            &[
                STALE,
                ask(30, &[("cache-control", "max-age=30")], None, "hit 200 a"),
                ask(1, &[("cache-control", "max-age=30")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.3: min-fresh",
            &[
                STALE,
                ask(30, &[("cache-control", "min-fresh=30")], None, "hit 200 a"),
                ask(1, &[("cache-control", "min-fresh=30")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.2: max-stale",
            &[
                STALE,
                ask(70, &[("cache-control", "max-stale=10")], None, "accepted 200 a"),
                ask(1, &[("cache-control", "max-stale=10")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.2.2: must-revalidate goes before max-stale",
            &[
                ask(0, &[], Some((200, &[("cache-control", "max-age=60, must-revalidate")], "a")), "miss 200 a"),
                ask(61, &[("cache-control", "max-stale")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.5: no-store leaves what is stored, and stores nothing",
            &[
                ask(0, &[("cache-control", "no-store")], Some((200, FRESH, "a")), "miss 200 a"),
                ask(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
                ask(0, &[("cache-control", "no-store")], None, "hit 200 b"),
            ],
        ),
        (
            "5.2.1.7: only-if-cached",
            &[
                ask(0, &[("cache-control", "only-if-cached")], None, "refused 504"),
                STALE,
                ask(0, &[("cache-control", "only-if-cached")], None, "hit 200 a"),
                ask(60, &[("cache-control", "only-if-cached")], None, "refused 504"),
                ask(0, &[("cache-control", "only-if-cached, max-stale")], None, "accepted 200 a"),
                ask(0, &[("cache-control", "only-if-cached")], None, "refused 504").by("HEAD"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn validation() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4.3.1, 4.3.4: our own condition, and its 304 freshens",
            &[
                ask(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("x-a", "old")], "a")),
                    "miss 200 a",
                ),
                ask(60, &[], Some((304, &[("etag", "\"1\""), ("x-a", "new")], "")), "validated 200 a")
                    .sends(&[("if-none-match", "\"1\"")])
                    .has(&[("age", "0"), ("x-a", "new"), ("etag", "\"1\"")]),
                ask(59, &[], None, "hit 200 a").has(&[("x-a", "new"), ("age", "59")]),
            ],
        ),
        (
            "4.3.1: Last-Modified",
            &[
                ask(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60"), ("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")], "a")),
                    "miss 200 a",
                ),
                ask(60, &[], Some((304, &[], "")), "validated 200 a")
                    .sends(&[("if-modified-since", "Thu, 01 Jan 2015 00:00:00 GMT"), ("if-none-match", "-")]),
                ask(0, &[], None, "hit 200 a"),
            ],
        ),
        (
            "4.3.3: a 200 takes its place",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(60, &[], Some((200, TAGGED, "b")), "miss 200 b"),
                ask(0, &[], None, "hit 200 b"),
            ],
        ),
        (
            "4.3.1: the client's own condition is put to what comes of ours",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(60, &[("if-none-match", "\"1\"")], Some((304, TAGGED, "")), "validated 304")
                    .sends(&[("if-none-match", "\"1\"")]),
                ask(60, &[("if-none-match", "\"0\"")], Some((304, TAGGED, "")), "validated 200 a")
                    .sends(&[("if-none-match", "\"1\"")]),
                ask(
                    60,
                    &[("if-none-match", "\"2\"")],
                    Some((200, &[("cache-control", "max-age=9"), ("etag", "\"2\"")], "b")),
                    "miss 304",
                )
                .sends(&[("if-none-match", "\"1\"")]),
                ask(0, &[], None, "hit 200 b"),
            ],
        ),
        (
            "4.3.3: a 304 to the client's own condition is not ours",
            &[
                ask(
                    0,
                    &[("cache-control", "no-store"), ("if-none-match", "\"c\"")],
                    Some((304, &[("etag", "\"c\"")], "")),
                    "miss 304",
                )
                .sends(&[("if-none-match", "\"c\"")]),
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a").sends(&[("if-none-match", "-")]),
            ],
        ),
        (
            "4.3.4: a 304 about another tag freshens nothing, and is not asked for again",
            &[
                ask(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60, must-revalidate"), ("etag", "\"1\"")], "a")),
                    "miss 200 a",
                ),
                ask(60, &[], Some((304, &[("etag", "\"other\"")], "")), "miss 502"),
                ask(0, &[], Some((200, TAGGED, "b")), "miss 200 b").sends(&[("if-none-match", "-")]),
            ],
        ),
        (
            "4.3.4, 3: a 304 that says no-store ends it",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(60, &[], Some((304, &[("cache-control", "no-store"), ("etag", "\"1\"")], "")), "validated 200 a"),
                ask(0, &[], Some((200, TAGGED, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.4: a reload validates what is fresh",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(30, NO_CACHE, Some((304, TAGGED, "")), "validated 200 a").sends(&[("if-none-match", "\"1\"")]),
                ask(59, &[], None, "hit 200 a"),
            ],
        ),
        (
            "RFC 5861 3: stale while it is validated",
            &[
                ask(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60, stale-while-revalidate=10"), ("etag", "\"1\"")], "a")),
                    "miss 200 a",
                ),
                ask(61, &[], Some((304, TAGGED, "")), "refreshed 200 a").sends(&[("if-none-match", "\"1\"")]),
                ask(0, &[], None, "hit 200 a").has(&[("age", "0")]),
            ],
        ),
        (
            "it is not kept for ever",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(60 + 24 * 3600, &[], Some((200, TAGGED, "b")), "miss 200 b"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn head() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4: a HEAD is answered from a stored GET, and never the other way",
            &[
                ask(0, &[], Some((200, FRESH, "")), "miss 200").by("HEAD"),
                ask(0, &[], Some((200, FRESH, "abc")), "miss 200 abc"),
                ask(1, &[], None, "hit 200").by("HEAD").has(&[("content-length", "3"), ("age", "1")]),
            ],
        ),
        (
            "4.3.5: with the same validator it freshens",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(60, &[], Some((200, TAGGED, "")), "miss 200").by("HEAD"),
                ask(59, &[], None, "hit 200 a").has(&[("age", "59")]),
            ],
        ),
        (
            "4.3.5: with another one, what is stored is stale",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(1, NO_CACHE, Some((200, &[("etag", "\"2\"")], "")), "miss 200").by("HEAD"),
                ask(0, &[], Some((200, TAGGED, "b")), "miss 200 b").sends(&[("if-none-match", "\"1\"")]),
            ],
        ),
        (
            "4.3.5: without a validator it freshens nothing, with or without a length",
            &[
                ask(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                ask(60, &[], Some((200, FRESH, "")), "miss 200").by("HEAD"),
                ask(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
                ask(60, &[], Some((200, &[("cache-control", "max-age=60"), ("content-length", "1")], "")), "miss 200")
                    .by("HEAD"),
                ask(0, &[], Some((200, FRESH, "c")), "miss 200 c"),
            ],
        ),
        (
            "4.3.5: a validator that is none freshens nothing",
            &[
                ask(0, &[], Some((200, &[("cache-control", "max-age=60"), ("etag", "1")], "a")), "miss 200 a"),
                ask(60, &[], Some((200, &[("cache-control", "max-age=60"), ("etag", "1")], "")), "miss 200").by("HEAD"),
                ask(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.3.5: another length makes it stale, also without a validator",
            &[
                ask(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                ask(1, NO_CACHE, Some((200, &[("content-length", "2")], "")), "miss 200").by("HEAD"),
                ask(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.1: one that varies by more fields is about another response, and changes nothing",
            &[
                ask(0, &[("x-mode", "1")], Some((200, TAGGED_BY_LANGUAGE, "a")), "miss 200 a"),
                ask(1, &[("cache-control", "no-cache"), ("x-mode", "1")], Some((200, TAGGED_BY_MODE, "")), "miss 200")
                    .by("HEAD"),
                ask(0, &[], None, "hit 200 a").has(&[("vary", "accept-language"), ("age", "1")]),
                ask(0, NO_CACHE, Some((200, &[("etag", "\"2\""), ("vary", "x-mode")], "")), "miss 200").by("HEAD"),
                ask(0, &[], None, "hit 200 a"),
            ],
        ),
        (
            "4.1: so is one that was made for an origin, whether its Vary says so or not",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(1, RELOAD_FROM_A, Some((200, &[("etag", "\"1\""), ("vary", "origin"), ALLOWS_A], "")), "miss 200")
                    .by("HEAD"),
                ask(0, &[], None, "hit 200 a").has(&[("access-control-allow-origin", "-"), ("vary", "-")]),
                ask(1, RELOAD_FROM_A, Some((200, &[("etag", "\"1\""), ALLOWS_A], "")), "miss 200").by("HEAD"),
                ask(0, &[], None, "hit 200 a").has(&[("access-control-allow-origin", "-"), ("age", "2")]),
            ],
        ),
        (
            "4.3.5: an error says nothing of it",
            &[
                ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a"),
                ask(1, NO_CACHE, Some((404, &[], "")), "miss 404").by("HEAD"),
                ask(0, &[], None, "hit 200 a"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn failures() {
    const WINDOW: Fields = &[("cache-control", "max-age=60, stale-if-error=60")];
    const MUST: Fields = &[("cache-control", "max-age=60, must-revalidate, stale-if-error=60")];
    let cases: &[(&str, &[Step])] = &[
        (
            "RFC 5861 4: stale-if-error",
            &[
                ask(0, &[], Some((200, WINDOW, "a")), "miss 200 a"),
                ask(60, &[], Some((503, &[], "down")), "instead 200 a").has(&[("age", "60")]),
                ask(60, &[], Some((503, &[], "down")), "miss 503 down"),
            ],
        ),
        (
            "RFC 5861 4: without a window a 5xx is the answer",
            &[ask(0, &[], Some((200, FRESH, "a")), "miss 200 a"), ask(60, &[], Some((500, &[], "down")), "miss 500 down")],
        ),
        (
            "4.2.4: no answer at all",
            &[
                ask(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                ask(60, &[], Some((0, &[], "")), "instead 200 a"),
                ask(3600, &[], Some((0, &[], "")), "no answer"),
            ],
        ),
        (
            "5.2.2.2: must-revalidate forbids both",
            &[
                ask(0, &[], Some((200, MUST, "a")), "miss 200 a"),
                ask(60, &[], Some((503, &[], "down")), "miss 503 down"),
                ask(0, &[], Some((0, &[], "")), "no answer"),
            ],
        ),
        (
            "5.2.1.4: a reload gets the failure",
            &[
                ask(0, &[], Some((200, WINDOW, "a")), "miss 200 a"),
                ask(0, NO_CACHE, Some((503, &[], "down")), "miss 503 down"),
                ask(0, &[], None, "hit 200 a"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

/// RFC 5861, section 4, and RFC 9111, section 4.2.4: the hour of `stale_if_unreachable` is a default.
#[tokio::test]
async fn stated_stale_if_error_narrows_the_window() {
    const NONE: Fields = &[("cache-control", "max-age=60, stale-if-error=0")];
    const SHORT: Fields = &[("cache-control", "max-age=60, stale-if-error=30")];
    let down = |after| ask(after, &[], Some((0, &[], "")), "no answer");
    let zero = [ask(0, &[], Some((200, NONE, "a")), "miss 200 a"), down(60)];
    let passed = [
        ask(0, &[], Some((200, SHORT, "a")), "miss 200 a"),
        ask(89, &[], Some((0, &[], "")), "instead 200 a"),
        down(1),
        ask(0, &[], Some((503, &[], "down")), "miss 503 down"),
    ];
    for rule in [Rule::http(), Rule::http().stale_if_error(MINUTE)] {
        walk("stale-if-error=0", rule.clone(), &zero).await;
        walk("stale-if-error=30", rule, &passed).await;
    }
}

/// RFC 5861, section 3: what is stored stale, but within its window, is served and refreshed at once, not after a while.
#[tokio::test]
async fn stale_on_arrival_is_refreshed_by_each_request() {
    const OLD: Fields = &[("age", "61"), ("cache-control", "max-age=60, stale-while-revalidate=30")];
    const ALWAYS: Fields = &[("cache-control", "max-age=0, stale-while-revalidate=30")];
    for fields in [OLD, ALWAYS] {
        let steps = [
            ask(0, &[], Some((200, fields, "a")), "miss 200 a"),
            ask(1, &[], Some((200, fields, "b")), "refreshed 200 a"),
            ask(0, &[], Some((200, fields, "c")), "refreshed 200 b"),
            ask(0, &[], Some((200, FRESH, "d")), "refreshed 200 c"),
            ask(0, &[], None, "hit 200 d"),
        ];
        walk("stale-while-revalidate", Rule::http(), &steps).await;
    }
}

/// The same where the last response of the key was found unfit: not to wait for the next one is no reason not to fetch it.
#[tokio::test]
async fn unfit_answer_does_not_stop_refreshing() {
    const WINDOW: Fields = &[("cache-control", "max-age=60, stale-while-revalidate=30")];
    let steps = [
        ask(0, &[], Some((200, WINDOW, "a")), "miss 200 a"),
        ask(60, &[], Some((200, &[("cache-control", "no-store")], "b")), "refreshed 200 a"),
        ask(1, &[], Some((200, FRESH, "c")), "refreshed 200 a"),
        ask(0, &[], None, "hit 200 c"),
    ];
    walk("unfit", Rule::http(), &steps).await;
}

/// RFC 9111, section 5.2.1.7.
#[tokio::test]
async fn only_if_cached_never_reaches_the_origin() {
    const ONLY: (&str, &str) = ("cache-control", "only-if-cached");
    let stored = ask(0, &[], Some((200, TAGGED, "a")), "miss 200 a");
    let refused: [Fields; 6] = [
        &[ONLY, ("if-match", "\"1\"")],
        &[ONLY, ("if-unmodified-since", "Thu, 01 Jan 2099 00:00:00 GMT")],
        &[ONLY, ("upgrade", "websocket")],
        &[ONLY, ("x-user", "ann"), ("x-user", "bob")],
        &[("cache-control", "max-age=9"), ("cache-control", "Only-If-Cached"), ("if-match", "*")],
        &[ONLY, ("range", "bytes=0-0"), ("range", "bytes=1-1"), ("if-match", "*")],
    ];
    let rule = Rule::http().identity(Identity::header("x-user"));
    for asks in refused {
        walk("refused", rule.clone(), &[stored, ask(0, asks, None, "refused 504")]).await;
    }
    // A write goes through (section 4), however it is spelled; and under a rule that sets the lifetime a client has no say.
    let write = ask(0, &[ONLY], Some((200, &[], "done")), "bypass 200 done");
    let hidden = ask(0, &[ONLY, ("x-http-method-override", "DELETE")], Some((200, &[], "done")), "bypass 200 done");
    walk("a write", rule, &[write.by("POST"), hidden]).await;
    let fixed = ask(0, &[ONLY, ("if-match", "*")], Some((200, &[], "a")), "bypass 200 a");
    walk("no say", Rule::ttl(MINUTE), &[fixed]).await;
}

#[tokio::test]
async fn options() {
    const CDN: Fields = &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")];
    let two = ask(0, &[], Some((200, &[], "a")), "miss 200 a");
    let silent = [two, ask(59, &[], None, "hit 200 a"), ask(1, &[], Some((200, &[], "b")), "miss 200 b")];
    walk("4.2.2: default_ttl", Rule::http().default_ttl(MINUTE), &silent).await;
    let old: Fields = &[("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")];
    let heuristic = [ask(0, &[], Some((200, old, "a")), "miss 200 a"), ask(3600, &[], None, "hit 200 a")];
    walk("4.2.2: heuristics", Rule::http().heuristics(true), &heuristic).await;
    let targeted = [ask(0, &[], Some((200, CDN, "a")), "miss 200 a"), ask(59, &[], None, "hit 200 a")];
    walk("RFC 9213 2.2: targeted", Rule::http().targeted(["CDN-Cache-Control"]), &targeted).await;
    let untargeted = [ask(0, &[], Some((200, CDN, "a")), "miss 200 a"), ask(0, &[], Some((200, CDN, "b")), "miss 200 b")];
    walk("RFC 9213 2.2: only where it is configured", Rule::http(), &untargeted).await;
    let unreachable = [ask(0, &[], Some((200, FRESH, "a")), "miss 200 a"), ask(60, &[], Some((0, &[], "")), "no answer")];
    walk("4.2.4: stale_if_unreachable", Rule::http().stale_if_unreachable(Duration::ZERO), &unreachable).await;
    let status = [
        ask(0, &[], Some((404, &[], "a")), "miss 404 a"),
        ask(9, &[], None, "hit 404 a"),
        ask(1, &[], Some((404, FRESH, "b")), "miss 404 b"),
        ask(59, &[], None, "hit 404 b"),
    ];
    let not_found = http::StatusCode::NOT_FOUND;
    walk("a status where the response is silent", Rule::http().status(not_found, 10 * SECOND), &status).await;
    let identified = [
        ask(0, &[("authorization", "Bearer x")], Some((200, FRESH, "a")), "miss 200 a"),
        ask(0, &[("authorization", "Bearer x")], None, "hit 200 a"),
        ask(0, &[("authorization", "Bearer y")], Some((200, FRESH, "b")), "miss 200 b"),
    ];
    walk("3.5: with an identity in the key", Rule::http().identity(Identity::bearer()), &identified).await;
    let mut normalise = Normalise::rfc();
    normalise.accept_language = Weights::Unordered;
    let languages = [
        ask(
            0,
            &[("accept-language", "de, en")],
            Some((200, &[("cache-control", "max-age=9"), ("vary", "accept-language")], "a")),
            "miss 200 a",
        ),
        ask(0, &[("accept-language", "EN, de")], None, "hit 200 a"),
    ];
    walk("4.1: normalised", Rule::http().normalise(normalise), &languages).await;
    let error = Rules::new().try_fallback(Rule::ttl(MINUTE).heuristics(true)).expect_err("no HTTP rule");
    assert!(error.to_string().contains("heuristics is an option of HTTP rules alone"), "{error}");
}

#[tokio::test]
async fn a_strong_tag_for_what_has_none() {
    for (name, rule) in [("ttl", Rule::ttl(MINUTE).etag()), ("http", Rule::http().etag())] {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let asked: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let inner = {
            let asked = asked.clone();
            service_fn(move |request: Request<Plain>| {
                asked.lock().expect("not poisoned").push(request.headers().clone());
                let mut response = ok("abc");
                response
                    .headers_mut()
                    .extend(fields(&[("cache-control", "max-age=60"), ("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")]));
                async move { Ok::<_, std::convert::Infallible>(response) }
            })
        };
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        let first = send(&service, get("/t/a")).await;
        let tag = first.headers()["etag"].clone();
        assert!(tag.to_str().is_ok_and(|tag| tag.starts_with('"') && tag.len() == 34), "{name}: {tag:?}");
        let mut request = get("/t/a");
        request.headers_mut().insert("if-none-match", tag.clone());
        let second = send(&service, request).await;
        assert_eq!((outcome(&second), second.status().as_u16()), (Outcome::Hit, 304), "{name}");
        clock.advance(MINUTE);
        let third = send(&service, get("/t/a")).await;
        assert_eq!(third.headers()["etag"], tag, "{name}: the same content, the same tag");
        // The inner service would not know it (RFC 9111, section 4.3.1).
        assert!(asked.lock().expect("not poisoned").iter().all(|asked| !asked.contains_key("if-none-match")), "{name}");
    }
}

#[tokio::test]
async fn ranges_of_a_stored_whole() {
    const WHOLE: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("content-type", "text/plain")];
    // RFC 9110, section 14: a part is asked of the inner service while the whole is not stored.
    let part = |want| {
        let answer: (u16, Fields, _) = (206, &[("content-range", "bytes 0-1/10"), ("cache-control", "max-age=60")], "01");
        ask(0, &[("range", "bytes=0-1")], Some(answer), want).sends(&[("range", "bytes=0-1")])
    };
    let steps = [
        ask(0, &[], Some((200, WHOLE, "0123456789")), "miss 200 0123456789"),
        // Section 14.1.2: first and last, open, suffix.
        ask(1, &[("range", "bytes=2-4")], None, "hit 206 234").has(&[
            ("content-range", "bytes 2-4/10"),
            ("content-length", "3"),
            ("age", "1"),
            ("etag", "\"1\""),
        ]),
        ask(0, &[("range", "bytes=8-")], None, "hit 206 89"),
        ask(0, &[("range", "bytes=-3")], None, "hit 206 789"),
        // Section 15.5.17.
        ask(0, &[("range", "bytes=10-")], None, "hit 416").has(&[("content-range", "bytes */10")]),
        // Section 13.1.5.
        ask(0, &[("range", "bytes=0-0"), ("if-range", "\"1\"")], None, "hit 206 0"),
        ask(0, &[("range", "bytes=0-0"), ("if-range", "\"2\"")], None, "hit 200 0123456789"),
        // Section 13.2.2: conditions come first.
        ask(0, &[("range", "bytes=0-0"), ("if-none-match", "\"1\"")], None, "hit 304"),
        // Section 14.2: an unknown unit, and HEAD.
        ask(0, &[("range", "lines=0-0")], None, "hit 200 0123456789"),
        ask(0, &[("range", "bytes=0-0")], None, "hit 200").by("HEAD"),
    ];
    for (name, rule, what) in [("ttl", Rule::ttl(MINUTE), "bypass 206 01"), ("http", Rule::http(), "miss 206 01")] {
        walk(name, rule, &[&[part(what)][..], &steps].concat()).await;
    }
}

#[tokio::test]
async fn several_ranges_are_one_message_of_many_parts() {
    let (inner, _) = crate::common::counting(|_, _| ok("0123456789"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&service, get("/t/a")).await;
    let mut request = get("/t/a");
    request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1, -2"));
    let response = send(&service, request).await;
    assert_eq!((outcome(&response), response.status().as_u16()), (Outcome::Hit, 206));
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("of many parts");
    let length: usize = response.headers()["content-length"].to_str().expect("text").parse().expect("a number");
    let boundary = boundary.to_owned();
    let body = text(response).await;
    assert_eq!(body.len(), length);
    let part = |range: &str, data: &str| format!("\r\n--{boundary}\r\nContent-Range: bytes {range}/10\r\n\r\n{data}");
    assert_eq!(body, format!("{}{}\r\n--{boundary}--\r\n", part("0-1", "01"), part("8-9", "89")));
}

/// What a write makes of a stored response to GET: whether it is gone.
async fn gone(rules: Rules, stored: &str, write: Request<Plain>, status: u16, said: Fields) -> bool {
    let store = Memory::default();
    let inner = service_fn(move |request: Request<Plain>| {
        let mut response = ok("x");
        response.headers_mut().extend(fields(FRESH));
        if request.method() != Method::GET {
            *response.status_mut() = status.try_into().expect("a status");
            *response.headers_mut() = fields(said);
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
    let elsewhere: Fields = &[("location", "http://b.test/y")];
    for (name, stored, method, status, said, want) in [
        ("4.4: the target", own, "POST", 200, &[] as Fields, true),
        ("4.4: an unknown method", own, "FROB", 204, &[], true),
        ("4.4: another query is another URI", "http://a.test/x?q=2", "POST", 200, &[], false),
        ("4.4: 3xx is no error", own, "PUT", 303, &[], true),
        ("4.4: a client error changes nothing", own, "PUT", 403, &[("location", "/y")], false),
        ("a 5xx may have been carried out", own, "DELETE", 500, &[], true),
        ("no answer may mean that it was carried out", own, "DELETE", 599, &[], true),
        ("4.4: Location", other, "POST", 201, &[("location", "/y")], true),
        ("4.4: Content-Location", other, "POST", 200, &[("content-location", "http://a.test/y")], true),
        ("4.4: not of another origin", other, "POST", 201, elsewhere, false),
        ("4.4: not with an error", other, "POST", 500, &[("location", "/y")], false),
        ("9.2.1 of RFC 9110: a safe method", own, "OPTIONS", 200, &[], false),
    ] {
        let got = gone(Rules::new().fallback(Rule::http()), stored, write(method, own), status, said).await;
        assert_eq!(got, want, "{name}");
    }
    let spared = || Rules::new().fallback(Rule::http().skip_on_error());
    for (name, status, want) in [
        ("4.4: no error", 200, true),
        ("4.4: a server error", 500, false),
        ("4.4: a client error", 403, false),
        ("no answer", 599, true),
    ] {
        assert_eq!(gone(spared(), own, write("POST", own), status, &[]).await, want, "spare_errors: {name}");
    }
    // The writer is nobody, says nothing of languages, and is sent from elsewhere.
    type Make = fn() -> Rule;
    let by_more: [(&str, Make); 4] = [
        ("another user's", || Rule::http().identity(Identity::bearer())),
        ("in another language", || Rule::http().key(RouteAndQuery.and(Headers::new(["accept-language"])))),
        ("by what a closure says", || Rule::http().key(|request: &RequestView<'_>| Some(format!("{:?}", request.headers())))),
        ("left alone", || {
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
            let said: Fields = if location == "/y" { &[("location", "/y")] } else { &[] };
            let got = gone(Rules::new().fallback(rule()), stored, write, 201, said).await;
            assert_eq!(got, want, "4.4: what is stored for the URI is, {name}: {stored}");
        }
    }
    let ttl = Rules::new().fallback(Rule::ttl(MINUTE));
    assert!(!gone(ttl, own, write("POST", own), 200, &[]).await, "a ttl rule clears its namespaces and nothing else");
}

/// The outcome of asking again for what says this of its groups, after a write elsewhere that says that.
async fn in_groups(rule: Rule, joins: Fields, write: (&str, &str, u16), clears: Fields) -> Outcome {
    let store = Memory::default();
    let inner = service_fn(move |request: Request<Plain>| {
        let mut response = ok("x");
        let read = request.method() == Method::GET && request.uri().path() == "/x";
        response.headers_mut().extend(fields(FRESH));
        response.headers_mut().extend(fields(if read { joins } else { clears }));
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
async fn cache_groups_in_and_out() {
    const GONE: Outcome = Outcome::Miss(Miss::Absent);
    let (joins, clears): (Fields, Fields) = (&[("cache-groups", "\"a\", \"b\"")], &[("cache-group-invalidation", "\"b\"")]);
    let many: Fields = &[("cache-groups", "\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"b\"")];
    let post = ("POST", "http://a.test/y", 200);
    let by_choice = || Rule::http().cache_groups();
    for (name, rule, joins, write, clears, want) in [
        ("3: a group that is named is cleared", by_choice(), joins, post, clears, GONE),
        ("3: no other is", by_choice(), joins, post, &[("cache-group-invalidation", "\"c\"")], Outcome::Hit),
        (
            "3: a name is compared byte for byte",
            by_choice(),
            joins,
            post,
            &[("cache-group-invalidation", "\"B\"")],
            Outcome::Hit,
        ),
        ("3: also by an error, since it says so", by_choice(), joins, ("POST", "http://a.test/y", 409), clears, GONE),
        ("3: a safe method clears nothing", by_choice(), joins, ("GET", "http://a.test/y", 200), clears, Outcome::Hit),
        ("2.1: another origin has other groups", by_choice(), joins, ("POST", "http://b.test/y", 200), clears, Outcome::Hit),
        ("2: more groups than an entry has room for", by_choice(), many, post, clears, GONE),
        ("3: malformed, it clears nothing", by_choice(), joins, post, &[("cache-group-invalidation", "b")], Outcome::Hit),
        ("2: malformed, it is not stored", by_choice(), &[("cache-groups", "\"a\", b")], post, &[], GONE),
        ("by choice alone", Rule::http(), joins, post, clears, Outcome::Hit),
        ("under a rule with a lifetime, too", Rule::ttl(MINUTE).cache_groups(), joins, post, clears, GONE),
    ] {
        let got = in_groups(rule, joins, write, clears).await;
        // What was not stored may be fetched by all, each for itself.
        let got = if matches!(got, Outcome::Miss(_)) { GONE } else { got };
        assert_eq!(got, want, "RFC 9875, {name}");
    }
}

#[tokio::test]
async fn one_validation_for_all_who_wait() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let (service, mut handle) = crate::common::mocked::<Plain>(&CacheLayer::new(store).rules(one_rule(Rule::http())));
    let asking = |service: &tower_response_cache::CacheService<_, _>| tokio::spawn(service.clone().oneshot(get("/t/a")));
    let first = asking(&service);
    let (_, answer) = crate::common::next_call(&mut handle).await;
    let mut whole = ok("a");
    whole.headers_mut().extend(fields(TAGGED));
    answer.send_response(whole);
    first.await.expect("no panic").expect("an answer");
    clock.advance(MINUTE);
    let all: Vec<_> = (0..10).map(|_| asking(&service)).collect();
    let (request, answer) = crate::common::next_call(&mut handle).await;
    assert_eq!(request.headers()["if-none-match"], "\"1\"");
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let mut not_modified: Response<Plain> = Response::new(Full::default());
    *not_modified.status_mut() = http::StatusCode::NOT_MODIFIED;
    not_modified.headers_mut().extend(fields(TAGGED));
    answer.send_response(not_modified);
    let mut seen = Vec::new();
    for one in all {
        let response = one.await.expect("no panic").expect("an answer");
        seen.push(outcome(&response));
        assert_eq!(text(response).await, "a");
    }
    assert_eq!(seen.iter().filter(|seen| **seen == Outcome::Revalidated).count(), 1, "{seen:?}");
    assert_eq!(seen.iter().filter(|seen| **seen == Outcome::Collapsed).count(), 9, "{seen:?}");
}

#[tokio::test]
async fn what_is_cleared_while_it_is_validated_is_not_stored() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rule = Rule::http().namespace("t:{table}");
    let (service, mut handle) = crate::common::mocked::<Plain>(&CacheLayer::new(store.clone()).rules(one_rule(rule)));
    let asking = || tokio::spawn(service.clone().oneshot(get("/t/a")));
    let first = asking();
    let (_, answer) = crate::common::next_call(&mut handle).await;
    let mut whole = ok("a");
    whole.headers_mut().extend(fields(TAGGED));
    answer.send_response(whole);
    first.await.expect("no panic").expect("an answer");
    clock.advance(MINUTE);
    let second = asking();
    let (_, answer) = crate::common::next_call(&mut handle).await;
    // The stamp is older than this: the 304 may have been sent before the write.
    store.invalidate(["t:a"]).await.expect("valid");
    let mut not_modified: Response<Plain> = Response::new(Full::default());
    *not_modified.status_mut() = http::StatusCode::NOT_MODIFIED;
    not_modified.headers_mut().extend(fields(TAGGED));
    answer.send_response(not_modified);
    let response = second.await.expect("no panic").expect("an answer");
    let status = *response.extensions().get::<tower_response_cache::CacheStatus>().expect("covered");
    assert_eq!(status.outcome(), Outcome::Revalidated);
    assert!(matches!(status.stored(), Some(Storing::Not(tower_response_cache::NoStore::Cleared))), "{status}");
    let third = asking();
    let (request, answer) = crate::common::next_call(&mut handle).await;
    assert!(!request.headers().contains_key("if-none-match"), "what is cleared is not asked about");
    answer.send_response(ok("b"));
    let response = third.await.expect("no panic").expect("an answer");
    assert_eq!(outcome(&response), Outcome::Miss(Miss::Absent));
}

#[tokio::test(start_paused = true)]
async fn a_slow_inner_service_is_not_waited_for() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rule = Rule::ttl(MINUTE).stale_if_error(MINUTE).soft_timeout(SECOND);
    let (service, mut handle) = crate::common::mocked::<Plain>(&CacheLayer::new(store).rules(one_rule(rule)));
    let asking = || tokio::spawn(service.clone().oneshot(get("/t/a")));
    let first = asking();
    let (_, answer) = crate::common::next_call(&mut handle).await;
    answer.send_response(ok("a"));
    first.await.expect("no panic").expect("an answer");
    clock.advance(MINUTE);
    let (second, third) = (asking(), asking());
    let (_, answer) = crate::common::next_call(&mut handle).await;
    for one in [second, third] {
        let response = one.await.expect("no panic").expect("an answer");
        assert_eq!(outcome(&response), Outcome::Stale(Stale::SoftTimeout));
        assert_eq!(text(response).await, "a");
    }
    // It goes on behind them, and its answer is stored.
    answer.send_response(ok("b"));
    tokio::time::sleep(SECOND).await;
    let response = asking().await.expect("no panic").expect("an answer");
    assert_eq!((outcome(&response), text(response).await), (Outcome::Hit, "b".to_owned()));
}

#[tokio::test]
async fn what_is_stale_at_once_holds_nobody_up() {
    // Section 4: responses that may not be reused are asked for by each, and not one after the other.
    let (service, mut handle) =
        crate::common::mocked::<Plain>(&CacheLayer::new(Memory::default()).rules(one_rule(Rule::http())));
    let all: Vec<_> = (0..3).map(|_| tokio::spawn(service.clone().oneshot(get("/t/a")))).collect();
    let respond = || {
        let mut response = ok("a");
        response.headers_mut().extend(fields(&[("cache-control", "max-age=0"), ("etag", "\"1\"")]));
        response
    };
    crate::common::next_call(&mut handle).await.1.send_response(respond());
    // Both at once.
    let (two, three) = (crate::common::next_call(&mut handle).await, crate::common::next_call(&mut handle).await);
    two.1.send_response(respond());
    three.1.send_response(respond());
    for one in all {
        let response = one.await.expect("no panic").expect("an answer");
        assert!(matches!(outcome(&response), Outcome::Miss(_)), "{:?}", outcome(&response));
    }
}

#[tokio::test]
async fn a_range_that_is_not_stored_is_left_alone() {
    let (inner, _) = crate::common::counting(|_, _| ok("x"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let mut request = get("/t/a");
    request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-0"));
    assert_eq!(outcome(&send(&service, request).await), Outcome::Bypass(Bypass::Range));
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Miss(Miss::Absent), "nothing was stored");
}

/// RFC 9111, section 4.3.5: also of the copy that is kept for those who prefer its language.
#[tokio::test]
async fn what_a_head_has_told_of_as_changed_is_not_served_in_its_language_either() {
    let inner = {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let calls = Arc::new(calls);
        service_fn(move |_: Request<Plain>| {
            let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            let mut response = ok(format!("v{call}"));
            *response.headers_mut() =
                fields(&[("cache-control", "max-age=600"), ("vary", "accept-language"), ("content-language", "de")]);
            response.headers_mut().insert("etag", HeaderValue::try_from(format!("\"{call}\"")).expect("a tag"));
            async move { Ok::<_, std::convert::Infallible>(response) }
        })
    };
    let mut normalise = Normalise::rfc();
    normalise.select_language = true;
    let store = Memory::builder().clock(Clock::manual()).build();
    let cache = CacheLayer::new(store).rules(Rules::new().fallback(Rule::http().normalise(normalise))).layer(inner);
    let ask = |method: Method, language: &'static str, control: &'static str| {
        let mut request = get("/");
        *request.method_mut() = method;
        *request.headers_mut() = fields(&[]);
        request.headers_mut().insert("accept-language", HeaderValue::from_static(language));
        request.headers_mut().insert("cache-control", HeaderValue::from_static(control));
        send(&cache, request)
    };
    assert_eq!(text(ask(Method::GET, "de", "x").await).await, "v1");
    let other = ask(Method::GET, "de, en;q=0.5", "x").await;
    assert_eq!((outcome(&other), text(other).await.as_str()), (Outcome::Hit, "v1"));
    // The HEAD goes through, and tells of another tag.
    ask(Method::HEAD, "de", "no-cache").await;
    for language in ["de, en;q=0.5", "de"] {
        assert_ne!(outcome(&ask(Method::GET, language, "x").await), Outcome::Hit, "{language}");
    }
}

/// RFC 9111, section 4.3.5, says that a HEAD may change what is stored; not what was stored while it was answered.
#[tokio::test]
async fn head_never_overwrites_a_newer_fill() {
    for told in ["\"1\"", "\"0\""] {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let layer = CacheLayer::new(store).rules(Rules::new().fallback(Rule::http()));
        let (cache, mut handle) = crate::common::mocked(&layer);
        let tagged = |tag: &'static str, body: &'static str| {
            let mut response = ok(body);
            *response.headers_mut() = fields(&[("cache-control", "max-age=60")]);
            response.headers_mut().insert("etag", HeaderValue::from_static(tag));
            response
        };
        let first = tokio::spawn(cache.clone().oneshot(get("/")));
        crate::common::next_call(&mut handle).await.1.send_response(tagged("\"1\"", "v1"));
        assert_eq!(text(first.await.expect("no panic").expect("an answer")).await, "v1");
        clock.advance(MINUTE);
        let mut head = get("/");
        *head.method_mut() = Method::HEAD;
        let head = tokio::spawn(cache.clone().oneshot(head));
        let (_, head_answer) = crate::common::next_call(&mut handle).await;
        let second = tokio::spawn(cache.clone().oneshot(get("/")));
        crate::common::next_call(&mut handle).await.1.send_response(tagged("\"2\"", "v2"));
        assert_eq!(text(second.await.expect("no panic").expect("an answer")).await, "v2");
        head_answer.send_response(tagged(told, ""));
        assert_eq!(outcome(&head.await.expect("no panic").expect("an answer")), Outcome::Miss(Miss::Head));
        let third = send(&cache, get("/")).await;
        assert_eq!((outcome(&third), text(third).await.as_str()), (Outcome::Hit, "v2"), "{told}");
    }
}
