//! The environment of a run: Redis, a forwarder in front of it for each process, the database, the processes and their clients.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tower_response_cache::redis::Coherence;

use super::{
    check::{self, Guarantee, History, Kill, Violation},
    clock::HistoryClock,
    cluster,
    crowd::CrowdSettings,
    database::Database,
    faults::server,
    load::{Clients, KEYS, Load, Mix, ROUTES},
    node::{HOLD, Heartbeat, Settings},
    operation::{Ending, Operation, Process, Source},
    proxies::{self, ProxySettings, start_origin},
    recorder::{LastRead, Recorder},
    report::{CrowdReport, Report},
    rig::{Forwarder, Server, until},
    shifted::ShiftedClock,
};

/// Number of processes.
pub const NODES: usize = 3;

/// Lifetime of a fence whose writer was killed: the minimum.
pub const FENCE: Duration = Duration::from_secs(1);

/// Time after its commit in which a write must be visible, in addition to Δ.
const PROMPT: Duration = Duration::from_millis(500);

/// Required number of hits of a run.
const ENOUGH: u64 = 100;

/// The configuration of a run, and its guarantee.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub coherence: Coherence,
    pub strict: bool,
    /// Another guarantee to check the run against, to show that the checker reports the difference.
    pub checked_against: Option<Guarantee>,
    pub trust: bool,
    pub restamp: bool,
    /// All registers belong to one namespace, which every write invalidates.
    pub one_namespace: bool,
    /// Frequent invalidations wait for a push that all processes share.
    pub gathers: bool,
    pub cluster: bool,
    /// The processes are those of `examples/proxy`, and the database is their origin.
    pub proxies: bool,
    /// Lifetime of the lock of a fill whose owner is lost.
    pub lock: Duration,
    pub heartbeat: Heartbeat,
    /// Further stores in each process, with clients of their own.
    pub stores: u32,
    /// The number of reads of the further stores after which a run may end.
    pub reads: u64,
    /// Redis is always reachable for every process.
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
            checked_against: None,
            trust: false,
            restamp: false,
            one_namespace: false,
            gathers: false,
            cluster: false,
            proxies: false,
            lock: Duration::from_secs(1),
            heartbeat: Heartbeat { interval: Duration::from_millis(20), round_trip: Duration::from_millis(60) },
            stores: 0,
            reads: 0,
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

    /// Frequent invalidations wait for a push that all processes share. There are enough writes for that.
    pub fn gathering(mut self) -> Self {
        self.mix.writes = 120;
        self.mix.clients = 24;
        Self { gathers: true, ..self }
    }

    /// The processes are proxies. Strict ones fence only the address of a write: the response names the others.
    pub fn of_proxies(self) -> Self {
        let routes = if self.strict { &ROUTES[..1] } else { &ROUTES };
        Self { proxies: true, heartbeat: proxies::HEARTBEAT, mix: Mix { routes, ..self.mix }, ..self }
    }

    /// Redis is down at times.
    pub fn with_outages(self) -> Self {
        Self { redis_is_there: false, ..self }
    }

    /// Redis is down at times, and may have lost fences afterwards.
    pub fn with_lost_fences(self) -> Self {
        Self { redis_is_there: false, loses_fences: true, ..self }
    }

    /// Further stores in each process, until they have served a number of reads. Busy processes need a longer lease.
    pub fn with_crowds(self, stores: u32, reads: u64) -> Self {
        let heartbeat = Heartbeat { interval: Duration::from_millis(50), round_trip: Duration::from_millis(150) };
        let mix = Mix { clients: 4, ..self.mix };
        Self { heartbeat, stores, reads, mix, ..self }
    }

    /// A lock that is not released outlasts the run.
    pub fn with_long_locks(self) -> Self {
        Self { lock: Duration::from_secs(300), ..self }
    }

    pub fn guarantee(&self) -> Guarantee {
        self.checked_against.unwrap_or_else(|| self.own_guarantee())
    }

    fn own_guarantee(&self) -> Guarantee {
        let delta = match self.coherence {
            Coherence::Ttl(ttl) => ttl,
            Coherence::Leased => self.heartbeat.delta(),
            _ => Duration::ZERO,
        };
        Guarantee { delta, strict: self.strict, prompt: self.redis_is_there.then_some(PROMPT), fences_last: !self.loses_fences }
    }
}

