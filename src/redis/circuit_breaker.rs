//! A circuit breaker: no request waits for a server that does not answer.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// The number of consecutive failures that open the breaker.
const FAILURES_TO_OPEN: u32 = 3;

/// The pause between two probes.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// The breaker is closed while the server answers. A probe of the worker closes it again. Requests do not try, since each of them would
/// wait for its whole timeout.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: AtomicU32,
    open: AtomicBool,
    pub(super) opened: Notify,
    /// Notified of every change, for the delivery task.
    listener: OnceLock<Arc<Notify>>,
}

impl Breaker {
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure. Returns `true` if it opened the breaker.
    pub(super) fn failed(&self) -> bool {
        let opens =
            self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_TO_OPEN && !self.open.swap(true, Ordering::Relaxed);
        if opens {
            self.notify_opened();
        }
        opens
    }

    /// Opens the breaker at once, because no connection can be made.
    pub(super) fn open(&self) {
        if !self.open.swap(true, Ordering::Relaxed) {
            self.notify_opened();
        }
    }

    fn notify_opened(&self) {
        self.opened.notify_one();
        self.listener.get().into_iter().for_each(|listener| listener.notify_one());
    }

    /// Sets the listener, which is notified of every change. The first one stays.
    pub(super) fn set_listener(&self, listener: &Arc<Notify>) {
        let _ = self.listener.set(listener.clone());
    }

    /// Closes the breaker after an answered probe.
    pub(super) fn close(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.open.store(false, Ordering::Relaxed);
        self.listener.get().into_iter().for_each(|listener| listener.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaker_opens_after_three_failures_and_closes_by_probe() {
        let breaker = Breaker::default();
        assert!(!breaker.failed() && !breaker.failed());
        breaker.succeeded();
        assert!(!breaker.failed() && !breaker.failed() && !breaker.is_open());
        assert!(breaker.failed() && breaker.is_open());
        breaker.succeeded();
        assert!(breaker.is_open());
        breaker.close();
        assert!(!breaker.is_open());
    }

    #[tokio::test]
    async fn listeners_hear_when_the_breaker_opens_and_closes() {
        let (breaker, told) = (Breaker::default(), Arc::<Notify>::default());
        breaker.set_listener(&told);
        for change in [Breaker::open, Breaker::close] {
            change(&breaker);
            told.notified().await;
        }
    }
}
