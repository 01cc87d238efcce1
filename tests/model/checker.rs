//! An explicit-state checker: breadth first, so that the first counterexample is a shortest one.
//!
//! Every reachable state is visited once. A state is identified by a 64-bit fingerprint of its canonical form (with ten
//! million states the chance of a collision is below one in a hundred thousand), and stored with the step that led to it:
//! a trace is found by walking back and then replaying the steps on states that are *not* canonical, so
//! that the identifiers in it keep their names from line to line.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A transition system: a start, the possible steps, and the outcome of each.
pub(crate) trait Model {
    /// One state of the whole system.
    type State: Copy + Eq + Hash;
    /// One atomic step of one participant. It contains no identifier that [`Model::canonical`] may rename.
    type Action: Copy + fmt::Debug;

    /// Returns the first state.
    fn start(&self) -> Self::State;
    /// Adds every step that is possible in `state`.
    fn actions(&self, state: &Self::State, out: &mut Vec<Self::Action>);
    /// Returns the outcome of a step.
    fn apply(&self, state: &Self::State, action: Self::Action) -> Outcome<Self::State>;
    /// Returns the representative of all states that behave alike.
    fn canonical(&self, state: Self::State) -> Self::State;
    /// Returns whether the liveness law may rely on this step.
    fn counts(&self, action: Self::Action) -> bool;
    /// Returns whether the system is at rest. The liveness law requires that this is reachable from every state.
    fn quiet(&self, state: &Self::State) -> bool;
    /// Returns one line with the step and the state after it.
    fn describe(&self, before: &Self::State, action: Self::Action, after: &Self::State) -> String;
}

/// Outcome of one step.
pub(crate) struct Outcome<S> {
    /// The state after it.
    pub(crate) state: S,
    /// The violated laws, one bit each.
    pub(crate) violated: u32,
    /// The events of the step, one bit each: the coverage of an exploration.
    pub(crate) seen: u32,
}

/// Result of an exploration.
#[derive(Debug)]
pub(crate) struct Report {
    /// Distinct canonical states.
    pub(crate) states: usize,
    /// Executed steps, including those that lead to a known state.
    pub(crate) steps: usize,
    /// The longest of the shortest paths.
    pub(crate) depth: usize,
    /// All bits of [`Outcome::seen`].
    pub(crate) seen: u32,
    /// The shortest path that violates a law of the question.
    pub(crate) counterexample: Option<Trace>,
    /// The shortest path to a state that no quiet state can be reached from. Computed only for liveness.
    pub(crate) stuck: Option<Trace>,
}

/// A path from the start, one step a line.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The laws that the last step violates.
    pub(crate) violated: u32,
    /// The steps as text.
    pub(crate) lines: Vec<String>,
}

impl Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.lines.iter().enumerate() {
            writeln!(f, "  {:>2}. {line}", number + 1)?;
        }
        Ok(())
    }
}

/// Laws to check in an exploration.
pub(crate) struct Question {
    /// The laws to check, one bit each.
    pub(crate) laws: u32,
    /// Checks that a quiet state is reachable from every state, too. Keeps every edge in memory.
    pub(crate) liveness: bool,
}

