//! The hottest requests and namespaces of a store, in bounded memory.
//!
//! A request that calls the inner service, waits for another one's response or gets a stale response counts 1. One fresh hit in [`SAMPLED`]
//! counts for all of them, so that other hits cost nothing. Each hour all counts are halved.
//!
//! A request with an identity or a secret is counted for its route alone, so that no list can show whose it was.

pub(crate) mod listed;
mod sketch;

use std::{
    fmt,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use xxhash_rust::xxh3::xxh3_128_with_seed;

use self::{
    listed::HotNamespace,
    sketch::{Sketch, Slot},
};
use crate::{
    clock::{Clock, Nanos},
    key::{Key, replay},
    namespace::{Namespace, set::Namespaces},
};

/// One fresh hit in this number is counted, for all of them.
pub(crate) const SAMPLED: u64 = 64;

/// The largest number of requests and of namespaces.
const MOST: usize = 4096;

/// The number of requests of each namespace.
const OF_NAMESPACE: usize = 16;

/// The longest key and the longest namespace that are kept, in bytes. A request with a longer key is counted for its route.
const LONGEST: usize = 1024;

/// The time after which counts are halved.
const HALVED_AFTER: Nanos = 3_600_000_000_000;

tokio::task_local! {
    static UNTRACKED: ();
}

/// Runs requests that do not count, because no client sends them.
pub(crate) fn untracked<F: Future>(work: F) -> impl Future<Output = F::Output> {
    UNTRACKED.scope((), work)
}

/// The requests and namespaces of a store that are counted.
pub(crate) struct Tracker {
    clock: Clock,
    lists: Mutex<Lists>,
}

struct Lists {
    requests: Sketch<u128, Seen>,
    namespaces: Sketch<Box<str>, Sketch<u128, Seen>>,
    invalidations: Sketch<Box<str>, ()>,
    halved: Nanos,
}

/// A counted request, or all requests of a route with an identity or a secret.
#[derive(Debug, Clone)]
struct Seen {
    key: Option<Key>,
    route: Option<Box<str>>,
    /// The responses are stored under the keys of variants, so that no request has this key.
    varies: bool,
}

/// A listed request.
#[derive(Debug, Clone)]
pub(crate) struct ListedRequest {
    /// The key, unless it has an identity or a secret.
    pub(crate) key: Option<Key>,
    pub(crate) route: Option<Box<str>>,
    pub(crate) count: u64,
    pub(crate) error: u64,
}

impl Tracker {
    /// Returns a tracker of this number of requests and of namespaces.
    pub(crate) fn new(most: usize, clock: Clock) -> Self {
        let most = most.clamp(1, MOST);
        let lists = Lists {
            requests: Sketch::new(most),
            namespaces: Sketch::new(most),
            invalidations: Sketch::new(most),
            halved: clock.nanos(),
        };
        Self { clock, lists: Mutex::new(lists) }
    }

    /// Returns the lists of now.
    fn lists(&self) -> MutexGuard<'_, Lists> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.age(self.clock.nanos());
        lists
    }

    /// Counts a read.
    pub(crate) fn read(&self, key: &Key, names: &Namespaces, weight: u64) {
        if UNTRACKED.try_with(|()| ()).is_ok() {
            return;
        }
        let mut lists = self.lists();
        if lists.requests.get(&key.hash()).is_some_and(|slot| slot.data.key.as_ref() == Some(key)) {
            lists.read(key.hash(), || Seen::shown(key), names, weight);
            return;
        }
        drop(lists);
        // Without the lock, because it reads the whole key.
        let seen = Seen::of(key);
        self.lists().read(seen.id(), || seen.clone(), names, weight);
    }

    /// Counts what only the response of a read tells: the key of its variant, and the namespaces that its handler has `added`.
    pub(crate) fn filled(&self, missed: &Key, key: &Key, names: &Namespaces, added: &Namespaces) {
        if UNTRACKED.try_with(|()| ()).is_ok() {
            return;
        }
        let (seen, varies) = (Seen::of(key), key != missed);
        let id = seen.id();
        let is_new = varies && id != Seen::of(missed).id();
        let mut lists = self.lists();
        let Lists { requests, namespaces, .. } = &mut *lists;
        if varies {
            requests.change(&missed.hash(), |seen| seen.varies = true);
        }
        if is_new {
            requests.add(&id, 1, || (id, seen.clone()));
        }
        for name in names.iter().filter(|_| varies) {
            namespaces.change(name, |of_name| {
                of_name.change(&missed.hash(), |seen| seen.varies = true);
                if is_new {
                    of_name.add(&id, 1, || (id, seen.clone()));
                }
            });
        }
        for name in added.iter().filter(|name| is_counted(name)) {
            let of_name = namespaces.add(name, 1, || (name.into(), Sketch::new(OF_NAMESPACE)));
            of_name.add(&id, 1, || (id, seen.clone()));
        }
    }

    /// Counts the invalidation of namespaces.
    pub(crate) fn invalidated(&self, names: &Namespaces) {
        let mut lists = self.lists();
        for name in names.iter().filter(|name| is_counted(name)) {
            lists.invalidations.add(name, 1, || (name.into(), ()));
        }
    }

    /// Returns the hottest requests, up to `most`.
    pub(crate) fn requests(&self, most: usize) -> Vec<ListedRequest> {
        listed(&self.lists().requests, most)
    }

    /// Returns the hottest requests of a namespace.
    pub(crate) fn requests_of(&self, name: &str) -> Vec<ListedRequest> {
        self.lists().namespaces.get(name).map(|slot| listed(&slot.data, OF_NAMESPACE)).unwrap_or_default()
    }

    /// Returns the hottest namespaces.
    pub(crate) fn namespaces(&self) -> Vec<HotNamespace> {
        let lists = self.lists();
        lists.namespaces.ranked().into_iter().map(|slot| lists.named(&slot.key)).collect()
    }

    /// Returns the namespaces that have been invalidated more often than read, the most frequent first. An invalidation more than one sampled
    /// hit counts for is needed, and counts that may belong to other namespaces are left out.
    pub(crate) fn overinvalidated(&self) -> Vec<HotNamespace> {
        let lists = self.lists();
        let over = lists.invalidations.ranked().into_iter().filter(|slot| lists.is_over(slot));
        over.map(|slot| lists.named(&slot.key)).collect()
    }

    /// Returns the number of these namespaces.
    pub(crate) fn overinvalidated_count(&self) -> u64 {
        let lists = self.lists();
        lists.invalidations.slots().filter(|slot| lists.is_over(slot)).count() as u64
    }
}

