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

/// A fill in progress, without the type of its output.
pub(crate) trait AnyFlight: Send + Sync {
    fn flight(&self) -> &Flight;

    /// Moves the work to a task, because a follower depends on it.
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

/// The state of a fill in progress, shared by its leader and its followers.
pub(crate) struct Flight {
    pub(crate) key: Key,
    /// The stamp of the call, if the call has begun with the flight.
    pub(crate) begun: Option<Stamp>,
    /// The stamp of a call that begins later. Set under the lock of the shard, so that a joining request sees the change at once.
    pub(crate) begins: OnceLock<Stamp>,
    pub(crate) progress: Mutex<Progress>,
    pub(crate) moved: Notify,
    pub(crate) waiters: AtomicUsize,
    /// A body is being read that cannot be shared before it is complete.
    pub(crate) reads: AtomicBool,
    /// Another flight has replaced this one in the list, and may wait for its end. Set under the lock of the shard.
    pub(crate) has_successor: AtomicBool,
    /// Requests that join now only wait for the end, and are looked up again then. Set under the lock of the shard.
    pub(crate) is_closed: AtomicBool,
    /// The flight has left the list for good. Set under the lock of the shard.
    pub(crate) has_ended: AtomicBool,
}

impl Flight {
    /// Returns the stamp of the call, if the call has begun.
    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.begun.as_ref().or_else(|| self.begins.get())
    }

    /// Waits until the response may be shared, or the fill has ended.
    pub(crate) async fn moves(&self, until: Instant) -> Option<Progress> {
        let landing = async {
            loop {
                let moved = self.moved.notified();
                // A change between this check and the await is not missed: `Notified` counts from its creation.
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

/// Followers wait for a flight, beside its leader.
impl AwaitCount for Flight {
    fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0
    }
}
