//! The times of an entry.

use super::validity::Validity;
use crate::{
    clock::{MS, Nanos},
    semantics::Freshness,
};

/// What a rule under which HTTP decides has to know of a stored response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http {
    pub(crate) freshness: Freshness,
    /// It may answer requests with credentials that are not in the key (RFC 9111, section 3.5).
    pub(crate) open: bool,
    /// It has a validator of the inner service's, which can be asked about it.
    pub(crate) asks: bool,
    /// Its `ETag` is of our own making: the inner service does not know it.
    pub(crate) own_tag: bool,
}

impl Http {
    /// Its freshness, where what was cleared softly is fresh no longer.
    pub(crate) fn freshness(&self, life: Validity, now: Nanos) -> Freshness {
        let mut freshness = self.freshness;
        if life == Validity::Stale {
            freshness.lifetime = freshness.lifetime.min(freshness.age(now / MS));
        }
        freshness
    }
}

/// When an entry was made and until when it serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// When the response was generated, as far as is known: its age counts from here.
    pub(crate) born: Nanos,
    /// Fresh before this.
    pub(crate) fresh_until: Nanos,
    /// Servable while it is refreshed before this.
    pub(crate) while_revalidate_until: Nanos,
    /// Servable when the inner service fails before this.
    pub(crate) if_error_until: Nanos,
    /// Worth asking about before this.
    pub(crate) kept_until: Nanos,
    /// How long the inner service took: what an early refresh would cost.
    pub(crate) cost: Nanos,
}

impl Times {
    /// Whether these are the times of the same response. A copy from another machine is translated from its clock each time it is read, so
    /// that they may differ a little.
    pub(crate) fn are_those_of(&self, other: &Self) -> bool {
        const LITTLE: Nanos = 1_000 * MS;
        let lifetime = |times: &Self| times.fresh_until.saturating_sub(times.born);
        self.born.abs_diff(other.born) < LITTLE && lifetime(self) == lifetime(other)
    }

    /// Whether a rule that sets its own lifetimes lets the response be served while it is refreshed, although it is stale.
    #[inline]
    pub(crate) fn allows_stale_while_revalidate(&self, now: Nanos) -> bool {
        now < self.while_revalidate_until && self.while_revalidate_until > self.fresh_until
    }

    /// Whether a rule that sets its own lifetimes lets the response stand in for a failure, although it is stale. Without a window past its
    /// lifetime, it may not: not even within the lifetime, where it was invalidated softly.
    #[inline]
    pub(crate) fn allows_stale_if_error(&self, now: Nanos) -> bool {
        now < self.if_error_until && self.if_error_until > self.fresh_until
    }

    /// When nobody may serve it any more.
    pub(crate) fn expires(&self) -> Nanos {
        self.fresh_until.max(self.while_revalidate_until).max(self.if_error_until).max(self.kept_until)
    }
}
