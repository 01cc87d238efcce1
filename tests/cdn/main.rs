//! Cache tags and purges of a CDN in front of the application.

#[path = "../common/mod.rs"]
mod common;

mod purges;
mod tags;
