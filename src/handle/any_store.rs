//! A store that is chosen at run time.

use std::{future::Future, sync::Arc};

#[cfg(feature = "redis")]
use futures_util::future::Either;

#[cfg(feature = "redis")]
use crate::redis::Redis;
use crate::{
    entry::{Entry, stamp::Stamp, validity::Validity},
    key::KeyRef,
    namespace::set::Namespaces,
    stats::{Stats, usage::Usage},
    store::{
        Store,
        backend::{Admitted, Backend, BeginFill, Context, Fence, FillOptions, Put, StoreLookup},
        epochs::InvalidationKind,
        error::StoreError,
        lock::Lock,
        memory::Memory,
    },
};

/// A store that is chosen at run time: the store of a [`ResponseCache`](crate::ResponseCache).
///
/// Each call costs one branch more than a call of the store itself.
///
/// ```
/// use tower_response_cache::{AnyStore, Memory, ResponseCache};
///
/// let store: AnyStore = Memory::new(64 << 20).into();
/// let cache = ResponseCache::new(store);
/// # drop(cache);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AnyStore {
    /// The store of one process.
    Memory(Memory),
    /// A store that many processes share.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    Redis(Redis),
}

impl From<Memory> for AnyStore {
    fn from(store: Memory) -> Self {
        Self::Memory(store)
    }
}

#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
impl From<Redis> for AnyStore {
    fn from(store: Redis) -> Self {
        Self::Redis(store)
    }
}

/// Calls the store in use.
macro_rules! delegate {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            AnyStore::Memory($store) => $call,
            #[cfg(feature = "redis")]
            AnyStore::Redis($store) => $call,
        }
    };
}

/// Returns the future of the store in use. The call itself is made at once.
#[cfg(feature = "redis")]
macro_rules! delegate_future {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            AnyStore::Memory($store) => Either::Left($call),
            AnyStore::Redis($store) => Either::Right($call),
        }
    };
}

#[cfg(not(feature = "redis"))]
macro_rules! delegate_future {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            AnyStore::Memory($store) => $call,
        }
    };
}

impl Store for AnyStore {
    fn stats(&self) -> Stats {
        delegate!(self, store => store.stats())
    }
}

impl Backend for AnyStore {
    #[inline]
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        delegate!(self, store => store.get_now(key))
    }

    #[inline(always)]
    fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        delegate!(self, store => Backend::still_has(store, entry))
    }

    fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        delegate_future!(self, store => store.get(key, names))
    }

    fn get_up_to(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        delegate_future!(self, store => store.get_up_to(key, names, max_body))
    }

    fn peek(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        delegate_future!(self, store => Backend::peek(store, key, names, max_body))
    }

    fn verify(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        max_body: usize,
    ) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        delegate_future!(self, store => Backend::verify(store, key, names, max_body))
    }

    #[inline]
    fn is_shared(&self) -> bool {
        delegate!(self, store => store.is_shared())
    }

    fn begin(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        options: FillOptions,
    ) -> impl Future<Output = Result<BeginFill, StoreError>> + Send {
        delegate_future!(self, store => store.begin(key, names, stamp, options))
    }

    fn admit(&self, stamp: &Stamp, added: &Namespaces) -> impl Future<Output = Result<Admitted, StoreError>> + Send {
        delegate_future!(self, store => store.admit(stamp, added))
    }

    fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> impl Future<Output = Result<Put, StoreError>> + Send {
        delegate_future!(self, store => store.put(entry, lock))
    }

    fn put_now(&self, entry: &Arc<Entry>) -> Option<Put> {
        delegate!(self, store => store.put_now(entry))
    }

    fn replace(&self, old: &Entry, entry: Arc<Entry>) -> impl Future<Output = Result<bool, StoreError>> + Send {
        delegate_future!(self, store => Backend::replace(store, old, entry))
    }

    fn release(&self, lock: Lock, unfit: bool) {
        delegate!(self, store => store.release(lock, unfit));
    }

    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        delegate!(self, store => store.may_join(stamp, seen, names))
    }

    fn is_strict(&self) -> bool {
        delegate!(self, store => store.is_strict())
    }

    fn fence(&self, names: &Namespaces) -> impl Future<Output = Result<Fence, StoreError>> + Send {
        delegate_future!(self, store => store.fence(names))
    }

    fn renew(&self, names: &Namespaces, fence: &Fence) -> impl Future<Output = ()> + Send {
        delegate_future!(self, store => Backend::renew(store, names, fence))
    }

    fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<Fence>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        delegate_future!(self, store => store.bump(names, kind, fence))
    }

    fn bump_now(&self, names: &Namespaces) {
        delegate!(self, store => store.bump_now(names));
    }

    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity {
        delegate!(self, store => store.life(stamp, names))
    }

    #[inline]
    fn context(&self) -> &Context {
        delegate!(self, store => store.context())
    }

    fn sample(&self, limit: usize) -> Vec<Arc<Entry>> {
        delegate!(self, store => Backend::sample(store, limit))
    }

    fn usage(&self) -> Usage {
        delegate!(self, store => store.usage())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    fn methods<'a>(source: &'a str, start: &str) -> BTreeSet<&'a str> {
        let item = source.split(start).nth(1).and_then(|rest| rest.split("\n}\n").next()).expect("the item");
        item.split("\n    fn ").skip(1).filter_map(|method| method.split(['(', '<']).next()).collect()
    }

    /// A method with a default would silently keep it.
    #[test]
    fn every_method_of_the_protocol_is_delegated() {
        let protocol = methods(include_str!("../store/backend.rs"), "\npub trait Backend");
        assert!(protocol.len() > 15, "{protocol:?}");
        assert_eq!(methods(include_str!("any_store.rs"), "\nimpl Backend for AnyStore"), protocol);
    }
}
