//! Comparison of a stored response with a fresh one, as pure functions.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, StatusCode, header};

/// A part in which a fresh response differs from the stored one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Difference {
    /// The status.
    Status,
    /// A header field: its values differ, or one response does not have it.
    Field(Box<str>),
    /// One of the header fields that are not counted by name, because 16 others of the route are.
    OtherField,
    /// The body.
    Body,
    /// The trailers.
    Trailers,
}

impl Difference {
    /// Returns the word for the part in metrics: `status`, `field`, `body` or `trailers`.
    pub fn part(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Field(_) | Self::OtherField => "field",
            Self::Body => "body",
            Self::Trailers => "trailers",
        }
    }

    /// Returns the name of the field. Returns `None` for other parts.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Field(name) => Some(name),
            Self::OtherField => Some("(other)"),
            _ => None,
        }
    }
}

/// Writes the part, and the name of a field.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field() {
            Some(name) => write!(f, "field {name}"),
            None => f.write_str(self.part()),
        }
    }
}

/// The fields that may differ between two equal responses. The names are in lower case.
const UNCOMPARED: [&str; 38] = [
    "age",
    "cache-status",
    "cf-ray",
    "connection",
    // The bodies are compared.
    "content-length",
    "date",
    "expires",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "ratelimit",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "request-id",
    "retry-after",
    "server-timing",
    "set-cookie",
    "te",
    "traceparent",
    "traceresponse",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-amzn-trace-id",
    "x-cache",
    "x-correlation-id",
    "x-request-id",
    "x-response-time",
    "x-runtime",
    "x-trace-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-used",
];

/// The head of a response.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
}

/// The fields of a comparison that a rule adds to the list of those that may differ.
#[derive(Clone, Copy)]
pub(crate) struct Ignored<'a> {
    pub(crate) fields: &'a [HeaderName],
    /// The cache may have added an `ETag` to the stored response.
    pub(crate) own_tag: bool,
}

/// Returns the parts in which the head of a fresh response differs from a stored one.
pub(crate) fn heads(stored: Head<'_>, fresh: Head<'_>, ignored: Ignored<'_>) -> Vec<Difference> {
    let mut found = Vec::new();
    if stored.status != fresh.status {
        found.push(Difference::Status);
    }
    let is_compared = |name: &HeaderName| {
        let is_own_tag = ignored.own_tag && *name == header::ETAG && !fresh.headers.contains_key(name);
        !UNCOMPARED.contains(&name.as_str()) && !ignored.fields.contains(name) && !is_own_tag
    };
    let differs = |name: &HeaderName| !stored.headers.get_all(name).iter().eq(fresh.headers.get_all(name).iter());
    let only_fresh = fresh.headers.keys().filter(|name| !stored.headers.contains_key(*name));
    let names = stored.headers.keys().chain(only_fresh).filter(|name| is_compared(name) && differs(name));
    found.extend(names.map(|name| Difference::Field(name.as_str().into())));
    found
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) response: Response<Bytes>,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    /// The body was longer than the largest one that is stored. Only its beginning is known.
    pub(crate) is_cut: bool,
}

impl Whole {
    pub(crate) fn head(&self) -> Head<'_> {
        Head { status: self.response.status(), headers: self.response.headers() }
    }

    /// Returns the parts in which a fresh response differs. The response to a HEAD has no body: its length is compared if it states one.
    pub(crate) fn differences(&self, fresh: &Self, is_head: bool, ignored: Ignored<'_>) -> Vec<Difference> {
        let mut found = heads(self.head(), fresh.head(), ignored);
        let is_same_body = match is_head {
            true => may_have_length(fresh.response.headers(), self.response.body().len()),
            false => self.response.body() == fresh.response.body() && self.is_cut == fresh.is_cut,
        };
        if !is_same_body {
            found.push(Difference::Body);
        }
        if !is_head && are_other_trailers(self.trailers.as_deref(), fresh.trailers.as_deref(), ignored) {
            found.push(Difference::Trailers);
        }
        found
    }
}

/// Returns false if the fields state another length of the body.
fn may_have_length(headers: &HeaderMap, length: usize) -> bool {
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    stated.is_none_or(|stated| stated.parse() == Ok(length))
}

/// Returns true if the trailers differ.
pub(crate) fn are_other_trailers(stored: Option<&HeaderMap>, fresh: Option<&HeaderMap>, ignored: Ignored<'_>) -> bool {
    let none = HeaderMap::new();
    let head = |headers| Head { status: StatusCode::OK, headers };
    !heads(head(stored.unwrap_or(&none)), head(fresh.unwrap_or(&none)), ignored).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Ignored<'static> = Ignored { fields: &[], own_tag: false };

    fn whole(status: u16, fields: &[(&str, &str)], body: &'static str) -> Whole {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        Whole { response: response.body(body.into()).unwrap(), trailers: None, is_cut: false }
    }

    fn named(differences: &[Difference]) -> Vec<String> {
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fields_that_may_differ_are_not_compared() {
        let stored = whole(200, &[("date", "a"), ("age", "0"), ("x-request-id", "1"), ("content-length", "4")], "rows");
        let fresh = whole(200, &[("date", "b"), ("set-cookie", "a=b")], "rows");
        assert!(stored.differences(&fresh, false, NOTHING).is_empty());
        assert!(UNCOMPARED.iter().all(|name| HeaderName::from_bytes(name.as_bytes()).unwrap().as_str() == *name));
    }

    #[test]
    fn each_differing_part_is_named() {
        let stored = whole(200, &[("x-a", "1"), ("x-b", "1"), ("x-c", "1")], "rows");
        let fresh = whole(404, &[("x-a", "1"), ("x-b", "2"), ("x-d", "1")], "none");
        let all = stored.differences(&fresh, false, NOTHING);
        assert_eq!(named(&all), ["status", "field x-b", "field x-c", "field x-d", "body"]);
        let fields = ["x-b", "x-c", "x-d"].map(HeaderName::from_static);
        let left = stored.differences(&fresh, false, Ignored { fields: &fields, own_tag: false });
        assert_eq!(named(&left), ["status", "body"]);
    }

    #[test]
    fn head_is_compared_by_its_length() {
        let stored = whole(200, &[], "rows");
        assert!(stored.differences(&whole(200, &[("content-length", "4")], ""), true, NOTHING).is_empty());
        assert!(stored.differences(&whole(200, &[], ""), true, NOTHING).is_empty());
        assert_eq!(named(&stored.differences(&whole(200, &[("content-length", "5")], ""), true, NOTHING)), ["body"]);
    }

    #[test]
    fn tag_of_the_cache_is_no_difference() {
        let own = Ignored { own_tag: true, ..NOTHING };
        let stored = whole(200, &[("etag", "\"a\"")], "rows");
        assert!(stored.differences(&whole(200, &[], "rows"), false, own).is_empty());
        assert_eq!(named(&stored.differences(&whole(200, &[("etag", "\"b\"")], "rows"), false, own)), ["field etag"]);
    }

    #[test]
    fn trailers_are_compared() {
        let (stored, mut fresh) = (whole(200, &[], "rows"), whole(200, &[], "rows"));
        fresh.trailers = Some(Box::new(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())])));
        assert_eq!(named(&stored.differences(&fresh, false, NOTHING)), ["trailers"]);
    }
}
