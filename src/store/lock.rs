//! The distributed lock of a fill.

use std::sync::Arc;

/// The distributed lock of a fill. It only saves work: stored entries are correct without it.
#[derive(Debug)]
pub struct Lock {
    /// The hash of the locked key.
    pub key: u128,
    /// The token of the lock's holder.
    pub token: u128,
    /// The name of the entry in the store, if the store needs it.
    pub place: Arc<str>,
}
