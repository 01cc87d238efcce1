//! The lives of generations, which are about as long as those of the entries under them.
//!
//! A fill creates missing generations before anyone knows if its response will be stored, and requests choose the names. A new generation
//! therefore lives only as long as a fill may take. It is extended when an entry is stored that needs it longer. A generation that only a
//! response names lives for one hour at first. Each extension is pushed like any change, so it reaches far enough that few are needed. The
//! root and the 4,096 sets of keys are few, and have the longest life from the start.

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

/// The life of a generation without known entries: twice the longest time of a fill that no client waits for.
const INITIAL_LIFE: Nanos = 120_000_000_000;

/// The smallest margin by which an extension exceeds the need.
const MIN_MARGIN: Nanos = 3_600_000_000_000;

/// The largest number of known names.
const MAX_NAMES: usize = 64 << 10;

/// The known lives of generations.
pub(crate) struct GenerationTimes {
    /// The longest life of a generation.
    longest: Nanos,
    known: Cache<u64, Life, UnitWeighter, BuildHasherDefault<IdHasher>>,
}

#[derive(Clone, Copy)]
struct Life {
    /// The hard part of the generation.
    hard: u128,
    /// The end of its life by the monotonic clock of this process.
    until: Nanos,
    /// The life to which a generation of this name was last extended, or zero.
    extended: Nanos,
}

/// The life of a generation in relation to an entry.
pub(super) enum Reach {
    Enough,
    /// It has to be extended to this life.
    Short(Nanos),
    /// Another process has created it.
    Unknown,
}

impl GenerationTimes {
    pub(super) fn new(longest: Duration) -> Self {
        let lifecycle = DefaultLifecycle::default();
        let known = Cache::with(MAX_NAMES, MAX_NAMES as u64, UnitWeighter, BuildHasherDefault::default(), lifecycle);
        Self { longest: nanos(longest), known }
    }

    /// Returns the longest life of a generation.
    pub(super) fn longest(&self) -> Nanos {
        self.longest
    }

    /// Returns the life of a generation that is created now.
    pub(super) fn of_new(&self, name: Name<'_>) -> Nanos {
        match self.known.get(&id(name)) {
            _ if is_one_of_few(name) => self.longest,
            Some(life) if monotonic() < life.until => life.extended.max(INITIAL_LIFE).min(self.longest),
            _ => INITIAL_LIFE.min(self.longest),
        }
    }

    /// Returns the life of a generation that is created now for a name that only a response has named. No entry is stored under it before
    /// the next fill, which may come late.
    pub(super) fn of_named(&self, name: Name<'_>) -> Nanos {
        self.of_new(name).max(MIN_MARGIN).min(self.longest)
    }

    /// Records that a generation lives for `span` from now.
    pub(super) fn record(&self, id: u64, generation: Generation, span: Nanos) {
        let extended = self.known.get(&id).map_or(0, |life| life.extended);
        self.known.insert(id, Life { hard: generation.hard, until: monotonic().saturating_add(span), extended });
    }

    pub(super) fn record_extension(&self, id: u64, generation: Generation, span: Nanos) {
        self.known.insert(id, Life { hard: generation.hard, until: monotonic().saturating_add(span), extended: span });
    }

    /// Compares the life of a generation with that of an entry that expires after `left`.
    pub(super) fn reach(&self, name: Name<'_>, generation: Generation, left: Nanos) -> Reach {
        if is_one_of_few(name) {
            return Reach::Enough;
        }
        let needed = left.min(self.longest / 2);
        match self.known.get(&id(name)) {
            Some(life) if life.hard != generation.hard => Reach::Unknown,
            None => Reach::Unknown,
            Some(life) if life.until >= monotonic().saturating_add(needed) => Reach::Enough,
            Some(_) => Reach::Short(left.saturating_add(left.max(MIN_MARGIN)).min(self.longest)),
        }
    }
}

/// Returns `true` for kinds of names of which there are few, independently of the requests.
fn is_one_of_few(name: Name<'_>) -> bool {
    match name {
        Name::Text { hash, .. } => hash == Namespaces::root_hash(),
        Name::Key { alone, .. } => !alone,
    }
}
