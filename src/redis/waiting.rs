//! Invalidations that wait for delivery, and the calls that wait for them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::keys::{RedisKeys, slot};
use crate::{namespace::set::Name, store::epochs::InvalidationKind};

/// The largest number of fences of one name that are removed. The oldest are left to their deadlines.
const MAX_TOKENS: usize = 4096;

/// The result of a delivery for a waiting call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryResult {
    /// Every master concerned has confirmed.
    Delivered,
    /// A master cannot be reached. The invalidation stays in the queue.
    Queued,
}

/// The invalidation of one name.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(super) generation: String,
    pub(super) fences: String,
    /// Hard, unless all writes want it soft.
    pub(super) kind: InvalidationKind,
    /// Fences to remove, with the times at which they were added.
    pub(super) tokens: Vec<(u128, Instant)>,
    pub(super) waiters: Vec<Arc<Waiter>>,
    /// `known`: the delivery task has seen it. `noted`: the delivery task is to look at it.
    pub(super) known: bool,
    pub(super) noted: bool,
}

impl Delivery {
    pub(super) fn of(keys: &RedisKeys, name: Name<'_>, kind: InvalidationKind) -> Self {
        Self::with_keys(keys.generation(name), keys.fence(name), kind)
    }

    pub(super) fn with_keys(generation: String, fences: String, kind: InvalidationKind) -> Self {
        Self { generation, fences, kind, tokens: Vec::new(), waiters: Vec::new(), known: false, noted: false }
    }

    pub(super) fn slot(&self) -> u16 {
        slot(self.generation.as_bytes())
    }

    /// Adds a fence to remove. Fences that have waited as long as they `stand` have passed their deadlines.
    pub(super) fn add_fence(&mut self, token: u128, stands: Duration) {
        if self.tokens.len() == self.tokens.capacity() {
            self.tokens.retain(|(_, since)| since.elapsed() < stands);
            let beyond = (self.tokens.len() + 1).saturating_sub(MAX_TOKENS);
            self.tokens.drain(..beyond);
        }
        self.tokens.push((token, Instant::now()));
    }

    /// Adds a waiting call. Calls that have left are removed before the list grows.
    pub(super) fn add_waiter(&mut self, waiter: Arc<Waiter>) {
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiter| !waiter.is_done());
        }
        self.waiters.push(waiter);
    }

    /// Takes over the rest of an earlier delivery of the name.
    pub(super) fn merge(&mut self, earlier: Self) {
        if earlier.kind == InvalidationKind::Hard {
            self.kind = InvalidationKind::Hard;
        }
        self.tokens.extend(earlier.tokens);
        self.waiters.extend(earlier.waiters.into_iter().filter(|waiter| !waiter.is_done()));
    }

    /// Tells the waiting calls that the master cannot be reached.
    pub(super) fn report_queued(&mut self) {
        self.waiters.drain(..).for_each(|waiter| waiter.notify(DeliveryResult::Queued));
    }
}

/// A call that waits for the delivery of some names.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The number of names that are not delivered yet.
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<DeliveryResult>>>,
}

impl Waiter {
    pub(super) fn new(names: usize, done: oneshot::Sender<DeliveryResult>) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(names), done: Mutex::new(Some(done)) })
    }

    pub(super) fn count_down(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.notify(DeliveryResult::Delivered);
        }
    }

    pub(super) fn notify(&self, outcome: DeliveryResult) {
        if let Some(done) = self.lock().take() {
            let _ = done.send(outcome);
        }
    }

    /// Returns `true` if the call has its result or has left.
    pub(super) fn is_done(&self) -> bool {
        self.lock().as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn is_delivered(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Option<oneshot::Sender<DeliveryResult>>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name with deliveries that wait or run.
#[derive(Debug, Default)]
pub(super) struct Pending {
    deliveries: u32,
    /// Calls that may still wait.
    waiters: Vec<Arc<Waiter>>,
    /// `true` if a call is known to have returned before its delivery.
    undelivered: bool,
}

impl Pending {
    /// Counts a further delivery.
    pub(super) fn begin(&mut self) {
        self.deliveries += 1;
    }

    /// Counts the end of a delivery. Returns `true` if it was the last one.
    pub(super) fn end(&mut self) -> bool {
        self.deliveries = self.deliveries.saturating_sub(1);
        self.deliveries == 0
    }

    /// Adds a call that waits for a delivery. Calls that no longer wait are removed before the list grows.
    pub(super) fn add_waiter(&mut self, waiter: Arc<Waiter>) {
        if self.waiters.len() == self.waiters.capacity() {
            self.undelivered = self.is_undelivered();
            self.waiters.retain(|waiter| !waiter.is_done());
        }
        self.waiters.push(waiter);
    }

    /// Records that no call waits for a delivery.
    pub(super) fn set_undelivered(&mut self) {
        self.undelivered = true;
    }

    /// Returns `true` if a call has returned before its delivery. The write is then acknowledged although Redis does not know of it.
    pub(super) fn is_undelivered(&self) -> bool {
        self.undelivered || self.waiters.iter().any(|waiter| waiter.is_done() && !waiter.is_delivered())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::set::Namespaces;

    #[test]
    fn expired_fences_need_no_removal() {
        let delivery = || {
            let keys = RedisKeys::new("app");
            Delivery::of(&keys, Namespaces::root().names().next().expect("the root"), InvalidationKind::Hard)
        };
        let (mut ended, mut standing) = (delivery(), delivery());
        for token in 0..1000 {
            ended.add_fence(token, Duration::ZERO);
            standing.add_fence(token, Duration::from_secs(3600));
        }
        assert!(ended.tokens.len() < 10, "{}", ended.tokens.len());
        assert_eq!(standing.tokens.len(), 1000);
        for token in 0..100_000 {
            standing.add_fence(token, Duration::from_secs(3600));
        }
        assert!(standing.tokens.len() <= 2 * MAX_TOKENS, "{}", standing.tokens.len());
    }
}
