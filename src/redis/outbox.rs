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
    keys::{RedisKeys, id},
    recent::Invalidated,
    waiting::{Delivery, DeliveryResult, Pending, Waiter},
};
use crate::{
    namespace::set::{Name, Namespaces},
    store::epochs::InvalidationKind,
};

/// The largest number of waiting names. Beyond it, everything is invalidated instead.
const MAX_NAMES: usize = 64 << 10;

/// The largest number of waiting locks. Others end with their leases.
const MAX_RELEASES: usize = 4096;

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
    /// The names whose deliveries wait or run.
    pending: HashMap<u64, Pending>,
}

/// A name for the delivery task to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewDelivery {
    pub(super) id: u64,
    pub(super) slot: u16,
    /// `false` if it waits already and has new waiting calls.
    pub(super) is_new: bool,
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
        let waiter = Waiter::new(names.count(), done);
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
            let Queue { names, fresh, pending, .. } = &mut *queue;
            let pending = pending.entry(id).or_default();
            // These have been acknowledged before.
            pending.set_undelivered();
            if let Some(delivery) = names.get_mut(&id) {
                if kind == InvalidationKind::Hard {
                    delivery.kind = InvalidationKind::Hard;
                }
                continue;
            }
            let delivery = Delivery { noted: true, ..Delivery::with_keys(generation.into(), fences.into(), kind) };
            names.insert(id, delivery);
            fresh.push(id);
            pending.begin();
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

    /// Returns `true` if no invalidation is pending.
    #[inline]
    fn has_no_pending(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Returns `true` if an invalidation of one of these names was acknowledged before it was delivered, and is not delivered yet. This
    /// process then neither serves nor stores entries of the name.
    ///
    /// A pending invalidation that a call still waits for says nothing about reads: they run at the same time as its write.
    #[inline]
    pub(super) fn is_undelivered(&self, names: &Namespaces) -> bool {
        !self.has_no_pending() && self.has_pending(names, Pending::is_undelivered)
    }

    /// Returns `true` if an invalidation of one of these names is pending.
    pub(super) fn is_pending(&self, names: &Namespaces) -> bool {
        !self.has_no_pending() && self.has_pending(names, |_| true)
    }

    fn has_pending(&self, names: &Namespaces, wanted: impl Fn(&Pending) -> bool) -> bool {
        let queue = self.lock();
        names.names().any(|name| queue.pending.get(&id(name)).is_some_and(&wanted))
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
        let pending = self.pending.entry(id).or_default();
        pending.add_waiter(waiter.clone());
        let delivery = match self.names.entry(id) {
            std::collections::hash_map::Entry::Occupied(delivery) => delivery.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                pending.begin();
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
        if self.pending.get_mut(&id).is_some_and(Pending::end) {
            self.pending.remove(&id);
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
            let pending = self.pending.entry(id(name)).or_default();
            pending.begin();
            pending.set_undelivered();
            self.names.insert(
                id(name),
                Delivery { waiters: mem::take(&mut waiters), noted: true, ..Delivery::of(keys, name, InvalidationKind::Hard) },
            );
        }
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
        assert_eq!(outbox.waiting(), 1);
        let (id, sent) = outbox.take(ids()).pop().expect("both in one");
        assert_eq!(sent.kind, InvalidationKind::Hard);
        let mut third = outbox.send(&keys, &name, InvalidationKind::Hard, None);
        outbox.confirm(id, sent);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(DeliveryResult::Delivered), Ok(DeliveryResult::Delivered)));
        assert!(third.try_recv().is_err() && outbox.waiting() == 1, "a command sent before a write says nothing of it");
    }
    #[test]
    fn name_is_undelivered_once_a_call_has_returned_before() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        let (one, both) = (set(&["a".into()]), set(&["a".into(), "b".into()]));
        let wait = outbox.send(&keys, &both, InvalidationKind::Hard, None);
        let ids: Vec<u64> = outbox.fresh().0.into_iter().map(|fresh| fresh.id).collect();
        assert!(!outbox.is_undelivered(&both), "its call still waits");
        let sent = outbox.take(ids.into_iter());
        assert!(!outbox.is_undelivered(&both), "it is being sent");
        drop(wait);
        assert!(outbox.is_undelivered(&one) && outbox.is_undelivered(&both));
        // Others wait for a second delivery. The first one fails.
        let waits: Vec<_> = (0..100).map(|_| outbox.send(&keys, &one, InvalidationKind::Hard, None)).collect();
        sent.into_iter().for_each(|(id, delivery)| outbox.requeue(id, delivery));
        assert!(outbox.is_undelivered(&one) && outbox.is_undelivered(&both));
        let ids: Vec<u64> = outbox.lock().names.keys().copied().collect();
        outbox.take(ids.into_iter()).into_iter().for_each(|(id, delivery)| outbox.confirm(id, delivery));
        assert!(!outbox.is_undelivered(&both) && outbox.has_no_pending());
        drop(waits);
        // A reported name, and one that is delivered again.
        let _wait = outbox.send(&keys, &one, InvalidationKind::Hard, None);
        outbox.report_queued(outbox.fresh().0.into_iter().map(|fresh| fresh.id));
        assert!(outbox.is_undelivered(&one));
        let again = set(&["c".into()]);
        let name = again.names().next().expect("a name");
        let (generation, fences) = (keys.generation(name).into(), keys.fence(name).into());
        outbox.send_again(vec![Invalidated { id: id(name), generation, fences, kind: InvalidationKind::Hard }]);
        assert!(outbox.is_undelivered(&again));
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
        assert!(outbox.waiting() < 10 && outbox.is_undelivered(&Namespaces::root()));
        for (id, delivery) in outbox.take(outbox.fresh().0.into_iter().map(|fresh| fresh.id)) {
            outbox.confirm(id, delivery);
        }
        assert_eq!(first.try_recv(), Ok(DeliveryResult::Delivered));
    }
}
