//! The memory store. Its size is limited in bytes, and epochs invalidate its entries.

use std::{
    fmt,
    future::{self, Future},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use quick_cache::{
    OptionsBuilder,
    sync::{Cache, EntryAction, EntryResult},
};

use super::{
    Store,
    backend::{Backend, Context, Fence, INVALIDATE_TIMEOUT, Put, StoreLookup},
    epochs::{Epochs, InvalidationKind},
    error::StoreError,
    eviction::{ByBytes, Evicted, EvictionListener, StoredEntry, address},
    expiry::{self, Expiry, Sweep},
    key_hasher::KeySeed,
    lock::Lock,
};
use crate::{
    clock::Clock,
    entry::{Entry, stamp::Stamp, validity::Validity},
    key::KeyRef,
    namespace::set::Namespaces,
    secret::Secret,
    stats::{counters::Count, usage::Usage, warnings::TRIAL},
};

/// Entries in the memory of this process.
///
/// **Bound.** The capacity is in bytes. It covers bodies, header fields, keys, namespaces, the slots of the table, the epochs and the
/// records of expiry. An entry that is larger than one shard's part of the capacity is not stored. The values of header fields and trailers
/// are copied, because they may be slices of a client's read buffer. A body of up to 64 KiB that is a slice of a larger buffer is copied as
/// well. A larger body that the handler gives as a slice of a shared buffer is kept as that slice, and the capacity does not count the rest
/// of the buffer.
///
/// Threads keep some memory outside the capacity. Each thread keeps at most 32 hot responses of at most 8 KiB each, which may outlive their
/// entries in the store for a while. Each thread that stores keeps the last entry that it evicted, for reuse by the next one, if that entry
/// takes at most 4 KiB without its body.
///
/// **Eviction.** [`quick_cache`] evicts with its variant of S3-FIFO and CLOCK-Pro, weighed by bytes. A scan of keys that are requested once
/// does not evict the keys that are requested often, and a hit takes no exclusive lock. The library was chosen by its hit ratio, compared
/// with TinyLFU, S3-FIFO and LRU on zipf and scan-polluted traces: `cargo bench --bench hit_ratio`. A hit on a hot response of its thread
/// writes to no memory that other threads read. One in sixteen of these hits is reported to the table, so that eviction knows about them.
///
/// Hit ratios at the same number of bytes. The first four rows leave room for a tenth of the keys or of the trace:
///
/// | trace | quick_cache | moka (TinyLFU) | S3-FIFO | LRU |
/// |---|---|---|---|---|
/// | zipf 0.99 | .785 | .784 | .778 | .725 |
/// | zipf 0.8 | .567 | .562 | .557 | .469 |
/// | a third of the requests in scans | .522 | .511 | .518 | .418 |
/// | social network (recorded), 10 % | .811 | .792 | .820 | |
/// | the same, 1 % | .662 | | .692 | |
/// | the same, 5 % | .773 | | .790 | |
/// | the same, 20 % | .839 | | .841 | |
/// | disk (recorded; two in five requests are new) | .227 | .298 | .295 | |
///
/// No setting of the library closes the gap on the recorded trace. Hot shares of .5 to .99, ghost lists of zero to one per entry, a quarter
/// to four times the estimated entries, and one to eight shards gave .792 to .811 at 10 %. S3-FIFO leads because it promotes only entries
/// with two hits, and counts hits from zero after the promotion. Without the second part it reaches .810. Foyer's S3-FIFO, which does not
/// count from zero, reached .811, and TinyUFO .786.
///
/// **Expiry.** An entry is removed within about two seconds after its time is over, stale use included, without another request for it. An
/// invalidated entry is removed when it is requested, or by a search in the background. The search takes at most six tenths of one processor
/// while it lasts, and a fifth on average. On one machine, 578,000 entries of 1 KiB had left 4.1 s after their invalidation
/// (`cargo bench --bench large_store`). The last handle of a store of 10,000 entries or more returns at once when it is dropped, and a thread
/// frees the memory.
///
/// **Invalidation.** A table of epochs of a fixed size has one slot per hash of a namespace. An invalidation takes the same time for one
/// entry and for a million. A response that was being computed meanwhile cannot be stored as if it were new.
///
/// A `Memory` is a handle: its clones share the entries. Give clones of one store to all layers that belong together.
#[derive(Clone)]
pub struct Memory(Arc<MemoryInner>);

struct MemoryInner {
    entries: Cache<u128, StoredEntry, ByBytes, KeySeed, EvictionListener>,
    epochs: Epochs,
    expiry: Expiry,
    context: Arc<Context>,
    capacity: u64,
    overhead: u64,
    /// The size of the largest entry that the table accepts, in bytes.
    largest: u64,
    dead_search: Mutex<DeadSearch>,
}

/// The search for invalidated entries. It passes over the table part by part.
#[derive(Default)]
struct DeadSearch {
    /// The part at which the search continues.
    part: usize,
    /// The epoch at the beginning of the last pass, which finds all entries that were invalidated before.
    epoch: u64,
    /// The time that the current pass has taken so far.
    spent: Duration,
    /// The number of sweeps until the next pass.
    pause: u32,
}

const MIB: usize = 1 << 20;

/// The time of a sweep for invalidated entries.
const SEARCH_TIME: Duration = Duration::from_millis(750);

/// The number of entries from which on a store is dropped by a thread of its own.
const LARGE: usize = 10_000;

/// The share of the capacity for entries that are requested often.
const HOT: f64 = 0.97;

/// The smallest capacity, in bytes. In a smaller store the tables alone would fill it.
pub(crate) const SMALLEST: usize = 64 << 10;

impl Memory {
    /// Returns a store of at most this many bytes.
    ///
    /// [`Memory::builder`] has the other settings.
    ///
    /// # Panics
    ///
    /// If `bytes` is less than 64 KiB.
    #[track_caller]
    pub fn new(bytes: usize) -> Self {
        Self::builder().capacity(bytes).build()
    }

    /// Returns a builder with default settings.
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder { capacity: 64 * MIB, clock: Clock::system(), secret: None, invalidate_timeout: INVALIDATE_TIMEOUT }
    }

    /// Removes expired entries now instead of within the next two seconds. For tests with a [`Clock::manual`].
    pub fn remove_expired(&self) {
        self.0.remove_expired();
    }
}

