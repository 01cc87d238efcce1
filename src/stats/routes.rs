//! Counters of the requests of one route.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{
    audits::{AuditCounters, AuditResult},
    shadow::{ShadowAnswer, ShadowComparison, ShadowCounters, ShadowStats},
    stripes::Stripes,
};
use crate::{
    clock::Nanos,
    compare::Difference,
    histogram::{Durations, Exported, Histogram},
    status::{Bypass, Miss, NoStore, Outcome, Stale},
};

/// The part of the system that an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The memory of this process, without a query of a shared store.
    Memory,
    /// A shared store, which this request has queried.
    Store,
    /// The inner service, which was called for this request.
    Inner,
}

impl Tier {
    /// Returns the word for the tier in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Store => "store",
            Self::Inner => "inner",
        }
    }
}

/// The number of requests with one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestCount {
    /// The outcome. A revalidated response counts as a miss.
    pub outcome: Outcome,
    /// The origin of the answer.
    pub tier: Tier,
    /// The number of requests.
    pub count: u64,
}

/// The statistics of the requests of one route since the store was made.
///
/// Each request that a rule covers is counted once, when its outcome is known. The route is the pattern of the rule, so that the number of routes is
/// that of the rules. Layers over one store whose rules have the same pattern are counted together.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RouteStats {
    /// The pattern of the route. `None` stands for rules without one, such as a [fallback](crate::Rules::fallback).
    pub route: Option<Arc<str>>,
    /// Requests by outcome. Outcomes that never occurred are left out.
    pub requests: Vec<RequestCount>,
    /// Bytes of bodies that the cache has sent: of hits, stale responses and shared responses. A 304 and a response to HEAD have none, and a shared
    /// body of unknown length counts as none.
    pub cache_bytes: u64,
    /// Bytes of bodies that the inner service has sent. A body whose length is not known at its head counts as none.
    pub inner_bytes: u64,
    /// Calls of the inner service for fills.
    pub inner_calls: u64,
    /// Responses stored.
    pub stored: u64,
    /// Bytes of the stored responses, with overhead.
    pub stored_bytes: u64,
    /// Responses not stored, by reason. Reasons that never occurred are left out.
    pub not_stored: Vec<(NoStore, u64)>,
    /// Times from the lookup to the response of hits, measured on one hit in 64.
    pub hit_times: Durations,
    /// Times from the lookup to the head of the response, of requests for which the inner service was called.
    pub miss_times: Durations,
    /// Times from the call to the head of the response, of requests that bypassed the cache.
    pub bypass_times: Durations,
    /// Times from the call of the inner service to the head of its response, of fills.
    pub fill_times: Durations,
    /// Times for which requests waited for the fill of another request.
    pub wait_times: Durations,
    /// Ages of the responses of hits, measured on one hit in 64.
    pub hit_ages: Durations,
    /// Hits that were chosen for an [audit](crate::Rule::audit), by result. Results that never occurred are left out.
    pub audits: Vec<(AuditResult, u64)>,
    /// Audits that [differed](AuditResult::Differed), by the parts that differed. One response may differ in several parts. At most 16 header fields
    /// are counted by name.
    pub audit_differences: Vec<(Difference, u64)>,
    /// Requests in [shadow mode](crate::CacheLayer::shadow). They also count as bypasses, because the inner service has answered them.
    pub shadow: ShadowStats,
}

impl RouteStats {
    /// Returns the number of requests whose outcome satisfies `is`.
    pub fn count(&self, is: impl Fn(Outcome) -> bool) -> u64 {
        self.requests.iter().filter(|of| is(of.outcome)).map(|of| of.count).sum()
    }

    /// Returns the number of requests that were answered without a call of the inner service. A request that was served stale after a failed or slow
    /// call is none of them.
    pub fn calls_saved(&self) -> u64 {
        let has_called = |reason| matches!(reason, Stale::IfError | Stale::SoftTimeout);
        self.count(|outcome| match outcome {
            Outcome::Hit | Outcome::Collapsed => true,
            Outcome::Stale(reason) => !has_called(reason),
            _ => false,
        })
    }

    /// Returns the share of lookups that were answered without a call of their own, from 0 to 1. Returns 0 before the first lookup.
    pub fn hit_ratio(&self) -> f64 {
        let served = self.count(|outcome| matches!(outcome, Outcome::Hit | Outcome::Stale(_) | Outcome::Collapsed));
        let all = served + self.count(|outcome| matches!(outcome, Outcome::Miss(_)));
        if all == 0 { 0.0 } else { served as f64 / all as f64 }
    }
}

