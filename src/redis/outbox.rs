//! Invalidations and returned locks that Redis has not confirmed yet.
//!
//! The queue holds names instead of writes: a name waits once, however many writes have named it. Memory is bounded by the number of names
//! and of waiting calls.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use super::{
    keys::{RedisKeys, id, slot},
    recent::Invalidated,
};
use crate::{
    namespace::set::{Name, Namespaces},
    store::epochs::InvalidationKind,
};

/// The largest number of waiting names. Beyond it, everything is invalidated instead.
const MAX_NAMES: usize = 64 << 10;

/// The largest number of fences of one name that are removed. The oldest are left to their deadlines.
const MAX_TOKENS: usize = 4096;

/// The largest number of waiting locks. Others end with their leases.
const MAX_RELEASES: usize = 4096;

/// The result of a delivery for a waiting call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryResult {
    /// Every master concerned has confirmed.
    Delivered,
    /// A master cannot be reached. The invalidation stays in the queue.
    Queued,
}

/// The queue, shared by writes, reads and the delivery task.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// The number of names with a pending invalidation, for reads.
    count: AtomicUsize,
    /// The number of waiting locks.
    releases: AtomicUsize,
    /// The gauge of the statistics.
    gauge: Arc<AtomicUsize>,
    /// `true` if slots have other masters.
    moved: AtomicBool,
    /// Notified of new deliveries and of changes of circuit breakers. Only the delivery task waits for it.
    pub(super) changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Deliveries by the identifier of their name, without those that are being sent.
    names: HashMap<u64, Delivery>,
    /// Identifiers that are new or have new waiting calls since the delivery task last looked.
    fresh: Vec<u64>,
    releases: Vec<Release>,
    /// The number of waiting or running deliveries of each name. While there are any, this process neither serves nor stores entries of the
    /// name.
    pending: HashMap<u64, u32>,
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
    waiters: Vec<Arc<Waiter>>,
    /// `known`: the delivery task has seen it. `noted`: the delivery task is to look at it.
    known: bool,
    noted: bool,
}

/// A name for the delivery task to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewDelivery {
    pub(super) id: u64,
    pub(super) slot: u16,
    /// `false` if it waits already and has new waiting calls.
    pub(super) is_new: bool,
}

/// A call that waits for the delivery of some names.
#[derive(Debug)]
struct Waiter {
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<DeliveryResult>>>,
}

/// A lock to give back.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    pub(super) lock: Arc<str>,
    pub(super) token: u128,
    /// The time in milliseconds for which other processes know that the response cannot be shared.
    pub(super) pass: u64,
    /// The number of further attempts after the answer that this token does not hold the lock. Above zero if the command that takes the
    /// lock may still be on its way.
    pub(super) again: u8,
    /// The number of such attempts so far.
    pub(super) tries: u32,
    pub(super) at: Instant,
}

impl Outbox {
    pub(super) fn new(gauge: Arc<AtomicUsize>) -> Self {
        Self {
            queue: Mutex::default(),
            count: AtomicUsize::new(0),
            releases: AtomicUsize::new(0),
            gauge,
            moved: AtomicBool::new(false),
            changed: Arc::default(),
        }
    }

    /// Queues the invalidation of names. It is delivered even if nothing awaits the result. `fence` is a token and the time for which its
    /// fence stands.
    pub(super) fn send(
        &self,
        keys: &RedisKeys,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<(u128, Duration)>,
    ) -> oneshot::Receiver<DeliveryResult> {
        let (done, arrived) = oneshot::channel();
        if names.count() == 0 {
            let _ = done.send(DeliveryResult::Delivered);
            return arrived;
        }
        let waiter = Arc::new(Waiter { left: AtomicUsize::new(names.count()), done: Mutex::new(Some(done)) });
        let mut queue = self.lock();
        for name in names.names() {
            queue.add(keys, name, kind, fence, waiter.clone());
        }
        if queue.names.len() > MAX_NAMES {
            queue.collapse_to_root(keys);
        }
        self.publish(queue);
        self.changed.notify_one();
        arrived
    }

