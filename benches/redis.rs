//! Benchmarks of the Redis store: hits compared with a bare `GET`, invalidation of a large namespace, requests during an outage of Redis, and
//! calls of the inner service for cold keys.
//!
//! ```text
//! cargo bench --features redis --bench redis                        # all tables
//! cargo bench --features redis --bench redis -- hits body           # some of: hits, body, invalidation, outage, fills
//! cargo bench --features redis --bench redis -- instructions        # counted by valgrind, which must be installed
//! cargo bench --features redis --bench redis -- count leased 1000   # only this number of hits, for profiling
//! ```
//!
//! The benchmark starts its own `redis-server` on a free port of the loopback interface. A hit is a complete request through `CacheLayer`, with
//! eight header fields, a key of path and query, a rule with a namespace, and a response of 1 KiB whose body is read. Each request is checked to
//! be a hit. Unless a table says otherwise, there is no memory in front of Redis, so each hit sends one command. Concurrent tasks request
//! different entries, so that no two share a command.
//!
//! Contenders take turns in short rounds. The tables show the median of the ratios within a round, so that a slow machine affects all of them
//! equally. The tasks run on two threads of this process. Redis has a thread of its own.
#![allow(missing_docs)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    future::{Future, Ready, ready},
    process::Command,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt, service_fn, util::ServiceFn};
use tower_response_cache::{
    CacheLayer, CacheService, CacheStatus, Outcome, Redis, Rule, Store,
    redis::{Coherence, RedisBuilder},
};

use rig::{CommandLog, Server};

/// The Redis servers of the tests.
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/common/redis/mod.rs"]
mod rig;

#[path = "redis/fills.rs"]
mod fills;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const TASKS: usize = 64;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(300);
const HOUR: Duration = Duration::from_secs(3600);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    match words[..] {
        // `cargo bench` passes `--bench`. `cargo test --benches` only checks that the program starts.
        [] if arguments.is_empty() => println!("run: cargo bench --features redis --bench redis"),
        ["count", name, hits] => count(name, hits.parse().expect("a number of hits")),
        ["instructions"] => instructions(),
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(tables(&words));
        }
    }
}

async fn tables(words: &[&str]) {
    let known = ["hits", "body", "invalidation", "outage", "fills"];
    if let Some(word) = words.iter().find(|word| !known.contains(word)) {
        panic!("{word:?} is not one of {known:?}, instructions and count");
    }
    let wanted = |table| words.is_empty() || words.contains(&table);
    if wanted("hits") {
        hits().await;
    }
    if wanted("body") {
        body().await;
    }
    if wanted("invalidation") {
        invalidation().await;
    }
    if wanted("outage") {
        outage().await;
    }
    if wanted("fills") {
        fills::fills().await;
    }
}

// ---- Contenders --------------------------------------------------------------------------------------------------------

type Plain = Full<Bytes>;
type InnerFuture = Ready<Result<Response<Plain>, Infallible>>;
type Inner = ServiceFn<fn(Request<Plain>) -> InnerFuture>;

/// A client that requests one entry repeatedly.
trait Contender: Clone + Send + 'static {
    /// Requests the entry with this number. Panics on an unexpected response.
    fn request_entry(&mut self, entry: usize) -> impl Future<Output = ()> + Send;
}

/// A client that makes hits through the layer.
#[derive(Clone)]
struct Cached(CacheService<Inner, Redis>);

impl Cached {
    fn new(store: Redis, inner: fn(Request<Plain>) -> InnerFuture) -> Self {
        let layer = CacheLayer::new(store).route("/items/{id}", Rule::ttl(HOUR).namespace("items").max_body(2 * MIB));
        Self(layer.layer(service_fn(inner)))
    }

    /// Sends a request for the entry, reads the response to its end, and returns the outcome.
    async fn outcome(&mut self, entry: usize) -> Outcome {
        let response = self.0.ready().await.expect("ready").call(request(entry)).await.expect("an infallible service");
        assert_eq!(response.status(), StatusCode::OK);
        let outcome = CacheStatus::of(&response).expect("a matching rule").outcome();
        let body = response.into_body().collect().await.expect("a complete body").to_bytes();
        assert!(body.len() >= KIB);
        outcome
    }

