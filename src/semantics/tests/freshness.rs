use proptest::prelude::*;

use super::super::testing::headers;
use super::*;
use crate::semantics::format_date;

const T0: u64 = 1_790_000_000_000;
const CC: &str = "cache-control";

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn date(seconds: i64) -> String {
    let at = T0.saturating_add_signed(seconds * 1000);
    format_date(at).to_str().unwrap().to_owned()
}

fn of(status: u16, response: &[(&str, &str)], rules: &FreshnessRules) -> Freshness {
    let response = headers(response);
    let at = ExchangeTimes { requested: T0, received: T0 };
    let status = StatusCode::from_u16(status).unwrap();
    Freshness::shared(status, &response, &CacheControl::of(&response), at, rules)
}

fn directives(line: &str) -> CacheControl {
    CacheControl::of_request(&headers(&[(CC, line)]))
}

#[test]
fn rfc9111_4_2_1_lifetime() {
    let (later, past, now) = (date(2_592_000), date(-2_592_000), date(0));
    let rules = FreshnessRules::default();
    for (case, response, want) in [
        ("no field", &[][..], 0),
        ("max-age", &[(CC, "max-age=60")], 60),
        ("s-maxage before max-age", &[(CC, "max-age=60, s-maxage=90")], 90),
        ("s-maxage before max-age, shorter", &[(CC, "s-maxage=1, max-age=60")], 1),
        ("invalid s-maxage is 0, not absent", &[(CC, "s-maxage=x, max-age=60")], 0),
        ("max-age before Expires", &[(CC, "max-age=60"), ("expires", &past), ("date", &now)], 60),
        ("max-age before an invalid Expires", &[(CC, "max-age=60"), ("expires", "0"), ("date", &now)], 60),
        ("max-age=0 before Expires", &[(CC, "max-age=0"), ("expires", &later), ("date", &now)], 0),
        ("Expires", &[("expires", &later), ("date", &now)], 2_592_000),
        ("Expires in the past", &[("expires", &past), ("date", &now)], 0),
        ("Expires now", &[("expires", &now), ("date", &now)], 0),
        ("Expires before Date", &[("expires", &date(300)), ("date", &date(400))], 0),
        ("Expires minus Date, not minus now", &[("expires", &date(20)), ("date", &date(10))], 10),
        ("Expires without Date", &[("expires", &date(30))], 30),
        ("Expires with an invalid Date", &[("expires", &date(30)), ("date", "foo")], 30),
        ("Expires: 0", &[("expires", "0"), ("date", &now)], 0),
        ("two Expires lines: the first", &[("expires", &date(30)), ("expires", &later), ("date", &now)], 30),
        ("two Expires lines, the first invalid", &[("expires", "?"), ("expires", &later), ("date", &now)], 0),
        ("Expires in the far future", &[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], 1 << 31),
        ("max-age overflows", &[(CC, "max-age=99999999999999999999")], 1 << 31),
    ] {
        assert_eq!(of(200, response, &rules).lifetime, s(want), "{case}");
    }
    let response = headers(&[("expires", &later)]);
    let cc = CacheControl { targeted: true, ..CacheControl::default() };
    let at = ExchangeTimes { requested: T0, received: T0 };
    assert_eq!(Freshness::shared(StatusCode::OK, &response, &cc, at, &rules).lifetime, s(0), "RFC 9213 §2.2");
}

#[test]
fn rfc9111_4_2_2_default_lifetime_needs_a_cacheable_status() {
    let day_old = date(-86_400);
    let heuristic = DefaultLifetime::Heuristic { percent: 10, at_most: s(3600) };
    let silent = |default_lifetime| FreshnessRules { default_lifetime, ..FreshnessRules::default() };
    for (status, cc, want) in [
        (200, "x", 3600),
        (203, "x", 3600),
        (204, "x", 3600),
        (404, "x", 3600),
        (405, "x", 3600),
        (410, "x", 3600),
        (414, "x", 3600),
        (501, "x", 3600),
        (201, "x", 0),
        (202, "x", 0),
        (403, "x", 0),
        (502, "x", 0),
        (503, "x", 0),
        (504, "x", 0),
        (599, "x", 0),
        (599, "public", 3600),
        (200, "max-age=5", 5),
    ] {
        let response = [(CC, cc), ("last-modified", day_old.as_str()), ("date", &date(0))];
        assert_eq!(of(status, &response, &silent(heuristic)).lifetime, s(want), "{status} {cc}");
        let fixed = if want == 3600 { 77 } else { want };
        assert_eq!(of(status, &response, &silent(DefaultLifetime::Fixed(s(77)))).lifetime, s(fixed), "{status} {cc}");
        let none = if want == 3600 { 0 } else { want };
        assert_eq!(of(status, &response, &silent(DefaultLifetime::Stale)).lifetime, s(none), "{status} {cc}");
    }
    for (modified, want) in [(date(-1000), 100), (date(0), 0), (date(1000), 0), ("?".to_owned(), 0)] {
        let response = [("last-modified", modified.as_str()), ("date", &date(0))];
        assert_eq!(of(200, &response, &silent(heuristic)).lifetime, s(want), "{modified}");
    }
    assert_eq!(of(200, &[], &silent(heuristic)).lifetime, s(0), "no Last-Modified");
}

