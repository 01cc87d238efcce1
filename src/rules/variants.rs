//! A bounded count of the variants of single targets.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// The number of variants of one target from which a rule counts as exploding.
pub(crate) const MANY_VARIANTS: usize = 32;

/// The number of targets that are counted at a time.
const TARGETS: usize = 8;

/// Counts the variants of a few targets of a rule. A target that is filled more often than another takes its place.
#[derive(Default)]
pub(crate) struct VariantCounts {
    are_many: AtomicBool,
    targets: Mutex<Vec<Target>>,
}

#[derive(Clone, Default)]
struct Target {
    hash: u128,
    /// The number of fills, less those of other targets in this place.
    credit: usize,
    variants: Vec<u128>,
}

impl VariantCounts {
    /// Returns true if one target has had at least [`MANY_VARIANTS`].
    pub(crate) fn are_many(&self) -> bool {
        self.are_many.load(Ordering::Relaxed)
    }

    /// Records a variant of a target, by their hashes.
    pub(crate) fn record(&self, target: u128, variant: u128) {
        if self.are_many() {
            return;
        }
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.resize(TARGETS, Target::default());
        let counted = &mut targets[(target % TARGETS as u128) as usize];
        if counted.hash != target {
            if counted.credit > 0 {
                counted.credit -= 1;
                return;
            }
            *counted = Target { hash: target, ..Target::default() };
        }
        counted.credit = (counted.credit + 1).min(MANY_VARIANTS);
        if !counted.variants.contains(&variant) {
            counted.variants.push(variant);
        }
        if counted.variants.len() >= MANY_VARIANTS {
            self.are_many.store(true, Ordering::Relaxed);
            targets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_of_one_target_are_counted_once_each() {
        let counts = VariantCounts::default();
        for round in 0..10 {
            (1..MANY_VARIANTS as u128).for_each(|variant| counts.record(7, variant));
            assert!(!counts.are_many(), "{round}");
        }
        counts.record(7, 0);
        assert!(counts.are_many());
    }
    #[test]
    fn many_targets_with_few_variants_are_not_many() {
        let counts = VariantCounts::default();
        (0..10_000).for_each(|at| counts.record(at / 3, at % 3));
        assert!(!counts.are_many());
    }
    #[test]
    fn busy_target_takes_the_place_of_another() {
        let counts = VariantCounts::default();
        (0..3).for_each(|variant| counts.record(1, variant));
        (0..100).for_each(|variant| counts.record(1 + TARGETS as u128, variant));
        assert!(counts.are_many());
    }
}
