//! Invalidation of the data that a write has changed, before its response is sent.
//!
//! [`InvalidateLayer`] wraps the handlers of mutating requests. After the handler has answered, the layer invalidates the namespaces that the
//! rule or the handler names. Only then is the response sent. A client that has received the response therefore sees the change.
//!
//! # Outcomes that invalidate
//!
//! Every outcome that may have committed a change invalidates:
//!
//! | outcome | invalidates |
//! |---|---|
//! | 1xx, 2xx, 3xx | yes |
//! | 4xx | yes, unless the rule has [`skip_on_client_error`](crate::Rule::skip_on_client_error) |
//! | 5xx | yes |
//! | the inner service fails (`Err`) | yes |
//! | the handler panics | yes, and the panic goes on |
//! | the client leaves, or a timeout outside of the layer drops the request | the handler goes on in a task of its own, and invalidates when it has finished |
//! | the runtime is shut down during the handler | at once, in this process |
//!
//! Safe methods (GET, HEAD, OPTIONS, TRACE, QUERY, and WebDAV's PROPFIND, REPORT and SEARCH) invalidate nothing, unless a method-override header
//! names another method. Under a rule that [reads by POST](crate::Rule::reads_by_post), a POST counts as safe. All other methods, known or not, count as writes (RFC 9111, section 4.4).
//!
//! Under [`Rule::http`](crate::Rule::http), a write also invalidates the stored responses to GET of its own URI, of all users, with every outcome
//! except 4xx. With a 2xx or 3xx it also invalidates the URIs in `Location` and `Content-Location`, if they have the same origin.
//!
//! # Equivalent targets
//!
//! A key holds the bytes of the target, so that two spellings of one URI have two entries. A write and [`Store::invalidate_key`](crate::Store::invalidate_key) reach the entries of
//! all spellings (RFC 9110, section 4.2.3; RFC 3986, section 6.2.2 and 6.2.3; RFC 9111, section 4.4). The target is the one that the client has
//! sent. Under axum's `Router::nest` and `nest_service` it is the whole path (feature `axum`), so that layers on both sides of a nested router agree.
//!
//! | part | equivalent spellings |
//! |---|---|
//! | scheme | all, and none |
//! | userinfo | all, and none |
//! | host | upper and lower case, percent-encoded or not |
//! | port | none, an empty one, 80 and 443, also with leading zeros |
//! | path | percent-encoded or not, also `%2F`; with or without dot segments, `//` for `/`, a slash at the end |
//! | query | percent-encoded or not, parameters in any order, empty or absent |
//! | forwarding fields (`X-Forwarded-Host` and others) | all, and none |
//!
//! Not normalised: a dot at the end of a host, internationalised names, the case of paths and queries, `+` for a space in a query, `;` as a separator,
//! path parameters, and the parts of custom extractors. Two targets that are equivalent here, but different to a handler, are invalidated together.
//!
//! A write uses the rules of all these spellings, of the target as this layer sees it, and of the target as the client has sent it. If none of them
//! has a pattern, the layer tries the path with a slash at its end, and then without its first segments, so that the patterns of a nested
//! router's table are found from outside (but not `/` alone).
//!
//! A layer between the two layers of this crate that changes the target in another way breaks this. Give both layers the same view, or name
//! namespaces.
//!
//! # Calls by gRPC
//!
//! The outcome of a call by gRPC (a POST over HTTP/2 with `Content-Type: application/grpc`) is its status. `OK` and other statuses that are errors of the client,
//! such as `INVALID_ARGUMENT` or `NOT_FOUND`, count as 2xx and 4xx. `CANCELLED`, `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE`,
//! `DATA_LOSS`, and a call that ends without a status, count as 5xx. The status is sent after the invalidation. A client that leaves does not end the call:
//! the response is read to its end, and then invalidates. The messages of a stream may arrive before that.
//!
//! # Shared stores
//!
//! The response of a write waits until a shared store knows of the invalidation, at most for [`InvalidateLayer::delivery_timeout`](crate::InvalidateLayer::delivery_timeout). With a strict store,
//! a fence stands from before the handler until after the invalidation. Meanwhile no entry of its namespaces is served or stored in any process. If the
//! outcome is not known (5xx, 408, an error, a panic, or the end of the process), the fence stands until its deadline.
//!
//! # Instructions of handlers
//!
//! [`Invalidations`](crate::Invalidations) in a response count on every route, also on those that no rule covers, with every status and every method, also GET. A
//! safe request ends with its client, however, and has no fence: state changes belong into unsafe requests. A GET that an inner cache answers from
//! its store, or refreshes in the background, carries no instructions. [`Rule::invalidates_by`](crate::Rule::invalidates_by) needs a
//! response, and is not called without one.

mod body;
mod call;
pub(crate) mod future;
mod held;
pub(crate) mod layer;
mod message;
pub(crate) mod outcome;
pub(crate) mod service;
pub(crate) mod uri;
pub(crate) mod write;

pub use self::{
    body::InvalidateBody, future::InvalidateFuture, layer::InvalidateLayer, outcome::Invalidation, service::InvalidateService,
};
pub use crate::rules::failure::{OnDeliveryTimeout, OnFenceError};
