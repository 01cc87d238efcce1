//! Export of a store's counters to the `metrics` facade.

use metrics::{Label, SharedString, counter, gauge};

use crate::{stats::Stats, status::Reason};

#[cfg(feature = "redis")]
use crate::redis::reclaim::ServerUsage;

/// Needs the feature `metrics`.
impl Stats {
    /// Reports all counters to the recorder of the [`metrics`] facade, with the label `cache`. Call it every few seconds. The cache counts
    /// without a recorder, so a hit costs the same with and without metrics.
    ///
    /// | counter | other labels | counts |
    /// |---|---|---|
    /// | `response_cache_hits_total` | `kind`: `fresh`, `stale`, `collapsed` | requests answered without a separate call |
    /// | `response_cache_stale_if_error_total` | | stale hits in place of failures; their requests also count as misses |
    /// | `response_cache_misses_total` | `reason`: see [`Miss`](crate::status::Miss) | requests that were looked up without a hit |
    /// | `response_cache_bypasses_total` | `reason`: see [`Bypass`](crate::status::Bypass) | requests that were not looked up |
    /// | `response_cache_stored_total` | | responses stored |
    /// | `response_cache_not_stored_total` | `reason`: see [`NoStore`](crate::status::NoStore) | responses not stored |
    /// | `response_cache_evictions_total`, `…_expired_total` | | entries removed |
    /// | `response_cache_invalidations_total` | | writes that invalidated namespaces |
    /// | `response_cache_purges_total`, `…_failed_purge_attempts_total`, `…_abandoned_purges_total`, `…_purge_overflows_total` | | calls of [`PurgeHook`](crate::cdn::PurgeHook) |
    /// | `response_cache_undelivered_total`, `…_unfenced_writes_total` | | writes that a shared store missed |
    /// | `response_cache_uncovered_writes_total`, `…_writes_without_rules_total` | | writes that invalidated nothing |
    /// | `response_cache_unread_writes_total` | | writes that invalidated all entries, because their message could not be read |
    /// | `response_cache_never_invalidated_total` | | entries stored without a namespace |
    /// | `response_cache_damaged_total`, `…_failed_lookups_total` | | failed reads of a shared store |
    /// | `response_cache_refreshes_total`, `response_cache_inner_calls_total` | | calls of the inner service |
    /// | `response_cache_inner_microseconds_total` | | time to the heads of the responses to those calls |
    ///
    /// | gauge | value |
    /// |---|---|
    /// | `response_cache_entries`, `…_bytes`, `…_capacity_bytes` | the size of the store |
    /// | `response_cache_hit_ratio` | [`hit_ratio`](Self::hit_ratio), since the store was made |
    /// | `response_cache_flights` | fills in progress |
    /// | `response_cache_pending_invalidations` | namespaces whose invalidation waits for delivery |
    /// | `response_cache_unmatched_rules` | rules that have matched no request so far |
    /// | `response_cache_reachable`, `response_cache_leased` | 1 or 0, for a shared store |
    /// | `response_cache_seconds_per_hit` | [`cache_time_per_hit`](Self::cache_time_per_hit) |
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, Store};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let store = Memory::new(64 << 20);
    /// let recorded = store.clone();
    /// tokio::spawn(async move {
    ///     loop {
    ///         recorded.stats().record("api");
    ///         tokio::time::sleep(Duration::from_secs(10)).await;
    ///     }
    /// });
    /// # });
    /// ```
    pub fn record(&self, cache: impl Into<SharedString>) {
        let cache: SharedString = cache.into();
        let with =
            |name: &'static str, value: &'static str| [Label::new("cache", cache.clone()), Label::new(name, value)].to_vec();
        let alone = || [Label::new("cache", cache.clone())].to_vec();
        for (kind, count) in [("fresh", self.hits), ("stale", self.stale_hits), ("collapsed", self.collapsed)] {
            counter!("response_cache_hits_total", with("kind", kind)).absolute(count);
        }
        let reasons = [
            ("response_cache_misses_total", by_reason(&self.misses)),
            ("response_cache_bypasses_total", by_reason(&self.bypasses)),
            ("response_cache_not_stored_total", by_reason(&self.not_stored)),
        ];
        for (name, counts) in reasons {
            for (reason, count) in counts {
                counter!(name, with("reason", reason)).absolute(count);
            }
        }
        let inner_time = u64::try_from(self.inner_time.as_micros()).unwrap_or(u64::MAX);
        for (name, count) in [
            ("response_cache_stale_if_error_total", self.stale_if_error),
            ("response_cache_stored_total", self.stored),
            ("response_cache_evictions_total", self.evictions),
            ("response_cache_expired_total", self.expired),
            ("response_cache_invalidations_total", self.invalidations),
            ("response_cache_undelivered_total", self.undelivered),
            ("response_cache_purges_total", self.purges),
            ("response_cache_failed_purge_attempts_total", self.failed_purge_attempts),
            ("response_cache_abandoned_purges_total", self.abandoned_purges),
            ("response_cache_purge_overflows_total", self.purge_overflows),
            ("response_cache_unfenced_writes_total", self.unfenced_writes),
            ("response_cache_uncovered_writes_total", self.uncovered_writes),
            ("response_cache_writes_without_rules_total", self.writes_without_rules),
            ("response_cache_unread_writes_total", self.unread_writes),
            ("response_cache_never_invalidated_total", self.never_invalidated),
            ("response_cache_damaged_total", self.damaged),
            ("response_cache_failed_lookups_total", self.failed_lookups),
            ("response_cache_refreshes_total", self.refreshes),
            ("response_cache_inner_calls_total", self.inner_calls),
            ("response_cache_inner_microseconds_total", inner_time),
        ] {
            counter!(name, alone()).absolute(count);
        }
        for (name, value) in [
            ("response_cache_entries", self.entries as f64),
            ("response_cache_bytes", self.bytes as f64),
            ("response_cache_capacity_bytes", self.capacity as f64),
            ("response_cache_hit_ratio", self.hit_ratio()),
            ("response_cache_flights", self.flights as f64),
            ("response_cache_pending_invalidations", self.pending_invalidations as f64),
            ("response_cache_unmatched_rules", self.unmatched_rules as f64),
            ("response_cache_seconds_per_hit", self.cache_time_per_hit.as_secs_f64()),
        ] {
            gauge!(name, alone()).set(value);
        }
        for (name, state) in [("response_cache_reachable", self.reachable), ("response_cache_leased", self.leased)] {
            if let Some(state) = state {
                gauge!(name, alone()).set(f64::from(u8::from(state)));
            }
        }
    }
}

fn by_reason<R: Reason>(counts: &[(R, u64)]) -> Vec<(&'static str, u64)> {
    counts.iter().map(|(reason, count)| (reason.token(), *count)).collect()
}

/// Needs the feature `metrics`.
#[cfg(feature = "redis")]
impl ServerUsage {
    /// Reports the usage to the recorder of the [`metrics`] facade, with the label `cache`, as the gauges `response_cache_server_masters`,
    /// `…_server_bytes`, `…_server_capacity_bytes` and `…_server_keys`.
    pub fn record(&self, cache: impl Into<SharedString>) {
        let cache: SharedString = cache.into();
        for (name, value) in [
            ("response_cache_server_masters", self.masters),
            ("response_cache_server_bytes", self.bytes),
            ("response_cache_server_capacity_bytes", self.capacity),
            ("response_cache_server_keys", self.keys),
        ] {
            gauge!(name, "cache" => cache.clone()).set(value as f64);
        }
    }
}
