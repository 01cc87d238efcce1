//! One fill per key and live stamp: who waits, who calls the inner service alone, and that every wait ends.

#[path = "../common/mod.rs"]
mod common;

mod coalescing;
