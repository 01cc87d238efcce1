//! The fills of a layer that are in progress, and the keys whose responses are not shared.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{
    clock::Nanos,
    entry::stamp::Stamp,
    key::Key,
    single_flight::{flight::AnyFlight, outcome::CompletionCount, permit::WithPermit},
    store::key_hasher::KeySeed,
};

/// The fills of a layer that are in progress, and its hit-for-miss keys.
pub(crate) struct Flights {
    pub(crate) shards: Box<[Mutex<Shard>]>,
    pub(crate) flying: AtomicUsize,
    /// The number of fills in progress, of all layers over one store.
    pub(crate) flying_of_all: Arc<AtomicUsize>,
    /// The number of fills that have ended.
    pub(crate) landings: AtomicU64,
    /// The number of fills that have ended, by a hash of the key.
    pub(crate) landings_by_key: Box<[AtomicU32]>,
    /// A key was hit-for-miss once. Most layers never have one.
    pub(crate) any_passes: AtomicBool,
    /// The hit-for-miss keys and the end of that state, by a seeded hash: a client cannot compute a collision.
    pub(crate) passes: Cache<u128, Nanos, quick_cache::UnitWeighter, KeySeed>,
    pub(crate) pass_seed: u64,
    /// The seed that assigns keys to shards.
    pub(crate) shard_seed: KeySeed,
    /// The permits of uncoordinated fills.
    pub(crate) blind: Arc<Semaphore>,
    pub(crate) limits: Limits,
}

pub(crate) type Shard = HashMap<u128, Arc<dyn AnyFlight>, KeySeed>;

/// The limits of one layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) flights: usize,
    pub(crate) blind: usize,
    pub(crate) waiters: usize,
    pub(crate) wait: Duration,
}

pub(crate) const SHARDS: usize = 32;

/// The number of counters of ended fills. Keys that share a counter cost an extra lookup.
pub(crate) const LANDINGS: usize = 1 << 10;

/// The maximum number of hit-for-miss keys.
const PASSES: usize = 16 << 10;

impl Flights {
    /// Returns the flights of a layer whose rules were replaced: with the same limits, and without a fill to follow.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.limits, self.flying_of_all.clone())
    }

    pub(crate) fn new(limits: Limits, flying_of_all: Arc<AtomicUsize>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::with_hasher(KeySeed::random()))).collect(),
            flying: AtomicUsize::new(0),
            flying_of_all,
            landings: AtomicU64::new(0),
            landings_by_key: (0..LANDINGS).map(|_| AtomicU32::new(0)).collect(),
            any_passes: AtomicBool::new(false),
            passes: Cache::with(
                PASSES,
                PASSES as u64,
                quick_cache::UnitWeighter,
                KeySeed::random(),
                quick_cache::sync::DefaultLifecycle::default(),
            ),
            pass_seed: RandomState::new().hash_one(0),
            shard_seed: KeySeed::random(),
            blind: Arc::new(Semaphore::new(limits.blind.min(Semaphore::MAX_PERMITS))),
            limits,
        }
    }

    /// Returns a permit for a call that the shared store does not coordinate. Limits the calls while the shared store cannot be reached.
    ///
    /// A call from within another call needs no permit. No request waits for a permit beyond `until`, since the calls that hold the permits may
    /// depend on one that waits.
    pub(crate) async fn leave(&self, stamp: &Stamp, until: Instant) -> Option<OwnedSemaphorePermit> {
        if stamp.is_whole() || WithPermit::<()>::is_within() {
            return None;
        }
        tokio::time::timeout_at(until, self.blind.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Returns the longest time that a request follows fills.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.limits.wait
    }

    /// Returns the time until which a request may follow fills, if it begins now.
    pub(crate) fn patience(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.limits.wait).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 86_400))
    }

    /// Returns true if the key is hit-for-miss.
    pub(crate) fn passes(&self, key: &Key, now: Nanos) -> bool {
        self.any_passes.load(Ordering::Relaxed) && self.passes.get(&self.passing(key)).is_some_and(|until| now < until)
    }

    /// Makes the key hit-for-miss.
    pub(crate) fn pass(&self, key: &Key, until: Nanos) {
        self.passes.insert(self.passing(key), until);
        self.any_passes.store(true, Ordering::Relaxed);
    }

    /// Ends the hit-for-miss state of a key.
    pub(crate) fn forget_pass(&self, key: &Key) {
        if self.any_passes.load(Ordering::Relaxed) {
            self.passes.remove(&self.passing(key));
        }
    }

    pub(crate) fn passing(&self, key: &Key) -> u128 {
        xxh3_128_with_seed(key.canonical(), self.pass_seed)
    }

    /// Returns the number of fills that have ended. If it is the same before a lookup and after a join, no fill has stored an entry between them.
    #[inline]
    pub(crate) fn landings(&self) -> u64 {
        self.landings.load(Ordering::SeqCst)
    }

    /// Returns the number of fills that have ended, of all keys and of this one.
    pub(crate) fn landings_at(&self, key: u128) -> CompletionCount {
        CompletionCount { all: self.landings(), of_key: self.landings_of(key).load(Ordering::SeqCst) }
    }

    /// Returns true if a fill of the key may have ended since then. For a variant, the fills of all keys count.
    pub(crate) fn have_landed_since(&self, then: CompletionCount, key: &Key, is_variant: bool) -> bool {
        let now = self.landings_at(key.hash());
        if is_variant { now.all != then.all } else { now.of_key != then.of_key }
    }

    pub(crate) fn landings_of(&self, key: u128) -> &AtomicU32 {
        &self.landings_by_key[key as usize % LANDINGS]
    }

    /// Returns the keys of up to `limit` fills in progress, with the numbers of their followers.
    #[cfg(feature = "dashboard")]
    pub(crate) fn in_progress(&self, limit: usize) -> Vec<(Key, usize)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let of =
                |flying: &Arc<dyn AnyFlight>| (flying.flight().key.clone(), flying.flight().waiters.load(Ordering::Relaxed));
            found.extend(shard.values().take(limit - found.len()).map(of));
        }
        found
    }

    pub(crate) fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        self.shards[self.shard_seed.place(key) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a flight from the list, so that no request joins it. Its followers stay.
    pub(crate) fn unlist(&self, flight: &Arc<dyn AnyFlight>) {
        let hash = flight.flight().key.hash();
        let mut shard = self.shard(hash);
        // Another flight that gives way does not put it back.
        flight.flight().has_ended.store(true, Ordering::SeqCst);
        if let Entry::Occupied(place) = shard.entry(hash)
            && Arc::ptr_eq(place.get(), flight)
        {
            place.remove();
        }
    }

    /// Removes a flight from the list, and puts `instead` in its place if that has not ended.
    pub(crate) fn remove(&self, flight: &Arc<dyn AnyFlight>, instead: Option<&Arc<dyn AnyFlight>>) {
        let hash = flight.flight().key.hash();
        let mut shard = self.shard(hash);
        flight.flight().has_ended.store(true, Ordering::SeqCst);
        if let Entry::Occupied(mut place) = shard.entry(hash)
            && Arc::ptr_eq(place.get(), flight)
        {
            match instead.filter(|instead| !instead.flight().has_ended.load(Ordering::SeqCst)) {
                Some(instead) => _ = place.insert(instead.clone()),
                None => _ = place.remove(),
            }
        }
        drop(shard);
        self.flying.fetch_sub(1, Ordering::SeqCst);
        self.flying_of_all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("limits", &self.limits).finish_non_exhaustive()
    }
}
