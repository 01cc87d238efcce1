//! HTTP caching rules as pure functions of header fields and a timestamp.
//!
//! No function of this module reads a clock, does I/O or waits. Timestamps are milliseconds since the Unix epoch (`u64`, named `now` or
//! `received`). Durations are [`Duration`](std::time::Duration)s. Each condition names the section of the RFC that requires it. A section
//! without an RFC number belongs to RFC 9111.
//!
//! # In the order of a request
//!
//! | step | functions |
//! |---|---|
//! | receive a request | [`RequestFields`], [`CacheControl::of_request`] |
//! | look up a stored response for its URI | [`Vary::fits`] or, with the fields in the key, [`Vary::write`]; [`NoVarySearch`] |
//! | decide how to use it | [`Freshness::decide`] |
//! | serve it | [`evaluate`], then [`select_ranges`]; [`not_modified_headers`], [`partial_headers`], [`Multipart`] |
//! | validate it | [`make_conditional`]; after a 304 [`validated`], then [`merge`]; after a failure [`Freshness::usable_on_failure`] |
//! | receive a response | [`response_directives`], [`safe_to_store`] or [`shared_storable`], [`Freshness::shared`], [`strip_for_storing`] |
//! | receive the response to a HEAD | [`compare_head`] |
//! | receive the response to an unsafe method | [`invalidated`], [`invalidated_groups`]; [`post_answers_get`] |
//! | send a response | [`Freshness::age_seconds`], [`CacheStatus`] |
//!
//! # Example
//!
//! ```
//! use http::{HeaderMap, Method, StatusCode};
//! use tower_response_cache::semantics::*;
//!
//! let t0 = 1_790_000_000_000;
//! let request = HeaderMap::new();
//! let mut response = HeaderMap::new();
//! response.insert("cache-control", "max-age=60".parse().unwrap());
//! response.insert("etag", "\"v1\"".parse().unwrap());
//!
//! // The response may be stored, and is fresh for a minute.
//! let cc = response_directives(&response, &[]);
//! let exchange = Exchange { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response };
//! assert_eq!(shared_storable(&exchange, &cc, SharedRules::default()), Ok(()));
//! let at = ExchangeTimes { requested: t0, received: t0 };
//! let freshness = Freshness::shared(StatusCode::OK, &response, &cc, at, &FreshnessRules::default());
//!
//! // It is served for a minute. Then it must be validated.
//! let directives = CacheControl::of_request(&request);
//! assert_eq!(freshness.decide(&directives, t0 + 30_000), Decision::Serve);
//! assert_eq!(freshness.decide(&directives, t0 + 60_000), Decision::Revalidate);
//! let mut validation = request.clone();
//! assert!(make_conditional(&mut validation, &[&response]));
//! assert_eq!(validation["if-none-match"], "\"v1\"");
//!
//! // A 304 with the same tag makes the stored response fresh for another minute.
//! let mut not_modified = HeaderMap::new();
//! not_modified.insert("etag", "\"v1\"".parse().unwrap());
//! assert_eq!(validated(&[&response], &not_modified), Some(0));
//! merge(&mut response, &not_modified, t0 + 60_000);
//! let at = ExchangeTimes { requested: t0 + 60_000, received: t0 + 60_000 };
//! let freshness = Freshness::shared(StatusCode::OK, &response, &cc, at, &FreshnessRules::default());
//! assert_eq!(freshness.decide(&directives, t0 + 119_000), Decision::Serve);
//! ```
//!
//! # Long fields
//!
//! This module does not limit the length of a field. The server does: hyper's defaults are about 400 KiB for all fields of an HTTP/1.1
//! request and 16 KiB in HTTP/2. A field is read to its end, because a directive at the end counts. Parsing takes time linear in the
//! length. Only sorting the names of a `Vary` and weighted preferences takes `n log n`.
//!
//! Three limits bound the work that follows: a request for more than 16 ranges receives the whole response, and the cache stores no response
//! that varies by more than 8 fields or has a key of more than 8 KiB.

mod cache_status;
mod conditional;
mod date;
mod directives;
mod freshness;
mod groups;
mod invalidation;
pub(crate) mod list;
mod no_vary_search;
mod range;
mod request;
mod storable;
mod structured;
mod targeted;
#[cfg(test)]
mod testing;
mod validation;
mod vary;

pub use cache_status::{CACHE_STATUS, CacheStatus, Forwarded};
pub use conditional::{ETag, Precondition, Role, Selected, evaluate, not_modified_headers};
pub use date::{format_date, parse_date};
pub(crate) use directives::may_restrict_storing;
pub use directives::{CacheControl, MaxStale, Scope};
pub(crate) use freshness::parse_age;
pub use freshness::{Decision, DefaultLifetime, ExchangeTimes, Failure, Freshness, FreshnessRules};
pub use groups::{CACHE_GROUP_INVALIDATION, CACHE_GROUPS, MalformedGroups, cache_groups, invalidated_groups};
pub use invalidation::{Target, invalidated, is_safe};
pub use no_vary_search::{NO_VARY_SEARCH, NoVarySearch};
pub use range::{Multipart, Part, Ranges, partial_headers, same_representation, select_ranges, unsatisfiable_headers};
pub use request::RequestFields;
pub(crate) use storable::safe_status_and_directives;
pub use storable::{
    Exchange, NoStore, SharedRules, heuristically_cacheable, post_answers_get, safe_to_store, shared_storable,
    strip_for_storing,
};
pub use targeted::response_directives;
pub use validation::{HeadResult, compare_head, make_conditional, merge, validated};
pub use vary::{Normalise, Vary, Weights};
pub(crate) use vary::{content_language, preferred_language, read_written};
