//! Seeded sequences of requests, checked by an oracle that shares no code with the crate. See `README.md` in this directory.

#![allow(unreachable_pub)]

mod check;
mod client;
mod content;
mod driver;
mod generate;
mod held;
mod history;
mod invalidate;
mod minimise;
mod mutations;
mod oracle;
mod origin;
mod program;
#[path = "../common/redis/mod.rs"]
#[allow(dead_code)]
mod redis;
mod responses;
mod routes;
mod runner;
mod scenarios;
mod spelling;
mod switches;
mod system;

use mutations::Mutation;

#[test]
fn memory_agrees_with_the_oracle() {
    runner::agree(false);
}

#[test]
fn redis_agrees_with_the_oracle() {
    runner::agree(true);
}

/// Proves that the check can fail.
#[test]
fn each_mutation_is_detected() {
    const REQUESTS: usize = 20_000;
    for mutation in Mutation::ALL {
        let detection = runner::detected_by(mutation, REQUESTS);
        let (law, requests) = detection.unwrap_or_else(|| panic!("{mutation:?} was not detected within {REQUESTS} requests"));
        println!("{mutation:?}: \"{law}\" was violated within {requests} requests");
    }
}

#[test]
fn failing_seed_replays_and_is_minimised() {
    let (before, after, law) = runner::minimised(Mutation::OneSecondTooLong);
    println!("{before} steps became {after}: {law}");
    assert!(after <= 4 && after < before, "{before} steps became {after}");
}
