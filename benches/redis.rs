//! What a hit in Redis costs beside a bare `GET`, what clearing a large namespace does to others, what requests see of a Redis
//! that stops, and how many calls cold keys cost.
//!
//! ```text
//! cargo bench --features redis --bench redis                        # all tables below
//! cargo bench --features redis --bench redis -- hits body           # some of: hits, body, clearing, away, fills
//! cargo bench --features redis --bench redis -- instructions        # counted by valgrind, which has to be there
//! cargo bench --features redis --bench redis -- count leased 1000   # so many hits and nothing else, to profile
//! ```
//!
//! It starts its own `redis-server` on a free port of the loopback interface. A hit is a whole request through `CacheLayer`: eight
//! header fields, a key made of path and query, a rule with a namespace, a response of 1 KiB whose body is read; each is checked
//! to be a hit. Unless a table says otherwise there is no memory in front, so each goes to Redis, by one command; where many
//! tasks ask, each asks for an entry of its own, so that no two share a command.
//!
//! Contenders take turns in short rounds, and what is printed is the median of the ratios within a round: a machine that is
//! slow for a while is slow for all of them. Every task is in this process, on two threads; Redis has one of its own.
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
use tower_response_cache::{CacheLayer, CacheService, CacheStatus, Coherence, Outcome, Redis, RedisBuilder, Rule, Store};

use rig::{CommandLog, Server};

/// The servers of the tests.
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
    let asked: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = asked.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    match words[..] {
        // `cargo bench` says so; anything else, such as `cargo test --benches`, only wants to know that it builds.
        [] if asked.is_empty() => println!("run me with: cargo bench --features redis --bench redis"),
        ["count", who, hits] => count(who, hits.parse().expect("a number of hits")),
        ["instructions"] => instructions(),
        _ => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(tables(&words));
        }
    }
}

async fn tables(words: &[&str]) {
    let known = ["hits", "body", "clearing", "away", "fills"];
    if let Some(word) = words.iter().find(|word| !known.contains(word)) {
        panic!("{word:?} is none of {known:?}, instructions and count");
    }
    let wanted = |table| words.is_empty() || words.contains(&table);
    if wanted("hits") {
        hits().await;
    }
    if wanted("body") {
        body().await;
    }
    if wanted("clearing") {
        clearing().await;
    }
    if wanted("away") {
        away().await;
    }
    if wanted("fills") {
        fills::fills().await;
    }
}

// ---- Who is measured ---------------------------------------------------------------------------------------------------

type Plain = Full<Bytes>;
type Answered = Ready<Result<Response<Plain>, Infallible>>;
type Inner = ServiceFn<fn(Request<Plain>) -> Answered>;

/// One who asks for the same again and again.
trait Contender: Clone + Send + 'static {
    /// Asks for entry `of`, and panics if it is not what was expected.
    fn ask(&mut self, of: usize) -> impl Future<Output = ()> + Send;
}

/// Hits through the layer.
#[derive(Clone)]
struct Cached(CacheService<Inner, Redis>);

impl Cached {
    fn new(store: Redis, inner: fn(Request<Plain>) -> Answered) -> Self {
        let layer = CacheLayer::new(store).route("/items/{id}", Rule::ttl(HOUR).namespace("items").max_body(2 * MIB));
        Self(layer.layer(service_fn(inner)))
    }

    /// What becomes of a request for this entry, read to its end.
    async fn outcome(&mut self, of: usize) -> Outcome {
        let response = self.0.ready().await.expect("ready").call(request(of)).await.expect("the inner service does not fail");
        assert_eq!(response.status(), StatusCode::OK);
        let outcome = response.extensions().get::<CacheStatus>().expect("a rule covers it").outcome();
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        assert!(body.len() >= KIB);
        outcome
    }

    /// Asks until the first `entries` are hits: what is stored goes on in the background.
    async fn warm(&mut self, entries: usize) {
        for of in 0..entries {
            rig::until("the entry is stored", async || self.outcome(of).await == Outcome::Hit).await;
        }
    }
}

impl Contender for Cached {
    async fn ask(&mut self, of: usize) {
        assert_eq!(self.outcome(of).await, Outcome::Hit);
    }
}

/// The client alone, as it comes, its own time limit included: no pool, nothing decoded.
#[derive(Clone)]
struct Bare {
    connection: MultiplexedConnection,
    /// What is fetched by one command: for each entry, its key and perhaps others.
    keys: Arc<[Vec<String>]>,
}

