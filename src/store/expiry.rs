//! Entries leave memory when their time is over, without being asked for again.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    thread,
    time::Duration,
};

use crate::clock::Nanos;

/// How finely deadlines are kept: an expired entry is gone within about this and [`TICK`].
const BUCKET: Nanos = 1_000_000_000;

/// How often the janitor looks.
const TICK: Duration = Duration::from_secs(1);

const SHARDS: usize = 64;

/// Which keys are due when. It holds records, not entries: a record whose entry has gone or was replaced is found out
/// when it is due, or when there are more than twice as many records as entries.
pub(crate) struct Expiry {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    due: BTreeMap<u64, Vec<u128>>,
    records: usize,
}

impl Expiry {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The bucket of a deadline: the first whole second at which it is over.
    pub(crate) fn bucket(expires: Nanos) -> u64 {
        expires.div_ceil(BUCKET)
    }

    /// Notes that a key is due. `entries` is how many the store holds; `current` tells the bucket of the entry that the
    /// store holds under a key now, and is asked only when the records need to be put in order.
    pub(crate) fn note(&self, key: u128, expires: Nanos, entries: usize, current: impl Fn(u128) -> Option<u64>) {
        let mut shard = self.shard(key as usize % SHARDS);
        shard.due.entry(Self::bucket(expires)).or_default().push(key);
        shard.records += 1;
        if shard.records > 2 * (entries / SHARDS) + 64 {
            shard.compact(current);
        }
    }

    /// Takes out the keys whose bucket has come.
    pub(crate) fn due(&self, now: Nanos) -> Vec<u128> {
        let mut keys = Vec::new();
        for index in 0..SHARDS {
            let mut shard = self.shard(index);
            while shard.due.first_key_value().is_some_and(|(bucket, _)| *bucket <= now / BUCKET) {
                let (_, due) = shard.due.pop_first().expect("just seen");
                shard.records -= due.len();
                keys.extend(due);
            }
        }
        keys
    }

    /// The keys of one part of the table, for a look at whether they are still alive.
    pub(crate) fn part(&self, index: usize) -> Vec<u128> {
        self.shard(index % SHARDS).due.values().flatten().copied().collect()
    }

    /// How many parts there are.
    pub(crate) const PARTS: usize = SHARDS;

    #[cfg(test)]
    pub(crate) fn records(&self) -> usize {
        (0..SHARDS).map(|index| self.shard(index).records).sum()
    }

    fn shard(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn compact(&mut self, current: impl Fn(u128) -> Option<u64>) {
        let mut records = 0;
        self.due.retain(|bucket, keys| {
            keys.retain(|key| current(*key) == Some(*bucket));
            keys.sort_unstable();
            keys.dedup();
            keys.shrink_to_fit();
            records += keys.len();
            !keys.is_empty()
        });
        self.records = records;
    }
}

/// What the janitor does every [`TICK`] for as long as the store exists.
pub(crate) trait Sweep: Send + Sync {
    fn sweep(&self);
}

/// One thread for all stores of the process. A thread, not a task: a store may outlive the runtime it was made in, and
/// no runtime may keep a store alive. It ends with the last store.
struct Janitor {
    stores: Mutex<Rounds>,
}

#[derive(Default)]
struct Rounds {
    stores: Vec<Weak<dyn Sweep>>,
    running: bool,
}

static JANITOR: OnceLock<Janitor> = OnceLock::new();

/// Has a store swept until it is dropped.
pub(crate) fn sweep_for_life(store: Weak<dyn Sweep>) {
    let janitor = JANITOR.get_or_init(|| Janitor { stores: Mutex::default() });
    let mut rounds = janitor.lock();
    rounds.stores.push(store);
    if !rounds.running {
        let spawned = thread::Builder::new().name("response-cache-expiry".into()).spawn(|| janitor.run());
        rounds.running = spawned.is_ok();
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for expiry: expired entries wait for eviction");
        }
    }
}

impl Janitor {
    fn run(&self) {
        loop {
            thread::sleep(TICK);
            let stores: Vec<_> = {
                let mut rounds = self.lock();
                rounds.stores.retain(|store| store.strong_count() > 0);
                rounds.running = !rounds.stores.is_empty();
                if !rounds.running {
                    return;
                }
                rounds.stores.iter().filter_map(Weak::upgrade).collect()
            };
            for store in stores {
                // One store's fault ends neither this thread nor the expiry of the others.
                if catch_unwind(AssertUnwindSafe(|| store.sweep())).is_err() {
                    tracing::error!("a sweep for expired entries panicked");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_bounded_by_twice_the_entries() {
        let expiry = Expiry::new();
        for key in 0..100_000u128 {
            // Every entry is evicted at once: the store holds none of them.
            expiry.note(key, BUCKET * (key as u64 % 1000), 0, |_| None);
        }
        assert!(expiry.records() <= SHARDS * 65, "{}", expiry.records());
    }

    #[test]
    fn what_is_due_is_told_once_and_only_then() {
        let expiry = Expiry::new();
        expiry.note(1, BUCKET + 1, 1, |_| Some(2));
        expiry.note(2, BUCKET, 1, |_| Some(1));
        assert_eq!(expiry.due(BUCKET - 1), []);
        assert_eq!(expiry.due(BUCKET), [2]);
        assert_eq!(expiry.due(2 * BUCKET), [1]);
        assert_eq!(expiry.due(u64::MAX), []);
    }
}
