//! Positions in the write-ahead log, and snapshots of transactions.

use std::fmt;

/// A position in the write-ahead log of PostgreSQL, in bytes. `Display` prints it as PostgreSQL does: `16/B374D848`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lsn(pub(super) u64);

impl Lsn {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let part = |part| u32::from_str_radix(part, 16).ok().map(u64::from);
        Some(Self(part(high)? << 32 | part(low)?))
    }

    /// Returns the bytes from `earlier` to this position.
    pub(super) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

/// A snapshot: the transactions whose changes a statement sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Every transaction before this one has ended.
    min: u64,
    /// No transaction from this one on has ended.
    max: u64,
    /// The transactions between the two that have not ended.
    running: Vec<u64>,
}

impl Snapshot {
    /// Reads the text form of `pg_snapshot`: `10:20:10,14,15`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let min = parts.next()?.parse().ok()?;
        let max = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|id| !id.is_empty());
        let running = running.map(|id| id.parse().ok()).collect::<Option<_>>()?;
        Some(Self { min, max, running })
    }

    /// Returns true if the changes of a committed transaction are visible. The transaction is among the latest two billion, and `id` is the lower
    /// half of its number.
    pub(super) fn shows(&self, id: u32) -> bool {
        let distance = id.wrapping_sub(self.max as u32).cast_signed();
        let id = self.max.saturating_add_signed(distance.into());
        id < self.min || id < self.max && !self.running.contains(&id)
    }

    /// Returns true if every transaction that was running in an earlier snapshot has ended.
    pub(super) fn is_past(&self, earlier: &Self) -> bool {
        !earlier.running.iter().any(|id| self.running.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn snapshot_shows_ended_transactions() {
        let snapshot = Snapshot::parse("10:20:10,14").expect("a snapshot");
        assert!([9, 11, 19].iter().all(|id| snapshot.shows(*id)));
        assert!(![10, 14, 20, 21].iter().any(|id| snapshot.shows(*id)));
        assert!(Snapshot::parse("20:20:").expect("a snapshot").shows(19));
        assert_eq!(Snapshot::parse("20:"), None);
    }

    #[test]
    fn snapshot_is_past_another_when_its_transactions_have_ended() {
        let at = |text| Snapshot::parse(text).expect("a snapshot");
        assert!(!at("10:20:10,14").is_past(&at("9:12:10")) && at("10:20:10,14").is_past(&at("9:12:9,11")));
    }

    #[test]
    fn snapshot_counts_across_the_wrap_of_numbers() {
        let epoch = 1_u64 << 32;
        let snapshot = Snapshot::parse(&format!("{}:{}:{}", epoch - 2, epoch + 2, epoch - 2)).expect("a snapshot");
        assert!(snapshot.shows(u32::MAX) && snapshot.shows(1) && snapshot.shows(0));
        assert!(!snapshot.shows(u32::MAX - 1) && !snapshot.shows(2));
    }

    proptest! {
        #[test]
        fn positions_survive_their_text(lsn: u64) {
            prop_assert_eq!(Lsn::parse(&Lsn(lsn).to_string()), Some(Lsn(lsn)));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            _ = (Lsn::parse(&text), Snapshot::parse(&text));
        }
    }
}
