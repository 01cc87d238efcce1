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
    store::memory::KeySeed,
};

/// The fills of a layer that are under way, and the keys for which it is not worth while to wait for one.
pub(crate) struct Flights {
    pub(crate) shards: Box<[Mutex<Shard>]>,
    pub(crate) flying: AtomicUsize,
    /// The same of all layers over one store.
    pub(crate) flying_of_all: Arc<AtomicUsize>,
    /// How many have landed.
    pub(crate) landings: AtomicU64,
    /// The same by hash of the key.
    pub(crate) landings_by_key: Box<[AtomicU32]>,
    /// Whether a key was ever found unfit: most layers never see one.
    pub(crate) any_passes: AtomicBool,
    /// By a hash of this layer's own: nobody can compute a target that is taken for another here.
    pub(crate) passes: Cache<u128, Nanos, quick_cache::UnitWeighter, KeySeed>,
    pub(crate) pass_seed: u64,
    /// Where a key is among the shards.
    pub(crate) shard_seed: KeySeed,
    /// Inner calls that nothing of a shared store stands behind.
    pub(crate) blind: Arc<Semaphore>,
    pub(crate) limits: Limits,
}

pub(crate) type Shard = HashMap<u128, Arc<dyn AnyFlight>, KeySeed>;

/// The bounds of what one layer may have under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) flights: usize,
    pub(crate) blind: usize,
    pub(crate) waiters: usize,
    pub(crate) wait: Duration,
}

pub(crate) const SHARDS: usize = 32;

/// How many counters of landings there are: keys that share one cost an extra look at the store.
pub(crate) const LANDINGS: usize = 1 << 10;

/// How many unfit keys are remembered at most.
const PASSES: usize = 16 << 10;

impl Flights {
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

    /// Leave for an inner call under this stamp. Where the shared store cannot be reached, so many calls are made at a time as may
    /// be, however many requests the cache no longer keeps away from the inner service.
    ///
    /// A call from within another takes no place of its own, and nobody waits for a place beyond `until`: each of the calls that have
    /// the places may depend on one that waits.
    pub(crate) async fn leave(&self, stamp: &Stamp, until: Instant) -> Option<OwnedSemaphorePermit> {
        if stamp.is_whole() || WithPermit::<()>::is_within() {
            return None;
        }
        tokio::time::timeout_at(until, self.blind.clone().acquire_owned()).await.ok()?.ok()
    }

    /// How long a request waits for another's response at most.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.limits.wait
    }

    /// Until when a request that begins to wait now may wait, for however many fills.
    pub(crate) fn patience(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.limits.wait).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 86_400))
    }

    /// Whether responses for this key were found unfit a moment ago.
    pub(crate) fn passes(&self, key: &Key, now: Nanos) -> bool {
        self.any_passes.load(Ordering::Relaxed) && self.passes.get(&self.passing(key)).is_some_and(|until| now < until)
    }

    /// Remembers that nobody should wait for this key.
    pub(crate) fn pass(&self, key: &Key, until: Nanos) {
        self.passes.insert(self.passing(key), until);
        self.any_passes.store(true, Ordering::Relaxed);
    }

    /// A response for this key was fit after all.
    pub(crate) fn forget_pass(&self, key: &Key) {
        if self.any_passes.load(Ordering::Relaxed) {
            self.passes.remove(&self.passing(key));
        }
    }

    pub(crate) fn passing(&self, key: &Key) -> u128 {
        xxh3_128_with_seed(key.canonical(), self.pass_seed)
    }

    /// How many fills have landed. Where it is the same before a look at the store and after joining, nothing was stored between
    /// the two by a fill that could have been joined.
    #[inline]
    pub(crate) fn landings(&self) -> u64 {
        self.landings.load(Ordering::SeqCst)
    }

    /// How many fills have landed, of all keys and of this one.
    pub(crate) fn landings_at(&self, key: u128) -> CompletionCount {
        CompletionCount { all: self.landings(), of_key: self.landings_of(key).load(Ordering::SeqCst) }
    }

    /// Whether a fill of this key may have landed since then: the key that was counted, or another of which it is a variant.
    pub(crate) fn have_landed_since(&self, then: CompletionCount, key: &Key, is_variant: bool) -> bool {
        let now = self.landings_at(key.hash());
        if is_variant { now.all != then.all } else { now.of_key != then.of_key }
    }

    pub(crate) fn landings_of(&self, key: u128) -> &AtomicU32 {
        &self.landings_by_key[key as usize % LANDINGS]
    }

    pub(crate) fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        self.shards[self.shard_seed.place(key) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a flight off its list: nobody joins it any more. It goes on for those who have joined it.
    pub(crate) fn unlist(&self, flight: &Arc<dyn AnyFlight>) {
        let hash = flight.flight().key.hash();
        let mut shard = self.shard(hash);
        // Nor does another that gives way put it back.
        flight.flight().has_ended.store(true, Ordering::SeqCst);
        if let Entry::Occupied(place) = shard.entry(hash)
            && Arc::ptr_eq(place.get(), flight)
        {
            place.remove();
        }
    }

    /// Takes a flight off its list, and puts another that has not ended in its place if one is given.
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
