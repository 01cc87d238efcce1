//! Statistics, counted without a shared cache line.

mod audits;
pub(crate) mod counters;
mod misconfiguration;
pub(crate) mod routes;
pub(crate) mod shadow;
mod stripes;
pub(crate) mod usage;
pub(crate) mod warnings;

use std::{fmt, sync::atomic::Ordering, time::Duration};

use self::{
    counters::{Count, Counters},
    usage::Usage,
};
use crate::status::{Bypass, Miss, NoStore, Outcome, Stale};

pub use self::{
    audits::AuditResult,
    routes::{RequestCount, RouteStats, Tier},
    shadow::ShadowStats,
};
pub use crate::{
    compare::Difference,
    histogram::Durations,
    hottest::listed::{HotNamespace, HotRequest},
};

/// The statistics of a store and its layers since the store was made.
///
/// Each request that a rule covers is counted once: as a hit, a stale hit, collapsed, a miss, a bypass, or a 504 for `only-if-cached`. A call by RPC
/// whose deadline has passed counts by the outcome of its lookup. [`routes`](Self::routes) has the same counts for each route.
///
/// The counters are read one after the other, not at one moment.
///
/// `Display` prints a few lines for people, without reasons that never occurred.
///
/// ```
/// use tower_response_cache::{Memory, Store};
///
/// let stats = Memory::new(1 << 20).stats();
/// assert_eq!((stats.hits, stats.misses(), stats.capacity), (0, 0, 1 << 20));
/// assert!(stats.to_string().starts_with("hits 0, stale 0, collapsed 0"));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Requests answered with a fresh stored response.
    pub hits: u64,
    /// Requests answered with a stale stored response.
    pub stale_hits: u64,
    /// Stale hits that replaced a failed or slow call of the inner service. [`stale_hits`](Self::stale_hits) includes them.
    pub stale_if_error: u64,
    /// Requests answered with the response of another fill.
    pub collapsed: u64,
    /// Requests answered by the inner service after a lookup, by reason. Every reason is listed.
    pub misses: Vec<(Miss, u64)>,
    /// Requests that bypassed the cache although a rule covers them, by reason.
    pub bypasses: Vec<(Bypass, u64)>,
    /// Requests answered with a 504, because they accept a stored response only (`only-if-cached`).
    pub only_if_cached: u64,
    /// Responses stored.
    pub stored: u64,
    /// Responses not stored, by reason.
    pub not_stored: Vec<(NoStore, u64)>,
    /// Entries removed to make room.
    pub evictions: u64,
    /// Ages of evicted entries, measured on one eviction in 16.
    pub eviction_ages: Durations,
    /// Entries removed because they had expired.
    pub expired: u64,
    /// Invalidations: responses of writes that have invalidated namespaces, and calls of [`Store::invalidate`](crate::Store::invalidate) and
    /// its relatives. Each counts once, for one namespace or for many.
    pub invalidations: u64,
    /// [Soft](crate::Store::invalidate_softly) invalidations. [`invalidations`](Self::invalidations) includes them.
    pub soft_invalidations: u64,
    /// Times from the end of a write to the invalidation of its namespaces: in memory, or until a shared store has confirmed it. Invalidations that
    /// were not delivered in time are left out. In memory, one invalidation in 64 is measured.
    pub invalidation_times: Durations,
    /// Invalidations that could not be delivered to a shared store in time.
    pub undelivered: u64,
    /// Namespaces whose invalidation now waits for a shared store that cannot be reached.
    pub pending_invalidations: u64,
    /// Calls of purge hooks that have succeeded, for one or more invalidations each.
    pub purges: u64,
    /// Attempts of purge hooks that have failed, panicked or taken too long.
    pub failed_purge_attempts: u64,
    /// Calls of purge hooks that were given up after their last attempt. Their namespaces were not purged.
    pub abandoned_purges: u64,
    /// Times that the queue of a purge hook was full, so that the next call purged everything.
    pub purge_overflows: u64,
    /// Successful writes that invalidated nothing: no rule covers them, and their handlers named no namespace.
    pub uncovered_writes: u64,
    /// Uncovered writes through an [`InvalidateLayer`](crate::InvalidateLayer) without rules.
    pub writes_without_rules: u64,
    /// Writes that invalidated all entries, because their [message](crate::message) could not be read.
    pub unread_writes: u64,
    /// Stored responses without a namespace. Only their lifetime ends them.
    pub never_invalidated: u64,
    /// Rules of layers over this store that have matched no request. [`Rules::unmatched`](crate::Rules::unmatched) names them.
    pub unmatched_rules: u64,
    /// Reloads of rules that were put into force, by [`ResponseCache::reload`](crate::ResponseCache::reload) or by a watched file, in all handles over this
    /// store.
    pub rules_replaced: u64,
    /// Contents of watched files of rules that were refused. The rules before them stayed in force. A content counts once.
    pub rules_refused: u64,
    /// Namespaces that this process has invalidated more often than read:
    /// [`ResponseCache::overinvalidated_namespaces`](crate::ResponseCache::overinvalidated_namespaces) names them. `None` unless the hottest requests
    /// are [tracked](crate::CacheLayer::track_hottest).
    pub overinvalidated_namespaces: Option<u64>,
    /// True if the circuit breaker of a shared store is closed. `None` for [`Memory`](crate::Memory).
    pub reachable: Option<bool>,
    /// True if a lease is held, so that hits in memory need no round trip. `None` without leases.
    pub leased: Option<bool>,
    /// Round trips to the current masters of a shared store, without heartbeats. 0 for [`Memory`](crate::Memory).
    pub round_trips: u64,
    /// Round trips that have failed: by a timeout, by an error of the server, or by a broken connection.
    pub failed_round_trips: u64,
    /// Times of the round trips, from the command to its reply or its timeout.
    pub round_trip_times: Durations,
    /// Messages that the current masters have pushed: invalidated keys.
    pub pushes: u64,
    /// Writes for which a strict store could not set a fence.
    pub unfenced_writes: u64,
    /// Entries of a shared store that were damaged, foreign or of another format. They are misses, and removed.
    pub damaged: u64,
    /// Lookups that failed because a shared store could not be reached.
    pub failed_lookups: u64,
    /// Background refreshes that have begun.
    pub refreshes: u64,
    /// Fills that are in progress.
    pub flights: u64,
    /// Requests that wait for the fill of another request.
    pub followers: u64,
    /// Entries in the store, with expired and invalidated ones that are not removed yet.
    pub entries: u64,
    /// Bytes in the store, with overhead.
    pub bytes: u64,
    /// The capacity in bytes.
    pub capacity: u64,
    /// Calls of the inner service by rules that cache.
    pub inner_calls: u64,
    /// The sum of the times from these calls to the heads of their responses.
    pub inner_time: Duration,
    /// The mean time of the cache for a hit, measured on one hit in 64.
    pub cache_time_per_hit: Duration,
    /// The statistics of each route that has had a request.
    pub routes: Vec<RouteStats>,
}

