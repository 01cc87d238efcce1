//! `Cache-Status`: what this cache did, told to whoever reads the response (RFC 9211).

use std::fmt::Write as _;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::structured;

/// `Cache-Status`.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request went on to the inner service (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Forwarded {
    /// The cache was told not to handle it.
    Bypass,
    /// Its method is one that is passed on.
    Method,
    /// Nothing is stored for its URI.
    UriMiss,
    /// What is stored for its URI does not fit its header fields.
    VaryMiss,
    /// Nothing that fits is stored, for whichever reason.
    Miss,
    /// Something fresh is stored, but the request's own directives do not allow it.
    Request,
    /// What is stored is stale.
    Stale,
    /// Only a part of what was asked for is stored.
    Partial,
}

impl Forwarded {
    /// The token that stands in the field.
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

/// One cache's part of the field.
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
    /// Which cache speaks; written as a token if it is one, else as a string.
    pub name: &'a str,
    /// Why the request went on (§2.2); `None` for a hit (§2.1), served from the store.
    pub forwarded: Option<Forwarded>,
    /// With which status the inner service answered, where another was sent (§2.3).
    pub forwarded_status: Option<StatusCode>,
    /// For how many seconds the response stays fresh; negative once it is stale (§2.4).
    pub ttl: Option<i64>,
    /// The response was stored (§2.5); counts only for a request that went on.
    pub stored: bool,
    /// The request waited for another one's answer (§2.6); counts only for a request that went on.
    pub collapsed: bool,
    /// The cache key, as far as it may be shown (§2.7).
    pub key: Option<&'a str>,
    /// What else there is to say (§2.8).
    pub detail: Option<&'a str>,
}

impl<'a> CacheStatus<'a> {
    /// Answered from the store.
    pub fn hit(name: &'a str) -> CacheStatus<'a> {
        let (forwarded, forwarded_status, ttl, key, detail) = (None, None, None, None, None);
        CacheStatus { name, forwarded, forwarded_status, ttl, stored: false, collapsed: false, key, detail }
    }

    /// Answered by the inner service.
    pub fn forwarded(name: &'a str, why: Forwarded) -> CacheStatus<'a> {
        CacheStatus { forwarded: Some(why), ..CacheStatus::hit(name) }
    }

    /// The value, printed. What its strings cannot hold (anything but printable ASCII) becomes `?`.
    pub fn value(&self) -> HeaderValue {
        let mut out = String::with_capacity(64);
        if is_token(self.name) {
            out.push_str(self.name)
        } else {
            structured::quote(self.name, &mut out)
        }
        match self.forwarded {
            None => out.push_str("; hit"),
            Some(why) => {
                out.push_str("; fwd=");
                out.push_str(why.as_str());
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

    /// Adds the value behind those of the caches nearer to the origin (§2).
    pub fn append(&self, response: &mut HeaderMap) {
        response.append(CACHE_STATUS, self.value());
    }
}

/// RFC 9651 §3.3.4.
fn is_token(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte))
}

#[cfg(test)]
#[path = "tests/cache_status.rs"]
mod tests;
