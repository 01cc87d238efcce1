//! The error of a store.

use std::{error, fmt};

/// An operation of a store failed. Only explicit calls return it: a read that fails counts as a miss.
#[derive(Debug)]
pub struct StoreError(Box<dyn error::Error + Send + Sync>);

impl StoreError {
    /// Wraps the cause.
    pub fn new(cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }

    /// Returns the error of an invalidation that was not delivered in time. It is queued, and delivered when the store can be reached
    /// again.
    pub fn queued() -> Self {
        Self::new(Queued)
    }

    /// Returns true if the invalidation is queued and will be delivered. The caller does not need to repeat it.
    ///
    /// ```
    /// use tower_response_cache::StoreError;
    ///
    /// assert!(StoreError::queued().is_queued());
    /// assert!(!StoreError::new("no such name").is_queued());
    /// ```
    pub fn is_queued(&self) -> bool {
        self.0.is::<Queued>()
    }
}

/// The cause of [`StoreError::queued`].
#[derive(Debug)]
struct Queued;

impl fmt::Display for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalidation queued: the store cannot be reached now, and it is delivered later")
    }
}

impl error::Error for Queued {}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl error::Error for StoreError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source()
    }
}
