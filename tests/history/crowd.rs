//! Many stores in one process, each with its own connections, memory and clock, and with a client that calls its layers directly.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_response_cache::{
    CacheBody, CacheLayer, CachePolicy, CacheStatus, Clock, InvalidateLayer, Namespace, Outcome, Redis, Rule, Rules, Store,
    invalidate::{InvalidateBody, Invalidation, OnDeliveryTimeout},
    redis::Coherence,
};

use super::{
    clock::HistoryClock,
    load::KEYS,
    node::{self, Database, HOLD, OPERATION, Settings},
    operation::{Process, Source},
    recorder::{self, time_word},
    restamp::Restamp,
    seen::Seen,
};

/// Routes of a store: those of a process, the parts of a response, and responses that are invalidated softly.
const ROUTES: [&str; 5] = ["r", "v", "x", "p", "s"];

/// The place of the parts in [`ROUTES`].
const PARTS: usize = 3;

/// The place of the softly invalidated responses in [`ROUTES`].
const SOFT: usize = 4;

/// The number of the first register that is invalidated softly. The others have the numbers of a process.
const FIRST_SOFT: u32 = 1_000;

/// Lines of a response that is read in parts, and the bytes of each.
const LINES: usize = 64;
const LINE: usize = 16;

/// Shortest pause of a client between two bursts of reads.
const PAUSE: Duration = Duration::from_millis(50);

/// The factor by which a client prolongs a pause that ended late, so that a busy machine keeps its leases.
const REST: u32 = 4;

/// Reads of a burst. Debug builds are slower.
const BURST: usize = if cfg!(debug_assertions) { 8 } else { 256 };

/// Writes per thousand bursts.
const WRITES: u32 = 30;

/// Clients that leave, per hundred writes.
const LEAVING: u32 = 10;

/// The stores of a process, and the place to report to.
#[derive(Clone, Copy, Debug)]
pub struct CrowdSettings {
    pub recorder: SocketAddr,
    pub clock: HistoryClock,
    pub process: Process,
    pub stores: u32,
}

impl CrowdSettings {
    /// Returns the settings as an argument of a command line.
    pub fn to_argument(self) -> String {
        let Self { recorder, clock, process: Process { node, run, .. }, stores } = self;
        format!("--crowd={recorder},{clock},{node},{run},{stores}")
    }

    pub fn from_argument(text: &str) -> Self {
        let mut words = text.split(',');
        let mut word = || words.next().expect("five words");
        let recorder = word().parse().expect("an address");
        let clock = HistoryClock::parse(word()).expect("a clock");
        let node = word().parse().expect("the number of a node");
        let run = word().parse().expect("the number of a run");
        Self { recorder, clock, process: Process { node, run, store: 0 }, stores: word().parse().expect("a number of stores") }
    }
}

/// The stores of a process beside its own.
#[derive(Default)]
pub struct Crowd(Vec<Redis>);

impl Crowd {
    /// Starts the stores and their clients.
    pub async fn start(settings: &Settings, database: &'static Database) -> Self {
        let Some(crowd) = settings.crowd else { return Self::default() };
        let connection = recorder::connect(crowd.recorder).await;
        let (input, mut output) = connection.into_split();
        let (reports, mut lines) = mpsc::unbounded_channel::<String>();
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                let _ = output.write_all(format!("{line} .\n").as_bytes()).await;
            }
        });
        let Process { node, run, .. } = crowd.process;
        let _ = reports.send(format!("process {node} {run} {}", crowd.stores));
        let (orders, order) = watch::channel(Order::Run);
        let (done, mut all_done) = mpsc::unbounded_channel::<()>();
        let (mut stores, mut clocks) = (Vec::new(), Vec::new());
        for number in 1..=crowd.stores {
            // The time of `Ttl` is exact. A clock that is moved is late.
            let is_exact = matches!(settings.coherence, Coherence::Ttl(_));
            let clock = if is_exact { Clock::system() } else { Clock::manual() };
            clocks.extend((!is_exact).then(|| clock.clone()));
            let store = settings.crowd_store(clock, [64 << 10, 8 << 20][number as usize % 2]).await;
            stores.push(store.clone());
            let process = Process { store: number, ..crowd.process };
            let client = Client::new(process, crowd.clock, reports.clone());
            let (rules, order, done) = (rules(settings), order.clone(), done.clone());
            match settings.restamp {
                true => tokio::spawn(client.run(service(Restamp(store), rules, database), order, done)),
                false => tokio::spawn(client.run(service(store, rules, database), order, done)),
            };
        }
        if !clocks.is_empty() {
            tokio::spawn(run_clocks(clocks));
        }
        tokio::spawn(async move {
            let mut lines = BufReader::new(input).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let (order, report) = match &*line {
                    "stop" => (Order::Stop, "stopped"),
                    "look" => (Order::Look, "looked"),
                    other => panic!("{other:?} is no order"),
                };
                orders.send_replace(order);
                for _ in 0..crowd.stores {
                    all_done.recv().await;
                }
                let _ = reports.send(report.to_owned());
            }
        });
        Self(stores)
    }

    /// Returns the number of invalidations that are not delivered yet.
    pub fn waiting(&self) -> usize {
        self.0.iter().map(Redis::waiting).sum()
    }
}

