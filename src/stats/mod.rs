//! What has happened, counted without a shared cache line.

pub(crate) mod counters;
mod misconfiguration;
pub(crate) mod usage;
pub(crate) mod warnings;

use std::{fmt, sync::atomic::Ordering, time::Duration};

use self::{
    counters::{BYPASSES, Count, Counters, MISSES, NO_STORES},
    usage::Usage,
};
use crate::status::{Bypass, Miss, NoStore};

/// What a store and the layers over it have done since the store was made.
///
/// A request that a rule covers is a hit, a stale hit, collapsed, a miss or a bypass, and counted as one of these. Two are not: one that
/// is answered with a stale response because the inner service has failed, or is slow, after it was asked, is a miss and a stale hit, and
/// [`stale_if_error`](Self::stale_if_error) says how many these are; and one that wants a stored response or none, and gets 504, is nothing of all
/// this.
///
/// The counters are read one after the other, not at one moment.
///
/// Its `Display` is a few lines for a person; reasons that never occurred are left out there.
///
/// ```
/// use tower_response_cache::{Memory, Store};
///
/// let stats = Memory::new(1 << 20).stats();
/// assert_eq!((stats.hits, stats.misses(), stats.capacity), (0, 0, 1 << 20));
/// assert!(stats.to_string().starts_with("hits 0, stale 0, collapsed 0"));
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Answered with a fresh stored response.
    pub hits: u64,
    /// Answered with a stale stored response, as the rule allowed.
    pub stale_hits: u64,
    /// Those of them that stood in for an inner service which was asked and has failed, or was slow: their requests are misses, too.
    pub stale_if_error: u64,
    /// Answered with the response that another request was already fetching.
    pub collapsed: u64,
    /// The inner service was asked, by reason; every reason is listed, also with zero.
    pub misses: Vec<(Miss, u64)>,
    /// Not looked up at all although a rule covers the route, by reason.
    pub bypasses: Vec<(Bypass, u64)>,
    /// Responses stored.
    pub stored: u64,
    /// Responses not stored, by reason.
    pub not_stored: Vec<(NoStore, u64)>,
    /// Entries removed to make room.
    pub evictions: u64,
    /// Entries removed because their time was over.
    pub expired: u64,
    /// Invalidations by [`InvalidateLayer`](crate::InvalidateLayer): one for each response that invalidates something, however many
    /// namespaces it names. Calls of [`Store::invalidate`](crate::Store::invalidate) are not counted.
    pub bumps: u64,
    /// Those that a shared store could not be told of in time.
    pub undelivered: u64,
    /// Names that wait at this moment to be cleared in a shared store, which cannot be reached.
    pub waiting: u64,
    /// Writes that succeeded and invalidated nothing, because no rule covers them and their handlers named nothing.
    pub uncovered_writes: u64,
    /// Those of them that went through an [`InvalidateLayer`](crate::InvalidateLayer) without rules.
    pub writes_without_rules: u64,
    /// Responses stored that belong to no namespace: only their lifetimes end them.
    pub never_invalidated: u64,
    /// Rules of layers over this store that have matched no request so far; [`Rules::unmatched`](crate::Rules::unmatched) names them.
    pub unmatched_rules: u64,
    /// Whether a shared store answered when it was last asked: its circuit breaker is closed. `None` for a store of one process.
    pub reachable: Option<bool>,
    /// Whether memory is trusted without a round trip at this moment. `None` where no lease is wanted.
    pub leased: Option<bool>,
    /// Writes for which a strict store could set no fence.
    pub not_fenced: u64,
    /// Entries in a shared store that were damaged, foreign or of another format: misses, and removed.
    pub damaged: u64,
    /// Look-ups that a shared store could not be asked for.
    pub away: u64,
    /// Background refreshes begun.
    pub refreshes: u64,
    /// Fills under way at this moment.
    pub flights: u64,
    /// Entries in the store, those included that have died and are not removed yet.
    pub entries: u64,
    /// Bytes in the store, overhead included.
    pub bytes: u64,
    /// The most bytes there may be.
    pub capacity: u64,
    /// Calls of the inner service by rules that cache.
    pub inner_calls: u64,
    /// Time from those calls to the head of their responses, all added up.
    pub inner_time: Duration,
    /// Mean time that the cache itself took for a hit: measured on one in 64.
    pub cache_time_per_hit: Duration,
}