/// Methods for a store that keeps this memory in front of it.
#[cfg(feature = "redis")]
impl Memory {
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epochs.capture()
    }

    #[inline]
    pub(crate) fn look(&self, key: KeyRef<'_>) -> StoreLookup {
        self.0.look(key)
    }

    pub(crate) fn keep(&self, entry: Arc<Entry>) -> Put {
        self.0.keep(entry)
    }

    pub(crate) fn replace(&self, old: &Entry, entry: Arc<Entry>) -> bool {
        self.0.replace(old, entry)
    }

    /// Returns the validity of an entry that was found before, or `None` if it would not be found again.
    #[inline]
    pub(crate) fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        self.0.still_has(entry)
    }

    /// Removes this entry if it is still stored.
    pub(crate) fn forget(&self, entry: &Arc<Entry>) {
        self.0.remove_if(entry.key().hash(), |other| Arc::ptr_eq(other, entry));
    }

    /// Invalidates the epochs of all entries with one of these hashes.
    pub(crate) fn bump_hashes(&self, hashes: impl Iterator<Item = u64>) {
        self.0.epochs.bump(hashes, InvalidationKind::Hard);
    }

    /// Advances the epochs of a generation that this process has written: see [`Epochs::step_own`].
    pub(crate) fn step_own(&self, hashes: impl Iterator<Item = u64> + Clone, sent: u64) -> u64 {
        self.0.epochs.step_own(hashes, sent)
    }

    /// Returns the current epoch, for a stamp of these parts: see [`Epochs::renew`].
    pub(crate) fn renew(&self, parts: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
        self.0.epochs.renew(parts)
    }

    /// Returns the validity of an entry or a fill that began at `epoch`.
    #[inline]
    pub(crate) fn life_of(&self, epoch: u64, hashes: impl Iterator<Item = u64> + Clone) -> Validity {
        self.0.epochs.life(epoch, hashes)
    }
}

/// Has a capacity of 64 MiB.
impl Default for Memory {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// Settings of a [`Memory`].
///
/// ```
/// use tower_response_cache::{Clock, Memory, Store};
///
/// let clock = Clock::manual();
/// let store = Memory::builder().capacity(8 << 20).clock(clock.clone()).build();
/// assert_eq!(store.stats().capacity, 8 << 20);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct MemoryBuilder {
    capacity: usize,
    clock: Clock,
    secret: Option<Secret>,
    invalidate_timeout: Duration,
}

