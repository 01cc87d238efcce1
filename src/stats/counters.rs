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

/// What is counted. The misses, the bypasses and what was not stored stand behind these, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Hit,
    Stale,
    /// Of the stale ones, those whose request is a miss as well.
    StoodIn,
    Collapsed,
    Stored,
    Evicted,
    Expired,
    Bumps,
    Undelivered,
    UncoveredWrites,
    WithoutRules,
    NeverInvalidated,
    NotFenced,
    Damaged,
    Away,
    Refreshes,
    InnerCalls,
    InnerNanos,
    /// Requests whose time in the cache was measured, and that time.
    Timed,
    TimedNanos,
}

const COUNTS: usize = Count::TimedNanos as usize + 1;

pub(crate) const MISSES: usize = COUNTS;

pub(crate) const BYPASSES: usize = MISSES + Miss::ALL.len();

pub(crate) const NO_STORES: usize = BYPASSES + Bypass::ALL.len();

const CELLS: usize = NO_STORES + NoStore::ALL.len();

/// Enough for the threads of a server; more share.
const STRIPES: usize = 16;

/// The counters of a store: a stripe for each thread, added up when they are read.
pub(crate) struct Counters {
    stripes: [Stripe; STRIPES],
    /// Fills under way, of all layers over the store: these count themselves.
    pub(crate) flying: Arc<AtomicUsize>,
    /// Names that wait to be cleared in a shared store.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// What would otherwise fail silently.
    pub(crate) quiet: WarningLimits,
}

#[repr(align(128))]
struct Stripe([AtomicU64; CELLS]);

impl Default for Counters {
    fn default() -> Self {
        Self {
            stripes: array::from_fn(|_| Stripe(array::from_fn(|_| AtomicU64::new(0)))),
            flying: Arc::default(),
            waiting: Arc::default(),
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

    /// What the cell of this thread held before.
    #[inline]
    fn cell(&self, cell: usize, by: u64) -> u64 {
        self.stripes[stripe()].0[cell].fetch_add(by, Ordering::Relaxed)
    }

    pub(crate) fn sum(&self, cell: usize) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0[cell].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}
