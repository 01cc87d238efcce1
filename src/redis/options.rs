//! Options of a store in Redis that other files read.

use std::time::Duration;

/// How long making a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How new what memory serves must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Coherence {
    /// Stale by at most the time that is given, counted from when Redis was asked last. No round trip for a hit in memory.
    ///
    /// What this process clears itself shows at once.
    Ttl(Duration),
    /// Stale by at most Δ = 2 heartbeats and a round trip, whatever the network does, and typically by less than a millisecond: masters
    /// push what is cleared. No round trip for a hit in memory. While a master is not heard of, as [`Validated`](Self::Validated).
    Leased,
    /// Never stale: each hit in memory asks Redis for the generations, without the body.
    Validated,
}

/// What becomes of entries from before a failover, or from before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failover {
    /// They are not served: the new master may have missed a clearing. The default.
    Flush,
    /// They are. A clearing that the new master has missed is then never heard of again; entries are stale by up to their lifetimes.
    Trust,
}
