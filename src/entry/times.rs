//! The times of an entry.

use super::validity::Validity;
use crate::{
    clock::{MS, Nanos},
    semantics::Freshness,
};

/// The data of an entry that was stored under a rule where HTTP decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http {
    pub(crate) freshness: Freshness,
    /// The entry may answer requests with credentials that are not in the key (RFC 9111, section 3.5).
    pub(crate) open: bool,
    /// The entry has a validator of the inner service.
    pub(crate) asks: bool,
    /// The cache has made the `ETag`. The inner service does not know it.
    pub(crate) own_tag: bool,
}

impl Http {
    /// Returns the freshness. A softly invalidated entry is not fresh.
    pub(crate) fn freshness(&self, life: Validity, now: Nanos) -> Freshness {
        let mut freshness = self.freshness;
        if life == Validity::Stale {
            freshness.lifetime = freshness.lifetime.min(freshness.age(now / MS));
        }
        freshness
    }
}

/// The times of an entry, in nanoseconds of the store's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The time at which the response was generated. The age counts from here.
    pub(crate) born: Nanos,
    /// The end of freshness.
    pub(crate) fresh_until: Nanos,
    /// The end of the time in which the entry may be served while it is refreshed.
    pub(crate) while_revalidate_until: Nanos,
    /// The end of the time in which the entry may be served if the inner service fails.
    pub(crate) if_error_until: Nanos,
    /// The end of the time in which the entry is kept for validation.
    pub(crate) kept_until: Nanos,
    /// The duration of the call, for refresh ahead.
    pub(crate) cost: Nanos,
}

impl Times {
    /// Returns true if these are the times of the same response. A copy in Redis is translated from the server's clock at each read, so that its
    /// times may differ a little.
    pub(crate) fn are_those_of(&self, other: &Self) -> bool {
        const LITTLE: Nanos = 1_000 * MS;
        let lifetime = |times: &Self| times.fresh_until.saturating_sub(times.born);
        self.born.abs_diff(other.born) < LITTLE && lifetime(self) == lifetime(other)
    }

    /// Returns true if a rule with lifetimes of its own allows serving the stale entry while it is refreshed.
    #[inline]
    pub(crate) fn allows_stale_while_revalidate(&self, now: Nanos) -> bool {
        now < self.while_revalidate_until && self.while_revalidate_until > self.fresh_until
    }

    /// Returns true if a rule with lifetimes of its own allows serving the stale entry in place of a failure. Without a stale-if-error time, it may
    /// not be served, also if it was invalidated softly within its lifetime.
    #[inline]
    pub(crate) fn allows_stale_if_error(&self, now: Nanos) -> bool {
        now < self.if_error_until && self.if_error_until > self.fresh_until
    }

    /// Returns the time after which the entry may not be served at all.
    pub(crate) fn expires(&self) -> Nanos {
        self.fresh_until.max(self.while_revalidate_until).max(self.if_error_until).max(self.kept_until)
    }
}
