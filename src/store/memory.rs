//! Memory: bounded by bytes, cleared by epochs.

use std::{
    fmt,
    future::{self, Future},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quick_cache::{
    Lifecycle, OptionsBuilder, Weighter,
    sync::{Cache, EntryAction, EntryResult},
};

use super::{
    Store,
    backend::{Backend, Context, Fence, INVALIDATE_TIMEOUT, Put, StoreLookup},
    epochs::{Epochs, InvalidationKind},
    error::StoreError,
    expiry::{self, Expiry, Noted, Sweep},
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

/// Entries in this process's memory.
///
/// **Bound.** The capacity is in bytes, and everything counts: bodies, header fields, keys, namespaces, the slots of the
/// table, the epochs, the records of expiry. An entry larger than a shard's part of the capacity is not kept. Values of header fields
/// and trailers are copied, since they are slices of the buffers of a client where they come from one. One thing is not seen: a body above 64 KiB that the handler gives as a slice of a larger buffer, and still shares, is kept as that slice
/// and holds the whole buffer. Smaller ones are copied out of theirs.
/// Beside the capacity stands what threads keep: each has at hand at most 32 of the responses that it was asked for most, of at most
/// 8 KiB each, which it may hold for a while longer than the store does; and each that stores keeps aside the last entry that it has
/// evicted, if that takes no more than 4 KiB without its body, for the next one to take its place.
///
/// **Eviction.** [`quick_cache`] with its variant of S3-FIFO and CLOCK-Pro, weighed by bytes: a scan of keys that are
/// asked for once does not wash out those that are asked for often, and a hit takes no exclusive lock. It was chosen by
/// hit ratio against TinyLFU, S3-FIFO and LRU on zipf and scan-polluted traces: `cargo bench --bench hit_ratio`.
/// A hit on what its thread has at hand writes to nothing that other threads read, however many of them ask for it; one in sixteen
/// is told to the table, so that it knows what is asked for.
///
/// At the same bytes its hit ratio, moka's (TinyLFU), S3-FIFO's and LRU's were .785, .784, .778 and .725 on zipf 0.99 with
/// room for a tenth, .567, .562, .557 and .469 on zipf 0.8, and .522, .511, .518 and .418 with a third of the requests in
/// scans. On a recorded trace of a social network it was .811, where S3-FIFO had .820 and moka .792.
/// With room for 1, 5, 10 and 20 % of that trace it was .662, .773, .811 and .839, where S3-FIFO had .692, .790, .820 and .841.
/// No setting of the library that was tried closes that: with .5 to .99 for what is hot, no ghosts to one for each entry, a quarter to
/// four times the estimate of entries, and one to eight shards it was .792 to .811 at 10 %. S3-FIFO owes its lead to taking in for good
/// only what was hit twice, and to counting anew from there: without the latter it has .810. That of foyer, which does not count anew,
/// had .811, TinyUFO .786. Where two in five requests are for something new, as in a recorded trace of a disk, it is at its worst: .227,
/// where S3-FIFO had .295 and moka .298.
///
/// **Expiry.** An entry whose time is over, stale use included, is removed within about two seconds without being asked
/// for again. What an invalidation has killed is removed when it is asked for, or within about a minute.
///
/// **Invalidation.** A fixed table of epochs, one slot per hash of a namespace: clearing takes the same time for one
/// entry and for a million, and a response that was being computed meanwhile cannot be stored as if it were new.
///
/// A `Memory` is a handle: its clones share the entries. Give one to every layer that belongs together.
#[derive(Clone)]
pub struct Memory(Arc<MemoryInner>);

struct MemoryInner {
    entries: Cache<u128, StoredEntry, ByBytes, KeySeed, EvictionListener>,
    epochs: Epochs,
    expiry: Expiry,
    context: Arc<Context>,
    capacity: u64,
    overhead: u64,
    /// What the table takes at most in one entry.
    largest: u64,
    /// Where the search for dead entries goes on, and the epoch up to which all of them were found.
    next_part: AtomicUsize,
    swept: AtomicU64,
}

/// An entry as the table has it.
#[derive(Clone)]
struct StoredEntry {
    entry: Arc<Entry>,
    noted: Noted,
}

const MIB: usize = 1 << 20;

/// The share of the room for what is asked for often.
const HOT: f64 = 0.97;

/// The smallest capacity that is any use: below it the tables alone would fill it.
const SMALLEST: usize = 64 << 10;

impl Memory {
    /// A store of at most so many bytes.
    ///
    /// # Panics
    ///
    /// If that is less than 64 KiB. [`Memory::builder`] has the other settings.
    #[track_caller]
    pub fn new(bytes: usize) -> Self {
        Self::builder().capacity(bytes).build()
    }

    /// A store with settings of one's own.
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder { capacity: 64 * MIB, clock: Clock::system(), secret: None, invalidate_timeout: INVALIDATE_TIMEOUT }
    }

    /// Removes what has expired now rather than within the next two seconds. For tests with a [`Clock::manual`].
    pub fn remove_expired(&self) {
        self.0.remove_expired();
    }
}

/// What a store needs of the memory in front of it.
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

    /// What has become of an entry that was found, if it would be found again.
    #[inline]
    pub(crate) fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        self.0.still_has(entry)
    }

    /// Removes an entry, if it is still there.
    pub(crate) fn forget(&self, entry: &Arc<Entry>) {
        self.0.remove_if(entry.key().hash(), |other| Arc::ptr_eq(other, entry));
    }

    /// Steps the epochs of all that have one of these hashes.
    pub(crate) fn bump_hashes(&self, hashes: impl Iterator<Item = u64>) {
        self.0.epochs.bump(hashes, InvalidationKind::Hard);
    }

    /// Steps the epochs of a generation that this process has written: see [`Epochs::step_own`].
    pub(crate) fn step_own(&self, hashes: impl Iterator<Item = u64> + Clone, sent: u64) -> u64 {
        self.0.epochs.step_own(hashes, sent)
    }

    /// The current epoch, for a stamp of these parts: see [`Epochs::renew`].
    pub(crate) fn renew(&self, parts: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
        self.0.epochs.renew(parts)
    }

    /// What has become of what began under an epoch.
    #[inline]
    pub(crate) fn life_of(&self, epoch: u64, hashes: impl Iterator<Item = u64> + Clone) -> Validity {
        self.0.epochs.life(epoch, hashes)
    }
}

