//! The error of a store.

use std::{error, fmt};

/// A store could not do what was asked. Reads that fail are misses; only explicit calls return it.
#[derive(Debug)]
pub struct StoreError(Box<dyn error::Error + Send + Sync>);

impl StoreError {
    /// Wraps the cause.
    pub fn new(cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }

    /// An invalidation that could not be delivered in time: it waits in the store, and is delivered as soon as that is possible.
    pub fn queued() -> Self {
        Self::new(Queued)
    }

    /// Whether the invalidation waits in the store and will be delivered. The caller has nothing to repeat.
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

/// See [`StoreError::queued`].
#[derive(Debug)]
struct Queued;

impl fmt::Display for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalidation queued: the store cannot be reached, and will be told as soon as it can")
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
