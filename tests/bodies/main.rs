//! Response bodies on their way through the cache: when they begin, how they end, who receives them and which are stored.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod endings;
mod running;
mod setup;
mod streaming;
mod unstored;
