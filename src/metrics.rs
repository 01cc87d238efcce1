//! Export of a store's statistics to the `metrics` facade.

use std::sync::Arc;

use metrics::{Label, SharedString, counter, gauge, histogram};

use crate::{
    route::ANY_ROUTE,
    stats::{RouteStats, ShadowStats, Stats, counters::Counters, routes::RouteCounters},
};

#[cfg(feature = "redis")]
use crate::redis::reclaim::ServerUsage;

/// The labels of one cache, to which each metric adds its own.
pub(crate) struct Recorder {
    pub(crate) cache: SharedString,
}

impl Recorder {
    fn labels(&self, more: &[(&'static str, SharedString)]) -> Vec<Label> {
        let cache = Label::new("cache", self.cache.clone());
        [cache].into_iter().chain(more.iter().map(|(name, value)| Label::new(*name, value.clone()))).collect()
    }

    pub(crate) fn count(&self, name: &'static str, labels: &[(&'static str, SharedString)], count: u64) {
        counter!(name, self.labels(labels)).absolute(count);
    }

    pub(crate) fn set(&self, name: &'static str, labels: &[(&'static str, SharedString)], value: f64) {
        gauge!(name, self.labels(labels)).set(value);
    }

    fn route(&self, of: &RouteStats) {
        let route: SharedString = of.route.clone().map_or(ANY_ROUTE.into(), SharedString::from_shared);
        let route = ("route", route);
        for counted in &of.requests {
            let labels = [
                route.clone(),
                ("result", counted.outcome.as_str().into()),
                ("reason", counted.outcome.reason().unwrap_or_default().into()),
                ("tier", counted.tier.as_str().into()),
            ];
            self.count("cache_requests_total", &labels, counted.count);
        }
        for (reason, count) in &of.not_stored {
            self.count("cache_responses_not_stored_total", &[route.clone(), ("reason", reason.as_str().into())], *count);
        }
        for (source, bytes) in [("cache", of.cache_bytes), ("inner", of.inner_bytes)] {
            self.count("cache_response_bytes_total", &[route.clone(), ("source", source.into())], bytes);
        }
        let of_route = [route.clone()];
        self.count("cache_responses_stored_total", &of_route, of.stored);
        self.count("cache_inner_calls_total", &of_route, of.inner_calls);
        self.count("cache_inner_calls_saved_total", &of_route, of.calls_saved());
        self.set("cache_hit_ratio", &of_route, of.hit_ratio());
        for (result, count) in &of.audits {
            self.count("cache_audits_total", &[route.clone(), ("result", result.as_str().into())], *count);
        }
        for (difference, count) in &of.audit_differences {
            let field = difference.field().unwrap_or_default().to_owned();
            let labels = [route.clone(), ("part", difference.part().into()), ("field", field.into())];
            self.count("cache_audit_differences_total", &labels, *count);
        }
        if !of.shadow.is_empty() {
            self.shadow(&route, &of.shadow);
        }
    }

    /// Reports the requests of a route in shadow mode.
    fn shadow(&self, route: &(&'static str, SharedString), of: &ShadowStats) {
        let answers = [("hit", of.hits), ("stale", of.stale_hits), ("collapsed", of.collapsed), ("miss", of.misses)];
        for (result, count) in answers {
            self.count("cache_shadow_requests_total", &[route.clone(), ("result", result.into())], count);
        }
        let compared =
            [("same", of.same), ("differed", of.differed), ("changed", of.changed), ("not-compared", of.not_compared)];
        for (result, count) in compared {
            self.count("cache_shadow_comparisons_total", &[route.clone(), ("result", result.into())], count);
        }
        for (difference, count) in &of.differences {
            let field = difference.field().unwrap_or_default().to_owned();
            let labels = [route.clone(), ("part", difference.part().into()), ("field", field.into())];
            self.count("cache_shadow_differences_total", &labels, *count);
        }
    }
}

/// Lets a store and these routes record their measurements in histograms of the installed recorder, too. Histograms that were set before stay.
pub(crate) fn export(cache: &SharedString, counters: &Counters, routes: &[Arc<RouteCounters>]) {
    let of_cache = || vec![Label::new("cache", cache.clone())];
    counters.invalidation_times.exported.set(histogram!("cache_invalidation_duration_seconds", of_cache()));
    counters.eviction_ages.exported.set(histogram!("cache_eviction_age_seconds", of_cache()));
    #[cfg(feature = "redis")]
    counters.round_trips.set(histogram!("cache_redis_round_trip_duration_seconds", of_cache()));
    for route in routes {
        let name = route.pattern().map_or(ANY_ROUTE.into(), SharedString::from_shared);
        let of_route = || vec![Label::new("cache", cache.clone()), Label::new("route", name.clone())];
        let to = &route.exported;
        for (result, times) in [("hit", &to.hits), ("miss", &to.misses), ("bypass", &to.bypasses)] {
            let labels = of_route().into_iter().chain([Label::new("result", result)]).collect::<Vec<_>>();
            times.set(histogram!("cache_request_duration_seconds", labels));
        }
        to.fills.set(histogram!("cache_fill_duration_seconds", of_route()));
        to.waits.set(histogram!("cache_follower_wait_seconds", of_route()));
        to.hit_ages.set(histogram!("cache_hit_age_seconds", of_route()));
        to.sizes.set(histogram!("cache_entry_size_bytes", of_route()));
    }
}