    /// Queues delivered names again.
    pub(super) fn send_again(&self, names: Vec<Invalidated>) {
        let mut queue = self.lock();
        for Invalidated { id, generation, fences, kind } in names {
            if let Some(delivery) = queue.names.get_mut(&id) {
                if kind == InvalidationKind::Hard {
                    delivery.kind = InvalidationKind::Hard;
                }
                continue;
            }
            let delivery = Delivery { noted: true, ..Delivery::with_keys(generation.into(), fences.into(), kind) };
            queue.names.insert(id, delivery);
            queue.fresh.push(id);
            *queue.pending.entry(id).or_default() += 1;
        }
        self.publish(queue);
        self.changed.notify_one();
    }

    /// Queues the return of a lock.
    pub(super) fn release(&self, release: Release) {
        if self.releases.fetch_add(1, Ordering::SeqCst) >= MAX_RELEASES {
            self.count_released(1);
            tracing::debug!("lock not given back: too many are waiting, it ends with its lease");
            return;
        }
        self.lock().releases.push(release);
        self.changed.notify_one();
    }

    /// Counts locks that no longer wait.
    pub(super) fn count_released(&self, count: usize) {
        self.releases.fetch_sub(count, Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn has_no_pending(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Returns `true` if the invalidation of one of these names is pending.
    #[inline]
    pub(super) fn is_pending(&self, names: &Namespaces) -> bool {
        !self.has_no_pending() && {
            let queue = self.lock();
            names.names().any(|name| queue.pending.contains_key(&id(name)))
        }
    }

    /// Returns the number of names with a pending invalidation.
    pub(super) fn waiting(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Returns `true` if neither a name nor a lock waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.releases.load(Ordering::SeqCst) == 0
    }

    /// Makes the delivery task assign everything again, because slots may have other masters.
    pub(super) fn slots_moved(&self) {
        self.moved.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Returns `true` if [`slots_moved`](Self::slots_moved) was called since the last call.
    pub(super) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::SeqCst)
    }

    /// Returns the names and locks that are new since the last call.
    pub(super) fn fresh(&self) -> (Vec<NewDelivery>, Vec<Release>) {
        let mut queue = self.lock();
        let fresh = mem::take(&mut queue.fresh);
        let look = |id: u64| {
            let delivery = queue.names.get_mut(&id)?;
            delivery.noted = false;
            Some(NewDelivery { id, slot: delivery.slot(), is_new: !mem::replace(&mut delivery.known, true) })
        };
        let names = fresh.into_iter().filter_map(look).collect();
        (names, mem::take(&mut queue.releases))
    }

    /// Returns those of these names that still wait, to be assigned again.
    pub(super) fn again(&self, ids: impl Iterator<Item = u64>) -> Vec<NewDelivery> {
        let queue = self.lock();
        ids.filter_map(|id| Some(NewDelivery { id, slot: queue.names.get(&id)?.slot(), is_new: true })).collect()
    }

    /// Takes deliveries out to send them. Each ends in [`confirm`](Self::confirm) or [`requeue`](Self::requeue).
    pub(super) fn take(&self, ids: impl Iterator<Item = u64>) -> Vec<(u64, Delivery)> {
        let mut queue = self.lock();
        ids.filter_map(|id| Some((id, queue.names.remove(&id)?))).collect()
    }

    /// Tells the calls that wait for these names that the master cannot be reached.
    pub(super) fn report_queued(&self, ids: impl Iterator<Item = u64>) {
        let mut waiters = Vec::new();
        let mut queue = self.lock();
        for id in ids {
            waiters.extend(queue.names.get_mut(&id).into_iter().flat_map(|delivery| delivery.waiters.drain(..)));
        }
        drop(queue);
        waiters.iter().for_each(|waiter| waiter.notify(DeliveryResult::Queued));
    }

    /// Finishes a confirmed delivery. The caller has stepped the epoch of its name before.
    pub(super) fn confirm(&self, id: u64, delivery: Delivery) {
        let mut queue = self.lock();
        queue.end_delivery(id);
        self.publish(queue);
        delivery.waiters.iter().for_each(|waiter| waiter.count_down());
    }

    /// Queues an unconfirmed delivery again. The delivery task still knows it.
    pub(super) fn requeue(&self, id: u64, delivery: Delivery) {
        let mut queue = self.lock();
        match queue.names.get_mut(&id) {
            None => _ = queue.names.insert(id, Delivery { noted: false, ..delivery }),
            Some(newer) => {
                newer.merge(delivery);
                queue.end_delivery(id);
            }
        }
        self.publish(queue);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the number of pending names while the queue is still locked.
    fn publish(&self, queue: MutexGuard<'_, Queue>) {
        self.count.store(queue.pending.len(), Ordering::SeqCst);
        self.gauge.store(queue.pending.len(), Ordering::Relaxed);
    }
}

impl Queue {
    fn add(
        &mut self,
        keys: &RedisKeys,
        name: Name<'_>,
        kind: InvalidationKind,
        fence: Option<(u128, Duration)>,
        waiter: Arc<Waiter>,
    ) {
        let id = id(name);
        let delivery = match self.names.entry(id) {
            std::collections::hash_map::Entry::Occupied(delivery) => delivery.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                *self.pending.entry(id).or_default() += 1;
                place.insert(Delivery::of(keys, name, kind))
            }
        };
        if !mem::replace(&mut delivery.noted, true) {
            self.fresh.push(id);
        }
        if kind == InvalidationKind::Hard {
            delivery.kind = InvalidationKind::Hard;
        }
        if let Some((token, stands)) = fence {
            delivery.add_fence(token, stands);
        }
        delivery.add_waiter(waiter);
    }

    /// Counts the end of a delivery.
    fn end_delivery(&mut self, id: u64) {
        if let Some(errands) = self.pending.get_mut(&id) {
            *errands -= 1;
            if *errands == 0 {
                self.pending.remove(&id);
            }
        }
    }

    /// Replaces all waiting names by the root, to which every entry belongs. Their calls wait for the root. Fences are left to their
    /// deadlines.
    fn collapse_to_root(&mut self, keys: &RedisKeys) {
        tracing::warn!("too many undelivered invalidations: everything will be invalidated");
        self.fresh.clear();
        let mut waiters = Vec::new();
        for (id, delivery) in mem::take(&mut self.names) {
            self.end_delivery(id);
            waiters.extend(delivery.waiters.into_iter().filter(|waiter| !waiter.is_done()));
        }
        let root = Namespaces::root();
        for name in root.names() {
            self.fresh.push(id(name));
            *self.pending.entry(id(name)).or_default() += 1;
            self.names.insert(
                id(name),
                Delivery { waiters: mem::take(&mut waiters), noted: true, ..Delivery::of(keys, name, InvalidationKind::Hard) },
            );
        }
    }
}

impl Delivery {
    fn of(keys: &RedisKeys, name: Name<'_>, kind: InvalidationKind) -> Self {
        Self::with_keys(keys.generation(name), keys.fence(name), kind)
    }

    fn with_keys(generation: String, fences: String, kind: InvalidationKind) -> Self {
        Self { generation, fences, kind, tokens: Vec::new(), waiters: Vec::new(), known: false, noted: false }
    }

    fn slot(&self) -> u16 {
        slot(self.generation.as_bytes())
    }

    /// Adds a fence to remove. Fences that have waited as long as they `stand` have passed their deadlines.
    fn add_fence(&mut self, token: u128, stands: Duration) {
        if self.tokens.len() == self.tokens.capacity() {
            self.tokens.retain(|(_, since)| since.elapsed() < stands);
            let beyond = (self.tokens.len() + 1).saturating_sub(MAX_TOKENS);
            self.tokens.drain(..beyond);
        }
        self.tokens.push((token, Instant::now()));
    }

    /// Adds a waiting call. Calls that have left are removed before the list grows.
    fn add_waiter(&mut self, waiter: Arc<Waiter>) {
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiter| !waiter.is_done());
        }
        self.waiters.push(waiter);
    }

