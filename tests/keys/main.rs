//! Keys: two requests share one if, and only if, they are the same request.

#[path = "../common/mod.rs"]
mod common;

mod extractors;
mod hostile;
mod query;
