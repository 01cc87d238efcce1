//! Reactions to a store that does not answer.

/// What a write answers whose clearing could not be delivered to a shared store in time.
///
/// Either way it is delivered as soon as the store can be reached, and until then this process serves nothing that it concerns.
/// Other processes that reach the store meanwhile do not know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDeliveryTimeout {
    /// The handler's response, marked with [`Invalidation::Undelivered`]: availability. The default.
    Respond,
    /// 503 in place of the handler's response, although the write was done: consistency.
    Reject,
}

/// What becomes of a write for which no fence can be set, in a store that is strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFenceError {
    /// 503; the handler is not called and nothing is written. The default.
    Reject,
    /// It goes on without a fence: should this process die between its commit and its clearing, others go on serving what was
    /// stored before, for as long as that lives.
    Proceed,
}