/// What the clients have to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Run,
    Stop,
    /// Read every register on every route.
    Look,
}

/// Moves clocks with time, and sets one of them ahead or back now and then.
async fn run_clocks(clocks: Vec<Clock>) {
    const DAY: u64 = 24 * 3600;
    let start = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        sleep(Duration::from_millis(fastrand::u64(1..10))).await;
        let time = start.elapsed();
        clocks.iter().for_each(|clock| clock.advance(time - told));
        told = time;
        if fastrand::u32(..100) == 0 {
            let shift = Duration::from_secs([30, 3600, DAY][fastrand::usize(..3)]);
            let now = SystemTime::now();
            clocks[fastrand::usize(..clocks.len())].set(if fastrand::bool() { now + shift } else { now - shift });
        }
    }
}

fn rules(settings: &Settings) -> Rules {
    let names = if settings.one_namespace { "row" } else { "row:{key}" };
    let lifetime = Duration::from_secs(60);
    let soft = Rule::ttl(lifetime).stale_while_revalidate(Duration::from_millis(300)).namespace("soft:{key}");
    node::rules(settings).route("/p/{key}", Rule::ttl(lifetime).namespace(names)).route("/s/{key}", soft.invalidates_softly())
}

/// The service of a store.
trait Cached:
    Service<Request<Full<Bytes>>, Response = Response<InvalidateBody<CacheBody<Full<Bytes>>>>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Cached for S where
    S: Service<
            Request<Full<Bytes>>,
            Response = Response<InvalidateBody<CacheBody<Full<Bytes>>>>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static
{
}

/// Returns the layers of a process over a handler of all routes.
fn service<St: Store>(store: St, rules: Rules, database: &'static Database) -> impl Cached {
    let invalidate = InvalidateLayer::new(store.clone()).rules(rules.clone());
    ServiceBuilder::new()
        .layer(invalidate.delivery_timeout(HOLD, OnDeliveryTimeout::Respond))
        .layer(CacheLayer::new(store).rules(rules).status_extension(true))
        .service(service_fn(move |request| handle(request, database)))
}

/// The handler: a register, from the database.
async fn handle(request: Request<Full<Bytes>>, database: &'static Database) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut segments = request.uri().path().split('/').skip(1);
    let route = segments.next().expect("a route");
    let key: u32 = segments.next().and_then(|key| key.parse().ok()).expect("a register");
    let register = if route == ROUTES[SOFT] { key + FIRST_SOFT } else { key };
    let version = match *request.method() {
        Method::GET => version(database, format!("read {register}\n")).await,
        _ => {
            let operation = request.headers()[OPERATION].to_str().expect("a number");
            database.during(version(database, format!("write {register} {operation}\n"))).await
        }
    };
    let Ok(version) = version else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    };
    let line = format!("{:<width$}\n", format!("{register} {version}"), width = LINE - 1);
    let lines = if route == ROUTES[PARTS] { LINES } else { 1 };
    let mut response = Response::new(Full::from(line.repeat(lines)));
    if route == "v" {
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", &key.to_string()])));
    }
    Ok(response)
}

