//! Counters of audits, by route.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::warnings::PAUSE;
use crate::{
    clock::{Nanos, nanos},
    compare::Difference,
};

/// The result of the audit of a hit: see [`Rule::audit`](crate::Rule::audit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditResult {
    /// The fresh response equals the stored one.
    Same,
    /// The fresh response differs, two fresh responses are equal, and the stored one was still valid after the first: the client was served an
    /// outdated or a wrong response.
    Differed,
    /// The fresh response differs, and the stored one was invalidated, replaced or has expired meanwhile. This says nothing about the hit.
    Changed,
    /// The fresh response differs, and so does a second fresh one from the first: the handler does not repeat itself.
    Unstable,
    /// The fresh response differs, and the request could not be repeated for a second one: see
    /// [`CacheLayer::audit_body`](crate::CacheLayer::audit_body).
    Unconfirmed,
    /// The inner service has failed, has answered with a 5xx that is not the status of the stored response, or took longer than the
    /// [fill limit](crate::CacheLayer::fill_limit).
    Failed,
    /// The hit was not audited, because [`CacheLayer::max_audits`](crate::CacheLayer::max_audits) audits were in progress.
    Skipped,
}

impl AuditResult {
    /// All results.
    pub const ALL: &'static [Self] =
        &[Self::Same, Self::Differed, Self::Changed, Self::Unstable, Self::Unconfirmed, Self::Failed, Self::Skipped];

    /// Returns the word for the result in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differed => "differed",
            Self::Changed => "changed",
            Self::Unstable => "unstable",
            Self::Unconfirmed => "unconfirmed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for AuditResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The number of fields of a route that are counted by name.
const NAMED: usize = 16;

/// The numbers of responses that differed in each part.
#[derive(Debug, Default)]
pub(super) struct DifferenceCounts(Mutex<BTreeMap<Difference, u64>>);

impl DifferenceCounts {
    /// Counts the differences of one response.
    pub(super) fn add(&self, differences: &[Difference]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = false;
        for difference in differences {
            let is_field = |known: &Difference| matches!(known, Difference::Field(_));
            if !is_field(difference)
                || counts.contains_key(difference)
                || counts.keys().filter(|known| is_field(known)).count() < NAMED
            {
                *counts.entry(difference.clone()).or_default() += 1;
            } else {
                others = true;
            }
        }
        if others {
            *counts.entry(Difference::OtherField).or_default() += 1;
        }
    }

    pub(super) fn read(&self) -> Vec<(Difference, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(difference, count)| (difference.clone(), *count)).collect()
    }
}

/// The counters of the audits of one route.
#[derive(Debug, Default)]
pub(super) struct AuditCounters {
    results: [AtomicU64; AuditResult::ALL.len()],
    pub(super) differences: DifferenceCounts,
    /// The time of the next warning.
    warned_until: AtomicU64,
}

impl AuditCounters {
    pub(super) fn add(&self, result: AuditResult) {
        self.results[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the results that have occurred.
    pub(super) fn read(&self) -> Vec<(AuditResult, u64)> {
        let counts = AuditResult::ALL.iter().map(|result| (*result, self.results[*result as usize].load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Returns true if a warning is due. The next one is due after a pause.
    pub(super) fn warns(&self, now: Nanos) -> bool {
        let before = self.warned_until.load(Ordering::Relaxed);
        let next = now.saturating_add(nanos(PAUSE));
        now >= before && self.warned_until.compare_exchange(before, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_limit_are_counted_together() {
        let counts = DifferenceCounts::default();
        let field = |n: usize| Difference::Field(format!("x-{n}").into());
        let all: Vec<_> = (0..20).map(field).chain([Difference::Body]).collect();
        counts.add(&all);
        counts.add(&all);
        let read = counts.read();
        assert_eq!(read.len(), NAMED + 2);
        assert!(read.contains(&(Difference::OtherField, 2)) && read.contains(&(Difference::Body, 2)));
    }

    #[test]
    fn warning_is_repeated_after_a_pause() {
        let counters = AuditCounters::default();
        assert_eq!([1, 2, 1 + nanos(PAUSE)].map(|now| counters.warns(now)), [true, false, true]);
    }
}
