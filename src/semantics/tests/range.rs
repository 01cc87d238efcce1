use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn selected(length: u64, request: &[(&str, &str)], stored: &[(&str, &str)]) -> Ranges {
    let (request, stored) = (headers(request), headers(stored));
    let selected = Selected { status: StatusCode::OK, headers: &stored, received: 0 };
    select_ranges(&Method::GET, &request, &selected, length, 0)
}

#[test]
fn rfc9110_14_1_2_byte_ranges() {
    use Ranges::{Multiple, NotSatisfiable, Single, Whole};
    for (range, want) in [
        ("bytes=0-1", Single(0..2)),
        ("bytes=0-0", Single(0..1)),
        ("bytes=1-", Single(1..11)),
        ("bytes=-1", Single(10..11)),
        ("bytes=-5", Single(6..11)),
        ("bytes=-11", Single(0..11)),
        ("bytes=-100", Single(0..11)),
        ("bytes=0-", Single(0..11)),
        ("bytes=0-99999999999999999999999999", Single(0..11)),
        ("bytes=10-20", Single(10..11)),
        ("BYTES=0-1", Single(0..2)),
        ("bytes= 0-1 ,", Single(0..2)),
        ("bytes=11-", NotSatisfiable),
        ("bytes=11-12", NotSatisfiable),
        ("bytes=99999999999999999999999999-", NotSatisfiable),
        ("bytes=-0", NotSatisfiable),
        ("bytes=20-, -0", NotSatisfiable),
        ("bytes=20-, 0-1", Single(0..2)),
        ("bytes=0-1,4-5", Multiple(vec![0..2, 4..6])),
        ("bytes=4-5,0-1", Multiple(vec![4..6, 0..2])),
        ("bytes=0-1,-1", Multiple(vec![0..2, 10..11])),
        ("bytes=0-1,2-3", Single(0..4)),
        ("bytes=0-3,2-5", Single(0..6)),
        ("bytes=0-1,8-9,4-5,1-4", Multiple(vec![0..6, 8..10])),
        ("bytes=0-5,6-", Whole),
        ("bytes=0-,0-", Whole),
        ("bytes=2-1", Whole),
        ("bytes=0-1,x", Whole),
        ("bytes=", Whole),
        ("bytes", Whole),
        ("bytes=-", Whole),
        ("bytes=--1", Whole),
        ("bytes=+1-2", Whole),
        ("bytes=0-1-2", Whole),
        ("bytes=0 - 1", Whole),
        ("bytes=1.0-2", Whole),
        ("items=0-1", Whole),
        ("0-1", Whole),
    ] {
        assert_eq!(selected(11, &[("range", range)], &[]), want, "{range}");
    }
    assert_eq!(selected(11, &[], &[]), Whole);
    assert_eq!(selected(11, &[("range", "bytes=0-1"), ("range", "bytes=0-1")], &[]), Whole, "repeated lines are ignored");
    assert_eq!(selected(0, &[("range", "bytes=0-")], &[]), NotSatisfiable);
    assert_eq!(selected(0, &[("range", "bytes=-5")], &[]), Whole);
    assert_eq!(selected(0, &[("range", "bytes=-0")], &[]), NotSatisfiable);
    let many = format!("bytes={}", (0..17).map(|n| format!("{}-{}", 2 * n, 2 * n)).collect::<Vec<_>>().join(","));
    assert_eq!(selected(100, &[("range", &many)], &[]), Whole, "too many ranges");
    let fewer = many.rsplit_once(',').unwrap().0;
    assert!(matches!(selected(100, &[("range", fewer)], &[]), Multiple(parts) if parts.len() == MAX_RANGES));
}

#[test]
fn rfc9110_14_2_only_for_get_and_200() {
    let request = headers(&[("range", "bytes=0-1")]);
    let stored = HeaderMap::new();
    for (method, status, want) in [
        ("GET", 200, Ranges::Single(0..2)),
        ("HEAD", 200, Ranges::Whole),
        ("QUERY", 200, Ranges::Whole),
        ("POST", 200, Ranges::Whole),
        ("GET", 203, Ranges::Whole),
        ("GET", 206, Ranges::Whole),
        ("GET", 404, Ranges::Whole),
    ] {
        let selected = Selected { status: StatusCode::from_u16(status).unwrap(), headers: &stored, received: 0 };
        assert_eq!(select_ranges(&method.parse().unwrap(), &request, &selected, 9, 0), want, "{method} {status}");
    }
}

