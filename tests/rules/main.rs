//! Rules: which tables are refused, how long responses live, rules from a file, and what operators see.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "config")]
mod file;
mod lifetimes;
mod operations;
#[cfg(feature = "config")]
mod places;
mod responses;
mod tables;