impl MemoryBuilder {
    /// Sets the time that an explicit invalidation waits for the shared store behind this memory.
    #[cfg(feature = "redis")]
    pub(crate) fn invalidate_timeout(mut self, limit: Duration) -> Self {
        self.invalidate_timeout = limit;
        self
    }

    #[cfg(feature = "redis")]
    pub(crate) fn hashes_with(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Sets the capacity in bytes. Defaults to 64 MiB.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    /// Sets the clock by which entries expire. Defaults to [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the key under which tokens, cookies and other secrets are hashed before they enter a cache key or a namespace. Defaults to a
    /// random key.
    ///
    /// ```
    /// use tower_response_cache::{Memory, Store};
    ///
    /// let store = Memory::builder().secret([7; 32]).build();
    /// let same = Memory::builder().secret([7; 32]).build();
    /// assert_eq!(store.identity("token"), same.identity("token"));
    /// assert_ne!(store.identity("token"), Memory::default().identity("token"));
    /// ```
    pub fn secret(mut self, key: [u8; 32]) -> Self {
        self.secret = Some(Secret::new(key));
        self
    }

    /// Builds the store.
    ///
    /// # Panics
    ///
    /// If the capacity is less than 64 KiB.
    #[track_caller]
    pub fn build(self) -> Memory {
        let bytes = self.capacity;
        assert!(bytes >= SMALLEST, "invalid capacity {bytes}: expected at least {SMALLEST} bytes (64 KiB)");
        let slots = (bytes / 1024).next_power_of_two().clamp(1 << 10, 1 << 16);
        // A low estimate costs little. A high one lowers the hit ratio.
        let estimate = (bytes / 4096).max(16);
        let overhead = (Epochs::heap(slots) + Expiry::heap(estimate)) as u64;
        let room = bytes as u64 - overhead.min(bytes as u64 / 2);
        // A shard must have room for several of the largest bodies that rules allow by default.
        let shards = (bytes / (8 * MIB)).clamp(1, 16).next_power_of_two();
        // Each shard gets an equal part. The table would round a part up, so nothing may be left to round.
        let room = room / shards as u64 * shards as u64;
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(estimate)
            .weight_capacity(room)
            .hot_allocation(HOT)
            .build()
            .expect("all that is needed is set");
        let context = Context::new(self.clock, self.secret.unwrap_or_else(Secret::random));
        let context = Arc::new(Context { invalidate_timeout: self.invalidate_timeout, ..context });
        let listener = EvictionListener(context.clone());
        let entries = Cache::with_options(options, ByBytes, KeySeed::random(), listener);
        // The table evicts an entry at once that does not fit into the hot part of a shard.
        let largest = (entries.shard_capacity() as f64 * HOT) as u64;
        let shared = Arc::new(MemoryInner {
            entries,
            epochs: Epochs::new(slots),
            expiry: Expiry::new(estimate),
            context,
            capacity: bytes as u64,
            overhead,
            largest,
            dead_search: Mutex::default(),
        });
        let swept: Weak<dyn Sweep> = Arc::downgrade(&(shared.clone() as Arc<dyn Sweep>));
        expiry::sweep_until_dropped(swept);
        Memory(shared)
    }
}

impl Memory {
    /// Gives a large store to a thread that drops it. The last two handles may be dropped at the same time and both see the other one. The
    /// store is then dropped at once.
    #[cold]
    fn drop_elsewhere_if_large(&self) {
        if self.0.entries.len() >= LARGE {
            let inner = self.0.clone();
            let drop_last = move || {
                // The caller still has its handle for a moment.
                while Arc::strong_count(&inner) > 1 {
                    thread::sleep(Duration::from_millis(1));
                }
                drop(inner);
            };
            // Without a thread, the closure and the store in it are dropped here.
            let _ = thread::Builder::new().name("response-cache-drop".into()).spawn(drop_last);
        }
    }
}

impl MemoryInner {
    #[inline]
    fn look(&self, key: KeyRef<'_>) -> StoreLookup {
        // Captured before the entry is read: the stamp must not be newer than the entry.
        let stamp = Stamp::local(self.epochs.capture());
        let found = self.entries.get(&key.hash()).and_then(|stored| self.checked(key, stored.entry));
        StoreLookup { found, stamp }
    }

