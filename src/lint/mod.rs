//! Mistakes in the configuration: each with its route, its cause and its remedy.
//!
//! [`ResponseCache::lint`](crate::ResponseCache::lint) finds them on demand. Mistakes in the rules show at the start. Other mistakes show in the
//! traffic, after [`Lint::min_requests`].
//!
//! ```
//! use std::time::Duration;
//! use tower_response_cache::{Memory, ResponseCache, Rule, lint::{FindingKind, Lint}};
//!
//! let rule = Rule::ttl(Duration::from_secs(60)).stale_while_revalidate(Duration::from_secs(30)).namespace("rows");
//! let cache = ResponseCache::new(Memory::default()).route("/rows", rule);
//! assert!(cache.lint().is_empty());
//!
//! let findings = cache.lint_with(&Lint::new().max_staleness(Duration::from_secs(60)));
//! assert_eq!((findings[0].kind(), findings[0].route()), (FindingKind::Lifetime, Some("/rows")));
//! ```

mod finding;
mod names;
mod traffic;

use std::{sync::Arc, time::Duration};

pub use self::finding::{Finding, FindingKind};
use crate::{
    rules::{Rules, policy::Policy, table::MOST_UNCOVERED},
    stats::{RouteStats, Stats},
};

/// The options of a search for mistakes in the configuration.
#[derive(Debug, Clone)]
#[must_use]
pub struct Lint {
    min_requests: u64,
    max_staleness: Option<Duration>,
    invalidated: Vec<String>,
}

/// The sources of findings.
pub(crate) struct Evidence<'a> {
    /// The rules for reads.
    pub(crate) reads: &'a Rules,
    /// The rules for writes.
    pub(crate) writes: &'a Rules,
    pub(crate) stats: &'a Stats,
    /// The server of a strict store may evict fences.
    pub(crate) evicts_fences: bool,
}

impl Default for Lint {
    fn default() -> Self {
        Self::new()
    }
}

impl Lint {
    /// Returns the default options.
    pub fn new() -> Self {
        Self { min_requests: 100, max_staleness: None, invalidated: Vec::new() }
    }

    /// Sets the number of requests of a route from which its counters count as evidence. A rule that has matched no request is a finding after
    /// this number for each rule of the table. Defaults to 100.
    pub fn min_requests(mut self, requests: u64) -> Self {
        self.min_requests = requests;
        self
    }

    /// Sets the longest time for which a response may be served without a call of the inner service, with its stale-while-revalidate. Rules that
    /// allow more are findings. By default there is no limit.
    pub fn max_staleness(mut self, limit: Duration) -> Self {
        self.max_staleness = Some(limit);
        self
    }

    /// Adds a namespace that a job or a handler invalidates, and no rule. It may be a template, such as `db_query:{table}`.
    pub fn invalidated_elsewhere(mut self, template: &str) -> Self {
        self.invalidated.push(template.to_owned());
        self
    }

    /// Returns all findings: those of single rules in the order of the rules, then those of the whole cache.
    pub(crate) fn findings(&self, evidence: &Evidence<'_>) -> Vec<Finding> {
        let Evidence { reads, writes, stats, evicts_fences } = evidence;
        let mut found = self.unmatched(reads, stats);
        self.long_lifetimes(reads, &mut found);
        names::not_invalidated(reads, writes, &self.invalidated, &mut found);
        names::not_carried(reads, writes, |rule| self.stores_without_namespace(rule, stats), &mut found);
        for rule in reads.all() {
            if let Some(of_route) = of_route(stats, rule) {
                traffic::find(rule, of_route, self.min_requests, &mut found);
            }
        }
        for rule in writes.all().iter().filter(|rule| rule.learned().outran_fence()) {
            found.push(Finding::of(FindingKind::SlowWrite, rule, "a write has run for longer than the deadline of its fence"));
        }
        if *evicts_fences {
            let problem =
                "the eviction policy of Redis is not `noeviction`, so that it may evict the fences of strict invalidation";
            found.push(Finding::new(FindingKind::Eviction, problem));
        }
        if stats.uncovered_writes > 0 {
            let problem =
                format!("{} successful writes have invalidated nothing, because no rule covers them", stats.uncovered_writes);
            found.push(Finding::new(FindingKind::UncoveredWrites, problem));
        }
        found
    }

    /// Finds rules that match no request.
    fn unmatched(&self, rules: &Rules, stats: &Stats) -> Vec<Finding> {
        let kind = FindingKind::UnmatchedRule;
        let unreachable = rules.all().iter().filter_map(|rule| Some(Finding::of(kind, rule, rules.why_unreachable(rule)?)));
        let mut found: Vec<_> = unreachable.collect();
        if rules.all().iter().all(|rule| !rule.learned().has_matched()) {
            if !rules.is_empty() && rules.uncovered() >= MOST_UNCOVERED {
                let problem = format!("no rule has matched any of the first {MOST_UNCOVERED} requests");
                found.push(Finding::new(kind, problem));
            }
            return found;
        }
        let requests: u64 = stats.routes.iter().map(|route| route.count(|_| true)).sum();
        if requests >= self.min_requests.saturating_mul(rules.all().len() as u64) {
            let problem = format!("the rule has matched no request, while other rules have matched {requests}");
            let is_unmatched = |rule: &&Arc<Policy>| !rule.learned().has_matched() && rules.why_unreachable(rule).is_none();
            found.extend(rules.all().iter().filter(is_unmatched).map(|rule| Finding::of(kind, rule, &*problem)));
        }
        found
    }

    /// Finds rules whose responses are served for longer than the limit.
    fn long_lifetimes(&self, rules: &Rules, found: &mut Vec<Finding>) {
        let Some(limit) = self.max_staleness else { return };
        for rule in rules.all() {
            if let Some(longest) = rule.longest_service().filter(|longest| *longest > limit) {
                let problem = format!("responses are served for up to {longest:?}, and the limit is {limit:?}");
                found.push(Finding::of(FindingKind::Lifetime, rule, problem));
            }
        }
    }

    /// Returns true if the traffic shows that responses of the rule have no namespace.
    fn stores_without_namespace(&self, rule: &Policy, stats: &Stats) -> bool {
        rule.is_never_invalidated() && of_route(stats, rule).is_some_and(|route| route.stored >= self.min_requests)
    }
}

/// Returns the statistics of the route of a rule.
fn of_route<'a>(stats: &'a Stats, rule: &Policy) -> Option<&'a RouteStats> {
    stats.routes.iter().find(|route| route.route.as_deref() == rule.route())
}
