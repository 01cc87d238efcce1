//! HTTP dates (RFC 9110 §5.6.7).

use std::{
    cell::RefCell,
    io::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::list;

/// Parses an HTTP date in any of its three forms. Returns milliseconds since the Unix epoch, or 0 for an earlier date.
///
/// `now`, in the same unit, determines the century of a two-digit year. Letters may be in either case, and the weekday is not compared
/// with the date. Any other deviation from the grammar gives `None`.
///
/// ```
/// use tower_response_cache::semantics::parse_date;
///
/// let now = 1_700_000_000_000;
/// for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
///     assert_eq!(parse_date(date.as_bytes(), now), Some(784_111_777_000));
/// }
/// assert_eq!(parse_date(b"Sun, 06 Nov 1994 08:49:37 UTC", now), None);
/// ```
pub fn parse_date(value: &[u8], now: u64) -> Option<u64> {
    match value.iter().position(|byte| *byte == b',') {
        Some(3) => remembered(value.try_into().ok()?),
        Some(comma) => rfc850(value, comma, now),
        None => asctime(value),
    }
}

/// Formats a timestamp, in milliseconds since the Unix epoch, as an IMF-fixdate.
///
/// Fractions of a second are cut off. A timestamp after the year 9999 gives the last second of that year.
///
/// ```
/// assert_eq!(tower_response_cache::semantics::format_date(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
/// ```
pub fn format_date(millis: u64) -> HeaderValue {
    let seconds = (millis / 1000).min(END_OF_9999);
    let format = || {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        HeaderValue::try_from(date).expect("a date is visible ASCII")
    };
    let remembered = FORMATTED.try_with(|last| {
        let mut last = last.try_borrow_mut().ok()?;
        if last.as_ref().is_none_or(|(known, _)| *known != seconds) {
            *last = Some((seconds, format()));
        }
        last.as_ref().map(|(_, date)| date.clone())
    });
    remembered.ok().flatten().unwrap_or_else(format)
}

thread_local! {
    /// The last second that this thread formatted. Most responses of a second have the same date.
    static FORMATTED: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };

    /// The last dates that this thread parsed, by their seconds. Many responses have the same dates.
    static PARSED: RefCell<[Option<(Fixdate, u64)>; PLACES]> = const { RefCell::new([None; PLACES]) };
}

/// The text of an IMF-fixdate.
type Fixdate = [u8; 29];

/// The number of dates that a thread remembers.
const PLACES: usize = 8;

/// Parses an IMF-fixdate, unless this thread remembers it.
fn remembered(value: &Fixdate) -> Option<u64> {
    let remembered = PARSED.try_with(|parsed| {
        let place = &mut parsed.try_borrow_mut().ok()?[usize::from(value[23] ^ value[24]) % PLACES];
        if place.is_none_or(|(known, _)| known != *value) {
            *place = imf_fixdate(value).map(|date| (*value, date));
        }
        Some(place.map(|(_, date)| date))
    });
    remembered.ok().flatten().unwrap_or_else(|| imf_fixdate(value))
}

/// Parses the first line of a date field with [`parse_date`] (RFC 9111 §4.2.1).
pub(super) fn date_field(headers: &HeaderMap, name: HeaderName, now: u64) -> Option<u64> {
    parse_date(headers.get(name)?.as_bytes(), now)
}

const END_OF_9999: u64 = 253_402_300_799;
const SECONDS_OF_400_YEARS: i64 = 146_097 * 86_400;
const SECONDS_OF_A_YEAR: u64 = 31_556_952;

/// Parses `Sun, 06 Nov 1994 08:49:37 GMT`.
fn imf_fixdate(value: &Fixdate) -> Option<u64> {
    let weekday = weekday(&value[..3], 3)?;
    check_punctuation(value, b"___, __ ___ ____ ________ ___")?;
    check_zone(&value[26..])?;
    to_millis(weekday, [value[5], value[6]], &value[8..11], number(&value[12..16])?, &value[17..25])
}

