//! Invalidation by writes: nobody who has seen the response of a write is served an older response.

#[path = "../common/mod.rs"]
mod common;

mod writes;