/// Executes a statement, with the work of a handler around it.
async fn version(database: &Database, statement: String) -> std::io::Result<u64> {
    node::pause().await;
    let version = database.query(&statement).await?;
    node::pause().await;
    Ok(version.trim().parse().expect("the database returns a version"))
}

/// The client of a store.
struct Client {
    process: Process,
    clock: HistoryClock,
    reports: mpsc::UnboundedSender<String>,
    /// What was read since the last report, by register and version, with the numbers of reads and of hits.
    seen: HashMap<(u32, u64), (Seen, u64, u64)>,
    /// The addresses of all registers, by route.
    addresses: [Vec<Uri>; ROUTES.len()],
    operations: u64,
}

/// A response that was read.
struct Answer {
    version: u64,
    /// `None` if the rule allows the response to be stale.
    source: Option<Source>,
    is_hit: bool,
}

impl Client {
    fn new(process: Process, clock: HistoryClock, reports: mpsc::UnboundedSender<String>) -> Self {
        let uri = |route: &str, key: u32| format!("/{route}/{key}").parse().expect("a path");
        let addresses = ROUTES.map(|route| (0..KEYS).map(|key| uri(route, key)).collect());
        Self { process, clock, reports, seen: HashMap::new(), addresses, operations: 0 }
    }

    /// Reads and writes until it is told to stop, and reads everything when it is told to look. Reports that it is `done` after each.
    async fn run(mut self, service: impl Cached, mut order: watch::Receiver<Order>, done: mpsc::UnboundedSender<()>) {
        let mut late = Duration::ZERO;
        while *order.borrow() == Order::Run {
            for _ in 0..BURST {
                let (route, key) = (fastrand::usize(..ROUTES.len()), fastrand::u32(..KEYS).min(fastrand::u32(..KEYS)));
                self.read(&service, route, key).await;
            }
            if fastrand::u32(..1_000) < WRITES {
                self.write(&service, fastrand::u32(..KEYS).min(fastrand::u32(..KEYS))).await;
            }
            self.report_seen();
            let pause = PAUSE.mul_f64(fastrand::f64() + 0.5) + (late * REST).min(Duration::from_millis(500));
            let begin = Instant::now();
            sleep(pause).await;
            late = begin.elapsed() - pause;
        }
        let _ = done.send(());
        if order.wait_for(|order| *order == Order::Look).await.is_ok() {
            self.look(&service).await;
            let _ = done.send(());
        }
    }

    fn report(&self, line: String) {
        let _ = self.reports.send(line);
    }

    fn report_seen(&mut self) {
        for ((key, version), (seen, reads, hits)) in self.seen.drain() {
            let [store, database, end] = [seen.latest_from_store, seen.latest_from_database, seen.earliest_end].map(time_word);
            let line = format!("seen {} {key} {version} {store} {database} {end} {reads} {hits}", self.process.store);
            let _ = self.reports.send(line);
        }
    }

    fn report_operation(&self, id: u64, key: u32, (begin, end): (Duration, Duration), ending: &str) {
        let [begin, end] = [begin, end].map(|time| time.as_nanos());
        self.report(format!("operation {} {id} {key} {begin} {end} {ending}", self.process.store));
    }

    /// Returns the number of a new operation, which no other client has.
    fn number(&mut self) -> u64 {
        self.operations += 1;
        let Process { node, run, store } = self.process;
        ((node as u64 + 1) << 56) | (u64::from(run) << 44) | (u64::from(store) << 32) | self.operations
    }

    async fn read(&mut self, service: &impl Cached, route: usize, key: u32) {
        let register = if route == SOFT { key + FIRST_SOFT } else { key };
        let (begin, answer) = (self.clock.elapsed(), self.answer(service, route, key).await);
        let end = self.clock.elapsed();
        match answer {
            Ok(Answer { version, source, is_hit }) => {
                let (seen, reads, hits) = self.seen.entry((register, version)).or_default();
                seen.add(Seen::once(source, begin, end));
                *reads += 1;
                *hits += u64::from(is_hit);
            }
            Err(error) => {
                let id = self.number();
                self.report_operation(id, register, (begin, end), &format!("failed {error}"));
            }
        }
    }

