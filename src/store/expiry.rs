//! Removal of expired entries from memory, without another request for them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    thread,
    time::Duration,
};

use crate::clock::{self, Nanos};

/// Resolution of deadlines. An expired entry is removed within about this time and [`TICK`].
const BUCKET: Nanos = 1_000_000_000;

/// Period of the janitor.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// The largest number of shards.
const SHARDS: usize = 64;

/// The number of slots of a wheel. Each visit to a slot also passes the records that are due this many buckets later, or a multiple of it.
const SLOTS: usize = 256;

/// The times at which keys expire: one wheel of lists for each shard. Code that removes an entry from the store removes its record from
/// here as well, so that each entry has one record.
pub(crate) struct Expiry {
    shards: Box<[Mutex<Shard>]>,
}

struct Shard {
    records: Vec<Record>,
    /// The first free record.
    free: u32,
    /// The first record of each list.
    slots: [u32; SLOTS],
    /// The bucket up to which expired keys were reported.
    reported: u32,
}

struct Record {
    key: u128,
    bucket: u32,
    /// The neighbours of the record in its list.
    next: u32,
    previous: u32,
    /// The number of times that this place was used before. An older [`RecordId`] has another number.
    round: u32,
}

/// The place of an entry's record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordId {
    index: u32,
    round: u32,
}

/// The end of a list.
const NONE: u32 = u32::MAX;

impl Expiry {
    /// Creates the wheels for a store of about this many entries.
    pub(crate) fn new(entries: usize) -> Self {
        Self { shards: (0..Self::shards(entries)).map(|_| Mutex::new(Shard::new())).collect() }
    }

    /// Returns the memory of the shards without their records, in bytes.
    pub(crate) fn heap(entries: usize) -> usize {
        Self::shards(entries) * size_of::<Mutex<Shard>>()
    }

    fn shards(entries: usize) -> usize {
        (entries / SLOTS).next_power_of_two().min(SHARDS)
    }

    /// Records that a key expires. Called before its entry can be found, so that any removal of the entry knows the record.
    #[inline]
    pub(crate) fn add(&self, key: u128, expires: Nanos) -> RecordId {
        let bucket = u32::try_from(expires.div_ceil(BUCKET)).unwrap_or(u32::MAX);
        self.shard_of(key).add(key, bucket)
    }

    /// Removes the record of an entry that has left the store.
    #[inline]
    pub(crate) fn remove(&self, key: u128, record_id: RecordId) {
        self.shard_of(key).remove(record_id);
    }

    /// Returns the expired keys. A key that is not forgotten is reported again with the next bucket.
    pub(crate) fn due(&self, now: Nanos) -> Vec<u128> {
        let now = u32::try_from(now / BUCKET).unwrap_or(u32::MAX - 1);
        let mut keys = Vec::new();
        (0..self.parts()).for_each(|index| self.shard(index).due(now, &mut keys));
        keys
    }

    /// Returns the keys of one part of the table.
    pub(crate) fn part(&self, index: usize) -> Vec<u128> {
        let shard = self.shard(index);
        shard.slots.iter().flat_map(|first| shard.list(*first)).map(|(_, record)| record.key).collect()
    }

    /// Returns the number of parts.
    pub(crate) fn parts(&self) -> usize {
        self.shards.len()
    }

    #[cfg(test)]
    pub(crate) fn records(&self) -> usize {
        (0..self.parts()).map(|index| self.part(index).len()).sum()
    }

    #[inline]
    fn shard_of(&self, key: u128) -> MutexGuard<'_, Shard> {
        self.shard(key as usize & (self.shards.len() - 1))
    }

    fn shard(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn new() -> Self {
        Self { records: Vec::new(), free: NONE, slots: [NONE; SLOTS], reported: 0 }
    }

    #[inline]
    fn add(&mut self, key: u128, bucket: u32) -> RecordId {
        // Buckets up to `reported` were reported, so a record that is already due goes into the next one.
        let bucket = bucket.max(self.reported.saturating_add(1));
        let index = match self.records.get_mut(self.free as usize) {
            Some(record) => {
                let index = std::mem::replace(&mut self.free, record.next);
                (record.key, record.bucket) = (key, bucket);
                index
            }
            None => {
                self.records.push(Record { key, bucket, next: NONE, previous: NONE, round: 0 });
                self.records.len() as u32 - 1
            }
        };
        self.link(index, bucket);
        RecordId { index, round: self.records[index as usize].round }
    }

    #[inline]
    fn remove(&mut self, record_id: RecordId) {
        if self.records.get(record_id.index as usize).is_none_or(|record| record.round != record_id.round) {
            return;
        }
        self.unlink(record_id.index);
        let record = &mut self.records[record_id.index as usize];
        record.round = record.round.wrapping_add(1);
        record.next = std::mem::replace(&mut self.free, record_id.index);
    }

    #[inline]
    fn link(&mut self, index: u32, bucket: u32) {
        let first = std::mem::replace(&mut self.slots[bucket as usize % SLOTS], index);
        let record = &mut self.records[index as usize];
        (record.next, record.previous) = (first, NONE);
        if let Some(first) = self.records.get_mut(first as usize) {
            first.previous = index;
        }
    }

    #[inline]
    fn unlink(&mut self, index: u32) {
        let Record { bucket, next, previous, .. } = self.records[index as usize];
        match self.records.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.slots[bucket as usize % SLOTS] = next,
        }
        if let Some(next) = self.records.get_mut(next as usize) {
            next.previous = previous;
        }
    }

    fn list(&self, first: u32) -> impl Iterator<Item = (u32, &Record)> {
        let at = |index: u32| self.records.get(index as usize).map(|record| (index, record));
        std::iter::successors(at(first), move |(_, record)| at(record.next))
    }

    fn due(&mut self, now: u32, keys: &mut Vec<u128>) {
        let passed = now.saturating_sub(self.reported).min(SLOTS as u32);
        let mut due = Vec::new();
        for bucket in now - passed..now {
            let list = self.list(self.slots[(bucket + 1) as usize % SLOTS]);
            due.extend(list.filter(|(_, record)| record.bucket <= now).map(|(index, record)| (index, record.key)));
        }
        self.reported = self.reported.max(now);
        // A key whose entry is about to be stored is reported again.
        for (index, key) in due {
            self.unlink(index);
            self.records[index as usize].bucket = now + 1;
            self.link(index, now + 1);
            keys.push(key);
        }
    }
}

