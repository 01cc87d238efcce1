//! The events of a run: a hash of all, and the last ones as text.

use std::collections::VecDeque;

/// The number of events that are kept as text.
const KEPT: usize = 120;

/// The events of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    last: VecDeque<String>,
    pub count: u64,
    /// All events are kept, and events after which none are kept.
    pub all: bool,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, last: VecDeque::new(), count: 0, all: false }
    }
}

impl Trace {
    /// Adds an event at a number of milliseconds since the beginning.
    pub fn add(&mut self, at: u64, event: &str) {
        for byte in event.bytes().chain(at.to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if !self.all && self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(format!("{at:>6} ms  {event}"));
    }

    /// Returns the FNV-1a hash of all events.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
