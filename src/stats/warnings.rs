//! Configuration that would otherwise fail silently: a warning that names the route and the remedy, and a counter.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::counters::{Count, Counters};
use crate::{
    clock::Nanos,
    namespace::MAX_NAMESPACES,
    rules::{Rules, WeakRules},
};

/// The pause between two warnings of one kind, for each store.
const PAUSE: Duration = Duration::from_secs(600);

/// A table of rules that gets requests for this long has had one for each of its rules.
pub(crate) const TRIAL: Duration = Duration::from_secs(300);

/// What may be wrong without anybody noticing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Misconfiguration {
    /// A write that no rule covers.
    UncoveredWrite,
    /// A write through a layer that has no rules.
    WithoutRules,
    /// An entry that belongs to no namespace.
    NeverInvalidated,
    /// A response that names more namespaces than an entry may have.
    TooManyNamespaces,
}

/// When the next warning of a kind is due.
#[derive(Debug, Default)]
pub(crate) struct WarningLimits {
    until: [AtomicU64; 4],
    /// The tables of rules of all layers over the store.
    tables: Mutex<Vec<Watched>>,
}

#[derive(Debug)]
struct Watched {
    rules: WeakRules,
    since: Instant,
    told: bool,
}

impl WarningLimits {
    /// Whether a warning of this kind is due; the next one is due after a pause.
    fn is_due(&self, kind: Misconfiguration, now: Nanos) -> bool {
        let until = &self.until[kind as usize];
        let before = until.load(Ordering::Relaxed);
        let next = now.saturating_add(crate::clock::nanos(PAUSE));
        now >= before && until.compare_exchange(before, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn tables(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    /// A write has succeeded, no rule covers it, and its handler has named nothing.
    #[cold]
    pub(crate) fn uncovered_write(&self, method: &str, path: &str, has_rules: bool, now: Nanos) {
        self.add(Count::UncoveredWrites, 1);
        if has_rules {
            if self.quiet.is_due(Misconfiguration::UncoveredWrite, now) {
                tracing::warn!(
                    method,
                    path,
                    "a write has invalidated nothing: no rule covers its route. Add a route to the rules of InvalidateLayer, or have the \
                     handler say `Invalidates`; `Invalidates::only([])` says that it changes nothing that is cached"
                );
            }
            return;
        }
        self.add(Count::WithoutRules, 1);
        if self.quiet.is_due(Misconfiguration::WithoutRules, now) {
            tracing::warn!(
                method,
                path,
                "a write has invalidated nothing: this InvalidateLayer has no rules. Give it the rules of CacheLayer, or have the handler \
                 say `Invalidates`"
            );
        }
    }

    /// An entry was stored that nothing but its own key and the root invalidate.
    #[cold]
    pub(crate) fn never_invalidated(&self, route: Option<&str>, now: Nanos) {
        self.add(Count::NeverInvalidated, 1);
        if self.quiet.is_due(Misconfiguration::NeverInvalidated, now) {
            tracing::warn!(
                route = route.unwrap_or("(any)"),
                "responses of this route belong to no namespace: no write invalidates them before their lifetime ends. Add \
                 `.namespace(\"…\")` to the rule, `*` if that is meant"
            );
        }
    }

    /// A response was not stored, because it names too many namespaces.
    #[cold]
    pub(crate) fn too_many_namespaces(&self, route: Option<&str>, named: usize, now: Nanos) {
        if self.quiet.is_due(Misconfiguration::TooManyNamespaces, now) {
            tracing::warn!(
                route = route.unwrap_or("(any)"),
                named,
                most = MAX_NAMESPACES,
                "a response was not stored: it names more namespaces than an entry may have. Name a common ancestor in their place, and \
                 invalidate that with each of them"
            );
        }
    }

    /// The rules of a layer over the store.
    pub(crate) fn watches(&self, rules: &Rules) {
        let mut tables = self.quiet.tables();
        tables.retain(|watched| watched.rules.is_alive());
        if !tables.iter().any(|watched| watched.rules.are(rules)) {
            tables.push(Watched { rules: rules.downgrade(), since: Instant::now(), told: false });
        }
    }

    /// How many rules have not matched a request so far.
    pub(crate) fn unmatched_rules(&self) -> u64 {
        let tables = self.quiet.tables();
        tables.iter().filter_map(|watched| watched.rules.upgrade()).map(|rules| rules.unmatched().count() as u64).sum()
    }

    /// Warns of the rules that have matched nothing in a table that has got requests for so long. Returns how many those are.
    pub(crate) fn warns_of_unmatched(&self, after: Duration) -> usize {
        let mut warned = 0;
        for watched in self.quiet.tables().iter_mut().filter(|watched| !watched.told && watched.since.elapsed() >= after) {
            let Some(rules) = watched.rules.upgrade().filter(Rules::have_been_asked) else { continue };
            watched.told = true;
            let routes: Vec<_> = rules.unmatched().collect();
            if !routes.is_empty() {
                warned += routes.len();
                tracing::warn!(
                    ?routes,
                    "these rules have matched no request so far. Compare their patterns with the paths that the layer sees: outside of a nested \
                     router, with its prefix"
                );
            }
        }
        warned
    }
}

#[cfg(test)]
mod tests {
    use http::Extensions;

    use super::*;
    use crate::rules::rule::Rule;

    #[test]
    fn one_warning_of_a_kind_is_due_in_a_pause() {
        let quiet = WarningLimits::default();
        assert!(quiet.is_due(Misconfiguration::UncoveredWrite, 1));
        assert!(!quiet.is_due(Misconfiguration::UncoveredWrite, 2));
        assert!(quiet.is_due(Misconfiguration::WithoutRules, 2));
        assert!(quiet.is_due(Misconfiguration::UncoveredWrite, 1 + crate::clock::nanos(PAUSE)));
    }
    #[test]
    fn rules_that_have_matched_nothing_are_told_once_requests_have_come() {
        let counters = Counters::default();
        let rules = Rules::new().route("/a", Rule::uncached()).route("/b/{id}", Rule::uncached());
        counters.watches(&rules);
        counters.watches(&rules.clone());
        assert_eq!((counters.unmatched_rules(), counters.warns_of_unmatched(Duration::ZERO)), (2, 0), "nothing was asked");
        let extensions = Extensions::new();
        assert!(rules.find(&http::Uri::from_static("/b/7"), &extensions).is_some());
        assert_eq!(rules.unmatched().collect::<Vec<_>>(), ["/a"]);
        assert_eq!(counters.warns_of_unmatched(Duration::from_secs(3600)), 0, "too early");
        assert_eq!((counters.unmatched_rules(), counters.warns_of_unmatched(Duration::ZERO)), (1, 1));
        assert_eq!(counters.warns_of_unmatched(Duration::ZERO), 0, "once");
        drop(rules);
        assert_eq!(counters.unmatched_rules(), 0);
    }
    #[test]
    fn requests_that_no_rule_covers_count_as_requests() {
        let counters = Counters::default();
        let rules = Rules::new().route("/api/a", Rule::uncached());
        counters.watches(&rules);
        assert!(!rules.may_cover(&http::Uri::from_static("/a"), &Extensions::new()));
        assert_eq!(counters.warns_of_unmatched(Duration::ZERO), 1);
    }
}
