//! One fill per key and live stamp: which requests wait, which call the inner service alone, and that every wait ends.

#[path = "../common/mod.rs"]
mod common;

mod coalescing;
mod failures;
mod leaving;
mod limits;
mod refreshes;
mod setup;
mod unshared;
