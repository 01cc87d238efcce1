//! `Rule::http()`: storing, freshness, request directives and failures of the inner service. Each case names its section of RFC
//! 9111.

use std::time::Duration;

use crate::{
    common::{MINUTE, Plain, SECOND, get, mocked, next_call, ok, one_rule, outcome, text},
    script::{FRESH, Fields, NO_CACHE, Step, TAGGED, step, walk},
};
use tower::ServiceExt;
use tower_response_cache::{
    CacheLayer, Clock, Identity, Memory, Outcome, Rule, Rules,
    semantics::{Normalise, Weights},
    status::Stale,
};

#[tokio::test]
async fn lifetime_comes_from_the_response() {
    let cases: &[(&str, &[Step])] = &[
        (
            "4.2.1: max-age",
            &[
                step(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                step(59, &[], None, "hit 200 a").returns(&[("age", "59")]),
                step(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.1: s-maxage overrides max-age",
            &[
                step(0, &[], Some((200, &[("cache-control", "max-age=600, s-maxage=10")], "a")), "miss 200 a"),
                step(9, &[], None, "hit 200 a"),
                step(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.1: Expires less Date",
            &[
                step(
                    0,
                    &[],
                    Some((
                        200,
                        &[("date", "Thu, 01 Jan 2099 00:00:00 GMT"), ("expires", "Thu, 01 Jan 2099 00:00:30 GMT")],
                        "a",
                    )),
                    "miss 200 a",
                ),
                step(29, &[], None, "hit 200 a"),
                step(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.2: a response without a lifetime is not fresh",
            &[
                step(0, &[], Some((200, &[("etag", "\"1\"")], "a")), "miss 200 a"),
                step(0, &[], Some((200, &[], "b")), "miss 200 b").sends(&[("if-none-match", "\"1\"")]),
            ],
        ),
        (
            "4.2.3: Age counts",
            &[
                step(0, &[], Some((200, &[("cache-control", "max-age=60"), ("age", "50")], "a")), "miss 200 a"),
                step(9, &[], None, "hit 200 a").returns(&[("age", "59")]),
                step(1, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "4.2.3: an Age too large counts as 2^31",
            &[
                step(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60"), ("age", "18446744073709551615")], "a")),
                    "miss 200 a",
                ),
                step(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "3: a status that is not understood by default needs a lifetime",
            &[
                step(0, &[], Some((599, &[], "a")), "miss 599 a"),
                step(0, &[], Some((599, FRESH, "b")), "miss 599 b"),
                step(1, &[], None, "hit 599 b"),
            ],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn directives_restrict_storing_and_variants_are_separate() {
    let cases: &[(&str, &[Step])] = &[
        (
            "5.2.2.5: no-store",
            &[
                step(0, &[], Some((200, &[("cache-control", "max-age=60, no-store")], "a")), "miss 200 a"),
                step(0, &[], Some((200, &[("cache-control", "private")], "b")), "miss 200 b"),
                step(0, &[], Some((200, FRESH, "c")), "miss 200 c"),
                step(0, &[], None, "hit 200 c"),
            ],
        ),
        (
            "5.2.2.7: private=\"f\" is stored without f",
            &[
                step(
                    0,
                    &[],
                    Some((200, &[("cache-control", "max-age=60, private=\"x-user\""), ("x-user", "ann")], "a")),
                    "miss 200 a",
                )
                .returns(&[("x-user", "ann")]),
                step(0, &[], None, "hit 200 a").returns(&[("x-user", "-")]),
            ],
        ),
        (
            "5.2.2.4: no-cache is validated each time",
            &[
                step(0, &[], Some((200, &[("cache-control", "max-age=60, no-cache"), ("etag", "\"1\"")], "a")), "miss 200 a"),
                step(1, &[], Some((304, &[("etag", "\"1\"")], "")), "validated 200 a"),
                step(1, &[], Some((304, &[("etag", "\"1\"")], "")), "validated 200 a"),
            ],
        ),
        (
            "7.3: a cookie is not stored",
            &[
                step(0, &[], Some((200, &[("cache-control", "max-age=60"), ("set-cookie", "a=b")], "a")), "miss 200 a"),
                step(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "3.5: Authorization",
            &[
                step(0, &[("authorization", "x")], Some((200, FRESH, "a")), "miss 200 a"),
                step(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
                step(0, &[], None, "hit 200 b"),
                step(0, &[("authorization", "x")], Some((200, FRESH, "c")), "miss 200 c"),
                step(0, &[], None, "hit 200 b"),
                step(60, &[("authorization", "x")], Some((200, &[("cache-control", "s-maxage=60")], "d")), "miss 200 d"),
                step(0, &[], None, "hit 200 d"),
                step(0, &[("authorization", "y")], None, "hit 200 d"),
                step(0, &[("cookie", "y=z")], None, "hit 200 d"),
            ],
        ),
        (
            "4.1: variants",
            &[
                step(0, &[("x-t", "1")], Some((200, &[("cache-control", "max-age=60"), ("vary", "x-t")], "a")), "miss 200 a"),
                step(0, &[("x-t", "2")], Some((200, &[("cache-control", "max-age=60"), ("vary", "x-t")], "b")), "miss 200 b"),
                step(0, &[("x-t", "1")], None, "hit 200 a"),
                step(0, &[("x-t", "2")], None, "hit 200 b"),
            ],
        ),
        (
            "4.1: a stale variant is validated, the other is not",
            &[
                step(
                    0,
                    &[("x-t", "1")],
                    Some((200, &[("cache-control", "max-age=60"), ("vary", "x-t"), ("etag", "\"1\"")], "a")),
                    "miss 200 a",
                ),
                step(
                    0,
                    &[("x-t", "2")],
                    Some((200, &[("cache-control", "max-age=90"), ("vary", "x-t"), ("etag", "\"2\"")], "b")),
                    "miss 200 b",
                ),
                step(60, &[("x-t", "1")], Some((304, TAGGED, "")), "validated 200 a").sends(&[("if-none-match", "\"1\"")]),
                step(0, &[("x-t", "2")], None, "hit 200 b"),
            ],
        ),
        (
            "RFC 9110 6.6.1: a missing date is added",
            &[step(0, &[], Some((200, TAGGED, "a")), "miss 200 a"), step(1, &[], None, "hit 200 a").returns(&[("age", "1")])],
        ),
    ];
    for (name, steps) in cases {
        walk(name, Rule::http(), steps).await;
    }
}

#[tokio::test]
async fn request_directives() {
    const STALE: Step = step(0, &[], Some((200, FRESH, "a")), "miss 200 a");
    let cases: &[(&str, &[Step])] = &[
        (
            "5.2.1.4: no-cache calls, and the response is stored",
            &[
                STALE,
                step(0, NO_CACHE, Some((200, FRESH, "b")), "miss 200 b"),
                step(0, &[], None, "hit 200 b"),
                step(0, &[("pragma", "no-cache")], Some((200, FRESH, "c")), "miss 200 c"),
            ],
        ),
        (
            "5.2.1.1: max-age",
            &[
                STALE,
                step(30, &[("cache-control", "max-age=30")], None, "hit 200 a"),
                step(1, &[("cache-control", "max-age=30")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.3: min-fresh",
            &[
                STALE,
                step(30, &[("cache-control", "min-fresh=30")], None, "hit 200 a"),
                step(1, &[("cache-control", "min-fresh=30")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.2: max-stale",
            &[
                STALE,
                step(70, &[("cache-control", "max-stale=10")], None, "accepted 200 a"),
                step(1, &[("cache-control", "max-stale=10")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.2.2: must-revalidate overrides max-stale",
            &[
                step(0, &[], Some((200, &[("cache-control", "max-age=60, must-revalidate")], "a")), "miss 200 a"),
                step(61, &[("cache-control", "max-stale")], Some((200, FRESH, "b")), "miss 200 b"),
            ],
        ),
        (
            "5.2.1.5: no-store is served, and stores nothing",
            &[
                step(0, &[("cache-control", "no-store")], Some((200, FRESH, "a")), "miss 200 a"),
                step(0, &[], Some((200, FRESH, "b")), "miss 200 b"),
                step(0, &[("cache-control", "no-store")], None, "hit 200 b"),
            ],
        ),
        (
            "5.2.1.7: only-if-cached",
            &[
                step(0, &[("cache-control", "only-if-cached")], None, "refused 504"),
                STALE,
                step(0, &[("cache-control", "only-if-cached")], None, "hit 200 a"),
                step(60, &[("cache-control", "only-if-cached")], None, "refused 504"),
                step(0, &[("cache-control", "only-if-cached, max-stale")], None, "accepted 200 a"),
                step(0, &[("cache-control", "only-if-cached")], None, "refused 504").by("HEAD"),
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
                step(0, &[], Some((200, WINDOW, "a")), "miss 200 a"),
                step(60, &[], Some((503, &[], "down")), "if-error 200 a").returns(&[("age", "60")]),
                step(60, &[], Some((503, &[], "down")), "miss 503 down"),
            ],
        ),
        (
            "RFC 5861 4: without a window a 5xx passes",
            &[step(0, &[], Some((200, FRESH, "a")), "miss 200 a"), step(60, &[], Some((500, &[], "down")), "miss 500 down")],
        ),
        (
            "4.2.4: a failed call",
            &[
                step(0, &[], Some((200, FRESH, "a")), "miss 200 a"),
                step(60, &[], Some((0, &[], "")), "if-error 200 a"),
                step(3600, &[], Some((0, &[], "")), "no answer"),
            ],
        ),
        (
            "5.2.2.2: must-revalidate forbids both",
            &[
                step(0, &[], Some((200, MUST, "a")), "miss 200 a"),
                step(60, &[], Some((503, &[], "down")), "miss 503 down"),
                step(0, &[], Some((0, &[], "")), "no answer"),
            ],
        ),
        (
            "5.2.1.4: a reload gets the failure",
            &[
                step(0, &[], Some((200, WINDOW, "a")), "miss 200 a"),
                step(0, NO_CACHE, Some((503, &[], "down")), "miss 503 down"),
                step(0, &[], None, "hit 200 a"),
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
    let down = |after| step(after, &[], Some((0, &[], "")), "no answer");
    let zero = [step(0, &[], Some((200, NONE, "a")), "miss 200 a"), down(60)];
    let passed = [
        step(0, &[], Some((200, SHORT, "a")), "miss 200 a"),
        step(89, &[], Some((0, &[], "")), "if-error 200 a"),
        down(1),
        step(0, &[], Some((503, &[], "down")), "miss 503 down"),
    ];
    for rule in [Rule::http(), Rule::http().stale_if_error(MINUTE)] {
        walk("stale-if-error=0", rule.clone(), &zero).await;
        walk("stale-if-error=30", rule, &passed).await;
    }
}

/// RFC 5861, section 3: an entry that is stale on arrival, but within its window, is served and refreshed at once.
#[tokio::test]
async fn stale_on_arrival_is_refreshed_by_each_request() {
    const OLD: Fields = &[("age", "61"), ("cache-control", "max-age=60, stale-while-revalidate=30")];
    const ALWAYS: Fields = &[("cache-control", "max-age=0, stale-while-revalidate=30")];
    for fields in [OLD, ALWAYS] {
        let steps = [
            step(0, &[], Some((200, fields, "a")), "miss 200 a"),
            step(1, &[], Some((200, fields, "b")), "refreshed 200 a"),
            step(0, &[], Some((200, fields, "c")), "refreshed 200 b"),
            step(0, &[], Some((200, FRESH, "d")), "refreshed 200 c"),
            step(0, &[], None, "hit 200 d"),
        ];
        walk("stale-while-revalidate", Rule::http(), &steps).await;
    }
}

/// A hit-for-miss mark does not stop refreshes: requests that do not wait for a fill still start one.
#[tokio::test]
async fn unstorable_response_does_not_stop_refreshing() {
    const WINDOW: Fields = &[("cache-control", "max-age=60, stale-while-revalidate=30")];
    let steps = [
        step(0, &[], Some((200, WINDOW, "a")), "miss 200 a"),
        step(60, &[], Some((200, &[("cache-control", "no-store")], "b")), "refreshed 200 a"),
        step(1, &[], Some((200, FRESH, "c")), "refreshed 200 a"),
        step(0, &[], None, "hit 200 c"),
    ];
    walk("unstorable", Rule::http(), &steps).await;
}

#[tokio::test(start_paused = true)]
async fn soft_timeout_serves_stale_and_stores_the_response() {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rule = Rule::ttl(MINUTE).stale_if_error(MINUTE).soft_timeout(SECOND);
    let (service, mut handle) = mocked::<Plain>(&CacheLayer::new(store).rules(one_rule(rule)));
    let asking = || tokio::spawn(service.clone().oneshot(get("/t/a")));
    let first = asking();
    let (_, answer) = next_call(&mut handle).await;
    answer.send_response(ok("a"));
    first.await.expect("no panic").expect("a response");
    clock.advance(MINUTE);
    let (second, third) = (asking(), asking());
    let (_, answer) = next_call(&mut handle).await;
    for one in [second, third] {
        let response = one.await.expect("no panic").expect("a response");
        assert_eq!(outcome(&response), Outcome::Stale(Stale::SoftTimeout));
        assert_eq!(text(response).await, "a");
    }
    // The call continues in the background, and its response is stored.
    answer.send_response(ok("b"));
    tokio::time::sleep(SECOND).await;
    let response = asking().await.expect("no panic").expect("a response");
    assert_eq!((outcome(&response), text(response).await), (Outcome::Hit, "b".to_owned()));
}

/// RFC 9111, section 5.2.1.7.
#[tokio::test]
async fn only_if_cached_never_reaches_the_origin() {
    const ONLY: (&str, &str) = ("cache-control", "only-if-cached");
    let stored = step(0, &[], Some((200, TAGGED, "a")), "miss 200 a");
    let refused: [Fields; 6] = [
        &[ONLY, ("if-match", "\"1\"")],
        &[ONLY, ("if-unmodified-since", "Thu, 01 Jan 2099 00:00:00 GMT")],
        &[ONLY, ("upgrade", "websocket")],
        &[ONLY, ("x-user", "ann"), ("x-user", "bob")],
        &[("cache-control", "max-age=9"), ("cache-control", "Only-If-Cached"), ("if-match", "*")],
        &[ONLY, ("range", "bytes=0-0"), ("range", "bytes=1-1"), ("if-match", "*")],
    ];
    let rule = Rule::http().identity(Identity::header("x-user"));
    for request in refused {
        walk("refused", rule.clone(), &[stored, step(0, request, None, "refused 504")]).await;
    }
    // A write passes (section 4), even in an overridden method. Under a rule that sets the lifetime, the directive has no
    // effect.
    let write = step(0, &[ONLY], Some((200, &[], "done")), "bypass 200 done");
    let hidden = step(0, &[ONLY, ("x-http-method-override", "DELETE")], Some((200, &[], "done")), "bypass 200 done");
    walk("a write", rule, &[write.by("POST"), hidden]).await;
    let fixed = step(0, &[ONLY, ("if-match", "*")], Some((200, &[], "a")), "bypass 200 a");
    walk("a ttl rule", Rule::ttl(MINUTE), &[fixed]).await;
}

#[tokio::test]
async fn options() {
    const CDN: Fields = &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")];
    let two = step(0, &[], Some((200, &[], "a")), "miss 200 a");
    let silent = [two, step(59, &[], None, "hit 200 a"), step(1, &[], Some((200, &[], "b")), "miss 200 b")];
    walk("4.2.2: default_ttl", Rule::http().default_ttl(MINUTE), &silent).await;
    let old: Fields = &[("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")];
    let heuristic = [step(0, &[], Some((200, old, "a")), "miss 200 a"), step(3600, &[], None, "hit 200 a")];
    walk("4.2.2: heuristics", Rule::http().heuristics(true), &heuristic).await;
    let targeted = [step(0, &[], Some((200, CDN, "a")), "miss 200 a"), step(59, &[], None, "hit 200 a")];
    walk("RFC 9213 2.2: targeted", Rule::http().targeted(["CDN-Cache-Control"]), &targeted).await;
    let untargeted = [step(0, &[], Some((200, CDN, "a")), "miss 200 a"), step(0, &[], Some((200, CDN, "b")), "miss 200 b")];
    walk("RFC 9213 2.2: only where it is configured", Rule::http(), &untargeted).await;
    let unreachable = [step(0, &[], Some((200, FRESH, "a")), "miss 200 a"), step(60, &[], Some((0, &[], "")), "no answer")];
    walk("4.2.4: stale_if_unreachable", Rule::http().stale_if_unreachable(Duration::ZERO), &unreachable).await;
    let status = [
        step(0, &[], Some((404, &[], "a")), "miss 404 a"),
        step(9, &[], None, "hit 404 a"),
        step(1, &[], Some((404, FRESH, "b")), "miss 404 b"),
        step(59, &[], None, "hit 404 b"),
    ];
    let not_found = http::StatusCode::NOT_FOUND;
    walk("a status where the response is silent", Rule::http().status(not_found, 10 * SECOND), &status).await;
    let identified = [
        step(0, &[("authorization", "Bearer x")], Some((200, FRESH, "a")), "miss 200 a"),
        step(0, &[("authorization", "Bearer x")], None, "hit 200 a"),
        step(0, &[("authorization", "Bearer y")], Some((200, FRESH, "b")), "miss 200 b"),
    ];
    walk("3.5: with an identity in the key", Rule::http().identity(Identity::bearer()), &identified).await;
    let mut normalise = Normalise::rfc();
    normalise.accept_language = Weights::Unordered;
    let languages = [
        step(
            0,
            &[("accept-language", "de, en")],
            Some((200, &[("cache-control", "max-age=9"), ("vary", "accept-language")], "a")),
            "miss 200 a",
        ),
        step(0, &[("accept-language", "EN, de")], None, "hit 200 a"),
    ];
    walk("4.1: normalised", Rule::http().normalise(normalise), &languages).await;
    let error = Rules::new().try_fallback(Rule::ttl(MINUTE).heuristics(true)).expect_err("no HTTP rule");
    assert!(error.to_string().contains("invalid heuristics: expected a rule under which HTTP decides"), "{error}");
}
