use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
const LATER_MS: u64 = 784_111_778_000;

#[test]
fn rfc9111_4_3_1_validation_request() {
    for (case, stored, inm, ims) in [
        ("a tag", &[&[("etag", "\"a\"")][..]][..], Some("\"a\""), None),
        ("a weak tag", &[&[("etag", "W/\"a\"")]], Some("W/\"a\""), None),
        ("a date", &[&[("last-modified", THEN)]], None, Some(THEN)),
        ("both", &[&[("etag", "\"a\""), ("last-modified", THEN)]], Some("\"a\""), Some(THEN)),
        ("no validator", &[&[]], None, None),
        ("malformed tag", &[&[("etag", "a")]], None, None),
        ("malformed date", &[&[("last-modified", "yesterday")]], None, None),
        (
            "variants",
            &[&[("etag", "\"a\""), ("last-modified", THEN)], &[("etag", "\"b\"")], &[("etag", "\"a\"")]],
            Some("\"a\", \"b\""),
            None,
        ),
        ("variants, one without a tag", &[&[("etag", "\"a\"")], &[("last-modified", THEN)]], Some("\"a\""), None),
    ] {
        let stored: Vec<_> = stored.iter().map(|stored| headers(stored)).collect();
        let mut request = headers(&[
            ("if-none-match", "\"client\""),
            ("if-modified-since", LATER),
            ("if-match", "*"),
            ("if-unmodified-since", LATER),
            ("if-range", "\"client\""),
            ("range", "bytes=0-1"),
            ("accept", "*/*"),
        ]);
        let asked = make_conditional(&mut request, &stored.iter().collect::<Vec<_>>());
        assert_eq!(asked, inm.is_some() || ims.is_some(), "{case}");
        let mut want = headers(&[("accept", "*/*")]);
        inm.map(|tag| want.insert(IF_NONE_MATCH, tag.parse().unwrap()));
        ims.map(|date| want.insert(IF_MODIFIED_SINCE, date.parse().unwrap()));
        assert_eq!(request, want, "{case}");
    }
}