#[test]
fn rfc9111_5_1_age_field() {
    for (lines, want) in [
        (&["30"][..], Some(30)),
        (&["0"], Some(0)),
        (&["7200,0"], Some(7200)),
        (&["0,7200"], Some(0)),
        (&["7200", "0"], Some(7200)),
        (&["0", "7200"], Some(0)),
        (&["3600 , 3600"], Some(3600)),
        (&["2147483648"], Some(1 << 31)),
        (&["18446744073709551615"], Some(1 << 31)),
        (&["99999999999999999999999999"], Some(1 << 31)),
        (&["abc"], None),
        (&["-7200"], None),
        (&["7200.0"], None),
        (&["7200;foo=bar"], None),
        (&[""], None),
    ] {
        let lines: Vec<_> = lines.iter().map(|line| ("age", *line)).collect();
        assert_eq!(age_field(&headers(&lines)), want.map(s), "{lines:?}");
    }
}

#[test]
fn rfc9111_4_2_3_corrected_age() {
    let rules = FreshnessRules::default();
    for (case, age, sent_date, delay, resident, want) in [
        ("no Age and no Date", None, None, 0, 0, 0),
        ("resident time", None, None, 0, 10, 10),
        ("Age and resident time", Some("30"), Some(0), 0, 5, 35),
        ("apparent age by Date", None, Some(-20), 0, 5, 25),
        ("a Date in the future adds nothing", None, Some(20), 0, 5, 5),
        ("the larger value: Age", Some("30"), Some(-20), 0, 0, 30),
        ("the larger value: Date", Some("10"), Some(-20), 0, 0, 20),
        ("response delay with Age", Some("10"), Some(0), 3, 0, 13),
        ("response delay without Age", None, Some(0), 3, 1, 4),
        ("an invalid Age is ignored", Some("x"), Some(-20), 0, 0, 20),
    ] {
        let mut response = HeaderMap::new();
        age.map(|age| response.insert(AGE, age.parse().unwrap()));
        sent_date.map(|seconds: i64| response.insert(DATE, date(seconds).parse().unwrap()));
        let at = ExchangeTimes { requested: T0 - delay * 1000, received: T0 };
        let freshness = Freshness::shared(StatusCode::OK, &response, &CacheControl::default(), at, &rules);
        assert_eq!(freshness.age(T0 + resident * 1000), s(want), "{case}");
    }
    let fixed = Freshness::fixed(s(60), T0);
    assert_eq!(fixed.age(T0 - 5000), s(0), "a clock set back adds no age");
    let old = of(200, &[("age", "2147483648"), (CC, "max-age=2147483648")], &rules);
    assert!(!old.is_fresh(T0), "age and lifetime saturate at the same value, which is stale");
    assert_eq!(old.age_seconds(u64::MAX), 1 << 31);
    assert_eq!(old.age_seconds(T0), 1 << 31);
    assert_eq!(Freshness::fixed(s(60), T0).age_seconds(T0 + 4_294_967_295_000), 1 << 31, "fits u32, but exceeds 2^31");
    assert_eq!(old.age(u64::MAX).as_secs(), (1 << 31) + (u64::MAX - T0) / 1000);
}

