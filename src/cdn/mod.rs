//! CDNs in front of the application: the namespaces of responses as cache tags, and a hook that purges them.
//!
//! [`CacheTags`] sends the namespaces of each response in the field that a CDN reads. [`PurgeHook`] is called with the namespaces after an
//! invalidation. [`guide::cdn`](crate::guide::cdn) has complete examples.

pub(crate) mod purge;
mod queue;
pub(crate) mod response;
pub(crate) mod tags;
pub(crate) mod worker;

pub use self::{
    purge::{Purge, PurgeHook},
    tags::CacheTags,
};
