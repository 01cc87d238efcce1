//! One fill per key and living stamp.

pub(crate) mod detach;
pub(crate) mod flight;
pub(crate) mod follower;
pub(crate) mod outcome;
pub(crate) mod permit;
pub(crate) mod shared_body;

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasher, RandomState},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use self::{
    detach::{AwaitCount, Detachable},
    flight::{AnyFlight, Flight},
    follower::Follower,
    outcome::{ArrivingResponse, CompletionCount, FlightOutcome, Progress},
    permit::WithPermit,
};
use crate::{clock::Nanos, entry::stamp::Stamp, key::Key, store::memory::KeySeed};

/// The fills of a layer that are under way, and the keys for which it is not worth while to wait for one.
pub(crate) struct Flights {
    shards: Box<[Mutex<Shard>]>,
    flying: AtomicUsize,
    /// The same of all layers over one store.
    flying_of_all: Arc<AtomicUsize>,
    /// How many have landed.
    landings: AtomicU64,
    /// The same by hash of the key.
    landings_by_key: Box<[AtomicU32]>,
    /// Whether a key was ever found unfit: most layers never see one.
    any_passes: AtomicBool,
    /// By a hash of this layer's own: nobody can compute a target that is taken for another here.
    passes: Cache<u128, Nanos, quick_cache::UnitWeighter, KeySeed>,
    pass_seed: u64,
    /// Where a key is among the shards.
    shard_seed: KeySeed,
    /// Inner calls that nothing of a shared store stands behind.
    blind: Arc<Semaphore>,
    limits: Limits,
}

type Shard = HashMap<u128, Arc<dyn AnyFlight>, KeySeed>;

/// The bounds of what one layer may have under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) flights: usize,
    pub(crate) blind: usize,
    pub(crate) waiters: usize,
    pub(crate) wait: Duration,
}

const SHARDS: usize = 32;

/// How many counters of landings there are: keys that share one cost an extra look at the store.
const LANDINGS: usize = 1 << 10;

/// How many unfit keys are remembered at most.
const PASSES: usize = 16 << 10;