    async fn answer(&self, service: &impl Cached, route: usize, key: u32) -> Result<Answer, String> {
        let register = if route == SOFT { key + FIRST_SOFT } else { key };
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.addresses[route][key as usize].clone();
        if route == PARTS && fastrand::bool() {
            let first = fastrand::usize(..LINE * (LINES - 3));
            let range = format!("bytes={first}-{}", first + 2 * LINE);
            request.headers_mut().insert(header::RANGE, range.try_into().expect("a field value"));
        }
        let is_part = request.headers().contains_key(header::RANGE);
        let response = service.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        if !head.status.is_success() {
            return Err(format!("{}", head.status));
        }
        let outcome = head.extensions.get::<CacheStatus>().map(|status| status.outcome());
        let is_hit = matches!(outcome, Some(Outcome::Hit | Outcome::Stale(_) | Outcome::Collapsed));
        let source = match outcome {
            Some(Outcome::Stale(_)) if route == SOFT => None,
            _ if is_hit => Some(Source::Store),
            _ => Some(Source::Database),
        };
        // A part of the response begins within a line and ends within another.
        let cuts = is_part && head.status == StatusCode::PARTIAL_CONTENT;
        let version = only_version(&body, register, cuts).ok_or_else(|| format!("the response is {body:?}"))?;
        Ok(Answer { version, source, is_hit })
    }

    /// Writes a register, by hard or by soft invalidation. Some clients leave before the response.
    async fn write(&mut self, service: &impl Cached, key: u32) {
        let route = if fastrand::u8(..4) == 0 { SOFT } else { 0 };
        let register = if route == SOFT { key + FIRST_SOFT } else { key };
        let id = self.number();
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.addresses[route][key as usize].clone();
        request.headers_mut().insert(OPERATION, id.into());
        let begin = self.clock.elapsed();
        let answer = service.clone().oneshot(request);
        let answer = match fastrand::u32(..100) < LEAVING {
            true => timeout(Duration::from_micros(fastrand::u64(100..15_000)), answer).await.ok(),
            false => Some(answer.await),
        };
        let ending = match answer {
            None => "disconnected".to_owned(),
            Some(response) => {
                let (head, body) = response.unwrap_or_else(|never| match never {}).into_parts();
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let invalidation = head.extensions.get::<Invalidation>().copied();
                match (invalidation, only_version(&body, register, false)) {
                    (Some(Invalidation::NotFenced), _) => "not-fenced".to_owned(),
                    (Some(Invalidation::Delivered), Some(version)) => format!("delivered {version}"),
                    (Some(_), Some(version)) => format!("undelivered {version}"),
                    _ => format!("failed {} {invalidation:?} {body:?}", head.status),
                }
            }
        };
        self.report_operation(id, register, (begin, self.clock.elapsed()), &ending);
    }

    /// Reads every register on every route.
    async fn look(&mut self, service: &impl Cached) {
        for (route, name) in ROUTES.into_iter().enumerate() {
            for key in 0..KEYS {
                let register = if route == SOFT { key + FIRST_SOFT } else { key };
                match self.answer(service, route, key).await {
                    Ok(Answer { source: None, .. }) => {}
                    Ok(Answer { version, .. }) => {
                        self.report(format!("last {} {name} {register} {version}", self.process.store));
                    }
                    Err(error) => {
                        let (id, now) = (self.number(), self.clock.elapsed());
                        self.report_operation(id, register, (now, now), &format!("failed {error}"));
                    }
                }
            }
        }
    }
}

/// Returns the version in all lines of a response. Of a part that `cuts` lines, only whole lines count.
fn only_version(body: &[u8], register: u32, cuts: bool) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let mut lines = text.split('\n').collect::<Vec<_>>();
    // After the last line end, or a line that was cut.
    lines.pop();
    let lines = if cuts { &lines[1..] } else { &lines[..] };
    let (first, others) = lines.split_first()?;
    let (of, version) = first.trim_end().split_once(' ')?;
    (of.parse() == Ok(register) && others.iter().all(|line| line == first)).then(|| version.parse().ok())?
}
