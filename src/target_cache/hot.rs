//! A hot response: a copy that shares no reference count with the stored entry.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    entry::{Content, Entry, stored_headers::common},
    semantics::{self, ETag},
};

/// The maximum size of a hot response, in bytes.
pub(crate) const LARGEST: u64 = 8 << 10;

/// A hot response. Its reference counts are changed by this thread alone, as long as this thread also serves its clients.
pub(crate) struct HotResponse {
    entry: Arc<Entry>,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<Box<HeaderMap>>,
    /// The fields of a 304.
    not_modified: HeaderMap,
    /// The fields of the response to HEAD.
    head: HeaderMap,
    /// The fields of a response without `Age`, once there was one.
    ageless: OnceLock<HeaderMap>,
    /// The tag that a condition can name, if the response has one.
    tag: Option<HeaderValue>,
}

impl HotResponse {
    /// Returns `None` if the response is too large.
    pub(super) fn of(entry: &Arc<Entry>) -> Option<Self> {
        let Content::Response { status, headers, body, trailers } = entry.content() else { return None };
        if entry.weight() > LARGEST {
            return None;
        }
        let (headers, body) = (own_fields(&headers.map())?, Bytes::from_owner(body.clone()));
        let trailers = match trailers {
            None => None,
            Some(trailers) => Some(Box::new(own_fields(trailers)?)),
        };
        let not_modified = semantics::not_modified_headers(&headers);
        let tag = ETag::of(&headers).filter(|_| status.is_success()).and(headers.get(header::ETAG).cloned());
        let head = head_fields(*status, headers.clone(), trailers.is_none().then_some(body.len()));
        let (entry, ageless) = (entry.clone(), OnceLock::new());
        Some(Self { entry, status: *status, headers, body, trailers, not_modified, head, ageless, tag })
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Returns the fields of a 304.
    pub(crate) fn not_modified(&self) -> &HeaderMap {
        &self.not_modified
    }

    /// Returns the fields of the response to HEAD.
    pub(crate) fn head(&self) -> &HeaderMap {
        &self.head
    }

    /// Returns the fields of a response without `Age`.
    #[inline]
    pub(crate) fn ageless(&self) -> &HeaderMap {
        self.ageless.get_or_init(|| {
            let mut headers = self.headers.clone();
            headers.remove(header::AGE);
            headers
        })
    }

    /// Returns true if `If-None-Match` begins with the tag of the response. Other conditions have to be evaluated.
    pub(crate) fn is_named_by(&self, request: &HeaderMap) -> bool {
        self.tag.as_ref().is_some_and(|tag| request.get(header::IF_NONE_MATCH) == Some(tag))
    }

    /// Returns the trailers.
    #[inline]
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    #[inline]
    pub(crate) fn parts(&self) -> (StatusCode, &HeaderMap, &Bytes) {
        (self.status, &self.headers, &self.body)
    }
}

/// Returns the fields of the response to HEAD. They state the length of the response to GET (RFC 9110, section 8.6), if that is known. A 204 has no
/// length.
pub(crate) fn head_fields(status: StatusCode, mut headers: HeaderMap, length: Option<usize>) -> HeaderMap {
    if let Some(length) = length.filter(|_| status != StatusCode::NO_CONTENT) {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    headers
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
