//! Figures of each route over time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use super::route_figures::{RouteCounts, quantiles};
use crate::stats::{Durations, RouteStats, Stats};

/// The number of routes with figures over time: the first ones that had a request.
const MAX_ROUTES: usize = 100;

/// The median and the 99th percentile, in milliseconds.
type Quantiles = Option<(f32, f32)>;

/// The figures of one route in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Interval {
    pub(super) answered: u64,
    pub(super) misses: u64,
    pub(super) bypasses: u64,
    pub(super) hit_times: Quantiles,
    pub(super) miss_times: Quantiles,
    pub(super) bypass_times: Quantiles,
}

impl Interval {
    /// Returns the figures between two readings.
    fn between(before: &Reading, now: &Reading) -> Self {
        let times = |now: &Durations, before: &Durations| {
            let millis = |time: Duration| time.as_secs_f32() * 1e3;
            quantiles(&now.since(before)).map(|(half, most)| (millis(half), millis(most)))
        };
        Self {
            answered: now.counts.answered.saturating_sub(before.counts.answered),
            misses: now.counts.misses.saturating_sub(before.counts.misses),
            bypasses: now.counts.bypasses.saturating_sub(before.counts.bypasses),
            hit_times: times(&now.hit_times, &before.hit_times),
            miss_times: times(&now.miss_times, &before.miss_times),
            bypass_times: times(&now.bypass_times, &before.bypass_times),
        }
    }

    /// Returns the share of lookups that were answered without a call of their own, or `None` without a lookup.
    pub(super) fn hit_ratio(&self) -> Option<f64> {
        let all = self.answered + self.misses;
        (all > 0).then(|| self.answered as f64 / all as f64)
    }
}

/// The counters of a route at one time.
#[derive(Default)]
struct Reading {
    counts: RouteCounts,
    hit_times: Durations,
    miss_times: Durations,
    bypass_times: Durations,
}

impl Reading {
    fn of(route: &RouteStats) -> Self {
        Self {
            counts: RouteCounts::of(route),
            hit_times: route.hit_times.clone(),
            miss_times: route.miss_times.clone(),
            bypass_times: route.bypass_times.clone(),
        }
    }
}

/// A route with its last intervals, the oldest first.
#[derive(Default)]
struct RouteHistory {
    last: Reading,
    intervals: VecDeque<Interval>,
}

#[derive(Default)]
struct History {
    /// True after the first sample.
    has_begun: bool,
    routes: BTreeMap<Option<Arc<str>>, RouteHistory>,
}

/// The figures of the routes over time.
pub(super) struct RouteSamples {
    /// The number of intervals that are kept.
    kept: usize,
    history: Mutex<History>,
}

impl RouteSamples {
    pub(super) fn new(kept: usize) -> Self {
        Self { kept, history: Mutex::default() }
    }

    /// Adds the interval between the last sample and this one. The first sample adds none: requests before it belong to no interval.
    pub(super) fn add(&self, stats: &Stats) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let History { has_begun, routes } = &mut *history;
        for route in &stats.routes {
            if routes.len() >= MAX_ROUTES && !routes.contains_key(&route.route) {
                continue;
            }
            let history = routes.entry(route.route.clone()).or_default();
            let now = Reading::of(route);
            if *has_begun {
                history.intervals.push_back(Interval::between(&history.last, &now));
            }
            history.last = now;
            let over = history.intervals.len().saturating_sub(self.kept);
            history.intervals.drain(..over);
        }
        *has_begun = true;
    }

    /// Returns the routes with their intervals, and the present interval behind them.
    pub(super) fn until(&self, stats: &Stats) -> Vec<(Option<Arc<str>>, Vec<Interval>)> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let (routes, none) = (&history.routes, RouteHistory::default());
        let of =
            stats.routes.iter().filter(|route| routes.len() < MAX_ROUTES || routes.contains_key(&route.route)).map(|route| {
                let history = routes.get(&route.route).unwrap_or(&none);
                let present = Interval::between(&history.last, &Reading::of(route));
                (route.route.clone(), history.intervals.iter().copied().chain([present]).collect())
            });
        of.collect()
    }
}

