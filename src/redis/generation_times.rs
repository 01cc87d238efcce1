//! How long generations live: about as long as what is stored under them.
//!
//! A fill has to create the generations that are missing before anybody knows if its response will be stored, and names come from
//! requests. So a new generation lives only for as long as a fill may take, and is extended once something is stored that needs it for
//! longer. One that only a response names lives for an hour at first. An extension is pushed like every change, so it reaches far enough that few are needed. The root and the 4,096 sets of keys are
//! few, and live long from the start.

use std::{hash::BuildHasherDefault, time::Duration};

use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{keys::id, lease::IdHasher};
use crate::{
    clock::{Nanos, monotonic, nanos},
    entry::stamp::Generation,
    namespace::set::{Name, Namespaces},
};

/// The life of a generation under which nothing is known to be stored: twice as long as a fill may go on that nobody waits for.
const FIRST: Nanos = 120_000_000_000;

/// The least by which an extension exceeds what it is needed for.
const AHEAD: Nanos = 3_600_000_000_000;

/// How many names are known at most.
const MOST: usize = 64 << 10;

/// What is known of the lives of generations.
pub(crate) struct Lives {
    /// The longest life of a generation.
    longest: Nanos,
    known: Cache<u64, Life, UnitWeighter, BuildHasherDefault<IdHasher>>,
}

#[derive(Clone, Copy)]
struct Life {
    /// The generation.
    hard: u128,
    /// Until when it lives, by the monotonic clock of this process.
    until: Nanos,
    /// The life that a generation of this name was last extended to; zero if none was.
    extended: Nanos,
}

/// Whether a generation lives for as long as an entry needs it.
pub(super) enum Reach {
    Enough,
    /// To be extended to this life.
    Short(Nanos),
    /// Another process has created it.
    Unknown,
}

impl Lives {
    pub(super) fn new(longest: Duration) -> Self {
        let lifecycle = DefaultLifecycle::default();
        let known = Cache::with(MOST, MOST as u64, UnitWeighter, BuildHasherDefault::default(), lifecycle);
        Self { longest: nanos(longest), known }
    }

    /// Returns the longest life of a generation.
    pub(super) fn longest(&self) -> Nanos {
        self.longest
    }

    /// The life of a generation that is created now.
    pub(super) fn of_new(&self, name: Name<'_>) -> Nanos {
        match self.known.get(&id(name)) {
            _ if is_one_of_few(name) => self.longest,
            Some(life) if monotonic() < life.until => life.extended.max(FIRST).min(self.longest),
            _ => FIRST.min(self.longest),
        }
    }

    /// The life of a generation that is created now, for a name that only a response has named. Nothing is stored under it before the next
    /// fill, which may come later than it takes.
    pub(super) fn of_named(&self, name: Name<'_>) -> Nanos {
        self.of_new(name).max(AHEAD).min(self.longest)
    }

    /// A generation of this name lives for so long from now.
    pub(super) fn lives(&self, id: u64, generation: Generation, span: Nanos) {
        let extended = self.known.get(&id).map_or(0, |life| life.extended);
        self.known.insert(id, Life { hard: generation.hard, until: monotonic().saturating_add(span), extended });
    }

    pub(super) fn is_extended(&self, id: u64, generation: Generation, span: Nanos) {
        self.known.insert(id, Life { hard: generation.hard, until: monotonic().saturating_add(span), extended: span });
    }

    /// Whether this generation lives for as long as an entry that expires after `left`.
    pub(super) fn reach(&self, name: Name<'_>, generation: Generation, left: Nanos) -> Reach {
        if is_one_of_few(name) {
            return Reach::Enough;
        }
        let needed = left.min(self.longest / 2);
        match self.known.get(&id(name)) {
            Some(life) if life.hard != generation.hard => Reach::Unknown,
            None => Reach::Unknown,
            Some(life) if life.until >= monotonic().saturating_add(needed) => Reach::Enough,
            Some(_) => Reach::Short(left.saturating_add(left.max(AHEAD)).min(self.longest)),
        }
    }
}

/// Whether there are few names of this kind, whatever is requested.
fn is_one_of_few(name: Name<'_>) -> bool {
    match name {
        Name::Text { hash, .. } => hash == Namespaces::root_hash(),
        Name::Key { alone, .. } => !alone,
    }
}
