//! A response cache for Tower services.

#![forbid(unsafe_code)]

pub mod semantics;
