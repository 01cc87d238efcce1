//! Lookups in the store.

pub(crate) mod classify;
pub(crate) mod decision;
pub(crate) mod info;
pub(crate) mod partial;
pub(crate) mod request;
pub(crate) mod variant;

use std::{future::Future, sync::Arc};

use http::HeaderMap;

use self::variant::{preferred_key, variant_key, with_variant};
use crate::{
    entry::{Content, Entry, stamp::Stamp, validity::Validity},
    key::{Key, KeyRef},
    namespace::set::Namespaces,
    rules::policy::Policy,
    semantics::Vary,
    store::{Store, backend::StoreLookup, error::StoreError},
};

/// The result of a lookup for a request.
pub(crate) struct Lookup {
    /// A response that may be served, fresh or not.
    pub(crate) found: Option<(Arc<Entry>, Validity)>,
    /// The stamp, taken before anything else.
    pub(crate) stamp: Stamp,
    /// The fields by which the responses of the key vary, and the key with their values.
    pub(crate) varying: Option<(Vary, Key)>,
}

/// Returns the entry that the store finds without waiting, without a stamp. Returns `None` if the store has to be queried.
#[inline]
pub(crate) fn found_now<St: Store>(
    store: &St,
    rule: &Policy,
    primary: KeyRef<'_>,
    headers: &HeaderMap,
) -> Option<Option<(Arc<Entry>, Validity)>> {
    let Some((entry, life)) = store.get_now(primary)?.found else { return Some(None) };
    match entry.content() {
        Content::Response { .. } => Some(Some((entry, life))),
        Content::Variants(vary) => {
            with_variant(rule, &store.context().secret, primary, vary, headers, |key| Some(response(store.get_now(key)?.found)))
        }
    }
}

/// Returns an entry found under the key of a variant, if it is a response. Stored bytes might claim to be another list of variants.
#[inline]
pub(crate) fn response(found: Option<(Arc<Entry>, Validity)>) -> Option<(Arc<Entry>, Validity)> {
    found.filter(|(entry, _)| matches!(entry.content(), Content::Response { .. }))
}

/// The way in which a store is read. A type and not a value: the future of a lookup contains one way only.
trait Access {
    fn get<St: Store>(
        store: &St,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send;
}

/// A read for a request.
struct Use;

impl Access for Use {
    fn get<St: Store>(
        store: &St,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        store.get_up_to(key, names, max_body)
    }
}

/// A read for an explanation: the store shows no trace of it.
struct Peek;

impl Access for Peek {
    fn get<St: Store>(
        store: &St,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        store.peek(key, names, max_body)
    }
}

/// A read for an audit: as for an explanation, and no copy in memory answers alone.
struct Verify;

impl Access for Verify {
    fn get<St: Store>(
        store: &St,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        store.verify(key, names, max_body)
    }
}

impl Lookup {
    /// Looks up without waiting. Returns `None` if the store has to be queried.
    #[inline]
    pub(crate) fn now<St: Store>(store: &St, rule: &Policy, primary: KeyRef<'_>, headers: &HeaderMap) -> Option<Self> {
        let first = store.get_now(primary)?;
        match Self::varying(store, rule, &first, primary, headers) {
            None => Some(Self { found: first.found, stamp: first.stamp, varying: None }),
            Some(varying) => {
                let mut second = store.get_now(varying.1.as_ref())?;
                if second.found.is_none()
                    && let Some(key) = preferred_key(rule, &store.context().secret, primary, &varying.0, headers)
                {
                    second = store.get_now(key.as_ref())?;
                }
                // The older stamp covers the first lookup.
                Some(Self { found: response(second.found), stamp: first.stamp, varying: Some(varying) })
            }
        }
    }

    /// Looks up, and waits for the store.
    pub(crate) fn later<St: Store>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> impl Future<Output = Result<Self, StoreError>> + Send {
        Self::read::<St, Use>(store, rule, primary, headers, names)
    }

    /// Returns the result of [`later`](Self::later) without a trace in the store.
    pub(crate) fn peek<St: Store>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> impl Future<Output = Result<Self, StoreError>> + Send {
        Self::read::<St, Peek>(store, rule, primary, headers, names)
    }

    /// Returns the result of [`peek`](Self::peek). A shared store is queried, even if a copy in memory could answer.
    pub(crate) fn verify<St: Store>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> impl Future<Output = Result<Self, StoreError>> + Send {
        Self::read::<St, Verify>(store, rule, primary, headers, names)
    }

    async fn read<St: Store, A: Access>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let first = A::get(store, primary, names, rule.max_body()).await?;
        match Self::varying(store, rule, &first, primary, headers) {
            None => Ok(Self { found: first.found, stamp: first.stamp, varying: None }),
            // Boxed, to keep other lookups small.
            Some(varying) => Box::pin(Self::variant::<St, A>(store, rule, first.stamp, varying, primary, headers, names)).await,
        }
    }

    /// Looks up the variant for these request fields. `stamp` is that of the first lookup: the older one covers both.
    async fn variant<St: Store, A: Access>(
        store: &St,
        rule: &Policy,
        stamp: Stamp,
        varying: (Vary, Key),
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let mut second = A::get(store, varying.1.as_ref(), names, rule.max_body()).await?;
        if second.found.is_none()
            && let Some(key) = preferred_key(rule, &store.context().secret, primary, &varying.0, headers)
        {
            second = A::get(store, key.as_ref(), names, rule.max_body()).await?;
        }
        Ok(Self { found: response(second.found), stamp, varying: Some(varying) })
    }

    /// Returns the lookup of a store that did not answer. Its stamp is the oldest one, so that the response is not stored if anything was
    /// invalidated.
    pub(crate) fn nothing() -> Self {
        Self { found: None, stamp: Stamp::default(), varying: None }
    }

    fn varying<St: Store>(
        store: &St,
        rule: &Policy,
        first: &StoreLookup,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
    ) -> Option<(Vary, Key)> {
        let (entry, _) = first.found.as_ref()?;
        let secret = &store.context().secret;
        match entry.content() {
            Content::Response { .. } => None,
            Content::Variants(vary) => Some((vary.clone(), variant_key(rule, secret, primary, vary, headers))),
        }
    }
}