    /// Takes over the rest of an earlier delivery of the name.
    fn merge(&mut self, earlier: Self) {
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

impl Waiter {
    fn count_down(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.notify(DeliveryResult::Delivered);
        }
    }

    fn notify(&self, outcome: DeliveryResult) {
        if let Some(done) = self.lock().take() {
            let _ = done.send(outcome);
        }
    }

    /// Returns `true` if the call has its result or has left.
    fn is_done(&self) -> bool {
        self.lock().as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<oneshot::Sender<DeliveryResult>>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Namespace;

    fn set(names: &[String]) -> Namespaces {
        Namespaces::exactly(&names.iter().map(|name| Namespace::new(name.as_str()).expect("a name")).collect::<Vec<_>>())
    }
    #[test]
    fn repeated_pairs_of_names_wait_once() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        let mut waits = Vec::new();
        for n in 0..200_000 {
            let wait = outbox.send(
                &keys,
                &set(&[format!("a:{}", n % 20), format!("b:{}", n / 20 % 20)]),
                InvalidationKind::Hard,
                None,
            );
            if n < 10 {
                waits.push(wait);
            }
        }
        assert_eq!(outbox.waiting(), 40);
        let queue = outbox.lock();
        let waiters: usize = queue.names.values().map(|delivery| delivery.waiters.capacity()).sum();
        assert!(waiters < 40 * 64, "{waiters} places for 10 calls that still wait");
        assert_eq!(queue.fresh.len(), 40);
        drop(queue);
        for (id, delivery) in outbox.take(outbox.fresh().0.into_iter().map(|fresh| fresh.id)) {
            outbox.confirm(id, delivery);
        }
        assert!(waits.iter_mut().all(|wait| wait.try_recv() == Ok(DeliveryResult::Delivered)));
        assert!(outbox.is_empty() && outbox.has_no_pending());
    }
    #[test]
    fn name_is_pending_until_its_last_delivery() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        let name = set(&["a".into()]);
        let mut first = outbox.send(&keys, &name, InvalidationKind::Soft, None);
        let ids = || outbox.fresh().0.into_iter().map(|fresh| fresh.id);
        let (id, sent) = outbox.take(ids()).pop().expect("one");
        let mut second = outbox.send(&keys, &name, InvalidationKind::Hard, None);
        outbox.requeue(id, sent);
        assert_eq!((outbox.waiting(), outbox.is_pending(&name)), (1, true));
        let (id, sent) = outbox.take(ids()).pop().expect("both in one");
        assert_eq!(sent.kind, InvalidationKind::Hard);
        let mut third = outbox.send(&keys, &name, InvalidationKind::Hard, None);
        outbox.confirm(id, sent);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(DeliveryResult::Delivered), Ok(DeliveryResult::Delivered)));
        assert!(third.try_recv().is_err() && outbox.is_pending(&name), "a command sent before a write says nothing of it");
    }
    #[test]
    fn invalidation_of_a_waiting_name_is_queued() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        for is_new in [true, false, false] {
            let mut wait = outbox.send(&keys, &set(&["a".into()]), InvalidationKind::Hard, None);
            let (names, _) = outbox.fresh();
            assert!(matches!(names[..], [fresh] if fresh.is_new == is_new), "{names:?}");
            outbox.report_queued(names.iter().map(|fresh| fresh.id));
            assert_eq!(wait.try_recv(), Ok(DeliveryResult::Queued));
        }
        assert_eq!(outbox.waiting(), 1);
    }
    #[test]
    fn root_replaces_names_beyond_the_bound() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        let mut first = outbox.send(&keys, &set(&["first".into()]), InvalidationKind::Hard, None);
        for n in 0..=MAX_NAMES {
            drop(outbox.send(&keys, &set(&[format!("row:{n}")]), InvalidationKind::Hard, None));
        }
        assert!(outbox.waiting() < 10 && outbox.is_pending(&Namespaces::root()));
        for (id, delivery) in outbox.take(outbox.fresh().0.into_iter().map(|fresh| fresh.id)) {
            outbox.confirm(id, delivery);
        }
        assert_eq!(first.try_recv(), Ok(DeliveryResult::Delivered));
    }
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
