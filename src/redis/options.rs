//! Options of a store in Redis that several files read.

use std::time::Duration;

/// The longest time for making a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Freshness of hits from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Coherence {
    /// A hit from memory is stale by at most this time since Redis was last asked. It takes no round trip.
    ///
    /// Invalidations by this process take effect at once.
    Ttl(Duration),
    /// A hit from memory is stale by at most Δ = 2 heartbeats and a round trip, independently of the network, and typically by less than
    /// one millisecond, since masters push invalidations. It takes no round trip. While a master cannot be reached, hits are
    /// [`Validated`](Self::Validated).
    Leased,
    /// A hit from memory is never stale. Each one asks Redis for the generations, without the body.
    Validated,
}

/// Treatment of entries from before a failover or a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failover {
    /// They are not served, since the new master may have missed an invalidation. The default.
    Flush,
    /// They are served. An invalidation that the new master has missed is lost: entries are stale by up to their lifetimes.
    Trust,
}