    /// Sends requests until the first `entries` are hits. Responses are stored in the background.
    async fn warm(&mut self, entries: usize) {
        for entry in 0..entries {
            rig::until("the entry is stored", async || self.outcome(entry).await == Outcome::Hit).await;
        }
    }
}

impl Contender for Cached {
    async fn request_entry(&mut self, entry: usize) {
        assert_eq!(self.outcome(entry).await, Outcome::Hit);
    }
}

/// A client of the `redis` crate with its default response timeout, without a pool and without decoding.
#[derive(Clone)]
struct Bare {
    connection: MultiplexedConnection,
    /// The keys from_redis by each command, one command per entry.
    keys: Arc<[Vec<String>]>,
}

impl Bare {
    /// Finds the entries stored under this prefix. With `others`, each command is an `MGET` of an entry and these keys.
    async fn new(server: &Server, prefix: &str, others: &[String]) -> Self {
        let keys = server.keys(&format!("{prefix}:*:e:*")).await;
        let keys = keys.into_iter().map(|key| [&[key], others].concat()).collect();
        Self { connection: connection(server).await, keys }
    }
}

impl Contender for Bare {
    async fn request_entry(&mut self, entry: usize) {
        let keys = &self.keys[entry % self.keys.len()];
        let entry: Vec<u8> = match &keys[..] {
            [key] => redis::cmd("GET").arg(key).query_async(&mut self.connection).await.expect("a reply"),
            keys => {
                let all: Vec<Vec<u8>> = redis::cmd("MGET").arg(keys).query_async(&mut self.connection).await.expect("replies");
                all.into_iter().next().expect("a value for each key")
            }
        };
        assert!(entry.len() >= KIB);
    }
}

/// The inner service without a cache.
#[derive(Clone)]
struct NoCache(Inner);

impl Contender for NoCache {
    async fn request_entry(&mut self, entry: usize) {
        let response = self.0.ready().await.expect("ready").call(request(entry)).await.expect("an infallible service");
        assert_eq!(response.status(), StatusCode::OK);
        drop(response.into_body().collect().await);
    }
}

/// Creates a request like a browser's. The fields are cloned, so that creating it costs little.
fn request(entry: usize) -> Request<Plain> {
    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
        let fields = [
            (header::HOST, "shop.example.com"),
            (header::USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            (header::ACCEPT, "application/json, text/plain, */*"),
            (header::ACCEPT_LANGUAGE, "en-GB,en;q=0.5"),
            (header::ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
            (header::REFERER, "https://shop.example.com/items"),
            (HeaderName::from_static("sec-fetch-mode"), "cors"),
            (HeaderName::from_static("sec-fetch-site"), "same-origin"),
        ];
        fields.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
    });
    let mut request = Request::new(Plain::default());
    *request.uri_mut() = format!("/items/{entry}?page=3&sort=asc").parse().expect("a valid target");
    *request.headers_mut() = HEADERS.clone();
    request
}

fn small(_: Request<Plain>) -> InnerFuture {
    ready(Ok(response(Bytes::from_static(&[b'.'; KIB]))))
}

fn large(_: Request<Plain>) -> InnerFuture {
    ready(Ok(response(Bytes::from_static(&[b'.'; MIB]))))
}

