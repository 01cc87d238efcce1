//! The laws, checked against a recorded history.

use std::{collections::HashMap, fmt, time::Duration};

use super::operation::{Commit, Ending, Operation, Process, Source};

/// The guarantees of a run, with their stated exceptions.
#[derive(Clone, Copy, Debug)]
pub struct Guarantee {
    /// Allowed staleness of a stored response: Δ under a lease, zero when validated.
    pub delta: Duration,
    /// Fences: a write counts even if it was acknowledged undelivered, or if its process was killed (I1), and no response
    /// is older than an earlier one (I7).
    pub strict: bool,
    /// Time after its commit in which a write must be visible, whether or not its client waits: while Redis is reachable.
    pub prompt: Option<Duration>,
    /// Whether the server may have lost fences by a restart, a failover or an eviction.
    pub fences_last: bool,
}

impl Guarantee {
    /// Returns whether a write is visible to all although its invalidation could not be delivered before its acknowledgement.
    fn fences_hold(self) -> bool {
        self.strict && self.fences_last
    }
}

/// A killed process, and the time by the clock of the history.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    pub process: Process,
    pub at: Duration,
}

impl Kill {
    /// Returns whether a process was killed with this one.
    fn ends(&self, process: Process) -> bool {
        (self.process.node, self.process.run) == (process.node, process.run)
    }
}

/// Record of a run.
#[derive(Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub commits: Vec<Commit>,
    pub kills: Vec<Kill>,
}

impl History {
    /// Returns what happened to a register, in order of time, and when processes were killed. Of reads in a row with the same result, only
    /// the first and the last are listed.
    pub fn of_register(&self, key: u32) -> Vec<String> {
        let mut lines: Vec<(Duration, String)> = Vec::new();
        let mut reads: HashMap<Process, Vec<&Operation>> = HashMap::new();
        for operation in self.operations.iter().filter(|operation| operation.key == key) {
            match operation.ending {
                Ending::Read { .. } => reads.entry(operation.process).or_default().push(operation),
                _ => lines.push(operation.line()),
            }
        }
        for reads in reads.values_mut() {
            reads.sort_by_key(|read| read.begin);
            for same in reads.chunk_by(|one, next| one.ending == next.ending) {
                lines.extend(same.first().map(|read| read.line()));
                lines.extend(same.last().filter(|_| same.len() > 1).map(|read| read.line()));
            }
        }
        let commits = self.commits.iter().filter(|commit| commit.key == key);
        lines.extend(
            commits
                .map(|commit| (commit.at, format!("commit of version {} by operation {}", commit.version, commit.operation))),
        );
        lines.extend(
            self.kills.iter().map(|kill| (kill.at, format!("kill of node {}, run {}", kill.process.node, kill.process.run))),
        );
        lines.sort();
        lines.into_iter().map(|(at, what)| format!("{at:>14.3?}  {what}")).collect()
    }
}

/// A violation of the guarantee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// I1: a response older than an acknowledged write.
    Stale { read: u64, key: u32, version: u64, acknowledged: u64, late: Duration },
    /// A response older than a write that was committed long before.
    Late { read: u64, key: u32, version: u64, committed: u64, late: Duration },
    /// I7: a response older than an earlier one.
    Backwards { read: u64, key: u32, version: u64, seen: u64 },
    /// I5: a version that was never committed, or the response of another key.
    Uncommitted { read: u64, key: u32, version: u64 },
    /// An acknowledged write that the database has not executed.
    Unwritten { write: u64, key: u32, version: u64 },
    /// A request that failed without a fault.
    Failed { operation: u64, reason: String },
    /// I2: an outdated response after all writers have finished.
    Outdated { node: usize, key: u32, path: String, version: u64, newest: u64 },
}

impl Violation {
    /// Returns the register, if one is concerned.
    pub fn key(&self) -> Option<u32> {
        match *self {
            Self::Stale { key, .. }
            | Self::Late { key, .. }
            | Self::Backwards { key, .. }
            | Self::Uncommitted { key, .. }
            | Self::Unwritten { key, .. }
            | Self::Outdated { key, .. } => Some(key),
            Self::Failed { .. } => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { read, key, version, acknowledged, late } => write!(
                f,
                "I1: operation {read} got version {version} of {key}, {late:?} later than the guarantee allows after version \
                 {acknowledged} was acknowledged"
            ),
            Self::Late { read, key, version, committed, late } => {
                write!(
                    f,
                    "prompt: operation {read} got version {version} of {key}, {late:?} after version {committed} had to show"
                )
            }
            Self::Backwards { read, key, version, seen } => {
                write!(f, "I7: operation {read} got version {version} of {key} after version {seen} had been served")
            }
            Self::Uncommitted { read, key, version } => {
                write!(f, "I5: operation {read} got version {version} of {key}: there is none")
            }
            Self::Unwritten { write, key, version } => {
                write!(f, "operation {write} was told that it wrote version {version} of {key}, which it did not")
            }
            Self::Failed { operation, reason } => write!(f, "operation {operation} failed: {reason}"),
            Self::Outdated { node, path, version, newest, .. } => {
                write!(f, "I2: node {node} serves version {version} at {path} when all is over; the newest is {newest}")
            }
        }
    }
}

