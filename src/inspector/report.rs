//! The statistics, the rules and the keys, as JSON.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::{
    explaining::{part_json, rule_json},
    hottest,
    route_figures::RouteCounts,
    route_samples, samples,
    shared::Shared,
};
use crate::{
    entry::{Content, Entry},
    explain::{
        explanation::{reason_of, word},
        most_specific,
    },
    histogram::Durations,
    key::describe::parts_of,
    lint::Finding,
    rules::reload_history::ReloadHistory,
    stats::{AuditResult, RouteStats, Stats},
    status::{Bypass, Miss, NoStore},
    store::backend::Backend,
};

/// The number of entries that are read for a sample of the keys.
const SAMPLED: usize = 2000;

/// The number of keys that are listed.
const LISTED: usize = 50;

/// Returns the reasons that have occurred with their counts and their remedies, the most frequent first.
pub(super) fn occurred<R: Copy>(
    counts: &[(R, u64)],
    text: impl Fn(R) -> (&'static str, &'static str),
) -> Vec<(&'static str, u64, &'static str)> {
    let found = counts.iter().filter(|(_, count)| *count > 0);
    let mut rows: Vec<_> = found.map(|(reason, count)| (text(*reason).0, *count, text(*reason).1)).collect();
    rows.sort_by_key(|(_, count, _)| Reverse(*count));
    rows
}

pub(super) fn miss(reason: Miss) -> (&'static str, &'static str) {
    (reason.as_str(), reason.remedy())
}

pub(super) fn bypass(reason: Bypass) -> (&'static str, &'static str) {
    (reason.as_str(), reason.remedy())
}

pub(super) fn no_store(reason: NoStore) -> (&'static str, &'static str) {
    (reason.as_str(), reason.remedy())
}

fn reasons(rows: &[(&'static str, u64, &'static str)]) -> Value {
    rows.iter().map(|(reason, count, remedy)| json!({ "reason": reason, "count": count, "remedy": remedy })).collect()
}

fn route_json(route: &RouteStats) -> Value {
    let counts = RouteCounts::of(route);
    let requests = route.requests.iter().map(|of| {
        json!({ "outcome": word(Some(of.outcome)), "reason": reason_of(of.outcome), "tier": of.tier.as_str(), "count": of.count })
    });
    let times = |times: &Durations| {
        json!({
            "count": times.count(),
            "seconds": times.sum().as_secs_f64(),
            "p50_seconds": times.quantile(0.5).as_secs_f64(),
            "p99_seconds": times.quantile(0.99).as_secs_f64(),
        })
    };
    json!({
        "route": route.route.as_deref(),
        "answered": counts.answered,
        "misses": counts.misses,
        "bypasses": counts.bypasses,
        "hit_ratio": route.hit_ratio(),
        "requests": requests.collect::<Vec<_>>(),
        "cache_bytes": route.cache_bytes,
        "inner_bytes": route.inner_bytes,
        "inner_calls": route.inner_calls,
        "stored": route.stored,
        "not_stored_by_reason": reasons(&occurred(&route.not_stored, no_store)),
        "hit_times": times(&route.hit_times),
        "miss_times": times(&route.miss_times),
        "uncached_times": times(&route.bypass_times),
        "fill_times": times(&route.fill_times),
        "audits": audits_json(route),
        "shadow": shadow_json(route),
    })
}

/// Returns the figures of shadow mode, or null if no request of the route had it.
fn shadow_json(route: &RouteStats) -> Value {
    let of = &route.shadow;
    if of.is_empty() {
        return Value::Null;
    }
    let differences = of
        .differences
        .iter()
        .map(|(difference, count)| json!({ "part": difference.part(), "field": difference.field(), "count": count }));
    json!({
        "expected_hit_ratio": of.expected_hit_ratio(),
        "hits": of.hits,
        "stale_hits": of.stale_hits,
        "collapsed": of.collapsed,
        "misses": of.misses,
        "same": of.same,
        "differed": of.differed,
        "changed": of.changed,
        "not_compared": of.not_compared,
        "differences": differences.collect::<Vec<_>>(),
    })
}

/// Returns the numbers of audited hits by result, and of the parts that differed.
fn audits_json(route: &RouteStats) -> Value {
    let results: Map<String, Value> =
        AuditResult::ALL.iter().map(|result| (result.as_str().to_owned(), audited(route, *result).into())).collect();
    let differences = route
        .audit_differences
        .iter()
        .map(|(difference, count)| json!({ "part": difference.part(), "field": difference.field(), "count": count }));
    json!({ "results": results, "differences": differences.collect::<Vec<_>>() })
}

/// Returns the number of audited hits of a route with a result.
pub(super) fn audited(route: &RouteStats, result: AuditResult) -> u64 {
    route.audits.iter().find(|(of, _)| *of == result).map_or(0, |(_, count)| *count)
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind().as_str(),
        "route": finding.route(),
        "problem": finding.problem(),
        "remedy": finding.remedy(),
    })
}

/// Returns the reloads of the rules. Times are in milliseconds since 1970.
fn reloads_json(history: &ReloadHistory) -> Value {
    let millis = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    json!({
        "replaced": history.replaced,
        "last_replaced": history.last_replaced.map(millis),
        "refused": history.refused,
        "last_refused": history.last_refused.as_ref().map(|(at, _)| millis(*at)),
        "last_refusal": history.last_refused.as_ref().map(|(_, message)| message),
        "is_refused": history.is_refused(),
    })
}

