//! The store in Redis: real servers, one store per process, and faults between them.
//!
//! `cargo test --all-features --test redis delivery::` runs the tests of one module.
#![cfg(feature = "redis")]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod connecting;
mod counts;
mod delivery;
#[cfg(any(feature = "redis-compression", feature = "redis-encryption"))]
mod encoding;
mod failover;
mod fills;
mod frozen;
mod gathering;
#[cfg(feature = "graphql")]
mod graphql;
mod hot_keys;
mod kept;
mod locks;
mod losses;
mod lost_push;
mod messages;
#[cfg(all(feature = "metrics", feature = "postgres"))]
mod metrics;
mod named;
mod operations;
mod paused;
mod places;
mod purges;
mod refreshes;
mod rig;
mod running;
mod setup;
mod sharing;
mod tls;
mod touches;
mod writes;
