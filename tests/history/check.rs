//! The laws, over what has been recorded.

use std::{collections::HashMap, fmt, time::Duration};

use super::{
    database::Commit,
    load::{Ending, Operation, Source},
};

/// What is promised of a run, with the exceptions that the promise itself names.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// By how much a stored response may be stale: Δ under a lease, nothing when validated.
    pub delta: Duration,
    /// Fences: a write counts also if it was acknowledged undelivered, or if its process has died under it (I1), and what is
    /// served is never older than what was served before (I7).
    pub strict: bool,
    /// How long after its commit a write is to be seen by everybody, whether or not its client has waited: where Redis is there.
    pub prompt: Option<Duration>,
    /// Whether the server may have lost fences: by a restart, a failover or an eviction.
    pub fences_last: bool,
}

impl Promise {
    /// Whether a write shows for all although its clearing could not be delivered before it was acknowledged.
    fn fences_hold(self) -> bool {
        self.strict && self.fences_last
    }
}

/// A process that was killed, by the clock of the history.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub process: Process,
    pub at: Duration,
}

/// One run of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub node: usize,
    pub run: u32,
}

/// Everything that is known of a run.
#[derive(Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub commits: Vec<Commit>,
    pub deaths: Vec<Death>,
}

/// What the promise does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// I1: a response older than a write that had been acknowledged.
    Stale { read: u64, key: u32, version: u64, acknowledged: u64, late: Duration },
    /// A response older than a write that had been committed for long.
    Late { read: u64, key: u32, version: u64, committed: u64, late: Duration },
    /// I7: a response older than another before it.
    Backwards { read: u64, key: u32, version: u64, seen: u64 },
    /// I5, or worse: a version that was never committed, or the response of another key.
    Invented { read: u64, key: u32, version: u64 },
    /// A write said to be done that the database does not know in this form.
    Unwritten { write: u64, key: u32, version: u64 },
    /// A request that failed without a reason.
    Failed { operation: u64, why: String },
    /// I2: an old response after all writers have finished.
    Unsettled { node: usize, path: String, version: u64, newest: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { read, key, version, acknowledged, late } => write!(
                f,
                "I1: operation {read} got version {version} of {key}, {late:?} later than the promise allows after version \
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
            Self::Invented { read, key, version } => {
                write!(f, "I5: operation {read} got version {version} of {key}: there is none")
            }
            Self::Unwritten { write, key, version } => {
                write!(f, "operation {write} was told that it wrote version {version} of {key}, which it did not")
            }
            Self::Failed { operation, why } => write!(f, "operation {operation} failed: {why}"),
            Self::Unsettled { node, path, version, newest } => {
                write!(f, "I2: node {node} serves version {version} at {path} when all is over; the newest is {newest}")
            }
        }
    }
}

/// Versions of one key with the moments from which on they count, asked for the newest before a moment.
#[derive(Default)]
struct Floor(Vec<(Duration, u64)>);

impl Floor {
    fn add(&mut self, at: Duration, version: u64) {
        self.0.push((at, version));
    }

    /// To be called once, after the last was added.
    fn settle(&mut self) {
        self.0.sort_unstable();
        let mut newest = 0;
        for (_, version) in &mut self.0 {
            newest = newest.max(*version);
            *version = newest;
        }
    }

    /// The newest version that counts before `moment`.
    fn before(&self, moment: Duration) -> u64 {
        match self.0.partition_point(|(at, _)| *at < moment) {
            0 => 0,
            count => self.0[count - 1].1,
        }
    }

    /// When `version` or a newer one began to count.
    fn since(&self, version: u64) -> Duration {
        self.0.iter().find(|(_, newest)| *newest >= version).map_or(Duration::MAX, |(at, _)| *at)
    }
}

/// What must be seen of one key.
#[derive(Default)]
struct Floors {
    acknowledged: Floor,
    /// The same, by the process that has written: it knows at once.
    by_process: HashMap<Process, Floor>,
    committed: Floor,
    served: Floor,
    commits: Floor,
}

/// All violations of the promise in a history.
pub fn check(history: &History, promise: Promise) -> Vec<Violation> {
    let written: HashMap<u64, Commit> = history.commits.iter().map(|commit| (commit.operation, *commit)).collect();
    let floors = floors(history, promise, &written);
    let none = Floors::default();
    let mut violations = Vec::new();
    for operation in &history.operations {
        let floors = floors.get(&operation.key).unwrap_or(&none);
        match &operation.ending {
            Ending::Read { version, source } => violations.extend(judge(operation, *version, *source, floors, promise)),
            Ending::Written { version, .. } => {
                let done = written.get(&operation.id).is_some_and(|c| c.key == operation.key && c.version == *version);
                if !done {
                    violations.push(Violation::Unwritten { write: operation.id, key: operation.key, version: *version });
                }
            }
            Ending::NotFenced if promise.strict && promise.prompt.is_none() && !written.contains_key(&operation.id) => {}
            Ending::NotFenced => violations.push(failed(operation, "no fence could be set")),
            Ending::Left => {}
            Ending::Failed(why) => {
                if !died_under(history, operation) {
                    violations.push(failed(operation, why));
                }
            }
        }
    }
    violations
}

