//! A hot response: a copy that shares no reference count with the stored entry.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::entry::{Content, Entry, header_template::common};

/// The maximum size of a hot response, in bytes.
pub(crate) const LARGEST: u64 = 8 << 10;

/// A hot response. Its reference counts are changed by this thread alone, as long as this thread also serves its clients.
pub(crate) struct HotResponse {
    entry: Arc<Entry>,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl HotResponse {
    /// Returns `None` if the response is too large or has trailers.
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

/// Copies header fields. The values are slices of one buffer, which shares no reference count with the originals.
fn own_fields(headers: &HeaderMap) -> Option<HeaderMap> {
    let all: Bytes = headers.values().flat_map(HeaderValue::as_bytes).copied().collect::<Vec<_>>().into();
    let mut own = HeaderMap::with_capacity(headers.keys_len());
    let mut start = 0;
    for (name, value) in headers {
        let end = start + value.len();
        let mut same = match common(value) {
            Some(common) => HeaderValue::from_static(common),
            None => HeaderValue::from_maybe_shared(all.slice(start..end)).ok()?,
        };
        same.set_sensitive(value.is_sensitive());
        own.append(HeaderName::from_bytes(name.as_str().as_bytes()).ok()?, same);
        start = end;
    }
    Some(own)
}
