//! Stamps: the state of an entry's namespaces before its response was computed.

use std::sync::Arc;

/// The state of an entry's namespaces before its response was computed.
///
/// Memory needs one number, the epoch. A store shared by processes adds the generations that it read: one for each requested namespace, in
/// their order, and `None` where one was missing.
#[derive(Debug, Clone, Default)]
pub struct Stamp {
    epoch: u64,
    generations: Option<Arc<[Option<Generation>]>>,
    /// The time at which the stamp was taken, by the clock of the store; zero if the store does not need it.
    #[cfg(feature = "redis")]
    taken: crate::clock::Nanos,
    /// The counter of new names at that time, if it was read.
    #[cfg(feature = "redis")]
    counter: Option<Counter>,
}

/// The counter of new names in a shared store. Numbers with different randoms cannot be compared.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) random: u64,
    pub(crate) number: u64,
}

/// The generation of a namespace in a shared store: opaque random values, never counters and never times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Changed by an invalidation: earlier responses are invalid. The value also covers the identity of the server, so that a promotion or
    /// a restart changes it.
    pub hard: u128,
    /// Changed by a soft invalidation: earlier responses are stale.
    pub soft: u64,
}

impl Stamp {
    /// Returns the stamp of a process-local epoch.
    pub fn local(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// Adds generations of a shared store.
    pub fn with_generations(self, generations: impl Into<Arc<[Option<Generation>]>>) -> Self {
        Self { generations: Some(generations.into()), ..self }
    }

    /// Returns the process-local part.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the shared part, if there is one.
    pub fn generations(&self) -> Option<&[Option<Generation>]> {
        self.generations.as_deref()
    }

    /// Returns a reference to the shared part that can be cloned cheaply.
    #[cfg(feature = "redis")]
    pub(crate) fn shared_generations(&self) -> Option<&Arc<[Option<Generation>]>> {
        self.generations.as_ref()
    }

    /// Returns a stamp of other generations that were read at the same time.
    #[cfg(feature = "redis")]
    pub(crate) fn but(&self, generations: Arc<[Option<Generation>]>) -> Self {
        Self { epoch: self.epoch, generations: Some(generations), taken: self.taken, counter: None }
    }

    /// Sets the time at which the stamp was taken.
    #[cfg(feature = "redis")]
    pub(crate) fn at(self, taken: crate::clock::Nanos) -> Self {
        Self { taken, ..self }
    }

    /// Returns a stamp of the same generations that were read again at another time.
    #[cfg(feature = "redis")]
    pub(crate) fn again(&self, epoch: u64, taken: crate::clock::Nanos) -> Self {
        Self { epoch, taken, ..self.clone() }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn taken(&self) -> crate::clock::Nanos {
        self.taken
    }

    /// Adds the counter of new names.
    #[cfg(feature = "redis")]
    pub(crate) fn counted(self, counter: Option<Counter>) -> Self {
        Self { counter, ..self }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn counter(&self) -> Option<Counter> {
        self.counter
    }

    /// Returns true if the stamp has a generation for each name. Otherwise no entry can be stored under it in a shared store.
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
