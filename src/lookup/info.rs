//! The parts of a request that are still needed after it was passed to the inner service.

use std::sync::LazyLock;

use http::{HeaderMap, Method};

use super::variant::variant_key;
use crate::{
    clock::{MS, Nanos},
    entry::{Entry, stamp::Stamp, times::Http, validity::Validity},
    key::{Key, KeyRef},
    namespace::set::Namespaces,
    rules::policy::Policy,
    semantics::{self, CacheControl, Failure, Vary},
    store::Store,
};

/// The method, the conditions and the directives of a request, and its fields if they were kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    pub(crate) method: Method,
    fields: Option<Box<HeaderMap>>,
    /// The response may be a part of the representation, or a 304.
    pub(crate) is_conditional_or_range: bool,
    /// Present under a rule where HTTP decides.
    pub(crate) directives: Option<Box<RequestDirectives>>,
}

/// The cache directives of a request, and its credentials.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestDirectives {
    pub(crate) cache_control: CacheControl,
    /// The request has credentials that are not in the key.
    pub(crate) has_unkeyed_credentials: bool,
}

impl RequestDirectives {
    /// Returns true if a response that was just fetched for another request may answer this one.
    fn allows_shared(&self, http: &Http, now: Nanos) -> bool {
        (http.open || !self.has_unkeyed_credentials)
            && http.freshness.decide(&self.cache_control, now / MS) <= semantics::Decision::ServeStale
    }

    /// Returns true if the request asks for a response of its own (`no-cache`, `no-store`).
    pub(crate) fn requires_own_response(&self) -> bool {
        self.cache_control.no_cache.is_some() || self.cache_control.no_store
    }
}

impl RequestInfo {
    /// Returns the data of a request without its fields, which [`keep`](Self::keep) adds.
    #[inline]
    pub(crate) fn new<B>(
        request: &http::Request<B>,
        is_conditional_or_range: bool,
        directives: Option<Box<RequestDirectives>>,
    ) -> Self {
        Self { method: request.method().clone(), fields: None, is_conditional_or_range, directives }
    }

    /// Keeps the fields of the request, unless they were kept before.
    pub(crate) fn keep(&mut self, headers: &HeaderMap) {
        self.fields.get_or_insert_with(|| Box::new(headers.clone()));
    }

    /// Returns all fields of the request, if they were kept. Without them, no response that depends on a field may be stored.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.fields.as_deref()
    }

    /// Returns the fields that hold conditions and a range. The fields of a request that has any are always kept.
    pub(crate) fn conditions(&self) -> &HeaderMap {
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        self.fields.as_deref().unwrap_or_else(|| {
            debug_assert!(!self.is_conditional_or_range);
            &NONE
        })
    }

    /// Returns true if a stale response may be served in place of a failure (RFC 9111, section 4.2.4; RFC 5861, section 4).
    pub(crate) fn allows_stale_if_error(&self, entry: &Entry, validity: Validity, failure: Failure, now: Nanos) -> bool {
        match (entry.http(), &self.directives) {
            (Some(http), Some(request)) => {
                let freshness = http.freshness(validity, now);
                (http.open || !request.has_unkeyed_credentials)
                    && freshness.usable_on_failure(failure, &request.cache_control, now / MS)
            }
            (None, None) => entry.times().allows_stale_if_error(now),
            // The entry was stored under another rule.
            _ => false,
        }
    }

    /// Returns true if a response that was just fetched for another request may answer this one.
    pub(crate) fn allows_shared(&self, http: Option<&Http>, now: Nanos) -> bool {
        match (&self.directives, http) {
            (Some(request), Some(http)) => request.allows_shared(http, now),
            (None, None) => true,
            _ => false,
        }
    }

    /// Returns true if a follower may have the response of a fill: it is the same variant, and no namespace that only the response named
    /// was invalidated meanwhile.
    pub(crate) fn may_share<St: Store>(
        &self,
        store: &St,
        stamp: &Stamp,
        rule: &Policy,
        (key, vary, added): (&Key, &Vary, &Namespaces),
        primary: KeyRef<'_>,
    ) -> bool {
        let variant = |headers| variant_key(rule, &store.context().secret, primary, vary, headers);
        let is_same_variant = match vary.is_empty() {
            true => key.as_ref() == primary,
            false => self.headers().is_some_and(|headers| *key == variant(headers)),
        };
        is_same_variant && (added.is_empty() || store.life(stamp, added) == Validity::Valid)
    }
}
