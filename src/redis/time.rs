//! The clock of a server, as this process knows it.
//!
//! Entries carry absolute times, and processes with different wall clocks would read them differently. Stored times therefore use the clock
//! of the server that stores them. The remaining time of an entry then equals the answer of `PTTL`. A process reads that clock from `INFO`,
//! on connecting and at each check of the server.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::Nanos;

/// The nanoseconds by which the clock of a server is ahead of the timeline of this process.
#[derive(Debug)]
pub(crate) struct ServerTime(AtomicI64);

/// The clock was never read.
const UNKNOWN: i64 = i64::MIN;

/// A reading of a server's clock, with the timeline before the command was sent and after it was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(super) server: Nanos,
    pub(super) sent: Nanos,
    pub(super) received: Nanos,
}

impl Default for ServerTime {
    fn default() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }
}

impl ServerTime {
    /// Learns from a reading. An earlier difference stays if the reading agrees with it.
    pub(super) fn learn(&self, Reading { server, sent, received }: Reading) {
        let (least, most) = (difference(server, received), difference(server, sent));
        let known = self.0.load(Ordering::Relaxed);
        if known == UNKNOWN || known < least || known > most {
            self.0.store(least + (most - least) / 2, Ordering::Relaxed);
        }
    }

    /// Returns the clock of the server at a moment of the timeline, if it was ever read.
    pub(super) fn at(&self, moment: Nanos) -> Option<Nanos> {
        let ahead = self.0.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then(|| moment.saturating_add_signed(ahead))
    }
}

fn difference(one: Nanos, other: Nanos) -> i64 {
    i64::try_from(i128::from(one) - i128::from(other)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_clock_is_known_to_within_a_round_trip() {
        let time = ServerTime::default();
        assert_eq!(time.at(5), None);
        time.learn(Reading { server: 1_000, sent: 80, received: 120 });
        assert_eq!(time.at(100), Some(1_000));
        // A reading that agrees changes nothing. Any other one replaces the difference.
        time.learn(Reading { server: 2_000, sent: 1_050, received: 1_110 });
        assert_eq!(time.at(1_100), Some(2_000));
        time.learn(Reading { server: 3_000, sent: 5_000, received: 5_002 });
        assert_eq!(time.at(5_001), Some(3_000));
    }
}
