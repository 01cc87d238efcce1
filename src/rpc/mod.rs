//! Unary calls by RPC: the protocol of a request, its messages, its deadline, and the status of its response.
//!
//! gRPC over HTTP/2 is defined at <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, gRPC-Web in `PROTOCOL-WEB.md` beside it,
//! and Connect at <https://connectrpc.com/docs/protocol>.

pub(crate) mod deadline;
pub(crate) mod frames;
pub(crate) mod get;
pub(crate) mod outcome;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;

/// The protocol of a unary call by POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    GrpcWeb,
    Connect,
}

/// A unary call by POST.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) protocol: Protocol,
    /// The time at which the call arrived, if its message had to be awaited.
    pub(crate) arrived: Option<Instant>,
    /// A response from the cache has an `Age`.
    pub(crate) shows_age: bool,
}

impl Call {
    /// Returns the time at which the client stops waiting.
    pub(crate) fn deadline(&self, headers: &HeaderMap) -> Option<Instant> {
        let timeout = deadline::timeout(self.protocol, headers)?;
        Some(self.arrived.unwrap_or_else(Instant::now) + timeout)
    }
}

/// The request fields that a server may read to understand a message, or to choose the form of its response.
pub(crate) static FIELDS: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("connect-protocol-version"),
];

/// The request fields by which a server may choose the form of its response to a GET (Connect), whose message is in its query.
pub(crate) static FIELDS_OF_GET: [HeaderName; 3] =
    [header::ACCEPT, header::ACCEPT_ENCODING, HeaderName::from_static("connect-protocol-version")];

impl Protocol {
    /// Returns the protocol of a POST. Returns `None` for a stream of Connect, and for all other requests.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
        let kind = lines.next().filter(|_| lines.next().is_none())?;
        if kind == "application/grpc" {
            return Some(Self::Grpc);
        }
        let kind = kind.to_str().ok()?;
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let name = kind.split('+').next().unwrap_or_default();
        let is = |text: &str, wanted: &str| text.eq_ignore_ascii_case(wanted);
        match () {
            () if is(name, "application/grpc") => Some(Self::Grpc),
            () if is(name, "application/grpc-web") => Some(Self::GrpcWeb),
            () if is(kind, "application/proto") || is(kind, "application/json") => Some(Self::Connect),
            () => None,
        }
    }

    /// Returns true if messages stand in frames.
    pub(crate) fn is_framed(self) -> bool {
        self != Self::Connect
    }
}

/// The place of the status in the response to a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusPlace {
    /// In the head: HTTP, and unary calls by Connect.
    Head,
    /// In the head or in trailers: gRPC.
    Trailers,
    /// In the body: gRPC-Web, and streams of Connect.
    Body,
}

impl StatusPlace {
    /// Returns the place for the response to a POST with these fields. This is cheap for requests that are not calls.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let begins = |kind: &HeaderValue, name: &str| {
            kind.as_bytes().get(..name.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(name.as_bytes()))
        };
        match headers.get(header::CONTENT_TYPE) {
            Some(kind) if begins(kind, "application/grpc-web") || begins(kind, "application/connect+") => Self::Body,
            Some(kind) if begins(kind, "application/grpc") && Protocol::of(headers) == Some(Protocol::Grpc) => Self::Trailers,
            _ => Self::Head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_is_named_by_the_content_type() {
        for (kind, want) in [
            ("application/grpc", Some(Protocol::Grpc)),
            ("Application/gRPC+proto; charset=utf-8", Some(Protocol::Grpc)),
            ("application/grpc-web+proto", Some(Protocol::GrpcWeb)),
            ("application/grpc-web-text", None),
            ("application/json; charset=utf-8", Some(Protocol::Connect)),
            ("application/connect+proto", None),
            ("application/grpcs", None),
            ("text/plain", None),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(Protocol::of(&headers), want, "{kind}");
            let place = match want {
                Some(Protocol::Grpc) => StatusPlace::Trailers,
                _ if kind.contains("grpc-web") || kind.contains("connect+") => StatusPlace::Body,
                _ => StatusPlace::Head,
            };
            assert_eq!(StatusPlace::of(&headers), place, "{kind}");
        }
        assert_eq!(Protocol::of(&HeaderMap::new()), None);
    }
}
