//! The clock of a server, as this process knows it.
//!
//! Entries carry absolute times, and two processes of which one has a wrong wall clock would count them differently. Therefore stored
//! times count by the clock of the server that keeps them, which also ends keys by it: the time that an entry has left is then what
//! `PTTL` would answer, without asking. A process learns that clock from `INFO`, which it asks on connect and at each check of the server.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::Nanos;

/// By how much the clock of a server is ahead of the timeline of this process, in nanoseconds.
#[derive(Debug)]
pub(crate) struct ServerTime(AtomicI64);

/// Nothing is known yet.
const UNKNOWN: i64 = i64::MIN;

/// A reading of a server's clock: what it told, and the timeline before it was asked and after it had answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(super) told: Nanos,
    pub(super) asked: Nanos,
    pub(super) answered: Nanos,
}

impl Default for ServerTime {
    fn default() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }
}

impl ServerTime {
    /// The clock was read between the question and the answer. What is known stays if that agrees with it.
    pub(super) fn learn(&self, Reading { told, asked, answered }: Reading) {
        let (least, most) = (difference(told, answered), difference(told, asked));
        let known = self.0.load(Ordering::Relaxed);
        if known == UNKNOWN || known < least || known > most {
            self.0.store(least + (most - least) / 2, Ordering::Relaxed);
        }
    }

    /// The clock of the server at a moment of the timeline, if it was ever read.
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
        time.learn(Reading { told: 1_000, asked: 80, answered: 120 });
        assert_eq!(time.at(100), Some(1_000));
        // One that agrees changes nothing, one that does not is believed.
        time.learn(Reading { told: 2_000, asked: 1_050, answered: 1_110 });
        assert_eq!(time.at(1_100), Some(2_000));
        time.learn(Reading { told: 3_000, asked: 5_000, answered: 5_002 });
        assert_eq!(time.at(5_001), Some(3_000));
    }
}