/// Returns the routes as JSON: one array for each interval, in the order of `fields`. The last interval is the present one.
pub(super) fn json_of(routes: &[(Option<Arc<str>>, Vec<Interval>)], every: Duration) -> Value {
    let row = |interval: &Interval| {
        let Interval { answered, misses, bypasses, hit_times, miss_times, bypass_times } = *interval;
        let [hit, miss, bypass] = [hit_times, miss_times, bypass_times].map(|times| times.unzip());
        json!([answered, misses, bypasses, hit.0, hit.1, miss.0, miss.1, bypass.0, bypass.1])
    };
    let of_route = |(route, intervals): &(Option<Arc<str>>, Vec<Interval>)| json!({ "route": route.as_deref(), "rows": intervals.iter().map(row).collect::<Vec<_>>() });
    json!({
        "interval_seconds": every.as_secs_f64(),
        "fields": [
            "answered", "misses", "bypasses", "hit_p50_milliseconds", "hit_p99_milliseconds", "miss_p50_milliseconds", "miss_p99_milliseconds",
            "bypass_p50_milliseconds", "bypass_p99_milliseconds",
        ],
        "routes": routes.iter().map(of_route).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{stats::routes::RouteCounters, status::Miss};

    fn stats(routes: &[&RouteCounters]) -> Stats {
        Stats { routes: routes.iter().filter_map(|route| route.read()).collect(), ..Stats::default() }
    }

    #[test]
    fn interval_has_only_its_own_requests_and_times() {
        let (samples, route, old) = (RouteSamples::new(3), RouteCounters::new(Some("/t")), RouteCounters::new(Some("/old")));
        let miss = |millis: u64| {
            route.miss(Miss::Absent);
            route.time_of_miss(millis * 1_000_000);
        };
        // Requests before the first sample belong to no interval.
        (0..1_000).for_each(|_| old.miss(Miss::Absent));
        samples.add(&stats(&[&old]));
        assert_eq!(samples.until(&stats(&[&old]))[0].1, [Interval::default()]);
        miss(100);
        samples.add(&stats(&[&route]));
        (0..3).for_each(|_| miss(10));
        (0..6).for_each(|_| _ = route.hit(false, 10));
        let present = samples.until(&stats(&[&route]));
        let (name, intervals) = &present[0];
        assert_eq!((name.as_deref(), intervals.len()), (Some("/t"), 2));
        let of = |interval: &Interval| (interval.answered, interval.misses, interval.hit_times);
        assert_eq!((of(&intervals[0]), of(&intervals[1])), ((0, 1, None), (6, 3, None)));
        let (half, most) = intervals[1].miss_times.expect("misses");
        assert!((half - 10.0).abs() < 1.0 && (most - 10.0).abs() < 1.0, "{half} {most}: not those of the first interval");
        assert_eq!((intervals[0].hit_ratio(), intervals[1].hit_ratio()), (Some(0.0), Some(2.0 / 3.0)));
        for _ in 0..9 {
            samples.add(&stats(&[&route]));
        }
        let kept = &samples.until(&stats(&[&route]))[0].1;
        assert_eq!((kept.len(), kept[0]), (4, Interval::default()), "three and the present one, all without requests");
    }

    #[test]
    fn routes_beyond_the_limit_are_left_out() {
        let samples = RouteSamples::new(3);
        let routes: Vec<_> = (0..150).map(|n| RouteCounters::new(Some(&format!("/{n}")))).collect();
        routes.iter().for_each(|route| route.miss(Miss::Absent));
        let all: Vec<_> = routes.iter().collect();
        samples.add(&stats(&all));
        assert_eq!(samples.until(&stats(&all)).len(), MAX_ROUTES);
    }
}
