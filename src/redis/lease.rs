//! How long cached generations may be trusted without asking Redis.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::{
    clock::{Nanos, monotonic, nanos},
    entry::stamp::Generation,
};

/// The time until which the local table of epochs contains every change up to a moment at most Δ ago.
///
/// Each master pushes its changes by a connection of its own. A push may follow the answer to a `PING` that was sent after the change, but
/// not the answer to the next one. The table is therefore trusted up to the moment at which the *previous* answered `PING` was sent, and
/// the lease ends Δ after that moment. It is held while the lease of each master is held.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    parts: Mutex<HashMap<String, Part>>,
    until: AtomicU64,
    /// The largest Δ of the masters.
    delta: AtomicU64,
    /// For each unanswered change of this process, the end of a lease that trusts pushes up to the moment at which the change was sent.
    unsettled: Mutex<BTreeMap<u64, Nanos>>,
}

/// The lease of one master.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    until: Nanos,
    delta: Nanos,
}

/// The heartbeats of one connection, and the Δ that follows from them.
///
/// The interval grows with the number of connections that receive pushes from the server, so that all of them together cost it a bounded
/// time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    shortest: Duration,
    longest: Duration,
    max_round_trip: Duration,
    every: Duration,
    /// The previous interval. The next answer is trusted up to a heartbeat that was sent so long before.
    before: Duration,
}

/// The number of connections up to which the interval is the shortest, and the time by which each further one lengthens it. A heartbeat
/// that arrives alone takes the server 30 to 40 µs.
const FEW_CONNECTIONS: u32 = 100;
const SHARE: Duration = Duration::from_micros(1_600);

impl Pace {
    pub(super) fn new(shortest: Duration, longest: Duration, max_round_trip: Duration) -> Self {
        Self { shortest, longest: longest.max(shortest), max_round_trip, every: shortest, before: shortest }
    }

    /// Sets the interval for a number of connections.
    pub(super) fn fit(&mut self, connections: u32) {
        self.before = self.every;
        let further = SHARE * connections.saturating_sub(FEW_CONNECTIONS);
        self.every = (self.shortest + further).min(self.longest);
    }

    /// Ends the transition from the previous interval.
    pub(super) fn settle(&mut self) {
        self.before = self.every;
    }

    pub(super) fn every(&self) -> Duration {
        self.every
    }

    /// Returns Δ: two heartbeats and a round trip.
    pub(super) fn delta(&self) -> Nanos {
        nanos(2 * self.every.max(self.before) + self.max_round_trip)
    }
}

