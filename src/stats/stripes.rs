//! Counters in stripes for the threads, so that no two threads write to one cache line.

use std::{
    array,
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// The number of stripes. More threads share them.
const STRIPES: usize = 16;

/// Counters in stripes for the threads. Reading adds the stripes up.
pub(super) struct Stripes<const CELLS: usize>([Stripe<CELLS>; STRIPES]);

/// The counters of the threads of one stripe.
#[repr(align(128))]
pub(super) struct Stripe<const CELLS: usize>([AtomicU64; CELLS]);

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

impl<const CELLS: usize> Default for Stripes<CELLS> {
    fn default() -> Self {
        Self(array::from_fn(|_| Stripe(array::from_fn(|_| AtomicU64::new(0)))))
    }
}

impl<const CELLS: usize> Stripes<CELLS> {
    /// Returns the stripe of this thread.
    #[inline]
    pub(super) fn own(&self) -> &Stripe<CELLS> {
        &self.0[stripe()]
    }

    pub(super) fn sum(&self, cell: usize) -> u64 {
        self.0.iter().map(|stripe| stripe.0[cell].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

impl<const CELLS: usize> Stripe<CELLS> {
    /// Adds to a counter and returns its former value in this stripe.
    #[inline]
    pub(super) fn add(&self, cell: usize, by: u64) -> u64 {
        self.0[cell].fetch_add(by, Ordering::Relaxed)
    }
}
