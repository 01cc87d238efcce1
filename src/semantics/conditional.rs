//! The client's own conditions, put to what we have (RFC 9110 §13).

use std::fmt::{self, Display};

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use http::{Method, StatusCode};

use super::date::{date_field, parse_date};
use super::list;

/// What a request's conditions make of it; conditions come to nothing else (RFC 9110 §13.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Answer as if there were none.
    Proceed,
    /// Answer 304 with [`not_modified_headers`].
    NotModified,
    /// Answer 412.
    PreconditionFailed,
}

/// On whose behalf conditions are evaluated: there is a cache, or there is an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A cache: `If-Match` and `If-Unmodified-Since` are not applicable to it (RFC 9111 §4.3.2) and are passed over.
    Cache,
    /// The origin itself, where the validators are our own: all conditions count.
    Origin,
}

/// The stored response that would answer.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// When it was received, in milliseconds since the Unix epoch: its date if it carries none.
    pub received: u64,
}

/// Evaluates the conditions of a request in the order of RFC 9110 §13.2.2.
///
/// `now` (milliseconds since the Unix epoch) only settles the century of two-digit years.
///
/// ```
/// use http::{HeaderMap, Method, StatusCode};
/// use tower_response_cache::semantics::{Precondition, Role, Selected, evaluate};
///
/// let mut stored = HeaderMap::new();
/// stored.insert("etag", "\"v1\"".parse().unwrap());
/// let selected = Selected { status: StatusCode::OK, headers: &stored, received: 0 };
///
/// let mut request = HeaderMap::new();
/// request.insert("if-none-match", "\"v0\", W/\"v1\"".parse().unwrap());
/// assert_eq!(evaluate(&Method::GET, &request, &selected, Role::Cache, 0), Precondition::NotModified);
/// ```
pub fn evaluate(method: &Method, request: &HeaderMap, selected: &Selected<'_>, role: Role, now: u64) -> Precondition {
    let conditional = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE];
    // §13.2.1: conditions count only where the answer without them would be a 2xx (or 412).
    if !selected.status.is_success() || !conditional.iter().any(|name| request.contains_key(name)) {
        return Precondition::Proceed;
    }
    let reads = method == Method::GET || method == Method::HEAD || method.as_str() == "QUERY";
    let tag = ETag::of(selected.headers);

    if role == Role::Origin {
        if request.contains_key(IF_MATCH) {
            // §13.1.1: strong comparison; `*` matches whatever there is.
            if !lists(request, &IF_MATCH, |other| tag.is_some_and(|tag| tag.strong_eq(&other))) {
                return Precondition::PreconditionFailed;
            }
        } else if let Some(limit) = one_date(request, IF_UNMODIFIED_SINCE, now) {
            // §13.1.4: passed over where no modification date is known.
            if date_field(selected.headers, LAST_MODIFIED, now).is_some_and(|modified| modified > limit) {
                return Precondition::PreconditionFailed;
            }
        }
    }
    if request.contains_key(IF_NONE_MATCH) {
        // §13.1.2: weak comparison; with this field present, `If-Modified-Since` does not count, whatever comes out.
        return match lists(request, &IF_NONE_MATCH, |other| tag.is_some_and(|tag| tag.weak_eq(&other))) {
            true if reads => Precondition::NotModified,
            true => Precondition::PreconditionFailed,
            false => Precondition::Proceed,
        };
    }
    // §13.1.3: only for reads, and only if it is one valid date.
    if reads && let Some(since) = one_date(request, IF_MODIFIED_SINCE, now) {
        // RFC 9111 §4.3.2: against Last-Modified, without it against Date, without both against when it was received.
        let modified = date_field(selected.headers, LAST_MODIFIED, now)
            .or_else(|| date_field(selected.headers, DATE, now))
            .unwrap_or(selected.received);
        if modified <= since {
            return Precondition::NotModified;
        }
    }
    Precondition::Proceed
}

/// The fields of a stored response that its 304 carries (RFC 9110 §15.4.5): all but what describes content that is not
/// sent, and `Last-Modified` where an `ETag` says more.
pub fn not_modified_headers(stored: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE] {
        headers.remove(name);
    }
    if headers.contains_key(ETAG) {
        headers.remove(LAST_MODIFIED);
    }
    headers
}

/// An entity tag (RFC 9110 §8.8.3), borrowed from the field it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ETag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

impl<'a> ETag<'a> {
    /// Reads one tag, `"…"` or `W/"…"`, and nothing else: not `w/`, not a tag without quotes.
    pub fn parse(value: &'a [u8]) -> Option<ETag<'a>> {
        match ETag::split(value)? {
            (tag, []) => Some(tag),
            _ => None,
        }
    }

    /// The tag of a message; none if it has several `ETag` lines, or one that is malformed.
    pub fn of(headers: &'a HeaderMap) -> Option<ETag<'a>> {
        let mut lines = headers.get_all(ETAG).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => ETag::parse(line.as_bytes()),
            _ => None,
        }
    }

    /// Whether this is a weak tag.
    pub fn is_weak(&self) -> bool {
        self.weak
    }

    /// What stands between the quotes.
    pub fn opaque(&self) -> &'a [u8] {
        self.opaque
    }

    /// §8.8.3.2: both strong, and the same.
    pub fn strong_eq(&self, other: &ETag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// §8.8.3.2: the same, weak or not.
    pub fn weak_eq(&self, other: &ETag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// A tag at the beginning, and what follows it. A backslash escapes nothing in a tag, and a comma is one of its bytes.
    fn split(value: &'a [u8]) -> Option<(ETag<'a>, &'a [u8])> {
        let (weak, quoted) = match value.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let end = inner.iter().position(|byte| *byte == b'"');
        list::steps::count(end.unwrap_or(inner.len()));
        let end = end?;
        let opaque = &inner[..end];
        let allowed = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
        opaque.iter().all(allowed).then_some((ETag { weak, opaque }, &inner[end + 1..]))
    }
}

impl Display for ETag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.weak { "W/" } else { "" };
        write!(f, "{mark}\"{}\"", String::from_utf8_lossy(self.opaque))
    }
}

/// The date of a condition, if it is one line that is a date; else the condition does not count (§13.1.3, §13.1.4).
fn one_date(request: &HeaderMap, name: http::HeaderName, now: u64) -> Option<u64> {
    let mut lines = request.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse_date(line.as_bytes(), now),
        _ => None,
    }
}

/// Whether the lines of a field are `*`, or list a tag that `matches`. Elements that are no tags match nothing.
fn lists(headers: &HeaderMap, name: &http::HeaderName, matches: impl Fn(ETag<'_>) -> bool) -> bool {
    headers.get_all(name).iter().any(|line| {
        let mut rest = line.as_bytes().trim_ascii();
        if rest == b"*" {
            return true;
        }
        while !rest.is_empty() {
            let tag = ETag::split(rest);
            let after = tag.map_or(rest, |(_, after)| after);
            let comma = after.iter().position(|byte| *byte == b',').unwrap_or(after.len());
            list::steps::count(comma);
            // A tag with something stuck to it is no tag.
            if let Some((tag, _)) = tag
                && after[..comma].trim_ascii().is_empty()
                && matches(tag)
            {
                return true;
            }
            rest = after.get(comma + 1..).unwrap_or_default().trim_ascii_start();
        }
        false
    })
}

#[cfg(test)]
#[path = "tests/conditional.rs"]
mod tests;
