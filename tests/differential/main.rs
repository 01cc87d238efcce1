//! Seeded sequences of requests, judged by an oracle that shares no code with the crate. See `README.md` beside this.

#![allow(unreachable_pub)]

mod broken;
mod by_hand;
mod check;
mod client;
mod content;
mod drive;
mod generate;
mod hand;
mod history;
mod known;
mod minimise;
mod oracle;
mod origin;
mod program;
#[path = "../common/redis/mod.rs"]
#[allow(dead_code)]
mod redis;
mod routes;
mod runner;
mod scenes;
mod shows;
mod spell;
mod world;

use broken::Fault;

#[test]
fn memory_agrees_with_the_oracle() {
    runner::agree(false);
}

#[test]
fn redis_agrees_with_the_oracle() {
    runner::agree(true);
}

/// The check is worth something only if it can fail.
#[test]
fn each_broken_cache_is_caught() {
    const REQUESTS: usize = 20_000;
    for fault in Fault::ALL {
        let caught = runner::caught(fault, REQUESTS);
        let (law, requests) = caught.unwrap_or_else(|| panic!("{fault:?} was not caught within {REQUESTS} requests"));
        println!("{fault:?}: \"{law}\" was broken within {requests} requests");
    }
}

#[test]
fn failing_seed_replays_and_is_minimised() {
    let (before, after, law) = runner::minimised(Fault::OneSecondTooLong);
    println!("{before} steps became {after}: {law}");
    assert!(after <= 4 && after < before, "{before} steps became {after}");
}
