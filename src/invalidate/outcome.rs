//! The outcome of an invalidation.

/// The outcome of the invalidation of a write: an extension of its response, if it invalidates namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invalidation {
    /// The store has confirmed the invalidation.
    Delivered,
    /// A shared store could not be reached in time. The invalidation is delivered when it can be reached.
    Undelivered,
    /// No fence could be set, and the handler was not called.
    NotFenced,
}
