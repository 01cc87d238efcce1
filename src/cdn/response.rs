//! The tags of a response: adding them, or forbidding caches outside of the application to keep it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::tags::{CacheTags, TooManyTags};
use crate::namespace::set::Namespaces;

/// The fields by which CDNs are told not to store a response: RFC 9213, Cloudflare and Fastly.
const CDN_CONTROLS: [HeaderName; 3] = [
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("cloudflare-cdn-cache-control"),
    HeaderName::from_static("surrogate-control"),
];

/// The namespaces of a response on its way to the client, in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct TaggedBy {
    /// `None` if the namespaces cannot be known.
    pub(crate) names: Option<Arc<Namespaces>>,
    pub(crate) route: Option<Arc<str>>,
}

impl CacheTags {
    /// Adds the tags of a response, or makes it one that no cache outside of the application stores.
    pub(crate) fn put(&self, headers: &mut HeaderMap, names: &Namespaces) -> Result<(), TooManyTags> {
        self.add(headers, names.iter()).inspect_err(|_| self.forbid_storing(headers))
    }

    /// Makes a response one that no cache outside of the application stores.
    pub(crate) fn forbid_storing(&self, headers: &mut HeaderMap) {
        headers.remove(self.field());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        for name in CDN_CONTROLS {
            headers.insert(name, HeaderValue::from_static("no-store"));
        }
    }
}
