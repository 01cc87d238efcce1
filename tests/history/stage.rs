//! The stage of a run: Redis, a forwarder before it for each process, the database, the processes and their clients.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tower_response_cache::Coherence;

use super::{
    check::{self, Death, History, Process, Promise, Violation},
    cluster,
    database::Database,
    faults::server,
    load::{Clients, Ending, KEYS, Load, Mix, Operation, ROADS, Source},
    node::{DELTA, Settings},
    rig::{Fault as Way, Forwarder, Server, until},
    shifted::ShiftedClock,
};

/// How many processes there are.
pub const NODES: usize = 3;

/// How long a fence stands after its writer has died: the least that may be set.
pub const FENCE: Duration = Duration::from_secs(1);

/// After its commit a write is to show within this, and Δ.
const PROMPT: Duration = Duration::from_millis(500);

/// How many reads the store has to answer in each run.
const ENOUGH: u64 = 100;

/// What is put on the stage, and what is promised of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub coherence: Coherence,
    pub strict: bool,
    /// Judged by another promise than its own: to show that the checker sees the difference.
    pub judged_by: Option<Promise>,
    pub trust: bool,
    pub restamp: bool,
    /// All registers belong to one namespace, which every write invalidates.
    pub wide: bool,
    pub cluster: bool,
    /// How long the lock of a fill stands whose owner is lost.
    pub lock: Duration,
    /// Redis is there all the time, for everybody.
    pub redis_is_there: bool,
    /// Redis may lose fences.
    pub loses_fences: bool,
    pub mix: Mix,
}

impl Plan {
    pub fn new(coherence: Coherence) -> Self {
        Self {
            coherence,
            strict: false,
            judged_by: None,
            trust: false,
            restamp: false,
            wide: false,
            cluster: false,
            lock: Duration::from_secs(1),
            redis_is_there: true,
            loses_fences: false,
            mix: Mix::default(),
        }
    }

    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    pub fn in_a_cluster(self) -> Self {
        Self { cluster: true, ..self }
    }

    /// Redis goes away now and then.
    pub fn with_absences(self) -> Self {
        Self { redis_is_there: false, ..self }
    }

    /// Redis goes away now and then, and may have lost fences when it is back.
    pub fn with_losses(self) -> Self {
        Self { redis_is_there: false, loses_fences: true, ..self }
    }

    /// A lock that is left to its lease outlasts the run.
    pub fn with_long_locks(self) -> Self {
        Self { lock: Duration::from_secs(300), ..self }
    }

    pub fn promise(&self) -> Promise {
        self.judged_by.unwrap_or_else(|| self.own_promise())
    }

    fn own_promise(&self) -> Promise {
        let delta = match self.coherence {
            Coherence::Ttl(ttl) => ttl,
            Coherence::Leased => DELTA,
            _ => Duration::ZERO,
        };
        Promise { delta, strict: self.strict, prompt: self.redis_is_there.then_some(PROMPT), fences_last: !self.loses_fences }
    }
}

/// A running process of the application; dropping this kills it.
struct Node {
    child: Child,
    /// Closed with the last handle, upon which the process ends by itself.
    _alive: ChildStdin,
    process: Process,
    /// Its wall clock, if that is a wrong one.
    clock: Option<ShiftedClock>,
}

