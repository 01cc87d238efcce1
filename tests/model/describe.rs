//! Traces as text: each step, and the state after it.

use std::fmt::Write as _;

use crate::scope::{Coherence, Scope};
use crate::state::*;

/// Returns the step, padded, and the state after it.
pub(crate) fn line(scope: &Scope, before: &State, action: Action, after: &State) -> String {
    format!("{:<64} | {}", step(scope, before, action, after), summary(scope, after))
}

fn step(scope: &Scope, before: &State, action: Action, after: &State) -> String {
    let ns = |name: u8| ["n1", "n2"][name as usize];
    let who = |reader: u8| {
        let place = if scope.is_near(reader as usize) { "near" } else { "far" };
        format!("{place} reader {}", reader + 1)
    };
    // The result of a step that ended the request of a reader.
    let ending = |reader: u8| {
        let (was, is) = (&before.readers[reader as usize], &after.readers[reader as usize]);
        match (was.step, is.step) {
            (Step::Read | Step::Get, Step::Idle | Step::Install) => {
                let version = if is.step == Step::Install {
                    is.version
                } else {
                    was.found.or(before.redis.entry).map_or(0, |entry| entry.version)
                };
                format!(" → HIT v{version}")
            }
            (Step::Read, Step::Create) => " → miss, a generation is missing".to_owned(),
            (Step::Read, Step::Stamped) => " → miss, the stamp is complete".to_owned(),
            (Step::Create, Step::Stamped) => ", the stamp is complete".to_owned(),
            (Step::Create, Step::Wait) => ", waits".to_owned(),
            (Step::Read | Step::Create, Step::Forming) => " → without a generation: calls, stores nothing".to_owned(),
            (Step::Named, Step::Idle) => " → not stored".to_owned(),
            (Step::Named, Step::Store) => " → may be stored".to_owned(),
            (Step::Named, Step::Count) => ": without a number → not stored".to_owned(),
            (Step::Get, Step::BeginFill) => " → no match".to_owned(),
            _ => String::new(),
        }
    };
    match action {
        Action::Begin { reader, key } => format!("{} begins{}: epochs captured", who(reader), key_of(scope, key)),
        Action::HitMemory { reader, key } => {
            let version = before.process.memory.map_or(0, |entry| entry.version);
            format!("{} begins{}: HIT v{version} in memory", who(reader), key_of(scope, key))
        }
        Action::BeginLeased { reader, key } => {
            format!("{} begins{}: generations known, reads the entry", who(reader), key_of(scope, key))
        }
        Action::BeginJoined { reader, key, leader } => {
            format!("{} begins{}: joins the fill of reader {}", who(reader), key_of(scope, key), leader + 1)
        }
        Action::Join { reader, leader } => {
            format!("{} joins the fill of reader {}", who(reader), leader + 1)
        }
        Action::Send { reader } => format!("{} sends RT1", who(reader)),
        Action::Read { reader, name, memory } => {
            let what = match (name, memory) {
                (0, false) => format!("entry and g({})", if scope.separate() { "n1" } else { "all" }),
                (0, true) => "generations, for the entry in memory".to_owned(),
                _ => format!("g({})", ns(name)),
            };
            format!("{} RT1: reads {what}{}", who(reader), ending(reader))
        }
        Action::Check { reader, name } => {
            let round = if before.readers[reader as usize].step == Step::Read { "RT1" } else { "RT2" };
            let fenced = if after.redis.fences[name as usize] == 0 { "no fence" } else { "a fence" };
            format!("{} {round}: sees {fenced}{}", who(reader), ending(reader))
        }
        Action::Get { reader } => {
            format!("{} reads only the entry{}", who(reader), ending(reader))
        }
        Action::TakeLock { reader } => {
            format!("{} RT2: requests the lock{}", who(reader), ending(reader))
        }
        Action::Create { reader, name, push_lost } => {
            let push = if push_lost { ", and the push for its deletion is lost" } else { "" };
            format!("{} RT2: creates g({}) if missing{push}{}", who(reader), ns(name), ending(reader))
        }
        Action::Poll { reader } => format!("{} polls", who(reader)),
        Action::CallInner { reader } => format!("{} inner service reads v{}", who(reader), before.db),
        Action::Arrive { reader } => format!("{} gets the response v{}", who(reader), before.readers[reader as usize].version),
        Action::ReadAdded { reader, push_lost } => {
            let push = if push_lost { ", and the push for its deletion is lost" } else { "" };
            format!("{} reads or creates g(n2), named by the response{push}{}", who(reader), ending(reader))
        }
        Action::CountAdded { reader } => {
            format!("{} takes number {} from the counter", who(reader), after.redis.counter.number)
        }
        Action::NumberAdded { reader } => {
            let there = after.redis.created != before.redis.created;
            format!("{} writes its number into g(n2){}", who(reader), if there { "" } else { ": it has changed, or is fenced" })
        }
        Action::Store { reader } => {
            format!("{} RT3: stores v{}", who(reader), before.readers[reader as usize].version)
        }
        Action::Recheck { reader } => {
            let same = if after.readers[reader as usize].step == Step::Install { "equal" } else { "changed, or fenced" };
            format!("{} reads the generations of its entry again: {same}", who(reader))
        }
        Action::Install { reader } => {
            let version = before.readers[reader as usize].version;
            let alive = after.process.memory.is_some_and(|entry| entry.version == version);
            format!("{} installs v{version} in memory{}", who(reader), if alive { "" } else { ": dead on arrival" })
        }
        Action::Unanswered { reader } => format!("{} gets no answer from Redis", who(reader)),
        Action::Call { reader } => {
            format!("{} inner service begins, reads v{}", who(reader), before.db)
        }
        Action::Return { reader } => format!("{} returns v{}", who(reader), before.readers[reader as usize].version),
        Action::Share { reader, leader } => format!("{} shares the inner call of reader {}", who(reader), leader + 1),
        Action::Start { writer } if scope.strict => format!("writer {} begins", writer + 1),
        Action::Start { writer } => format!("writer {} begins, sends its statement", writer + 1),
        Action::Fence { writer, name } => {
            let sent = if after.writers[writer as usize].todo == 0 { ", sends its statement" } else { "" };
            format!("writer {} fences {}{sent}", writer + 1, ns(name))
        }
        Action::Commit { writer } => {
            let note = match before.writers[writer as usize].step {
                Write::Running => answered(before, after),
                _ => ", its writer gone",
            };
            format!("writer {}: the statement commits{note}", writer + 1)
        }
        Action::Abort { writer } => format!("writer {}: the statement never commits", writer + 1),
        Action::Bump { writer, name } if after.process.lost != before.process.lost => {
            format!("writer {} bumps {} at the replaced master", writer + 1, ns(name))
        }
        Action::Bump { writer, name } => {
            let verb = if scope.strict { "unfences" } else { "bumps" };
            format!("writer {} {verb} {}{}", writer + 1, ns(name), answered(before, after))
        }
        Action::Crash { writer } => format!("writer {} dies", writer + 1),
        Action::GiveUp { writer } => format!("writer {} is dropped: it bumps, its statement still running", writer + 1),
        Action::Unlink { writer, name } => format!("writer {} deletes g({}), fenced", writer + 1, ns(name)),
        Action::Touch { writer, name } => format!("writer {} touches {}", writer + 1, ns(name)),
        Action::TrustLostTouch { writer, name } => format!("writer {} takes {} for touched", writer + 1, ns(name)),
        Action::Unfence { writer, name } => format!("writer {} removes its fence on {}", writer + 1, ns(name)),
        Action::FenceExpires { writer, name } => {
            format!("the fence of writer {} on {} expires", writer + 1, ns(name))
        }
        Action::LockExpires => "the lock expires".to_owned(),
        Action::EvictEntry => "Redis evicts the entry".to_owned(),
        Action::EvictGeneration { name } => format!("Redis evicts g({})", ns(name)),
        Action::EvictFence { name } => format!("Redis evicts the fence on {}", ns(name)),
        Action::EvictCounter => "Redis evicts the counter of creations".to_owned(),
        Action::ReplicaStops => "the replica stops receiving from its master".to_owned(),
        Action::Failover { name } if scope.split => {
            format!("the replica of the master of {} is promoted", ns(name))
        }
        Action::Failover { .. } => "the replica is promoted".to_owned(),
        Action::Notice => "the process notices the new master".to_owned(),
        Action::Lose => "the tracking connection is lost".to_owned(),
        Action::Reconnect => "the tracking connection is back".to_owned(),
        Action::TrackingOn => "TRACKING ON is answered".to_owned(),
        Action::StepAll => "every epoch is stepped".to_owned(),
        Action::Ping => "PING is sent".to_owned(),
        Action::Pong { behind: true } => "Redis writes PONG, followed by the pushes of its last cycle".to_owned(),
        Action::Pong { behind: false } => "Redis writes PONG".to_owned(),
        Action::DeliverPush { name } => format!("a push for g({}) arrives", ns(name)),
        Action::DeliverPong => "PONG arrives".to_owned(),
        Action::Collide { name } => format!("the epoch of {} is stepped by another name", ns(name)),
        Action::Tick => "a tick".to_owned(),
    }
}