#[test]
fn rfc9111_4_2_fresh_below_the_lifetime() {
    let rules = FreshnessRules::default();
    for (response, fresh_for) in [
        (&[(CC, "max-age=60")][..], 60),
        (&[(CC, "max-age=60"), ("age", "30")], 30),
        (&[(CC, "max-age=3600"), ("age", "7200")], 0),
        (&[(CC, "max-age=0")], 0),
        (&[("expires", &date(10)), ("date", &date(-10)), ("age", "25")], 0),
        (&[("expires", &date(20)), ("date", &date(10)), ("age", "15")], 0),
        (&[("expires", &date(20)), ("date", &date(-10))], 20),
    ] {
        let freshness = of(200, response, &rules);
        let end = T0 + fresh_for * 1000;
        assert!(fresh_for == 0 || freshness.is_fresh(end - 1), "{response:?}");
        assert!(!freshness.is_fresh(end), "{response:?}");
        assert_eq!(freshness.remaining(T0), s(fresh_for), "{response:?}");
        assert_eq!(freshness.fresh_until(), end, "{response:?}");
    }
}

#[test]
fn rfc9111_5_2_1_request_directives() {
    use Decision::{GatewayTimeout, Revalidate, Serve, ServeAndRefresh, ServeStale};
    let rules = FreshnessRules::default();
    for (response, request, age, want) in [
        ("max-age=60", "", 59, Serve),
        ("max-age=60", "", 60, Revalidate),
        ("max-age=60", "max-age=10", 10, Serve),
        ("max-age=60", "max-age=10", 11, Revalidate),
        ("max-age=60", "max-age=0", 0, Serve),
        ("max-age=60", "max-age=0", 1, Revalidate),
        ("max-age=60", "max-age=100", 60, Revalidate),
        ("max-age=60", "min-fresh=20", 40, Serve),
        ("max-age=60", "min-fresh=20", 41, Revalidate),
        ("max-age=60", "min-fresh=x", 0, Revalidate),
        ("max-age=60", "no-cache", 0, Revalidate),
        ("max-age=60", "no-store", 0, Serve),
        ("max-age=60", "max-stale", 100_000, ServeStale),
        ("max-age=60", "max-stale=10", 70, ServeStale),
        ("max-age=60", "max-stale=10", 71, Revalidate),
        ("max-age=60", "max-stale=x", 61, Revalidate),
        ("max-age=60", "max-stale, max-age=70", 70, ServeStale),
        ("max-age=60", "max-stale, max-age=70", 71, Revalidate),
        ("max-age=60, must-revalidate", "max-stale", 60, Revalidate),
        ("max-age=60, proxy-revalidate", "max-stale", 60, Revalidate),
        ("s-maxage=60", "max-stale", 60, Revalidate),
        ("max-age=60, no-cache", "max-stale", 0, Revalidate),
        ("max-age=60, no-cache=\"x\"", "", 0, Serve),
        ("max-age=60", "only-if-cached", 59, Serve),
        ("max-age=60", "only-if-cached", 60, GatewayTimeout),
        ("max-age=60", "only-if-cached, max-stale", 60, ServeStale),
        ("max-age=60", "only-if-cached, no-cache", 0, GatewayTimeout),
        // RFC 5861 §3
        ("max-age=60, stale-while-revalidate=30", "", 60, ServeAndRefresh),
        ("max-age=60, stale-while-revalidate=30", "", 89, ServeAndRefresh),
        ("max-age=60, stale-while-revalidate=30", "", 90, Revalidate),
        ("max-age=60, stale-while-revalidate=30", "max-age=1000", 60, Revalidate),
        ("max-age=60, stale-while-revalidate=30", "max-age=1000, max-stale", 60, ServeAndRefresh),
        ("max-age=60, stale-while-revalidate=30", "max-stale=60", 100, ServeStale),
        ("max-age=60, stale-while-revalidate=30", "min-fresh=0", 61, ServeAndRefresh),
        ("max-age=60, stale-while-revalidate=30", "min-fresh=1", 61, Revalidate),
        ("max-age=60, stale-while-revalidate=30", "only-if-cached", 61, ServeAndRefresh),
        ("max-age=60, stale-while-revalidate=30, must-revalidate", "", 60, Revalidate),
        ("s-maxage=60, stale-while-revalidate=30", "", 60, Revalidate),
        // RFC 8246 §2
        ("max-age=60, immutable", "max-age=0", 59, Serve),
        ("max-age=60, immutable", "max-age=0", 60, Revalidate),
        ("max-age=60, immutable", "max-age=1", 2, Revalidate),
        ("max-age=60, immutable", "no-cache", 1, Revalidate),
    ] {
        let freshness = of(200, &[(CC, response)], &rules);
        assert_eq!(freshness.decide(&directives(request), T0 + age * 1000), want, "{response} | {request} | {age}");
    }
    let with_windows = FreshnessRules { stale_windows_with_s_maxage: true, ..rules };
    for (response, want) in [
        ("s-maxage=60, stale-while-revalidate=30", ServeAndRefresh),
        ("s-maxage=60, stale-while-revalidate=30, must-revalidate", Revalidate),
        ("s-maxage=60", Revalidate),
    ] {
        let freshness = of(200, &[(CC, response)], &with_windows);
        assert_eq!(freshness.decide(&directives(""), T0 + 60_000), want, "{response}");
        assert_eq!(freshness.decide(&directives("max-stale"), T0 + 100_000), Revalidate, "{response}");
    }
}