/// The work of the janitor every [`TICK`] while the store exists.
pub(crate) trait Sweep: Send + Sync {
    fn sweep(&self);
}

/// One thread for all stores of the process. It ends with the last store. A task would not do: a store may outlive the runtime it was made
/// in, and no runtime may keep a store alive.
struct Janitor {
    stores: Mutex<Sweeps>,
}

#[derive(Default)]
struct Sweeps {
    stores: Vec<Weak<dyn Sweep>>,
    running: bool,
}

static JANITOR: OnceLock<Janitor> = OnceLock::new();

/// Sweeps a store until it is dropped.
pub(crate) fn sweep_until_dropped(store: Weak<dyn Sweep>) {
    let janitor = JANITOR.get_or_init(|| Janitor { stores: Mutex::default() });
    let mut sweeps = janitor.lock();
    sweeps.stores.push(store);
    if !sweeps.running {
        let spawned = thread::Builder::new().name("response-cache-expiry".into()).spawn(|| janitor.run());
        sweeps.running = spawned.is_ok();
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for expiry: expired entries wait for eviction");
        }
    }
}

impl Janitor {
    fn run(&self) {
        loop {
            thread::sleep(TICK);
            clock::follow_the_wall();
            let stores: Vec<_> = {
                let mut sweeps = self.lock();
                sweeps.stores.retain(|store| store.strong_count() > 0);
                sweeps.running = !sweeps.stores.is_empty();
                if !sweeps.running {
                    return;
                }
                sweeps.stores.iter().filter_map(Weak::upgrade).collect()
            };
            for store in stores {
                // A panic in one store ends neither this thread nor the expiry of the others.
                if catch_unwind(AssertUnwindSafe(|| store.sweep())).is_err() {
                    tracing::error!("a sweep for expired entries panicked");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sweeps> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_has_one_record() {
        let expiry = Expiry::new(1 << 20);
        for key in 0..10_000u128 {
            let record_id = expiry.add(key, BUCKET * (key as u64 % 1000));
            if key >= 100 {
                expiry.remove(key, record_id);
                // It may be another's by now.
                expiry.remove(key, record_id);
            }
        }
        assert_eq!(expiry.records(), 100);
        let places: usize = (0..expiry.parts()).map(|index| expiry.shard(index).records.len()).sum();
        assert!(places <= 100 + SHARDS, "{places}");
    }
    #[test]
    fn due_entries_are_reported_until_removed() {
        let expiry = Expiry::new(0);
        let first = expiry.add(1, BUCKET + 1);
        let second = expiry.add(2, BUCKET);
        assert_eq!(expiry.due(BUCKET - 1), []);
        assert_eq!(expiry.due(BUCKET), [2]);
        expiry.remove(2, second);
        assert_eq!(expiry.due(2 * BUCKET), [1]);
        assert_eq!(expiry.due(2 * BUCKET), []);
        assert_eq!(expiry.due(3 * BUCKET), [1]);
        expiry.remove(1, first);
        assert_eq!(expiry.due(u64::MAX), []);
        assert_eq!(expiry.records(), 0);
    }
    #[test]
    fn late_record_is_reported_with_the_next_bucket() {
        let expiry = Expiry::new(0);
        assert_eq!(expiry.due(1_000 * BUCKET), []);
        expiry.add(1, 5 * BUCKET);
        assert_eq!(expiry.due(1_001 * BUCKET), [1]);
    }
    #[test]
    fn distant_record_is_reported_in_its_bucket() {
        let expiry = Expiry::new(0);
        let buckets: Vec<u64> = (1..400).map(|n| n * n % 397 + 1).collect();
        let record_id: Vec<_> =
            buckets.iter().enumerate().map(|(key, bucket)| expiry.add(key as u128, bucket * BUCKET)).collect();
        let mut reported = vec![0; buckets.len()];
        for now in (1..=450).filter(|now| now % 3 == 0) {
            for key in expiry.due(now * BUCKET) {
                reported[key as usize] = now;
                expiry.remove(key, record_id[key as usize]);
            }
        }
        let wanted: Vec<u64> = buckets.iter().map(|bucket| bucket.next_multiple_of(3)).collect();
        assert_eq!(reported, wanted);
    }
}
