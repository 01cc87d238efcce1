//! Counters of shadow mode, by route.

use std::sync::atomic::{AtomicU64, Ordering};

use super::audits::DifferenceCounts;
use crate::compare::Difference;

/// The answer that a request would have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShadowAnswer {
    Hit,
    Stale,
    Collapsed,
    Miss,
}

/// The result of the comparison of a stored response with that of the inner service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShadowComparison {
    Same,
    Differed,
    Changed,
    NotCompared,
}

/// The statistics of the requests of one route in [shadow mode](crate::CacheLayer::shadow).
///
/// A request that would have bypassed the cache for another reason is not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShadowStats {
    /// Requests that a fresh stored response would have answered.
    pub hits: u64,
    /// Requests that a stale stored response would have answered.
    pub stale_hits: u64,
    /// Requests that would have waited for the response of another fill.
    pub collapsed: u64,
    /// Requests for which the inner service would have been called.
    pub misses: u64,
    /// Hits whose stored response equals the response of the inner service.
    pub same: u64,
    /// Hits whose stored response differs, although it was still valid after the response of the inner service. The client would have been served
    /// an outdated or a wrong response, unless the handler does not repeat itself.
    pub differed: u64,
    /// Hits whose stored response differs, and was invalidated, replaced or has expired meanwhile.
    pub changed: u64,
    /// Hits that were not compared: 304, ranges, HEAD, stale responses, server errors, and bodies that the client has not read to the end.
    pub not_compared: u64,
    /// Hits that differed, by the parts that differed. At most 16 header fields are counted by name.
    pub differences: Vec<(Difference, u64)>,
}

impl ShadowStats {
    /// Returns the hit ratio that the cache would have had, from 0 to 1: see [`RouteStats::hit_ratio`](super::RouteStats::hit_ratio). Returns 0
    /// before the first request.
    pub fn expected_hit_ratio(&self) -> f64 {
        let answered = self.hits + self.stale_hits + self.collapsed;
        let all = answered + self.misses;
        if all == 0 { 0.0 } else { answered as f64 / all as f64 }
    }

    /// Returns true if no request was counted.
    pub fn is_empty(&self) -> bool {
        self.hits + self.stale_hits + self.collapsed + self.misses == 0
    }
}

/// The counters of one route in shadow mode.
#[derive(Debug, Default)]
pub(super) struct ShadowCounters {
    answers: [AtomicU64; 4],
    comparisons: [AtomicU64; 4],
    differences: DifferenceCounts,
}

impl ShadowCounters {
    pub(super) fn answer(&self, answer: ShadowAnswer) {
        self.answers[answer as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn compared(&self, result: ShadowComparison, differences: &[Difference]) {
        self.comparisons[result as usize].fetch_add(1, Ordering::Relaxed);
        self.differences.add(differences);
    }

    pub(super) fn read(&self) -> ShadowStats {
        let answers = |answer: ShadowAnswer| self.answers[answer as usize].load(Ordering::Relaxed);
        let compared = |result: ShadowComparison| self.comparisons[result as usize].load(Ordering::Relaxed);
        ShadowStats {
            hits: answers(ShadowAnswer::Hit),
            stale_hits: answers(ShadowAnswer::Stale),
            collapsed: answers(ShadowAnswer::Collapsed),
            misses: answers(ShadowAnswer::Miss),
            same: compared(ShadowComparison::Same),
            differed: compared(ShadowComparison::Differed),
            changed: compared(ShadowComparison::Changed),
            not_compared: compared(ShadowComparison::NotCompared),
            differences: self.differences.read(),
        }
    }
}