/// The program of a process.
enum Program {
    Node(Settings),
    Proxy(ProxySettings),
}

impl Program {
    fn command(&self, process: Process) -> Command {
        let settings = match self {
            Self::Node(settings) => settings,
            Self::Proxy(settings) => return settings.command(),
        };
        // In every other process, responses are hot at once, so that both paths of a hit meet every fault.
        let crowd = settings.crowd.map(|crowd| CrowdSettings { process, ..crowd });
        let settings = Settings { hot: process.node % 2 == 1, crowd, ..settings.clone() };
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.args(settings.to_arguments());
        command
    }
}

/// A running process of the application; dropping this kills it.
struct Node {
    child: Child,
    /// Standard input of the process. Closing it ends the process.
    _input: ChildStdin,
    process: Process,
    /// Its wall clock, if that is wrong.
    clock: Option<ShiftedClock>,
}

impl Node {
    /// Starts the process, under a wall clock that is wrong by some seconds if given.
    async fn start(program: &Program, process: Process, clients: &Clients, clock_shifts: Option<i64>) -> Self {
        let mut command = program.command(process);
        let clock = clock_shifts.map(ShiftedClock::by);
        clock.iter().for_each(|clock| clock.apply_to(&mut command));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program can be started");
        let (input, lines) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut address = String::new();
        let read = tokio::task::spawn_blocking(move || BufReader::new(lines).read_line(&mut address).map(|_| address));
        let line = read.await.expect("no panic").expect("a process that listens");
        let address = line.trim().trim_start_matches("listening on ").to_owned();
        assert!(!address.is_empty(), "node {process:?} has ended at once");
        clients.targets.set(address, process);
        Self { child, _input: input, process, clock }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(name: &str, child: &Child) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
}

/// The running environment.
pub struct Environment {
    pub plan: Plan,
    /// One server, or all nodes of a cluster.
    pub redis: Vec<Server>,
    /// Forwarders from each process to Redis. Without them in a cluster, whose addresses clients discover themselves.
    pub forwarders: Vec<Forwarder>,
    pub random: fastrand::Rng,
    pub clients: Arc<Clients>,
    pub database: Database,
    recorder: Recorder,
    programs: Vec<Program>,
    /// Errors of the wall clocks of the processes, in seconds.
    clock_shifts: [Option<i64>; NODES],
    nodes: Vec<Node>,
    kills: Vec<Kill>,
    /// Operations of the faults.
    pub operations: Vec<Operation>,
}

impl Environment {
    pub async fn start(plan: Plan, seed: u64) -> Self {
        let (redis, forwarders, urls): (_, Vec<_>, Vec<_>) = if plan.cluster {
            let redis = cluster::start().await;
            let urls: Vec<String> = redis.iter().map(Server::url).collect();
            (redis, Vec::new(), vec![urls; NODES])
        } else {
            let redis = server().await;
            let forwarders: Vec<_> = (0..NODES).map(|_| Forwarder::start(([127, 0, 0, 1], redis.port()).into())).collect();
            let urls = forwarders.iter().map(|forwarder| vec![forwarder.url()]).collect();
            (vec![redis], forwarders, urls)
        };
        let clock = HistoryClock::start();
        let database = Database::start(clock, seed).await;
        let recorder = Recorder::start().await;
        let process = Process { node: 0, run: 0, store: 0 };
        let crowd = CrowdSettings { recorder: recorder.address, clock, process, stores: plan.stores };
        let clients = Arc::new(Clients::new(clock, plan.proxies));
        let origin = if plan.proxies { Some(start_origin(database.clone()).await) } else { None };
        let strict = plan.strict.then_some(FENCE);
        let program = |redis: Vec<String>| match origin {
            Some(origin) => {
                let redis = redis[0].clone();
                Program::Proxy(ProxySettings { origin, redis, coherence: plan.coherence, strict })
            }
            None => Program::Node(Settings {
                database: database.address(),
                redis,
                cluster: plan.cluster,
                coherence: plan.coherence,
                strict,
                trust: plan.trust,
                restamp: plan.restamp,
                one_namespace: plan.one_namespace,
                gathers: plan.gathers,
                hot: false,
                lock: plan.lock,
                heartbeat: plan.heartbeat,
                crowd: (plan.stores > 0).then_some(crowd),
            }),
        };
        let programs: Vec<Program> = urls.into_iter().map(program).collect();
        let mut nodes = Vec::new();
        for (node, program) in programs.iter().enumerate() {
            nodes.push(Node::start(program, Process { node, run: 0, store: 0 }, &clients, None).await);
        }
        let random = fastrand::Rng::with_seed(seed);
        Self {
            plan,
            redis,
            forwarders,
            random,
            clients,
            database,
            recorder,
            programs,
            nodes,
            clock_shifts: [None; NODES],
            kills: Vec::new(),
            operations: Vec::new(),
        }
    }

