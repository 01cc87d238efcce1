//! `Rule::http()` and the rules of HTTP caching that hold for every rule: storing, freshness, validation, ranges, `Cache-Status`.

#[path = "../common/mod.rs"]
mod common;

mod cache_status;
mod partial;
mod rule;
mod storing;
