//! Range requests for a stored response (RFC 9110 §14), and the combination of partial responses (§15.3.7.3, RFC 9111 §3.4).

use std::fmt::Write as _;
use std::ops::Range;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{Method, StatusCode};

use super::conditional::{ETag, Selected};
use super::date::{date_field, parse_date};
use super::list;

/// The result of a range request for a stored response. The enum is complete: RFC 9110 §14 defines no other result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// The whole response: there is no range, or it must be ignored.
    Whole,
    /// A 206 with this one range ([`partial_headers`]).
    Single(Range<u64>),
    /// A 206 with two or more ranges, which do not overlap ([`Multipart`]).
    Multiple(Vec<Range<u64>>),
    /// A 416 ([`unsatisfiable_headers`]).
    NotSatisfiable,
}

/// The limit of ranges in one request. A request with more of them may be an attack and receives the whole response (RFC 9110 §14.2).
const MAX_RANGES: usize = 16;

/// Selects the bytes of a stored response of `length` bytes that a request asks for. Evaluate the conditions of the request first
/// ([`evaluate`](super::evaluate)).
///
/// Ranges that overlap or touch are joined. If several ranges together cover all bytes, the result is [`Ranges::Whole`].
///
/// `now`, in milliseconds since the Unix epoch, determines only the century of two-digit years.
///
/// A stored 206 can serve the same request unchanged if `Range` is part of its key ([`Vary::and`](super::Vary::and)). To take another range
/// from a stored 206, pass status 200 and the length of the complete representation, then call [`Part::slice`].
///
///
/// ```
/// use http::{HeaderMap, Method, StatusCode};
/// use tower_response_cache::semantics::{Ranges, Selected, select_ranges};
///
/// let stored = HeaderMap::new();
/// let selected = Selected { status: StatusCode::OK, headers: &stored, received: 0 };
/// let mut request = HeaderMap::new();
/// request.insert("range", "bytes=0-1, -2".parse().unwrap());
/// assert_eq!(select_ranges(&Method::GET, &request, &selected, 10, 0), Ranges::Multiple(vec![0..2, 8..10]));
/// ```
pub fn select_ranges(method: &Method, request: &HeaderMap, selected: &Selected<'_>, length: u64, now: u64) -> Ranges {
    let mut lines = request.get_all(RANGE).iter();
    // §14.2: defined for GET, and only if the response without the range would be a 200.
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Ranges::Whole;
    };
    if method != Method::GET || selected.status != StatusCode::OK || !if_range_matches(request, selected, now) {
        return Ranges::Whole;
    }
    // §14.2: a malformed field or an unknown unit is ignored.
    let Some(specs) = parse_ranges(line.as_bytes()) else {
        return Ranges::Whole;
    };
    if specs.len() > MAX_RANGES {
        return Ranges::Whole;
    }
    let requested = specs.len();
    let wanted: Vec<Range<u64>> = specs.into_iter().filter_map(|spec| spec.within(length)).collect();
    if wanted.is_empty() {
        // No `Content-Range` can express a range of an empty response.
        return if length == 0 && has_suffix_range(line.as_bytes()) { Ranges::Whole } else { Ranges::NotSatisfiable };
    }
    let mut parts = join_overlapping(wanted);
    match parts.len() {
        1 if requested > 1 && parts[0] == (0..length) => Ranges::Whole,
        1 => Ranges::Single(parts.remove(0)),
        _ => Ranges::Multiple(parts),
    }
}

/// Returns the header fields of a 206 with one range of a stored response of `length` bytes (§15.3.7).
///
/// They are the stored fields with the `Content-Range` and `Content-Length` of the range.
pub fn partial_headers(stored: &HeaderMap, part: &Range<u64>, length: u64) -> HeaderMap {
    let mut headers = stored.clone();
    headers.insert(CONTENT_RANGE, value(content_range(part, length)));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    headers
}

/// Returns the header fields of a 416 for a response of `length` bytes (§15.5.17). They contain no stored field.
pub fn unsatisfiable_headers(length: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_RANGE, value(format!("bytes */{length}")));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    headers
}

