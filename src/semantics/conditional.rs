//! A client's conditional request, evaluated against a stored response (RFC 9110 §13).

use std::fmt::{self, Display};

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use http::{Method, StatusCode};

use super::date::{date_field, parse_date};
use super::list;

/// The result of evaluating the conditions of a request. The enum is complete: RFC 9110 §13.2.2 defines no other result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Respond as if the request had no conditions.
    Proceed,
    /// Respond with status 304 and [`not_modified_headers`].
    NotModified,
    /// Respond with status 412.
    PreconditionFailed,
}

/// The role of the evaluating server. The enum is complete: RFC 9110 §13 distinguishes only caches and origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A cache. `If-Match` and `If-Unmodified-Since` do not apply to it and are ignored (RFC 9111 §4.3.2).
    Cache,
    /// The origin server. All conditions apply.
    Origin,
}

/// The stored response selected for a request.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The status code.
    pub status: StatusCode,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The time of receipt, in milliseconds since the Unix epoch. It replaces a missing `Date`.
    pub received: u64,
}

/// Evaluates the conditions of a request in the order of RFC 9110 §13.2.2.
///
/// `now`, in milliseconds since the Unix epoch, determines only the century of two-digit years.
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
    // §13.2.1: conditions apply only if the response without them would be a 2xx (or 412).
    if !selected.status.is_success() || !conditional.iter().any(|name| request.contains_key(name)) {
        return Precondition::Proceed;
    }
    let is_read = method == Method::GET || method == Method::HEAD || method.as_str() == "QUERY";
    let tag = ETag::of(selected.headers);

    if role == Role::Origin {
        if request.contains_key(IF_MATCH) {
            // §13.1.1: strong comparison. `*` matches any current representation.
            if !any_tag(request, &IF_MATCH, |other| tag.is_some_and(|tag| tag.strong_eq(&other))) {
                return Precondition::PreconditionFailed;
            }
        } else if let Some(limit) = single_date(request, IF_UNMODIFIED_SINCE, now) {
            // §13.1.4: ignored if the modification date is unknown.
            if date_field(selected.headers, LAST_MODIFIED, now).is_some_and(|modified| modified > limit) {
                return Precondition::PreconditionFailed;
            }
        }
    }
    if request.contains_key(IF_NONE_MATCH) {
        // §13.1.2: weak comparison. With this field present, `If-Modified-Since` is ignored.
        return match any_tag(request, &IF_NONE_MATCH, |other| tag.is_some_and(|tag| tag.weak_eq(&other))) {
            true if is_read => Precondition::NotModified,
            true => Precondition::PreconditionFailed,
            false => Precondition::Proceed,
        };
    }
    // §13.1.3: ignored unless the method is a read and the value is one valid date.
    if is_read && let Some(since) = single_date(request, IF_MODIFIED_SINCE, now) {
        // RFC 9111 §4.3.2: compare with Last-Modified, else with Date, else with the time of receipt.
        let modified = date_field(selected.headers, LAST_MODIFIED, now)
            .or_else(|| date_field(selected.headers, DATE, now))
            .unwrap_or(selected.received);
        if modified <= since {
            return Precondition::NotModified;
        }
    }
    Precondition::Proceed
}

/// Returns the header fields of a 304 for a stored response (RFC 9110 §15.4.5).
///
/// Fields that describe the omitted content are left out, and so is `Last-Modified` if there is an `ETag`.
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

/// An entity tag (RFC 9110 §8.8.3), borrowed from a field value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ETag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

impl<'a> ETag<'a> {
    /// Parses exactly one tag, `"…"` or `W/"…"`. Returns `None` for any other syntax, such as `w/"…"` or a tag without quotes.
    pub fn parse(value: &'a [u8]) -> Option<ETag<'a>> {
        match ETag::split(value)? {
            (tag, []) => Some(tag),
            _ => None,
        }
    }

    /// Returns the tag of a message, or `None` if it has several `ETag` lines or a malformed one.
    pub fn of(headers: &'a HeaderMap) -> Option<ETag<'a>> {
        let mut lines = headers.get_all(ETAG).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => ETag::parse(line.as_bytes()),
            _ => None,
        }
    }

    /// Returns true for a weak tag.
    pub fn is_weak(&self) -> bool {
        self.weak
    }

    /// Returns the bytes between the quotes.
    pub fn opaque(&self) -> &'a [u8] {
        self.opaque
    }

    /// Compares strongly: both tags are strong and equal (§8.8.3.2).
    pub fn strong_eq(&self, other: &ETag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Compares weakly: the tags are equal apart from `W/` (§8.8.3.2).
    pub fn weak_eq(&self, other: &ETag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// Splits a value after its leading tag. A backslash escapes nothing inside a tag, and a tag may contain commas.
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
        let prefix = if self.weak { "W/" } else { "" };
        write!(f, "{prefix}\"{}\"", String::from_utf8_lossy(self.opaque))
    }
}

/// Returns the date of a condition, or `None` unless the field is one line with a valid date (§13.1.3, §13.1.4).
fn single_date(request: &HeaderMap, name: http::HeaderName, now: u64) -> Option<u64> {
    let mut lines = request.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse_date(line.as_bytes(), now),
        _ => None,
    }
}

/// Returns true if a line is `*` or lists a tag for which `matches` holds. Malformed members match nothing.
fn any_tag(headers: &HeaderMap, name: &http::HeaderName, matches: impl Fn(ETag<'_>) -> bool) -> bool {
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
            // A tag followed by other bytes before the comma is malformed.
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
