//! Warnings about configuration that would otherwise fail silently. Each names the route and the remedy, and is counted.

use std::{
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    counters::{Count, Counters},
    warnings::{Misconfiguration, RuleUsage, Watched},
};
use crate::route::ANY_ROUTE;
use crate::{clock::Nanos, compare::Difference, namespace::MAX_NAMESPACES};

impl Counters {
    /// Counts a successful write that no rule covers and whose handler has named no namespace.
    #[cold]
    pub(crate) fn uncovered_write(&self, method: &str, path: &str, has_rules: bool, now: Nanos) {
        self.add(Count::UncoveredWrites, 1);
        if has_rules {
            if self.quiet.is_due(Misconfiguration::UncoveredWrite, now) {
                tracing::warn!(
                    method,
                    path,
                    "a write has invalidated nothing: no rule covers its route. Add a route to the rules of InvalidateLayer, or have the \
                     handler say `Invalidations`; `Invalidations::only([])` says that it changes nothing that is cached"
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
                 say `Invalidations`"
            );
        }
    }

    /// Counts an entry that only its own key and the root invalidate.
    #[cold]
    pub(crate) fn never_invalidated(&self, route: Option<&str>, now: Nanos) {
        self.add(Count::NeverInvalidated, 1);
        if self.quiet.is_due(Misconfiguration::NeverInvalidated, now) {
            tracing::warn!(
                route = route.unwrap_or(ANY_ROUTE),
                "responses of this route belong to no namespace: no write invalidates them before their lifetime ends. Add \
                 `.namespace(\"…\")` to the rule, `*` if that is meant"
            );
        }
    }

    /// Warns of a response that was not stored because it names too many namespaces.
    #[cold]
    pub(crate) fn too_many_namespaces(&self, route: Option<&str>, named: usize, now: Nanos) {
        if self.quiet.is_due(Misconfiguration::TooManyNamespaces, now) {
            tracing::warn!(
                route = route.unwrap_or(ANY_ROUTE),
                named,
                most = MAX_NAMESPACES,
                "a response was not stored: it names more namespaces than an entry may have. Name a common ancestor in their place, and \
                 invalidate that with each of them"
            );
        }
    }

    /// Warns of a request that reaches the cache again while the inner service is called for its own key.
    #[cold]
    pub(crate) fn nested(&self, path: &str, now: Nanos) {
        if self.quiet.is_due(Misconfiguration::Nested, now) {
            tracing::warn!(
                path,
                "a request has reached the cache twice: two cache layers over one store cover its route, or its handler requests its own URI. \
                 Apply the layer once, at the router or at the route; the inner layer passes such requests on"
            );
        }
    }

    /// Warns of a cache layer without rules.
    #[cold]
    pub(crate) fn nothing_cached(&self, now: Nanos) {
        if self.quiet.is_due(Misconfiguration::NothingCached, now) {
            tracing::warn!(
                "a cache layer has no rules: it caches nothing. Add a rule with `route`, `rule` or `rules` before the layer is applied"
            );
        }
    }

    /// Warns of a request whose content belongs to the key and was not read.
    #[cold]
    pub(crate) fn request_body_unread(&self, route: Option<&str>, now: Nanos) {
        if self.quiet.is_due(Misconfiguration::RequestBodyUnread, now) {
            tracing::warn!(
                route = route.unwrap_or(ANY_ROUTE),
                "a request has bypassed the cache: its rule reads by POST, and no layer has read its content. Put RequestBodyLayer outside of \
                 CacheLayer, as `ResponseCache::layer_with_request_bodies` does"
            );
        }
    }

    /// Warns of a response with more cache tags than their field holds.
    #[cold]
    pub(crate) fn too_many_tags(&self, route: Option<&str>, (tags, bytes): (usize, usize), namespace: &str, now: Nanos) {
        if self.quiet.is_due(Misconfiguration::TooManyTags, now) {
            tracing::warn!(
                route = route.unwrap_or(ANY_ROUTE),
                tags,
                bytes,
                namespace,
                "a response was sent with `no-store` for CDNs: its cache tags exceed a limit of their field. Name fewer or shorter namespaces, or \
                 a common ancestor in their place, and invalidate that with each of them"
            );
        }
    }

    /// Warns of a response that was not stored because a closure of its rule could not read a message.
    #[cold]
    pub(crate) fn unread_read(&self, route: Option<&str>, error: &str, now: Nanos) {
        if self.quiet.is_due(Misconfiguration::UnreadRead, now) {
            tracing::warn!(
                route = route.unwrap_or(ANY_ROUTE),
                error,
                "a response was not stored: its namespaces could not be read. Let the closure of its rule accept every message of the \
                 route, let compression stand outside of the cache, and let header fields list valid namespaces"
            );
        }
    }

    /// Counts a write that invalidates all entries, because a closure of its rule could not read a message.
    #[cold]
    pub(crate) fn unread_write(&self, route: Option<&str>, error: &str, now: Nanos) {
        self.add(Count::UnreadWrites, 1);
        if self.quiet.is_due(Misconfiguration::UnreadWrite, now) {
            tracing::warn!(
                route = route.unwrap_or(ANY_ROUTE),
                error,
                "a write invalidates all entries: the namespaces in its message or its header could not be read. Put RequestBodyLayer outside of InvalidateLayer, as \
                 `ResponseCache::layer_with_request_bodies` does, raise `max_request_body` or `max_body`, and let the closure accept every \
                 message of the route"
            );
        }
    }

    /// Warns of an audited hit that differed from a fresh response.
    #[cold]
    pub(crate) fn served_outdated(&self, route: Option<&str>, differences: &[Difference]) {
        let parts: Vec<_> = differences.iter().map(ToString::to_string).collect();
        tracing::warn!(
            route = route.unwrap_or(ANY_ROUTE),
            differs = parts.join(", "),
            "an audited hit differed from a fresh response, and its entry was still valid. Either a write has bypassed the cache: invalidate \
             its namespaces, or use a shorter lifetime. Or the response depends on a part of the request that is not in the key: add an \
             identity or the header field to the key. If the part does not matter, name it in `audit_ignoring`"
        );
    }

    /// Watches the rules of a layer over the store.
    pub(crate) fn watches(&self, rules: &Arc<dyn RuleUsage>) {
        let mut tables = self.quiet.tables();
        tables.retain(|watched| watched.rules.strong_count() > 0);
        if !tables.iter().any(|watched| ptr::addr_eq(watched.rules.as_ptr(), Arc::as_ptr(rules))) {
            tables.push(Watched { rules: Arc::downgrade(rules), since: Instant::now(), reported: false });
        }
    }

    /// Stops watching rules that other rules have replaced.
    pub(crate) fn forgets(&self, rules: &Arc<dyn RuleUsage>) {
        self.quiet.tables().retain(|watched| !ptr::addr_eq(watched.rules.as_ptr(), Arc::as_ptr(rules)));
    }

    /// Returns the number of rules that have matched no request.
    pub(crate) fn unmatched_rules(&self) -> u64 {
        let tables = self.quiet.tables();
        tables.iter().filter_map(|watched| watched.rules.upgrade()).map(|rules| rules.unmatched_routes().len() as u64).sum()
    }

    /// Warns of rules that have matched no request, in tables that are older than `after` and have had requests. Returns their number.
    pub(crate) fn warns_of_unmatched(&self, after: Duration) -> usize {
        let mut warned = 0;
        for watched in self.quiet.tables().iter_mut().filter(|watched| !watched.reported && watched.since.elapsed() >= after) {
            let Some(rules) = watched.rules.upgrade().filter(|rules| rules.has_been_used()) else { continue };
            watched.reported = true;
            let routes = rules.unmatched_routes();
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
