//! `Cache-Status`: reports to the reader of a response how the cache handled the request (RFC 9211).

use std::fmt::Write as _;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::structured;

/// The field name `Cache-Status`.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The reason for which a request was forwarded to the inner service: the parameter `fwd` (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Forwarded {
    /// The cache was configured not to handle the request.
    Bypass,
    /// The semantics of the method require the request to be forwarded.
    Method,
    /// No response is stored for the URI.
    UriMiss,
    /// A response is stored for the URI, but its `Vary` selects no match for this request.
    VaryMiss,
    /// No stored response matches. The cache does not distinguish `uri-miss` and `vary-miss`.
    Miss,
    /// A fresh response is stored, but directives of the request do not allow it.
    Request,
    /// The stored response is stale.
    Stale,
    /// The stored response is incomplete for the requested range.
    Partial,
}

impl Forwarded {
    /// Returns the token written as the value of `fwd`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Forwarded::Bypass => "bypass",
            Forwarded::Method => "method",
            Forwarded::UriMiss => "uri-miss",
            Forwarded::VaryMiss => "vary-miss",
            Forwarded::Miss => "miss",
            Forwarded::Request => "request",
            Forwarded::Stale => "stale",
            Forwarded::Partial => "partial",
        }
    }
}

/// One member of the field: the report of one cache.
///
/// ```
/// use http::HeaderMap;
/// use tower_response_cache::semantics::{CacheStatus, Forwarded};
///
/// let mut response = HeaderMap::new();
/// let mut status = CacheStatus::forwarded("my-cache", Forwarded::UriMiss);
/// status.stored = true;
/// status.append(&mut response);
/// let mut status = CacheStatus::hit("edge");
/// status.ttl = Some(30);
/// status.append(&mut response);
///
/// let lines: Vec<_> = response.get_all("cache-status").iter().collect();
/// assert_eq!(lines, ["my-cache; fwd=uri-miss; stored", "edge; hit; ttl=30"]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus<'a> {
    /// The name of the cache. It is written as a Token if it is one, else as a String.
    pub name: &'a str,
    /// The reason for which the request was forwarded (`fwd`, §2.2). `None` is a hit (`hit`, §2.1).
    pub forwarded: Option<Forwarded>,
    /// The status of the inner service's response, if it differs from the status sent (`fwd-status`, §2.3). Written only for a forwarded
    /// request.
    pub forwarded_status: Option<StatusCode>,
    /// The remaining freshness lifetime in seconds, negative for a stale response (`ttl`, §2.4). Clamped to 15 digits.
    pub ttl: Option<i64>,
    /// True if the response was stored (`stored`, §2.5). Written only for a forwarded request.
    pub stored: bool,
    /// True if the request was collapsed with another one (`collapsed`, §2.6). Written only for a forwarded request.
    pub collapsed: bool,
    /// The cache key, if it may be disclosed (`key`, §2.7).
    pub key: Option<&'a str>,
    /// Additional information specific to the cache (`detail`, §2.8).
    pub detail: Option<&'a str>,
}

impl<'a> CacheStatus<'a> {
    /// Returns the status of a response served from the store. All optional parameters are absent.
    pub fn hit(name: &'a str) -> CacheStatus<'a> {
        let (forwarded, forwarded_status, ttl, key, detail) = (None, None, None, None, None);
        CacheStatus { name, forwarded, forwarded_status, ttl, stored: false, collapsed: false, key, detail }
    }

    /// Returns the status of a response fetched from the inner service for this reason. All optional parameters are absent.
    pub fn forwarded(name: &'a str, reason: Forwarded) -> CacheStatus<'a> {
        CacheStatus { forwarded: Some(reason), ..CacheStatus::hit(name) }
    }

    /// Returns the member as a field value. In `key`, `detail` and a quoted name, `?` replaces each character outside of printable ASCII.
    pub fn value(&self) -> HeaderValue {
        let mut out = String::with_capacity(64);
        if is_token(self.name) {
            out.push_str(self.name)
        } else {
            structured::quote(self.name, &mut out)
        }
        match self.forwarded {
            None => out.push_str("; hit"),
            Some(reason) => {
                out.push_str("; fwd=");
                out.push_str(reason.as_str());
                if let Some(status) = self.forwarded_status {
                    out.push_str("; fwd-status=");
                    out.push_str(status.as_str());
                }
            }
        }
        if let Some(ttl) = self.ttl {
            // RFC 9651 §3.3.1: an Integer has at most 15 digits.
            let _ = write!(out, "; ttl={}", ttl.clamp(-999_999_999_999_999, 999_999_999_999_999));
        }
        if self.forwarded.is_some() {
            out.push_str(if self.stored { "; stored" } else { "" });
            out.push_str(if self.collapsed { "; collapsed" } else { "" });
        }
        for (name, value) in [("; key=", self.key), ("; detail=", self.detail)] {
            if let Some(value) = value {
                out.push_str(name);
                structured::quote(value, &mut out);
            }
        }
        HeaderValue::try_from(out).expect("printable ASCII")
    }

    /// Appends the member as a new field line, after the members of caches nearer to the origin (§2).
    pub fn append(&self, response: &mut HeaderMap) {
        response.append(CACHE_STATUS, self.value());
    }
}

/// Returns true if a name is a Token (RFC 9651 §3.3.4).
fn is_token(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte))
}

#[cfg(test)]
#[path = "tests/cache_status.rs"]
mod tests;
