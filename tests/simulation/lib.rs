//! A simulated Redis: its keys, its scripts, its pushes and the turns of its event loop, without a network and without a clock.

pub mod keyspace;
pub mod reply;
pub mod scripts;
pub mod server;
