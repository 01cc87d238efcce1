//! Writes that are in progress in this process, from the call of the handler to the invalidation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

/// The writes in progress, in two groups. One of them takes the writes that begin.
#[derive(Debug, Default)]
pub(crate) struct WritesInProgress {
    counts: [AtomicUsize; 2],
    /// The group that takes new writes, by its lowest bit.
    current: AtomicUsize,
    /// Held by the task that waits: each wait empties a group that takes no new writes.
    turn: Mutex<()>,
}

/// A write in progress.
#[derive(Debug)]
pub(crate) struct WriteInProgress {
    all: Arc<WritesInProgress>,
    group: usize,
}

impl WritesInProgress {
    /// Counts a write until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> WriteInProgress {
        let group = self.current.load(Ordering::SeqCst) & 1;
        self.counts[group].fetch_add(1, Ordering::SeqCst);
        WriteInProgress { all: self.clone(), group }
    }

    /// Waits until all writes that are in progress now have ended, for at most `limit`. Returns false after that. Writes that begin meanwhile are
    /// not waited for.
    pub(crate) async fn ended(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let Ok(_turn) = timeout_at(until, self.turn.lock()).await else { return false };
        // A write may join the group that it has read just before. It is then in either of them.
        for _ in 0..2 {
            let old = self.current.fetch_add(1, Ordering::SeqCst) & 1;
            let mut pause = Duration::from_millis(1);
            while self.counts[old].load(Ordering::SeqCst) > 0 {
                if Instant::now() >= until {
                    return false;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        }
        true
    }
}

impl Drop for WriteInProgress {
    fn drop(&mut self) {
        self.all.counts[self.group].fetch_sub(1, Ordering::SeqCst);
    }
}