    /// Returns the result of [`look`](Self::look). The entry does not count as used, and an invalidated one is not removed.
    fn peek(&self, key: KeyRef<'_>) -> StoreLookup {
        let stamp = Stamp::local(self.epochs.capture());
        let entry = self.entries.peek(&key.hash()).map(|stored| stored.entry).filter(|entry| entry.key().as_ref() == key);
        StoreLookup { found: entry.and_then(|entry| self.still_has(&entry).map(|life| (entry, life))), stamp }
    }

    #[inline]
    fn checked(&self, key: KeyRef<'_>, entry: Arc<Entry>) -> Option<(Arc<Entry>, Validity)> {
        if entry.key().as_ref() != key {
            return None;
        }
        match self.validity(&entry) {
            Validity::Invalidated => {
                self.remove_if(key.hash(), |other| Arc::ptr_eq(other, &entry));
                None
            }
            validity => Some((entry, validity)),
        }
    }

    #[inline]
    fn validity(&self, entry: &Entry) -> Validity {
        self.epochs.life(entry.stamp().epoch(), entry.namespaces().hashes())
    }

    #[inline(always)]
    fn still_has(&self, entry: &Entry) -> Option<Validity> {
        if entry.is_removed() { None } else { Some(self.validity(entry)).filter(|validity| *validity != Validity::Invalidated) }
    }

    fn keep(&self, entry: Arc<Entry>) -> Put {
        if self.validity(&entry) == Validity::Invalidated {
            return Put::Dead;
        }
        if entry.weight() > self.largest {
            return Put::TooLarge;
        }
        let (key, expires) = (entry.key().hash(), entry.times().expires());
        let mut evicted = Evicted { inserted: key, entry: address(&entry), ..Evicted::default() };
        let stored = StoredEntry { entry, record: self.expiry.add(key, expires) };
        self.entries.insert_with_lifecycle(key, stored, &mut evicted);
        self.forget_evicted(evicted);
        Put::Stored
    }

    /// Stores an entry in the place of `old`, if `old` is still stored. The table is locked during the comparison and reserves the place
    /// until the new entry is in it. If another entry arrives meanwhile, that one stays.
    fn replace(&self, old: &Entry, entry: Arc<Entry>) -> bool {
        let key = entry.key().hash();
        let is_old = |stored: &StoredEntry| stored.entry.key() == entry.key() && stored.entry.is_same_response(old);
        // Checked first, because asking the table for the place of a removed entry would create one.
        if self.validity(&entry) == Validity::Invalidated
            || entry.weight() > self.largest
            || !self.entries.peek(&key).is_some_and(|stored| is_old(&stored))
        {
            return false;
        }
        let action = |_: &u128, stored: &mut StoredEntry| match is_old(stored) {
            true => EntryAction::ReplaceWithGuard,
            false => EntryAction::Retain(()),
        };
        let EntryResult::Replaced(place, before) = self.entries.entry(&key, Some(Duration::ZERO), action) else { return false };
        before.entry.mark_removed();
        self.expiry.remove(key, before.record);
        let record = self.expiry.add(key, entry.times().expires());
        let mut evicted = Evicted { inserted: key, entry: address(&entry), ..Evicted::default() };
        let put = place.insert_with_lifecycle(StoredEntry { entry, record }, &mut evicted);
        self.forget_evicted(evicted);
        put.map_err(|stored| self.expiry.remove(key, stored.record)).is_ok()
    }

    /// Forgets the expiry of the entries that left the table during an insertion, and recycles the last one.
    fn forget_evicted(&self, evicted: Evicted) {
        let Evicted { last, more, .. } = evicted;
        for (key, stored) in &more {
            self.expiry.remove(*key, stored.record);
        }
        if let Some((key, StoredEntry { entry, record })) = last {
            self.expiry.remove(key, record);
            Entry::put_aside(entry);
        }
    }

    /// Removes the entry of a key if it satisfies `is_such`. Every removal from the table marks the entry as removed.
    fn remove_if(&self, key: u128, condition: impl FnOnce(&Arc<Entry>) -> bool) -> bool {
        let removed = self.entries.remove_if(&key, |stored| condition(&stored.entry));
        if let Some((key, stored)) = &removed {
            stored.entry.mark_removed();
            self.expiry.remove(*key, stored.record);
        }
        removed.is_some()
    }

    fn remove_expired(&self) {
        let now = self.context.clock.nanos();
        for key in self.expiry.due(now) {
            if self.remove_if(key, |entry| entry.times().expires() <= now) {
                self.context.counters.add(Count::Expired, 1);
            }
        }
    }

