//! The memory store: bounds, expiry, invalidation, counts, and stores defined by a user.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod hot;
#[cfg(feature = "metrics")]
mod metrics;