    /// Kills a process and starts another in its place.
    pub async fn kill(&mut self, node: usize) {
        let process = self.nodes[node].process;
        self.kills.push(Kill { process, at: self.clients.clock.elapsed() });
        let _ = self.nodes[node].child.kill();
        let _ = self.nodes[node].child.wait();
        let next = Process { run: process.run + 1, ..process };
        self.nodes[node] = Node::start(&self.programs[node], next, &self.clients, self.clock_shifts[node]).await;
    }

    /// Stops a process for a while, as a machine does that is suspended or overloaded.
    pub async fn pause(&mut self, time: std::ops::Range<u64>) {
        let node = self.random.usize(..NODES);
        signal("STOP", &self.nodes[node].child);
        self.wait(time).await;
        signal("CONT", &self.nodes[node].child);
    }

    /// Gives a process a wrong or a right wall clock, from its start or while it runs.
    pub async fn shift(&mut self) {
        const DAY: i64 = 24 * 3600;
        let node = self.random.usize(..NODES);
        let seconds = [-DAY, -3600, -30, 0, 30, 3600, DAY][self.random.usize(..7)];
        let clock_shifts = self.clock_shifts[node].replace(seconds);
        match &self.nodes[node].clock {
            Some(clock) if clock_shifts.is_some() && self.random.bool() => clock.set(seconds),
            _ => self.kill(node).await,
        }
    }

