//! What a history consists of: requests with their results, and committed writes.

use std::time::Duration;

/// One run of one node, and a store in it: 0, or the number of a further one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub node: usize,
    pub run: u32,
    pub store: u32,
}

/// One request and its result. Times are since the beginning of the history.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: u64,
    pub key: u32,
    pub process: Process,
    pub begin: Duration,
    pub end: Duration,
    pub ending: Ending,
}

impl Operation {
    /// Returns its begin, and the rest as text.
    pub fn line(&self) -> (Duration, String) {
        let Self { id, process: Process { node, run, store }, end, ending, .. } = self;
        (self.begin, format!("operation {id} until {end:.3?} at node {node}, run {run}, store {store}: {ending:?}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Read {
        version: u64,
        source: Source,
    },
    /// Acknowledged. `delivered`: all stores knew of the invalidation by then.
    Written {
        version: u64,
        delivered: bool,
    },
    /// Refused before the write was executed.
    NotFenced,
    /// The client has disconnected.
    Disconnected,
    /// The handler has stopped waiting for its statement, which may be executed later.
    Lost,
    Failed(String),
}

/// Source of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A stored response, or the fill of another request.
    Store,
    /// The inner service, for this request.
    Database,
}

/// A committed write.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    pub key: u32,
    pub version: u64,
    /// Time since the beginning of the history.
    pub at: Duration,
    pub operation: u64,
}
