//! One fill per key and living stamp.

use std::{
    collections::HashMap,
    fmt,
    hash::BuildHasherDefault,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use quick_cache::sync::Cache;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    clock::Nanos,
    drive::{Awaited, Promote},
    key::Key,
    namespace::Namespaces,
    semantics::Vary,
    store::{Entry, Http, KeyHasher, Stamp},
    tape::Tape,
};

/// The fills of a layer that are under way, and the keys for which it is not worth while to wait for one.
pub(crate) struct Flights {
    shards: Box<[Mutex<Shard>]>,
    flying: AtomicUsize,
    /// The same of all layers over one store.
    flying_of_all: Arc<AtomicUsize>,
    /// How many have landed.
    landings: AtomicU64,
    /// Whether a key was ever found unfit: most layers never see one.
    any_passes: AtomicBool,
    passes: Cache<u128, Nanos, quick_cache::UnitWeighter, BuildHasherDefault<KeyHasher>>,
    /// Inner calls that nothing of a shared store stands behind.
    blind: Arc<Semaphore>,
    limits: Limits,
}

type Shard = HashMap<u128, Arc<Flight>, BuildHasherDefault<KeyHasher>>;

/// The bounds of what one layer may have under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) flights: usize,
    pub(crate) blind: usize,
    pub(crate) waiters: usize,
    pub(crate) wait: Duration,
}

const SHARDS: usize = 32;

/// How many unfit keys are remembered at most.
const PASSES: usize = 16 << 10;

/// A fill under way.
pub(crate) struct Flight {
    key: Key,
    /// The stamp of its inner call, once that begins. Set under the lock of the shard: who joins sees one or the other.
    stamp: OnceLock<Stamp>,
    progress: Mutex<Progress>,
    moved: Notify,
    waiters: AtomicUsize,
    work: OnceLock<Arc<dyn Promote>>,
}

/// How far a fill is, for those who wait for it.
#[derive(Clone)]
pub(crate) enum Progress {
    /// The inner service has not answered, or its answer is not known to be fit yet.
    Calling,
    /// It is fit, and on its way.
    Arriving(Arc<Arriving>),
    Landed(Landing),
}

/// The fate of a fill.
#[derive(Clone)]
pub(crate) enum Landing {
    /// Whoever waits may have it.
    Stored(Arc<Shareable>),
    /// Not to be shared: all go alone, at once.
    NotShared,
    /// Its leader was lost: look again, and elect another.
    Lost,
}

/// A response that may be shared, with what a follower must check before it takes it.
pub(crate) struct Shareable {
    pub(crate) entry: Arc<Entry>,
    pub(crate) vary: Vary,
    /// Namespaces that were known only from the response: whether they live is asked at landing.
    pub(crate) added: Namespaces,
}

/// A response that may be shared, while its body is still coming. Its length is known, and not too large.
pub(crate) struct Arriving {
    pub(crate) key: Key,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) born: Nanos,
    pub(crate) length: u64,
    pub(crate) tape: Arc<Tape>,
    pub(crate) vary: Vary,
    pub(crate) added: Namespaces,
    pub(crate) http: Option<Box<Http>>,
}

/// What became of the wish to join.
pub(crate) enum Joined {
    Leads(Leader),
    Follows(Follower),
    /// There are as many flights, or waiters on this one, as there may be.
    Full,
}

