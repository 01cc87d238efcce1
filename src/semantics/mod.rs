//! The rules of HTTP caching as pure functions: headers and `now` in, a decision out.
//!
//! Nothing here reads a clock, does I/O, or waits. Points in time are milliseconds since the Unix epoch (`u64`, `now`);
//! lengths of time are [`Duration`](std::time::Duration)s. Beside each condition stands the section of the RFC that asks for it:
//! 9111 (caching), 9110 (conditional requests and ranges), and those that extend them.

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
mod storable;
mod structured;
mod targeted;
#[cfg(test)]
mod testing;
mod validation;
mod vary;

pub use cache_status::{CACHE_STATUS, CacheStatus, Forwarded};
pub use conditional::{ETag, Precondition, Role, Selected, evaluate, not_modified_headers};
pub use date::{parse_date, print_date};
pub use directives::{CacheControl, MaxStale, Scope};
pub use freshness::{Decision, Exchanged, Failure, Freshness, FreshnessRules, Silent};
pub use groups::{
    CACHE_GROUP_INVALIDATION, CACHE_GROUPS, MalformedGroups, cache_groups, invalidated_groups,
};
pub use invalidation::{Target, invalidated, is_safe};
pub use no_vary_search::{NO_VARY_SEARCH, NoVarySearch};
pub use range::{
    Multipart, Part, Ranges, partial_headers, same_representation, select_ranges,
    unsatisfiable_headers,
};
pub use storable::{
    Exchange, NoStore, SharedRules, heuristically_cacheable, post_answers_get, safe_to_store,
    shared_storable, strip_for_storing,
};
pub use targeted::response_directives;
pub use validation::{HeadSays, condition, head_says, merge, validated};
pub use vary::{Normalise, Vary, Weights};
