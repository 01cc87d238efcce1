//! The boxed error type.

/// A boxed error, as tower and axum use it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
