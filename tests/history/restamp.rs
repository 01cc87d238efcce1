//! A store with a broken protocol: the stamp of an entry is read when it is stored, not before its response was computed. Many
//! published caches do this, and the checker has to report it.

use std::{future::Future, sync::Arc};

use crate::backend::delegate_to;

use tower_response_cache::{
    __private::{
        Admitted, Backend, BeginFill, Entry, Fence, FillOptions, InvalidationKind, Lock, Namespaces, Put, Stamp, StoreLookup,
    },
    Redis, Store, StoreError,
    key::KeyRef,
};

#[derive(Clone, Debug)]
pub struct Restamp(pub Redis);

impl Store for Restamp {}

impl Backend for Restamp {
    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        let (key, names) = (entry.key().as_ref(), entry.namespaces());
        let now = self.0.get(key, names).await?.stamp;
        match self.0.begin(key, names, now, FillOptions::default()).await? {
            BeginFill::Proceed { stamp, .. } => self.0.put(Arc::new(entry.stamped(stamp)), lock).await,
            _ => self.0.put(entry, lock).await,
        }
    }

    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        self.0.get_now(key)
    }

    fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        self.0.get(key, names)
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    fn begin(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        options: FillOptions,
    ) -> impl Future<Output = Result<BeginFill, StoreError>> + Send {
        self.0.begin(key, names, stamp, options)
    }

    fn admit(&self, stamp: &Stamp, added: &Namespaces) -> impl Future<Output = Result<Admitted, StoreError>> + Send {
        self.0.admit(stamp, added)
    }

    fn release(&self, lock: Lock, unfit: bool) {
        self.0.release(lock, unfit);
    }

    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        self.0.may_join(stamp, seen, names)
    }

    fn is_strict(&self) -> bool {
        self.0.is_strict()
    }

    fn fence(&self, names: &Namespaces) -> impl Future<Output = Result<Fence, StoreError>> + Send {
        self.0.fence(names)
    }

    fn renew(&self, names: &Namespaces, fence: &Fence) -> impl Future<Output = ()> + Send {
        self.0.renew(names, fence)
    }

    fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<Fence>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.0.bump(names, kind, fence)
    }

    delegate_to!(0);
}
