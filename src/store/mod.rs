//! Stores of entries: the public trait, the private protocol, and memory.

pub(crate) mod backend;
pub(crate) mod epochs;
pub(crate) mod error;
mod eviction;
pub(crate) mod expiry;
pub(crate) mod key_hasher;
pub(crate) mod lock;
pub(crate) mod lock_guard;
pub(crate) mod memory;
pub(crate) mod writes;

use std::{fmt, future::Future};

use self::{
    backend::{Backend, Context, InvalidationCount, within},
    epochs::InvalidationKind,
    error::StoreError,
};
use crate::{
    cdn::PurgeHook,
    key::Key,
    namespace::{InvalidNamespace, Namespace, set::Namespaces},
    stats::Stats,
};

/// A store of responses, as an application uses it: to invalidate and to report.
///
/// A store is a handle: clones share everything. [`Memory`](crate::Memory) is the store of one process. With the feature `redis`,
/// `Redis` is a store that many processes share. [`AnyStore`](crate::AnyStore) is one of the two, chosen at run time.
///
/// The trait is sealed: its supertrait, the protocol between layers and stores, is private to this crate.
pub trait Store: Backend + Clone + fmt::Debug + Send + Sync + 'static {
    /// Invalidates these namespaces: from here on no entry of theirs is served, and no response of theirs that is being computed is stored.
    ///
    /// For jobs, webhooks and listeners. [`InvalidateLayer`](crate::InvalidateLayer) does it for requests. Call it *after* the change is
    /// committed.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use tower_response_cache::{Memory, Store};
    ///
    /// let store = Memory::new(1 << 20);
    /// store.invalidate(["db_query:orders", "db_query:customers"]).await?;
    ///
    /// let error = store.invalidate(["db_query:"]).await.unwrap_err();
    /// assert!(error.to_string().contains("empty level"));
    /// # Ok::<(), tower_response_cache::StoreError>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// If a name is not valid (then nothing is invalidated), or if the store cannot be reached. Memory can always be reached. A call waits
    /// for a shared store for at most the store's `invalidate_timeout`, one second by default. It does not wait while the store is known to
    /// be down. The error then [is queued](StoreError::is_queued): the invalidation is delivered when the store can be reached again. Until
    /// then this process serves nothing of these namespaces. Other processes that reach the store may still serve it.
    fn invalidate<I>(&self, names: I) -> impl Future<Output = Result<(), StoreError>> + Send
    where
        I: IntoIterator + Send,
        I::Item: TryInto<Namespace, Error: Into<InvalidNamespace>>,
    {
        invalidate_names(self, names, InvalidationKind::Hard)
    }

    /// Makes the entries of these namespaces stale. They are refreshed, and still served where a rule allows it
    /// ([`stale_while_revalidate`](crate::Rule::stale_while_revalidate), [`stale_if_error`](crate::Rule::stale_if_error)).
    ///
    /// # Errors
    ///
    /// The errors of [`invalidate`](Self::invalidate).
    fn invalidate_softly<I>(&self, names: I) -> impl Future<Output = Result<(), StoreError>> + Send
    where
        I: IntoIterator + Send,
        I::Item: TryInto<Namespace, Error: Into<InvalidNamespace>>,
    {
        invalidate_names(self, names, InvalidationKind::Soft)
    }

    /// Invalidates the entries of one key. [`Rules::key`](crate::Rules::key) returns the key of a request.
    ///
    /// # Errors
    ///
    /// The errors of [`invalidate`](Self::invalidate).
    fn invalidate_key(&self, key: &Key) -> impl Future<Output = Result<(), StoreError>> + Send {
        let names = Namespaces::key(key);
        async move { bump_in_time(self, &names, InvalidationKind::Hard).await }
    }

    /// Adds a hook that is called with the namespaces after each invalidation through this store and its clones, for purging an external cache.
    /// [`guide::cdn`](crate::guide::cdn) has complete examples.
    fn after_invalidation(&self, hook: PurgeHook) {
        let Context { hooks, counters, .. } = self.context();
        hooks.add(hook, counters);
    }

    /// Waits until no hook of [`after_invalidation`](Self::after_invalidation) has anything left to do, for a shutdown or a test. While invalidations
    /// wait for a shared store, so does this. Requests that a [`Warmer`](crate::warm::Warmer) sends after an invalidation are waited for as well. Give it
    /// a timeout.
    fn wait_for_purges(&self) -> impl Future<Output = ()> + Send {
        self.context().hooks.idle()
    }

    /// Returns the counters since the store was made, and its size.
    fn stats(&self) -> Stats {
        Stats::of(&self.context().counters, self.usage())
    }

    /// Returns the keyed hash that stands for a token, or for another secret, in the `{identity}` of a template. Spellings that a handler
    /// may take for the same secret have one hash: with white space or double quotes around it, and percent-encoded.
    ///
    /// A job invalidates the entries of a token by `Namespace::of(["auth", "user", &store.identity(token)])`.
    fn identity(&self, secret: impl AsRef<[u8]>) -> String {
        self.context().secret.name(secret.as_ref()).to_string()
    }
}

fn invalidate_names<St: Store, I>(
    store: &St,
    names: I,
    kind: InvalidationKind,
) -> impl Future<Output = Result<(), StoreError>> + Send + use<'_, St, I>
where
    I: IntoIterator + Send,
    I::Item: TryInto<Namespace, Error: Into<InvalidNamespace>>,
{
    let names = names.into_iter().map(|name| name.try_into().map_err(Into::into)).collect::<Result<Vec<_>, _>>();
    async move {
        let names = names.map_err(|error: InvalidNamespace| StoreError::new(error))?;
        bump_in_time(store, &Namespaces::exactly(&names), kind).await
    }
}

/// Invalidates, and waits no longer than the store's `invalidate_timeout`.
pub(crate) async fn bump_in_time<St: Store>(store: &St, names: &Namespaces, kind: InvalidationKind) -> Result<(), StoreError> {
    let context = store.context();
    let counted = (!names.is_empty()).then(|| InvalidationCount::begin(store, kind));
    let bumped =
        within(context.invalidate_timeout, store.bump(names, kind, None)).await.unwrap_or_else(|| Err(StoreError::queued()));
    if let Some(counted) = counted.filter(|_| bumped.is_ok()) {
        counted.delivered();
    }
    context.invalidated(names, bumped.is_ok());
    bumped
}
