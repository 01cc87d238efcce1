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
const MOST: usize = 64 << 10;

/// The largest number of fences of one name that are removed. The oldest are left to their deadlines.
const MOST_TOKENS: usize = 4096;

/// The largest number of waiting locks. Others end with their leases.
const MOST_RELEASES: usize = 4096;

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
    pub(super) told: Arc<Notify>,
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
    suspects: HashMap<u64, u32>,
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
pub(crate) struct Fresh {
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
            told: Arc::default(),
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
        if queue.names.len() > MOST {
            queue.gather(keys);
        }
        self.counted(queue);
        self.told.notify_one();
        arrived
    }

    /// Queues delivered names again.
    pub(super) fn send_again(&self, names: Vec<Invalidated>) {
        let mut queue = self.lock();
        for Invalidated { id, generation, fences, kind } in names {
            if let Some(errand) = queue.names.get_mut(&id) {
                if kind == InvalidationKind::Hard {
                    errand.kind = InvalidationKind::Hard;
                }
                continue;
            }
            let errand = Delivery { noted: true, ..Delivery::with_keys(generation.into(), fences.into(), kind) };
            queue.names.insert(id, errand);
            queue.fresh.push(id);
            *queue.suspects.entry(id).or_default() += 1;
        }
        self.counted(queue);
        self.told.notify_one();
    }

    /// Queues the return of a lock.
    pub(super) fn release(&self, release: Release) {
        if self.releases.fetch_add(1, Ordering::SeqCst) >= MOST_RELEASES {
            self.released(1);
            tracing::debug!("lock not given back: too many are waiting, it ends with its lease");
            return;
        }
        self.lock().releases.push(release);
        self.told.notify_one();
    }

    /// Counts locks that no longer wait.
    pub(super) fn released(&self, count: usize) {
        self.releases.fetch_sub(count, Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn are_none_suspect(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Returns `true` if the invalidation of one of these names is pending.
    #[inline]
    pub(super) fn suspects(&self, names: &Namespaces) -> bool {
        !self.are_none_suspect() && {
            let queue = self.lock();
            names.names().any(|name| queue.suspects.contains_key(&id(name)))
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
    pub(super) fn move_on(&self) {
        self.moved.store(true, Ordering::SeqCst);
        self.told.notify_one();
    }

    /// Returns `true` if [`move_on`](Self::move_on) was called since the last call.
    pub(super) fn have_moved(&self) -> bool {
        self.moved.swap(false, Ordering::SeqCst)
    }

    /// Returns the names and locks that are new since the last call.
    pub(super) fn fresh(&self) -> (Vec<Fresh>, Vec<Release>) {
        let mut queue = self.lock();
        let fresh = mem::take(&mut queue.fresh);
        let look = |id: u64| {
            let errand = queue.names.get_mut(&id)?;
            errand.noted = false;
            Some(Fresh { id, slot: errand.slot(), is_new: !mem::replace(&mut errand.known, true) })
        };
        let names = fresh.into_iter().filter_map(look).collect();
        (names, mem::take(&mut queue.releases))
    }

    /// Returns those of these names that still wait, to be assigned again.
    pub(super) fn again(&self, ids: impl Iterator<Item = u64>) -> Vec<Fresh> {
        let queue = self.lock();
        ids.filter_map(|id| Some(Fresh { id, slot: queue.names.get(&id)?.slot(), is_new: true })).collect()
    }

    /// Takes deliveries out to send them. Each ends in [`arrived`](Self::arrived) or [`returns`](Self::returns).
    pub(super) fn take(&self, ids: impl Iterator<Item = u64>) -> Vec<(u64, Delivery)> {
        let mut queue = self.lock();
        ids.filter_map(|id| Some((id, queue.names.remove(&id)?))).collect()
    }

    /// Tells the calls that wait for these names that the master cannot be reached.
    pub(super) fn are_queued(&self, ids: impl Iterator<Item = u64>) {
        let mut waiters = Vec::new();
        let mut queue = self.lock();
        for id in ids {
            waiters.extend(queue.names.get_mut(&id).into_iter().flat_map(|errand| errand.waiters.drain(..)));
        }
        drop(queue);
        waiters.iter().for_each(|waiter| waiter.is_told(DeliveryResult::Queued));
    }

    /// Finishes a confirmed delivery. The caller has stepped the epoch of its name before.
    pub(super) fn arrived(&self, id: u64, errand: Delivery) {
        let mut queue = self.lock();
        queue.trusts(id);
        self.counted(queue);
        errand.waiters.iter().for_each(|waiter| waiter.has_one_less());
    }

    /// Queues an unconfirmed delivery again. The delivery task still knows it.
    pub(super) fn returns(&self, id: u64, errand: Delivery) {
        let mut queue = self.lock();
        match queue.names.get_mut(&id) {
            None => _ = queue.names.insert(id, Delivery { noted: false, ..errand }),
            Some(newer) => {
                newer.takes_over(errand);
                queue.trusts(id);
            }
        }
        self.counted(queue);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the number of pending names while the queue is still locked.
    fn counted(&self, queue: MutexGuard<'_, Queue>) {
        self.count.store(queue.suspects.len(), Ordering::SeqCst);
        self.gauge.store(queue.suspects.len(), Ordering::Relaxed);
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
        let errand = match self.names.entry(id) {
            std::collections::hash_map::Entry::Occupied(errand) => errand.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                *self.suspects.entry(id).or_default() += 1;
                place.insert(Delivery::of(keys, name, kind))
            }
        };
        if !mem::replace(&mut errand.noted, true) {
            self.fresh.push(id);
        }
        if kind == InvalidationKind::Hard {
            errand.kind = InvalidationKind::Hard;
        }
        if let Some((token, stands)) = fence {
            errand.takes_back(token, stands);
        }
        errand.is_awaited_by(waiter);
    }

    /// Counts the end of a delivery.
    fn trusts(&mut self, id: u64) {
        if let Some(errands) = self.suspects.get_mut(&id) {
            *errands -= 1;
            if *errands == 0 {
                self.suspects.remove(&id);
            }
        }
    }

    /// Replaces all waiting names by the root, to which every entry belongs. Their calls wait for the root. Fences are left to their
    /// deadlines.
    fn gather(&mut self, keys: &RedisKeys) {
        tracing::warn!("too many undelivered invalidations: everything will be invalidated");
        self.fresh.clear();
        let mut waiters = Vec::new();
        for (id, errand) in mem::take(&mut self.names) {
            self.trusts(id);
            waiters.extend(errand.waiters.into_iter().filter(|waiter| !waiter.has_left()));
        }
        let root = Namespaces::root();
        for name in root.names() {
            self.fresh.push(id(name));
            *self.suspects.entry(id(name)).or_default() += 1;
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
    fn takes_back(&mut self, token: u128, stands: Duration) {
        if self.tokens.len() == self.tokens.capacity() {
            self.tokens.retain(|(_, since)| since.elapsed() < stands);
            let beyond = (self.tokens.len() + 1).saturating_sub(MOST_TOKENS);
            self.tokens.drain(..beyond);
        }
        self.tokens.push((token, Instant::now()));
    }

    /// Adds a waiting call. Calls that have left are removed before the list grows.
    fn is_awaited_by(&mut self, waiter: Arc<Waiter>) {
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|waiter| !waiter.has_left());
        }
        self.waiters.push(waiter);
    }

    /// Takes over the rest of an earlier delivery of the name.
    fn takes_over(&mut self, earlier: Self) {
        if earlier.kind == InvalidationKind::Hard {
            self.kind = InvalidationKind::Hard;
        }
        self.tokens.extend(earlier.tokens);
        self.waiters.extend(earlier.waiters.into_iter().filter(|waiter| !waiter.has_left()));
    }

    /// Tells the waiting calls that the master cannot be reached.
    pub(super) fn is_queued(&mut self) {
        self.waiters.drain(..).for_each(|waiter| waiter.is_told(DeliveryResult::Queued));
    }
}

impl Waiter {
    fn has_one_less(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.is_told(DeliveryResult::Delivered);
        }
    }

    fn is_told(&self, outcome: DeliveryResult) {
        if let Some(done) = self.lock().take() {
            let _ = done.send(outcome);
        }
    }

    /// Returns `true` if the call has its result or has left.
    fn has_left(&self) -> bool {
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
        let waiters: usize = queue.names.values().map(|errand| errand.waiters.capacity()).sum();
        assert!(waiters < 40 * 64, "{waiters} places for 10 calls that still wait");
        assert_eq!(queue.fresh.len(), 40);
        drop(queue);
        for (id, errand) in outbox.take(outbox.fresh().0.into_iter().map(|fresh| fresh.id)) {
            outbox.arrived(id, errand);
        }
        assert!(waits.iter_mut().all(|wait| wait.try_recv() == Ok(DeliveryResult::Delivered)));
        assert!(outbox.is_empty() && outbox.are_none_suspect());
    }
    #[test]
    fn name_is_pending_until_its_last_delivery() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        let name = set(&["a".into()]);
        let mut first = outbox.send(&keys, &name, InvalidationKind::Soft, None);
        let ids = || outbox.fresh().0.into_iter().map(|fresh| fresh.id);
        let (id, sent) = outbox.take(ids()).pop().expect("one");
        let mut second = outbox.send(&keys, &name, InvalidationKind::Hard, None);
        outbox.returns(id, sent);
        assert_eq!((outbox.waiting(), outbox.suspects(&name)), (1, true));
        let (id, sent) = outbox.take(ids()).pop().expect("both in one");
        assert_eq!(sent.kind, InvalidationKind::Hard);
        let mut third = outbox.send(&keys, &name, InvalidationKind::Hard, None);
        outbox.arrived(id, sent);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(DeliveryResult::Delivered), Ok(DeliveryResult::Delivered)));
        assert!(third.try_recv().is_err() && outbox.suspects(&name), "a command sent before a write says nothing of it");
    }
    #[test]
    fn invalidation_of_a_waiting_name_is_queued() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        for is_new in [true, false, false] {
            let mut wait = outbox.send(&keys, &set(&["a".into()]), InvalidationKind::Hard, None);
            let (names, _) = outbox.fresh();
            assert!(matches!(names[..], [fresh] if fresh.is_new == is_new), "{names:?}");
            outbox.are_queued(names.iter().map(|fresh| fresh.id));
            assert_eq!(wait.try_recv(), Ok(DeliveryResult::Queued));
        }
        assert_eq!(outbox.waiting(), 1);
    }
    #[test]
    fn root_replaces_names_beyond_the_bound() {
        let (keys, outbox) = (RedisKeys::new("app"), Outbox::new(Arc::default()));
        let mut first = outbox.send(&keys, &set(&["first".into()]), InvalidationKind::Hard, None);
        for n in 0..=MOST {
            drop(outbox.send(&keys, &set(&[format!("row:{n}")]), InvalidationKind::Hard, None));
        }
        assert!(outbox.waiting() < 10 && outbox.suspects(&Namespaces::root()));
        for (id, errand) in outbox.take(outbox.fresh().0.into_iter().map(|fresh| fresh.id)) {
            outbox.arrived(id, errand);
        }
        assert_eq!(first.try_recv(), Ok(DeliveryResult::Delivered));
    }
    #[test]
    fn expired_fences_need_no_removal() {
        let errand = || {
            let keys = RedisKeys::new("app");
            Delivery::of(&keys, Namespaces::root().names().next().expect("the root"), InvalidationKind::Hard)
        };
        let (mut ended, mut standing) = (errand(), errand());
        for token in 0..1000 {
            ended.takes_back(token, Duration::ZERO);
            standing.takes_back(token, Duration::from_secs(3600));
        }
        assert!(ended.tokens.len() < 10, "{}", ended.tokens.len());
        assert_eq!(standing.tokens.len(), 1000);
        for token in 0..100_000 {
            standing.takes_back(token, Duration::from_secs(3600));
        }
        assert!(standing.tokens.len() <= 2 * MOST_TOKENS, "{}", standing.tokens.len());
    }
}
