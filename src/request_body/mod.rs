//! The content of requests that belongs to their keys: it is read before a request reaches the cache, and passed on.
//!
//! A cache decides about a request before the handler is called, and the body of a request can be read once. [`RequestBodyLayer`] stands
//! outside of [`CacheLayer`](crate::CacheLayer) and reads the content of those requests whose rules need it. The inner service gets the same
//! bytes in a [`ReadBody`].

mod body;
mod future;
mod layer;
mod service;

pub use self::{body::ReadBody, future::RequestBodyFuture, layer::RequestBodyLayer, service::RequestBodyService};