/// 64 MiB.
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

/// The settings of a [`Memory`].
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
    /// How long an explicit invalidation of the store behind waits.
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

    /// The most bytes it may hold. Defaults to 64 MiB.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    /// The clock by which entries expire. Defaults to [`Clock::system`].
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

    /// The store.
    ///
    /// # Panics
    ///
    /// If the capacity is less than 64 KiB.
    #[track_caller]
    pub fn build(self) -> Memory {
        let bytes = self.capacity;
        assert!(bytes >= SMALLEST, "a memory store of {bytes} bytes is too small: at least {SMALLEST} (64 KiB)");
        let slots = (bytes / 1024).next_power_of_two().clamp(1 << 10, 1 << 16);
        // Too low a guess of how many entries there will be costs little, too high a one some of the hit ratio.
        let estimate = (bytes / 4096).max(16);
        let overhead = (Epochs::heap(slots) + Expiry::heap(estimate)) as u64;
        let room = bytes as u64 - overhead.min(bytes as u64 / 2);
        // A shard must have room for several of the largest bodies that rules allow by default.
        let shards = (bytes / (8 * MIB)).clamp(1, 16).next_power_of_two();
        // Each takes the same part, rounded up by the table: nothing may be left to round.
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
        let leavings = EvictionListener(context.clone());
        let entries = Cache::with_options(options, ByBytes, KeySeed::random(), leavings);
        // As the table reckons it: what does not fit in the part for what is asked for often is thrown out at once.
        let largest = (entries.shard_capacity() as f64 * HOT) as u64;
        let shared = Arc::new(MemoryInner {
            entries,
            epochs: Epochs::new(slots),
            expiry: Expiry::new(estimate),
            context,
            capacity: bytes as u64,
            overhead,
            largest,
            next_part: AtomicUsize::new(0),
            swept: AtomicU64::new(0),
        });
        let swept: Weak<dyn Sweep> = Arc::downgrade(&(shared.clone() as Arc<dyn Sweep>));
        expiry::sweep_for_life(swept);
        Memory(shared)
    }
}

impl MemoryInner {
    #[inline]
    fn look(&self, key: KeyRef<'_>) -> StoreLookup {
        // Before the entry is looked for: what the stamp is compared with later must not be newer than what was seen.
        let stamp = Stamp::local(self.epochs.capture());
        let found = self.entries.get(&key.hash()).and_then(|kept| self.judge(key, kept.entry));
        StoreLookup { found, stamp }
    }