/// Visits every reachable state, or stops at the first violated law.
pub(crate) fn explore<M: Model>(model: &M, question: &Question) -> Report {
    let mut known: HashMap<u64, u32, BuildHasherDefault<Prehashed>> = HashMap::default();
    let mut paths: Vec<Reached<M::Action>> = Vec::new();
    let mut queue = VecDeque::new();
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut quiet: Vec<u32> = Vec::new();
    let mut actions = Vec::new();
    let mut report = Report { states: 0, steps: 0, depth: 0, seen: 0, counterexample: None, stuck: None };

    let start = model.canonical(model.start());
    known.insert(fingerprint(&start), 0);
    paths.push(Reached { from: 0, by: None, depth: 0 });
    queue.push_back((0_u32, start));

    while let Some((index, state)) = queue.pop_front() {
        let depth = paths[index as usize].depth;
        report.depth = usize::from(depth);
        if question.liveness && model.quiet(&state) {
            quiet.push(index);
        }
        actions.clear();
        model.actions(&state, &mut actions);
        for &action in &actions {
            let outcome = model.apply(&state, action);
            report.steps += 1;
            report.seen |= outcome.seen;
            let violated = outcome.violated & question.laws;
            if violated != 0 {
                report.states = paths.len();
                report.counterexample = Some(trace(model, &paths, index, Some(action), violated));
                return report;
            }
            let next = model.canonical(outcome.state);
            let fresh = u32::try_from(paths.len()).expect("fewer than 2^32 states");
            let target = *known.entry(fingerprint(&next)).or_insert(fresh);
            if target == fresh {
                paths.push(Reached { from: index, by: Some(action), depth: depth + 1 });
                queue.push_back((fresh, next));
            }
            if question.liveness && target != index && model.counts(action) {
                edges.push((target, index));
            }
        }
    }

    report.states = paths.len();
    if question.liveness {
        report.stuck = first_not_leading_to(&quiet, edges, paths.len()).map(|index| trace(model, &paths, index, None, 0));
    }
    report
}

/// The step by which a state was first reached.
struct Reached<A> {
    from: u32,
    by: Option<A>,
    depth: u16,
}

/// Walks backwards from the quiet states. Returns the first state that was not visited, which cannot reach one.
fn first_not_leading_to(quiet: &[u32], mut edges: Vec<(u32, u32)>, states: usize) -> Option<u32> {
    edges.sort_unstable();
    let mut visited = vec![false; states];
    let mut pending = quiet.to_vec();
    for &index in quiet {
        visited[index as usize] = true;
    }
    while let Some(index) = pending.pop() {
        let begin = edges.partition_point(|&(target, _)| target < index);
        for &(target, source) in &edges[begin..] {
            if target != index {
                break;
            }
            if !visited[source as usize] {
                visited[source as usize] = true;
                pending.push(source);
            }
        }
    }
    visited.iter().position(|&visited| !visited).and_then(|index| u32::try_from(index).ok())
}

fn trace<M: Model>(model: &M, paths: &[Reached<M::Action>], end: u32, last: Option<M::Action>, violated: u32) -> Trace {
    let mut steps: Vec<M::Action> = last.into_iter().collect();
    let mut index = end;
    while let Some(action) = paths[index as usize].by {
        steps.push(action);
        index = paths[index as usize].from;
    }
    steps.reverse();

    let mut state = model.start();
    let mut lines = Vec::new();
    for action in steps {
        let next = model.apply(&state, action).state;
        lines.push(model.describe(&state, action, &next));
        state = next;
    }
    Trace { violated, lines }
}

/// Hashes a state to 64 bits: its bytes are collected, and mixed word by word with a 64×64→128-bit product.
fn fingerprint<S: Hash>(state: &S) -> u64 {
    let mut bytes = ByteBuffer { buffer: [0; ByteBuffer::ROOM], length: 0 };
    state.hash(&mut bytes);
    bytes.finish()
}

struct ByteBuffer {
    buffer: [u8; Self::ROOM],
    length: usize,
}

impl ByteBuffer {
    const ROOM: usize = 256;
}

impl Hasher for ByteBuffer {
    fn write(&mut self, bytes: &[u8]) {
        self.buffer[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn write_u8(&mut self, byte: u8) {
        self.buffer[self.length] = byte;
        self.length += 1;
    }

    // Discriminants fit into one byte, and the lengths of arrays never differ.
    fn write_isize(&mut self, value: isize) {
        self.write_u8(value.to_le_bytes()[0]);
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
        let mut at = 0;
        while at < self.length {
            let mut word = [0; 8];
            word.copy_from_slice(&self.buffer[at..at + 8]);
            let product = u128::from(hash ^ u64::from_le_bytes(word)).wrapping_mul(0xa076_1d64_78bd_642f_e703_7ed1_a0b4_28db);
            hash = (product >> 64) as u64 ^ product as u64 ^ hash.rotate_left(23);
            at += 8;
        }
        hash
    }
}

/// A hasher for keys that are already fingerprints.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
