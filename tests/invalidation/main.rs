//! Invalidation by writes: nobody who has seen the response of a write is served an older response.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod fills;
mod histories;
mod writes;

use common::MINUTE;
use tower_response_cache::{Memory, Namespace, Rule};

fn memory() -> Memory {
    Memory::new(16 << 20)
}

/// Returns the namespace with these levels.
fn name(levels: &[&str]) -> Namespace {
    Namespace::of(levels)
}

/// Returns a rule of one minute, with the namespace `table:{table}`.
fn table() -> Rule {
    Rule::ttl(MINUTE).namespace("table:{table}")
}
