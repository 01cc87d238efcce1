//! Rules that are replaced while layers use them.

#[path = "../common/mod.rs"]
mod common;
mod histories;
mod layers;
mod writes;
