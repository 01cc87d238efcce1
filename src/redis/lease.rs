//! For how long this process may trust what it was told.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::{clock::Nanos, entry::stamp::Generation};

/// The lease: until when the local table of epochs holds all that has happened up to a moment that is no longer ago than Δ.
///
/// Each master pushes its changes by a connection of its own. A push may follow the answer to a `PING` that was sent after the
/// change, but not the answer to the next one. So the table is trusted up to when the *previous* answered `PING` was sent, and the
/// lease ends Δ after that moment. It is whole if that of each master is.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    parts: Mutex<HashMap<String, Nanos>>,
    until: AtomicU64,
    /// For changes of this process that are not answered: the end of a lease that trusts what was told up to when each was sent.
    unsettled: Mutex<BTreeMap<u64, Nanos>>,
}

/// A change under way that may hide a push from this process until it is settled.
#[derive(Debug)]
pub(super) struct Unsettled {
    lease: Arc<Lease>,
    id: u64,
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.lease.open_changes().remove(&self.id);
    }
}

impl Lease {
    /// The masters are these; of those that are new, nothing is heard yet. What others have said is not to be trusted from here on:
    /// `forget` it, before there is a lease again.
    pub(super) fn is_of<'a>(&self, masters: impl Iterator<Item = &'a str>, forget: impl FnOnce()) {
        let mut parts = self.lock();
        let mut before = std::mem::take(&mut *parts);
        *parts = masters.map(|master| (master.to_owned(), before.remove(master).unwrap_or(0))).collect();
        if !before.is_empty() {
            forget();
        }
        self.add_up(&parts);
    }

    /// A server is asked that is not one of the masters, and of which nothing is heard: there is no lease until it is one, or until
    /// what it has said is forgotten.
    pub(super) fn lacks(&self, server: &str) {
        let mut parts = self.lock();
        parts.entry(server.to_owned()).or_insert(0);
        self.add_up(&parts);
    }

    /// A change is sent whose own push, and with it the push of an earlier change of the same key, may not come: until it is settled,
    /// the lease extends no further than `until`.
    pub(super) fn unsettled(self: &Arc<Self>, until: Nanos) -> Unsettled {
        let mut open = self.open_changes();
        let id = open.last_key_value().map_or(0, |(last, _)| last + 1);
        open.insert(id, until);
        Unsettled { lease: self.clone(), id }
    }

    fn open_changes(&self) -> MutexGuard<'_, BTreeMap<u64, Nanos>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told of one master is to be trusted until then, or until what the oldest unsettled change allows.
    pub(super) fn extends(&self, master: &str, until: Nanos) {
        let until = self.open_changes().values().copied().fold(until, Nanos::min);
        let mut parts = self.lock();
        if let Some(part) = parts.get_mut(master) {
            *part = until;
        }
        self.add_up(&parts);
    }

    /// Nothing is heard of one master any more.
    pub(super) fn ends(&self, master: &str) {
        self.extends(master, 0);
    }

    /// To be asked *before* the table is looked into: what is pushed between the two is then in it.
    #[inline]
    pub(super) fn is_held(&self, now: Nanos) -> bool {
        now < self.until.load(Ordering::SeqCst)
    }

    fn add_up(&self, parts: &HashMap<String, Nanos>) {
        self.until.store(parts.values().copied().min().unwrap_or(0), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Nanos>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Generations as they were read, so that under a lease only the entry has to be fetched. Each is known together with the epoch
/// before it was read: once the slot of its name holds a later one, it is known no more.
pub(crate) struct KnownGenerations(Cache<u64, (Generation, u64), UnitWeighter, BuildHasherDefault<IdHasher>>);

/// What names are known by is a hash already, or a small number in its low bits: all of them are to take part in all of it.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write_u64(&mut self, id: u64) {
        let product = u128::from(self.0 ^ id) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
}

/// How many generations are known at most.
const MOST: usize = 64 << 10;

impl KnownGenerations {
    pub(super) fn new() -> Self {
        Self(Cache::with(MOST, MOST as u64, UnitWeighter, BuildHasherDefault::default(), DefaultLifecycle::default()))
    }

    pub(super) fn learn(&self, id: u64, generation: Generation, epoch: u64) {
        self.0.insert(id, (generation, epoch));
    }

    /// The generation, and the epoch before it was read.
    #[inline]
    pub(super) fn get(&self, id: u64) -> Option<(Generation, u64)> {
        self.0.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_is_held_while_every_master_holds() {
        let lease = Lease::default();
        assert!(!lease.is_held(0));
        lease.is_of(["a", "b"].into_iter(), || ());
        lease.extends("a", 10);
        assert!(!lease.is_held(5));
        lease.extends("b", 8);
        assert!(lease.is_held(7) && !lease.is_held(8));
        lease.is_of(["a", "c"].into_iter(), || ());
        assert!(!lease.is_held(1));
        lease.extends("b", 100);
        lease.extends("c", 9);
        assert!(lease.is_held(8));
        lease.ends("a");
        assert!(!lease.is_held(1));
    }
    #[test]
    fn lease_extends_no_further_than_an_unsettled_change_allows() {
        let lease = Arc::new(Lease::default());
        lease.is_of(["a"].into_iter(), || ());
        let (first, second) = (lease.unsettled(10), lease.unsettled(20));
        lease.extends("a", 30);
        assert!(lease.is_held(9) && !lease.is_held(10));
        drop(first);
        lease.extends("a", 30);
        assert!(lease.is_held(19) && !lease.is_held(20));
        drop(second);
        lease.extends("a", 30);
        assert!(lease.is_held(29));
    }
    #[test]
    fn lease_begins_without_generations_of_a_replaced_master() {
        let lease = Lease::default();
        let forgotten = std::cell::Cell::new(0);
        let forget = || forgotten.set(forgotten.get() + 1);
        lease.is_of(["a"].into_iter(), forget);
        lease.extends("a", 10);
        lease.is_of(["a"].into_iter(), forget);
        assert_eq!((lease.is_held(5), forgotten.get()), (true, 0));
        lease.lacks("b");
        lease.extends("a", 20);
        assert!(!lease.is_held(5));
        lease.is_of(["a"].into_iter(), || {
            assert_eq!(lease.until.load(Ordering::SeqCst), 0);
            forget();
        });
        assert_eq!((lease.is_held(5), forgotten.get()), (true, 1));
        lease.lacks("b");
        lease.is_of(["a", "b"].into_iter(), forget);
        assert_eq!((lease.is_held(5), forgotten.get()), (false, 1), "it is tended now");
    }
}
