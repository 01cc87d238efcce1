//! Round trips to one master: their number, their errors, their times and their spans.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::{Arg, Cmd};
use tracing::{Span, field::Empty};

use super::error::CommandError;
use crate::{
    clock::{Nanos, monotonic},
    histogram::{Durations, Exported, Histogram},
};

/// The counters of the round trips to one master, apart from heartbeats.
pub(crate) struct Trips {
    begun: AtomicU64,
    failed: AtomicU64,
    times: Histogram,
    /// The number of pushed messages.
    pub(super) pushes: AtomicU64,
}

impl Trips {
    /// Returns counters that pass the times of round trips on.
    pub(super) fn new(exported: Exported) -> Self {
        Self {
            begun: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            times: Histogram::exported_to(exported),
            pushes: AtomicU64::new(0),
        }
    }

    /// Counts a round trip that begins. `operation` writes the name of the command, if a span needs it.
    #[inline]
    pub(super) fn begin<T: AsRef<str>>(&self, address: &str, operation: impl FnOnce() -> T) -> Trip<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let span = tracing::debug_span!(
            "redis",
            db.system.name = "redis",
            db.operation.name = operation().as_ref(),
            server.address = Some(address).filter(|address| !address.is_empty()),
            error.type = Empty
        );
        Trip { trips: self, began: monotonic(), span }
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn times(&self) -> Durations {
        self.times.read()
    }
}

/// A round trip that has begun. Its span ends when this is dropped.
pub(super) struct Trip<'a> {
    trips: &'a Trips,
    began: Nanos,
    span: Span,
}

impl Trip<'_> {
    /// Records the time and the result of the round trip.
    #[inline]
    pub(super) fn end<T>(self, answer: &Result<T, CommandError>) {
        self.trips.times.record(monotonic().saturating_sub(self.began));
        if let Err(error) = answer {
            self.trips.failed.fetch_add(1, Ordering::Relaxed);
            self.span.record("error.type", error.kind());
        }
    }
}

/// Returns the name of a command.
pub(super) fn name_of(command: &Cmd) -> String {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
}
