use http::HeaderName;
use proptest::prelude::*;

use super::super::testing::headers;
use super::Precondition::{NotModified, PreconditionFailed, Proceed};
use super::*;

const NOW: u64 = 1_790_000_000_000;
const EARLY: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
const THEN_MS: u64 = 784_111_777_000;

fn evaluated(method: &str, role: Role, status: u16, request: &[(&str, &str)], stored: &[(&str, &str)]) -> Precondition {
    let (request, stored) = (headers(request), headers(stored));
    let status = StatusCode::from_u16(status).unwrap();
    let selected = Selected { status, headers: &stored, received: THEN_MS + 500 };
    evaluate(&method.parse().unwrap(), &request, &selected, role, NOW)
}

#[test]
fn rfc9110_8_8_3_entity_tags() {
    for (value, want) in [
        ("\"a\"", Some((false, "a"))),
        ("W/\"a\"", Some((true, "a"))),
        ("\"\"", Some((false, ""))),
        ("\"a,b\\\"", Some((false, "a,b\\"))),
        ("\"abcdef\u{fc}\"", Some((false, "abcdef\u{fc}"))),
        ("a", None),
        ("", None),
        ("\"", None),
        ("\"a", None),
        ("a\"", None),
        ("w/\"a\"", None),
        ("W\"a\"", None),
        ("\"a b\"", None),
        ("\"a\"x", None),
        ("\"a\", \"b\"", None),
        ("W/", None),
        ("*", None),
    ] {
        let got = ETag::parse(value.as_bytes());
        assert_eq!(got.map(|tag| (tag.is_weak(), tag.opaque())), want.map(|(weak, tag)| (weak, tag.as_bytes())), "{value}");
        assert!(got.is_none_or(|tag| tag.to_string() == value), "{value}");
    }
}

#[test]
fn rfc9110_8_8_3_2_comparison() {
    for (one, two, strong, weak) in [
        ("W/\"1\"", "W/\"1\"", false, true),
        ("W/\"1\"", "W/\"2\"", false, false),
        ("W/\"1\"", "\"1\"", false, true),
        ("\"1\"", "\"1\"", true, true),
    ] {
        let (one, two) = (ETag::parse(one.as_bytes()).unwrap(), ETag::parse(two.as_bytes()).unwrap());
        assert_eq!((one.strong_eq(&two), one.weak_eq(&two)), (strong, weak), "{one} {two}");
        assert_eq!((two.strong_eq(&one), two.weak_eq(&one)), (strong, weak), "{two} {one}");
    }
}

#[test]
fn rfc9110_13_1_2_if_none_match() {
    for (lines, tag, want) in [
        (&["\"a\""][..], "\"a\"", NotModified),
        (&["W/\"a\""], "\"a\"", NotModified),
        (&["\"a\""], "W/\"a\"", NotModified),
        (&["*"], "\"a\"", NotModified),
        (&[" * "], "malformed", NotModified),
        (&["\"a\", \"b\", \"c\""], "\"a\"", NotModified),
        (&["\"a\", \"b\", \"c\""], "\"b\"", NotModified),
        (&["\"a\", \"b\", \"c\""], "\"c\"", NotModified),
        (&["\"a\"", "\"b\""], "\"b\"", NotModified),
        (&[",, \"a\" ,W/\"b\""], "\"b\"", NotModified),
        (&["\"x,y\",\"b\""], "\"b\"", NotModified),
        (&["junk, \"b\""], "\"b\"", NotModified),
        (&["\"x,b\""], "\"b\"", Proceed),
        (&["\"a\"junk"], "\"a\"", Proceed),
        (&["\"a"], "\"a\"", Proceed),
        (&["a"], "\"a\"", Proceed),
        (&["a"], "a", Proceed),
        (&["\"A\""], "\"a\"", Proceed),
        (&[""], "\"a\"", Proceed),
        (&["\"b\", *"], "\"a\"", Proceed),
    ] {
        let request: Vec<_> = lines.iter().map(|line| ("if-none-match", *line)).collect();
        for method in ["GET", "HEAD", "QUERY"] {
            assert_eq!(evaluated(method, Role::Cache, 200, &request, &[("etag", tag)]), want, "{method} {lines:?} {tag}");
        }
        let failed = if want == Proceed { Proceed } else { PreconditionFailed };
        assert_eq!(evaluated("PUT", Role::Origin, 200, &request, &[("etag", tag)]), failed, "{lines:?} {tag}");
        assert_eq!(evaluated("GET", Role::Cache, 404, &request, &[("etag", tag)]), Proceed, "§13.2.1: not a 2xx");
    }
    let two = [("etag", "\"a\""), ("etag", "\"b\"")];
    assert_eq!(
        evaluated("GET", Role::Cache, 200, &[("if-none-match", "\"a\"")], &two),
        Proceed,
        "repeated ETag lines count as no tag"
    );
}

