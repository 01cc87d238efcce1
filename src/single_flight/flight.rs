//! A fill in progress.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    detach::{AwaitCount, Task},
    outcome::Progress,
};
use crate::{entry::stamp::Stamp, key::Key};

/// A fill under way, with its work whatever that makes.
pub(crate) trait AnyFlight: Send + Sync {
    fn flight(&self) -> &Flight;

    /// Somebody depends on its work now.
    fn promote(self: Arc<Self>);
}

impl<T: Send + 'static> AnyFlight for Task<T, Flight> {
    fn flight(&self) -> &Flight {
        self.others()
    }

    fn promote(self: Arc<Self>) {
        Self::promote(&self);
    }
}

/// What is known of a fill under way by those who lead it and those who wait for it.
pub(crate) struct Flight {
    pub(crate) key: Key,
    /// The stamp of its inner call, if that has begun with the flight.
    pub(crate) begun: Option<Stamp>,
    /// The same of one that begins later. Set under the lock of the shard: who joins sees one or the other.
    pub(crate) begins: OnceLock<Stamp>,
    pub(crate) progress: Mutex<Progress>,
    pub(crate) moved: Notify,
    pub(crate) waiters: AtomicUsize,
    /// A body is being read that cannot be shared before its end.
    pub(crate) reads: AtomicBool,
    /// Another flight of the same key has taken its place, and may wait for its end. Set under the lock of the shard.
    pub(crate) has_successor: AtomicBool,
    /// Who joins from here on only waits for its end, and looks again then. Set under the lock of the shard.
    pub(crate) is_closed: AtomicBool,
    /// It is on no list any more, and is put on none. Set under the lock of the shard.
    pub(crate) has_ended: AtomicBool,
}

impl Flight {
    /// The stamp of its inner call, if that has begun.
    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.begun.as_ref().or_else(|| self.begins.get())
    }

    /// Waits until it arrives or lands.
    pub(crate) async fn moves(&self, until: Instant) -> Option<Progress> {
        let landing = async {
            loop {
                let moved = self.moved.notified();
                // A move between this look and the await is not missed: `Notified` counts from its creation.
                let progress = self.progress().clone();
                if !matches!(progress, Progress::Calling) {
                    return progress;
                }
                moved.await;
            }
        };
        tokio::time::timeout_at(until, landing).await.ok()
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether somebody waits for it besides its leader.
impl AwaitCount for Flight {
    fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0
    }
}
