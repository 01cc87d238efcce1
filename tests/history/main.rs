//! Histories of real processes under faults, checked against the guarantees of the store in Redis. See `README.md` in this
//! directory.
//!
//! This program has its own test runner because it also runs the processes: started with [`node::NODE_ARGUMENT`], it is one of
//! them.

#![allow(unreachable_pub)]

#[path = "../common/backend.rs"]
mod backend;
mod check;
mod clock;
mod cluster;
mod crowd;
mod database;
mod environment;
mod faults;
mod load;
mod node;
mod operation;
#[path = "../common/proxy.rs"]
mod program;
mod proxies;
mod recorder;
mod report;
mod restamp;
#[path = "../common/redis/mod.rs"]
#[allow(dead_code)]
mod rig;
mod runner;
mod scenarios;
mod seen;
#[path = "../common/shifted.rs"]
mod shifted;
mod writers;

fn main() -> std::process::ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == node::NODE_ARGUMENT) {
        words.next();
        node::run(words);
        return std::process::ExitCode::SUCCESS;
    }
    runner::run(scenarios::ALL, words)
}