fn response(body: Bytes) -> Response<Plain> {
    let mut response = Response::new(Plain::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ETAG, HeaderValue::from_static("\"5f2b6c\""));
    headers.insert(header::LAST_MODIFIED, HeaderValue::from_static("Tue, 14 Jan 2025 10:00:00 GMT"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    headers.insert("x-request-cost", HeaderValue::from_static("3"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    response
}

/// Sets long timeouts, so that leases are held and commands complete even on a busy machine.
fn with_long_timeouts(server: &Server, prefix: &str, coherence: Coherence) -> RedisBuilder {
    Redis::builder(&server.url())
        .prefix(prefix)
        .coherence(coherence)
        .command_timeout(Duration::from_secs(5))
        .max_round_trip(Duration::from_secs(2))
        .require_connection()
}

async fn connection(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("an address");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

// ---- Hits --------------------------------------------------------------------------------------------------------------

/// Returns the requests per second of 64 tasks.
async fn rate(contender: &impl Contender) -> f64 {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for entry in 0..TASKS {
        let mut contender = contender.clone();
        tasks.spawn(async move {
            let mut done = 0_u64;
            while start.elapsed() < ROUND {
                contender.request_entry(entry).await;
                done += 1;
            }
            done
        });
    }
    let done: u64 = tasks.join_all().await.into_iter().sum();
    done as f64 / start.elapsed().as_secs_f64()
}

async fn hits() {
    let server = Server::start().await;
    let leased = with_long_timeouts(&server, "leased", Coherence::Leased).build().await.expect("a store");
    let validated = with_long_timeouts(&server, "validated", Coherence::Validated).build().await.expect("a store");
    let (mut leased, mut validated) = (Cached::new(leased, small), Cached::new(validated, small));
    leased.warm(TASKS).await;
    validated.warm(TASKS).await;
    // The generations of key sets are excluded, because they differ between entries.
    let generations: Vec<String> =
        server.keys("validated:*:g:*").await.into_iter().filter(|key| !key.contains("*keys:")).collect();
    let get = Bare::new(&server, "leased", &[]).await;
    let mget = Bare::new(&server, "validated", &generations).await;

    let mut table = RoundTable::new(&["bare GET", "bare MGET", "leased", "validated"]);
    let mut log = server.command_log().await;
    let mut leased_by: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        for turn in 0..4 {
            let contender = (round + turn) % 4;
            log.take().await;
            let rate = match contender {
                0 => rate(&get).await,
                1 => rate(&mget).await,
                2 => rate(&leased).await,
                _ => rate(&validated).await,
            };
            if contender == 2 {
                log.take().await.into_iter().for_each(|(command, calls)| *leased_by.entry(command).or_default() += calls);
            }
            table.add(contender, rate);
        }
    }
    println!(
        "\nHits of 1 KiB by {TASKS} tasks, one command per hit; MGET reads the entry and {} generations",
        generations.len()
    );
    table.print("per second");
    let gets = leased_by.get("get").copied().unwrap_or(0);
    let mgets = leased_by.get("mget").copied().unwrap_or(0);
    println!("leased hits with a GET of the entry only: {:.2} %", 100.0 * gets as f64 / (gets + mgets) as f64);
    one_command(&mut log, &mut leased, "get").await;
    one_command(&mut log, &mut validated, "mget").await;
}

/// Checks that each hit sends exactly one command, of this name.
async fn one_command(log: &mut CommandLog, contender: &mut Cached, name: &str) {
    const HITS: u64 = 100;
    log.take().await;
    for _ in 0..HITS {
        contender.request_entry(0).await;
    }
    let mut sent = log.take().await;
    // Ignores heartbeats and the query of the log itself.
    sent.retain(|command, _| command != "pexpireat" && command != "info");
    assert_eq!(sent, BTreeMap::from([(name.to_owned(), HITS)]), "one command per hit");
}

async fn body() {
    let server = Server::start().await;
    let make = |prefix: &'static str| with_long_timeouts(&server, prefix, Coherence::Validated);
    let in_memory = make("memory").memory(64 * MIB).build().await.expect("a store");
    let from_redis = make("redis").build().await.expect("a store");
    let (mut in_memory, mut from_redis) = (Cached::new(in_memory, large), Cached::new(from_redis, large));
    in_memory.warm(1).await;
    from_redis.warm(1).await;
    let mut get = Bare::new(&server, "redis", &[]).await;
    let mut table = RoundTable::new(&["bare GET of 1 MiB", "redis", "validated, in memory"]);
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let contender = (round + turn) % 3;
            let time = match contender {
                0 => average_time(&mut get, 20).await,
                1 => average_time(&mut from_redis, 20).await,
                _ => average_time(&mut in_memory, 20).await,
            };
            table.add(contender, time.as_secs_f64() * 1e6);
        }
    }
    println!("\nSequential hits of 1 MiB");
    table.print("µs");
}

/// Returns the average time of sequential requests.
async fn average_time(contender: &mut impl Contender, count: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        contender.request_entry(0).await;
    }
    start.elapsed() / count
}

/// Results of contenders by round, compared with the first contender's.
struct RoundTable {
    names: Vec<&'static str>,
    rounds: Vec<Vec<f64>>,
}

impl RoundTable {
    fn new(names: &[&'static str]) -> Self {
        Self { names: names.to_vec(), rounds: names.iter().map(|_| Vec::new()).collect() }
    }

    fn add(&mut self, contender: usize, value: f64) {
        self.rounds[contender].push(value);
    }

    fn print(&self, unit: &str) {
        println!("{:<26} {unit:>12} {:>10}   quartiles", "", "ratio");
        for (name, values) in self.names.iter().zip(&self.rounds) {
            let ratios: Vec<f64> = values.iter().zip(&self.rounds[0]).map(|(value, first)| value / first).collect();
            let [low, ratio, high] = [0.25, 0.5, 0.75].map(|part| quantile(&ratios, part));
            println!("{name:<26} {:>12.0} {ratio:>10.3}   {low:.3} to {high:.3}", quantile(values, 0.5));
        }
    }
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

// ---- Invalidation ------------------------------------------------------------------------------------------------------

const ENTRIES: usize = 100_000;

async fn invalidation() {
    let server = Server::start().await;
    let store = with_long_timeouts(&server, "invalidation", Coherence::Leased).build().await.expect("a store");
    let mut cached = Cached::new(store.clone(), small);
    let client = redis::Client::open(server.url()).expect("an address");
    // `KEYS` takes longer than the default response timeout.
    let unhurried = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&unhurried).await;
    let mut connection = connection.expect("a connection");
    println!("\nInvalidation of a namespace of {ENTRIES} entries, and the latency of another client's GET, in ms");
    println!("{:<26} {:>12} {:>10} {:>10} {:>10}", "", "took", "GET p50", "p99", "worst");

    fill(&cached).await;
    let (duration, others) = with_probe(&server, async || tokio::time::sleep(Duration::from_millis(100)).await).await;
    row("no operation", duration, &others);

    assert_eq!(cached.outcome(0).await, Outcome::Hit);
    let (duration, others) = with_probe(&server, async || store.invalidate(["items"]).await.expect("an invalidation")).await;
    row("invalidate", duration, &others);
    assert!(matches!(cached.outcome(0).await, Outcome::Miss(_)), "no invalidated entry is served");

    fill(&cached).await;
    let (duration, others) = with_probe(&server, async || {
        let keys: Vec<String> = redis::cmd("KEYS").arg("invalidation:*:e:*").query_async(&mut connection).await.expect("keys");
        let deleted: usize = redis::cmd("DEL").arg(&keys).query_async(&mut connection).await.expect("a count");
        assert!(deleted >= ENTRIES);
    })
    .await;
    row("KEYS and DEL", duration, &others);

    fill(&cached).await;
    let (duration, others) = with_probe(&server, async || {
        let (mut cursor, mut deleted) = (0_u64, 0_usize);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg("invalidation:*:e:*").arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await.expect("keys");
            if !keys.is_empty() {
                deleted += redis::cmd("UNLINK").arg(&keys).query_async::<usize>(&mut connection).await.expect("unlinked");
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        assert!(deleted >= ENTRIES);
    })
    .await;
    row("SCAN 1000 and UNLINK", duration, &others);
}

/// Fills the namespace.
async fn fill(cached: &Cached) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (mut cached, next) = (cached.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let entry = next.fetch_add(1, Ordering::Relaxed);
                if entry >= ENTRIES {
                    return;
                }
                while cached.outcome(entry).await != Outcome::Hit {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    tasks.join_all().await;
}

/// Returns the duration of `work`, and the latencies of another client's `GET`s during the work and 100 ms after it.
async fn with_probe(server: &Server, work: impl AsyncFnOnce()) -> (Duration, Histogram<u64>) {
    const PAUSE: Duration = Duration::from_micros(100);
    let stop = Arc::new(AtomicBool::new(false));
    let client = redis::Client::open(server.url()).expect("an address");
    let (ready, started) = tokio::sync::oneshot::channel();
    let probe = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut connection = client.get_connection().expect("a connection");
            let mut times = Histogram::<u64>::new(3).expect("a histogram");
            let _ = ready.send(());
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                redis::cmd("GET").arg("elsewhere").exec(&mut connection).expect("a reply");
                // Corrects for coordinated omission.
                times.record_correct(nanos(start), 2 * PAUSE.as_nanos() as u64).expect("in range");
                thread::sleep(PAUSE);
            }
            times
        }
    });
    started.await.expect("a connected probe");
    let start = Instant::now();
    work().await;
    let duration = start.elapsed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.store(true, Ordering::Relaxed);
    (duration, probe.join().expect("a result of the probe"))
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

fn row(name: &str, duration: Duration, others: &Histogram<u64>) {
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let (p50, p99) = (ms(others.value_at_quantile(0.5)), ms(others.value_at_quantile(0.99)));
    println!("{name:<26} {:>12.3} {p50:>10.3} {p99:>10.3} {:>10.3}", duration.as_secs_f64() * 1e3, ms(others.max()));
}

// ---- Outage ------------------------------------------------------------------------------------------------------------

/// The duration of the outage.
const OUTAGE: Duration = Duration::from_secs(2);

async fn outage() {
    println!(
        "\nRedis unavailable for {OUTAGE:?}, {TASKS} tasks with a pause of 1 ms between requests, default settings; in ms"
    );
    println!("{:<36} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8}", "", "requests", "errors", "hits", "p50", "p99", "worst");
    for memory in [0, 64 * MIB] {
        let mut server = Server::start().await;
        let store = Redis::builder(&server.url()).memory(memory).build().await.expect("a store");
        let mut cached = Cached::new(store, small);
        cached.warm(TASKS).await;
        let load = Load::start(&cached);
        let front = if memory == 0 { "no memory" } else { "memory" };

        load.report(&format!("{front}: running"), async || tokio::time::sleep(OUTAGE).await).await;
        server.pause();
        load.report(&format!("{front}: stopped (SIGSTOP)"), async || tokio::time::sleep(OUTAGE).await).await;
        server.resume();
        load.report(&format!("{front}: until hits are back"), async || load.until_hits_return().await).await;
        load.report(&format!("{front}: running again"), async || tokio::time::sleep(OUTAGE).await).await;
        server.kill();
        load.report(&format!("{front}: killed"), async || tokio::time::sleep(OUTAGE).await).await;
        server.restart(false).await;
        load.report(&format!("{front}: until hits are back, empty"), async || load.until_hits_return().await).await;
        load.end().await;
    }
}

/// Tasks that send requests continuously.
struct Load {
    observed: Arc<std::sync::Mutex<Observed>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

struct Observed {
    times: Histogram<u64>,
    hits: u64,
    errors: u64,
}

impl Default for Observed {
    fn default() -> Self {
        Self { times: Histogram::new(3).expect("a histogram"), hits: 0, errors: 0 }
    }
}

impl Load {
    fn start(cached: &Cached) -> Self {
        let (observed, stop) = (Arc::<std::sync::Mutex<Observed>>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for entry in 0..TASKS {
            let (mut cached, observed, stop) = (cached.clone(), observed.clone(), stop.clone());
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let response = cached.0.ready().await.expect("ready").call(request(entry)).await.expect("no error");
                    let status = response.status();
                    let outcome = CacheStatus::of(&response).map(|status| status.outcome());
                    let complete = response.into_body().collect().await.is_ok_and(|body| body.to_bytes().len() == KIB);
                    let time = nanos(start);
                    {
                        let mut observed = observed.lock().expect("no poisoned lock");
                        observed.times.record(time).expect("in range");
                        observed.hits += u64::from(outcome == Some(Outcome::Hit));
                        observed.errors += u64::from(status != StatusCode::OK || !complete);
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        Self { observed, stop, tasks }
    }

    /// Prints the results of the requests that ended during `work`, and the duration of `work`.
    async fn report(&self, name: &str, work: impl AsyncFnOnce()) {
        self.take();
        let start = Instant::now();
        work().await;
        let duration = start.elapsed();
        let Observed { times, hits, errors } = self.take();
        let [p50, p99] = [0.5, 0.99].map(|part| times.value_at_quantile(part) as f64 / 1e6);
        let (requests, worst) = (times.len(), times.max() as f64 / 1e6);
        let share = 100.0 * hits as f64 / requests.max(1) as f64;
        println!(
            "{name:<36} {requests:>9} {errors:>7} {share:>6.1} % {p50:>8.3} {p99:>8.3} {worst:>8.3}   took {:.0} ms",
            duration.as_secs_f64() * 1e3
        );
        assert_eq!(errors, 0, "unexpected errors");
    }

    fn take(&self) -> Observed {
        std::mem::take(&mut *self.observed.lock().expect("no poisoned lock"))
    }

    /// Waits until nine in ten requests within 5 ms are hits.
    async fn until_hits_return(&self) {
        let counted = || {
            let observed = self.observed.lock().expect("no poisoned lock");
            (observed.times.len(), observed.hits)
        };
        loop {
            let before = counted();
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = counted();
            if now.0 > before.0 && 10 * (now.1 - before.1) >= 9 * (now.0 - before.0) {
                return;
            }
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

// ---- Instructions ------------------------------------------------------------------------------------------------------

/// Makes sequential hits in a process that callgrind observes.
fn count(name: &str, hits: usize) {
    async fn repeat(mut contender: impl Contender, hits: usize) {
        for _ in 0..hits {
            contender.request_entry(42).await;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = Server::start().await;
        let coherence = if name == "validated" { Coherence::Validated } else { Coherence::Leased };
        // Long timeouts and rare heartbeats, because callgrind slows everything down.
        let builder = with_long_timeouts(&server, "count", coherence)
            .command_timeout(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(1));
        let store = builder.max_round_trip(Duration::from_secs(10)).build().await.expect("a store");
        rig::until("the lease is held", async || store.is_leased() || coherence == Coherence::Validated).await;
        let mut cached = Cached::new(store, small);
        rig::until("the entry is stored", async || cached.outcome(42).await == Outcome::Hit).await;
        let mut log = server.command_log().await;
        match name {
            "inner" => repeat(NoCache(service_fn(small)), hits).await,
            "bare" => repeat(Bare::new(&server, "count", &[]).await, hits).await,
            "leased" | "validated" => repeat(cached, hits).await,
            _ => panic!("{name:?} is not one of inner, bare, leased, validated"),
        }
        let sent = log.take().await;
        let sent_count = |command| sent.get(command).copied().unwrap_or(0) as usize;
        match name {
            "bare" | "leased" => assert_eq!((sent_count("get"), sent_count("mget")), (hits, 0), "one GET per hit"),
            "validated" => assert_eq!((sent_count("get"), sent_count("mget")), (0, hits), "one MGET per hit"),
            _ => {}
        }
    });
}

/// Counts the instructions of one hit in this process. Two runs with different numbers of hits exclude the start of the process.
fn instructions() {
    const FEW: u64 = 500;
    const MANY: u64 = 2500;
    let each = |name: &str| {
        let [few, many] = [FEW, MANY].map(|hits| collected(name, hits));
        many.saturating_sub(few) / (MANY - FEW)
    };
    let base = each("inner");
    println!("\nInstructions per sequential hit of 1 KiB; the request and reading the response take {base}");
    println!("{:<26} {:>12} {:>12} {:>10}", "", "total", "net", "goal");
    let bare = each("bare");
    println!("{:<26} {bare:>12} {bare:>12}", "bare GET");
    for (name, goal) in [("leased", 18_500), ("validated", 22_000)] {
        let total = each(name);
        println!("{name:<26} {total:>12} {:>12} {goal:>10}", total - base);
    }
}

/// Returns the instructions that callgrind counts in a run of this program.
fn collected(name: &str, hits: u64) -> u64 {
    let this = env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["count", name, &hits.to_string()])
        .output()
        .expect("valgrind is installed");
    let output_text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output_text}");
    let line = output_text.lines().find_map(|line| line.split_once("Collected :")).expect("a figure of callgrind");
    line.1.trim().parse().expect("a number")
}
