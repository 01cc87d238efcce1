//! The charts of the page.

use std::{cmp::Reverse, sync::Arc};

use maud::{Markup, html};

use super::{
    chart::{chart, lines},
    route_samples::Interval,
    samples::Sample,
};
use crate::route::ANY_ROUTE;

/// Returns the charts of the whole cache.
pub(super) fn charts(samples: &[Sample]) -> Markup {
    html! {
        section aria-labelledby="over-time" {
            h2 #over-time { "Over time" }
            div.charts {
                (chart("Hit ratio", "%", samples, Some(100.0), |now, before| now.hit_ratio_since(before).map(|ratio| 100.0 * ratio)))
                (chart("Requests", "a second", samples, None, |now, before| now.rate_since(before)))
                (chart("Mean call of the inner service", "ms", samples, None, |now, before| now.call_since(before)))
                (chart("Memory", "KiB", samples, None, |now, _| Some(now.bytes as f64 / 1024.0)))
            }
        }
    }
}

/// The number of routes with charts.
const CHARTED: usize = 12;

/// Returns charts for the routes with the most requests. The first is open.
pub(super) fn routes(routes: &[(Option<Arc<str>>, Vec<Interval>)]) -> Markup {
    let count = |intervals: &[Interval]| intervals.iter().map(|of| of.answered + of.misses + of.bypasses).sum::<u64>();
    let mut routes: Vec<_> = routes.iter().collect();
    routes.sort_by_key(|(_, intervals)| Reverse(count(intervals)));
    html! {
        section aria-labelledby="routes-over-time" {
            h2 #routes-over-time { "Routes over time" }
            @for (place, (route, intervals)) in routes.into_iter().take(CHARTED).enumerate() {
                details data-route=(route.as_deref().unwrap_or_default()) open[place == 0] {
                    summary { (route.as_deref().unwrap_or(ANY_ROUTE)) }
                    div.charts { (charts_of_route(intervals)) }
                }
            }
        }
    }
}

fn charts_of_route(intervals: &[Interval]) -> Markup {
    let ratios = intervals.iter().map(|of| of.hit_ratio().map(|ratio| 100.0 * ratio)).collect();
    let latency = |title: &str, times: fn(&Interval) -> Option<(f32, f32)>| {
        let half = intervals.iter().map(|of| times(of).map(|(half, _)| f64::from(half))).collect();
        let most = intervals.iter().map(|of| times(of).map(|(_, most)| f64::from(most))).collect();
        lines(title, "ms", None, &[("p50", half), ("p99", most)])
    };
    html! {
        (lines("Hit ratio", "%", Some(100.0), &[("", ratios)]))
        (latency("Hits", |of| of.hit_times))
        (latency("Misses", |of| of.miss_times))
        (latency("Uncached", |of| of.bypass_times))
    }
}
