//! The entries of the memory store as its table holds them, weighs them and evicts them.

use std::sync::Arc;

use quick_cache::{Lifecycle, Weighter};

use super::{backend::Context, expiry::RecordId};
use crate::{entry::Entry, stats::counters::Count};

/// An entry and the record of its expiry.
#[derive(Clone)]
pub(super) struct StoredEntry {
    pub(super) entry: Arc<Entry>,
    pub(super) record: RecordId,
}

#[derive(Clone)]
pub(super) struct ByBytes;

impl Weighter<u128, StoredEntry> for ByBytes {
    fn weight(&self, _: &u128, stored: &StoredEntry) -> u64 {
        stored.entry.weight()
    }
}

/// Marks evicted entries as removed, and counts them.
#[derive(Clone)]
pub(super) struct EvictionListener(pub(super) Arc<Context>);

/// The entries that leave the table during an insertion. They are dropped after the table is unlocked. An entry under the inserted key was
/// replaced, and not evicted, unless it is the inserted entry itself.
#[derive(Default)]
pub(super) struct Evicted {
    pub(super) inserted: u128,
    pub(super) entry: usize,
    pub(super) last: Option<(u128, StoredEntry)>,
    pub(super) more: Vec<(u128, StoredEntry)>,
}

pub(super) fn address(entry: &Arc<Entry>) -> usize {
    Arc::as_ptr(entry).addr()
}

impl Lifecycle<u128, StoredEntry> for EvictionListener {
    type RequestState = Evicted;

    #[inline]
    fn on_evict(&self, evicted: &mut Evicted, key: u128, stored: StoredEntry) {
        stored.entry.mark_removed();
        if key != evicted.inserted || address(&stored.entry) == evicted.entry {
            let Context { counters, clock, .. } = &*self.0;
            if counters.add(Count::Evicted, 1).is_multiple_of(16) {
                counters.eviction_ages.record(clock.nanos().saturating_sub(stored.entry.times().born));
            }
        }
        if let Some(before) = evicted.last.replace((key, stored)) {
            evicted.more.push(before);
        }
    }
}
