//! A bounded list of the most frequent items of a stream: Space-Saving (Metwally, Agrawal and El Abbadi, 2005) with weights.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// The most frequent items of a stream, up to a capacity.
///
/// Each item whose weight exceeds `total / capacity` is listed. The count of a listed item is never too low, and too high by at most its
/// error, which never exceeds `total / capacity`.
pub(crate) struct Sketch<K, T> {
    capacity: usize,
    total: u64,
    places: HashMap<K, usize>,
    slots: Vec<Slot<K, T>>,
    /// The places of the slots, as a heap with the lowest count first.
    heap: Vec<usize>,
}

/// A listed item.
pub(crate) struct Slot<K, T> {
    pub(crate) key: K,
    pub(crate) data: T,
    pub(crate) count: u64,
    /// The part of the count that may belong to items that were listed before.
    pub(crate) error: u64,
    /// The position in the heap.
    at: usize,
}

impl<K: Clone + Eq + Hash, T> Sketch<K, T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), total: 0, places: HashMap::new(), slots: Vec::new(), heap: Vec::new() }
    }

    /// Counts an item and returns its data. `make` makes an item that is not listed.
    pub(crate) fn add<Q>(&mut self, key: &Q, weight: u64, make: impl FnOnce() -> (K, T)) -> &mut T
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.total = self.total.saturating_add(weight);
        let place = match self.places.get(key) {
            Some(place) => {
                let slot = &mut self.slots[*place];
                slot.count = slot.count.saturating_add(weight);
                *place
            }
            None if self.slots.len() < self.capacity => {
                let ((key, data), place) = (make(), self.slots.len());
                self.places.insert(key.clone(), place);
                self.slots.push(Slot { key, data, count: weight, error: 0, at: place });
                self.heap.push(place);
                self.rise(place);
                place
            }
            None => {
                let (key, data) = make();
                let place = self.heap[0];
                let slot = &mut self.slots[place];
                self.places.remove::<K>(&slot.key);
                self.places.insert(key.clone(), place);
                (slot.key, slot.data, slot.error) = (key, data, slot.count);
                slot.count = slot.count.saturating_add(weight);
                place
            }
        };
        self.sink(self.slots[place].at);
        &mut self.slots[place].data
    }

    /// Halves all counts, so that the list follows the stream. Rounding may leave an error up to 2 above its bound.
    pub(crate) fn halve(&mut self) {
        self.total /= 2;
        for slot in &mut self.slots {
            slot.count /= 2;
            slot.error = slot.error.div_ceil(2).min(slot.count);
        }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&Slot<K, T>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.places.get(key).map(|place| &self.slots[*place])
    }

    /// Changes the data of an item that is listed.
    pub(crate) fn change<Q>(&mut self, key: &Q, change: impl FnOnce(&mut T))
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(place) = self.places.get(key) {
            change(&mut self.slots[*place].data);
        }
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot<K, T>> {
        self.slots.iter()
    }

    pub(crate) fn data_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().map(|slot| &mut slot.data)
    }

    /// Returns the listed items, the most frequent first.
    pub(crate) fn ranked(&self) -> Vec<&Slot<K, T>> {
        let mut all: Vec<_> = self.slots.iter().collect();
        all.sort_by_key(|slot| (std::cmp::Reverse(slot.count), slot.error));
        all
    }

    /// Returns the highest count that an item may have that is not listed.
    pub(crate) fn most_unlisted(&self) -> u64 {
        match self.slots.len() < self.capacity {
            true => 0,
            false => self.heap.first().map_or(0, |place| self.slots[*place].count),
        }
    }

    fn count_at(&self, at: usize) -> u64 {
        self.slots[self.heap[at]].count
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for at in [one, other] {
            self.slots[self.heap[at]].at = at;
        }
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.count_at(at) < self.count_at((at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = (2 * at + 1..2 * at + 3).filter(|child| *child < self.heap.len());
            match children.min_by_key(|child| self.count_at(*child)) {
                Some(least) if self.count_at(least) < self.count_at(at) => {
                    self.swap(at, least);
                    at = least;
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frequent_items_are_listed_and_errors_are_bounded(
            stream in prop::collection::vec((0_u32..40, prop::sample::select(vec![1_u64, 1, 1, 64]), prop::bool::weighted(0.01)), 0..2000),
            capacity in 1_usize..24,
            skew in 0_u32..4,
        ) {
            let (mut sketch, mut exact) = (Sketch::new(capacity), BTreeMap::<u32, u64>::new());
            let (mut total, mut halvings) = (0, 0);
            for (item, weight, is_halved) in stream {
                if is_halved {
                    sketch.halve();
                    total /= 2;
                    halvings += 1;
                    exact.values_mut().for_each(|count| *count /= 2);
                }
                total += weight;
                let item = item >> (item % (skew + 1));
                *exact.entry(item).or_default() += weight;
                sketch.add(&item, weight, || (item, ()));
            }
            prop_assert_eq!(sketch.total, total);
            let bound = total / capacity as u64 + if halvings > 0 { 2 } else { 0 };
            let listed = sketch.ranked();
            prop_assert!(listed.len() <= capacity);
            prop_assert!(listed.is_sorted_by(|a, b| a.count >= b.count));
            for slot in &listed {
                let truth = exact[&slot.key];
                prop_assert!(truth <= slot.count && slot.count <= truth + slot.error);
                prop_assert!(slot.error <= bound && slot.error <= slot.count);
            }
            for (item, truth) in &exact {
                match sketch.get(item) {
                    Some(slot) => prop_assert_eq!(slot.key, *item),
                    None => prop_assert!(*truth <= bound && *truth <= sketch.most_unlisted()),
                }
            }
        }
    }

    #[test]
    fn error_never_exceeds_its_count() {
        let mut sketch = Sketch::new(1);
        sketch.add("a", 1, || ("a", ()));
        sketch.add("b", 1, || ("b", ()));
        for _ in 0..3 {
            sketch.halve();
            assert!(sketch.ranked().iter().all(|slot| slot.error <= slot.count));
        }
    }

    #[test]
    fn halving_keeps_the_order() {
        let mut sketch = Sketch::new(4);
        for (item, count) in [("a", 9), ("b", 5), ("c", 1)] {
            sketch.add(item, count, || (item, ()));
        }
        sketch.halve();
        let counts: Vec<_> = sketch.ranked().iter().map(|slot| (slot.key, slot.count)).collect();
        assert_eq!((counts, sketch.total), (vec![("a", 4), ("b", 2), ("c", 0)], 7));
    }
}
