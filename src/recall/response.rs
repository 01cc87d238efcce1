//! A response at hand, which shares no counter with what is stored.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::store::{Content, Entry};

/// The most bytes that one may take.
pub(super) const LARGEST: u64 = 8 << 10;

/// A response at hand: what is counted in it is counted by this thread alone, as long as its clients are served by it.
pub(crate) struct Response {
    entry: Arc<Entry>,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    /// `None` if it is too large for that, or has trailers.
    pub(super) fn of(entry: &Arc<Entry>) -> Option<Self> {
        let Content::Response { status, headers, body, trailers: None } = entry.content() else { return None };
        if entry.weight() > LARGEST {
            return None;
        }
        let (headers, body) = (own_fields(headers)?, Bytes::from_owner(body.clone()));
        Some(Self { entry: entry.clone(), status: *status, headers, body })
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    #[inline]
    pub(crate) fn parts(&self) -> (StatusCode, &HeaderMap, &Bytes) {
        (self.status, &self.headers, &self.body)
    }
}

/// Values that need no counter, since they are in so many responses that they are part of the program.
const COMMON: [&str; 24] = [
    "0",
    "",
    "application/json",
    "application/grpc",
    "application/octet-stream",
    "text/plain",
    "text/plain; charset=utf-8",
    "text/html",
    "text/html; charset=utf-8",
    "nosniff",
    "bytes",
    "gzip",
    "br",
    "zstd",
    "no-cache",
    "max-age=60",
    "max-age=300",
    "max-age=3600",
    "public, max-age=60",
    "public, max-age=300",
    "public, max-age=3600",
    "accept",
    "accept-encoding",
    "origin",
];

/// These fields, sharing no counter with them: the values are parts of one piece.
fn own_fields(headers: &HeaderMap) -> Option<HeaderMap> {
    let all: Bytes = headers.values().flat_map(HeaderValue::as_bytes).copied().collect::<Vec<_>>().into();
    let mut own = HeaderMap::with_capacity(headers.keys_len());
    let mut start = 0;
    for (name, value) in headers {
        let end = start + value.len();
        let mut same = match COMMON.iter().find(|common| common.as_bytes() == value) {
            Some(common) => HeaderValue::from_static(common),
            None => HeaderValue::from_maybe_shared(all.slice(start..end)).ok()?,
        };
        same.set_sensitive(value.is_sensitive());
        own.append(HeaderName::from_bytes(name.as_str().as_bytes()).ok()?, same);
        start = end;
    }
    Some(own)
}
