//! The parts of a request that are still needed while the inner service has it.

use std::sync::LazyLock;

use http::{HeaderMap, Method};

use crate::{
    clock::{MS, Nanos},
    entry::{Entry, stamp::Stamp, times::Http, validity::Validity},
    key::{Key, KeyRef},
    lookup::variant::variant_key,
    namespace::set::Namespaces,
    rules::policy::Policy,
    semantics::{self, CacheControl, Failure, Vary},
    store::backend::Store,
};

/// What is still needed of a request once the inner service has it: how it was asked, and its fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    pub(crate) method: Method,
    /// Its fields, if they were kept.
    fields: Option<Box<HeaderMap>>,
    /// Whether it may want less than the whole: a part of it, or nothing if it is still the same.
    pub(crate) less: bool,
    /// Present under a rule where HTTP decides.
    pub(crate) http: Option<Box<RequestDirectives>>,
}

/// What a request says to a cache that asks it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestDirectives {
    pub(crate) directives: CacheControl,
    /// It has credentials that are not in the key.
    pub(crate) guarded: bool,
}

impl RequestDirectives {
    /// Whether it may be answered with this, which another has asked for.
    fn may_have(&self, http: &Http, now: Nanos) -> bool {
        (http.open || !self.guarded) && http.freshness.decide(&self.directives, now / MS) <= semantics::Decision::ServeStale
    }

    /// Whether it is to be asked without regard to others.
    pub(crate) fn goes_alone(&self) -> bool {
        self.directives.no_cache.is_some() || self.directives.no_store
    }
}

impl RequestInfo {
    /// Its fields are still to be [kept](Self::keep).
    #[inline]
    pub(crate) fn of<B>(request: &http::Request<B>, less: bool, http: Option<Box<RequestDirectives>>) -> Self {
        Self { method: request.method().clone(), fields: None, less, http }
    }

    /// Keeps the fields of the request, which goes its way now, unless it has them.
    pub(crate) fn keep<B>(&mut self, request: &http::Request<B>) {
        self.fields.get_or_insert_with(|| Box::new(request.headers().clone()));
    }

    /// All fields of the request, if they were kept: nothing may be stored by what they are where they were not.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.fields.as_deref()
    }

    /// Its fields as far as its conditions and its range go: one that has any is always kept.
    pub(crate) fn conditions(&self) -> &HeaderMap {
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        self.fields.as_deref().unwrap_or_else(|| {
            debug_assert!(!self.less);
            &NONE
        })
    }

    /// Whether a stale response may stand in for a failure (RFC 9111, section 4.2.4; RFC 5861, section 4).
    pub(crate) fn may_have_instead(&self, entry: &Entry, life: Validity, failure: Failure, now: Nanos) -> bool {
        match (entry.http(), &self.http) {
            (Some(http), Some(asked)) => {
                (http.open || !asked.guarded)
                    && http.freshness(life, now).usable_on_failure(failure, &asked.directives, now / MS)
            }
            (None, None) => entry.times().may_stand_in(now),
            // It was stored under another rule.
            _ => false,
        }
    }

    /// Whether it may be answered with what another has fetched just now.
    pub(crate) fn may_have(&self, http: Option<&Http>, now: Nanos) -> bool {
        match (&self.http, http) {
            (Some(asked), Some(http)) => asked.may_have(http, now),
            (None, None) => true,
            _ => false,
        }
    }
}

/// Whether a follower may have what was fetched for another: the same variant, and nothing that was known only from the
/// response has been cleared meanwhile.
pub(crate) fn may_share<St: Store>(
    store: &St,
    stamp: &Stamp,
    rule: &Policy,
    (key, vary, added): (&Key, &Vary, &Namespaces),
    primary: KeyRef<'_>,
    asked: &RequestInfo,
) -> bool {
    let variant = |headers| variant_key(rule, &store.context().secret, primary, vary, headers);
    let same = match vary.is_empty() {
        true => key.as_ref() == primary,
        false => asked.headers().is_some_and(|headers| *key == variant(headers)),
    };
    same && (added.is_empty() || store.life(stamp, added) == Validity::Valid)
}
