//! Reactions to a store that does not answer.

/// The response of a write whose invalidation could not be delivered to a shared store in time.
///
/// In both cases the invalidation is delivered as soon as the store can be reached. Until then this process serves no entry of its namespaces. Other
/// processes that reach the store do not know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDeliveryTimeout {
    /// The handler's response, marked with [`Invalidation::Undelivered`](crate::invalidate::Invalidation::Undelivered). Availability first.
    /// The default.
    Respond,
    /// 503 in place of the handler's response, although the write was done. Consistency first.
    Reject,
}

/// The reaction to a fence that cannot be set, with a strict store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFenceError {
    /// 503. The handler is not called and nothing is written. The default.
    Reject,
    /// The write continues without a fence. If this process dies between the commit and the invalidation, other processes serve the old
    /// entries until they expire.
    Proceed,
}