    /// Waits for a random number of milliseconds from a range.
    pub async fn wait(&mut self, time: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(time))).await;
    }

    /// Runs clients while `faults` runs, waits until all operations have ended, and checks the history.
    pub async fn run(mut self, faults: impl AsyncFnOnce(&mut Self)) -> Report {
        let load = Load::start(&self.clients, self.plan.mix, &mut self.random);
        faults(&mut self).await;
        // A cache that never hits proves nothing.
        until("the stores have served enough hits", async || self.clients.hits() + self.recorder.counts().1 >= ENOUGH).await;
        self.recorder.stop().await;
        let mut operations = load.finish().await;
        operations.append(&mut self.operations);
        self.settle().await;
        let reports = self.recorder.finish().await;
        operations.extend(reports.operations);
        operations.extend(reports.summary.operations());
        let history = History { operations, commits: self.database.log(), kills: self.kills.clone() };
        let mut violations = check::check(&history, self.plan.guarantee());
        violations.extend(self.check_settled(&history).await);
        violations.extend(self.check_last_reads(&history, &reports.last_reads));
        let crowd = CrowdReport { stores: reports.stores, reads: reports.reads, hits: reports.hits };
        Report::of(&history, self.plan.guarantee(), violations, crowd)
    }

    /// Returns whether the further stores have served as many reads as the plan asks for.
    pub fn has_enough_reads(&self) -> bool {
        self.recorder.counts().0 >= self.plan.reads
    }

    /// Checks the reads of further stores at the end: no response may be older than the last write (I2).
    fn check_last_reads(&self, history: &History, reads: &[LastRead]) -> Vec<Violation> {
        let newest: HashMap<u32, u64> = check::settled(history, self.plan.guarantee());
        let outdated = |read: &&LastRead| {
            let newest = newest.get(&read.key).copied().unwrap_or(0);
            read.version < newest || read.version > self.database.version(read.key)
        };
        let outdated = reads.iter().filter(outdated);
        outdated
            .map(|read| {
                let newest = newest.get(&read.key).copied().unwrap_or(0);
                let path = format!("/{}/{} of store {}", read.path, read.key, read.process.store);
                Violation::Outdated { node: read.process.node, key: read.key, path, version: read.version, newest }
            })
            .collect()
    }

    /// Waits until no write is running, no invalidation waits, no fence and no lock is left, and Δ has passed.
    async fn settle(&self) {
        if self.plan.proxies {
            // A proxy serves entries while a write waits for its invalidation, but not longer than that.
            until("all writers have finished", async || self.is_quiet().await).await;
            tokio::time::sleep(HOLD).await;
        }
        // Twice, because work that has left one place may not have arrived at the next.
        until("all writers have finished", async || {
            let was_quiet = self.is_quiet().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            was_quiet && self.is_quiet().await
        })
        .await;
        // This staleness is allowed.
        tokio::time::sleep(self.plan.guarantee().delta).await;
    }

    async fn is_quiet(&self) -> bool {
        for node in 0..NODES {
            let is_quiet = match self.plan.proxies {
                true => !self.database.is_busy() && self.all_are_hits(node).await,
                false => self.waiting(node).await == "0",
            };
            if !is_quiet {
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

    /// Returns whether a process serves each register from its store. It does not while an invalidation is undelivered.
    async fn all_are_hits(&self, node: usize) -> bool {
        for route in self.plan.mix.routes {
            for key in 0..KEYS {
                let read = self.clients.read(node, route, key).await;
                if !matches!(read.ending, Ending::Read { source: Source::Store, .. }) {
                    return false;
                }
            }
        }
        true
    }

    /// Returns the number of running handlers and waiting invalidations.
    async fn waiting(&self, node: usize) -> String {
        let (address, _) = self.clients.targets.get(node);
        let request = Request::get(format!("http://{address}/waiting")).body(Empty::<Bytes>::new()).expect("a request");
        self.clients.send(request).await.map(|(_, _, text)| text).unwrap_or_else(|error| error)
    }

    /// Reads every register on every route of every process: no response may be older than the last write (I2), and all routes
    /// must have hits again.
    async fn check_settled(&self, history: &History) -> Vec<Violation> {
        let newest: HashMap<u32, u64> = check::settled(history, self.plan.guarantee());
        let mut violations = Vec::new();
        for node in 0..NODES {
            for route in self.plan.mix.routes {
                for key in 0..KEYS {
                    let read = self.clients.read(node, route, key).await;
                    let newest = newest.get(&key).copied().unwrap_or(0);
                    match read.ending {
                        Ending::Read { version, .. } if version >= newest && version <= self.database.version(key) => {}
                        Ending::Read { version, .. } => {
                            violations.push(Violation::Outdated {
                                node,
                                key,
                                path: format!("/{route}/{key}"),
                                version,
                                newest,
                            });
                        }
                        other => violations.push(Violation::Failed { operation: read.id, reason: format!("{other:?}") }),
                    }
                }
                until("hits are back", async || {
                    matches!(self.clients.read(node, route, 0).await.ending, Ending::Read { source: Source::Store, .. })
                })
                .await;
            }
        }
        violations
    }
}