    #[inline]
    fn judge(&self, key: KeyRef<'_>, entry: Arc<Entry>) -> Option<(Arc<Entry>, Validity)> {
        if entry.key().as_ref() != key {
            return None;
        }
        match self.life(&entry) {
            Validity::Invalidated => {
                self.remove_if(key.hash(), |other| Arc::ptr_eq(other, &entry));
                None
            }
            life => Some((entry, life)),
        }
    }

    #[inline]
    fn life(&self, entry: &Entry) -> Validity {
        self.epochs.life(entry.stamp().epoch(), entry.namespaces().hashes())
    }

    #[inline]
    fn still_has(&self, entry: &Entry) -> Option<Validity> {
        if entry.has_left() { None } else { Some(self.life(entry)).filter(|life| *life != Validity::Invalidated) }
    }

    fn keep(&self, entry: Arc<Entry>) -> Put {
        if self.life(&entry) == Validity::Invalidated {
            return Put::Dead;
        }
        if entry.weight() > self.largest {
            return Put::TooLarge;
        }
        let (key, expires) = (entry.key().hash(), entry.times().expires());
        let mut leaving = Evicted { coming: key, entry: address(&entry), ..Evicted::default() };
        let kept = StoredEntry { entry, noted: self.expiry.note(key, expires) };
        self.entries.insert_with_lifecycle(key, kept, &mut leaving);
        self.let_go(leaving);
        Put::Stored
    }

    /// Keeps an entry in the place of another, if that is there. The table is locked for the comparison and holds the place until the new
    /// entry is in it, unless another entry comes for it: then that stays.
    fn replace(&self, old: &Entry, entry: Arc<Entry>) -> bool {
        let key = entry.key().hash();
        let is_old = |kept: &StoredEntry| kept.entry.key() == entry.key() && kept.entry.is_same_response(old);
        // Looked at first: to ask for the place of an entry that is gone would make one.
        if self.life(&entry) == Validity::Invalidated
            || entry.weight() > self.largest
            || !self.entries.peek(&key).is_some_and(|kept| is_old(&kept))
        {
            return false;
        }
        let action = |_: &u128, kept: &mut StoredEntry| match is_old(kept) {
            true => EntryAction::ReplaceWithGuard,
            false => EntryAction::Retain(()),
        };
        let EntryResult::Replaced(place, before) = self.entries.entry(&key, Some(Duration::ZERO), action) else { return false };
        before.entry.leave();
        self.expiry.forget(key, before.noted);
        let noted = self.expiry.note(key, entry.times().expires());
        let mut leaving = Evicted { coming: key, entry: address(&entry), ..Evicted::default() };
        let put = place.insert_with_lifecycle(StoredEntry { entry, noted }, &mut leaving);
        self.let_go(leaving);
        put.map_err(|kept| self.expiry.forget(key, kept.noted)).is_ok()
    }

    /// What has left the table while an entry came.
    fn let_go(&self, leaving: Evicted) {
        let Evicted { last, more, .. } = leaving;
        for (key, kept) in &more {
            self.expiry.forget(*key, kept.noted);
        }
        if let Some((key, StoredEntry { entry, noted })) = last {
            self.expiry.forget(key, noted);
            Entry::put_aside(entry);
        }
    }