#[test]
fn rfc5861_4_usable_on_failure() {
    use Failure::{ServerError, Unreachable};
    let rules = FreshnessRules::default();
    for (response, request, age, failure, want) in [
        ("max-age=60", "", 60, Unreachable, true),
        ("max-age=60", "", 60 + 3599, Unreachable, true),
        ("max-age=60", "", 60 + 3600, Unreachable, false),
        ("max-age=60", "", 60, ServerError, false),
        ("max-age=60, stale-if-error=30", "", 89, ServerError, true),
        ("max-age=60, stale-if-error=30", "", 90, ServerError, false),
        ("max-age=60, stale-if-error=7200", "", 7000, Unreachable, true),
        ("max-age=60", "stale-if-error=30", 89, ServerError, true),
        ("max-age=60", "stale-if-error=30", 90, ServerError, false),
        ("max-age=60", "max-age=5", 30, ServerError, true),
        ("max-age=60", "no-cache", 30, Unreachable, false),
        ("max-age=60, must-revalidate", "", 60, Unreachable, false),
        ("max-age=60, must-revalidate", "", 59, Unreachable, true),
        ("max-age=60, must-revalidate", "stale-if-error=30", 60, ServerError, false),
        ("max-age=60, must-revalidate, stale-if-error=30", "", 60, ServerError, false),
        ("max-age=60, proxy-revalidate", "", 60, Unreachable, false),
        ("max-age=60, no-cache", "", 1, Unreachable, false),
        ("max-age=2, s-maxage=2", "", 2, Unreachable, false),
    ] {
        let freshness = of(200, &[(CC, response)], &rules);
        let got = freshness.usable_on_failure(failure, &directives(request), T0 + age * 1000);
        assert_eq!(got, want, "{response} | {request} | {age} | {failure:?}");
    }
    for (status, want) in
        [(200, None), (404, None), (500, Some(ServerError)), (501, None), (504, Some(ServerError)), (505, None)]
    {
        assert_eq!(Failure::of_status(StatusCode::from_u16(status).unwrap()), want, "{status}");
    }
}

#[test]
fn fixed_lifetime_has_no_windows_and_no_directives() {
    let fixed = Freshness::fixed(s(60), T0);
    assert!(!fixed.forbids_stale && !fixed.validate_always && !fixed.immutable);
    assert_eq!((fixed.fresh_until(), fixed.useful_until()), (T0 + 60_000, T0 + 60_000));
    assert_eq!((fixed.age_seconds(T0 + 7_999), fixed.remaining(T0 + 59_000)), (7, s(1)));
    assert_eq!(fixed.decide(&CacheControl::default(), T0 + 59_999), Decision::Serve);
    assert_eq!(fixed.decide(&CacheControl::default(), T0 + 60_000), Decision::Revalidate);
}

#[test]
fn useful_until_ends_the_longest_window() {
    for (swr, sie, gone) in [(1, 2, 3), (3, 2, 1), (2, 3, 1), (0, 0, 0)] {
        let windows = Freshness {
            stale_while_revalidate: s(swr),
            stale_if_error: s(sie),
            stale_if_unreachable: s(gone),
            ..Freshness::fixed(s(60), T0)
        };
        assert_eq!(windows.useful_until(), T0 + 60_000 + 1000 * swr.max(sie).max(gone));
    }
}

