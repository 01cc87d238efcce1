//! The public `semantics` module: one response from storing to validation.

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

/// Returns the seconds for which a shared cache may serve a response without validation, or `None` if it may not store it.
fn fresh_for(status: u16, response: &[(&str, &str)]) -> Option<u64> {
    let response = headers(response);
    let status = StatusCode::from_u16(status).unwrap();
    let cc = response_directives(&response, &[]);
    let exchange = Exchange { method: &Method::GET, request: &HeaderMap::new(), status, response: &response };
    shared_storable(&exchange, &cc, SharedRules::default()).ok()?;
    let at = ExchangeTimes { requested: T0, received: T0 };
    let freshness = Freshness::shared(status, &response, &cc, at, &FreshnessRules::default());
    let directives = CacheControl::default();
    (0..100_000).find(|age| freshness.decide(&directives, T0 + age * 1000) != Decision::Serve)
}

#[test]
fn rfc9111_storable_responses_and_their_lifetimes() {
    let (now, hour, past) = (date(0), date(3600), date(-3600));
    for (case, status, response, want) in [
        ("no fields", 200, &[][..], None),
        ("only a validator", 200, &[("etag", "\"a\"")], Some(0)),
        ("max-age", 200, &[(CC, "max-age=123")], Some(123)),
        ("public with max-age", 200, &[(CC, "public, max-age=222")], Some(222)),
        ("s-maxage", 200, &[(CC, "max-age=1, s-maxage=60")], Some(60)),
        ("s-maxage=0", 200, &[(CC, "max-age=60, s-maxage=0")], Some(0)),
        ("no-store with obsolete directives", 200, &[(CC, "pre-check=0, post-check=0, no-store, max-age=100")], None),
        ("private, with Expires", 200, &[(CC, "private"), ("expires", &hour)], None),
        ("Pragma is ignored in a response", 200, &[(CC, "max-age=60"), ("pragma", "no-cache")], Some(60)),
        ("no-cache without a validator", 200, &[(CC, "no-cache, max-age=60")], None),
        ("no-cache with a tag", 200, &[(CC, "no-cache, max-age=60"), ("etag", "\"a\"")], Some(0)),
        ("Expires", 200, &[("date", &now), ("expires", &hour)], Some(3600)),
        ("Expires in the past with max-age", 200, &[("date", &now), ("expires", &past), (CC, "max-age=60")], Some(60)),
        ("Expires in the past", 200, &[("date", &now), ("expires", &past)], Some(0)),
        ("Age below max-age", 200, &[(CC, "max-age=100"), ("age", "40")], Some(60)),
        ("Age above max-age", 200, &[(CC, "max-age=100"), ("age", "101")], Some(0)),
        ("Date an hour ago", 200, &[(CC, "max-age=100"), ("date", &past)], Some(0)),
        ("Age overflows", 200, &[(CC, "max-age=100"), ("age", "18446744073709551615")], Some(0)),
        ("two lines", 200, &[(CC, "max-age=60"), (CC, "must-revalidate")], Some(60)),
        ("Set-Cookie", 200, &[(CC, "public, max-age=60"), ("set-cookie", "a=b")], None),
        ("Vary: *", 200, &[(CC, "max-age=60"), ("vary", "*")], None),
        ("permanent redirect with a tag", 301, &[("etag", "\"a\"")], Some(0)),
        ("temporary redirect with a tag", 302, &[("etag", "\"a\"")], None),
        ("temporary redirect with max-age", 302, &[(CC, "max-age=60")], Some(60)),
        ("see other with max-age", 303, &[(CC, "max-age=60")], Some(60)),
        ("server error with a tag", 500, &[("etag", "\"a\"")], None),
        ("server error with max-age", 500, &[(CC, "max-age=5")], Some(5)),
        ("too many requests", 429, &[(CC, "public, max-age=60")], None),
        ("partial content", 206, &[(CC, "max-age=60"), ("content-range", "bytes 0-4/10")], None),
    ] {
        assert_eq!(fresh_for(status, response), want, "{case}");
    }
}

#[test]
fn rfc9111_4_3_validation_renews_freshness() {
    let mut stored = headers(&[(CC, "max-age=60"), ("etag", "\"a\""), ("date", &date(0)), ("age", "30"), ("x-version", "1")]);
    let at = |seconds: u64| ExchangeTimes { requested: T0 + seconds * 1000, received: T0 + seconds * 1000 };
    let of = |stored: &HeaderMap, seconds| {
        Freshness::shared(StatusCode::OK, stored, &CacheControl::of(stored), at(seconds), &FreshnessRules::default())
    };
    let directives = CacheControl::default();
    assert_eq!(of(&stored, 0).decide(&directives, T0 + 29_999), Decision::Serve);
    assert_eq!(of(&stored, 0).decide(&directives, T0 + 30_000), Decision::Revalidate);

    let not_modified = headers(&[("etag", "\"a\""), ("date", &date(40)), ("x-version", "2"), ("content-length", "0")]);
    assert_eq!(validated(&[&stored], &not_modified), Some(0));
    merge(&mut stored, &not_modified, T0 + 40_000);
    assert_eq!(stored, headers(&[(CC, "max-age=60"), ("etag", "\"a\""), ("date", &date(40)), ("x-version", "2")]));
    assert_eq!(of(&stored, 40).remaining(T0 + 40_000), Duration::from_secs(60));
}

#[test]
fn rfc9111_4_2_4_stale_use_has_a_limit() {
    let response = headers(&[(CC, "max-age=60")]);
    let at = ExchangeTimes { requested: T0, received: T0 };
    let freshness = Freshness::shared(StatusCode::OK, &response, &CacheControl::of(&response), at, &FreshnessRules::default());
    let end = freshness.useful_until();
    assert!(freshness.usable_on_failure(Failure::Unreachable, &CacheControl::default(), end - 1));
    assert!(!freshness.usable_on_failure(Failure::Unreachable, &CacheControl::default(), end));
}
