//! The size of a store.

/// The size of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries, with expired and invalidated ones that are not removed yet.
    pub entries: u64,
    /// Bytes, with the overhead that counts against the capacity.
    pub bytes: u64,
    /// The capacity in bytes.
    pub capacity: u64,
}
