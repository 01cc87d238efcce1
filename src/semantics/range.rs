//! A part of a stored whole (RFC 9110 §14), and parts put together to one (§15.3.7.3, RFC 9111 §3.4).

use std::fmt::Write as _;
use std::ops::Range;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{Method, StatusCode};

use super::conditional::{ETag, Selected};
use super::date::{date_field, parse_date};
use super::list;

/// What a request gets of a stored whole; RFC 9110 §14 knows no other outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// All of it: no range was asked for, or one that does not count.
    Whole,
    /// A 206 with this one part ([`partial_headers`]).
    Single(Range<u64>),
    /// A 206 with these parts, at least two, which do not overlap ([`Multipart`]).
    Multiple(Vec<Range<u64>>),
    /// A 416 ([`unsatisfiable_headers`]).
    NotSatisfiable,
}

/// More ranges than this in one request are taken for an attack, and get the whole (RFC 9110 §14.2).
const MOST_RANGES: usize = 16;

/// Which bytes of a stored response of `length` bytes a request asks for. Evaluate its conditions first
/// ([`evaluate`](super::evaluate)).
///
/// A stored 206 answers the same request again as it is, if it is kept under its `Range` ([`Vary::and`](super::Vary::and)). To cut
/// something else out of one, ask here as if the whole were stored (status 200, the length of the whole), and then
/// [`Part::slice`] whether that is there.
///
/// `now` (milliseconds since the Unix epoch) only settles the century of two-digit years. Ranges that overlap or touch are joined; where
/// they cover everything, the whole is sent, since nothing is saved.
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
    // §14.2: defined for GET, and where the answer without it would be a 200.
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Ranges::Whole;
    };
    if method != Method::GET || selected.status != StatusCode::OK || !if_range(request, selected, now) {
        return Ranges::Whole;
    }
    // §14.2: a field that is malformed, or of a unit that is not known, is passed over.
    let Some(specs) = parse(line.as_bytes()) else {
        return Ranges::Whole;
    };
    if specs.len() > MOST_RANGES {
        return Ranges::Whole;
    }
    let asked = specs.len();
    let wanted: Vec<Range<u64>> = specs.into_iter().filter_map(|spec| spec.within(length)).collect();
    if wanted.is_empty() {
        // There is no way to write a part of nothing.
        return if length == 0 && line_asks_for_a_suffix(line.as_bytes()) { Ranges::Whole } else { Ranges::NotSatisfiable };
    }
    let mut parts = join_overlapping(wanted);
    match parts.len() {
        1 if asked > 1 && parts[0] == (0..length) => Ranges::Whole,
        1 => Ranges::Single(parts.remove(0)),
        _ => Ranges::Multiple(parts),
    }
}

/// The header fields of a 206 with one part of a stored whole of `length` bytes (§15.3.7): the stored ones, `Content-Range`, and
/// the part's `Content-Length`.
pub fn partial_headers(stored: &HeaderMap, part: &Range<u64>, length: u64) -> HeaderMap {
    let mut headers = stored.clone();
    headers.insert(CONTENT_RANGE, value(content_range(part, length)));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    headers
}

/// The header fields of a 416 (§15.5.17): how long the whole is. Nothing of the stored ones, for it is another response.
pub fn unsatisfiable_headers(length: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_RANGE, value(format!("bytes */{length}")));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    headers
}

/// A 206 with several parts, as `multipart/byteranges` (RFC 9110 §14.6).
///
/// The content is, for each part, [`head`](Multipart::head) and its bytes, and then [`end`](Multipart::end).
#[derive(Clone, Debug)]
pub struct Multipart<'a> {
    parts: &'a [Range<u64>],
    length: u64,
    boundary: &'a str,
    content_type: Option<HeaderValue>,
}

impl<'a> Multipart<'a> {
    /// Of a stored response of `length` bytes. The boundary, of 1 to 70 letters and digits, must not occur in its content: take a random one.
    pub fn new(stored: &HeaderMap, parts: &'a [Range<u64>], length: u64, boundary: &'a str) -> Multipart<'a> {
        Multipart { parts, length, boundary, content_type: stored.get(CONTENT_TYPE).cloned() }
    }

    /// What stands before the bytes of one part.
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

    /// What stands behind the last part.
    pub fn end(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }

    /// The header fields: those stored, the type of the whole message and its length, and no `Content-Range` (§15.3.7.2).
    pub fn headers(&self, stored: &HeaderMap) -> HeaderMap {
        let mut headers = stored.clone();
        headers.remove(CONTENT_RANGE);
        headers.insert(CONTENT_TYPE, value(format!("multipart/byteranges; boundary={}", self.boundary)));
        let parts = self.parts.iter().map(|part| size(&self.head(part)).saturating_add(part.end - part.start));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(parts.fold(size(&self.end()), u64::saturating_add)));
        headers
    }
}

