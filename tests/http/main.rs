//! HTTP caching by `Rule::http()`, and the rules that hold for every rule: storing, freshness, validation, ranges, `Cache-Status`.

#[path = "../common/mod.rs"]
mod common;

mod cache_status;
mod freshness;
mod partial;
mod policies;
mod ranges;
mod script;
mod storing;
mod validation;
mod variants;
mod writes;