/// A 206 with several ranges, as `multipart/byteranges` (RFC 9110 §14.6).
///
/// The content consists of [`head`](Multipart::head) and the bytes of each range, followed by [`end`](Multipart::end).
#[derive(Clone, Debug)]
pub struct Multipart<'a> {
    parts: &'a [Range<u64>],
    length: u64,
    boundary: &'a str,
    content_type: Option<HeaderValue>,
}

impl<'a> Multipart<'a> {
    /// Describes ranges of a stored response of `length` bytes.
    ///
    /// The boundary consists of 1 to 70 letters and digits and must not occur in the content. Use a random one.
    pub fn new(stored: &HeaderMap, parts: &'a [Range<u64>], length: u64, boundary: &'a str) -> Multipart<'a> {
        Multipart { parts, length, boundary, content_type: stored.get(CONTENT_TYPE).cloned() }
    }

    /// Returns the bytes before the content of one range: boundary, `Content-Type` and `Content-Range`.
    pub fn head(&self, part: &Range<u64>) -> Vec<u8> {
        let mut head = format!("\r\n--{}\r\n", self.boundary).into_bytes();
        if let Some(content_type) = &self.content_type {
            head.extend(b"Content-Type: ");
            head.extend(content_type.as_bytes());
            head.extend(b"\r\n");
        }
        head.extend(format!("Content-Range: {}\r\n\r\n", content_range(part, self.length)).into_bytes());
        head
    }

    /// Returns the bytes after the last range: the closing boundary.
    pub fn end(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }

    /// Returns the header fields: the stored ones with the type and length of the multipart content, without `Content-Range` (§15.3.7.2).
    pub fn headers(&self, stored: &HeaderMap) -> HeaderMap {
        let mut headers = stored.clone();
        headers.remove(CONTENT_RANGE);
        headers.insert(CONTENT_TYPE, value(format!("multipart/byteranges; boundary={}", self.boundary)));
        let parts = self.parts.iter().map(|part| size(&self.head(part)).saturating_add(part.end - part.start));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(parts.fold(size(&self.end()), u64::saturating_add)));
        headers
    }
}

/// A byte range of a representation, as stated by `Content-Range` (RFC 9110 §14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The byte positions, with an exclusive end. The range is never empty.
    pub range: Range<u64>,
    /// The length of the complete representation in bytes, or `None` if it is unknown.
    pub length: Option<u64>,
}

impl Part {
    /// Returns the range of a 206 with a single part, or `None` if `Content-Range` is missing, repeated or malformed.
    pub fn of(headers: &HeaderMap) -> Option<Part> {
        let mut lines = headers.get_all(CONTENT_RANGE).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return None;
        };
        let (unit, rest) = line.to_str().ok()?.split_once(' ')?;
        let (range, length) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first.as_bytes())?, number(last.as_bytes())?);
        let length = if length == "*" { None } else { Some(number(length.as_bytes())?) };
        let possible = first <= last && last < length.unwrap_or(u64::MAX);
        let range = first..last.checked_add(1)?;
        (unit.eq_ignore_ascii_case("bytes") && possible).then_some(Part { range, length })
    }

    /// Returns the position of these bytes of the representation within the part, or `None` if the part does not contain all of them.
    pub fn slice(&self, wanted: &Range<u64>) -> Option<Range<u64>> {
        let has = self.range.start <= wanted.start && wanted.end <= self.range.end;
        has.then(|| wanted.start - self.range.start..wanted.end - self.range.start)
    }

    /// Returns true if the part is the complete representation.
    pub fn is_complete(&self) -> bool {
        self.range.start == 0 && Some(self.range.end) == self.length
    }

    /// Combines two parts. Returns `None` if bytes between them are missing or if they state different complete lengths.
    ///
    /// Check with [`same_representation`] that both belong to one representation.
    pub fn join(&self, other: &Part) -> Option<Part> {
        let length = match (self.length, other.length) {
            (Some(one), Some(two)) if one != two => return None,
            (one, two) => one.or(two),
        };
        let (start, end) = (self.range.start.min(other.range.start), self.range.end.max(other.range.end));
        let touch = self.range.start <= other.range.end && other.range.start <= self.range.end;
        (touch && length.is_none_or(|length| end <= length)).then_some(Part { range: start..end, length })
    }

    /// Returns the `Range` of the missing bytes, if they are one range at the beginning or at the end.
    ///
    /// Send it with the stored strong validator in `If-Range`.
    pub fn missing(&self) -> Option<HeaderValue> {
        match (self.range.start, self.length) {
            (0, Some(length)) if self.range.end >= length => None,
            (0, _) => Some(value(format!("bytes={}-", self.range.end))),
            (start, Some(length)) if self.range.end == length => Some(value(format!("bytes=0-{}", start - 1))),
            _ => None,
        }
    }
}