#[test]
fn rfc9110_13_1_3_if_modified_since() {
    const IMS: &str = "if-modified-since";
    for (since, stored, want) in [
        (THEN, &[("last-modified", THEN)][..], NotModified),
        (LATE, &[("last-modified", THEN)], NotModified),
        (EARLY, &[("last-modified", THEN)], Proceed),
        ("Sunday, 06-Nov-94 08:49:37 GMT", &[("last-modified", THEN)], NotModified),
        ("yesterday", &[("last-modified", THEN)], Proceed),
        (THEN, &[("date", THEN)], NotModified),
        (EARLY, &[("date", THEN)], Proceed),
        (LATE, &[("last-modified", "?"), ("date", THEN)], NotModified),
        (EARLY, &[("last-modified", EARLY), ("date", LATE)], NotModified),
        (LATE, &[], NotModified),
        (THEN, &[], Proceed), // received half a second later
    ] {
        assert_eq!(evaluated("GET", Role::Cache, 200, &[(IMS, since)], stored), want, "{since} {stored:?}");
        assert_eq!(evaluated("POST", Role::Cache, 200, &[(IMS, since)], stored), Proceed, "ignored for writes");
    }
    let twice = [(IMS, LATE), (IMS, LATE)];
    assert_eq!(evaluated("GET", Role::Cache, 200, &twice, &[("last-modified", THEN)]), Proceed, "repeated dates are ignored");
}

#[test]
fn rfc9110_13_1_if_match_and_if_unmodified_since() {
    for (request, stored, want) in [
        (("if-match", "\"a\""), ("etag", "\"a\""), Proceed),
        (("if-match", "\"b\", \"a\""), ("etag", "\"a\""), Proceed),
        (("if-match", "*"), ("x", ""), Proceed),
        (("if-match", "\"b\""), ("etag", "\"a\""), PreconditionFailed),
        (("if-match", "W/\"a\""), ("etag", "\"a\""), PreconditionFailed),
        (("if-match", "\"a\""), ("etag", "W/\"a\""), PreconditionFailed),
        (("if-match", "\"a\""), ("x", ""), PreconditionFailed),
        (("if-unmodified-since", THEN), ("last-modified", THEN), Proceed),
        (("if-unmodified-since", EARLY), ("last-modified", THEN), PreconditionFailed),
        (("if-unmodified-since", "?"), ("last-modified", THEN), Proceed),
        (("if-unmodified-since", EARLY), ("x", ""), Proceed),
    ] {
        assert_eq!(evaluated("GET", Role::Origin, 200, &[request], &[stored]), want, "{request:?} {stored:?}");
        assert_eq!(evaluated("GET", Role::Cache, 200, &[request], &[stored]), Proceed, "ignored by a cache");
    }
}

#[test]
fn rfc9110_13_1_4_repeated_dates_are_ignored() {
    let twice = [("if-unmodified-since", EARLY), ("if-unmodified-since", EARLY)];
    assert_eq!(evaluated("GET", Role::Origin, 200, &twice, &[("last-modified", THEN)]), Proceed);
}

#[test]
fn rfc9110_13_2_2_precedence() {
    let stored = [("etag", "\"a\""), ("last-modified", THEN)];
    for (request, want) in [
        (&[("if-none-match", "\"a\""), ("if-modified-since", EARLY)][..], NotModified),
        (&[("if-none-match", "\"b\""), ("if-modified-since", LATE)], Proceed),
        (&[("if-none-match", "?"), ("if-modified-since", LATE)], Proceed),
        (&[("if-match", "\"a\""), ("if-unmodified-since", EARLY)], Proceed),
        (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], NotModified),
        (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], PreconditionFailed),
        (&[("if-unmodified-since", EARLY), ("if-none-match", "\"a\"")], PreconditionFailed),
    ] {
        assert_eq!(evaluated("GET", Role::Origin, 200, request, &stored), want, "{request:?}");
    }
}

#[test]
fn rfc9110_15_4_5_fields_of_a_304() {
    let stored = [
        ("cache-control", "max-age=5"),
        ("content-encoding", "gzip"),
        ("content-language", "en"),
        ("content-length", "3"),
        ("content-location", "/a"),
        ("content-security-policy", "x"),
        ("content-type", "text/plain"),
        ("date", THEN),
        ("etag", "\"a\""),
        ("expires", LATE),
        ("last-modified", THEN),
        ("vary", "foo"),
        ("x-own", "1"),
    ];
    let got = not_modified_headers(&headers(&stored));
    let mut names: Vec<_> = got.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let want = ["cache-control", "content-location", "content-security-policy", "date", "etag", "expires", "vary", "x-own"];
    assert_eq!(names, want);
    assert!(not_modified_headers(&headers(&[("last-modified", THEN)])).contains_key("last-modified"));
}

proptest! {
    #[test]
    fn parsing_tags_never_panics(lines: Vec<Vec<u8>>, tag: Vec<u8>) {
        let mut request = HeaderMap::new();
        for line in lines.iter().filter_map(|line| http::HeaderValue::from_bytes(line).ok()) {
            request.append(IF_NONE_MATCH, line);
        }
        let _ = ETag::parse(&tag);
        any_tag(&request, &IF_NONE_MATCH, |_| false);
    }

    #[test]
    fn listed_tag_is_found_at_any_position(
        before in prop::collection::vec("(W/)?\"[!-~&&[^\"]]{0,5}\"", 0..4), tag in "(W/)?\"[!-~&&[^\"]]{0,5}\"",
        after in prop::collection::vec("(W/)?\"[!-~&&[^\"]]{0,5}\"", 0..4),
    ) {
        let all: Vec<_> = before.iter().chain([&tag]).chain(&after).map(String::as_str).collect();
        let request = headers(&[("if-none-match", &all.join(","))]);
        let wanted = ETag::parse(tag.as_bytes()).unwrap();
        prop_assert!(any_tag(&request, &IF_NONE_MATCH, |other| other == wanted));
    }
}
