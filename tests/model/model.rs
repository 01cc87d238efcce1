//! The consistency protocol, explored exhaustively at small scope.
//!
//! `protocol.rs` states the protocol of `protocol.md` as atomic steps, `checker.rs` visits every state that any order
//! of them can reach, and the tests state which laws hold in which configuration. A model that cannot fail proves nothing:
//! each test also requires that certain events occurred, and `breaks.rs` breaks one rule at a time and requires
//! a counterexample, which it prints:
//!
//! ```text
//! cargo test --test model -- --nocapture
//! ```
//!
//! The larger scope takes minutes and gigabytes. It runs each night, or by hand, optimized and one test at a time:
//!
//! ```text
//! cargo test --release --test model -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `README.md` in this directory states the scope of the model and the measured numbers.

mod checker;
mod laws;
mod scope;
mod state;

mod canonical;
mod describe;
mod environment;
mod fills;
mod flights;
mod protocol;
mod reading;
mod writing;

mod breaks;
mod holds;
mod larger;
mod limits;

use std::time::Instant;

use checker::{Question, explore};
use scope::Coherence::{Alone, Leased};
use scope::Place::{Far, Near};
use scope::{Mutation, Replaced, Scope};
use state::{law, seen};

/// Redis may evict entries and generations at any time.
const EVICTING: Scope = Scope { evict_entry: true, evict_generation: true, ..Scope::SMALL };

const VALIDATED: Scope = Scope { readers: &[Far, Far], writers: &[Far, Far], ..EVICTING };

const STRICT: Scope = Scope { strict: true, crash: true, ..VALIDATED };

const LEASED: Scope = Scope { coherence: Leased, readers: &[Near], disconnect: true, evict_entry: false, ..EVICTING };

/// Generations are not tracked: bumps alone are pushed.
const TOUCHED: Scope = Scope { touches: true, ..LEASED };

/// The write bumps one of two names. The other may be missing.
const TWO_NAMES: Scope =
    Scope { readers: &[Near], writers: &[Far], namespaces: 2, bumps: [0b01, 0], disconnect: false, ..LEASED };

const ALONE: Scope = Scope {
    coherence: Alone,
    readers: &[Near, Near, Near],
    writers: &[Near, Near],
    flights: true,
    collide: true,
    ..Scope::SMALL
};

/// The second namespace comes with the response, and the writes bump only that one.
const ADDED: Scope = Scope { added: true, namespaces: 2, bumps: [0b10, 0b10], ..VALIDATED };

/// A replaced master refuses the commands of the process.
const REFUSED: Scope = Scope { failover: true, replaced: Replaced::Refuses, ..LEASED };

/// A replaced master still accepts the invalidations of the process.
const ACCEPTED: Scope = Scope { failover: true, replaced: Replaced::Accepts, writers: &[Near, Far], ..VALIDATED };

/// Two masters. One write bumps both namespaces, the other only the second.
const CLUSTER: Scope = Scope { split: true, namespaces: 2, bumps: [0b11, 0b10], ..VALIDATED };

/// Events of a run with hits in Redis.
const PLAIN: u32 = seen::HIT | seen::STALE_ALLOWED | seen::INVALIDATED | seen::HIT_AT_THE_END;
const FENCES: u32 = PLAIN | seen::FENCED | seen::FENCED_SECOND | seen::FENCE_EXPIRED;
const LEASES: u32 = PLAIN | seen::HIT_MEMORY | seen::HIT_LOCAL | seen::STALE_LEASED | seen::DEAD_ON_ARRIVAL;

/// Checks that the laws hold in every reachable state, that a quiet state stays reachable (I8), and that the events of
/// `must_see` occur.
fn holds(name: &str, scope: Scope, laws: u32, must_see: u32, at_least: usize) {
    check(name, scope, &Question { laws, liveness: true }, must_see, at_least);
}

/// Checks the laws without I8, which needs every edge in memory.
fn holds_safe(name: &str, scope: Scope, laws: u32, must_see: u32, at_least: usize) {
    check(name, scope, &Question { laws, liveness: false }, must_see, at_least);
}

fn check(name: &str, scope: Scope, question: &Question, must_see: u32, at_least: usize) {
    let start = Instant::now();
    let report = explore(&scope, question);
    let time = start.elapsed();
    println!("{name}: {} states, {} steps, depth {}, {time:.1?}", report.states, report.steps, report.depth);
    if report.counterexample.is_some() || report.stuck.is_some() {
        // Once more without symmetry, because only then a trace can be replayed.
        let report = explore(&Scope { exact: true, ..scope }, question);
        if let Some(trace) = report.counterexample {
            panic!("{name}: {} violated\n{trace}", law::names(trace.violated));
        }
        if let Some(trace) = report.stuck {
            panic!("{name}: I8 violated: no quiet state is reachable from here\n{trace}");
        }
        panic!("{name}: violated only with symmetry, so the participants are not interchangeable");
    }
    assert!(report.states >= at_least, "{name}: only {} states", report.states);
    let missed = must_see & !report.seen;
    assert!(missed == 0, "{name}: never seen: {}", seen::names(missed));
}

/// Checks that the shortest counterexample to `laws` has `length` steps.
fn breaks(scope: Scope, laws: u32, length: usize) {
    let report = explore(&scope, &Question { laws, liveness: false });
    let trace = report.counterexample.unwrap_or_else(|| {
        panic!("{:?}: no counterexample to {} in {} states", scope.mutation, law::names(laws), report.states)
    });
    let rule = match scope.mutation {
        Mutation::None => "A stated limit".to_owned(),
        mutation => format!("{mutation:?}"),
    };
    println!("{rule} breaks {} after {} states:\n{trace}", law::names(trace.violated), report.states);
    assert_eq!(trace.lines.len(), length, "{:?}: another counterexample than the README says", scope.mutation);
}

/// Checks that the shortest path to a state without a reachable quiet state has `length` steps.
fn gets_stuck(scope: Scope, length: usize) {
    let report = explore(&scope, &Question { laws: law::ALL, liveness: true });
    assert!(report.counterexample.is_none(), "{:?}: a safety law is violated", scope.mutation);
    let trace = report.stuck.unwrap_or_else(|| panic!("{:?}: every state reaches a quiet one", scope.mutation));
    println!("{:?} breaks I8 liveness, {} states:\n{trace}", scope.mutation, report.states);
    assert_eq!(trace.lines.len(), length, "{:?}: another counterexample than the README says", scope.mutation);
}