impl Shared {
    /// Returns everything that is known about the cache.
    pub(super) async fn report(&self) -> Value {
        let stats = self.cache.stats();
        let rules: Vec<_> = self.cache.rule_summaries().iter().map(rule_json).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "enabled": self.cache.is_enabled(),
            "stats": stats_json(&stats),
            "server": self.server().await,
            "rules": rules,
            "findings": self.cache.lint().iter().map(finding_json).collect::<Vec<_>>(),
            "reloads": reloads_json(&self.cache.reload_history()),
            "unmatched_rules": self.cache.unmatched().collect::<Vec<_>>(),
            "hottest": hottest::json(self),
            "route_history": route_samples::json_of(&self.samples.routes.until(&stats), self.samples.every),
            "history": samples::json_of(&self.samples.until(&stats), self.samples.every),
        })
    }

    /// Returns a sample of the entries in memory, their namespaces, and the fills in progress.
    pub(super) fn keys(&self) -> Value {
        let state = self.cache.state();
        let (now, shown) = (state.store.context().clock.nanos(), self.shown);
        let mut entries = state.store.sample(SAMPLED);
        let mut namespaces: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for entry in &entries {
            for name in most_specific(entry.namespaces()) {
                let (count, bytes) = namespaces.entry(shown.name(name.as_str())).or_default();
                (*count, *bytes) = (*count + 1, *bytes + entry.weight());
            }
        }
        entries.sort_by_key(|entry| Reverse(entry.weight()));
        let parts = |key: &[u8]| parts_of(key).iter().map(|part| part_json(part, shown)).collect::<Vec<_>>();
        let listed = |entry: &Arc<Entry>| {
            json!({
                "parts": parts(entry.key().canonical()),
                "bytes": entry.weight(),
                "age_seconds": now.saturating_sub(entry.times().born) as f64 / 1e9,
                "seconds_left": entry.times().fresh_until.saturating_sub(now) as f64 / 1e9,
                "is_list_of_variants": matches!(entry.content(), Content::Variants(_)),
            })
        };
        let fills = state.flights.in_progress(LISTED);
        let fills = fills.iter().map(|(key, followers)| json!({ "parts": parts(key.canonical()), "followers": followers }));
        let mut namespaces: Vec<_> = namespaces.into_iter().collect();
        namespaces.sort_by_key(|(_, (count, _))| Reverse(*count));
        let of_name =
            |(name, (count, bytes)): &(String, (u64, u64))| json!({ "namespace": name, "entries": count, "bytes": bytes });
        json!({
            "sampled": entries.len(),
            "entries": entries.iter().take(LISTED).map(listed).collect::<Vec<_>>(),
            "namespaces": namespaces.iter().take(LISTED).map(of_name).collect::<Vec<_>>(),
            "fills": fills.collect::<Vec<_>>(),
        })
    }
}

fn stats_json(stats: &Stats) -> Value {
    let mut members = Map::new();
    for (name, count) in counts(stats) {
        members.insert(name.into(), count.into());
    }
    members.insert("hit_ratio".into(), stats.hit_ratio().into());
    members.insert("misses".into(), stats.misses().into());
    members.insert("misses_by_reason".into(), reasons(&occurred(&stats.misses, miss)));
    members.insert("bypasses".into(), stats.bypasses.iter().map(|(_, count)| count).sum::<u64>().into());
    members.insert("bypasses_by_reason".into(), reasons(&occurred(&stats.bypasses, bypass)));
    members.insert("not_stored".into(), stats.not_stored.iter().map(|(_, count)| count).sum::<u64>().into());
    members.insert("not_stored_by_reason".into(), reasons(&occurred(&stats.not_stored, no_store)));
    members.insert("routes".into(), stats.routes.iter().map(route_json).collect::<Vec<_>>().into());
    members.insert("capacity".into(), stats.capacity.into());
    members.insert("inner_calls".into(), stats.inner_calls.into());
    members.insert("reachable".into(), stats.reachable.into());
    members.insert("leased".into(), stats.leased.into());
    members.insert("inner_seconds".into(), stats.inner_time.as_secs_f64().into());
    members.insert("cache_seconds_per_hit".into(), stats.cache_time_per_hit.as_secs_f64().into());
    members.into()
}

/// Returns the plain counters with their names.
pub(super) fn counts(stats: &Stats) -> [(&'static str, u64); 29] {
    [
        ("hits", stats.hits),
        ("stale_hits", stats.stale_hits),
        ("stale_if_error", stats.stale_if_error),
        ("collapsed", stats.collapsed),
        ("only_if_cached", stats.only_if_cached),
        ("stored", stats.stored),
        ("evictions", stats.evictions),
        ("expired", stats.expired),
        ("invalidations", stats.invalidations),
        ("undelivered", stats.undelivered),
        ("pending_invalidations", stats.pending_invalidations),
        ("purges", stats.purges),
        ("failed_purge_attempts", stats.failed_purge_attempts),
        ("abandoned_purges", stats.abandoned_purges),
        ("purge_overflows", stats.purge_overflows),
        ("uncovered_writes", stats.uncovered_writes),
        ("writes_without_rules", stats.writes_without_rules),
        ("unread_writes", stats.unread_writes),
        ("never_invalidated", stats.never_invalidated),
        ("unmatched_rules", stats.unmatched_rules),
        ("rules_replaced", stats.rules_replaced),
        ("rules_refused", stats.rules_refused),
        ("unfenced_writes", stats.unfenced_writes),
        ("damaged", stats.damaged),
        ("failed_lookups", stats.failed_lookups),
        ("refreshes", stats.refreshes),
        ("flights", stats.flights),
        ("entries", stats.entries),
        ("bytes", stats.bytes),
    ]
}