/// The cells of the outcomes that the cache answers: one for memory, and one for a shared store behind it.
const HIT: usize = 0;
const STALE: usize = HIT + 2;
const COLLAPSED: usize = STALE + 2 * Stale::ALL.len();
const ONLY_IF_CACHED: usize = COLLAPSED + 2;
const MISSES: usize = ONLY_IF_CACHED + 1;
const BYPASSES: usize = MISSES + Miss::ALL.len();
const NO_STORES: usize = BYPASSES + Bypass::ALL.len();
const CACHE_BYTES: usize = NO_STORES + NoStore::ALL.len();
const INNER_BYTES: usize = CACHE_BYTES + 1;
const INNER_CALLS: usize = INNER_BYTES + 1;
const STORED: usize = INNER_CALLS + 1;
const STORED_BYTES: usize = STORED + 1;
const CELLS: usize = STORED_BYTES + 1;

/// The counters of one route, for all layers over a store. They need memory from the first request on.
pub(crate) struct RouteCounters {
    route: Option<Arc<str>>,
    pub(crate) exported: RouteExported,
    cells: OnceLock<Box<Cells>>,
}

/// The exported histograms of one route.
#[derive(Default)]
pub(crate) struct RouteExported {
    pub(crate) hits: Exported,
    pub(crate) misses: Exported,
    pub(crate) bypasses: Exported,
    pub(crate) fills: Exported,
    pub(crate) waits: Exported,
    pub(crate) hit_ages: Exported,
    pub(crate) sizes: Exported,
}

struct Cells {
    counts: Stripes<CELLS>,
    hits: Histogram,
    misses: Histogram,
    bypasses: Histogram,
    fills: Histogram,
    waits: Histogram,
    hit_ages: Histogram,
    audits: AuditCounters,
    shadow: ShadowCounters,
}

impl Cells {
    fn exported_to(exported: &RouteExported) -> Box<Self> {
        let histogram = |to: &Exported| Histogram::exported_to(to.clone());
        Box::new(Self {
            counts: Stripes::default(),
            hits: histogram(&exported.hits),
            misses: histogram(&exported.misses),
            bypasses: histogram(&exported.bypasses),
            fills: histogram(&exported.fills),
            waits: histogram(&exported.waits),
            hit_ages: histogram(&exported.hit_ages),
            audits: AuditCounters::default(),
            shadow: ShadowCounters::default(),
        })
    }
}

