//! Lookups in the store.

pub(crate) mod classify;
pub(crate) mod decision;
pub(crate) mod info;
pub(crate) mod partial;
pub(crate) mod request;
pub(crate) mod variant;

use std::sync::Arc;

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

/// The way in which a store is read.
#[derive(Debug, Clone, Copy)]
enum Access {
    /// For a request.
    Use,
    /// For an explanation: the store shows no trace of it.
    Peek,
}

impl Access {
    async fn get<St: Store>(
        self,
        store: &St,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> Result<StoreLookup, StoreError> {
        match self {
            Self::Use => store.get_up_to(key, names, max_body).await,
            Self::Peek => store.peek(key, names, max_body).await,
        }
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
    pub(crate) async fn later<St: Store>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        Self::read(store, Access::Use, rule, primary, headers, names).await
    }

    /// Returns the result of [`later`](Self::later) without a trace in the store.
    pub(crate) async fn peek<St: Store>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        Self::read(store, Access::Peek, rule, primary, headers, names).await
    }

    async fn read<St: Store>(
        store: &St,
        access: Access,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let first = access.get(store, primary, names, rule.max_body()).await?;
        let Some(varying) = Self::varying(store, rule, &first, primary, headers) else {
            return Ok(Self { found: first.found, stamp: first.stamp, varying: None });
        };
        // Boxed, to keep other lookups small.
        let variant = Box::pin(async {
            let second = access.get(store, varying.1.as_ref(), names, rule.max_body()).await?;
            if second.found.is_none()
                && let Some(key) = preferred_key(rule, &store.context().secret, primary, &varying.0, headers)
            {
                return access.get(store, key.as_ref(), names, rule.max_body()).await;
            }
            Ok(second)
        });
        let found = response(variant.await?.found);
        // The older stamp covers both lookups.
        Ok(Self { found, stamp: first.stamp, varying: Some(varying) })
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
