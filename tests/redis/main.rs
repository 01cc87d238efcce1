//! The store in Redis: real servers, one store per process, and faults between them.
#![cfg(feature = "redis")]

#[path = "../common/mod.rs"]
mod common;

mod coherence;
mod delivery;
mod failover;
mod fills;
mod lost_push;
mod named;
mod places;
mod rig;
mod running;
