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
    store::{
        backend::{Store, StoreLookup},
        error::StoreError,
    },
};

/// What the store knows of a request.
pub(crate) struct Lookup {
    /// A response that may be served, fresh or not.
    pub(crate) found: Option<(Arc<Entry>, Validity)>,
    /// Taken before anything else.
    pub(crate) stamp: Stamp,
    /// The fields by which the responses of this key are known to differ, and the key with their values.
    pub(crate) varying: Option<(Vary, Key)>,
}

/// The response that the store finds at once for a request. Without a stamp, so that it can be answered with, or nothing. `None` if the
/// store has to be asked.
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

/// What was found under a variant's key, if it is a response. Stored bytes may say that it is a list of variants once more.
#[inline]
pub(crate) fn response(found: Option<(Arc<Entry>, Validity)>) -> Option<(Arc<Entry>, Validity)> {
    found.filter(|(entry, _)| matches!(entry.content(), Content::Response { .. }))
}

impl Lookup {
    /// The look that answers without waiting, if the store can.
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
                // The older stamp: what it covers is what was looked at first.
                Some(Self { found: response(second.found), stamp: first.stamp, varying: Some(varying) })
            }
        }
    }

    /// The same, waiting for a store that has to be asked.
    pub(crate) async fn later<St: Store>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let first = store.get_up_to(primary, names, rule.max_body()).await?;
        match Self::varying(store, rule, &first, primary, headers) {
            None => Ok(Self { found: first.found, stamp: first.stamp, varying: None }),
            // In a box, so that not every look is as large.
            Some(varying) => Box::pin(Self::variant(store, rule, first.stamp, varying, primary, headers, names)).await,
        }
    }

    /// The look at the variant for these fields, after that at what says by which of them there are variants.
    async fn variant<St: Store>(
        store: &St,
        rule: &Policy,
        stamp: Stamp,
        varying: (Vary, Key),
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let mut second = store.get_up_to(varying.1.as_ref(), names, rule.max_body()).await?;
        if second.found.is_none()
            && let Some(key) = preferred_key(rule, &store.context().secret, primary, &varying.0, headers)
        {
            second = store.get_up_to(key.as_ref(), names, rule.max_body()).await?;
        }
        Ok(Self { found: response(second.found), stamp, varying: Some(varying) })
    }

    /// Nothing known: the store did not answer. What is fetched now is under a stamp that no bump since the beginning has
    /// outlived, so it is not kept if there was one.
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