/// A running change that may hide a push from this process until it is settled.
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
    /// Sets the masters. Nothing has been heard from new ones yet. If a master was removed, `forget` is called before a lease can begin:
    /// its pushes no longer arrive.
    pub(super) fn set_masters<'a>(&self, masters: impl Iterator<Item = &'a str>, forget: impl FnOnce()) {
        let mut parts = self.lock();
        let mut before = std::mem::take(&mut *parts);
        *parts = masters.map(|master| (master.to_owned(), before.remove(master).unwrap_or_default())).collect();
        if !before.is_empty() {
            forget();
        }
        self.update(&parts);
    }

    /// Ends the lease while commands go to a server that is not a known master, since its pushes do not arrive here.
    pub(super) fn require(&self, server: &str) {
        let mut parts = self.lock();
        parts.entry(server.to_owned()).or_default();
        self.update(&parts);
    }

    /// Limits the lease to Δ from `sent` while a change is running that was sent then. The push of this change, and that of an earlier
    /// change of the same key, may be missing.
    pub(super) fn unsettled(self: &Arc<Self>, sent: Nanos) -> Unsettled {
        let until = sent.saturating_add(self.delta());
        let mut open = self.open_changes();
        let id = open.last_key_value().map_or(0, |(last, _)| last + 1);
        open.insert(id, until);
        Unsettled { lease: self.clone(), id }
    }

    fn open_changes(&self) -> MutexGuard<'_, BTreeMap<u64, Nanos>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extends the lease of one master to `delta` from `trusted`, or as far as the oldest running change allows.
    pub(super) fn extend(&self, master: &str, trusted: Nanos, delta: Nanos) {
        let until = self.open_changes().values().copied().fold(trusted.saturating_add(delta), Nanos::min);
        self.set(master, |part| *part = Part { until, delta });
    }

    /// Ends the lease of one master.
    pub(super) fn end(&self, master: &str) {
        self.set(master, |part| part.until = 0);
    }

    fn set(&self, master: &str, change: impl FnOnce(&mut Part)) {
        let mut parts = self.lock();
        if let Some(part) = parts.get_mut(master) {
            change(part);
        }
        self.update(&parts);
    }

    /// Returns the Δ in force: the largest of the masters.
    pub(super) fn delta(&self) -> Nanos {
        self.delta.load(Ordering::SeqCst)
    }

    /// Returns `true` while the lease is held. Call it *before* the table is read: a push between the two is then in the table.
    #[inline]
    pub(super) fn is_held(&self, now: Nanos) -> bool {
        now < self.until.load(Ordering::SeqCst)
    }

    fn update(&self, parts: &HashMap<String, Part>) {
        self.delta.store(parts.values().map(|part| part.delta).max().unwrap_or(0), Ordering::SeqCst);
        self.until.store(parts.values().map(|part| part.until).min().unwrap_or(0), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Generations that were read before, so that only the entry has to be fetched under a lease. Each has the epoch before it was read, and is
/// unknown once the slot of its name holds a later one.
///
/// A generation that Redis loses without an invalidation is not pushed. It is therefore read again after some time: otherwise this process
/// would store entries under it that no other process accepts.
pub(crate) struct KnownGenerations(Cache<u64, Known, UnitWeighter, BuildHasherDefault<IdHasher>>);

#[derive(Clone, Copy)]
struct Known {
    generation: Generation,
    epoch: u64,
    until: Nanos,
}

/// The time for which a generation is known.
const KNOWN_TIME: Nanos = 5_000_000_000;

/// A hasher for identifiers, which are hashes already or small numbers in the low bits. It spreads them over all bits.
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

/// The largest number of known generations.
const MAX_GENERATIONS: usize = 64 << 10;

impl KnownGenerations {
    pub(super) fn new() -> Self {
        Self(Cache::with(
            MAX_GENERATIONS,
            MAX_GENERATIONS as u64,
            UnitWeighter,
            BuildHasherDefault::default(),
            DefaultLifecycle::default(),
        ))
    }

    pub(super) fn learn(&self, id: u64, generation: Generation, epoch: u64) {
        self.0.insert(id, Known { generation, epoch, until: monotonic().saturating_add(KNOWN_TIME) });
    }

    /// Returns the generation and the epoch before it was read, unless it was read too long ago.
    #[inline]
    pub(super) fn get(&self, id: u64, now: Nanos) -> Option<(Generation, u64)> {
        self.0.get(&id).filter(|known| now < known.until).map(|known| (known.generation, known.epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_is_held_while_every_master_holds() {
        let lease = Lease::default();
        assert!(!lease.is_held(0));
        lease.set_masters(["a", "b"].into_iter(), || ());
        lease.extend("a", 10, 0);
        assert!(!lease.is_held(5));
        lease.extend("b", 8, 0);
        assert!(lease.is_held(7) && !lease.is_held(8));
        lease.set_masters(["a", "c"].into_iter(), || ());
        assert!(!lease.is_held(1));
        lease.extend("b", 100, 0);
        lease.extend("c", 9, 0);
        assert!(lease.is_held(8));
        lease.end("a");
        assert!(!lease.is_held(1));
    }
    #[test]
    fn lease_extends_no_further_than_an_unsettled_change_allows() {
        let lease = Arc::new(Lease::default());
        lease.set_masters(["a"].into_iter(), || ());
        let (first, second) = (lease.unsettled(10), lease.unsettled(20));
        lease.extend("a", 30, 0);
        assert!(lease.is_held(9) && !lease.is_held(10));
        drop(first);
        lease.extend("a", 30, 0);
        assert!(lease.is_held(19) && !lease.is_held(20));
        drop(second);
        lease.extend("a", 30, 0);
        assert!(lease.is_held(29));
    }
    #[test]
    fn heartbeats_slow_down_with_the_number_of_connections() {
        let millis = Duration::from_millis;
        let mut pace = Pace::new(millis(50), millis(1_000), millis(20));
        assert_eq!((pace.every(), pace.delta()), (millis(50), 120_000_000));
        for (connections, every, delta) in [(100, 50, 120), (500, 690, 1_400), (9_000, 1_000, 2_020), (3, 50, 2_020)] {
            pace.fit(connections);
            assert_eq!((pace.every(), pace.delta()), (millis(every), delta * 1_000_000), "{connections}");
        }
        pace.settle();
        assert_eq!(pace.delta(), 120_000_000);
        let mut fixed = Pace::new(millis(50), millis(5), millis(20));
        fixed.fit(9_000);
        assert_eq!(fixed.every(), millis(50));
    }
    #[test]
    fn delta_in_force_is_the_largest() {
        let lease = Arc::new(Lease::default());
        lease.set_masters(["a", "b"].into_iter(), || ());
        lease.extend("a", 100, 10);
        lease.extend("b", 100, 40);
        assert_eq!(lease.delta(), 40);
        lease.end("b");
        assert_eq!(lease.delta(), 40);
        let _change = lease.unsettled(100);
        lease.extend("b", 200, 40);
        lease.extend("a", 200, 10);
        assert!(lease.is_held(139) && !lease.is_held(140));
    }
    #[test]
    fn lease_begins_without_generations_of_a_replaced_master() {
        let lease = Lease::default();
        let forgotten = std::cell::Cell::new(0);
        let forget = || forgotten.set(forgotten.get() + 1);
        lease.set_masters(["a"].into_iter(), forget);
        lease.extend("a", 10, 0);
        lease.set_masters(["a"].into_iter(), forget);
        assert_eq!((lease.is_held(5), forgotten.get()), (true, 0));
        lease.require("b");
        lease.extend("a", 20, 0);
        assert!(!lease.is_held(5));
        lease.set_masters(["a"].into_iter(), || {
            assert_eq!(lease.until.load(Ordering::SeqCst), 0);
            forget();
        });
        assert_eq!((lease.is_held(5), forgotten.get()), (true, 1));
        lease.require("b");
        lease.set_masters(["a", "b"].into_iter(), forget);
        assert_eq!((lease.is_held(5), forgotten.get()), (false, 1), "it is tended now");
    }
}
