//! The signal that ends the worker thread.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Ends the worker thread.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    told: AtomicBool,
    notify: Notify,
}

impl Stop {
    pub(super) fn signal(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    pub(super) async fn wait(&self) {
        let told = self.notify.notified();
        if !self.told.load(Ordering::SeqCst) {
            told.await;
        }
    }
}
