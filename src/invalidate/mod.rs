//! Clearing what a write has changed, before its response is sent.
//!
//! [`InvalidateLayer`] wraps the handlers of mutating requests. When one has answered, the namespaces that its rule, or the
//! handler itself, names are cleared, and only then does the response leave: whoever has seen the response sees the change.
//!
//! # Which outcomes clear
//!
//! Every outcome that may have committed something:
//!
//! | outcome | cleared |
//! |---|---|
//! | 1xx, 2xx, 3xx | yes |
//! | 4xx | yes, unless the rule says [`skip_on_client_error`](crate::Rule::skip_on_client_error) |
//! | 5xx | yes |
//! | the inner service fails (`Err`) | yes |
//! | the handler panics | yes; then the panic goes on its way |
//! | the client leaves, a timeout outside of the layer drops the request | the handler goes on in a task of its own, and what it names is cleared when it is done |
//! | the runtime is shut down under the handler | at once, in this process |
//!
//! Safe methods (GET, HEAD, OPTIONS, TRACE, QUERY, and WebDAV's PROPFIND, REPORT and SEARCH) clear nothing, unless a
//! method-override header asks for another method; all others, known or not, count as writes (RFC 9111, section 4.4).
//!
//! Under a [`Rule::http`](crate::Rule::http) the stored responses to GET of the request's own URI are cleared besides, whoever they
//! were stored for, with every outcome but a 4xx; and those that `Location` and `Content-Location` name with a 2xx or 3xx, if they are
//! of the same origin.
//!
//! # Equivalent targets
//!
//! A key holds the bytes of the target, so that two spellings of one URI have two entries. A write, and
//! [`Store::invalidate_key`], reach the entries of all spellings (RFC 9110, section 4.2.3; RFC 3986, section
//! 6.2.2 and 6.2.3; RFC 9111, section 4.4). The target is the one that the client has sent: under axum's `Router::nest` and
//! `nest_service` it is the whole path (feature `axum`), so that layers on both sides of a nested router mean the same by it.
//!
//! | part | these are the same |
//! |---|---|
//! | scheme | all, and none |
//! | userinfo | all, and none |
//! | host | without case, percent-encoded or not |
//! | port | none, an empty one, 80 and 443, also with zeros before them |
//! | path | percent-encoded or not, also `%2F`; without dot segments, with `//` for `/`, with and without a slash at its end |
//! | query | percent-encoded or not, its parameters in any order, an empty one and none |
//! | forwarding fields (`X-Forwarded-Host` and others) | all, and none |
//!
//! Not normalised: a dot at the end of a host, internationalised names, the case of paths and queries, `+` for a space in a query,
//! `;` as a separator, path parameters, and what an extractor of your own writes. Two targets that are taken for the same although a
//! handler tells them apart are invalidated together, and nothing worse.
//!
//! The rules that say what a write invalidates are those that a reader of any of these spellings has, and those of the target as this
//! layer sees it and as the client has sent it. Where none of these has a pattern, the path is tried with a slash at its end, and then
//! without its first segments, so that the patterns of a nested router's table are found from outside (but not `/` alone).
//!
//! A layer between two of ours that changes the target in another way than these hides it: give both layers the same view, or name
//! namespaces.
//!
//! In a store that is shared with other processes, the response of a write waits until that store knows of it, for so long as
//! [`InvalidateLayer::delivery_timeout`] says. In one that is strict, a fence stands from before the handler until after the clearing: while it
//! does, nothing of what it concerns is served or stored anywhere. It stands to its deadline where the outcome is not known: with 5xx
//! and 408, an error, a panic, or the end of the process.
//!
//! What a handler says with [`Invalidations`] counts on every route, also on those that no rule covers, with every status and with every
//! method, GET included. A safe request is not continued without its client, though, and no fence stands for it: what changes state belongs
//! into an unsafe one. A GET that a cache inside answers from its store, or refreshes in the background, says nothing here.
//! What [`Rule::invalidates_by`](crate::Rule::invalidates_by) computes needs a response: it is not asked if there is none.

pub(crate) mod future;
pub(crate) mod layer;
pub(crate) mod outcome;
pub(crate) mod service;
pub(crate) mod write;
