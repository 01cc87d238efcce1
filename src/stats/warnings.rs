//! Rate limits of warnings about misconfiguration, and the rule tables that are watched for unused rules.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::clock::Nanos;

/// The pause between two warnings of one kind, for each store.
pub(crate) const PAUSE: Duration = Duration::from_secs(600);

/// The time after which each rule of a used table should have matched a request.
pub(crate) const TRIAL: Duration = Duration::from_secs(300);

/// A mistake in the configuration that causes no error.
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
    /// A request that reaches the cache a second time.
    Nested,
    /// A cache layer without rules.
    NothingCached,
    /// A rule that reads by POST, without a layer that reads the content.
    RequestBodyUnread,
    /// A response with more cache tags than their field holds.
    TooManyTags,
    /// A read whose message cannot be read.
    UnreadRead,
    /// A write whose message cannot be read.
    UnreadWrite,
}

/// The time of the next warning of each kind.
#[derive(Debug, Default)]
pub(crate) struct WarningLimits {
    until: [AtomicU64; 10],
    /// The rule tables of all layers over the store.
    tables: Mutex<Vec<Watched>>,
}

/// A table of rules that knows which of them have matched a request.
pub(crate) trait RuleUsage: fmt::Debug + Send + Sync {
    /// Returns true once a request has reached the table.
    fn has_been_used(&self) -> bool;

    /// Returns the routes whose rules have matched no request.
    fn unmatched_routes(&self) -> Vec<String>;
}

#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) rules: Weak<dyn RuleUsage>,
    pub(crate) since: Instant,
    pub(crate) reported: bool,
}

impl WarningLimits {
    /// Returns true if a warning of this kind is due. The next one is due after a pause.
    pub(crate) fn is_due(&self, kind: Misconfiguration, now: Nanos) -> bool {
        let until = &self.until[kind as usize];
        let before = until.load(Ordering::Relaxed);
        let next = now.saturating_add(crate::clock::nanos(PAUSE));
        now >= before && until.compare_exchange(before, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_per_kind_and_interval() {
        let quiet = WarningLimits::default();
        assert!(quiet.is_due(Misconfiguration::UncoveredWrite, 1));
        assert!(!quiet.is_due(Misconfiguration::UncoveredWrite, 2));
        assert!(quiet.is_due(Misconfiguration::WithoutRules, 2));
        assert!(quiet.is_due(Misconfiguration::UncoveredWrite, 1 + crate::clock::nanos(PAUSE)));
    }
}
