//! The messages in requests and responses, for closures that compute namespaces and lifetimes.
//!
//! A message is the content of a request or a response. In gRPC and gRPC-Web it is the one message of a unary call, without its frame. In a GET
//! of Connect it is the parameter `message` of the query, decoded.
//!
//! | option of a rule | reads | computes |
//! |---|---|---|
//! | [`namespaces_from_request`](crate::Rule::namespaces_from_request) | the request of a read | the namespaces of its entry |
//! | [`policy_from_response`](crate::Rule::policy_from_response) | the response to a read | namespaces and a lifetime |
//! | [`invalidates_from_request`](crate::Rule::invalidates_from_request) | the request of a write | the namespaces to invalidate |
//! | [`invalidates_from_response`](crate::Rule::invalidates_from_response) | the response to a write | the namespaces to invalidate |
//!
//! Such a closure returns a [`Result`]. With an error, the response to a read is not stored, and a write invalidates all entries, because
//! their namespaces are not known.
//!
//! ```
//! use std::time::Duration;
//! use tower_response_cache::{Memory, Namespace, ResponseCache, Rule};
//!
//! // The content is the name of a customer, as plain text.
//! let search = Rule::ttl(Duration::from_secs(60)).reads_by_post().namespaces_from_request(|request| {
//!     let customer = std::str::from_utf8(request.bytes())?;
//!     Ok(vec![Namespace::of(["orders", customer])])
//! });
//! let cache = ResponseCache::new(Memory::new(64 << 20)).route("/search", search);
//! # drop(cache.layer_with_request_bodies());
//! ```

pub(crate) mod error;
pub(crate) mod view;

pub use self::{error::MessageError, view::MessageView};
