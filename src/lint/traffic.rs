//! Mistakes that show in the requests of one route.

use super::finding::{Finding, FindingKind};
use crate::{
    rules::{policy::Policy, variants::MANY_VARIANTS},
    stats::RouteStats,
    status::{Bypass, NoStore, Outcome},
};

/// Finds the mistakes of a rule. Shares need a minimum number of requests.
pub(super) fn find(rule: &Policy, route: &RouteStats, min: u64, found: &mut Vec<Finding>) {
    let mut push = |kind, problem: String| found.push(Finding::of(kind, rule, problem));
    let bypasses = |reason| route.count(|outcome| outcome == Outcome::Bypass(reason));
    let not_stored = |reason| route.not_stored.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count);
    let (writes, requests) = (bypasses(Bypass::Method), route.count(|_| true));

    let reads = requests - writes - bypasses(Bypass::Uncached);
    let credentials = bypasses(Bypass::Credentials);
    if is_most(credentials, reads, min) {
        let problem = format!("{credentials} of {reads} reads have bypassed the cache, because they have credentials");
        push(FindingKind::Credentials, problem);
    }
    let fills = route.stored + route.not_stored.iter().map(|(_, count)| count).sum::<u64>();
    let (cookies, lifetimes) = (not_stored(NoStore::SetCookie), not_stored(NoStore::Lifetime));
    if is_most(cookies, fills, min) {
        push(FindingKind::SetCookie, format!("{cookies} of {fills} responses were not stored, because they set a cookie"));
    }
    if is_most(lifetimes, fills, min) {
        push(
            FindingKind::NothingStored,
            format!("{lifetimes} of {fills} responses were not stored, because their lifetime is zero"),
        );
    }
    if requests >= min && writes > 0 && route.stored > 0 && rule.is_never_invalidated() {
        let problem = format!("{writes} writes have gone to the route, and its stored responses belong to no namespace");
        push(FindingKind::NeverInvalidated, problem);
    }
    if rule.learned().variants().are_many() {
        push(FindingKind::Vary, format!("one target has had {MANY_VARIANTS} variants by `Vary`"));
    }
    if rule.learned().codes_without_vary() {
        push(FindingKind::Compression, "a response has a `Content-Encoding` and no `Vary: Accept-Encoding`".into());
    }
    let nested = bypasses(Bypass::Nested);
    if nested > 0 {
        push(FindingKind::Nested, format!("{nested} requests have reached the cache twice"));
    }
    let unread = bypasses(Bypass::RequestBodyUnread);
    if unread > 0 {
        push(
            FindingKind::RequestBodyUnread,
            format!("{unread} reads by POST have bypassed the cache, because no layer has read their content"),
        );
    }
}

/// Returns true for more than half of enough cases.
fn is_most(part: u64, whole: u64, min: u64) -> bool {
    part > 0 && whole >= min && part > whole / 2
}
