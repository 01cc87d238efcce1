//! Reads of one key that several requests share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::Notify;

use crate::store::backend::StoreLookup;

/// The running reads, so that requests for the same key can share one under a lease.
///
/// A read that began before a request may return an entry that was invalidated in between. Only a lease can rule that out. Without one,
/// each request reads for itself.
#[derive(Default)]
pub(crate) struct Reads(Mutex<HashMap<u128, Arc<Read>>>);

#[derive(Default)]
pub(super) struct Read {
    /// The result. `None` if the reader was dropped before.
    found: OnceLock<Option<StoreLookup>>,
    ended: Notify,
}

impl Read {
    pub(super) async fn wait(&self) -> Option<&StoreLookup> {
        loop {
            let ended = self.ended.notified();
            if let Some(found) = self.found.get() {
                return found.as_ref();
            }
            ended.await;
        }
    }
}

impl Reads {
    /// Joins the read of a key, or returns its reader.
    pub(super) fn join(&self, key: u128) -> Result<Reader<'_>, Arc<Read>> {
        let mut reads = self.lock();
        if let Some(read) = reads.get(&key) {
            return Err(read.clone());
        }
        let read = Arc::<Read>::default();
        reads.insert(key, read.clone());
        Ok(Reader { reads: self, key, read })
    }

    /// Removes a read, if it is still the current one of this key.
    pub(super) fn remove(&self, key: u128, read: &Arc<Read>) {
        let mut reads = self.lock();
        if reads.get(&key).is_some_and(|other| Arc::ptr_eq(other, read)) {
            reads.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Arc<Read>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request that reads for all. If it is dropped without a result, the others look again.
pub(super) struct Reader<'a> {
    reads: &'a Reads,
    key: u128,
    read: Arc<Read>,
}

impl Reader<'_> {
    /// Gives the result to all waiting requests.
    pub(super) fn finish(&self, found: StoreLookup) {
        let _ = self.read.found.set(Some(found));
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.reads.remove(self.key, &self.read);
        let _ = self.read.found.set(None);
        self.read.ended.notify_waiters();
    }
}