    /// Removes the entry of a key, if it is such a one. Every way out of the table tells the entry that it has left.
    fn remove_if(&self, key: u128, is_such: impl FnOnce(&Arc<Entry>) -> bool) -> bool {
        let removed = self.entries.remove_if(&key, |kept| is_such(&kept.entry));
        if let Some((key, kept)) = &removed {
            kept.entry.leave();
            self.expiry.forget(*key, kept.noted);
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

    /// Looks through one part of the table for entries that a bump has killed, if there was a bump since it was last
    /// looked through.
    fn remove_dead(&self) {
        let part = self.next_part.load(Ordering::Relaxed);
        let epoch = self.epochs.capture();
        if part == 0 && self.swept.load(Ordering::Relaxed) == epoch {
            return;
        }
        for key in self.expiry.part(part) {
            self.remove_if(key, |entry| self.life(entry) == Validity::Invalidated);
        }
        if part == 0 {
            self.swept.store(epoch, Ordering::Relaxed);
        }
        self.next_part.store((part + 1) % self.expiry.parts(), Ordering::Relaxed);
    }
}

impl Sweep for MemoryInner {
    fn sweep(&self) {
        self.remove_expired();
        self.remove_dead();
        self.context.counters.warns_of_unmatched(TRIAL);
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
        // Fences bridge the death of a process between its commit and its bump; this memory dies with the process.
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

#[derive(Clone)]
struct ByBytes;

impl Weighter<u128, StoredEntry> for ByBytes {
    fn weight(&self, _: &u128, kept: &StoredEntry) -> u64 {
        kept.entry.weight()
    }
}

/// Tells entries that they have left, and counts those that have made room.
#[derive(Clone)]
struct EvictionListener(Arc<Context>);

/// What leaves the table while an entry comes: under its key that is what it replaces, unless it is the very entry. It is let go once the
/// table is unlocked.
#[derive(Default)]
struct Evicted {
    coming: u128,
    entry: usize,
    last: Option<(u128, StoredEntry)>,
    more: Vec<(u128, StoredEntry)>,
}

fn address(entry: &Arc<Entry>) -> usize {
    Arc::as_ptr(entry).addr()
}

impl Lifecycle<u128, StoredEntry> for EvictionListener {
    type RequestState = Evicted;

    #[inline]
    fn on_evict(&self, leaving: &mut Evicted, key: u128, kept: StoredEntry) {
        kept.entry.leave();
        if key != leaving.coming || address(&kept.entry) == leaving.entry {
            self.0.counters.add(Count::Evicted, 1);
        }
        if let Some(before) = leaving.last.replace((key, kept)) {
            leaving.more.push(before);
        }
    }
}

/// Places the hashes of keys in a table. Anybody can compute these hashes, and so targets that share half of one: where they stand in a
/// table is for a seed of its own to say.
#[derive(Clone, Copy)]
pub(crate) struct KeySeed(u64, u64);

impl KeySeed {
    /// In debug builds always the same, so that tests come out the same.
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        match cfg!(debug_assertions) {
            true => Self(0x6b65_7973, 0x7461_626c_6573),
            false => Self(random.hash_one(0), random.hash_one(1)),
        }
    }

    /// The place of a key among all.
    #[inline]
    pub(crate) fn place(self, key: u128) -> u64 {
        let product = u128::from(key as u64 ^ self.0) * u128::from((key >> 64) as u64 ^ self.1);
        (product >> 64) as u64 ^ product as u64
    }
}

impl BuildHasher for KeySeed {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { seed: *self, place: 0 }
    }
}

pub(crate) struct KeyHasher {
    seed: KeySeed,
    place: u64,
}

impl Hasher for KeyHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.place
    }

    #[inline]
    fn write_u128(&mut self, key: u128) {
        self.place = self.seed.place(key);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.place = self.place.rotate_left(8) ^ u64::from(*byte);
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
        let (status, headers) = (StatusCode::OK, HeaderMap::new());
        let content = Content::Response { status, headers, body: vec![0; 100].into(), trailers: None };
        let stamp = Stamp::local(store.0.epochs.capture());
        Arc::new(Entry::new(Key::new(n.to_le_bytes()), stamp, Draft { names, times, content, http: None }))
    }
    #[test]
    fn invalidated_entry_leaves_within_two_sweeps() {
        let store = Memory::new(4 * MIB);
        for n in 0..1_000 {
            assert_eq!(store.0.keep(entry(&store, n)), Put::Stored);
        }
        store.bump_now(&Namespaces::exactly(&[crate::namespace::Namespace::new("even").expect("a name")]));
        for _ in 0..2 * store.0.expiry.parts() {
            store.0.sweep();
        }
        assert_eq!(store.usage().entries, 500);
        // The next round finds those that a bump in the middle of a round has killed.
        store.0.sweep();
        store.bump_now(&Namespaces::exactly(&[crate::namespace::Namespace::root()]));
        for _ in 0..2 * store.0.expiry.parts() {
            store.0.sweep();
        }
        assert_eq!((store.usage().entries, store.usage().bytes), (0, store.0.overhead));
        assert_eq!(store.0.expiry.records(), 0);
    }
    #[test]
    fn key_with_an_equal_hash_is_not_served() {
        let store = Memory::new(MIB);
        let (entry, key) = (entry(&store, 1), Key::new(*b"other").hash());
        let noted = store.0.expiry.note(key, entry.times().expires());
        store.0.entries.insert(key, StoredEntry { entry, noted });
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