/// Returns true if two partial responses may be combined, because they have the same strong entity tag (RFC 9110 §15.3.7.3, RFC 9111 §3.4).
///
/// `Last-Modified` is not compared, because two versions may have the same date.
pub fn same_representation(one: &HeaderMap, two: &HeaderMap) -> bool {
    matches!((ETag::of(one), ETag::of(two)), (Some(one), Some(two)) if one.strong_eq(&two))
}

/// Returns true if `If-Range` is absent or matches the stored response by strong comparison (§13.1.5).
fn if_range_matches(request: &HeaderMap, selected: &Selected<'_>, now: u64) -> bool {
    let mut lines = request.get_all(IF_RANGE).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return true,
        (Some(line), None) => line.as_bytes().trim_ascii(),
        _ => return false,
    };
    if line.contains(&b'"') {
        let stored = ETag::of(selected.headers);
        return matches!((ETag::parse(line), stored), (Some(requested), Some(stored)) if requested.strong_eq(&stored));
    }
    // §8.8.2.2: a date is a strong validator only if the response was generated at least a second later.
    let modified = date_field(selected.headers, LAST_MODIFIED, now);
    let generated = date_field(selected.headers, DATE, now);
    matches!(
        (parse_date(line, now), modified, generated),
        (Some(requested), Some(stored), Some(generated)) if requested == stored && generated >= stored.saturating_add(1000)
    )
}

/// One requested range, with inclusive ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RangeSpec {
    Between(u64, u64),
    Last(u64),
}

impl RangeSpec {
    /// Returns the satisfiable bytes of the range (§14.1.2), or `None` if there are none.
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            RangeSpec::Between(first, last) => first..last.saturating_add(1).min(length),
            RangeSpec::Last(count) => length.saturating_sub(count)..length,
        };
        (!range.is_empty()).then_some(range)
    }
}

/// Parses `bytes=0-1, 5-, -3` (§14.1.1, §14.1.2). Returns `None` if any part is malformed.
fn parse_ranges(line: &[u8]) -> Option<Vec<RangeSpec>> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    if !line[..equals].trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let specs: Vec<RangeSpec> = list::elements(&line[equals + 1..]).map(parse_range).collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

fn parse_range(element: &[u8]) -> Option<RangeSpec> {
    let dash = element.iter().position(|byte| *byte == b'-')?;
    match (&element[..dash], &element[dash + 1..]) {
        (b"", count) => number(count).map(RangeSpec::Last),
        (first, b"") => number(first).map(|first| RangeSpec::Between(first, u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(RangeSpec::Between(first, last))
        }
    }
}

fn has_suffix_range(line: &[u8]) -> bool {
    parse_ranges(line).is_some_and(|specs| specs.iter().any(|spec| matches!(spec, RangeSpec::Last(count) if *count > 0)))
}

/// Parses digits, saturating at the largest number. Returns `None` for other bytes.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, sum))
}

/// Joins ranges that overlap or touch, at the position of the first of them (§14.2).
fn join_overlapping(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for mut range in ranges {
        let mut place = joined.len();
        // An extended range may touch further ranges.
        while let Some(at) = joined.iter().position(|other| range.start <= other.end && other.start <= range.end) {
            let other = joined.remove(at);
            range = range.start.min(other.start)..range.end.max(other.end);
            place = place.min(at);
        }
        joined.insert(place.min(joined.len()), range);
    }
    joined
}

fn content_range(part: &Range<u64>, length: u64) -> String {
    let mut out = String::with_capacity(32);
    let _ = write!(out, "bytes {}-{}/{length}", part.start, part.end.saturating_sub(1));
    out
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("visible ASCII")
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "tests/range.rs"]
mod tests;
