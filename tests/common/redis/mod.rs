//! Real Redis servers for tests, and faults on the way to them.
//!
//! Next to `use common::*`, the crate of the same name is `::redis`.

#![allow(unused_imports)]

mod cluster;
mod forwarder;
#[path = "../port.rs"]
mod port;
mod sentinel;
mod server;

pub use cluster::Cluster;
pub use forwarder::{Fault, Forwarder};
pub use sentinel::Sentinel;

pub use port::free_port;
pub use server::{CommandLog, Options, Server};

use std::time::{Duration, Instant};

use ::redis::AsyncConnectionConfig;

/// Longest wait for a state, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Limits of a connection that a busy machine keeps. The default limit for a reply is half a second.
pub fn unhurried() -> AsyncConnectionConfig {
    const LIMIT: Duration = Duration::from_secs(10);
    AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT))
}

/// Polls a condition until it is true. Panics with `what` if it never is.
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !is().await {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
