//! Recently delivered invalidations.
//!
//! A replaced master may accept commands for seconds before this process can know. These are lost, so they are delivered again when the
//! server has changed. A second invalidation costs only misses.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::store::epochs::InvalidationKind;

/// The time for which a replaced master may go unnoticed. A failover by Sentinel takes some seconds. A cluster node that is cut off notices
/// it after `cluster-node-timeout`, which is 15 seconds by default.
const RETENTION: Duration = Duration::from_secs(60);

/// The largest number of remembered names. Beyond it, everything is invalidated when the server changes.
const MAX_NAMES: usize = 4096;

/// Names that were invalidated, with the times.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Names>);

/// A name that was invalidated.
#[derive(Debug, Clone)]
pub(crate) struct Invalidated {
    /// The identifier of the name.
    pub(super) id: u64,
    pub(super) generation: Box<str>,
    pub(super) fences: Box<str>,
    pub(super) kind: InvalidationKind,
}

#[derive(Debug, Default)]
struct Names {
    /// By identifier and by `true` for a soft invalidation.
    names: HashMap<(u64, bool), (Invalidated, Instant)>,
    /// The last time at which there were too many names.
    too_many: Option<Instant>,
}

impl Recent {
    /// Records an invalidation that a server has accepted.
    pub(super) fn delivered(&self, id: u64, generation: &str, fences: &str, kind: InvalidationKind) {
        self.delivered_at(Invalidated { id, generation: generation.into(), fences: fences.into(), kind }, Instant::now());
    }

    fn delivered_at(&self, name: Invalidated, now: Instant) {
        let mut kept = self.lock();
        if kept.names.len() >= MAX_NAMES {
            kept.names.retain(|_, (_, at)| now.duration_since(*at) < RETENTION);
        }
        if kept.names.len() >= MAX_NAMES {
            kept.names.clear();
            kept.too_many = Some(now);
        }
        kept.names.insert((name.id, name.kind == InvalidationKind::Soft), (name, now));
    }

    /// Returns the names to deliver to a server that may have been the master for a while. `None` if there are too many.
    pub(super) fn again(&self) -> Option<Vec<Invalidated>> {
        self.again_at(Instant::now())
    }

    fn again_at(&self, now: Instant) -> Option<Vec<Invalidated>> {
        let mut kept = self.lock();
        let is_recent = |at: Instant| now.duration_since(at) < RETENTION;
        if kept.too_many.is_some_and(is_recent) {
            return None;
        }
        kept.names.retain(|_, (_, at)| is_recent(*at));
        Some(kept.names.values().map(|(name, _)| name.clone()).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: u64, kind: InvalidationKind) -> Invalidated {
        Invalidated { id, generation: "g".into(), fences: "f".into(), kind }
    }
    #[test]
    fn recent_names_are_unique_and_overflow_to_the_root() {
        let (recent, begin) = (Recent::default(), Instant::now());
        for _ in 0..3 {
            recent.delivered_at(name(1, InvalidationKind::Hard), begin);
        }
        recent.delivered_at(name(1, InvalidationKind::Soft), begin);
        recent.delivered_at(name(2, InvalidationKind::Hard), begin + RETENTION / 2);
        let count = |now| recent.again_at(now).map(|names| names.len());
        assert_eq!(count(begin), Some(3));
        assert_eq!(count(begin + RETENTION), Some(1), "the others are too long ago");
        for n in 0..MAX_NAMES {
            recent.delivered_at(name(10 + n as u64, InvalidationKind::Hard), begin + RETENTION);
        }
        assert_eq!(count(begin + RETENTION), None);
        assert_eq!(count(begin + 3 * RETENTION), Some(0));
    }
}