#[test]
fn rfc9110_13_1_5_if_range() {
    for (condition, stored, counts) in [
        ("\"a\"", &[("etag", "\"a\"")][..], true),
        ("\"b\"", &[("etag", "\"a\"")], false),
        ("W/\"a\"", &[("etag", "W/\"a\"")], false),
        ("\"a\"", &[("etag", "W/\"a\"")], false),
        ("\"a\", \"b\"", &[("etag", "\"a\"")], false),
        ("\"a\"", &[], false),
        ("*", &[("etag", "\"a\"")], false),
        (THEN, &[("last-modified", THEN), ("date", LATER)], true),
        (THEN, &[("last-modified", THEN), ("date", THEN)], false),
        (THEN, &[("last-modified", THEN)], false),
        (LATER, &[("last-modified", THEN), ("date", LATER)], false),
        ("", &[("etag", "\"a\"")], false),
    ] {
        let want = if counts { Ranges::Single(0..2) } else { Ranges::Whole };
        assert_eq!(selected(9, &[("range", "bytes=0-1"), ("if-range", condition)], stored), want, "{condition} {stored:?}");
    }
    let twice = [("range", "bytes=0-1"), ("if-range", "\"a\""), ("if-range", "\"a\"")];
    assert_eq!(selected(9, &twice, &[("etag", "\"a\"")]), Ranges::Whole);
}

#[test]
fn rfc9110_15_3_7_1_and_15_5_17_fields() {
    let stored = headers(&[("etag", "\"a\""), ("content-length", "11"), ("a", "1")]);
    let want = headers(&[("etag", "\"a\""), ("content-length", "3"), ("a", "1"), ("content-range", "bytes 4-6/11")]);
    assert_eq!(partial_headers(&stored, &(4..7), 11), want);
    assert_eq!(unsatisfiable_headers(11), headers(&[("content-range", "bytes */11"), ("content-length", "0")]));
}

#[test]
fn rfc9110_14_6_multipart() {
    let content = b"0123456789A";
    let stored = headers(&[("content-type", "text/plain"), ("content-length", "11"), ("a", "1")]);
    let parts = [0..2, 10..11];
    let multipart = Multipart::new(&stored, &parts, 11, "XyZ");
    let mut body = Vec::new();
    for part in &parts {
        body.extend(multipart.head(part));
        body.extend(&content[usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap()]);
    }
    body.extend(multipart.end());
    let want = "\r\n--XyZ\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/11\r\n\r\n01\
                \r\n--XyZ\r\nContent-Type: text/plain\r\nContent-Range: bytes 10-10/11\r\n\r\nA\r\n--XyZ--\r\n";
    assert_eq!(String::from_utf8(body).unwrap(), want);
    let length = want.len().to_string();
    let want = headers(&[("content-type", "multipart/byteranges; boundary=XyZ"), ("content-length", &length), ("a", "1")]);
    assert_eq!(multipart.headers(&stored), want);
    assert!(!Multipart::new(&HeaderMap::new(), &parts, 11, "X").head(&(0..2)).starts_with(b"\r\n--X\r\nContent-Type"));
}

#[test]
fn rfc9110_14_4_content_range() {
    for (value, want) in [
        ("bytes 0-4/10", Some((0..5, Some(10)))),
        ("Bytes 4-9/10", Some((4..10, Some(10)))),
        ("bytes 0-4/*", Some((0..5, None))),
        ("bytes 4-4/10", Some((4..5, Some(10)))),
        ("bytes 4-10/10", None),
        ("bytes 5-4/10", None),
        ("bytes */10", None),
        ("bytes 0-4", None),
        ("bytes=0-4/10", None),
        ("items 0-4/10", None),
        ("bytes 0-4/x", None),
        ("bytes -4/10", None),
        ("bytes 0-18446744073709551614/18446744073709551615", Some((0..u64::MAX, Some(u64::MAX)))),
        ("bytes 0-99999999999999999999/*", None),
        ("", None),
    ] {
        let want = want.map(|(range, length)| Part { range, length });
        assert_eq!(Part::of(&headers(&[("content-range", value)])), want, "{value}");
    }
    assert_eq!(Part::of(&headers(&[("content-range", "bytes 0-4/10"), ("content-range", "bytes 0-4/10")])), None);
}

