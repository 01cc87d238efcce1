//! The namespaces that wait to be purged, merged and bounded.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::namespace::Namespace;

/// A set of namespaces without duplicates. It becomes the root alone when it holds the root or exceeds its bound.
#[derive(Debug, Default)]
pub(super) struct MergedNames {
    names: BTreeSet<Namespace>,
    is_everything: bool,
}

impl MergedNames {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.is_everything
    }

    /// Adds a namespace. Returns true if the set has exceeded its bound by it.
    pub(super) fn add(&mut self, name: Namespace, max: usize) -> bool {
        if self.is_everything {
            return false;
        }
        let is_root = name == Namespace::root();
        self.names.insert(name);
        let overflows = !is_root && self.names.len() > max;
        if is_root || overflows {
            self.names.clear();
            self.is_everything = true;
        }
        overflows
    }

    /// Adds all names of another set. Returns true if the set has exceeded its bound by them.
    pub(super) fn append(&mut self, other: Self, max: usize) -> bool {
        other.into_names().into_iter().fold(false, |overflows, name| self.add(name, max) | overflows)
    }

    /// Returns the names in their order, or the root alone.
    pub(super) fn into_names(self) -> Vec<Namespace> {
        match self.is_everything {
            true => vec![Namespace::root()],
            false => self.names.into_iter().collect(),
        }
    }
}

/// Namespaces that wait for the end of a fence. They become the root alone when they exceed their bound.
#[derive(Debug, Default)]
struct FencedNames(BTreeMap<Namespace, Instant>);

impl FencedNames {
    /// Adds a namespace. Returns true if the set has exceeded its bound by it.
    fn add(&mut self, name: Namespace, until: Instant, max: usize) -> bool {
        let end = self.0.entry(name).or_insert(until);
        *end = until.max(*end);
        let overflows = self.0.len() > max;
        if overflows && let Some(last) = self.0.values().copied().max() {
            self.0 = BTreeMap::from([(Namespace::root(), last)]);
        }
        overflows
    }

    /// Takes the names whose fences have ended.
    fn ended(&mut self, now: Instant) -> impl Iterator<Item = Namespace> {
        let ended: Vec<_> = self.0.extract_if(.., |_, until| *until <= now).collect();
        ended.into_iter().map(|(name, _)| name)
    }
}

/// The namespaces that wait for a hook.
#[derive(Debug, Default)]
pub(super) struct PurgeQueue {
    /// Names to be purged now.
    due: MergedNames,
    /// Names to be purged again when a shared store knows of their invalidation.
    undelivered: MergedNames,
    /// Names to be purged again when the fence of a write whose outcome is not known has ended.
    fenced: FencedNames,
}

/// The next step of a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Purge(Vec<Namespace>),
    /// All names wait for a delivery or for the end of a fence.
    Wait,
    Idle,
}

