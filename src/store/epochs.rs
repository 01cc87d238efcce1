//! The fixed table of epochs. It makes an invalidation O(1) and a stale fill harmless.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{entry::validity::Validity, namespace::set::Namespaces};

/// Strength of an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidationKind {
    /// Older entries are never served again. Writes use this kind.
    Hard,
    /// Older entries become stale. They are served where a rule allows stale responses, and refreshed otherwise.
    Soft,
}

/// One sequence for the process, and a fixed array with one slot per hash of a name.
///
/// An invalidation takes the next number and writes it into the slots of its names. A stamp is the number at the time of its capture. It is
/// valid while none of its slots holds a larger number. Two names in one slot invalidate too much, never too little. The table cannot grow,
/// be evicted or restart.
pub(crate) struct Epochs {
    sequence: AtomicU64,
    /// The last invalidation of either kind. A hit reads only this table.
    any: Box<[AtomicU64]>,
    /// The last hard invalidation.
    hard: Box<[AtomicU64]>,
    mask: u64,
    /// Locked while slots are written, so that [`renew`](Self::renew) sees all of an invalidation or nothing of it.
    stepping: Mutex<()>,
}

impl Epochs {
    /// Creates a table of `slots`, a power of two, and one more slot for the root alone. Every entry belongs to the root, so no other name
    /// may share its slot.
    pub(crate) fn new(slots: usize) -> Self {
        assert!(slots.is_power_of_two());
        let table = || (0..=slots).map(|_| AtomicU64::new(0)).collect();
        Self { sequence: AtomicU64::new(1), any: table(), hard: table(), mask: slots as u64 - 1, stepping: Mutex::new(()) }
    }

    pub(crate) fn heap(slots: usize) -> usize {
        2 * (slots + 1) * size_of::<AtomicU64>()
    }

    /// Returns the stamp of a fill that begins now. Captured before the inner service is called.
    #[inline]
    pub(crate) fn capture(&self) -> u64 {
        self.sequence.load(Ordering::SeqCst)
    }

    /// Invalidates, or makes stale, all entries with an older stamp.
    ///
    /// A fill that captures the new number before the slot is written began after this invalidation began. That is after the commit that
    /// the invalidation reports, so the fill may stay valid.
    pub(crate) fn bump(&self, hashes: impl Iterator<Item = u64>, kind: InvalidationKind) {
        let _stepping = self.lock();
        self.step(hashes, kind);
    }

    fn step(&self, hashes: impl Iterator<Item = u64>, kind: InvalidationKind) -> u64 {
        let epoch = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        for hash in hashes {
            let slot = self.slot(hash);
            if kind == InvalidationKind::Hard {
                self.hard[slot].fetch_max(epoch, Ordering::SeqCst);
            }
            self.any[slot].fetch_max(epoch, Ordering::SeqCst);
        }
        epoch
    }

    /// Advances the slots of a name whose generation this process wrote at some time after the epoch `sent`. Returns the epoch from which
    /// that generation can be trusted. That is the new epoch, or `sent` if another invalidation advanced one of the slots since. The other
    /// invalidation may have replaced the generation just written, so then no stamp of `sent` is valid.
    #[cfg(feature = "redis")]
    pub(crate) fn step_own(&self, hashes: impl Iterator<Item = u64> + Clone, sent: u64) -> u64 {
        let _stepping = self.lock();
        let untouched = hashes.clone().all(|hash| self.is_untouched(hash, sent));
        let epoch = self.step(hashes, InvalidationKind::Hard);
        if untouched { epoch } else { sent }
    }

    /// Returns the current epoch as the stamp of names that were read at different epochs, or `None` if a slot was advanced after its part
    /// was read. Each part is the hash of a name and the epoch before its generation was read.
    #[cfg(feature = "redis")]
    pub(crate) fn renew(&self, mut parts: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
        let _stepping = self.lock();
        parts.all(|(hash, since)| self.is_untouched(hash, since)).then(|| self.capture())
    }