/// Needs the feature `metrics`.
impl Stats {
    /// Reports all statistics to the recorder of the [`metrics`] facade, with the label `cache`. Call it when the metrics are collected, or every few
    /// seconds. The cache counts without a recorder, so that a hit costs the same with and without metrics.
    ///
    /// [Observability](crate::guide::observability#metrics) lists the names, the labels and the units.
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
        let recorder = Recorder { cache: cache.into() };
        self.routes.iter().for_each(|route| recorder.route(route));
        // The counters are read one after the other, while invalidations begin.
        let hard = self.invalidations.saturating_sub(self.soft_invalidations);
        let invalidations = [("hard", hard), ("soft", self.soft_invalidations)];
        for (kind, count) in invalidations {
            recorder.count("cache_invalidations_total", &[("kind", kind.into())], count);
        }
        for (result, count) in [("replaced", self.rules_replaced), ("refused", self.rules_refused)] {
            recorder.count("cache_rules_reloads_total", &[("result", result.into())], count);
        }
        for (name, count) in [
            ("cache_evictions_total", self.evictions),
            ("cache_expired_entries_total", self.expired),
            ("cache_undelivered_invalidations_total", self.undelivered),
            ("cache_purges_total", self.purges),
            ("cache_failed_purge_attempts_total", self.failed_purge_attempts),
            ("cache_abandoned_purges_total", self.abandoned_purges),
            ("cache_purge_overflows_total", self.purge_overflows),
            ("cache_unfenced_writes_total", self.unfenced_writes),
            ("cache_uncovered_writes_total", self.uncovered_writes),
            ("cache_writes_without_rules_total", self.writes_without_rules),
            ("cache_unread_writes_total", self.unread_writes),
            ("cache_never_invalidated_entries_total", self.never_invalidated),
            ("cache_damaged_entries_total", self.damaged),
            ("cache_failed_lookups_total", self.failed_lookups),
            ("cache_refreshes_total", self.refreshes),
        ] {
            recorder.count(name, &[], count);
        }
        for (name, value) in [
            ("cache_entries", self.entries as f64),
            ("cache_size_bytes", self.bytes as f64),
            ("cache_capacity_bytes", self.capacity as f64),
            ("cache_fills_in_progress", self.flights as f64),
            ("cache_followers", self.followers as f64),
            ("cache_pending_invalidations", self.pending_invalidations as f64),
            ("cache_unmatched_rules", self.unmatched_rules as f64),
            ("cache_time_per_hit_seconds", self.cache_time_per_hit.as_secs_f64()),
        ] {
            recorder.set(name, &[], value);
        }
        if let Some(namespaces) = self.overinvalidated_namespaces {
            recorder.set("cache_overinvalidated_namespaces", &[], namespaces as f64);
        }
        for (name, state) in [("cache_store_reachable", self.reachable), ("cache_store_leased", self.leased)] {
            if let Some(state) = state {
                recorder.set(name, &[], f64::from(u8::from(state)));
            }
        }
        if self.reachable.is_some() {
            recorder.count("cache_redis_round_trips_total", &[], self.round_trips);
            recorder.count("cache_redis_failed_round_trips_total", &[], self.failed_round_trips);
            recorder.count("cache_redis_pushes_total", &[], self.pushes);
        }
    }
}

/// Needs the feature `metrics`.
#[cfg(feature = "redis")]
impl ServerUsage {
    /// Reports the usage to the recorder of the [`metrics`] facade, with the label `cache`, as the gauges `cache_redis_masters`,
    /// `cache_redis_memory_bytes`, `cache_redis_capacity_bytes`, `cache_redis_keys` and `cache_redis_output_buffer_bytes`.
    pub fn record(&self, cache: impl Into<SharedString>) {
        let recorder = Recorder { cache: cache.into() };
        for (name, value) in [
            ("cache_redis_masters", self.masters),
            ("cache_redis_memory_bytes", self.bytes),
            ("cache_redis_capacity_bytes", self.capacity),
            ("cache_redis_keys", self.keys),
            ("cache_redis_output_buffer_bytes", self.output_buffer),
        ] {
            recorder.set(name, &[], value as f64);
        }
    }
}
