//! The size of a store.

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries, stale and dead ones included that are not removed yet.
    pub entries: u64,
    /// Bytes, with all overhead that is counted against the capacity.
    pub bytes: u64,
    /// The most bytes there may be.
    pub capacity: u64,
}
