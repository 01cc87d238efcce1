//! The outcome of an invalidation.

/// What became of the clearing of a write: an extension of its response, if there was something to clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invalidation {
    /// All stores concerned know of it.
    Delivered,
    /// A shared store could not be told in time: it will be told as soon as it can be reached.
    Undelivered,
    /// No fence could be set, and nothing was done.
    NotFenced,
}
