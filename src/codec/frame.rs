//! The frame around a stored entry: version, flags, checksum, and the errors of reading and writing.

use std::{fmt, sync::Arc};

use crate::{
    clock::{MS, Nanos},
    entry::{
        stamp::Generation,
        times::{Http, Times},
    },
    namespace::set::Namespaces,
};

/// The first byte of all that is stored.
pub(crate) const VERSION: u8 = 1;

/// Version, form and length.
pub(crate) const FRAME: usize = 6;

/// The checksum of what is not sealed.
pub(crate) const CHECK: usize = 8;

/// Redis takes no longer value.
pub(crate) const MAX_LEN: usize = 512 << 20;

/// Bits of the form.
pub(crate) const SEALED: u8 = 1;

pub(crate) const COMPRESSED: u8 = 2;

/// The present moment by two clocks: that by which stored times count, and that of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) there: Nanos,
    pub(crate) here: Nanos,
}

impl Moment {
    /// Translates a time by the clock of the store to the clock of this process.
    #[inline]
    fn here(self, there: Nanos) -> Nanos {
        match there.checked_sub(self.there) {
            Some(left) => self.here.saturating_add(left),
            None => self.here.saturating_sub(self.there - there),
        }
    }

    /// Translates the times of an entry to the clock by which stored times count.
    pub(crate) fn stores(self, times: &Times, http: Option<&Http>) -> (Times, Option<Http>) {
        let (mut times, mut http) = (*times, http.copied());
        Self { there: self.here, here: self.there }.shifts(&mut times, http.as_mut());
        (times, http)
    }

    fn shifts(self, times: &mut Times, http: Option<&mut Http>) {
        let Times { born, fresh_until, while_revalidate_until, if_error_until, kept_until, cost: _ } = times;
        for time in [born, fresh_until, while_revalidate_until, if_error_until, kept_until] {
            *time = self.here(*time);
        }
        if let Some(http) = http {
            http.freshness.received = self.here(http.freshness.received.saturating_mul(MS)) / MS;
        }
    }

    /// Translates the times of a stored entry to the clock of this process.
    ///
    /// An entry whose response arrived only after the present moment comes from a clock that was set since, or is not this one: it counts
    /// as just arrived, so that no copy lives for longer than the entry was to live when it was made.
    #[inline]
    pub(crate) fn reads(self, times: &mut Times, http: Option<&mut Http>) {
        let arrived = http.as_ref().map_or(times.born, |http| http.freshness.received.saturating_mul(MS).max(times.born));
        Self { there: self.there.max(arrived), ..self }.shifts(times, http);
    }
}

/// The names of an entry, and a generation for each of them.
pub(crate) type Stamped = (Namespaces, Arc<[Option<Generation>]>);

/// Why stored bytes are not the entry that was asked for. Each is a miss, and the bytes are to be removed unless they may be of use to
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Damaged {
    /// Written by a release that stores in another way.
    Version,
    /// Shorter than it says.
    Truncated,
    /// Longer than it says.
    Trailing,
    /// Changed since it was written.
    Checksum,
    /// The entry of another key.
    Foreign,
    /// Sealed, and no key of the ring opens it here: of a key that is gone, changed, or moved from where it was stored.
    Sealed,
    /// Clear, where everything has to be sealed.
    Unsealed,
    /// Its body does not come out of its compression, or cannot without the feature.
    Compressed,
    /// Whole, but nothing that this crate writes.
    Malformed,
    /// Its body is longer than the rule of the request allows. It may be what another rule, or another process, wants.
    TooLong,
}

impl Damaged {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Truncated => "truncated",
            Self::Trailing => "trailing",
            Self::Checksum => "checksum",
            Self::Foreign => "foreign",
            Self::Sealed => "sealed",
            Self::Unsealed => "unsealed",
            Self::Compressed => "compressed",
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
        }
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an entry has no stored form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unstored {
    /// Its stamp has not one generation for each of its namespaces: nobody could tell whether it may be served.
    Stamp,
    /// Redis takes no value of this length.
    TooLarge,
    /// The operating system gave no random bytes to seal it with.
    Randomness,
}

impl Unstored {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stamp => "stamp",
            Self::TooLarge => "too-large",
            Self::Randomness => "randomness",
        }
    }
}

impl fmt::Display for Unstored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
