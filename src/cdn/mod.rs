//! CDNs in front of the application: the namespaces of responses as cache tags.
//!
//! [`CacheTags`] sends the namespaces of each response in the field that a CDN reads. [`guide::cdn`](crate::guide::cdn) has complete examples.

pub(crate) mod response;
pub(crate) mod tags;

pub use self::tags::CacheTags;