impl Node {
    /// Starts it, under a wall clock that is wrong by so many seconds if it is to be wrong.
    async fn start(settings: &Settings, process: Process, clients: &Clients, wrong: Option<i64>) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        // Every other process has responses at hand from the first: both ways of a hit meet everything that goes wrong.
        let settings = Settings { at_hand: process.node % 2 == 1, ..settings.clone() };
        let mut command = Command::new(program);
        let clock = wrong.map(ShiftedClock::by);
        clock.iter().for_each(|clock| clock.of(&mut command));
        let mut child = command
            .args(settings.to_words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let (alive, said) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut address = String::new();
        let read = tokio::task::spawn_blocking(move || BufReader::new(said).read_line(&mut address).map(|_| address));
        let address = read.await.expect("no panic").expect("a process that listens").trim().to_owned();
        assert!(!address.is_empty(), "node {process:?} has ended at once");
        clients.targets.set(address, process);
        Self { child, _alive: alive, process, clock }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that runs.
pub struct Stage {
    pub plan: Plan,
    /// One, or all nodes of a cluster.
    pub redis: Vec<Server>,
    /// The way of each process to Redis, if that is not a cluster: of that, clients learn the addresses themselves.
    pub ways: Vec<Forwarder>,
    pub random: fastrand::Rng,
    pub clients: Arc<Clients>,
    database: Database,
    settings: Vec<Settings>,
    /// By how many seconds the wall clocks of the processes are wrong.
    wrong: [Option<i64>; NODES],
    nodes: Vec<Node>,
    deaths: Vec<Death>,
    /// Of the faults themselves.
    operations: Vec<Operation>,
}

impl Stage {
    pub async fn start(plan: Plan, seed: u64) -> Self {
        let (redis, ways, urls): (_, Vec<_>, Vec<_>) = if plan.cluster {
            let redis = cluster::start().await;
            let urls: Vec<String> = redis.iter().map(Server::url).collect();
            (redis, Vec::new(), vec![urls; NODES])
        } else {
            let redis = server().await;
            let ways: Vec<_> = (0..NODES).map(|_| Forwarder::start(([127, 0, 0, 1], redis.port()).into())).collect();
            let urls = ways.iter().map(|way| vec![way.url()]).collect();
            (vec![redis], ways, urls)
        };
        let clock = Instant::now();
        let database = Database::start(clock, seed).await;
        let clients = Arc::new(Clients::new(clock));
        let settings: Vec<Settings> = urls
            .into_iter()
            .map(|redis| Settings {
                database: database.address(),
                redis,
                cluster: plan.cluster,
                coherence: plan.coherence,
                strict: plan.strict.then_some(FENCE),
                trust: plan.trust,
                restamp: plan.restamp,
                wide: plan.wide,
                at_hand: false,
                lock: plan.lock,
            })
            .collect();
        let mut nodes = Vec::new();
        for (node, settings) in settings.iter().enumerate() {
            nodes.push(Node::start(settings, Process { node, run: 0 }, &clients, None).await);
        }
        let random = fastrand::Rng::with_seed(seed);
        Self {
            plan,
            redis,
            ways,
            random,
            clients,
            database,
            settings,
            nodes,
            wrong: [None; NODES],
            deaths: Vec::new(),
            operations: Vec::new(),
        }
    }

    /// Kills a process and starts another in its place.
    pub async fn kill(&mut self, node: usize) {
        let process = self.nodes[node].process;
        self.deaths.push(Death { process, at: self.clients.clock.elapsed() });
        let _ = self.nodes[node].child.kill();
        let _ = self.nodes[node].child.wait();
        let next = Process { node, run: process.run + 1 };
        self.nodes[node] = Node::start(&self.settings[node], next, &self.clients, self.wrong[node]).await;
    }

    /// Gives a process a wrong wall clock, or a right one again: from its start, or while it runs.
    pub async fn shift(&mut self) {
        const DAY: i64 = 24 * 3600;
        let node = self.random.usize(..NODES);
        let seconds = [-DAY, -3600, -30, 0, 30, 3600, DAY][self.random.usize(..7)];
        let wrong = self.wrong[node].replace(seconds);
        match &self.nodes[node].clock {
            Some(clock) if wrong.is_some() && self.random.bool() => clock.set(seconds),
            _ => self.kill(node).await,
        }
    }

    /// Writes, and kills the process that does so as soon as the database has committed.
    pub async fn kill_writer(&mut self) {
        // One that is seldom written: the next write, and its clearing, would cover what has happened.
        let (node, key) = (self.random.usize(..NODES), self.random.u32(KEYS / 2..KEYS));
        let id = self.clients.number();
        let write = tokio::spawn({
            let clients = self.clients.clone();
            async move { clients.write(id, node, key, None).await }
        });
        while !self.database.has_committed(id) && !write.is_finished() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        self.kill(node).await;
        self.operations.push(write.await.expect("a client does not panic"));
    }

    /// A process has a register in memory, hears no more of Redis, and is asked again and again after another one has written.
    pub async fn lag(&mut self) {
        let (reader, key) = (self.random.usize(..NODES), self.random.u32(KEYS / 2..KEYS));
        let writer = (reader + self.random.usize(1..NODES)) % NODES;
        let clients = self.clients.clone();
        for _ in 0..2 {
            self.operations.push(clients.read(reader, ROADS[0], key).await);
        }
        self.ways[reader].answers(Way::Stall);
        self.operations.push(clients.write(clients.number(), writer, key, None).await);
        let end = Instant::now() + DELTA * 2;
        while Instant::now() < end {
            self.operations.push(clients.read(reader, ROADS[0], key).await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.ways[reader].answers(Way::Pass);
    }

    /// Lets so much time pass, drawn from a range of milliseconds.
    pub async fn pass(&mut self, time: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(time))).await;
    }

    /// Clients at work while `faults` runs; then waits until all is over, and judges.
    pub async fn run(mut self, faults: impl AsyncFnOnce(&mut Self)) -> Report {
        let load = Load::start(&self.clients, self.plan.mix, &mut self.random);
        faults(&mut self).await;
        // A cache that never hits proves nothing.
        until("enough comes from the store", async || self.clients.hits() >= ENOUGH).await;
        let mut operations = load.finish().await;
        operations.append(&mut self.operations);
        let mut history = History { operations, commits: Vec::new(), deaths: self.deaths.clone() };
        self.settle().await;
        history.commits = self.database.log();
        let mut violations = check::check(&history, self.plan.promise());
        violations.extend(self.unsettled(&history).await);
        Report::of(&history, self.plan.promise(), violations)
    }

    /// Waits until no write is under way, no bump waits, no fence and no lock stands, and nothing is trusted any more that is older.
    async fn settle(&self) {
        // Twice: what has left one place may not have arrived at the next.
        until("all writers have finished", async || {
            let was_quiet = self.is_quiet().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            was_quiet && self.is_quiet().await
        })
        .await;
        // That much staleness is allowed, and it is counted by clocks.
        tokio::time::sleep(self.plan.promise().delta).await;
    }

    async fn is_quiet(&self) -> bool {
        for node in 0..NODES {
            if self.waiting(node).await != "0" {
                return false;
            }
        }
        for server in &self.redis {
            if !server.keys("history*:f:*").await.is_empty() || !server.keys("history*:l:*").await.is_empty() {
                return false;
            }
        }
        !self.database.is_busy()
    }

    /// How many handlers and bumps there are that are not done.
    async fn waiting(&self, node: usize) -> String {
        let (address, _) = self.clients.targets.get(node);
        let request = Request::get(format!("http://{address}/waiting")).body(Empty::<Bytes>::new()).expect("a request");
        self.clients.ask(request).await.map(|(_, _, text)| text).unwrap_or_else(|error| error)
    }

    /// Asks for everything everywhere: nothing may be older than what has been written (I2), and all of it can be had from the
    /// store again.
    async fn unsettled(&self, history: &History) -> Vec<Violation> {
        let newest: HashMap<u32, u64> = check::settled(history, self.plan.promise());
        let mut violations = Vec::new();
        for node in 0..NODES {
            for road in ROADS {
                for key in 0..KEYS {
                    let read = self.clients.read(node, road, key).await;
                    let newest = newest.get(&key).copied().unwrap_or(0);
                    match read.ending {
                        Ending::Read { version, .. } if version >= newest && version <= self.database.version(key) => {}
                        Ending::Read { version, .. } => {
                            violations.push(Violation::Unsettled { node, path: format!("/{road}/{key}"), version, newest });
                        }
                        other => violations.push(Violation::Failed { operation: read.id, why: format!("{other:?}") }),
                    }
                }
                until("hits are back", async || {
                    matches!(self.clients.read(node, road, 0).await.ending, Ending::Read { source: Source::Store, .. })
                })
                .await;
            }
        }
        violations
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    pub violations: Vec<Violation>,
    pub stalest: Duration,
    pub reads: usize,
    pub hits: usize,
    pub writes: usize,
    pub undelivered: usize,
    pub refused: usize,
    pub left: usize,
    /// Writes whose client has left, and which were committed nevertheless.
    pub done_without_client: usize,
    pub failed: usize,
    pub deaths: usize,
}

impl Report {
    fn of(history: &History, promise: Promise, violations: Vec<Violation>) -> Self {
        let count = |is: &dyn Fn(&Ending) -> bool| history.operations.iter().filter(|operation| is(&operation.ending)).count();
        let left: std::collections::HashSet<u64> = history
            .operations
            .iter()
            .filter(|operation| operation.ending == Ending::Left)
            .map(|operation| operation.id)
            .collect();
        Self {
            violations,
            stalest: check::stalest(history, promise),
            reads: count(&|ending| matches!(ending, Ending::Read { .. })),
            hits: count(&|ending| matches!(ending, Ending::Read { source: Source::Store, .. })),
            writes: count(&|ending| matches!(ending, Ending::Written { .. })),
            undelivered: count(&|ending| matches!(ending, Ending::Written { delivered: false, .. })),
            refused: count(&|ending| *ending == Ending::NotFenced),
            left: left.len(),
            done_without_client: history.commits.iter().filter(|commit| left.contains(&commit.operation)).count(),
            failed: count(&|ending| matches!(ending, Ending::Failed(_))),
            deaths: history.deaths.len(),
        }
    }

    pub fn hit_ratio(&self) -> f64 {
        self.hits as f64 / self.reads.max(1) as f64
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            stalest, reads, writes, undelivered, refused, left, done_without_client, failed, deaths, violations, ..
        } = self;
        write!(
            f,
            "{reads} reads, hit ratio {:.2}, the stalest by {stalest:.1?}; {writes} writes acknowledged, {undelivered} of them undelivered, {refused} refused; \
             {left} clients left, {done_without_client} of their writes committed; {deaths} processes killed, {failed} requests \
             failed; {} violations",
            self.hit_ratio(),
            violations.len()
        )
    }
}