/// What became of the wish to join, for one whose fill would make a `T`.
pub(crate) enum Join<T: Send + 'static> {
    Lead(Leader, Detachable<T, Flight>),
    Follow(Follower),
    /// There are as many flights, or waiters on this one, as there may be.
    Full,
}

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

    /// Joins the fill of a key, or begins one. A fill whose inner call has not begun is joined by everybody: what it brings will
    /// have been computed after they came. Once it has begun, it is joined only while its stamp is `alive` for who wants to join;
    /// one that is not goes on for those who joined it before, and a new one takes its place.
    ///
    /// With a `stamp` the inner call begins at once; without, [`Leader::begins`] says when. The work of the fill, once nobody wants it
    /// any more, is given up after `limit`.
    pub(crate) fn join<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Key,
        stamp: Option<&Stamp>,
        limit: Duration,
        alive: impl Fn(&Stamp) -> bool,
    ) -> Join<T> {
        let mut shard = self.shard(key.hash());
        let place = shard.entry(key.hash());
        if let Entry::Occupied(place) = &place {
            let flight = place.get().flight();
            if flight.key != *key {
                return Join::Full;
            }
            if flight.is_closed.load(Ordering::SeqCst) || flight.stamp().is_none_or(alive) {
                // Counted before the list is let go: who lands takes the flight off it, and knows then who waits.
                let follower = self.follow(place.get());
                drop(shard);
                return follower.map_or(Join::Full, Follower::joined);
            }
        }
        if self.flying.fetch_add(1, Ordering::SeqCst) >= self.limits.flights {
            self.flying.fetch_sub(1, Ordering::SeqCst);
            return Join::Full;
        }
        self.flying_of_all.fetch_add(1, Ordering::Relaxed);
        let drive = Detachable::limited(
            limit,
            Flight {
                key: key.clone(),
                begun: stamp.cloned(),
                begins: OnceLock::new(),
                progress: Mutex::new(Progress::Calling),
                moved: Notify::const_new(),
                waiters: AtomicUsize::new(0),
                reads: AtomicBool::new(false),
                has_successor: AtomicBool::new(false),
                is_closed: AtomicBool::new(false),
                has_ended: AtomicBool::new(false),
            },
        );
        let flight: Arc<dyn AnyFlight> = drive.cell().clone();
        let before = match place {
            Entry::Vacant(place) => {
                place.insert(flight.clone());
                None
            }
            Entry::Occupied(mut place) => {
                place.get().flight().has_successor.store(true, Ordering::SeqCst);
                Some(place.insert(flight.clone()))
            }
        };
        drop(shard);
        Join::Lead(Leader { flights: self.clone(), flight, before, landed: false }, drive)
    }

    /// One more who waits for this flight, if so many may.
    fn follow(&self, flying: &Arc<dyn AnyFlight>) -> Option<Follower> {
        let flight = flying.flight();
        if flight.waiters.fetch_add(1, Ordering::SeqCst) >= self.limits.waiters {
            flight.waiters.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        Some(Follower { looks_again: flight.is_closed.load(Ordering::SeqCst), flight: flying.clone() })
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

    fn passing(&self, key: &Key) -> u128 {
        xxh3_128_with_seed(key.canonical(), self.pass_seed)
    }

    /// How many fills have landed. Where it is the same before a look at the store and after joining, nothing was stored between
    /// the two by a fill that could have been joined.
    #[inline]
    pub(crate) fn landings(&self) -> u64 {
        self.landings.load(Ordering::SeqCst)
    }

    /// How many fills have landed, of all keys and of this one.
    pub(crate) fn landings_at(&self, key: &Key) -> CompletionCount {
        CompletionCount { all: self.landings(), of_key: self.landings_of(key.hash()).load(Ordering::SeqCst) }
    }

    /// Whether a fill of this key may have landed since then: the key that was counted, or another of which it is a variant.
    pub(crate) fn have_landed_since(&self, then: CompletionCount, key: &Key, is_variant: bool) -> bool {
        let now = self.landings_at(key);
        if is_variant { now.all != then.all } else { now.of_key != then.of_key }
    }

    fn landings_of(&self, key: u128) -> &AtomicU32 {
        &self.landings_by_key[key as usize % LANDINGS]
    }

    fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        self.shards[self.shard_seed.place(key) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a flight off its list: nobody joins it any more. It goes on for those who have joined it.
    fn unlist(&self, flight: &Arc<dyn AnyFlight>) {
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
    fn remove(&self, flight: &Arc<dyn AnyFlight>, instead: Option<&Arc<dyn AnyFlight>>) {
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

/// Whoever fills. Dropped without a landing, it passes the baton: those who wait look again.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    flight: Arc<dyn AnyFlight>,
    /// The fill of the same key that could not be joined.
    before: Option<Arc<dyn AnyFlight>>,
    landed: bool,
}

impl Leader {
    /// The inner call begins now, under this stamp.
    pub(crate) fn begins(&mut self, stamp: &Stamp) {
        self.before = None;
        let flight = self.flight.flight();
        let _shard = self.flights.shard(flight.key.hash());
        let _ = flight.begins.set(stamp.clone());
    }

    /// Where nothing says whether the fill before this one is still good, it is waited for: one call is running, one forming, and
    /// there is no third.
    pub(crate) async fn after_the_one_before(&self, until: Instant) {
        if let Some(before) = &self.before {
            before.flight().moves(until).await;
        }
    }

    /// From here on nobody joins: what is read now says nothing of those who come later. They wait for the end, and look again.
    pub(crate) fn closes(&self) {
        let flight = self.flight.flight();
        let _shard = self.flights.shard(flight.key.hash());
        flight.is_closed.store(true, Ordering::SeqCst);
    }

    /// Whether the fill before this one has begun under another stamp than the caller `may` share.
    pub(crate) fn is_after_another(&self, may: impl FnOnce(&Stamp) -> bool) -> bool {
        self.before.as_ref().and_then(|before| before.flight().stamp()).is_some_and(|stamp| !may(stamp))
    }

    /// Gives way to the fill before this one, if that has begun under a stamp that the caller `may` share after all: follows it, and puts
    /// it back in its place. Those who wait for this fill look again, since they may have come after what the caller has read.
    pub(crate) fn gives_way(&mut self, may: impl FnOnce(&Stamp) -> bool) -> Option<Follower> {
        let before = self.before.take_if(|before| before.flight().stamp().is_some_and(may))?;
        let follower = self.flights.follow(&before)?;
        before.clone().promote();
        self.landed = true;
        self.flights.remove(&self.flight, Some(&before));
        let flight = self.flight.flight();
        *flight.progress() = Progress::Landed(FlightOutcome::LeaderLost);
        flight.moved.notify_waiters();
        Some(follower)
    }

    /// The flight, for asking who waits for it.
    pub(crate) fn flight(&self) -> Arc<dyn AnyFlight> {
        self.flight.clone()
    }

    /// The response is fit and its body on the way, but whether it may be shared is known at its end.
    pub(crate) fn reads(&self) {
        self.flight.flight().reads.store(true, Ordering::Relaxed);
    }

    /// The response is fit, and its body on the way.
    pub(crate) fn arrives(&self, arriving: ArrivingResponse) {
        let flight = self.flight.flight();
        *flight.progress() = Progress::Arriving(Arc::new(arriving));
        flight.moved.notify_waiters();
    }

    /// The end of the fill. To be called after the entry is stored: who comes later finds it there.
    pub(crate) fn land(self, landing: FlightOutcome) {
        self.land_with(|| landing);
    }

    /// The same, with what only those need who wait.
    pub(crate) fn land_with(mut self, landing: impl FnOnce() -> FlightOutcome) {
        self.landed = true;
        self.end(landing);
    }

    fn end(&self, landing: impl FnOnce() -> FlightOutcome) {
        // Before it can be missed in the list: who no longer finds it there sees that one more has landed.
        self.flights.landings.fetch_add(1, Ordering::SeqCst);
        self.flights.landings_of(self.flight.flight().key.hash()).fetch_add(1, Ordering::SeqCst);
        self.flights.remove(&self.flight, None);
        // From here on nobody joins, and who has was counted before the list was let go.
        let flight = self.flight.flight();
        let landing = match flight.is_awaited() {
            true => landing(),
            false if flight.has_successor.load(Ordering::SeqCst) => FlightOutcome::LeaderLost,
            false => return,
        };
        *flight.progress() = Progress::Landed(landing);
        flight.moved.notify_waiters();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !mem::replace(&mut self.landed, true) {
            self.end(|| FlightOutcome::LeaderLost);
        }
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("limits", &self.limits).finish_non_exhaustive()
    }
}
