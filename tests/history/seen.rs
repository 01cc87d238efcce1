//! Reads in constant memory: of all reads of one version, only the extreme times can violate a law.

use std::{collections::HashMap, time::Duration};

use super::operation::{Ending, Operation, Process, Source};

/// The number of the first operation that stands for many reads. The numbers of others are smaller.
pub const FIRST_SUMMED: u64 = 1 << 60;

/// All reads of one version of a register through one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The latest begin of a read that the store served: the laws about staleness are hardest on it.
    pub latest_from_store: Option<Duration>,
    /// The latest begin of a read that the database served.
    pub latest_from_database: Option<Duration>,
    /// The earliest end: it proves how early the version was served.
    pub earliest_end: Option<Duration>,
}

impl Seen {
    /// Returns one read. Without a `source`, the rule allows the response to be stale.
    pub fn once(source: Option<Source>, begin: Duration, end: Duration) -> Self {
        Self {
            latest_from_store: (source == Some(Source::Store)).then_some(begin),
            latest_from_database: (source == Some(Source::Database)).then_some(begin),
            earliest_end: Some(end),
        }
    }

    /// Adds other reads of the same version.
    pub fn add(&mut self, other: Self) {
        self.latest_from_store = self.latest_from_store.max(other.latest_from_store);
        self.latest_from_database = self.latest_from_database.max(other.latest_from_database);
        self.earliest_end = match (self.earliest_end, other.earliest_end) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }

    /// Returns operations that violate a law exactly if one of the reads does.
    pub fn operations(self, id: u64, key: u32, process: Process, version: u64) -> impl Iterator<Item = Operation> {
        let read = move |source, begin, end| {
            let ending = Ending::Read { version, source };
            Operation { id, key, process, begin, end, ending }
        };
        [
            self.latest_from_store.map(|begin| read(Source::Store, begin, Duration::MAX)),
            self.latest_from_database.map(|begin| read(Source::Database, begin, Duration::MAX)),
            // Begins before every write, so that only its end counts.
            self.earliest_end.map(|end| read(Source::Database, Duration::ZERO, end)),
        ]
        .into_iter()
        .flatten()
    }
}

/// The reads of many stores, by store, register and version.
#[derive(Debug, Default)]
pub struct Summary(HashMap<(Process, u32, u64), Seen>);

impl Summary {
    pub fn add(&mut self, process: Process, key: u32, version: u64, seen: Seen) {
        self.0.entry((process, key, version)).or_default().add(seen);
    }

    /// Returns operations that violate a law exactly if one of the reads does. Their numbers begin at [`FIRST_SUMMED`].
    pub fn operations(&self) -> impl Iterator<Item = Operation> {
        let numbered = self.0.iter().zip(FIRST_SUMMED..);
        numbered.flat_map(|((&(process, key, version), seen), id)| seen.operations(id, key, process, version))
    }
}

pub mod tests {
    //! A summary violates a law exactly if the reads do.

    use super::{
        super::{
            check::{Guarantee, History, check},
            operation::Commit,
        },
        *,
    };

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// Returns a random history of one register: writes in order, and reads of any version at any time through two stores.
    fn random_history(random: &mut fastrand::Rng) -> History {
        let mut history = History::default();
        let process = |store| Process { node: 0, run: 0, store };
        let mut at = 0;
        for version in 1..=random.u64(1..5) {
            let (begin, commit, end) = (at + 1, at + 1 + random.u64(..5), at + 6 + random.u64(..5));
            at = end;
            let ending = Ending::Written { version, delivered: random.u8(..4) > 0 };
            history.commits.push(Commit { key: 1, version, at: ms(commit), operation: version });
            history.operations.push(Operation {
                id: version,
                key: 1,
                process: process(random.u32(..2)),
                begin: ms(begin),
                end: ms(end),
                ending,
            });
        }
        for id in 100..100 + random.u64(1..6) {
            let begin = random.u64(..at + 20);
            let source = if random.bool() { Source::Store } else { Source::Database };
            let end = ms(begin + random.u64(..5));
            let committed = history.commits.iter().filter(|commit| commit.at < end).count() as u64;
            let version = if random.u8(..8) == 0 { random.u64(..5) } else { committed };
            let ending = Ending::Read { version, source };
            history.operations.push(Operation { id, key: 1, process: process(random.u32(..2)), begin: ms(begin), end, ending });
        }
        history
    }

    pub fn summary_violates_a_law_exactly_if_a_read_does() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut violating = 0;
        for _ in 0..20_000 {
            let history = random_history(&mut random);
            let (reads, writes): (Vec<_>, Vec<_>) =
                history.operations.iter().cloned().partition(|operation| matches!(operation.ending, Ending::Read { .. }));
            let mut summary = Summary::default();
            for read in &reads {
                let Ending::Read { version, source } = read.ending else { unreachable!("only reads") };
                summary.add(read.process, read.key, version, Seen::once(Some(source), read.begin, read.end));
            }
            let operations = writes.into_iter().chain(summary.operations()).collect();
            let summed = History { operations, commits: history.commits.clone(), ..History::default() };
            let strict = random.bool();
            let prompt = random.bool().then_some(ms(3));
            let guarantee = Guarantee { delta: ms(random.u64(..3)), strict, prompt, fences_last: random.bool() };
            let is_violated = !check(&history, guarantee).is_empty();
            assert_eq!(is_violated, !check(&summed, guarantee).is_empty(), "{guarantee:?}: {history:#?}");
            violating += u32::from(is_violated);
        }
        assert!((2_000..18_000).contains(&violating), "{violating} of 20,000 histories violate a law");
    }
}
