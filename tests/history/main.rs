//! Histories of several real processes under faults, checked against what the store in Redis promises. See `README.md` beside this.
//!
//! This program is its own test runner, because it is also the processes: started with [`node::WORD`] it is one of them.

#![allow(unreachable_pub)]

mod check;
mod cluster;
mod database;
mod faults;
mod load;
mod node;
mod restamp;
#[path = "../common/redis/mod.rs"]
#[allow(dead_code)]
mod rig;
mod runner;
mod scenarios;
#[path = "../common/shifted.rs"]
mod shifted;
mod stage;

fn main() -> std::process::ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == node::WORD) {
        words.next();
        node::run(words);
        return std::process::ExitCode::SUCCESS;
    }
    runner::run(scenarios::ALL, words)
}