prop_compose! {
    fn any_freshness()(
        received in T0..T0 + 1_000_000, initial in 0_u64..200, lifetime in 0_u64..200, swr in 0_u64..100, sie in 0_u64..100,
        gone in 0_u64..100, forbids_stale: bool, validate_always in prop::bool::weighted(0.2), immutable: bool,
    ) -> Freshness {
        let of = |window| if forbids_stale { Duration::ZERO } else { s(window) };
        Freshness {
            received, initial_age: s(initial), lifetime: s(lifetime), stale_while_revalidate: of(swr), stale_if_error: of(sie),
            stale_if_unreachable: of(gone), forbids_stale, validate_always, immutable,
        }
    }
}

fn any_request() -> impl Strategy<Value = CacheControl> {
    let part = prop_oneof![
        Just("no-cache".to_owned()),
        Just("only-if-cached".to_owned()),
        Just("max-stale".to_owned()),
        (0_u64..300).prop_map(|n| format!("max-age={n}")),
        (0_u64..300).prop_map(|n| format!("min-fresh={n}")),
        (0_u64..300).prop_map(|n| format!("max-stale={n}")),
        (0_u64..300).prop_map(|n| format!("stale-if-error={n}")),
    ];
    prop::collection::vec(part, 0..3).prop_map(|parts| directives(&parts.join(", ")))
}

proptest! {
    #[test]
    fn age_never_decreases(freshness in any_freshness(), now: u64, later: u64) {
        prop_assert!(freshness.age(now) <= freshness.age(now.saturating_add(later)));
        prop_assert!(freshness.age(now) >= freshness.initial_age);
        prop_assert!(freshness.age_seconds(now) <= freshness.age_seconds(now.saturating_add(later)));
    }

    #[test]
    fn decision_never_improves_with_age(freshness in any_freshness(), request in any_request(), after in 0_u64..500_000, later in 0_u64..500_000) {
        let (now, then) = (freshness.received + after, freshness.received + after + later);
        prop_assert!(freshness.decide(&request, now) <= freshness.decide(&request, then));
        for failure in [Failure::ServerError, Failure::Unreachable] {
            prop_assert!(freshness.usable_on_failure(failure, &request, now) || !freshness.usable_on_failure(failure, &request, then));
        }
    }

    #[test]
    fn request_without_directives_gets_the_best_decision(freshness in any_freshness(), request in any_request(), after in 0_u64..500_000) {
        let now = freshness.received + after;
        let request = CacheControl { max_stale: None, ..request };
        prop_assert!(freshness.decide(&CacheControl::default(), now) <= freshness.decide(&request, now));
    }

    #[test]
    fn forbidden_stale_response_is_never_served(freshness in any_freshness(), request in any_request(), after in 0_u64..500_000) {
        let now = freshness.received + after;
        if freshness.forbids_stale && !freshness.is_fresh(now) || freshness.validate_always {
            prop_assert!(freshness.decide(&request, now) >= Decision::Revalidate);
            prop_assert!(!freshness.usable_on_failure(Failure::Unreachable, &request, now));
        }
    }

    #[test]
    fn arithmetic_never_panics(
        age in "[0-9]{0,30}", cc in "(s-maxage|max-age|stale-if-error|stale-while-revalidate)=[0-9]{0,30}", expires in "[ -~]{0,40}",
        requested: u64, received: u64, now: u64, percent: u8,
    ) {
        let default_lifetime = DefaultLifetime::Heuristic { percent, at_most: Duration::MAX };
        let rules = FreshnessRules { default_lifetime, ..FreshnessRules::default() };
        let at = ExchangeTimes { requested, received };
        for response in [
            headers(&[("age", &age), (CC, &cc), ("last-modified", &date(-5))]),
            headers(&[("age", &age), ("expires", &expires), ("date", &expires)]),
            headers(&[("last-modified", &expires)]),
        ] {
            let freshness = Freshness::shared(StatusCode::OK, &response, &CacheControl::of(&response), at, &rules);
            let _ = (freshness.decide(&CacheControl::default(), now), freshness.useful_until(), freshness.fresh_until());
            let _ = freshness.usable_on_failure(Failure::Unreachable, &CacheControl::default(), now);
        }
    }

    #[test]
    fn fresh_until_is_the_first_stale_time(freshness in any_freshness()) {
        let end = freshness.fresh_until();
        prop_assert!(!freshness.is_fresh(end));
        prop_assert!(end <= freshness.received || freshness.is_fresh(end - 1));
    }
}