#[test]
fn rfc9111_4_3_4_response_validated_by_a_304() {
    for (stored, answer, want) in [
        (&[("etag", "\"a\"")][..], &[("etag", "\"a\"")][..], Some(0)),
        (&[("etag", "\"a\"")], &[("etag", "\"b\"")], None),
        (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")], Some(0)),
        (&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")], Some(0)),
        (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")], None),
        (&[("etag", "\"a\"")], &[("etag", "a")], None),
        (&[], &[("etag", "\"a\"")], None),
        (&[("etag", "\"a\""), ("last-modified", THEN)], &[("etag", "\"a\""), ("last-modified", LATER)], Some(0)),
        (&[("etag", "\"a\""), ("last-modified", THEN)], &[("etag", "\"b\""), ("last-modified", THEN)], None),
        (&[("etag", "\"a\""), ("last-modified", THEN)], &[("last-modified", THEN)], Some(0)),
        (&[("last-modified", THEN)], &[("last-modified", THEN)], Some(0)),
        (&[("last-modified", THEN)], &[("last-modified", LATER)], None),
        (&[("etag", "\"a\"")], &[("last-modified", LATER)], None),
        (&[("etag", "\"a\"")], &[], Some(0)), // the only candidate
        (&[("last-modified", THEN)], &[], Some(0)),
    ] {
        assert_eq!(validated(&[&headers(stored)], &headers(answer)), want, "{stored:?} {answer:?}");
    }
    let (one, two) = (headers(&[("etag", "\"a\"")]), headers(&[("etag", "W/\"b\"")]));
    for (answer, want) in [("\"a\"", Some(0)), ("W/\"b\"", Some(1)), ("\"b\"", None), ("\"c\"", None)] {
        assert_eq!(validated(&[&one, &two], &headers(&[("etag", answer)])), want, "{answer}");
    }
    assert_eq!(validated(&[&one, &two], &headers(&[])), None, "ambiguous among several");
}

#[test]
fn rfc9111_3_2_updated_fields() {
    let mut stored = headers(&[
        ("cache-control", "max-age=1"),
        ("date", THEN),
        ("age", "7"),
        ("etag", "\"a\""),
        ("content-length", "5"),
        ("content-encoding", "gzip"),
        ("content-range", "x"),
        ("content-md5", "m"),
        ("content-digest", "d"),
        ("content-type", "text/plain"),
        ("x-two", "1"),
        ("x-two", "2"),
        ("x-kept", "k"),
        ("content-location", "/foo"),
    ]);
    let update = headers(&[
        ("cache-control", "max-age=3600"),
        ("date", LATER),
        ("etag", "W/\"a\""),
        ("content-length", "10"),
        ("content-encoding", "br"),
        ("content-range", "y"),
        ("content-md5", "n"),
        ("content-digest", "e"),
        ("content-type", "text/plain;charset=utf-8"),
        ("x-two", "3"),
        ("x-new", "1"),
        ("x-new", "2"),
        ("content-location", "/bar"),
        ("set-cookie", "a=c"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "1"),
    ]);
    merge(&mut stored, &update, LATER_MS);
    assert_eq!(
        stored,
        headers(&[
            ("cache-control", "max-age=3600"),
            ("date", LATER),
            ("etag", "\"a\""),
            ("content-length", "5"),
            ("content-encoding", "gzip"),
            ("content-range", "x"),
            ("content-md5", "m"),
            ("content-digest", "d"),
            ("content-type", "text/plain;charset=utf-8"),
            ("x-two", "3"),
            ("x-kept", "k"),
            ("x-new", "1"),
            ("x-new", "2"),
            ("content-location", "/bar"),
        ])
    );
}

#[test]
fn rfc9110_6_6_1_update_without_date_gets_its_time() {
    let mut stored = headers(&[("date", THEN), ("age", "7")]);
    merge(&mut stored, &headers(&[]), LATER_MS);
    assert_eq!(stored, headers(&[("date", LATER)]));
    merge(&mut stored, &headers(&[("age", "3")]), LATER_MS);
    assert_eq!(stored, headers(&[("date", LATER), ("age", "3")]));
}

#[test]
fn rfc9111_5_2_2_4_fields_excluded_by_update_are_removed() {
    let mut stored = headers(&[("date", THEN), ("x-user", "7")]);
    merge(&mut stored, &headers(&[("date", LATER), ("cache-control", "no-cache=\"x-user\"")]), LATER_MS);
    assert_eq!(stored, headers(&[("date", LATER), ("cache-control", "no-cache=\"x-user\"")]));
}

#[test]
fn rfc9111_4_3_5_freshening_by_head() {
    let stored = headers(&[("etag", "\"a\""), ("last-modified", THEN)]);
    for (status, head, want) in [
        (200, &[][..], HeadResult::Ignored),
        (200, &[("etag", "\"a\"")], HeadResult::Freshen),
        (200, &[("last-modified", THEN)], HeadResult::Freshen),
        (200, &[("etag", "\"a\""), ("last-modified", THEN), ("content-length", "5")], HeadResult::Freshen),
        (200, &[("content-length", "05")], HeadResult::Ignored),
        (200, &[("content-length", "6")], HeadResult::Outdated),
        (200, &[("content-length", "x")], HeadResult::Outdated),
        (200, &[("etag", "\"b\"")], HeadResult::Outdated),
        (200, &[("etag", "\"a\""), ("last-modified", LATER)], HeadResult::Outdated),
        (206, &[("etag", "\"b\"")], HeadResult::Ignored),
        (404, &[], HeadResult::Ignored),
        (410, &[], HeadResult::Ignored),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(compare_head(&stored, 5, status, &headers(head)), want, "{status} {head:?}");
    }
    let odd = headers(&[("etag", "a"), ("last-modified", "lately")]);
    assert_eq!(compare_head(&odd, 5, StatusCode::OK, &odd), HeadResult::Ignored, "malformed validators");
    let bare = headers(&[]);
    assert_eq!(compare_head(&bare, 5, StatusCode::OK, &stored), HeadResult::Outdated, "an unknown validator");
}

proptest! {
    #[test]
    fn merging_twice_equals_merging_once(
        old in prop::collection::vec(("[a-d]", "[a-z]{0,3}"), 0..6), new in prop::collection::vec(("[a-d]", "[a-z]{0,3}"), 0..6),
    ) {
        let of = |lines: &[(String, String)]| headers(&lines.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
        let (mut once, update) = (of(&old), of(&new));
        merge(&mut once, &update, 0);
        let mut twice = once.clone();
        merge(&mut twice, &update, 0);
        prop_assert_eq!(&once, &twice);
        for name in update.keys() {
            prop_assert_eq!(once.get_all(name).iter().collect::<Vec<_>>(), update.get_all(name).iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn sent_tag_validates_its_response(tag in "(W/)?\"[a-z]{0,5}\"", others in prop::collection::vec("(W/)?\"[a-z]{0,5}\"", 0..3)) {
        let stored: Vec<_> = others.iter().chain([&tag]).map(|tag| headers(&[("etag", tag)])).collect();
        let stored: Vec<_> = stored.iter().collect();
        let mut request = HeaderMap::new();
        prop_assert!(make_conditional(&mut request, &stored));
        prop_assert!(request[IF_NONE_MATCH].to_str().unwrap().contains(&tag));
        prop_assert!(validated(&stored, &headers(&[("etag", &tag)])).is_some());
    }
}
