//! A guard that releases the distributed lock of a fill.

use super::{Store, lock::Lock};

/// Releases the lock of a fill when the fill ends, also if it is dropped.
pub(crate) struct LockGuard<St: Store> {
    store: St,
    lock: Option<Lock>,
}

impl<St: Store> LockGuard<St> {
    pub(crate) fn new(store: St, lock: Lock) -> Self {
        Self { store, lock: Some(lock) }
    }

    /// Returns the lock, to be released together with storing the entry.
    pub(crate) fn with_entry(&mut self) -> Option<Lock> {
        self.lock.take()
    }

    /// Releases the lock without an entry. If `unfit`, other processes do not wait for the next fill of this key.
    pub(crate) fn without_entry(mut self, unfit: bool) {
        if let Some(lock) = self.lock.take() {
            self.store.release(lock, unfit);
        }
    }
}

impl<St: Store> Drop for LockGuard<St> {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.store.release(lock, false);
        }
    }
}