impl Stats {
    pub(crate) fn of(counters: &Counters, usage: Usage) -> Self {
        let count = |count| counters.sum(count);
        let routes = counters.routes();
        let sum = |of: &dyn Fn(&RouteStats) -> u64| routes.iter().map(of).sum::<u64>();
        let requests = |is: &dyn Fn(Outcome) -> bool| sum(&|route| route.count(is));
        let refused = |why: NoStore| sum(&|route| route.not_stored.iter().filter(|of| of.0 == why).map(|of| of.1).sum());
        let (mut hit_times, mut fill_times) = (Durations::default(), Durations::default());
        for route in &routes {
            hit_times.add(&route.hit_times);
            fill_times.add(&route.fill_times);
        }
        Self {
            hits: requests(&|outcome| outcome == Outcome::Hit),
            stale_hits: requests(&|outcome| matches!(outcome, Outcome::Stale(_))),
            stale_if_error: requests(&|outcome| matches!(outcome, Outcome::Stale(Stale::IfError | Stale::SoftTimeout))),
            collapsed: requests(&|outcome| outcome == Outcome::Collapsed),
            misses: Miss::ALL.iter().map(|why| (*why, requests(&|outcome| outcome == Outcome::Miss(*why)))).collect(),
            bypasses: Bypass::ALL.iter().map(|why| (*why, requests(&|outcome| outcome == Outcome::Bypass(*why)))).collect(),
            only_if_cached: requests(&|outcome| outcome == Outcome::OnlyIfCached),
            stored: sum(&|route| route.stored),
            not_stored: NoStore::ALL.iter().map(|why| (*why, refused(*why))).collect(),
            evictions: count(Count::Evicted),
            expired: count(Count::Expired),
            eviction_ages: counters.eviction_ages.read(),
            invalidations: count(Count::Invalidations),
            soft_invalidations: count(Count::SoftInvalidations),
            invalidation_times: counters.invalidation_times.read(),
            undelivered: count(Count::Undelivered),
            pending_invalidations: counters.waiting.load(Ordering::Relaxed) as u64,
            purges: counters.purges.done.load(Ordering::Relaxed),
            failed_purge_attempts: counters.purges.failed_attempts.load(Ordering::Relaxed),
            abandoned_purges: counters.purges.abandoned.load(Ordering::Relaxed),
            purge_overflows: counters.purges.overflows.load(Ordering::Relaxed),
            uncovered_writes: count(Count::UncoveredWrites),
            writes_without_rules: count(Count::WithoutRules),
            unread_writes: count(Count::UnreadWrites),
            never_invalidated: count(Count::NeverInvalidated),
            unmatched_rules: counters.unmatched_rules(),
            rules_replaced: count(Count::RulesReplaced),
            rules_refused: count(Count::RulesRefused),
            overinvalidated_namespaces: counters.hottest.get().map(|tracker| tracker.overinvalidated_count()),
            reachable: None,
            leased: None,
            round_trips: 0,
            failed_round_trips: 0,
            round_trip_times: Durations::default(),
            pushes: 0,
            unfenced_writes: count(Count::NotFenced),
            damaged: count(Count::Damaged),
            failed_lookups: count(Count::Away),
            refreshes: count(Count::Refreshes),
            flights: counters.flying.load(Ordering::Relaxed) as u64,
            followers: counters.followers.load(Ordering::Relaxed) as u64,
            entries: usage.entries,
            bytes: usage.bytes,
            capacity: usage.capacity,
            inner_calls: sum(&|route| route.inner_calls),
            inner_time: fill_times.sum(),
            cache_time_per_hit: hit_times.mean(),
            routes,
        }
    }

