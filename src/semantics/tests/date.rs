use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_790_000_000_000; // September 2026

#[test]
fn rfc9110_5_6_7_valid_dates() {
    for (date, seconds) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
        ("Sun Nov  6 08:49:37 1994", 784_111_777),
        ("Sun Nov 06 08:49:37 1994", 784_111_777),
        ("Tue, 19 Jan 2038 14:14:08 GMT", 2_147_523_248),
        ("Sun, 21 Nov 2286 04:46:39 GMT", 10_000_039_599),
        ("THU, 18 Aug 2050 02:01:18 GMT", 2_544_400_878),
        ("Thu, 18 AUG 2050 02:01:18 GMT", 2_544_400_878),
        ("Thu, 18 Aug 2050 02:01:18 gMT", 2_544_400_878),
        ("Thursday, 18-Aug-50 02:01:18 GMT", 2_544_400_878),
        ("Thu Aug  8 02:01:18 2050", 2_543_536_878),
        ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),
        ("Wed, 31 Dec 1969 23:59:59 GMT", 0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", END_OF_9999),
        ("Fri, 31 Dec 9999 23:59:60 GMT", END_OF_9999),
    ] {
        assert_eq!(parse_date(date.as_bytes(), NOW), Some(seconds * 1000), "{date}");
    }
}

#[test]
fn rfc9110_5_6_7_invalid_dates() {
    for date in [
        "",
        "0",
        "-1",
        ",",
        "Sun",
        "foo",
        "GMT",
        "Thu, 18 Aug 2050 02:01:18 UTC",
        "Thu, 18 Aug 2050 02:01:18 AEST",
        "Thu, 18 Aug 50 02:01:18 GMT",
        "Thu 18 Aug 2050 02:01:18 GMT",
        "Thu, 18  Aug  2050 02:01:18 GMT",
        "Thu, 18-Aug-2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 02.01.18 GMT",
        "Thu, 18 Aug 2050 2:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18 +0000",
        "Thu, 18 Aug 2050 24:00:00 GMT",
        "Thu, 18 Aug 2050 02:60:00 GMT",
        "Thu, 18 Aug 2050 02:01:61 GMT",
        "Thu, 31 Apr 2050 02:01:18 GMT",
        "Thu, 29 Feb 2100 02:01:18 GMT",
        "Thu, 00 Aug 2050 02:01:18 GMT",
        "Abc, 18 Aug 2050 02:01:18 GMT",
        "Thu, 18 Abc 2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18 GMT ",
        "Sunda, 06-Nov-94 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
    ] {
        assert_eq!(parse_date(date.as_bytes(), NOW), None, "{date}");
    }
}

#[test]
fn rfc9110_5_6_7_two_digit_years_end_in_fifty_years() {
    for (year, want) in [(76, 2076), (77, 1977), (99, 1999), (0, 2000), (26, 2026), (27, 2027)] {
        let short = format!("Sunday, 06-Jan-{year:02} 08:49:37 GMT");
        let long = format!("Sun, 06 Jan {want} 08:49:37 GMT");
        assert_eq!(parse_date(short.as_bytes(), NOW), parse_date(long.as_bytes(), NOW), "{short}");
    }
    let late = parse_date(b"Sunday, 06-Dec-76 08:49:37 GMT", NOW);
    assert_eq!(late, parse_date(b"Sun, 06 Dec 1976 08:49:37 GMT", NOW), "fifty years and two months ahead");
}

#[test]
fn rfc9110_5_6_7_exactly_fifty_years_ahead_is_future() {
    let date = b"Sunday, 06-Dec-76 08:49:37 GMT";
    let late = parse_date(b"Sun, 06 Dec 2076 08:49:37 GMT", NOW).unwrap();
    let fifty_years_before = late - 50 * 31_556_952_000;
    assert_eq!(parse_date(date, fifty_years_before), Some(late));
    assert_ne!(parse_date(date, fifty_years_before - 1), Some(late));
}

proptest! {
    #[test]
    fn formatted_dates_parse_to_the_same_time(seconds in 0..=END_OF_9999) {
        prop_assert_eq!(parse_date(format_date(seconds * 1000).as_bytes(), NOW), Some(seconds * 1000));
    }

    #[test]
    fn parsed_dates_format_to_the_same_time(day in 1_u8..=28, year in 0_u8..=99, now: u64) {
        let date = format!("Sunday, {day:02}-Nov-{year:02} 08:49:37 GMT");
        let at = parse_date(date.as_bytes(), now).unwrap();
        prop_assert_eq!(parse_date(format_date(at).as_bytes(), now), Some(at));
    }

    #[test]
    fn a_date_parses_the_same_after_any_others(dates in proptest::collection::vec((0..=END_OF_9999, any::<bool>()), 1..40)) {
        let texts: Vec<_> = dates.iter().map(|(seconds, is_damaged)| {
            let text = format_date(seconds * 1000).to_str().expect("text").to_owned();
            if *is_damaged { text.replace("GMT", "UTC") } else { text }
        }).collect();
        for _ in 0..2 {
            for (text, (seconds, is_damaged)) in texts.iter().zip(&dates) {
                prop_assert_eq!(parse_date(text.as_bytes(), 0), (!is_damaged).then_some(seconds * 1000));
            }
        }
    }

    #[test]
    fn parsing_never_panics(bytes: Vec<u8>, now: u64) {
        let _ = parse_date(&bytes, now);
    }

    #[test]
    fn parsing_almost_dates_never_panics(text in "[A-Za-z]{3,9},? [0-9]{2}[ -][A-Z][a-z]{2}[ -]([0-9]{2}|[0-9]{4}) [0-9:]{8} GMT", now: u64) {
        let _ = parse_date(text.as_bytes(), now);
    }
}
