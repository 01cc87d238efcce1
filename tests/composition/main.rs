//! The cache among other layers: over axum, beside those of tower and tower-http, and over real connections.

#[path = "../common/mod.rs"]
mod common;

mod layers;