fn answered(before: &State, after: &State) -> &'static str {
    if after.acked > before.acked { ", is acknowledged" } else { "" }
}

fn key_of(scope: &Scope, key: u8) -> &'static str {
    match (scope.two_keys, key) {
        (false, _) => "",
        (true, 0) => " for key A",
        (true, _) => " for key B",
    }
}

/// `db v1 acked v0 · g a · entry v0(a) · fences {1} · memory v0(a)`
fn summary(scope: &Scope, state: &State) -> String {
    let mut out = format!("db v{} acked v{}", state.db, state.acked);
    if scope.ticks > 0 {
        let _ = write!(out, " now {}", state.now);
    }
    let stamp = |generations: [Generation; NAMES]| {
        let names = generations[..scope.namespaces as usize].iter().map(|&generation| match generation {
            MISSING => "–".to_owned(),
            UNMATCHABLE => "†".to_owned(),
            _ => char::from(b'a' + generation - 1).to_string(),
        });
        names.collect::<Vec<_>>().join("/")
    };
    let entry = |entry: Option<Entry>| match entry {
        None => "–".to_owned(),
        Some(entry) => format!("v{}({}){}", entry.version, stamp(entry.generations), key_of(scope, entry.key)),
    };
    if scope.coherence != Coherence::Alone {
        let _ = write!(out, " · g {} · entry {}", stamp(state.redis.generations), entry(state.redis.entry));
        if scope.failover {
            let _ = write!(out, " · store {:?}", &state.redis.store[..scope.namespaces as usize]);
        }
    }
    if scope.strict {
        let tokens = |bits: u8| match bits {
            0 => "–",
            1 => "1",
            2 => "2",
            _ => "1,2",
        };
        let fences: Vec<_> = state.redis.fences[..scope.namespaces as usize].iter().map(|&bits| tokens(bits)).collect();
        let _ = write!(out, " · fences {}", fences.join("/"));
    }
    if scope.keeps_memory() {
        let _ = write!(out, " · memory {}", entry(state.process.memory));
    }
    out
}
