//! The figures of a route that are not among its statistics themselves.

use std::time::Duration;

use crate::{histogram::Durations, stats::RouteStats, status::Outcome};

/// The requests of a route by their outcomes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RouteCounts {
    pub(super) answered: u64,
    pub(super) misses: u64,
    pub(super) bypasses: u64,
}

impl RouteCounts {
    pub(super) fn of(route: &RouteStats) -> Self {
        Self {
            answered: route.count(|outcome| matches!(outcome, Outcome::Hit | Outcome::Stale(_) | Outcome::Collapsed)),
            misses: route.count(|outcome| matches!(outcome, Outcome::Miss(_))),
            bypasses: route.count(|outcome| matches!(outcome, Outcome::Bypass(_))),
        }
    }
}

/// Returns the median and the 99th percentile, if any duration was measured.
pub(super) fn quantiles(times: &Durations) -> Option<(Duration, Duration)> {
    (times.count() > 0).then(|| (times.quantile(0.5), times.quantile(0.99)))
}
