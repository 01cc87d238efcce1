//! The bytes of bodies that are being read, with a limit for all of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The number of frames of a body that are read before other tasks of the thread run.
pub(crate) const FRAMES_AT_ONCE: usize = 32;

/// The bytes that all bodies of a layer hold, and their limit.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }
}

/// The share of one body, which is returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    pub(crate) fn of(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes a number of bytes. Returns false if there is no room for them.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let Budget { held, limit } = &*self.budget;
        let fits = |held: usize| held.checked_add(bytes).filter(|all| all <= limit);
        if held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