/// Versions of one key, and the times from which on they count.
#[derive(Default)]
struct Floor(Vec<(Duration, u64)>);

impl Floor {
    fn add(&mut self, at: Duration, version: u64) {
        self.0.push((at, version));
    }

    /// Sorts the versions. Must be called once, after the last was added.
    fn settle(&mut self) {
        self.0.sort_unstable();
        let mut newest = 0;
        for (_, version) in &mut self.0 {
            newest = newest.max(*version);
            *version = newest;
        }
    }

    /// Returns the newest version that counts before `moment`.
    fn before(&self, moment: Duration) -> u64 {
        match self.0.partition_point(|(at, _)| *at < moment) {
            0 => 0,
            count => self.0[count - 1].1,
        }
    }

    /// Returns the time from which on `version` or a newer one counts.
    fn since(&self, version: u64) -> Duration {
        self.0.iter().find(|(_, newest)| *newest >= version).map_or(Duration::MAX, |(at, _)| *at)
    }
}

/// Versions of one key that must be visible.
#[derive(Default)]
struct Floors {
    acknowledged: Floor,
    /// Acknowledged versions by writing process, which must see them at once.
    by_process: HashMap<Process, Floor>,
    committed: Floor,
    served: Floor,
    commits: Floor,
}

/// Returns all violations of the guarantee in a history.
pub fn check(history: &History, guarantee: Guarantee) -> Vec<Violation> {
    let written: HashMap<u64, Commit> = history.commits.iter().map(|commit| (commit.operation, *commit)).collect();
    let floors = floors(history, guarantee, &written);
    let none = Floors::default();
    let mut violations = Vec::new();
    for operation in &history.operations {
        let floors = floors.get(&operation.key).unwrap_or(&none);
        match &operation.ending {
            Ending::Read { version, source } => violations.extend(check_read(operation, *version, *source, floors, guarantee)),
            Ending::Written { version, .. } => {
                let done = written.get(&operation.id).is_some_and(|c| c.key == operation.key && c.version == *version);
                if !done {
                    violations.push(Violation::Unwritten { write: operation.id, key: operation.key, version: *version });
                }
            }
            Ending::NotFenced if guarantee.strict && guarantee.prompt.is_none() && !written.contains_key(&operation.id) => {}
            Ending::NotFenced => violations.push(failed(operation, "no fence could be set")),
            Ending::Disconnected | Ending::Lost => {}
            Ending::Failed(reason) => {
                if !killed_during(history, operation) {
                    violations.push(failed(operation, reason));
                }
            }
        }
    }
    violations
}

fn failed(operation: &Operation, reason: &str) -> Violation {
    Violation::Failed { operation: operation.id, reason: reason.to_owned() }
}

/// Returns whether the process was killed before the request failed.
fn killed_during(history: &History, operation: &Operation) -> bool {
    history.kills.iter().any(|kill| kill.ends(operation.process) && kill.at <= operation.end)
}

fn floors(history: &History, guarantee: Guarantee, written: &HashMap<u64, Commit>) -> HashMap<u32, Floors> {
    let mut all: HashMap<u32, Floors> = HashMap::new();
    for commit in &history.commits {
        all.entry(commit.key).or_default().commits.add(commit.at, commit.version);
    }
    for operation in &history.operations {
        let floors = all.entry(operation.key).or_default();
        match &operation.ending {
            Ending::Written { version, delivered } if *delivered || guarantee.fences_hold() => {
                floors.acknowledged.add(operation.end, *version);
                floors.by_process.entry(operation.process).or_default().add(operation.end, *version);
            }
            Ending::Read { version, .. } => floors.served.add(operation.end, *version),
            _ => {}
        }
        if let (Some(prompt), Some(commit)) = (guarantee.prompt, written.get(&operation.id))
            && must_show_in_time(history, operation, guarantee)
        {
            floors.committed.add(commit.at + prompt, commit.version);
        }
    }
    for floors in all.values_mut() {
        let Floors { acknowledged, by_process, committed, served, commits } = floors;
        [acknowledged, committed, served, commits].into_iter().chain(by_process.values_mut()).for_each(Floor::settle);
    }
    all
}

