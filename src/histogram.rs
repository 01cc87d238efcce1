//! Histograms of durations: eight buckets for each power of two of nanoseconds, in atomics.

#[cfg(feature = "metrics")]
use std::sync::{Arc, OnceLock};
use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The number of bits behind the highest one that select a bucket.
const BITS: u32 = 3;

/// The number of buckets for each power of two.
const PARTS: usize = 1 << BITS;

/// The highest power of two with buckets of its own: two years. Longer durations count as this long.
const HIGHEST: u32 = 56;

const BUCKETS: usize = (HIGHEST - BITS + 2) as usize * PARTS;

/// A histogram of the `metrics` facade that receives each measurement, once it is set. Clones share it. Without the feature `metrics` there is none.
#[derive(Clone, Default)]
pub(crate) struct Exported {
    #[cfg(feature = "metrics")]
    to: Arc<OnceLock<metrics::Histogram>>,
}

impl Exported {
    /// Sets the histogram, unless one is set.
    #[cfg(feature = "metrics")]
    pub(crate) fn set(&self, histogram: metrics::Histogram) {
        let _ = self.to.set(histogram);
    }

    #[inline]
    fn record_nanos(&self, nanos: u64) {
        self.record(nanos as f64 / 1e9);
    }

    #[inline]
    pub(crate) fn record(&self, value: f64) {
        #[cfg(feature = "metrics")]
        if let Some(histogram) = self.to.get() {
            histogram.record(value);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = value;
    }
}

/// A histogram of durations.
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    /// Receives the same durations, in seconds.
    pub(crate) exported: Exported,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::exported_to(Exported::default())
    }
}

impl Histogram {
    /// Returns an empty histogram that passes its durations on.
    pub(crate) fn exported_to(exported: Exported) -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0), exported }
    }

    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        self.buckets[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
        self.exported.record_nanos(nanos);
    }

    pub(crate) fn read(&self) -> Durations {
        let counts: Vec<u64> = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let used = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        Durations { counts: counts[..used].to_vec(), sum: self.sum.load(Ordering::Relaxed) }
    }
}

#[inline]
fn bucket_of(nanos: u64) -> usize {
    if nanos < PARTS as u64 {
        return nanos as usize;
    }
    let power = nanos.ilog2();
    if power > HIGHEST {
        return BUCKETS - 1;
    }
    let part = (nanos >> (power - BITS)) as usize % PARTS;
    (power - BITS + 1) as usize * PARTS + part
}

/// Returns the middle of a bucket.
fn middle_of(bucket: usize) -> u64 {
    let (power, part) = (bucket / PARTS, (bucket % PARTS) as u64);
    match power {
        0 => part,
        _ => ((PARTS as u64 + part) << (power - 1)) + ((1 << (power - 1)) / 2),
    }
}

/// Measured durations: their number, their sum, and their distribution with an error of at most a sixteenth.
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::stats::Durations;
///
/// let none = Durations::default();
/// assert_eq!((none.count(), none.sum(), none.quantile(0.99)), (0, Duration::ZERO, Duration::ZERO));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    counts: Vec<u64>,
    /// In nanoseconds.
    sum: u64,
}

impl Durations {
    /// Returns the number of measured durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of the durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// Returns the mean. Returns zero if nothing was measured.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum / self.count().max(1))
    }

    /// Returns the duration that this share of all durations do not exceed: 0.5 for the median. Returns zero if nothing was measured. A duration of
    /// more than four years counts as that long.
    pub fn quantile(&self, share: f64) -> Duration {
        let count = self.count();
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Duration::from_nanos(bucket.map_or(0, middle_of))
    }

    /// Returns the durations that were measured after an earlier reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(before).map(|(now, then)| now.saturating_sub(then)).collect();
        Self { counts, sum: self.sum.wrapping_sub(earlier.sum) }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let firsts: Vec<u64> = (0..1 << 12).filter(|nanos| *nanos == 0 || bucket_of(*nanos) != bucket_of(nanos - 1)).collect();
        assert!(firsts.iter().enumerate().all(|(bucket, first)| bucket_of(*first) == bucket), "{firsts:?}");
        assert_eq!((bucket_of((2 << HIGHEST) - 1), bucket_of(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    proptest! {
        #[test]
        fn middle_of_a_bucket_is_near_its_durations(nanos in 0_u64..2 << HIGHEST) {
            let middle = middle_of(bucket_of(nanos));
            prop_assert!(middle.abs_diff(nanos) <= nanos / 16, "{nanos} {middle}");
        }

        #[test]
        fn quantile_is_near_the_exact_one(mut all in prop::collection::vec(1_u64..1 << 36, 1..200), share in 0.0_f64..1.0) {
            let histogram = Histogram::default();
            all.iter().for_each(|nanos| histogram.record(*nanos));
            all.sort_unstable();
            let exact = all[((share * all.len() as f64).ceil() as usize).max(1) - 1];
            let read = histogram.read();
            let found = read.quantile(share).as_nanos() as u64;
            prop_assert!(found.abs_diff(exact) <= exact / 16, "{found} {exact}");
            prop_assert_eq!((read.count(), read.sum().as_nanos() as u64), (all.len() as u64, all.iter().sum()));
        }
    }

    #[test]
    fn difference_holds_the_durations_since() {
        let (histogram, expected) = (Histogram::default(), Histogram::default());
        histogram.record(1_000);
        let before = histogram.read();
        for nanos in [5, 1_000, 70_000] {
            histogram.record(nanos);
            expected.record(nanos);
        }
        assert_eq!(histogram.read().since(&before), expected.read());
        let mut sum = before;
        sum.add(&expected.read());
        assert_eq!(sum, histogram.read());
    }
}