/// Parses `Sunday, 06-Nov-94 08:49:37 GMT`.
fn rfc850(value: &[u8], comma: usize, now: u64) -> Option<u64> {
    let weekday = weekday(&value[..comma], comma)?;
    let rest: &[u8; 24] = value[comma..].try_into().ok()?;
    check_punctuation(rest, b", __-___-__ ________ ___")?;
    check_zone(&rest[21..])?;
    // RFC 9110 §5.6.7: a date more than 50 years in the future stands for the latest past year with the same two digits.
    let latest = i64::try_from(1970 + now / 1000 / SECONDS_OF_A_YEAR).ok()? + 51;
    let year = latest - (latest - number(&rest[9..11])?).rem_euclid(100);
    let in_year = |year: i64| to_millis(weekday, [rest[2], rest[3]], &rest[5..8], year, &rest[12..20]);
    let limit = now.saturating_add(50 * SECONDS_OF_A_YEAR * 1000);
    in_year(year).filter(|date| *date <= limit).or_else(|| in_year(year - 100))
}

/// Parses `Sun Nov  6 08:49:37 1994`.
fn asctime(value: &[u8]) -> Option<u64> {
    let value: &[u8; 24] = value.try_into().ok()?;
    let weekday = weekday(&value[..3], 3)?;
    check_punctuation(value, b"___ ___ __ ________ ____")?;
    let tens = if value[8] == b' ' { b'0' } else { value[8] };
    to_millis(weekday, [tens, value[9]], &value[4..7], number(&value[20..])?, &value[11..19])
}

/// Parses digits alone.
fn number(digits: &[u8]) -> Option<i64> {
    list::delta_seconds(digits).map(i64::from)
}

const WEEKDAYS: [&[u8]; 7] = [b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday", b"Sunday"];

/// Returns the index of a weekday that is abbreviated to `length` = 3 letters or written in full.
fn weekday(name: &[u8], length: usize) -> Option<usize> {
    let is_name = |day: &&[u8]| (length == 3 || day.len() == length) && day[..length].eq_ignore_ascii_case(name);
    WEEKDAYS.iter().position(is_name)
}

/// Compares all bytes for which the pattern does not have `_`.
fn check_punctuation(value: &[u8], pattern: &[u8]) -> Option<()> {
    value.iter().zip(pattern).all(|(byte, mark)| *mark == b'_' || byte == mark).then_some(())
}

fn check_zone(name: &[u8]) -> Option<()> {
    name.eq_ignore_ascii_case(b"GMT").then_some(())
}

/// Checks and converts the components of a date by `httpdate`, after adapting them to its stricter rules.
///
/// `httpdate` rejects dates that `tests/date.rs` and the public suite (`freshness-expires-wrong-case-*`, `freshness-expires-ansi-c`)
/// require: letters in another case, a weekday that does not match the date, leap seconds, and years before 1970. It also reads two-digit
/// years regardless of the current date, and accepts surrounding whitespace.
fn to_millis(weekday: usize, day: [u8; 2], month: &[u8], year: i64, time: &[u8]) -> Option<u64> {
    // The calendar, weekdays included, repeats every 400 years.
    let year_in_cycle = 2000 + year % 400;
    let leap_second = time.ends_with(b":60");
    let mut text = *b"___, __ ___ ____ ________ GMT";
    text[5..7].copy_from_slice(&day);
    text[8..11].copy_from_slice(month);
    text[8..11].make_ascii_lowercase();
    text[8].make_ascii_uppercase();
    write!(&mut text[12..16], "{year_in_cycle}").ok()?;
    text[17..25].copy_from_slice(time);
    if leap_second {
        text[23..25].copy_from_slice(b"59");
    }
    let date = (weekday..weekday + 7).find_map(|weekday| {
        text[..3].copy_from_slice(&WEEKDAYS[weekday % 7][..3]);
        httpdate::parse_http_date(str::from_utf8(&text).ok()?).ok()
    })?;
    let seconds = i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()? + i64::from(leap_second);
    let seconds = seconds + (year - year_in_cycle) / 400 * SECONDS_OF_400_YEARS;
    // Every result can be formatted again.
    u64::try_from(seconds).map_or(Some(0), |seconds| Some(seconds.min(END_OF_9999) * 1000))
}

#[cfg(test)]
#[path = "tests/date.rs"]
mod tests;