/// A part of something, as `Content-Range` says (RFC 9110 §14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The bytes it has; never empty.
    pub range: Range<u64>,
    /// How long the whole is, if that is known.
    pub length: Option<u64>,
}

impl Part {
    /// What a 206 with a single part says of itself; `None` if its `Content-Range` is missing, repeated or malformed.
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

    /// Where in this part the wanted bytes of the whole stand, if it has all of them.
    pub fn slice(&self, wanted: &Range<u64>) -> Option<Range<u64>> {
        let has = self.range.start <= wanted.start && wanted.end <= self.range.end;
        has.then(|| wanted.start - self.range.start..wanted.end - self.range.start)
    }

    /// Whether it is the whole.
    pub fn is_complete(&self) -> bool {
        self.range.start == 0 && Some(self.range.end) == self.length
    }

    /// The two put together, if nothing is missing between them and they agree on the length of the whole. Whether they are parts
    /// of the same thing is for [`same_representation`] to say.
    pub fn join(&self, other: &Part) -> Option<Part> {
        let length = match (self.length, other.length) {
            (Some(one), Some(two)) if one != two => return None,
            (one, two) => one.or(two),
        };
        let (start, end) = (self.range.start.min(other.range.start), self.range.end.max(other.range.end));
        let touch = self.range.start <= other.range.end && other.range.start <= self.range.end;
        (touch && length.is_none_or(|length| end <= length)).then_some(Part { range: start..end, length })
    }

    /// The `Range` that asks for what is missing, if that is one piece: the beginning or the end. Send it with the stored strong
    /// validator in `If-Range`.
    pub fn missing(&self) -> Option<HeaderValue> {
        match (self.range.start, self.length) {
            (0, Some(length)) if self.range.end >= length => None,
            (0, _) => Some(value(format!("bytes={}-", self.range.end))),
            (start, Some(length)) if self.range.end == length => Some(value(format!("bytes=0-{}", start - 1))),
            _ => None,
        }
    }
}

/// Whether two responses are parts of the same thing, so that they may be put together: they share a strong validator
/// (RFC 9110 §15.3.7.3, RFC 9111 §3.4). A date is none here, for nobody knows how fast the thing changes.
pub fn same_representation(one: &HeaderMap, two: &HeaderMap) -> bool {
    matches!((ETag::of(one), ETag::of(two)), (Some(one), Some(two)) if one.strong_eq(&two))
}

/// §13.1.5: whether `If-Range` lets the range count: it is absent, or what it names is what we have, exactly and strongly.
fn if_range(request: &HeaderMap, selected: &Selected<'_>, now: u64) -> bool {
    let mut lines = request.get_all(IF_RANGE).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return true,
        (Some(line), None) => line.as_bytes().trim_ascii(),
        _ => return false,
    };
    if line.contains(&b'"') {
        let ours = ETag::of(selected.headers);
        return matches!((ETag::parse(line), ours), (Some(theirs), Some(ours)) if theirs.strong_eq(&ours));
    }
    // §8.8.2.2: a date is strong only if the response was made at least a second later.
    let modified = date_field(selected.headers, LAST_MODIFIED, now);
    let made = date_field(selected.headers, DATE, now);
    matches!(
        (parse_date(line, now), modified, made),
        (Some(theirs), Some(ours), Some(made)) if theirs == ours && made >= ours.saturating_add(1000)
    )
}

/// One of the ranges asked for, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    Between(u64, u64),
    Last(u64),
}

impl Spec {
    /// The bytes of it that there are (§14.1.2); `None` if there are none.
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Spec::Between(first, last) => first..last.saturating_add(1).min(length),
            Spec::Last(count) => length.saturating_sub(count)..length,
        };
        (!range.is_empty()).then_some(range)
    }
}

/// `bytes=0-1, 5-, -3` (§14.1.1, §14.1.2); `None` if any of it is malformed.
fn parse(line: &[u8]) -> Option<Vec<Spec>> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    if !line[..equals].trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let specs: Vec<Spec> = list::elements(&line[equals + 1..]).map(spec).collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

fn spec(element: &[u8]) -> Option<Spec> {
    let dash = element.iter().position(|byte| *byte == b'-')?;
    match (&element[..dash], &element[dash + 1..]) {
        (b"", count) => number(count).map(Spec::Last),
        (first, b"") => number(first).map(|first| Spec::Between(first, u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::Between(first, last))
        }
    }
}

fn line_asks_for_a_suffix(line: &[u8]) -> bool {
    parse(line).is_some_and(|specs| specs.iter().any(|spec| matches!(spec, Spec::Last(count) if *count > 0)))
}

/// Digits alone; what is too large for any content stays too large.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, sum))
}

/// Joins what overlaps or touches, each at the place of its first piece (§14.2 lets a server do that).
fn join_overlapping(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for mut range in ranges {
        let mut place = joined.len();
        // A range that grew may now touch others.
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
