//! Invalidations that were delivered a short while ago.
//!
//! A master that has been replaced may accept commands for seconds before this process can know. What it accepted then is lost, so
//! it is delivered once more when the server has changed. To invalidate twice costs misses and nothing else.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::xxh3_128;

use super::names::id;
use crate::{namespace::Namespaces, store::Bump};

/// How long a replaced master may go unnoticed: the failover of a sentinel takes some seconds, and a cluster node that is cut off
/// notices that after its `cluster-node-timeout`, 15 seconds unless set.
const UNNOTICED: Duration = Duration::from_secs(60);

/// How many sets of names are remembered; if there are more, everything is invalidated when the server changes.
const MOST: usize = 4096;

/// Names that were invalidated, and when.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    names: HashMap<u128, (Namespaces, Bump, Instant)>,
    /// When there were too many to remember.
    too_many: Option<Instant>,
}

impl Recent {
    /// A server has accepted the invalidation of these names.
    pub(super) fn delivered(&self, names: &Namespaces, kind: Bump) {
        self.delivered_at(names, kind, Instant::now());
    }

    fn delivered_at(&self, names: &Namespaces, kind: Bump, now: Instant) {
        let mut kept = self.lock();
        if kept.names.len() >= MOST {
            kept.names.retain(|_, (_, _, at)| now.duration_since(*at) < UNNOTICED);
        }
        if kept.names.len() >= MOST {
            kept.names.clear();
            kept.too_many = Some(now);
        }
        let ids: Vec<u8> =
            names.names().flat_map(|name| id(name).to_le_bytes()).chain([u8::from(kind == Bump::Soft)]).collect();
        kept.names.insert(xxh3_128(&ids), (names.clone(), kind, now));
    }

    /// What has to be delivered to a server that may have been the master for a while.
    pub(super) fn again(&self) -> Vec<(Namespaces, Bump)> {
        self.again_at(Instant::now())
    }

    fn again_at(&self, now: Instant) -> Vec<(Namespaces, Bump)> {
        let mut kept = self.lock();
        let is_recent = |at: Instant| now.duration_since(at) < UNNOTICED;
        if kept.too_many.is_some_and(is_recent) {
            return vec![(Namespaces::root().clone(), Bump::Hard)];
        }
        kept.names.retain(|_, (_, _, at)| is_recent(*at));
        kept.names.values().map(|(names, kind, _)| (names.clone(), *kind)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Namespace;

    fn names(name: &str) -> Namespaces {
        Namespaces::exactly(&[Namespace::new(name).expect("a name")])
    }

    #[test]
    fn recent_names_are_remembered_once_and_too_many_are_everything() {
        let (recent, begin) = (Recent::default(), Instant::now());
        for _ in 0..3 {
            recent.delivered_at(&names("a"), Bump::Hard, begin);
        }
        recent.delivered_at(&names("a"), Bump::Soft, begin);
        recent.delivered_at(&names("b"), Bump::Hard, begin + UNNOTICED / 2);
        assert_eq!(recent.again_at(begin).len(), 3);
        assert_eq!(recent.again_at(begin + UNNOTICED).len(), 1, "the others are too long ago");
        for n in 0..MOST {
            recent.delivered_at(&names(&n.to_string()), Bump::Hard, begin + UNNOTICED);
        }
        let again = recent.again_at(begin + UNNOTICED);
        assert!(again.len() == 1 && again[0].0.hashes().eq(Namespaces::root().hashes()), "{again:?}");
        assert!(recent.again_at(begin + 3 * UNNOTICED).is_empty());
    }
}
