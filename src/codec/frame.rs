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

/// The first byte of all stored entries.
pub(crate) const VERSION: u8 = 1;

/// The length of version, form and length.
pub(crate) const FRAME: usize = 6;

/// The length of the checksum of contents in the clear.
pub(crate) const CHECK: usize = 8;

/// The longest value that Redis accepts.
pub(crate) const MAX_LEN: usize = 512 << 20;

/// Bits of the form.
pub(crate) const SEALED: u8 = 1;

pub(crate) const COMPRESSED: u8 = 2;

/// The present moment by two clocks: that of stored times (`there`), and that of this process (`here`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) there: Nanos,
    pub(crate) here: Nanos,
}

impl Moment {
    /// Translates a time from the clock of the store to the clock of this process.
    #[inline]
    fn here(self, there: Nanos) -> Nanos {
        match there.checked_sub(self.there) {
            Some(left) => self.here.saturating_add(left),
            None => self.here.saturating_sub(self.there - there),
        }
    }

    /// Translates the times of an entry to the clock of stored times.
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
    /// An entry whose response arrived after the present moment was stored by a clock that was set since, or by another clock. It counts as
    /// having just arrived, so that no copy outlives the planned lifetime of the entry.
    #[inline]
    pub(crate) fn reads(self, times: &mut Times, http: Option<&mut Http>) {
        let arrived = http.as_ref().map_or(times.born, |http| http.freshness.received.saturating_mul(MS).max(times.born));
        Self { there: self.there.max(arrived), ..self }.shifts(times, http);
    }
}

/// The names of an entry with their generations.
pub(crate) type Stamped = (Namespaces, Arc<[Option<Generation>]>);

/// The reason why stored bytes are not the requested entry. Each is a miss. The bytes are removed unless another process may need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Damaged {
    /// Another release wrote them in another form.
    Version,
    /// They are shorter than their stated length.
    Truncated,
    /// They are longer than their stated length.
    Trailing,
    /// They were changed after they were written.
    Checksum,
    /// They are the entry of another key.
    Foreign,
    /// No key of the ring decrypts them: their key is gone, or they were changed or moved.
    Sealed,
    /// They are in the clear, and the store is encrypted.
    Unsealed,
    /// The body cannot be decompressed, or the feature is missing.
    Compressed,
    /// They are complete, but this crate does not write such contents.
    Malformed,
    /// The body is longer than the rule of the request allows. Another rule or process may need it.
    TooLong,
}

impl Damaged {
    /// Returns the name of the reason.
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

/// The reason why an entry has no stored form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unstored {
    /// Its stamp has no generation for each of its namespaces, so its validity could not be checked.
    Stamp,
    /// It is longer than a value in Redis may be.
    TooLarge,
    /// The operating system provided no random bytes for a nonce.
    Randomness,
}

impl Unstored {
    /// Returns the name of the reason.
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