    /// Removes invalidated entries, if there was an invalidation since the last pass. A sweep searches for [`SEARCH_TIME`] at most, and a pass is
    /// followed by a pause of four times its duration.
    #[cold]
    fn remove_dead(&self) {
        let mut search = self.dead_search.lock().unwrap_or_else(PoisonError::into_inner);
        if search.pause > 0 {
            search.pause -= 1;
            return;
        }
        let begin = Instant::now();
        while begin.elapsed() < SEARCH_TIME {
            if search.part == 0 {
                let epoch = self.epochs.capture();
                if search.epoch == epoch {
                    return;
                }
                (search.epoch, search.spent) = (epoch, Duration::ZERO);
            }
            self.remove_dead_of(search.part);
            search.part = (search.part + 1) % self.expiry.parts();
            if search.part == 0 {
                let spent = search.spent + begin.elapsed();
                search.pause = (4 * spent).div_duration_f64(expiry::TICK) as u32;
                return;
            }
        }
        search.spent += begin.elapsed();
    }

    #[cold]
    fn remove_dead_of(&self, part: usize) {
        let is_dead = |entry: &Arc<Entry>| self.validity(entry) == Validity::Invalidated;
        for key in self.expiry.part(part) {
            // Most entries are valid, and a peek does not lock out readers.
            if self.entries.peek(&key).is_some_and(|stored| is_dead(&stored.entry)) {
                self.remove_if(key, is_dead);
            }
        }
    }
}

impl Sweep for MemoryInner {
    fn sweep(&self) {
        self.remove_expired();
        self.remove_dead();
        self.context.counters.warns_of_unmatched(TRIAL);
    }
}

/// A large store is dropped by a thread of its own, so that no request waits for it.
impl Drop for Memory {
    #[inline]
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) == 1 {
            self.drop_elsewhere_if_large();
        }
    }
}

impl Store for Memory {}