fn failed(operation: &Operation, why: &str) -> Violation {
    Violation::Failed { operation: operation.id, why: why.to_owned() }
}

/// Whether the process that was asked was killed before the request had failed.
fn died_under(history: &History, operation: &Operation) -> bool {
    history.deaths.iter().any(|death| death.process == operation.process && death.at <= operation.end)
}

fn floors(history: &History, promise: Promise, written: &HashMap<u64, Commit>) -> HashMap<u32, Floors> {
    let mut all: HashMap<u32, Floors> = HashMap::new();
    for commit in &history.commits {
        all.entry(commit.key).or_default().commits.add(commit.at, commit.version);
    }
    for operation in &history.operations {
        let floors = all.entry(operation.key).or_default();
        match &operation.ending {
            Ending::Written { version, delivered } if *delivered || promise.fences_hold() => {
                floors.acknowledged.add(operation.end, *version);
                floors.by_process.entry(operation.process).or_default().add(operation.end, *version);
            }
            Ending::Read { version, .. } => floors.served.add(operation.end, *version),
            _ => {}
        }
        if let (Some(prompt), Some(commit)) = (promise.prompt, written.get(&operation.id))
            && shows(history, operation, promise)
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

/// Whether a write that has committed is promised to show in time: unless it was acknowledged as undelivered, or its process was
/// killed under it, without fences.
fn shows(history: &History, operation: &Operation, promise: Promise) -> bool {
    match &operation.ending {
        Ending::Written { delivered, .. } => *delivered || promise.fences_hold(),
        Ending::Failed(_) => promise.fences_hold(),
        // Whoever leaves does not learn whether the process went on.
        Ending::Left => promise.fences_hold() || !history.deaths.iter().any(|death| death.process == operation.process),
        Ending::Read { .. } | Ending::NotFenced => false,
    }
}

/// What a reader is entitled to.
fn judge(operation: &Operation, version: u64, source: Source, floors: &Floors, promise: Promise) -> Option<Violation> {
    let Operation { id: read, key, begin, end, process, .. } = *operation;
    if version > floors.commits.before(end) {
        return Some(Violation::Invented { read, key, version });
    }
    let since = match source {
        Source::Store => begin.saturating_sub(promise.delta),
        Source::Database => begin,
    };
    let own = floors.by_process.get(&process).map_or(0, |floor| floor.before(begin));
    let acknowledged = floors.acknowledged.before(since).max(own);
    if version < acknowledged {
        let late = begin.saturating_sub(floors.acknowledged.since(version + 1)).saturating_sub(promise.delta);
        return Some(Violation::Stale { read, key, version, acknowledged, late });
    }
    let committed = floors.committed.before(since);
    if version < committed {
        let late = since.saturating_sub(floors.committed.since(version + 1));
        return Some(Violation::Late { read, key, version, committed, late });
    }
    let seen = floors.served.before(since);
    if promise.strict && promise.fences_last && version < seen {
        return Some(Violation::Backwards { read, key, version, seen });
    }
    None
}

/// By how much the stalest stored response was older than what had been acknowledged: what the promise allows, or less.
pub fn stalest(history: &History, promise: Promise) -> Duration {
    let floors = floors(history, promise, &HashMap::new());
    let late = history.operations.iter().filter_map(|operation| {
        let Ending::Read { version, source: Source::Store } = operation.ending else { return None };
        let acknowledged = &floors.get(&operation.key)?.acknowledged;
        let is_stale = version < acknowledged.before(operation.begin);
        is_stale.then(|| operation.begin.saturating_sub(acknowledged.since(version + 1)))
    });
    late.max().unwrap_or_default()
}

/// The newest version of each key that must show once all is over.
pub fn settled(history: &History, promise: Promise) -> HashMap<u32, u64> {
    let written: HashMap<u64, Commit> = history.commits.iter().map(|commit| (commit.operation, *commit)).collect();
    let mut newest = HashMap::new();
    for operation in &history.operations {
        if let Some(commit) = written.get(&operation.id)
            && settles(history, operation, promise)
        {
            let version = newest.entry(commit.key).or_insert(0);
            *version = commit.version.max(*version);
        }
    }
    newest
}

/// Whether it is promised to show in the end: as [`shows`], and what could not be delivered at first, unless its process was killed.
fn settles(history: &History, operation: &Operation, promise: Promise) -> bool {
    let is_undelivered = matches!(operation.ending, Ending::Written { delivered: false, .. });
    let died = history.deaths.iter().any(|death| death.process == operation.process);
    shows(history, operation, promise) || is_undelivered && !died
}

pub mod tests {
    //! The checker itself sees what it is there to see, and nothing else.

    use super::*;

    const P: Process = Process { node: 0, run: 0 };
    const Q: Process = Process { node: 1, run: 0 };

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn operation(id: u64, process: Process, (begin, end): (u64, u64), ending: Ending) -> Operation {
        Operation { id, key: 1, process, begin: ms(begin), end: ms(end), ending }
    }

    fn hit(version: u64) -> Ending {
        Ending::Read { version, source: Source::Store }
    }

    const VALIDATED: Promise = Promise { delta: Duration::ZERO, strict: false, prompt: None, fences_last: true };

    /// Two commits, at 10 and 30 ms, by operations 1 and 2 of `P`, with these endings at 20 and 40 ms; then reads.
    fn history(first: Ending, second: Ending, reads: Vec<Operation>) -> History {
        let commit = |version, at, operation| Commit { key: 1, version, at: ms(at), operation };
        let mut operations = vec![operation(1, P, (5, 20), first), operation(2, P, (25, 40), second)];
        operations.extend(reads);
        History { operations, commits: vec![commit(1, 10, 1), commit(2, 30, 2)], deaths: Vec::new() }
    }

    fn done(version: u64) -> Ending {
        Ending::Written { version, delivered: true }
    }

    fn found(history: &History, promise: Promise) -> Vec<Violation> {
        check(history, promise)
    }

    pub fn a_read_older_than_an_acknowledged_write_is_reported() {
        let of = |begin| history(done(1), done(2), vec![operation(3, Q, (begin, begin + 5), hit(1))]);
        assert!(found(&of(39), VALIDATED).is_empty());
        assert!(matches!(found(&of(41), VALIDATED)[..], [Violation::Stale { read: 3, acknowledged: 2, .. }]));
    }

    pub fn a_lease_allows_exactly_its_delta_and_none_in_the_process_that_wrote() {
        let leased = Promise { delta: ms(50), ..VALIDATED };
        let of = |process, begin| history(done(1), done(2), vec![operation(3, process, (begin, begin + 5), hit(1))]);
        assert!(found(&of(Q, 90), leased).is_empty());
        assert!(matches!(found(&of(Q, 91), leased)[..], [Violation::Stale { .. }]));
        assert!(matches!(found(&of(P, 41), leased)[..], [Violation::Stale { .. }]));
        let mut asked = of(Q, 60);
        asked.operations[2].ending = Ending::Read { version: 1, source: Source::Database };
        assert!(matches!(found(&asked, leased)[..], [Violation::Stale { .. }]));
    }

    pub fn an_undelivered_write_counts_only_behind_a_fence() {
        let of = || {
            let undelivered = Ending::Written { version: 2, delivered: false };
            history(done(1), undelivered, vec![operation(3, Q, (50, 55), hit(1))])
        };
        assert!(found(&of(), VALIDATED).is_empty());
        assert!(!found(&of(), Promise { strict: true, ..VALIDATED }).is_empty());
        assert!(found(&of(), Promise { strict: true, fences_last: false, ..VALIDATED }).is_empty());
    }

    pub fn a_write_whose_client_has_left_must_show_in_time() {
        let prompt = Promise { prompt: Some(ms(500)), ..VALIDATED };
        let of = |begin| history(done(1), Ending::Left, vec![operation(3, Q, (begin, begin + 5), hit(1))]);
        assert!(found(&of(530), prompt).is_empty());
        assert!(matches!(found(&of(531), prompt)[..], [Violation::Late { committed: 2, .. }]));
    }

    pub fn what_was_killed_is_excused_and_counts_only_behind_a_fence() {
        let mut history = history(done(1), Ending::Failed("gone".into()), vec![operation(3, Q, (900, 905), hit(1))]);
        assert!(matches!(found(&history, VALIDATED)[..], [Violation::Failed { operation: 2, .. }]));
        history.deaths.push(Death { process: P, at: ms(35) });
        assert!(found(&history, Promise { prompt: Some(ms(500)), ..VALIDATED }).is_empty());
        assert_eq!(settled(&history, VALIDATED)[&1], 1);
        let strict = Promise { strict: true, prompt: Some(ms(500)), ..VALIDATED };
        assert!(matches!(found(&history, strict)[..], [Violation::Late { .. }]));
        assert_eq!(settled(&history, strict)[&1], 2);
    }

    pub fn what_goes_backwards_is_reported_where_that_is_promised() {
        let of = || {
            let reads = vec![operation(3, Q, (31, 33), hit(2)), operation(4, Q, (34, 36), hit(1))];
            history(done(1), done(2), reads)
        };
        assert!(found(&of(), VALIDATED).is_empty());
        assert!(matches!(
            found(&of(), Promise { strict: true, ..VALIDATED })[..],
            [Violation::Backwards { read: 4, seen: 2, .. }]
        ));
    }

    pub fn a_version_from_nowhere_is_reported() {
        let history = history(done(1), done(1), vec![operation(3, Q, (25, 28), hit(2))]);
        let all = found(&history, VALIDATED);
        assert!(matches!(all[..], [Violation::Unwritten { write: 2, .. }, Violation::Invented { read: 3, version: 2, .. }]));
    }
}
