//! What keeps entries: one narrow trait, and the memory store.

use std::sync::Arc;

/// The lock of a fill across processes. It only saves work: what is stored is right without it, too.
#[derive(Debug)]
pub struct Lock {
    /// The hash of the key that it is for.
    pub key: u128,
    /// What it is known by.
    pub token: u128,
    /// The name that the entry stands under in the store, if that matters there.
    pub place: Arc<str>,
}
