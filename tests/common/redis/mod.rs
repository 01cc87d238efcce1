//! Real Redis servers for tests, and faults on the way to them.
//!
//! Beside `use common::*` the crate of the same name is `::redis`.

#![allow(unused_imports)]

mod cluster;
mod forwarder;
mod sentinel;
mod server;

pub use cluster::Cluster;
pub use forwarder::{Fault, Forwarder};
pub use sentinel::Sentinel;

pub use server::{CommandLog, Options, Server};

use std::time::{Duration, Instant};

/// How long a state is waited for, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until `is` says yes; panics with `what` when it never does.
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !is().await {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