impl Lists {
    fn read(&mut self, id: u128, seen: impl Fn() -> Seen, names: &Namespaces, weight: u64) {
        let Self { requests, namespaces, .. } = self;
        let listed = requests.add(&id, weight, || (id, seen()));
        listed.varies &= weight != SAMPLED;
        for name in names.iter().filter(|name| is_counted(name)) {
            let of_name = namespaces.add(name, weight, || (name.into(), Sketch::new(OF_NAMESPACE)));
            of_name.add(&id, weight, || (id, seen()));
        }
    }

    fn age(&mut self, now: Nanos) {
        let hours = now.saturating_sub(self.halved) / HALVED_AFTER;
        self.halved += hours * HALVED_AFTER;
        // 64 halvings leave nothing of a count.
        for _ in 0..hours.min(64) {
            self.requests.halve();
            self.namespaces.halve();
            self.namespaces.data_mut().for_each(Sketch::halve);
            self.invalidations.halve();
        }
    }

    fn is_over(&self, of: &Slot<Box<str>, ()>) -> bool {
        let reads = self.namespaces.get(&of.key).map_or_else(|| self.namespaces.most_unlisted(), |slot| slot.count);
        of.count.saturating_sub(of.error) > reads.saturating_add(SAMPLED)
    }

    fn named(&self, name: &str) -> HotNamespace {
        let (reads, invalidations) = (self.namespaces.get(name), self.invalidations.get(name));
        let most_reads = || (self.namespaces.most_unlisted(), self.namespaces.most_unlisted());
        let most_invalidations = || (self.invalidations.most_unlisted(), self.invalidations.most_unlisted());
        let (reads, reads_error) = reads.map_or_else(most_reads, |slot| (slot.count, slot.error));
        let (invalidations, invalidations_error) =
            invalidations.map_or_else(most_invalidations, |slot| (slot.count, slot.error));
        HotNamespace { name: name.into(), reads, invalidations, reads_error, invalidations_error }
    }
}

/// Returns false for the root, and for names that are too long to be kept.
fn is_counted(name: &str) -> bool {
    name.len() <= LONGEST && name != Namespace::root().as_str()
}

fn listed(requests: &Sketch<u128, Seen>, most: usize) -> Vec<ListedRequest> {
    let listed = requests.ranked().into_iter().filter(|slot| !slot.data.varies).take(most);
    let copied = |slot: &Slot<u128, Seen>| {
        let Seen { key, route, .. } = slot.data.clone();
        ListedRequest { key, route, count: slot.count, error: slot.error }
    };
    listed.map(copied).collect()
}

impl Seen {
    fn of(key: &Key) -> Self {
        let is_shown = key.canonical().len() <= LONGEST && replay::replay(key.canonical()).is_some();
        Self { key: is_shown.then(|| key.clone()), ..Self::shown(key) }
    }

    fn shown(key: &Key) -> Self {
        Self { key: Some(key.clone()), route: replay::route_of(key.canonical()).map(Into::into), varies: false }
    }

    fn id(&self) -> u128 {
        match &self.key {
            Some(key) => key.hash(),
            None => xxh3_128_with_seed(self.route.as_deref().unwrap_or_default().as_bytes(), 1),
        }
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tracker")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_are_halved_for_each_hour_also_if_they_are_only_listed() {
        let clock = Clock::manual();
        let tracker = Tracker::new(10, clock.clone());
        let mut names = Namespaces::root();
        names.push("db");
        for _ in 0..4000 {
            tracker.invalidated(&names);
        }
        let counts = || tracker.overinvalidated().iter().map(HotNamespace::invalidations).collect::<Vec<_>>();
        for (after, expected) in
            [(0, vec![4000]), (59, vec![4000]), (1, vec![2000]), (210, vec![250]), (30, vec![125]), (60, vec![])]
        {
            clock.advance(Duration::from_secs(after * 60));
            assert_eq!((counts(), tracker.overinvalidated_count()), (expected.clone(), expected.len() as u64), "{after}");
        }
    }
}
