//! Samples of the statistics over time.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::route_samples::RouteSamples;
use crate::stats::Stats;

/// The number of samples that are kept.
const KEPT: usize = 360;

/// The counters at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Milliseconds since the Unix epoch.
    pub(super) at: u64,
    /// Requests answered without a call of their own.
    pub(super) answered: u64,
    pub(super) misses: u64,
    pub(super) bypasses: u64,
    pub(super) inner_calls: u64,
    pub(super) inner_nanos: u64,
    pub(super) cache_nanos_per_hit: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Sample {
    pub(super) fn of(stats: &Stats) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self {
            at: u64::try_from(at).unwrap_or(u64::MAX),
            answered: stats.hits + stats.stale_hits + stats.collapsed,
            misses: stats.misses(),
            bypasses: stats.bypasses.iter().map(|(_, count)| count).sum(),
            inner_calls: stats.inner_calls,
            inner_nanos: nanos(stats.inner_time),
            cache_nanos_per_hit: nanos(stats.cache_time_per_hit),
            entries: stats.entries,
            bytes: stats.bytes,
        }
    }

    /// Returns the hit ratio between an earlier sample and this one, or `None` without a lookup.
    pub(super) fn hit_ratio_since(&self, before: &Self) -> Option<f64> {
        let answered = self.answered.saturating_sub(before.answered);
        let all = answered + self.misses.saturating_sub(before.misses);
        (all > 0).then(|| answered as f64 / all as f64)
    }

    /// Returns the mean time of a call of the inner service between an earlier sample and this one, in milliseconds.
    pub(super) fn call_since(&self, before: &Self) -> Option<f64> {
        let calls = self.inner_calls.saturating_sub(before.inner_calls);
        (calls > 0).then(|| self.inner_nanos.saturating_sub(before.inner_nanos) as f64 / calls as f64 / 1e6)
    }

    /// Returns the requests for each second between an earlier sample and this one.
    pub(super) fn rate_since(&self, before: &Self) -> Option<f64> {
        let all = |sample: &Self| sample.answered + sample.misses + sample.bypasses;
        let millis = self.at.saturating_sub(before.at);
        (millis > 0).then(|| all(self).saturating_sub(all(before)) as f64 * 1000.0 / millis as f64)
    }
}

/// The last samples, the oldest first.
pub(super) struct Samples {
    pub(super) every: Duration,
    ring: Mutex<VecDeque<Sample>>,
    pub(super) routes: RouteSamples,
    /// A task takes samples.
    pub(super) is_running: AtomicBool,
}

impl Samples {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, ring: Mutex::default(), routes: RouteSamples::new(KEPT), is_running: AtomicBool::new(false) }
    }

    pub(super) fn add(&self, sample: Sample) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.push_back(sample);
        let over = ring.len().saturating_sub(KEPT);
        ring.drain(..over);
    }

    /// Returns the samples, and the present counters behind them.
    pub(super) fn until(&self, stats: &Stats) -> Vec<Sample> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().copied().chain([Sample::of(stats)]).collect()
    }
}

/// Returns samples as JSON: one array for each, in the order of `fields`.
pub(super) fn json_of(samples: &[Sample], every: Duration) -> Value {
    let row = |sample: &Sample| {
        let Sample { at, answered, misses, bypasses, inner_calls, inner_nanos, cache_nanos_per_hit, entries, bytes } = *sample;
        json!([at, answered, misses, bypasses, inner_calls, inner_nanos, cache_nanos_per_hit, entries, bytes])
    };
    json!({
        "interval_seconds": every.as_secs_f64(),
        "fields": [
            "unix_milliseconds", "answered", "misses", "bypasses", "inner_calls", "inner_nanoseconds", "cache_nanoseconds_per_hit", "entries", "bytes",
        ],
        "rows": samples.iter().map(row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_keeps_the_last_samples() {
        let samples = Samples::new(Duration::from_secs(10));
        (0..1000).for_each(|at| samples.add(Sample { at, ..Sample::default() }));
        let kept = samples.until(&Stats::default());
        assert_eq!((kept.len(), kept[0].at, kept[KEPT - 1].at), (KEPT + 1, 640, 999));
    }

    #[test]
    fn figures_between_samples_need_events() {
        let before =
            Sample { at: 1000, answered: 10, misses: 10, inner_calls: 10, inner_nanos: 5_000_000, ..Sample::default() };
        assert_eq!(
            (before.hit_ratio_since(&before), before.call_since(&before), before.rate_since(&before)),
            (None, None, None)
        );
        let after = Sample { at: 3000, answered: 13, misses: 11, inner_calls: 11, inner_nanos: 7_000_000, ..before };
        assert_eq!(
            (after.hit_ratio_since(&before), after.call_since(&before), after.rate_since(&before)),
            (Some(0.75), Some(2.0), Some(2.0))
        );
    }
}