impl Flights {
    pub(crate) fn new(limits: Limits, flying_of_all: Arc<AtomicUsize>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            flying: AtomicUsize::new(0),
            flying_of_all,
            landings: AtomicU64::new(0),
            any_passes: AtomicBool::new(false),
            passes: Cache::with(
                PASSES,
                PASSES as u64,
                quick_cache::UnitWeighter,
                BuildHasherDefault::default(),
                quick_cache::sync::DefaultLifecycle::default(),
            ),
            blind: Arc::new(Semaphore::new(limits.blind.min(Semaphore::MAX_PERMITS))),
            limits,
        }
    }

    /// Leave for an inner call under this stamp. Where the shared store cannot be reached, so many calls are made at a time as may
    /// be, and no more, however many requests the cache no longer keeps away from the inner service.
    pub(crate) async fn leave(&self, stamp: &Stamp) -> Option<OwnedSemaphorePermit> {
        match stamp.is_whole() {
            true => None,
            false => self.blind.clone().acquire_owned().await.ok(),
        }
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
    /// With a `stamp` the inner call begins at once; without, [`Leader::begins`] says when.
    pub(crate) fn join(self: &Arc<Self>, key: &Key, stamp: Option<&Stamp>, alive: impl Fn(&Stamp) -> bool) -> Joined {
        let mut shard = self.shard(key.hash());
        let mut before = None;
        if let Some(flight) = shard.get(&key.hash()) {
            if flight.key != *key {
                return Joined::Full;
            }
            let flight = flight.clone();
            if flight.stamp.get().is_none_or(alive) {
                // Counted before the list is let go: who lands takes the flight off it, and knows then who waits.
                let follower = self.follow(flight);
                drop(shard);
                return follower.map_or(Joined::Full, Follower::joined);
            }
            before = Some(flight);
        }
        if self.flying.fetch_add(1, Ordering::SeqCst) >= self.limits.flights {
            self.flying.fetch_sub(1, Ordering::SeqCst);
            return Joined::Full;
        }
        self.flying_of_all.fetch_add(1, Ordering::Relaxed);
        let flight = Arc::new(Flight {
            key: key.clone(),
            stamp: stamp.cloned().map_or_else(OnceLock::new, OnceLock::from),
            progress: Mutex::new(Progress::Calling),
            moved: Notify::const_new(),
            waiters: AtomicUsize::new(0),
            work: OnceLock::new(),
        });
        shard.insert(key.hash(), flight.clone());
        Joined::Leads(Leader { flights: self.clone(), flight, before, landed: false })
    }

    /// One more who waits for this flight, if so many may.
    fn follow(&self, flight: Arc<Flight>) -> Option<Follower> {
        if flight.waiters.fetch_add(1, Ordering::SeqCst) >= self.limits.waiters {
            flight.waiters.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        Some(Follower { flight })
    }

    /// Whether responses for this key were found unfit a moment ago.
    pub(crate) fn passes(&self, key: &Key, now: Nanos) -> bool {
        self.any_passes.load(Ordering::Relaxed) && self.passes.get(&key.hash()).is_some_and(|until| now < until)
    }

    /// Remembers that nobody should wait for this key.
    pub(crate) fn pass(&self, key: &Key, until: Nanos) {
        self.passes.insert(key.hash(), until);
        self.any_passes.store(true, Ordering::Relaxed);
    }

    /// A response for this key was fit after all.
    pub(crate) fn forget_pass(&self, key: &Key) {
        if self.any_passes.load(Ordering::Relaxed) {
            self.passes.remove(&key.hash());
        }
    }

    /// How many fills have landed. Where it is the same before a look at the store and after joining, nothing was stored between
    /// the two by a fill that could have been joined.
    #[inline]
    pub(crate) fn landings(&self) -> u64 {
        self.landings.load(Ordering::SeqCst)
    }

    fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        self.shards[(key >> 64) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlist(&self, flight: &Arc<Flight>) {
        let mut shard = self.shard(flight.key.hash());
        if shard.get(&flight.key.hash()).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            shard.remove(&flight.key.hash());
        }
    }

    fn remove(&self, flight: &Arc<Flight>) {
        self.unlist(flight);
        self.flying.fetch_sub(1, Ordering::SeqCst);
        self.flying_of_all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Flight {
    /// Names the work, so that the first who waits for it has it moved to a task; at once, if somebody waits already.
    pub(crate) fn is_worked_by(&self, work: Arc<dyn Promote>) {
        if self.work.set(work.clone()).is_ok() && self.waiters.load(Ordering::SeqCst) > 0 {
            work.promote();
        }
    }

    /// Waits until it arrives or lands.
    async fn moves(&self, until: Instant) -> Option<Progress> {
        let landing = async {
            loop {
                let moved = self.moved.notified();
                // A move between this look and the await is not missed: `Notified` counts from its creation.
                let progress = self.progress().clone();
                if !matches!(progress, Progress::Calling) {
                    return progress;
                }
                moved.await;
            }
        };
        tokio::time::timeout_at(until, landing).await.ok()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether somebody waits for it besides its leader.
impl Awaited for Flight {
    fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0
    }
}

/// Whoever fills. Dropped without a landing, it passes the baton: those who wait look again.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    /// The fill of the same key that could not be joined.
    before: Option<Arc<Flight>>,
    landed: bool,
}

impl Leader {
    /// The inner call begins now, under this stamp.
    pub(crate) fn begins(&mut self, stamp: &Stamp) {
        self.before = None;
        let _shard = self.flights.shard(self.flight.key.hash());
        let _ = self.flight.stamp.set(stamp.clone());
    }

    /// Where nothing says whether the fill before this one is still good, it is waited for: one call is running, one forming, and
    /// there is no third.
    pub(crate) async fn after_the_one_before(&self, until: Instant) {
        if let Some(before) = &self.before {
            before.moves(until).await;
        }
    }

    /// From here on nobody joins: what is read now says nothing of those who come later.
    pub(crate) fn closes(&self) {
        self.flights.unlist(&self.flight);
    }

    /// The flight, for naming its work.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        self.flight.clone()
    }

    /// The response is fit, and its body on the way.
    pub(crate) fn arrives(&self, arriving: Arriving) {
        *self.flight.progress() = Progress::Arriving(Arc::new(arriving));
        self.flight.moved.notify_waiters();
    }

    /// The end of the fill. To be called after the entry is stored: who comes later finds it there.
    pub(crate) fn land(self, landing: Landing) {
        self.land_with(|| landing);
    }

    /// The same, with what only those need who wait.
    pub(crate) fn land_with(mut self, landing: impl FnOnce() -> Landing) {
        self.landed = true;
        self.end(landing);
    }

    fn end(&self, landing: impl FnOnce() -> Landing) {
        // Before it can be missed in the list: who no longer finds it there sees that one more has landed.
        self.flights.landings.fetch_add(1, Ordering::SeqCst);
        self.flights.remove(&self.flight);
        // From here on nobody joins.
        let landing = if self.flight.is_awaited() { landing() } else { Landing::Lost };
        *self.flight.progress() = Progress::Landed(landing);
        self.flight.moved.notify_waiters();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !mem::replace(&mut self.landed, true) {
            self.end(|| Landing::Lost);
        }
    }
}

/// Whoever waits.
pub(crate) struct Follower {
    flight: Arc<Flight>,
}

impl Follower {
    /// Has the work moved to a task: it is not to be held up by how often who began it is polled.
    fn joined(self) -> Joined {
        if let Some(work) = self.flight.work.get() {
            work.clone().promote();
        }
        Joined::Follows(self)
    }

    /// The stamp of the fill that is waited for, if its call has begun.
    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.flight.stamp.get()
    }

    /// Waits until the fill arrives or lands; `None` if that takes longer than one may wait.
    pub(crate) async fn wait(&self, until: Instant) -> Option<Progress> {
        self.flight.moves(until).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flight.waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("limits", &self.limits).finish_non_exhaustive()
    }
}