impl Bare {
    /// Fetches what is stored for `cached` under this prefix; besides each entry `others`, by `MGET`.
    async fn new(server: &Server, prefix: &str, others: &[String]) -> Self {
        let keys = server.keys(&format!("{prefix}:*:e:*")).await;
        let keys = keys.into_iter().map(|key| [&[key], others].concat()).collect();
        Self { connection: connection(server).await, keys }
    }
}

impl Contender for Bare {
    async fn ask(&mut self, of: usize) {
        let keys = &self.keys[of % self.keys.len()];
        let entry: Vec<u8> = match &keys[..] {
            [key] => redis::cmd("GET").arg(key).query_async(&mut self.connection).await.expect("an answer"),
            keys => {
                let all: Vec<Vec<u8>> = redis::cmd("MGET").arg(keys).query_async(&mut self.connection).await.expect("answers");
                all.into_iter().next().expect("as many answers as keys")
            }
        };
        assert!(entry.len() >= KIB);
    }
}

/// No cache: the same request, and the inner service's response.
#[derive(Clone)]
struct Nothing(Inner);

impl Contender for Nothing {
    async fn ask(&mut self, of: usize) {
        let response = self.0.ready().await.expect("ready").call(request(of)).await.expect("it does not fail");
        assert_eq!(response.status(), StatusCode::OK);
        drop(response.into_body().collect().await);
    }
}

/// What a browser might send: a clone, so that making it costs little beside what is measured.
fn request(of: usize) -> Request<Plain> {
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
    *request.uri_mut() = format!("/items/{of}?page=3&sort=asc").parse().expect("a valid target");
    *request.headers_mut() = HEADERS.clone();
    request
}

fn small(_: Request<Plain>) -> Answered {
    ready(Ok(response(Bytes::from_static(&[b'.'; KIB]))))
}

fn large(_: Request<Plain>) -> Answered {
    ready(Ok(response(Bytes::from_static(&[b'.'; MIB]))))
}

fn response(body: Bytes) -> Response<Plain> {
    let mut response = Response::new(Plain::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ETAG, HeaderValue::from_static("\"5f2b6c\""));
    headers.insert(header::LAST_MODIFIED, HeaderValue::from_static("Tue, 14 Jan 2025 10:00:00 GMT"));
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    headers.insert("x-request-cost", HeaderValue::from_static("3"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    response
}

/// Every answer in its time and every lease held, however busy the machine: what is measured is hits.
fn patient(server: &Server, prefix: &str, coherence: Coherence) -> RedisBuilder {
    Redis::builder(&server.url())
        .prefix(prefix)
        .coherence(coherence)
        .command_timeout(Duration::from_secs(5))
        .max_round_trip(Duration::from_secs(2))
        .require_connection()
}

async fn connection(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("an address");
    client.get_multiplexed_async_connection().await.expect("the server answers")
}

// ---- Hits --------------------------------------------------------------------------------------------------------------

/// How many a second 64 tasks get done.
async fn rate(contender: &impl Contender) -> f64 {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for of in 0..TASKS {
        let mut contender = contender.clone();
        tasks.spawn(async move {
            let mut done = 0_u64;
            while begin.elapsed() < ROUND {
                contender.ask(of).await;
                done += 1;
            }
            done
        });
    }
    let done: u64 = tasks.join_all().await.into_iter().sum();
    done as f64 / begin.elapsed().as_secs_f64()
}

async fn hits() {
    let server = Server::start().await;
    let leased = patient(&server, "leased", Coherence::Leased).build().await.expect("a store");
    let validated = patient(&server, "validated", Coherence::Validated).build().await.expect("a store");
    let (mut leased, mut validated) = (Cached::new(leased, small), Cached::new(validated, small));
    leased.warm(TASKS).await;
    validated.warm(TASKS).await;
    // Without those of the sets of keys, which differ from entry to entry.
    let generations: Vec<String> =
        server.keys("validated:*:g:*").await.into_iter().filter(|key| !key.contains("*keys:")).collect();
    let get = Bare::new(&server, "leased", &[]).await;
    let mget = Bare::new(&server, "validated", &generations).await;

    let mut table = Paired::new(&["bare GET", "bare MGET", "leased", "validated"]);
    let mut log = server.command_log().await;
    let mut leased_by: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        for turn in 0..4 {
            let who = (round + turn) % 4;
            log.take().await;
            let rate = match who {
                0 => rate(&get).await,
                1 => rate(&mget).await,
                2 => rate(&leased).await,
                _ => rate(&validated).await,
            };
            if who == 2 {
                log.take().await.into_iter().for_each(|(command, calls)| *leased_by.entry(command).or_default() += calls);
            }
            table.add(who, rate);
        }
    }
    println!(
        "\nHits of 1 KiB by {TASKS} tasks, each a command to Redis; MGET: the entry and {} generations",
        generations.len()
    );
    table.print("a second");
    let gets = leased_by.get("get").copied().unwrap_or(0);
    let mgets = leased_by.get("mget").copied().unwrap_or(0);
    println!("leased hits that were a GET of the entry alone: {:.2} %", 100.0 * gets as f64 / (gets + mgets) as f64);
    one_command(&mut log, &mut leased, "get").await;
    one_command(&mut log, &mut validated, "mget").await;
}

/// Panics unless each hit is one command of this name.
async fn one_command(log: &mut CommandLog, contender: &mut Cached, name: &str) {
    const HITS: u64 = 100;
    log.take().await;
    for _ in 0..HITS {
        contender.ask(0).await;
    }
    let mut sent = log.take().await;
    // Heartbeats, and this question itself.
    sent.retain(|command, _| command != "pexpireat" && command != "info");
    assert_eq!(sent, BTreeMap::from([(name.to_owned(), HITS)]), "one command a hit");
}

async fn body() {
    let server = Server::start().await;
    let make = |prefix: &'static str| patient(&server, prefix, Coherence::Validated);
    let kept = make("kept").memory(64 * MIB).build().await.expect("a store");
    let fetched = make("fetched").build().await.expect("a store");
    let (mut kept, mut fetched) = (Cached::new(kept, large), Cached::new(fetched, large));
    kept.warm(1).await;
    fetched.warm(1).await;
    let mut get = Bare::new(&server, "fetched", &[]).await;
    let mut table = Paired::new(&["bare GET of 1 MiB", "fetched", "validated, in memory"]);
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let who = (round + turn) % 3;
            let time = match who {
                0 => in_a_row(&mut get, 20).await,
                1 => in_a_row(&mut fetched, 20).await,
                _ => in_a_row(&mut kept, 20).await,
            };
            table.add(who, time.as_secs_f64() * 1e6);
        }
    }
    println!("\nA hit of 1 MiB, one after the other");
    table.print("µs");
}