/// Returns whether a committed write must be visible in time: unless it was acknowledged as undelivered, or its process was
/// killed, or its handler has lost its outcome, without fences.
fn must_show_in_time(history: &History, operation: &Operation, guarantee: Guarantee) -> bool {
    match &operation.ending {
        Ending::Written { delivered, .. } => *delivered || guarantee.fences_hold(),
        Ending::Failed(_) | Ending::Lost => guarantee.fences_hold(),
        // A disconnected client does not learn whether the process continued.
        Ending::Disconnected => guarantee.fences_hold() || !history.kills.iter().any(|kill| kill.ends(operation.process)),
        Ending::Read { .. } | Ending::NotFenced => false,
    }
}

/// Checks a response of a read.
fn check_read(operation: &Operation, version: u64, source: Source, floors: &Floors, guarantee: Guarantee) -> Option<Violation> {
    let Operation { id: read, key, begin, end, process, .. } = *operation;
    if version > floors.commits.before(end) {
        return Some(Violation::Uncommitted { read, key, version });
    }
    let since = match source {
        Source::Store => begin.saturating_sub(guarantee.delta),
        Source::Database => begin,
    };
    let own = floors.by_process.get(&process).map_or(0, |floor| floor.before(begin));
    let acknowledged = floors.acknowledged.before(since).max(own);
    if version < acknowledged {
        let late = begin.saturating_sub(floors.acknowledged.since(version + 1)).saturating_sub(guarantee.delta);
        return Some(Violation::Stale { read, key, version, acknowledged, late });
    }
    let committed = floors.committed.before(since);
    if version < committed {
        let late = since.saturating_sub(floors.committed.since(version + 1));
        return Some(Violation::Late { read, key, version, committed, late });
    }
    let seen = floors.served.before(since);
    if guarantee.strict && guarantee.fences_last && version < seen {
        return Some(Violation::Backwards { read, key, version, seen });
    }
    None
}

/// Returns the largest staleness of a stored response.
pub fn stalest(history: &History, guarantee: Guarantee) -> Duration {
    let floors = floors(history, guarantee, &HashMap::new());
    let late = history.operations.iter().filter_map(|operation| {
        let Ending::Read { version, source: Source::Store } = operation.ending else { return None };
        let acknowledged = &floors.get(&operation.key)?.acknowledged;
        let is_stale = version < acknowledged.before(operation.begin);
        is_stale.then(|| operation.begin.saturating_sub(acknowledged.since(version + 1)))
    });
    late.max().unwrap_or_default()
}

/// Returns the newest version of each key that must be visible at the end.
pub fn settled(history: &History, guarantee: Guarantee) -> HashMap<u32, u64> {
    let written: HashMap<u64, Commit> = history.commits.iter().map(|commit| (commit.operation, *commit)).collect();
    let mut newest = HashMap::new();
    for operation in &history.operations {
        if let Some(commit) = written.get(&operation.id)
            && must_show_at_end(history, operation, guarantee)
        {
            let version = newest.entry(commit.key).or_insert(0);
            *version = commit.version.max(*version);
        }
    }
    newest
}

/// Returns whether a write must be visible at the end: as in [`must_show_in_time`], and undelivered writes unless their process
/// was killed.
fn must_show_at_end(history: &History, operation: &Operation, guarantee: Guarantee) -> bool {
    let is_undelivered = matches!(operation.ending, Ending::Written { delivered: false, .. });
    let died = history.kills.iter().any(|kill| kill.ends(operation.process));
    must_show_in_time(history, operation, guarantee) || is_undelivered && !died
}

pub mod tests {
    //! The checker reports violations, and only violations.

    use super::*;

    const P: Process = Process { node: 0, run: 0, store: 0 };
    const Q: Process = Process { node: 1, run: 0, store: 0 };

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn operation(id: u64, process: Process, (begin, end): (u64, u64), ending: Ending) -> Operation {
        Operation { id, key: 1, process, begin: ms(begin), end: ms(end), ending }
    }

    fn hit(version: u64) -> Ending {
        Ending::Read { version, source: Source::Store }
    }

    const VALIDATED: Guarantee = Guarantee { delta: Duration::ZERO, strict: false, prompt: None, fences_last: true };