    /// Returns the number of all misses.
    pub fn misses(&self) -> u64 {
        self.misses.iter().map(|(_, n)| n).sum()
    }

    /// Returns the number of hits that were chosen for an [audit](crate::Rule::audit) with this result, of all routes.
    pub fn audits(&self, result: AuditResult) -> u64 {
        self.routes.iter().flat_map(|route| &route.audits).filter(|(of, _)| *of == result).map(|(_, count)| count).sum()
    }

    /// Returns the share of lookups that were answered without a call of their own, from 0 to 1. Returns 0 before the first lookup. A stale
    /// response that replaced a failed call counts as answered.
    pub fn hit_ratio(&self) -> f64 {
        let served = self.hits + self.stale_hits + self.collapsed;
        let all = served + self.misses();
        if all == 0 { 0.0 } else { served as f64 / all as f64 }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hits, stale_hits, collapsed, stored, evictions, expired, invalidations, refreshes, flights, .. } = self;
        let Self { entries, bytes, capacity, inner_calls, inner_time, cache_time_per_hit, .. } = self;
        let percent = 100.0 * self.hit_ratio();
        writeln!(f, "hits {hits}, stale {stale_hits}, collapsed {collapsed}: {percent:.1} % of all lookups")?;
        writeln!(f, "misses {}{}", self.misses(), Reasons(&self.misses))?;
        let bypassed: u64 = self.bypasses.iter().map(|(_, n)| n).sum();
        writeln!(f, "bypassed {bypassed}{}", Reasons(&self.bypasses))?;
        let refused: u64 = self.not_stored.iter().map(|(_, n)| n).sum();
        writeln!(f, "stored {stored}, not stored {refused}{}", Reasons(&self.not_stored))?;
        writeln!(f, "entries {entries} in {bytes} of {capacity} bytes; evicted {evictions}, expired {expired}")?;
        let Self {
            undelivered,
            pending_invalidations,
            unfenced_writes,
            uncovered_writes,
            unread_writes,
            unmatched_rules,
            never_invalidated,
            ..
        } = self;
        writeln!(
            f,
            "invalidations {invalidations}, undelivered {undelivered}, pending {pending_invalidations}, unfenced writes {unfenced_writes}"
        )?;
        let Self { purges, failed_purge_attempts, abandoned_purges, purge_overflows, .. } = self;
        if purges + failed_purge_attempts + purge_overflows > 0 {
            writeln!(
                f,
                "purges {purges}, failed attempts {failed_purge_attempts}, abandoned {abandoned_purges}, overflows {purge_overflows}"
            )?;
        }
        if let Some(reachable) = self.reachable {
            let breaker = if reachable { "closed" } else { "open" };
            let lease = match self.leased {
                Some(true) => "held",
                Some(false) => "lost",
                None => "none",
            };
            writeln!(
                f,
                "breaker {breaker}, lease {lease}, failed lookups {}, damaged entries {}",
                self.failed_lookups, self.damaged
            )?;
        }
        if uncovered_writes + unread_writes + unmatched_rules + never_invalidated > 0 {
            writeln!(
                f,
                "uncovered writes {uncovered_writes}, unread writes {unread_writes}, unmatched rules {unmatched_rules}, entries never \
                 invalidated {never_invalidated}"
            )?;
        }
        let Self { rules_replaced, rules_refused, .. } = self;
        if rules_replaced + rules_refused > 0 {
            writeln!(f, "rules replaced {rules_replaced}, refused {rules_refused}")?;
        }
        writeln!(f, "refreshes {refreshes}, fills in progress {flights}")?;
        let shadow = |of: fn(&ShadowStats) -> u64| self.routes.iter().map(|route| of(&route.shadow)).sum::<u64>();
        let answered = shadow(|of| of.hits + of.stale_hits + of.collapsed);
        if answered + shadow(|of| of.misses) > 0 {
            let (misses, differed) = (shadow(|of| of.misses), shadow(|of| of.differed));
            writeln!(f, "shadow: {answered} would have been answered, {misses} misses, {differed} hits differed")?;
        }
        let audits: Vec<_> = AuditResult::ALL.iter().map(|result| (*result, self.audits(*result))).collect();
        let audited: u64 = audits.iter().map(|(_, count)| count).sum();
        if audited > 0 {
            writeln!(f, "audits {audited}{}", Reasons(&audits))?;
        }
        let mean = inner_time.checked_div(u32::try_from(*inner_calls).unwrap_or(u32::MAX).max(1)).unwrap_or_default();
        write!(f, "inner service {mean:.1?} a call, the cache {cache_time_per_hit:.1?} a hit")
    }
}

/// The reasons that occurred, in parentheses.
struct Reasons<'a, R>(&'a [(R, u64)]);

impl<R: fmt::Display> fmt::Display for Reasons<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut open = " (";
        for (why, n) in self.0.iter().filter(|(_, n)| *n > 0) {
            write!(f, "{open}{why} {n}")?;
            open = ", ";
        }
        if open == ", " { f.write_str(")") } else { Ok(()) }
    }
}