impl Backend for Memory {
    #[inline]
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        Some(self.0.look(key))
    }

    #[inline]
    fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        self.0.still_has(entry)
    }

    fn get(&self, key: KeyRef<'_>, _: &Namespaces) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        future::ready(Ok(self.0.look(key)))
    }

    fn peek(&self, key: KeyRef<'_>, _: &Namespaces, _: usize) -> impl Future<Output = Result<StoreLookup, StoreError>> + Send {
        future::ready(Ok(self.0.peek(key)))
    }

    fn sample(&self, limit: usize) -> Vec<Arc<Entry>> {
        self.0.entries.iter().take(limit).map(|(_, stored)| stored.entry).collect()
    }

    fn put(&self, entry: Arc<Entry>, _: Option<Lock>) -> impl Future<Output = Result<Put, StoreError>> + Send {
        future::ready(Ok(self.0.keep(entry)))
    }

    fn put_now(&self, entry: &Arc<Entry>) -> Option<Put> {
        Some(self.0.keep(entry.clone()))
    }

    fn replace(&self, old: &Entry, entry: Arc<Entry>) -> impl Future<Output = Result<bool, StoreError>> + Send {
        future::ready(Ok(self.0.replace(old, entry)))
    }

    fn fence(&self, _: &Namespaces) -> impl Future<Output = Result<Fence, StoreError>> + Send {
        // A fence covers the death of a process between its commit and its invalidation. This memory dies with the process.
        future::ready(Ok(Fence::none()))
    }

    fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        _: Option<Fence>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        self.0.epochs.bump(names.hashes(), kind);
        future::ready(Ok(()))
    }

    fn bump_now(&self, names: &Namespaces) {
        self.0.epochs.bump(names.hashes(), InvalidationKind::Hard);
    }

    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity {
        self.0.epochs.life(stamp.epoch(), names.hashes())
    }

    #[inline]
    fn context(&self) -> &Context {
        &self.0.context
    }

    fn usage(&self) -> Usage {
        Usage {
            entries: self.0.entries.len() as u64,
            bytes: self.0.entries.weight() + self.0.overhead,
            capacity: self.0.capacity,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::{
        entry::{Content, Draft, times::Times},
        key::Key,
    };

    fn entry(store: &Memory, n: u64) -> Arc<Entry> {
        entry_of(store, n, vec![0; 100].into())
    }

    fn entry_of(store: &Memory, n: u64, body: bytes::Bytes) -> Arc<Entry> {
        let mut names = Namespaces::root();
        names.push(if n.is_multiple_of(2) { "even" } else { "odd" });
        let now = store.context().clock.nanos();
        let later = now + 1_000_000_000_000;
        let times = Times {
            born: now,
            fresh_until: later,
            while_revalidate_until: later,
            if_error_until: later,
            kept_until: later,
            cost: 0,
        };
        let (status, headers) = (StatusCode::OK, HeaderMap::new().into());
        let content = Content::Response { status, headers, body, trailers: None };
        let stamp = Stamp::local(store.0.epochs.capture());
        Arc::new(Entry::new(Key::new(n.to_le_bytes()), stamp, Draft { names, times, content, http: None }))
    }
    #[test]
    fn invalidated_entries_leave_with_the_next_pass() {
        let store = Memory::new(4 * MIB);
        for n in 0..1_000 {
            assert_eq!(store.0.keep(entry(&store, n)), Put::Stored);
        }
        let pass = || {
            store.0.sweep();
            while store.0.dead_search.lock().expect("no panic").part > 0 {
                store.0.sweep();
            }
        };
        store.bump_now(&Namespaces::exactly(&[crate::namespace::Namespace::new("even").expect("a name")]));
        pass();
        assert_eq!(store.usage().entries, 500);
        store.bump_now(&Namespaces::exactly(&[crate::namespace::Namespace::root()]));
        store.0.dead_search.lock().expect("no panic").pause = 0;
        pass();
        assert_eq!((store.usage().entries, store.usage().bytes), (0, store.0.overhead));
        assert_eq!(store.0.expiry.records(), 0);
    }

    #[test]
    fn long_pass_is_followed_by_a_pause() {
        let store = Memory::new(4 * MIB);
        assert_eq!(store.0.keep(entry(&store, 0)), Put::Stored);
        store.bump_now(&Namespaces::exactly(&[crate::namespace::Namespace::root()]));
        *store.0.dead_search.lock().expect("no panic") =
            DeadSearch { part: store.0.expiry.parts() - 1, epoch: 0, spent: Duration::from_secs(1), pause: 2 };
        store.0.sweep();
        store.0.sweep();
        assert_eq!(store.0.dead_search.lock().expect("no panic").pause, 0);
        store.0.sweep();
        assert!(store.0.dead_search.lock().expect("no panic").pause >= 4);
    }

    /// Sends the name of the thread that drops it.
    struct Dropped(Vec<u8>, std::sync::mpsc::Sender<Option<String>>);

    impl AsRef<[u8]> for Dropped {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.1.send(thread::current().name().map(str::to_owned));
        }
    }

    #[test]
    fn large_store_is_dropped_by_another_thread() {
        for (entries, is_large) in [(LARGE as u64, true), (100, false)] {
            let store = Memory::new(256 * MIB);
            let (send, dropped) = std::sync::mpsc::channel();
            (0..entries).for_each(|n| assert_eq!(store.0.keep(entry_of(&store, n, vec![0; 100].into())), Put::Stored));
            let body = bytes::Bytes::from_owner(Dropped(vec![0; 100_000], send));
            assert_eq!(store.0.keep(entry_of(&store, entries, body)), Put::Stored);
            drop(store);
            let thread = dropped.recv().expect("it is dropped");
            // The thread that removes expired entries may hold the store at this moment, and drops it then.
            match is_large {
                true => assert_ne!(thread.as_deref(), thread::current().name()),
                false => assert_ne!(thread.as_deref(), Some("response-cache-drop")),
            }
        }
    }

    #[test]
    fn key_with_an_equal_hash_is_not_served() {
        let store = Memory::new(MIB);
        let (entry, key) = (entry(&store, 1), Key::new(*b"other").hash());
        let record = store.0.expiry.add(key, entry.times().expires());
        store.0.entries.insert(key, StoredEntry { entry, record });
        assert!(store.0.look(Key::new(*b"other").as_ref()).found.is_none());
    }

    #[tokio::test]
    async fn invalidated_key_ends_older_stamps() {
        let (store, key) = (Memory::default(), Key::new(*b"key"));
        let lookup = store.get_now(key.as_ref()).expect("memory answers at once");
        let validity = || store.life(&lookup.stamp, &Namespaces::key(&key));
        assert_eq!(validity(), Validity::Valid);
        store.invalidate_key(&key).await.expect("memory always succeeds");
        assert_eq!(validity(), Validity::Invalidated);
    }
}