    /// Returns a history of two commits, at 10 and 30 ms, by operations 1 and 2 of `P`, with these endings at 20 and 40 ms, and
    /// of reads.
    fn history(first: Ending, second: Ending, reads: Vec<Operation>) -> History {
        let commit = |version, at, operation| Commit { key: 1, version, at: ms(at), operation };
        let mut operations = vec![operation(1, P, (5, 20), first), operation(2, P, (25, 40), second)];
        operations.extend(reads);
        History { operations, commits: vec![commit(1, 10, 1), commit(2, 30, 2)], kills: Vec::new() }
    }

    fn done(version: u64) -> Ending {
        Ending::Written { version, delivered: true }
    }

    fn found(history: &History, guarantee: Guarantee) -> Vec<Violation> {
        check(history, guarantee)
    }

    pub fn read_older_than_an_acknowledged_write_is_reported() {
        let of = |begin| history(done(1), done(2), vec![operation(3, Q, (begin, begin + 5), hit(1))]);
        assert!(found(&of(39), VALIDATED).is_empty());
        assert!(matches!(found(&of(41), VALIDATED)[..], [Violation::Stale { read: 3, acknowledged: 2, .. }]));
    }

    pub fn lease_allows_delta_except_in_the_writing_process() {
        let leased = Guarantee { delta: ms(50), ..VALIDATED };
        let of = |process, begin| history(done(1), done(2), vec![operation(3, process, (begin, begin + 5), hit(1))]);
        assert!(found(&of(Q, 90), leased).is_empty());
        assert!(matches!(found(&of(Q, 91), leased)[..], [Violation::Stale { .. }]));
        assert!(matches!(found(&of(P, 41), leased)[..], [Violation::Stale { .. }]));
        let mut asked = of(Q, 60);
        asked.operations[2].ending = Ending::Read { version: 1, source: Source::Database };
        assert!(matches!(found(&asked, leased)[..], [Violation::Stale { .. }]));
    }

    pub fn undelivered_write_counts_only_with_a_fence() {
        let of = || {
            let undelivered = Ending::Written { version: 2, delivered: false };
            history(done(1), undelivered, vec![operation(3, Q, (50, 55), hit(1))])
        };
        assert!(found(&of(), VALIDATED).is_empty());
        assert!(!found(&of(), Guarantee { strict: true, ..VALIDATED }).is_empty());
        assert!(found(&of(), Guarantee { strict: true, fences_last: false, ..VALIDATED }).is_empty());
    }

    pub fn write_of_a_disconnected_client_must_show_in_time() {
        let prompt = Guarantee { prompt: Some(ms(500)), ..VALIDATED };
        let of = |begin| history(done(1), Ending::Disconnected, vec![operation(3, Q, (begin, begin + 5), hit(1))]);
        assert!(found(&of(530), prompt).is_empty());
        assert!(matches!(found(&of(531), prompt)[..], [Violation::Late { committed: 2, .. }]));
    }

    pub fn killed_write_counts_only_with_a_fence() {
        let mut history = history(done(1), Ending::Failed("gone".into()), vec![operation(3, Q, (900, 905), hit(1))]);
        assert!(matches!(found(&history, VALIDATED)[..], [Violation::Failed { operation: 2, .. }]));
        history.kills.push(Kill { process: P, at: ms(35) });
        assert!(found(&history, Guarantee { prompt: Some(ms(500)), ..VALIDATED }).is_empty());
        assert_eq!(settled(&history, VALIDATED)[&1], 1);
        let strict = Guarantee { strict: true, prompt: Some(ms(500)), ..VALIDATED };
        assert!(matches!(found(&history, strict)[..], [Violation::Late { .. }]));
        assert_eq!(settled(&history, strict)[&1], 2);
    }

    pub fn older_response_is_reported_under_strict() {
        let of = || {
            let reads = vec![operation(3, Q, (31, 33), hit(2)), operation(4, Q, (34, 36), hit(1))];
            history(done(1), done(2), reads)
        };
        assert!(found(&of(), VALIDATED).is_empty());
        assert!(matches!(
            found(&of(), Guarantee { strict: true, ..VALIDATED })[..],
            [Violation::Backwards { read: 4, seen: 2, .. }]
        ));
    }

    pub fn uncommitted_version_is_reported() {
        let history = history(done(1), done(1), vec![operation(3, Q, (25, 28), hit(2))]);
        let all = found(&history, VALIDATED);
        assert!(matches!(all[..], [Violation::Unwritten { write: 2, .. }, Violation::Uncommitted { read: 3, version: 2, .. }]));
    }
}
