//! Counters of a store.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    routes::{RouteCounters, RouteStats},
    stripes::Stripes,
    warnings::WarningLimits,
};
use crate::{histogram::Histogram, hottest::Tracker};

/// The index of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Evicted,
    Expired,
    Invalidations,
    SoftInvalidations,
    Undelivered,
    UncoveredWrites,
    WithoutRules,
    UnreadWrites,
    NeverInvalidated,
    NotFenced,
    Damaged,
    Away,
    Refreshes,
    RulesReplaced,
    RulesRefused,
    /// The number of the counters before it. It stays last.
    End,
}

/// The counters of a store.
#[derive(Default)]
pub(crate) struct Counters {
    counts: Stripes<{ Count::End as usize }>,
    /// The counters of the requests, by the pattern of their route.
    routes: Mutex<BTreeMap<Option<Box<str>>, Arc<RouteCounters>>>,
    /// The number of fills in progress, of all layers over the store.
    pub(crate) flying: Arc<AtomicUsize>,
    /// The number of requests that wait for a fill.
    pub(crate) followers: AtomicUsize,
    /// The times from the end of a write to its delivered invalidation.
    pub(crate) invalidation_times: Histogram,
    /// The ages of evicted entries, measured on one in 16.
    pub(crate) eviction_ages: Histogram,
    /// Receives the times of round trips to a shared store.
    #[cfg(feature = "redis")]
    pub(crate) round_trips: crate::histogram::Exported,
    /// The number of namespaces whose invalidation waits for a shared store.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// The counters of purge hooks.
    pub(crate) purges: Arc<PurgeCounts>,
    /// The server of a strict store may evict fences.
    pub(crate) evicts_fences: AtomicBool,
    /// The hottest requests, if they are tracked.
    pub(crate) hottest: OnceLock<Tracker>,
    /// A damaged list of the hottest requests was found.
    #[cfg(feature = "redis")]
    pub(crate) damaged_list: AtomicBool,
    /// The limits of warnings about misconfiguration.
    pub(crate) quiet: WarningLimits,
}

/// The counters of purge hooks.
#[derive(Debug, Default)]
pub(crate) struct PurgeCounts {
    pub(crate) done: AtomicU64,
    pub(crate) failed_attempts: AtomicU64,
    pub(crate) abandoned: AtomicU64,
    pub(crate) overflows: AtomicU64,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

impl Counters {
    /// Adds to a counter and returns its former value in the stripe of this thread.
    #[inline]
    pub(crate) fn add(&self, count: Count, by: u64) -> u64 {
        self.counts.own().add(count as usize, by)
    }

    pub(super) fn sum(&self, count: Count) -> u64 {
        self.counts.sum(count as usize)
    }

    /// Returns true if the server of a strict store may evict fences.
    pub(crate) fn may_evict_fences(&self) -> bool {
        self.evicts_fences.load(Ordering::Relaxed)
    }

    /// Returns the counters of a route. Layers over the store share those of one pattern.
    pub(crate) fn route(&self, pattern: Option<&str>) -> Arc<RouteCounters> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.entry(pattern.map(Into::into)).or_insert_with(|| Arc::new(RouteCounters::new(pattern))).clone()
    }

    /// Returns the statistics of all routes that have had a request.
    pub(super) fn routes(&self) -> Vec<RouteStats> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.values().filter_map(|route| route.read()).collect()
    }
}
