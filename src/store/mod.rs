//! What keeps entries: one narrow trait, and the memory store.

pub(crate) mod backend;
pub(crate) mod epochs;
pub(crate) mod error;
pub(crate) mod expiry;
pub(crate) mod lock;
pub(crate) mod lock_guard;
pub(crate) mod memory;
