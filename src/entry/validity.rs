//! The validity of an entry.

/// The validity of an entry or a fill since its stamp was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// None of its namespaces was invalidated.
    Valid,
    /// A namespace was invalidated softly. The entry counts as expired.
    Stale,
    /// A namespace was invalidated. The entry is never served again.
    Invalidated,
}
