//! The rules of HTTP caching from outside: whole stories of one response, told by its header fields.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode};
use tower_response_cache::semantics::*;

const T0: u64 = 1_790_000_000_000;
const CC: &str = "cache-control";

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    headers
}

fn date(seconds: i64) -> String {
    format_date(T0.saturating_add_signed(seconds * 1000)).to_str().unwrap().to_owned()
}

/// For how many seconds a shared cache may answer with this without asking; `None` if it may not keep it.
fn kept_for(status: u16, response: &[(&str, &str)]) -> Option<u64> {
    let response = headers(response);
    let status = StatusCode::from_u16(status).unwrap();
    let cc = response_directives(&response, &[]);
    let exchange = Exchange { method: &Method::GET, request: &HeaderMap::new(), status, response: &response };
    shared_storable(&exchange, &cc, SharedRules::default()).ok()?;
    let at = ExchangeTimes { requested: T0, received: T0 };
    let freshness = Freshness::shared(status, &response, &cc, at, &FreshnessRules::default());
    let anyone = CacheControl::default();
    (0..100_000).find(|age| freshness.decide(&anyone, T0 + age * 1000) != Decision::Serve)
}

#[test]
fn rfc9111_what_is_kept_and_for_how_long() {
    let (now, hour, past) = (date(0), date(3600), date(-3600));
    for (story, status, response, want) in [
        ("nothing said", 200, &[][..], None),
        ("a validator alone", 200, &[("etag", "\"a\"")], Some(0)),
        ("a lifetime", 200, &[(CC, "max-age=123")], Some(123)),
        ("public, and a lifetime", 200, &[(CC, "public, max-age=222")], Some(222)),
        ("a lifetime of its own for shared caches", 200, &[(CC, "max-age=1, s-maxage=60")], Some(60)),
        ("none for shared caches", 200, &[(CC, "max-age=60, s-maxage=0")], Some(0)),
        ("what old servers add to be sure", 200, &[(CC, "pre-check=0, post-check=0, no-store, max-age=100")], None),
        ("private, with Expires", 200, &[(CC, "private"), ("expires", &hour)], None),
        ("Pragma in a response says nothing", 200, &[(CC, "max-age=60"), ("pragma", "no-cache")], Some(60)),
        ("no-cache, and nothing to ask with", 200, &[(CC, "no-cache, max-age=60")], None),
        ("no-cache, with a tag", 200, &[(CC, "no-cache, max-age=60"), ("etag", "\"a\"")], Some(0)),
        ("Expires", 200, &[("date", &now), ("expires", &hour)], Some(3600)),
        ("Expires in the past, max-age", 200, &[("date", &now), ("expires", &past), (CC, "max-age=60")], Some(60)),
        ("Expires in the past", 200, &[("date", &now), ("expires", &past)], Some(0)),
        ("old on arrival", 200, &[(CC, "max-age=100"), ("age", "40")], Some(60)),
        ("older than it may be", 200, &[(CC, "max-age=100"), ("age", "101")], Some(0)),
        ("of an hour ago by its Date", 200, &[(CC, "max-age=100"), ("date", &past)], Some(0)),
        ("an Age beyond all numbers", 200, &[(CC, "max-age=100"), ("age", "18446744073709551615")], Some(0)),
        ("two lines", 200, &[(CC, "max-age=60"), (CC, "must-revalidate")], Some(60)),
        ("a cookie", 200, &[(CC, "public, max-age=60"), ("set-cookie", "a=b")], None),
        ("Vary: *", 200, &[(CC, "max-age=60"), ("vary", "*")], None),
        ("a moved page", 301, &[("etag", "\"a\"")], Some(0)),
        ("another place, for now", 302, &[("etag", "\"a\"")], None),
        ("another place, with a lifetime", 302, &[(CC, "max-age=60")], Some(60)),
        ("see other, with a lifetime", 303, &[(CC, "max-age=60")], Some(60)),
        ("an error, silent", 500, &[("etag", "\"a\"")], None),
        ("an error, with a lifetime", 500, &[(CC, "max-age=5")], Some(5)),
        ("too many requests: not for others", 429, &[(CC, "public, max-age=60")], None),
        ("a part", 206, &[(CC, "max-age=60"), ("content-range", "bytes 0-4/10")], None),
    ] {
        assert_eq!(kept_for(status, response), want, "{story}");
    }
}

#[test]
fn rfc9111_4_3_a_validated_response_is_young_again() {
    let mut stored = headers(&[(CC, "max-age=60"), ("etag", "\"a\""), ("date", &date(0)), ("age", "30"), ("x-version", "1")]);
    let at = |seconds: u64| ExchangeTimes { requested: T0 + seconds * 1000, received: T0 + seconds * 1000 };
    let of = |stored: &HeaderMap, seconds| {
        Freshness::shared(StatusCode::OK, stored, &CacheControl::of(stored), at(seconds), &FreshnessRules::default())
    };
    let anyone = CacheControl::default();
    assert_eq!(of(&stored, 0).decide(&anyone, T0 + 29_999), Decision::Serve);
    assert_eq!(of(&stored, 0).decide(&anyone, T0 + 30_000), Decision::Revalidate);

    let answer = headers(&[("etag", "\"a\""), ("date", &date(40)), ("x-version", "2"), ("content-length", "0")]);
    assert_eq!(validated(&[&stored], &answer), Some(0));
    merge(&mut stored, &answer, T0 + 40_000);
    assert_eq!(stored, headers(&[(CC, "max-age=60"), ("etag", "\"a\""), ("date", &date(40)), ("x-version", "2")]));
    assert_eq!(of(&stored, 40).remaining(T0 + 40_000), Duration::from_secs(60));
}

#[test]
fn rfc9111_4_2_4_nothing_answers_at_any_age() {
    let response = headers(&[(CC, "max-age=60")]);
    let at = ExchangeTimes { requested: T0, received: T0 };
    let freshness = Freshness::shared(StatusCode::OK, &response, &CacheControl::of(&response), at, &FreshnessRules::default());
    let late = freshness.useful_until();
    assert!(freshness.usable_on_failure(Failure::Unreachable, &CacheControl::default(), late - 1));
    assert!(!freshness.usable_on_failure(Failure::Unreachable, &CacheControl::default(), late));
}
