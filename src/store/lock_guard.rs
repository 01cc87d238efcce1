//! The lock across processes of a fill.

use super::{Store, lock::Lock};

/// The lock of a fill, given back whatever becomes of the fill.
pub(crate) struct LockGuard<St: Store> {
    store: St,
    lock: Option<Lock>,
}

impl<St: Store> LockGuard<St> {
    pub(crate) fn new(store: St, lock: Lock) -> Self {
        Self { store, lock: Some(lock) }
    }

    /// The lock, to be given back with an entry.
    pub(crate) fn with_entry(&mut self) -> Option<Lock> {
        self.lock.take()
    }

    /// Gives it back without an entry, for nobody to wait for the next if that is of no use.
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
