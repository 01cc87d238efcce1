//! The request header fields relevant to a cache, found in one pass.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, COOKIE, HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, PRAGMA, RANGE, TRANSFER_ENCODING, UPGRADE,
};

/// The presence of the request fields that are relevant to a cache. The default has none of them.
///
/// Most requests have none of the fields. One pass over the header section is cheaper than a lookup for each name.
///
/// ```
/// use tower_response_cache::semantics::RequestFields;
///
/// let mut request = http::HeaderMap::new();
/// request.insert("accept", "*/*".parse().unwrap());
/// assert_eq!(RequestFields::of(&request), RequestFields::default());
/// request.insert("if-none-match", "\"a\"".parse().unwrap());
/// assert!(RequestFields::of(&request).conditional);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestFields {
    /// `If-None-Match`, `If-Modified-Since`, `If-Match` or `If-Unmodified-Since`: [`evaluate`](super::evaluate) them.
    pub conditional: bool,
    /// `Range` or `If-Range`: [`select_ranges`](super::select_ranges).
    pub range: bool,
    /// `Cache-Control` or `Pragma`: read them with [`CacheControl::of_request`](super::CacheControl::of_request).
    pub directives: bool,
    /// `Authorization` (RFC 9111 §3.5).
    pub authorization: bool,
    /// `Cookie` (RFC 6265 §5.4).
    pub cookie: bool,
    /// `Content-Length` other than 0, or `Transfer-Encoding`: in HTTP/1 the request has content (RFC 9112 §6).
    pub content: bool,
    /// `Upgrade`: the client offers another protocol (RFC 9110 §7.8).
    pub upgrade: bool,
}

impl RequestFields {
    /// Reads the header fields once.
    pub fn of(request: &HeaderMap) -> RequestFields {
        let mut found = RequestFields::default();
        for (name, value) in request {
            match *name {
                IF_NONE_MATCH | IF_MODIFIED_SINCE | IF_MATCH | IF_UNMODIFIED_SINCE => found.conditional = true,
                RANGE | IF_RANGE => found.range = true,
                CACHE_CONTROL | PRAGMA => found.directives = true,
                AUTHORIZATION => found.authorization = true,
                COOKIE => found.cookie = true,
                CONTENT_LENGTH => found.content |= value != "0",
                TRANSFER_ENCODING => found.content = true,
                UPGRADE => found.upgrade = true,
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::headers;
    use super::*;

    #[test]
    fn each_field_is_found() {
        let none = RequestFields::default();
        for (name, value, want) in [
            ("if-none-match", "*", RequestFields { conditional: true, ..none }),
            ("if-modified-since", "x", RequestFields { conditional: true, ..none }),
            ("if-match", "*", RequestFields { conditional: true, ..none }),
            ("if-unmodified-since", "x", RequestFields { conditional: true, ..none }),
            ("range", "bytes=0-", RequestFields { range: true, ..none }),
            ("if-range", "x", RequestFields { range: true, ..none }),
            ("cache-control", "", RequestFields { directives: true, ..none }),
            ("pragma", "x", RequestFields { directives: true, ..none }),
            ("authorization", "x", RequestFields { authorization: true, ..none }),
            ("cookie", "a=b", RequestFields { cookie: true, ..none }),
            ("content-length", "0", none),
            ("content-length", "1", RequestFields { content: true, ..none }),
            ("transfer-encoding", "chunked", RequestFields { content: true, ..none }),
            ("upgrade", "websocket", RequestFields { upgrade: true, ..none }),
            ("accept", "*/*", none),
        ] {
            assert_eq!(RequestFields::of(&headers(&[("host", "a"), (name, value), ("x", "y")])), want, "{name}: {value}");
        }
    }
}
