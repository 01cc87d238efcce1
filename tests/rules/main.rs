//! Rules: which tables are refused, how long responses live, rules from a file, and what operators see.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "config")]
mod file;
mod lifetimes;
mod operations;
mod tables;
