//! A fill that the test holds between its lookup and its beginning.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;
use tower_response_cache::{
    __private::{
        Backend, BeginFill, Context, Entry, Fence, FillOptions, InvalidationKind, Lock, Namespaces, Put, Stamp, StoreLookup,
        Usage, Validity,
    },
    Redis, Store, StoreError,
    key::KeyRef,
};

use crate::common::redis::until;

/// A store whose fill waits before it begins, until the test releases it.
#[derive(Debug, Clone)]
pub(crate) struct PausedFill {
    store: Redis,
    /// `true` if the next fill has to wait.
    pauses: Arc<AtomicBool>,
    release: Arc<Notify>,
}

impl PausedFill {
    pub(crate) fn of(store: Redis) -> Self {
        Self { store, pauses: Arc::default(), release: Arc::default() }
    }

    pub(crate) fn pause_next(&self) {
        self.pauses.store(true, Ordering::SeqCst);
    }

    /// Waits until a fill has read the generations, and is paused.
    pub(crate) async fn wait_for_fill(&self) {
        until("the fill has read", async || !self.pauses.load(Ordering::SeqCst)).await;
    }

    pub(crate) fn release(&self) {
        self.release.notify_waiters();
    }
}

impl Store for PausedFill {}

impl Backend for PausedFill {
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        self.store.get_now(key)
    }

    async fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> Result<StoreLookup, StoreError> {
        self.store.get(key, names).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn begin(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        wish: FillOptions,
    ) -> Result<BeginFill, StoreError> {
        let release = self.release.notified();
        if self.pauses.swap(false, Ordering::SeqCst) {
            release.await;
        }
        self.store.begin(key, names, stamp, wish).await
    }

    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        self.store.put(entry, lock).await
    }

    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        self.store.may_join(stamp, seen, names)
    }

    async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        self.store.fence(names).await
    }

    async fn bump(&self, names: &Namespaces, kind: InvalidationKind, fence: Option<Fence>) -> Result<(), StoreError> {
        self.store.bump(names, kind, fence).await
    }

    fn bump_now(&self, names: &Namespaces) {
        self.store.bump_now(names);
    }

    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity {
        self.store.life(stamp, names)
    }

    fn context(&self) -> &Context {
        self.store.context()
    }

    fn usage(&self) -> Usage {
        self.store.usage()
    }
}
