//! Points in time as HTTP writes them (RFC 9110 §5.6.7).

use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Reads an HTTP date in any of its three forms, as milliseconds since the Unix epoch; earlier ones are 0.
///
/// `now` decides the century of a two-digit year. Letters count in any case, and the name of the day is not compared with
/// the date; everything else must be exactly as the grammar has it, and a date that is nearly right is none.
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
        Some(3) => imf_fixdate(value),
        Some(comma) => rfc850(value, comma, now),
        None => asctime(value),
    }
}

/// Writes the preferred form, cutting to whole seconds; what lies beyond the year 9999 becomes its last second.
///
/// ```
/// assert_eq!(tower_response_cache::semantics::format_date(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
/// ```
pub fn format_date(millis: u64) -> HeaderValue {
    let at = UNIX_EPOCH + Duration::from_secs((millis / 1000).min(END_OF_9999.unsigned_abs()));
    HeaderValue::try_from(httpdate::fmt_http_date(at)).expect("a date is visible ASCII")
}

/// The first line of a date field, read by [`parse_date`] (RFC 9111 §4.2.1: of several, the first).
pub(super) fn date_field(headers: &HeaderMap, name: HeaderName, now: u64) -> Option<u64> {
    parse_date(headers.get(name)?.as_bytes(), now)
}

const END_OF_9999: i64 = 253_402_300_799;

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(value: &[u8]) -> Option<u64> {
    let value: &[u8; 29] = value.try_into().ok()?;
    weekday(&value[..3], 3)?;
    punctuation(value, &[(3, b','), (4, b' '), (7, b' '), (11, b' '), (16, b' '), (25, b' ')])?;
    zone(&value[26..])?;
    millis(digits(&value[12..16])?, month(&value[8..11])?, digits(&value[5..7])?, time(&value[17..25])?)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(value: &[u8], comma: usize, now: u64) -> Option<u64> {
    weekday(&value[..comma], comma)?;
    let rest: &[u8; 24] = value[comma..].try_into().ok()?;
    punctuation(rest, &[(0, b','), (1, b' '), (4, b'-'), (8, b'-'), (11, b' '), (20, b' ')])?;
    zone(&rest[21..])?;
    let (short, month) = (digits(&rest[9..11])?, month(&rest[5..8])?);
    let (day, time) = (digits(&rest[2..4])?, time(&rest[12..20])?);
    // A date that appears to be more than 50 years ahead means the last year before with these two digits.
    let year_now = 1970 + i64::try_from(now / 1000).ok()? / 31_556_952;
    let horizon = now.saturating_add(50 * 31_556_952_000);
    let guess = year_now + 51 - (year_now + 51 - short).rem_euclid(100);
    match millis(guess, month, day, time) {
        Some(at) if at <= horizon => Some(at),
        _ => millis(guess - 100, month, day, time),
    }
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(value: &[u8]) -> Option<u64> {
    let value: &[u8; 24] = value.try_into().ok()?;
    weekday(&value[..3], 3)?;
    punctuation(value, &[(3, b' '), (7, b' '), (10, b' '), (19, b' ')])?;
    let day = if value[8] == b' ' { &value[9..10] } else { &value[8..10] };
    millis(digits(&value[20..])?, month(&value[4..7])?, digits(day)?, time(&value[11..19])?)
}

/// The name of a day, spelt with its first `length` letters, or whole.
fn weekday(name: &[u8], length: usize) -> Option<()> {
    const NAMES: [&[u8]; 7] = [b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday", b"Sunday"];
    let known = |day: &&[u8]| (length == 3 || day.len() == length) && day[..length].eq_ignore_ascii_case(name);
    NAMES.iter().any(known).then_some(())
}

fn month(name: &[u8]) -> Option<i64> {
    const NAMES: [&[u8]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let at = NAMES.iter().position(|month| month.eq_ignore_ascii_case(name))?;
    i64::try_from(at + 1).ok()
}

fn punctuation(value: &[u8], marks: &[(usize, u8)]) -> Option<()> {
    marks.iter().all(|(at, mark)| value[*at] == *mark).then_some(())
}

fn zone(name: &[u8]) -> Option<()> {
    name.eq_ignore_ascii_case(b"GMT").then_some(())
}

fn digits(value: &[u8]) -> Option<i64> {
    value.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

/// `08:49:37` as seconds; a leap second is allowed.
fn time(value: &[u8]) -> Option<i64> {
    punctuation(value, &[(2, b':'), (5, b':')])?;
    let (hour, minute, second) = (digits(&value[..2])?, digits(&value[3..5])?, digits(&value[6..])?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// A date of the Gregorian calendar, counted in days of years that begin in March.
fn millis(year: i64, month: i64, day: i64, seconds: i64) -> Option<u64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468;
    // No HTTP date lies outside of these, so whatever is read can be printed.
    let seconds = (days * 86_400 + seconds).clamp(0, END_OF_9999);
    u64::try_from(seconds * 1000).ok()
}

#[cfg(test)]
#[path = "tests/date.rs"]
mod tests;