    #[inline]
    fn is_untouched(&self, hash: u64, stamp: u64) -> bool {
        self.any[self.slot(hash)].load(Ordering::SeqCst) <= stamp
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.stepping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the validity of a stamp for these names.
    #[inline]
    pub(crate) fn life(&self, stamp: u64, hashes: impl Iterator<Item = u64> + Clone) -> Validity {
        if hashes.clone().all(|hash| self.is_untouched(hash, stamp)) {
            return Validity::Valid;
        }
        let hard = |hash| self.hard[self.slot(hash)].load(Ordering::SeqCst) > stamp;
        if hashes.into_iter().any(hard) { Validity::Invalidated } else { Validity::Stale }
    }

    #[inline]
    fn slot(&self, hash: u64) -> usize {
        if hash == Namespaces::root_hash() { 0 } else { 1 + (hash & self.mask) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(epochs: &Epochs, stamp: u64, hashes: &[u64]) -> Validity {
        epochs.life(stamp, hashes.iter().copied())
    }
    #[test]
    fn invalidated_stamp_never_becomes_valid_again() {
        let epochs = Epochs::new(16);
        let old = epochs.capture();
        assert_eq!(life(&epochs, old, &[1, 2]), Validity::Valid);
        epochs.bump([2].into_iter(), InvalidationKind::Hard);
        assert_eq!(life(&epochs, old, &[1, 2]), Validity::Invalidated);
        assert_eq!(life(&epochs, old, &[1]), Validity::Valid);
        epochs.bump([2].into_iter(), InvalidationKind::Soft);
        assert_eq!(life(&epochs, old, &[1, 2]), Validity::Invalidated);
        assert_eq!(life(&epochs, epochs.capture(), &[1, 2]), Validity::Valid);
    }
    #[test]
    fn soft_invalidation_makes_only_stale() {
        let epochs = Epochs::new(16);
        let old = epochs.capture();
        epochs.bump([3].into_iter(), InvalidationKind::Soft);
        assert_eq!(life(&epochs, old, &[3]), Validity::Stale);
        epochs.bump([3].into_iter(), InvalidationKind::Hard);
        assert_eq!(life(&epochs, old, &[3]), Validity::Invalidated);
    }
    #[test]
    fn root_stamp_ignores_other_names() {
        let epochs = Epochs::new(16);
        let (old, root) = (epochs.capture(), Namespaces::root_hash());
        epochs.bump(1..=64, InvalidationKind::Hard);
        assert_eq!(life(&epochs, old, &[root]), Validity::Valid);
        epochs.bump([root].into_iter(), InvalidationKind::Hard);
        assert_eq!(life(&epochs, old, &[root]), Validity::Invalidated);
        assert_eq!(life(&epochs, epochs.capture(), &[root]), Validity::Valid);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn own_generation_is_trusted_only_if_nothing_stepped_meanwhile() {
        let epochs = Epochs::new(16);
        let sent = epochs.capture();
        let since = epochs.step_own([3].into_iter(), sent);
        assert_eq!((life(&epochs, sent, &[3]), life(&epochs, since, &[3])), (Validity::Invalidated, Validity::Valid));
        let sent = epochs.capture();
        epochs.bump([3].into_iter(), InvalidationKind::Hard);
        let since = epochs.step_own([3].into_iter(), sent);
        assert_eq!((since, life(&epochs, since, &[3])), (sent, Validity::Invalidated));
    }

    #[cfg(feature = "redis")]
    #[test]
    fn stamp_is_renewed_only_while_each_part_is_untouched() {
        let epochs = Epochs::new(16);
        let old = epochs.capture();
        let own = epochs.step_own([3].into_iter(), old);
        let now = epochs.renew([(3, own), (4, old)].into_iter()).expect("nothing of it was stepped since");
        assert_eq!(life(&epochs, now, &[3, 4]), Validity::Valid);
        assert_eq!(epochs.renew([(3, old), (4, old)].into_iter()), None);
        epochs.bump([4].into_iter(), InvalidationKind::Soft);
        assert_eq!(epochs.renew([(3, own), (4, old)].into_iter()), None);
    }
    #[test]
    fn collision_invalidates_more_and_never_less() {
        let epochs = Epochs::new(16);
        let old = epochs.capture();
        epochs.bump([5].into_iter(), InvalidationKind::Hard);
        assert_eq!(life(&epochs, old, &[5 + 16]), Validity::Invalidated);
    }
}
