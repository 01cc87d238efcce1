//! Counters of a store.

use std::{
    array,
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use super::warnings::WarningLimits;
use crate::status::{Bypass, Miss, NoStore};

/// The index of a counter. The counters of misses, bypasses and unstored responses by reason stand behind these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Hit,
    Stale,
    /// Stale hits whose request also counts as a miss.
    StaleIfError,
    Collapsed,
    Stored,
    Evicted,
    Expired,
    Invalidations,
    Undelivered,
    UncoveredWrites,
    WithoutRules,
    UnreadWrites,
    NeverInvalidated,
    NotFenced,
    Damaged,
    Away,
    Refreshes,
    InnerCalls,
    InnerNanos,
    /// Requests whose time was measured, and the sum of the times.
    Timed,
    TimedNanos,
    /// The number of the counters before it. It stays last.
    End,
}

const COUNTS: usize = Count::End as usize;

pub(crate) const MISSES: usize = COUNTS;

pub(crate) const BYPASSES: usize = MISSES + Miss::ALL.len();

pub(crate) const NO_STORES: usize = BYPASSES + Bypass::ALL.len();

const CELLS: usize = NO_STORES + NoStore::ALL.len();

/// The number of stripes. More threads share them.
const STRIPES: usize = 16;

/// The counters of a store, in stripes for the threads. Reading adds the stripes up.
pub(crate) struct Counters {
    stripes: [Stripe; STRIPES],
    /// The number of fills in progress, of all layers over the store.
    pub(crate) flying: Arc<AtomicUsize>,
    /// The number of namespaces whose invalidation waits for a shared store.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// The counters of purge hooks.
    pub(crate) purges: Arc<PurgeCounts>,
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

#[repr(align(128))]
struct Stripe([AtomicU64; CELLS]);

impl Default for Counters {
    fn default() -> Self {
        Self {
            stripes: array::from_fn(|_| Stripe(array::from_fn(|_| AtomicU64::new(0)))),
            flying: Arc::default(),
            waiting: Arc::default(),
            purges: Arc::default(),
            quiet: WarningLimits::default(),
        }
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[inline]
fn stripe() -> usize {
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        stripe.get()
    })
}

impl Counters {
    #[inline]
    pub(crate) fn add(&self, count: Count, by: u64) -> u64 {
        self.cell(count as usize, by)
    }

    #[inline]
    pub(crate) fn miss(&self, why: Miss) {
        self.cell(MISSES + why as usize, 1);
    }

    #[inline]
    pub(crate) fn bypass(&self, why: Bypass) {
        self.cell(BYPASSES + why as usize, 1);
    }

    pub(crate) fn no_store(&self, why: NoStore) {
        self.cell(NO_STORES + why as usize, 1);
    }

    /// Adds to a counter and returns its former value in the stripe of this thread.
    #[inline]
    fn cell(&self, cell: usize, by: u64) -> u64 {
        self.stripes[stripe()].0[cell].fetch_add(by, Ordering::Relaxed)
    }

    pub(crate) fn sum(&self, cell: usize) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0[cell].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}
