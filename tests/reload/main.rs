//! Rules that are replaced while layers use them.

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "config")]
mod files;
mod histories;
mod layers;
mod writes;
