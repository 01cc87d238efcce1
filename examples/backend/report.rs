//! The report of the demonstration: a table of the routes, without and with the cache.

use std::{collections::BTreeMap, fmt::Write as _};

use super::load_test::{RouteStats, RunResult};

/// Calls of handlers by `METHOD /route/{pattern}`.
type Counts = BTreeMap<String, u64>;

/// Formats the report. `calls` has the calls of handlers with the cache.
pub(crate) fn table(without: &RunResult, with: &RunResult, calls: &Counts) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:<32}{:>9}{:>8}   {:>16}   {:>16}   {:>16}", "", "", "", "p50, ms", "p99, ms", "handler calls");
    let _ = writeln!(
        text,
        "{:<32}{:>9}{:>8}   {:>8}{:>8}   {:>8}{:>8}   {:>8}{:>8}",
        "route", "requests", "hits", "without", "with", "without", "with", "made", "saved"
    );
    let nothing = RouteStats::default();
    let mut total = (0, 0, 0);
    for (route, seen) in &with.routes {
        let before = without.routes.get(route).unwrap_or(&nothing);
        let made = calls.get(route).copied().unwrap_or_default();
        total = (total.0 + seen.requests(), total.1 + seen.hits, total.2 + made);
        let ratio = if route.starts_with("GET") { percent(seen.hits, seen.requests()) } else { "-".into() };
        let _ = writeln!(
            text,
            "{route:<32}{:>9}{ratio:>8}   {:>8}{:>8}   {:>8}{:>8}   {made:>8}{:>8}",
            seen.requests(),
            milliseconds(before, 0.5),
            milliseconds(seen, 0.5),
            milliseconds(before, 0.99),
            milliseconds(seen, 0.99),
            seen.requests().saturating_sub(made),
        );
    }
    let (requests, hits, made) = total;
    let saved = requests.saturating_sub(made);
    let _ = writeln!(text, "{:<32}{requests:>9}{:>8}{:>49}{made:>8}{saved:>8}", "all", percent(hits, requests), "");
    let _ = writeln!(
        text,
        "\nThe same requests took {:.1} s without the cache and {:.1} s with it.",
        without.took.as_secs_f64(),
        with.took.as_secs_f64()
    );
    for (run, outcome) in [("without", without), ("with", with)] {
        let RunResult { checked, stale, .. } = outcome;
        let _ = writeln!(text, "Of {checked} reads right after a write, {run} the cache, {stale} were stale.");
    }
    text
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

fn milliseconds(seen: &RouteStats, quantile: f64) -> String {
    let mut latencies = seen.latencies.clone();
    let Some(last) = latencies.len().checked_sub(1) else {
        return "-".into();
    };
    let (_, latency, _) = latencies.select_nth_unstable((last as f64 * quantile).round() as usize);
    format!("{:.2}", f64::from(*latency) / 1000.0)
}
