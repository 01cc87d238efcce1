//! Stamps: the state of an entry's namespaces before its response was computed.

use std::sync::Arc;

/// The state of an entry's namespaces before its response was computed.
///
/// For memory that is one number, the epoch. A store shared by processes adds the generations that it read: one for each of the
/// namespaces that it was asked with, in their order, and none where one was missing.
#[derive(Debug, Clone, Default)]
pub struct Stamp {
    epoch: u64,
    generations: Option<Arc<[Option<Generation>]>>,
    /// When it was taken, by the clock of the store; zero if that does not matter to it.
    #[cfg(feature = "redis")]
    taken: crate::clock::Nanos,
    /// The counter of creations at that time, if it was asked for.
    #[cfg(feature = "redis")]
    counter: Option<Counter>,
}

/// The counter of creations in a shared store: numbers of different randoms never compare.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) random: u64,
    pub(crate) number: u64,
}

/// The generation of a namespace as a shared store told it: opaque random values, never counters and never times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Another one: what was computed before is dead. It says as well which server told it, so that a promotion or a restart
    /// makes it another one.
    pub hard: u128,
    /// Another one: what was computed before is stale.
    pub soft: u64,
}

impl Stamp {
    /// The stamp of a process-local epoch.
    pub fn local(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// The same with generations of a shared store.
    pub fn with_generations(self, generations: impl Into<Arc<[Option<Generation>]>>) -> Self {
        Self { generations: Some(generations.into()), ..self }
    }

    /// The process-local part.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The shared part, if there is one.
    pub fn generations(&self) -> Option<&[Option<Generation>]> {
        self.generations.as_deref()
    }

    /// The shared part, to be shared.
    #[cfg(feature = "redis")]
    pub(crate) fn shared_generations(&self) -> Option<&Arc<[Option<Generation>]>> {
        self.generations.as_ref()
    }

    /// Other generations, seen at the same time.
    #[cfg(feature = "redis")]
    pub(crate) fn but(&self, generations: Arc<[Option<Generation>]>) -> Self {
        Self { epoch: self.epoch, generations: Some(generations), taken: self.taken, counter: None }
    }

    /// The same, taken at this time.
    #[cfg(feature = "redis")]
    pub(crate) fn at(self, taken: crate::clock::Nanos) -> Self {
        Self { taken, ..self }
    }

    /// The same generations, seen again at another time.
    #[cfg(feature = "redis")]
    pub(crate) fn again(&self, epoch: u64, taken: crate::clock::Nanos) -> Self {
        Self { epoch, taken, ..self.clone() }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn taken(&self) -> crate::clock::Nanos {
        self.taken
    }

    /// The same, with the counter as it was read.
    #[cfg(feature = "redis")]
    pub(crate) fn counted(self, counter: Option<Counter>) -> Self {
        Self { counter, ..self }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn counter(&self) -> Option<Counter> {
        self.counter
    }

    /// Whether it has a generation for each name: without, nothing can be stored under it in a shared store.
    pub fn is_whole(&self) -> bool {
        self.generations.as_ref().is_some_and(|generations| generations.iter().all(Option::is_some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_without_every_generation_is_not_whole() {
        let local = Stamp::local(7);
        assert_eq!(local.epoch(), 7);
        assert!(local.generations().is_none());

        let read = Generation { hard: 0x3f9a, soft: 0 };
        let shared = local.with_generations([Some(read), None]);
        assert_eq!(shared.generations().unwrap()[0], Some(read));
        assert!(!shared.is_whole());
    }
}