#[test]
fn rfc9110_15_3_7_3_combined_parts() {
    let part = |range: Range<u64>, length: Option<u64>| Part { range, length };
    for (one, two, want) in [
        (part(0..5, Some(10)), part(5..10, Some(10)), Some(part(0..10, Some(10)))),
        (part(5..10, Some(10)), part(0..5, Some(10)), Some(part(0..10, Some(10)))),
        (part(0..5, Some(10)), part(3..7, None), Some(part(0..7, Some(10)))),
        (part(0..5, None), part(3..7, None), Some(part(0..7, None))),
        (part(0..4, Some(10)), part(5..10, Some(10)), None),
        (part(0..5, Some(10)), part(5..10, Some(11)), None),
        (part(0..5, Some(6)), part(5..10, None), None),
    ] {
        assert_eq!(one.join(&two), want, "{one:?} {two:?}");
    }
    for (part, complete, missing) in [
        (part(0..5, Some(10)), false, Some("bytes=5-")),
        (part(0..5, None), false, Some("bytes=5-")),
        (part(5..10, Some(10)), false, Some("bytes=0-4")),
        (part(5..9, Some(10)), false, None),
        (part(5..10, None), false, None),
        (part(0..10, Some(10)), true, None),
    ] {
        assert_eq!(part.is_complete(), complete, "{part:?}");
        assert_eq!(part.missing().as_ref().map(|value| value.to_str().unwrap()), missing, "{part:?}");
    }
    assert_eq!(part(4..9, None).slice(&(6..9)), Some(2..5));
    assert_eq!(part(4..9, None).slice(&(6..10)), None);
    assert_eq!(part(4..9, None).slice(&(4..9)), Some(0..5));
    assert_eq!(part(4..9, None).slice(&(3..5)), None);
    for (one, two, want) in [
        ("\"a\"", "\"a\"", true),
        ("\"a\"", "\"b\"", false),
        ("W/\"a\"", "W/\"a\"", false),
        ("W/\"a\"", "\"a\"", false),
        ("a", "a", false),
    ] {
        assert_eq!(same_representation(&headers(&[("etag", one)]), &headers(&[("etag", two)])), want, "{one} {two}");
    }
    let dated = headers(&[("last-modified", THEN), ("date", LATER)]);
    assert!(!same_representation(&dated, &dated));
}

proptest! {
    #[test]
    fn sent_bytes_equal_the_requested_bytes(specs in prop::collection::vec((0_u64..30, 0_u64..30, 0_u8..3), 1..6), length in 1_u64..25) {
        let mut wanted = vec![false; 25];
        let texts: Vec<_> = specs.iter().map(|(one, two, kind)| {
            let (first, last) = (*one.min(two), *one.max(two));
            let (text, range) = match kind {
                0 => (format!("{first}-{last}"), first..last + 1),
                1 => (format!("{first}-"), first..length),
                _ => (format!("-{last}"), length.saturating_sub(last)..length),
            };
            (range.start..range.end.min(length)).for_each(|at| wanted[usize::try_from(at).unwrap()] = true);
            text
        }).collect();
        let parts = match selected(length, &[("range", &format!("bytes={}", texts.join(",")))], &[]) {
            Ranges::Whole => std::iter::once(0..length).collect(),
            Ranges::Single(part) => std::iter::once(part).collect(),
            Ranges::Multiple(parts) => {
                prop_assert!(parts.len() > 1);
                parts
            }
            Ranges::NotSatisfiable => vec![],
        };
        let mut sent = vec![false; 25];
        for at in parts.into_iter().flatten() {
            let at = usize::try_from(at).unwrap();
            prop_assert!(!sent[at], "byte sent twice");
            sent[at] = true;
        }
        prop_assert_eq!(sent, wanted);
    }

    #[test]
    fn parsing_never_panics(range in "(bytes=)?[ -~]{0,30}", length: u64, part in "(bytes )?[0-9*/-]{0,30}") {
        let _ = selected(length, &[("range", &range), ("if-range", &part)], &[]);
        if let Some(part) = Part::of(&headers(&[("content-range", &part)])) {
            let _ = (part.missing(), part.is_complete(), part.join(&part));
        }
    }

    #[test]
    fn printed_content_range_is_parsed_again(start in 0_u64..100, size in 1_u64..100, more in 0_u64..100) {
        let part = start..start + size;
        let length = part.end + more;
        let printed = partial_headers(&HeaderMap::new(), &part, length);
        prop_assert_eq!(Part::of(&printed), Some(Part { range: part, length: Some(length) }));
    }

    #[test]
    fn joined_ranges_neither_overlap_nor_touch(ranges in prop::collection::vec((0_u64..40, 1_u64..10), 0..10)) {
        let joined = join_overlapping(ranges.into_iter().map(|(start, size)| start..start + size).collect());
        for (at, one) in joined.iter().enumerate() {
            for two in &joined[at + 1..] {
                prop_assert!(one.end < two.start || two.end < one.start);
            }
        }
    }
}
