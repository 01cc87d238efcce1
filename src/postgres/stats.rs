//! The counters of a listener.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

#[cfg(feature = "metrics")]
use crate::metrics::Recorder;

/// The counters of a listener since its start. `Display` prints them in one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresStats {
    /// True while changes are streamed.
    pub connected: bool,
    /// Bytes of the write-ahead log that are not yet processed, at the last check. Unless a namespace waits for the store, this is the log that the
    /// server has not yet decoded.
    pub lag_bytes: u64,
    /// Bytes of the write-ahead log that the slot keeps on the disk of the server, at the last check.
    pub retained_bytes: u64,
    /// Committed transactions, with those that have changed no watched table.
    pub transactions: u64,
    /// Changed rows and truncations of watched tables.
    pub changes: u64,
    /// Namespaces that were invalidated.
    pub namespaces: u64,
    /// Calls that have invalidated namespaces. One call may serve many transactions.
    pub invalidations: u64,
    /// Calls that have failed, because the store could not be reached. They are repeated.
    pub failed_invalidations: u64,
    /// Connections after a failure.
    pub reconnections: u64,
    /// Times that more was invalidated than the changed rows name: all watched namespaces, or all names of a template.
    pub fallbacks: u64,
}

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
impl PostgresStats {
    /// Reports the counters to the recorder of the [`metrics`] facade, with the label `cache`. The names begin with `cache_postgres_`:
    /// [the guide](crate::guide::observability) lists them.
    pub fn record(&self, cache: impl Into<metrics::SharedString>) {
        let recorder = Recorder { cache: cache.into() };
        for (name, value) in [
            ("cache_postgres_connected", u64::from(self.connected)),
            ("cache_postgres_lag_bytes", self.lag_bytes),
            ("cache_postgres_retained_bytes", self.retained_bytes),
        ] {
            recorder.set(name, &[], value as f64);
        }
        for (name, value) in [
            ("cache_postgres_transactions_total", self.transactions),
            ("cache_postgres_changes_total", self.changes),
            ("cache_postgres_namespaces_total", self.namespaces),
            ("cache_postgres_invalidations_total", self.invalidations),
            ("cache_postgres_failed_invalidations_total", self.failed_invalidations),
            ("cache_postgres_reconnections_total", self.reconnections),
            ("cache_postgres_fallbacks_total", self.fallbacks),
        ] {
            recorder.count(name, &[], value);
        }
    }
}

impl fmt::Display for PostgresStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connected, lag_bytes, retained_bytes, transactions, changes, namespaces, .. } = self;
        let Self { invalidations, failed_invalidations, reconnections, fallbacks, .. } = self;
        let state = if *connected { "connected" } else { "disconnected" };
        write!(
            f,
            "{state}, lag {lag_bytes} bytes, retained {retained_bytes} bytes; {transactions} transactions, {changes} changes, \
             {namespaces} namespaces in {invalidations} invalidations ({failed_invalidations} failed), {reconnections} reconnections, \
             {fallbacks} fallbacks"
        )
    }
}

/// The counters, as they are written.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connected: AtomicBool,
    pub(super) lag_bytes: AtomicU64,
    pub(super) retained_bytes: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) namespaces: AtomicU64,
    pub(super) invalidations: AtomicU64,
    pub(super) failed_invalidations: AtomicU64,
    pub(super) reconnections: AtomicU64,
    pub(super) fallbacks: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> PostgresStats {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        PostgresStats {
            connected: self.connected.load(Relaxed),
            lag_bytes: count(&self.lag_bytes),
            retained_bytes: count(&self.retained_bytes),
            transactions: count(&self.transactions),
            changes: count(&self.changes),
            namespaces: count(&self.namespaces),
            invalidations: count(&self.invalidations),
            failed_invalidations: count(&self.failed_invalidations),
            reconnections: count(&self.reconnections),
            fallbacks: count(&self.fallbacks),
        }
    }
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_every_counter() {
        let counters = Counters::default();
        let all = [
            &counters.lag_bytes,
            &counters.retained_bytes,
            &counters.transactions,
            &counters.changes,
            &counters.namespaces,
            &counters.invalidations,
            &counters.failed_invalidations,
            &counters.reconnections,
            &counters.fallbacks,
        ];
        all.iter().zip(11..).for_each(|(counter, n)| count(counter, n));
        let text = counters.read().to_string();
        assert!(text.starts_with("disconnected, lag 11 bytes") && (11..20).all(|n| text.contains(&n.to_string())), "{text}");
    }
}