/// What one takes, of some in a row.
async fn in_a_row(contender: &mut impl Contender, count: u32) -> Duration {
    let begin = Instant::now();
    for _ in 0..count {
        contender.ask(0).await;
    }
    begin.elapsed() / count
}

/// What contenders came to in rounds that are compared with the first one's.
struct Paired {
    names: Vec<&'static str>,
    rounds: Vec<Vec<f64>>,
}

impl Paired {
    fn new(names: &[&'static str]) -> Self {
        Self { names: names.to_vec(), rounds: names.iter().map(|_| Vec::new()).collect() }
    }

    fn add(&mut self, who: usize, value: f64) {
        self.rounds[who].push(value);
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

// ---- Clearing ----------------------------------------------------------------------------------------------------------

const ENTRIES: usize = 100_000;

async fn clearing() {
    let server = Server::start().await;
    let store = patient(&server, "clearing", Coherence::Leased).build().await.expect("a store");
    let mut cached = Cached::new(store.clone(), small);
    let client = redis::Client::open(server.url()).expect("an address");
    // `KEYS` takes longer than the client waits for by default.
    let unhurried = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&unhurried).await;
    let mut connection = connection.expect("the server answers");
    println!("\nA namespace of {ENTRIES} entries cleared, and a GET of another client meanwhile, in ms");
    println!("{:<26} {:>12} {:>10} {:>10} {:>10}", "", "took", "GET p50", "p99", "worst");

    fill(&cached).await;
    let (took, others) = beside(&server, async || tokio::time::sleep(Duration::from_millis(100)).await).await;
    row("nothing", took, &others);

    assert_eq!(cached.outcome(0).await, Outcome::Hit);
    let (took, others) = beside(&server, async || store.invalidate(["items"]).await.expect("cleared")).await;
    row("invalidate", took, &others);
    assert!(matches!(cached.outcome(0).await, Outcome::Miss(_)), "nothing of it is served any more");

    fill(&cached).await;
    let (took, others) = beside(&server, async || {
        let keys: Vec<String> = redis::cmd("KEYS").arg("clearing:*:e:*").query_async(&mut connection).await.expect("keys");
        let gone: usize = redis::cmd("DEL").arg(&keys).query_async(&mut connection).await.expect("deleted");
        assert!(gone >= ENTRIES);
    })
    .await;
    row("KEYS and DEL", took, &others);

    fill(&cached).await;
    let (took, others) = beside(&server, async || {
        let (mut cursor, mut gone) = (0_u64, 0_usize);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg("clearing:*:e:*").arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await.expect("keys");
            if !keys.is_empty() {
                gone += redis::cmd("UNLINK").arg(&keys).query_async::<usize>(&mut connection).await.expect("unlinked");
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        assert!(gone >= ENTRIES);
    })
    .await;
    row("SCAN 1000 and UNLINK", took, &others);
}

/// Has all of the namespace stored.
async fn fill(cached: &Cached) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (mut cached, next) = (cached.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let of = next.fetch_add(1, Ordering::Relaxed);
                if of >= ENTRIES {
                    return;
                }
                while cached.outcome(of).await != Outcome::Hit {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    tasks.join_all().await;
}

/// What something takes, and how long each `GET` of another client took that was sent meanwhile and in the 100 ms after it.
async fn beside(server: &Server, work: impl AsyncFnOnce()) -> (Duration, Histogram<u64>) {
    const PAUSE: Duration = Duration::from_micros(100);
    let stop = Arc::new(AtomicBool::new(false));
    let client = redis::Client::open(server.url()).expect("an address");
    let (told, begun) = tokio::sync::oneshot::channel();
    let probe = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut connection = client.get_connection().expect("the server answers");
            let mut times = Histogram::<u64>::new(3).expect("a histogram");
            let _ = told.send(());
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                redis::cmd("GET").arg("elsewhere").exec(&mut connection).expect("an answer");
                // As many as would have been sent if this one had not been waited for.
                times.record_correct(nanos(begin), 2 * PAUSE.as_nanos() as u64).expect("in range");
                thread::sleep(PAUSE);
            }
            times
        }
    });
    begun.await.expect("the probe is connected");
    let begin = Instant::now();
    work().await;
    let took = begin.elapsed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.store(true, Ordering::Relaxed);
    (took, probe.join().expect("the probe ends"))
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

fn row(name: &str, took: Duration, others: &Histogram<u64>) {
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let (p50, p99) = (ms(others.value_at_quantile(0.5)), ms(others.value_at_quantile(0.99)));
    println!("{name:<26} {:>12.3} {p50:>10.3} {p99:>10.3} {:>10.3}", took.as_secs_f64() * 1e3, ms(others.max()));
}

// ---- Redis away --------------------------------------------------------------------------------------------------------

/// How long Redis is away.
const AWAY: Duration = Duration::from_secs(2);

async fn away() {
    println!(
        "\nRedis away for {AWAY:?} under {TASKS} tasks that pause for 1 ms between requests; all settings at their defaults; in ms"
    );
    println!("{:<36} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8}", "", "requests", "errors", "hits", "p50", "p99", "worst");
    for memory in [0, 64 * MIB] {
        let mut server = Server::start().await;
        let store = Redis::builder(&server.url()).memory(memory).build().await.expect("a store");
        let mut cached = Cached::new(store, small);
        cached.warm(TASKS).await;
        let load = Load::start(&cached);
        let front = if memory == 0 { "no memory" } else { "memory" };

        load.watched(&format!("{front}: there"), async || tokio::time::sleep(AWAY).await).await;
        server.pause();
        load.watched(&format!("{front}: stopped (SIGSTOP)"), async || tokio::time::sleep(AWAY).await).await;
        server.resume();
        load.watched(&format!("{front}: until hits are back"), async || load.hits_again().await).await;
        load.watched(&format!("{front}: there again"), async || tokio::time::sleep(AWAY).await).await;
        server.kill();
        load.watched(&format!("{front}: killed"), async || tokio::time::sleep(AWAY).await).await;
        server.restart(false).await;
        load.watched(&format!("{front}: until hits are back, empty"), async || load.hits_again().await).await;
        load.end().await;
    }
}

/// Tasks that ask all the time.
struct Load {
    seen: Arc<std::sync::Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

struct Seen {
    times: Histogram<u64>,
    hits: u64,
    errors: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { times: Histogram::new(3).expect("a histogram"), hits: 0, errors: 0 }
    }
}

impl Load {
    fn start(cached: &Cached) -> Self {
        let (seen, stop) = (Arc::<std::sync::Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for of in 0..TASKS {
            let (mut cached, seen, stop) = (cached.clone(), seen.clone(), stop.clone());
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let answer = cached.0.ready().await.expect("ready").call(request(of)).await.expect("no error");
                    let status = answer.status();
                    let outcome = answer.extensions().get::<CacheStatus>().map(CacheStatus::outcome);
                    let whole = answer.into_body().collect().await.is_ok_and(|body| body.to_bytes().len() == KIB);
                    let time = nanos(begin);
                    {
                        let mut seen = seen.lock().expect("no task panics");
                        seen.times.record(time).expect("in range");
                        seen.hits += u64::from(outcome == Some(Outcome::Hit));
                        seen.errors += u64::from(status != StatusCode::OK || !whole);
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        Self { seen, stop, tasks }
    }

    /// Prints what requests saw that ended meanwhile, and how long it took.
    async fn watched(&self, name: &str, work: impl AsyncFnOnce()) {
        self.take();
        let begin = Instant::now();
        work().await;
        let took = begin.elapsed();
        let Seen { times, hits, errors } = self.take();
        let [p50, p99] = [0.5, 0.99].map(|part| times.value_at_quantile(part) as f64 / 1e6);
        let (requests, worst) = (times.len(), times.max() as f64 / 1e6);
        let share = 100.0 * hits as f64 / requests.max(1) as f64;
        println!(
            "{name:<36} {requests:>9} {errors:>7} {share:>6.1} % {p50:>8.3} {p99:>8.3} {worst:>8.3}   took {:.0} ms",
            took.as_secs_f64() * 1e3
        );
        assert_eq!(errors, 0, "an error");
    }

    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().expect("no task panics"))
    }

    /// Waits until of the requests of 5 ms nine in ten are hits, and leaves the count of what came before.
    async fn hits_again(&self) {
        let counted = || {
            let seen = self.seen.lock().expect("no task panics");
            (seen.times.len(), seen.hits)
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

/// What is asked once, and then so many times, each as soon as the one before is answered.
fn count(who: &str, hits: usize) {
    async fn repeat(mut contender: impl Contender, hits: usize) {
        for _ in 0..hits {
            contender.ask(42).await;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = Server::start().await;
        let coherence = if who == "validated" { Coherence::Validated } else { Coherence::Leased };
        // Heartbeats are not what is counted, and under valgrind everything takes long.
        let builder =
            patient(&server, "count", coherence).command_timeout(Duration::from_secs(30)).heartbeat(Duration::from_secs(1));
        let store = builder.max_round_trip(Duration::from_secs(10)).build().await.expect("a store");
        rig::until("the lease is held", async || store.is_leased() || coherence == Coherence::Validated).await;
        let mut cached = Cached::new(store, small);
        rig::until("the entry is stored", async || cached.outcome(42).await == Outcome::Hit).await;
        let mut log = server.command_log().await;
        match who {
            "nothing" => repeat(Nothing(service_fn(small)), hits).await,
            "bare" => repeat(Bare::new(&server, "count", &[]).await, hits).await,
            "leased" | "validated" => repeat(cached, hits).await,
            _ => panic!("{who:?} is none of nothing, bare, leased, validated"),
        }
        let sent = log.take().await;
        let of = |command| sent.get(command).copied().unwrap_or(0) as usize;
        match who {
            "bare" | "leased" => assert_eq!((of("get"), of("mget")), (hits, 0), "one GET a hit"),
            "validated" => assert_eq!((of("get"), of("mget")), (0, hits), "one MGET a hit"),
            _ => {}
        }
    });
}

/// Instructions of this process for one hit, as callgrind counts them: two runs with different numbers of hits, so that what is
/// done once is subtracted.
fn instructions() {
    const FEW: u64 = 500;
    const MANY: u64 = 2500;
    let each = |who: &str| {
        let [few, many] = [FEW, MANY].map(|hits| collected(who, hits));
        many.saturating_sub(few) / (MANY - FEW)
    };
    let nothing = each("nothing");
    println!(
        "\nInstructions of this process a hit of 1 KiB, one after the other; the request made and the response read: {nothing}"
    );
    println!("{:<26} {:>12} {:>12} {:>10}", "", "whole", "less those", "aim");
    let bare = each("bare");
    println!("{:<26} {bare:>12} {bare:>12}", "bare GET");
    for (who, aim) in [("leased", 18_500), ("validated", 22_000)] {
        let whole = each(who);
        println!("{who:<26} {whole:>12} {:>12} {aim:>10}", whole - nothing);
    }
}

/// What callgrind counts of a run of this very program.
fn collected(who: &str, hits: u64) -> u64 {
    let this = env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["count", who, &hits.to_string()])
        .output()
        .expect("valgrind is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("Collected :")).expect("callgrind says what it collected");
    line.1.trim().parse().expect("a number")
}