impl PurgeQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && !self.waits()
    }

    /// Adds the names of an invalidation. Returns true if the queue has exceeded its bound by them.
    pub(super) fn add(&mut self, names: impl Iterator<Item = Namespace>, is_delivered: bool, max: usize) -> bool {
        names.fold(false, |overflows, name| {
            let again = !is_delivered && self.undelivered.add(name.clone(), max);
            self.due.add(name, max) | again | overflows
        })
    }

    /// Adds the names of a write whose outcome is not known. Returns true if the queue has exceeded its bound by them.
    pub(super) fn add_fenced(&mut self, names: impl Iterator<Item = Namespace>, until: Instant, max: usize) -> bool {
        names.fold(false, |overflows, name| self.fenced.add(name, until, max) | overflows)
    }

    /// Returns true if names wait for a delivery or for the end of a fence.
    fn waits(&self) -> bool {
        !self.undelivered.is_empty() || !self.fenced.0.is_empty()
    }

    /// Takes the names to be purged next. `all_delivered` is true if no invalidation waits for a shared store.
    pub(super) fn next(&mut self, all_delivered: bool, now: Instant, max: usize) -> Next {
        for name in self.fenced.ended(now) {
            self.due.add(name, max);
        }
        if all_delivered {
            self.due.append(std::mem::take(&mut self.undelivered), max);
        }
        match (self.due.is_empty(), self.waits()) {
            (false, _) => Next::Purge(std::mem::take(&mut self.due).into_names()),
            (true, true) => Next::Wait,
            (true, false) => Next::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(list: &[&str]) -> Vec<Namespace> {
        list.iter().map(|name| Namespace::new(name).expect("valid")).collect()
    }

    fn queue(list: &[&str], is_delivered: bool, max: usize) -> (PurgeQueue, bool) {
        let mut queue = PurgeQueue::default();
        let overflows = queue.add(names(list).into_iter(), is_delivered, max);
        (queue, overflows)
    }

    #[test]
    fn names_are_merged_without_duplicates() {
        let (mut queue, overflows) = queue(&["b", "a", "b"], true, 2);
        assert!(!overflows);
        assert_eq!(queue.next(true, Instant::now(), 2), Next::Purge(names(&["a", "b"])));
        assert_eq!(queue.next(true, Instant::now(), 2), Next::Idle);
    }

    #[test]
    fn overflow_and_the_root_become_the_root_alone() {
        for (list, overflows) in [(vec!["a", "b", "c"], true), (vec!["a", "*", "b"], false)] {
            let (mut queue, overflowed) = queue(&list, true, 2);
            assert_eq!((overflowed, queue.next(true, Instant::now(), 2)), (overflows, Next::Purge(names(&["*"]))));
            assert!(queue.is_empty());
        }
    }

    #[test]
    fn undelivered_names_are_purged_again_after_their_delivery() {
        let (mut queue, _) = queue(&["a"], false, 2);
        assert_eq!(queue.next(false, Instant::now(), 2), Next::Purge(names(&["a"])));
        assert_eq!(queue.next(false, Instant::now(), 2), Next::Wait);
        queue.add(names(&["b"]).into_iter(), true, 2);
        assert_eq!(queue.next(true, Instant::now(), 2), Next::Purge(names(&["a", "b"])));
        assert!(queue.is_empty());
    }

    #[test]
    fn delivery_does_not_exceed_the_bound() {
        let (mut queue, _) = queue(&["a", "b"], false, 2);
        assert_eq!(queue.next(false, Instant::now(), 2), Next::Purge(names(&["a", "b"])));
        queue.add(names(&["c"]).into_iter(), true, 2);
        assert_eq!(queue.next(true, Instant::now(), 2), Next::Purge(names(&["*"])));
    }

    #[test]
    fn names_of_an_unknown_outcome_are_purged_at_the_end_of_the_fence() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let (mut queue, _) = queue(&["a"], true, 2);
        assert!(!queue.add_fenced(names(&["a"]).into_iter(), now + second, 2));
        assert!(!queue.add_fenced(names(&["b", "a"]).into_iter(), now + 2 * second, 2));
        assert_eq!(queue.next(true, now, 2), Next::Purge(names(&["a"])));
        // The later one of two fences counts.
        assert_eq!(queue.next(true, now + second, 2), Next::Wait);
        assert_eq!(queue.next(true, now + 2 * second, 2), Next::Purge(names(&["a", "b"])));
        assert!(queue.is_empty());
    }

    #[test]
    fn fenced_names_beyond_the_bound_become_the_root() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut queue = PurgeQueue::default();
        assert!(queue.add_fenced(names(&["a", "b", "c"]).into_iter(), now + second, 2));
        assert!(!queue.add_fenced(names(&["d"]).into_iter(), now + 2 * second, 2));
        assert_eq!(queue.next(true, now + second, 2), Next::Purge(names(&["*"])));
        assert_eq!(queue.next(true, now + 2 * second, 2), Next::Purge(names(&["d"])));
    }
}
