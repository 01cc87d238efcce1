//! The memory store: capacity, expiry, invalidation, statistics, and stores defined by a test.

#[path = "../common/backend.rs"]
mod backend;
#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod counts;
mod custom;
mod hot;
mod invalidation;
#[cfg(feature = "metrics")]
mod metrics;
mod routes;
mod spans;

use common::*;
use http::{Request, Response};
use tower_response_cache::{
    CacheStatus, Clock, Memory, Outcome,
    status::{Miss, StatusBody, Storing},
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

const HIT: Outcome = Outcome::Hit;

fn stored<B: StatusBody>(response: &Response<B>) -> Option<Storing> {
    CacheStatus::of(response).expect("a rule covers it").stored()
}

fn with_manual_clock(capacity: usize) -> (Clock, Memory) {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(capacity).clock(clock.clone()).build();
    (clock, store)
}

/// Responds with a body whose length is the last part of the path.
fn sized(request: &Request<Plain>, _: usize) -> Response<Plain> {
    let len = request.uri().path().rsplit('-').next().and_then(|len| len.parse().ok()).expect("a length");
    ok(vec![b'.'; len])
}

/// Lets every task run that can run.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}