impl RouteCounters {
    pub(crate) fn new(route: Option<&str>) -> Self {
        Self { route: route.map(Into::into), exported: RouteExported::default(), cells: OnceLock::new() }
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn pattern(&self) -> Option<Arc<str>> {
        self.route.clone()
    }

    #[inline]
    fn cells(&self) -> &Cells {
        self.cells.get_or_init(|| Cells::exported_to(&self.exported))
    }

    /// Counts a hit. Returns true for one hit in 64, which is to be [measured](Self::measured_hit). No period of the requests has the period of these
    /// hits: they are spread like the multiples of the golden ratio.
    #[inline]
    pub(crate) fn hit(&self, from_store: bool, bytes: u64) -> bool {
        let stripe = self.cells().counts.own();
        stripe.add(CACHE_BYTES, bytes);
        let before = stripe.add(HIT + usize::from(from_store), 1) as u32;
        before.wrapping_mul(0x9e37_79b9) < u32::MAX / 64
    }

    /// Records the time and the age of a hit.
    #[cold]
    pub(crate) fn measured_hit(&self, nanos: u64, age: u64) {
        self.cells().hits.record(nanos);
        self.cells().hit_ages.record(age);
    }

    pub(crate) fn time_of_wait(&self, nanos: u64) {
        self.cells().waits.record(nanos);
    }

    pub(crate) fn stale(&self, reason: Stale, from_store: bool, bytes: u64) {
        self.answer(STALE + 2 * reason as usize + usize::from(from_store), bytes);
    }

    pub(crate) fn collapsed(&self, from_store: bool, bytes: u64) {
        self.answer(COLLAPSED + usize::from(from_store), bytes);
    }

    /// Counts a request that accepts a stored response only, and for which none was found.
    pub(crate) fn only_if_cached(&self) {
        self.answer(ONLY_IF_CACHED, 0);
    }

    fn answer(&self, cell: usize, bytes: u64) {
        let stripe = self.cells().counts.own();
        stripe.add(CACHE_BYTES, bytes);
        stripe.add(cell, 1);
    }

    #[inline]
    pub(crate) fn miss(&self, reason: Miss) {
        self.cells().counts.own().add(MISSES + reason as usize, 1);
    }

    pub(crate) fn bypass(&self, reason: Bypass) {
        self.cells().counts.own().add(BYPASSES + reason as usize, 1);
    }

    /// Counts a call of the inner service for a fill.
    #[inline]
    pub(crate) fn call(&self) {
        self.cells().counts.own().add(INNER_CALLS, 1);
    }

    /// Counts the bytes of a body of the inner service.
    #[inline]
    pub(crate) fn inner_bytes(&self, bytes: u64) {
        self.cells().counts.own().add(INNER_BYTES, bytes);
    }

    #[inline]
    pub(crate) fn time_of_fill(&self, nanos: u64) {
        self.cells().fills.record(nanos);
    }

    #[inline]
    pub(crate) fn time_of_miss(&self, nanos: u64) {
        self.cells().misses.record(nanos);
    }

    pub(crate) fn time_of_bypass(&self, nanos: u64) {
        self.cells().bypasses.record(nanos);
    }

    #[inline]
    pub(crate) fn stored(&self, bytes: u64) {
        let stripe = self.cells().counts.own();
        stripe.add(STORED, 1);
        stripe.add(STORED_BYTES, bytes);
        self.exported.sizes.record(bytes as f64);
    }

    pub(crate) fn no_store(&self, reason: NoStore) {
        self.cells().counts.own().add(NO_STORES + reason as usize, 1);
    }

    /// Counts a request in shadow mode by the answer that it would have had.
    pub(crate) fn shadow(&self, answer: ShadowAnswer) {
        self.cells().shadow.answer(answer);
    }

    /// Counts a comparison in shadow mode.
    pub(crate) fn shadow_compared(&self, result: ShadowComparison, differences: &[Difference]) {
        self.cells().shadow.compared(result, differences);
    }

    /// Counts a hit that was chosen for an audit.
    pub(crate) fn audit(&self, result: AuditResult) {
        self.cells().audits.add(result);
    }

    /// Counts an audit that differed. Returns true if a warning is due.
    pub(crate) fn audit_differed(&self, differences: &[Difference], now: Nanos) -> bool {
        let audits = &self.cells().audits;
        audits.add(AuditResult::Differed);
        audits.differences.add(differences);
        audits.warns(now)
    }

    /// Returns the statistics of the route. Returns `None` before its first request.
    pub(crate) fn read(&self) -> Option<RouteStats> {
        let Cells { counts, hits, misses, bypasses, fills, waits, hit_ages, audits, shadow } = &**self.cells.get()?;
        let requests = outcomes().map(|(cell, outcome, tier)| RequestCount { outcome, tier, count: counts.sum(cell) });
        let not_stored = NoStore::ALL.iter().map(|reason| (*reason, counts.sum(NO_STORES + *reason as usize)));
        Some(RouteStats {
            route: self.route.clone(),
            requests: requests.filter(|of| of.count > 0).collect(),
            cache_bytes: counts.sum(CACHE_BYTES),
            inner_bytes: counts.sum(INNER_BYTES),
            inner_calls: counts.sum(INNER_CALLS),
            stored: counts.sum(STORED),
            stored_bytes: counts.sum(STORED_BYTES),
            not_stored: not_stored.filter(|(_, count)| *count > 0).collect(),
            hit_times: hits.read(),
            miss_times: misses.read(),
            bypass_times: bypasses.read(),
            fill_times: fills.read(),
            wait_times: waits.read(),
            hit_ages: hit_ages.read(),
            audits: audits.read(),
            audit_differences: audits.differences.read(),
            shadow: shadow.read(),
        })
    }
}

/// Returns the cells of requests, with the outcome and the tier of each.
fn outcomes() -> impl Iterator<Item = (usize, Outcome, Tier)> {
    let both = |first: usize, outcome| [(first, outcome, Tier::Memory), (first + 1, outcome, Tier::Store)];
    let stale = Stale::ALL.iter().flat_map(move |reason| both(STALE + 2 * *reason as usize, Outcome::Stale(*reason)));
    let misses = Miss::ALL.iter().map(|reason| (MISSES + *reason as usize, Outcome::Miss(*reason), Tier::Inner));
    let bypasses = Bypass::ALL.iter().map(|reason| (BYPASSES + *reason as usize, Outcome::Bypass(*reason), Tier::Inner));
    let hits = both(HIT, Outcome::Hit).into_iter().chain(stale).chain(both(COLLAPSED, Outcome::Collapsed));
    hits.chain([(ONLY_IF_CACHED, Outcome::OnlyIfCached, Tier::Memory)]).chain(misses).chain(bypasses)
}

impl fmt::Debug for RouteCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteCounters").field(&self.route).finish()
    }
}

/// A request for which the inner service was called. It counts as a miss when this is dropped, unless it was served stale before.
#[derive(Debug)]
pub(crate) struct MissCount {
    route: Option<Arc<RouteCounters>>,
    reason: Miss,
}

impl MissCount {
    #[inline]
    pub(crate) fn new(route: &Arc<RouteCounters>, reason: Miss) -> Self {
        Self { route: Some(route.clone()), reason }
    }

    /// Counts the request as served stale.
    pub(crate) fn served_stale(mut self, reason: Stale, from_store: bool, bytes: u64) {
        if let Some(route) = self.route.take() {
            route.stale(reason, from_store, bytes);
        }
    }
}

impl Drop for MissCount {
    #[inline]
    fn drop(&mut self) {
        if let Some(route) = &self.route {
            route.miss(self.reason);
        }
    }
}
