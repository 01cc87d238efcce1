//! The rules of HTTP caching as pure functions: headers and `now` in, a decision out.
//!
//! Nothing here reads a clock, does I/O, or waits. Points in time are milliseconds since the Unix epoch (`u64`, named `now` or
//! `received`); lengths of time are [`Duration`](std::time::Duration)s. Beside each condition stands the section of the RFC that asks
//! for it, RFC 9111 where no number is named.
//!
//! # In the order of a request
//!
//! | when | ask |
//! |---|---|
//! | a request comes | [`RequestFields`], [`CacheControl::of_request`] |
//! | responses are stored for its URI | [`Vary::fits`] or, with the fields in the key, [`Vary::write`]; [`NoVarySearch`] |
//! | one fits: may it answer? | [`Freshness::decide`] |
//! | it answers | [`evaluate`] the client's conditions, then [`select_ranges`]; [`not_modified_headers`], [`partial_headers`], [`Multipart`] |
//! | it is to be validated | [`make_conditional`] the request; on a 304 [`validated`], then [`merge`]; on failure [`Freshness::usable_on_failure`] |
//! | a response comes | [`response_directives`], [`safe_to_store`] or [`shared_storable`], [`Freshness::shared`], [`strip_for_storing`] |
//! | … to a HEAD | [`compare_head`] |
//! | … to anything unsafe | [`invalidated`], [`invalidated_groups`]; [`post_answers_get`] |
//! | the answer leaves | [`Freshness::age_seconds`], [`CacheStatus`] |
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
//! // A response came: may it be kept, and for how long?
//! let cc = response_directives(&response, &[]);
//! let exchange = Exchange { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response };
//! assert_eq!(shared_storable(&exchange, &cc, SharedRules::default()), Ok(()));
//! let at = ExchangeTimes { requested: t0, received: t0 };
//! let freshness = Freshness::shared(StatusCode::OK, &response, &cc, at, &FreshnessRules::default());
//!
//! // Half a minute later it answers; a minute later it is asked about.
//! let anyone = CacheControl::of_request(&request);
//! assert_eq!(freshness.decide(&anyone, t0 + 30_000), Decision::Serve);
//! assert_eq!(freshness.decide(&anyone, t0 + 60_000), Decision::Revalidate);
//! let mut question = request.clone();
//! assert!(make_conditional(&mut question, &[&response]));
//! assert_eq!(question["if-none-match"], "\"v1\"");
//!
//! // The answer is a 304 with the same tag: what is stored is good for another minute.
//! let mut not_modified = HeaderMap::new();
//! not_modified.insert("etag", "\"v1\"".parse().unwrap());
//! assert_eq!(validated(&[&response], &not_modified), Some(0));
//! merge(&mut response, &not_modified, t0 + 60_000);
//! let at = ExchangeTimes { requested: t0 + 60_000, received: t0 + 60_000 };
//! let freshness = Freshness::shared(StatusCode::OK, &response, &cc, at, &FreshnessRules::default());
//! assert_eq!(freshness.decide(&anyone, t0 + 119_000), Decision::Serve);
//! ```

//!
//! # Long fields
//!
//! No field is too long to be read: the server sets the limit (hyper's is about 400 KiB for all fields of an HTTP/1.1 request, and 16 KiB in
//! HTTP/2 unless it is set). All of a field is read, since a directive that stands at its end counts. The time is linear in the length,
//! whatever the field says; only the sorting of the names of a `Vary` and of weighted preferences takes `n log n`. The following is
//! bounded beside that: more than 16 ranges of one request are not served as such, a response that varies by more than 8 fields and a key
//! of more than 8 KiB are not stored.

mod cache_status;
mod conditional;
mod date;
mod directives;
mod freshness;
mod groups;
mod invalidation;
mod list;
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
#[cfg(fuzzing)]
#[doc(hidden)]
pub use list::steps::of as count_steps;
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
pub(crate) use vary::{content_language, preferred_language};