impl Stats {
    pub(crate) fn of(counters: &Counters, usage: Usage) -> Self {
        let count = |count: Count| counters.sum(count as usize);
        let timed = count(Count::Timed).max(1);
        Self {
            hits: count(Count::Hit),
            stale_hits: count(Count::Stale),
            stale_if_error: count(Count::StoodIn),
            collapsed: count(Count::Collapsed),
            misses: Miss::ALL.iter().map(|why| (*why, counters.sum(MISSES + *why as usize))).collect(),
            bypasses: Bypass::ALL.iter().map(|why| (*why, counters.sum(BYPASSES + *why as usize))).collect(),
            stored: count(Count::Stored),
            not_stored: NoStore::ALL.iter().map(|why| (*why, counters.sum(NO_STORES + *why as usize))).collect(),
            evictions: count(Count::Evicted),
            expired: count(Count::Expired),
            bumps: count(Count::Bumps),
            undelivered: count(Count::Undelivered),
            waiting: counters.waiting.load(Ordering::Relaxed) as u64,
            uncovered_writes: count(Count::UncoveredWrites),
            writes_without_rules: count(Count::WithoutRules),
            never_invalidated: count(Count::NeverInvalidated),
            unmatched_rules: counters.unmatched_rules(),
            reachable: None,
            leased: None,
            not_fenced: count(Count::NotFenced),
            damaged: count(Count::Damaged),
            away: count(Count::Away),
            refreshes: count(Count::Refreshes),
            flights: counters.flying.load(Ordering::Relaxed) as u64,
            entries: usage.entries,
            bytes: usage.bytes,
            capacity: usage.capacity,
            inner_calls: count(Count::InnerCalls),
            inner_time: Duration::from_nanos(count(Count::InnerNanos)),
            cache_time_per_hit: Duration::from_nanos(count(Count::TimedNanos) / timed),
        }
    }

    /// All misses added up.
    pub fn misses(&self) -> u64 {
        self.misses.iter().map(|(_, n)| n).sum()
    }

    /// The share of look-ups that were answered otherwise than by a call of their own, from 0 to 1; 0 before the first. A stale response
    /// that stood in for a failed call counts as such an answer.
    pub fn hit_ratio(&self) -> f64 {
        let served = self.hits + self.stale_hits + self.collapsed;
        // The counters are not of one moment.
        let all = (served + self.misses()).saturating_sub(self.stale_if_error).max(served);
        if all == 0 { 0.0 } else { served as f64 / all as f64 }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hits, stale_hits, collapsed, stored, evictions, expired, bumps, refreshes, flights, .. } = self;
        let Self { entries, bytes, capacity, inner_calls, inner_time, cache_time_per_hit, .. } = self;
        let percent = 100.0 * self.hit_ratio();
        writeln!(f, "hits {hits}, stale {stale_hits}, collapsed {collapsed}: {percent:.1} % of all look-ups")?;
        writeln!(f, "misses {}{}", self.misses(), Reasons(&self.misses))?;
        let bypassed: u64 = self.bypasses.iter().map(|(_, n)| n).sum();
        writeln!(f, "bypassed {bypassed}{}", Reasons(&self.bypasses))?;
        let refused: u64 = self.not_stored.iter().map(|(_, n)| n).sum();
        writeln!(f, "stored {stored}, not stored {refused}{}", Reasons(&self.not_stored))?;
        writeln!(f, "entries {entries} in {bytes} of {capacity} bytes; evicted {evictions}, expired {expired}")?;
        let Self { undelivered, waiting, not_fenced, uncovered_writes, unmatched_rules, never_invalidated, .. } = self;
        writeln!(f, "invalidations {bumps}, undelivered {undelivered}, waiting {waiting}, not fenced {not_fenced}")?;
        if let Some(reachable) = self.reachable {
            let breaker = if reachable { "closed" } else { "open" };
            let lease = match self.leased {
                Some(true) => "held",
                Some(false) => "lost",
                None => "none",
            };
            writeln!(
                f,
                "breaker {breaker}, lease {lease}, unanswered look-ups {}, damaged entries {}",
                self.away, self.damaged
            )?;
        }
        if uncovered_writes + unmatched_rules + never_invalidated > 0 {
            writeln!(
                f,
                "uncovered writes {uncovered_writes}, unmatched rules {unmatched_rules}, entries never invalidated {never_invalidated}"
            )?;
        }
        writeln!(f, "refreshes {refreshes}, fills under way {flights}")?;
        let mean = inner_time.checked_div(u32::try_from(*inner_calls).unwrap_or(u32::MAX).max(1)).unwrap_or_default();
        write!(f, "inner service {mean:.1?} a call, the cache {cache_time_per_hit:.1?} a hit")
    }
}

/// Those that occurred, in parentheses.
struct Reasons<'a, R>(&'a [(R, u64)]);

impl<R: fmt::Display> fmt::Display for Reasons<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut open = " (";
        for (why, n) in self.0.iter().filter(|(_, n)| *n > 0) {
            write!(f, "{open}{why} {n}")?;
            open = ", ";
        }
        if open == ", " { f.write_str(")") } else { Ok(()) }
    }
}
