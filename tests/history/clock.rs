//! The clock of a history.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock of the machine, from the start of a history. All processes share it. A wrong wall clock does not change it.
#[derive(Clone, Copy, Debug)]
pub struct HistoryClock {
    start: Duration,
}

impl HistoryClock {
    pub fn start() -> Self {
        Self { start: now() }
    }

    /// Returns the clock of another process, from the text of its [`Display`](std::fmt::Display).
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(|nanos| Self { start: Duration::from_nanos(nanos) })
    }

    pub fn elapsed(self) -> Duration {
        now().saturating_sub(self.start)
    }
}

impl std::fmt::Display for HistoryClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.start.as_nanos().fmt(f)
    }
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}
