//! One process of the application: an HTTP server with the cache in it, over the store under test and the common database.

use std::{
    ffi::OsString,
    io::{self, Read},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request},
    http::{HeaderMap, HeaderValue, StatusCode},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use lexopt::prelude::*;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tower_response_cache::{
    CacheLayer, CachePolicy, CacheStatus, Coherence, Failover, InvalidateLayer, Invalidation, Namespace, Outcome, Redis, Rule,
    Rules, Store, remember_at_once,
};

use super::restamp::Restamp;

/// The word by which this program is told to be such a process.
pub const WORD: &str = "node";

/// How often masters are asked for a sign of life.
pub const HEARTBEAT: Duration = Duration::from_millis(20);

/// What the answer may take.
pub const ROUND_TRIP: Duration = Duration::from_millis(60);

/// By how much a leased hit may be stale: what the store promises with these settings.
pub const DELTA: Duration = HEARTBEAT.saturating_mul(2).saturating_add(ROUND_TRIP);

/// How long a request waits for Redis, each time it asks.
const BUDGET: Duration = Duration::from_millis(250);

/// How long the response of a write waits for Redis.
const HOLD: Duration = Duration::from_millis(500);

/// The response header that says what the cache did: a word of [`word_of`].
pub const CACHE: &str = "x-cache";

/// The response header that says what became of the clearing of a write.
pub const CLEARING: &str = "x-clearing";

/// The request header that carries the number of the operation into the log of the database.
pub const OPERATION: &str = "x-operation";

/// How a process is to be started.
#[derive(Clone, Debug)]
pub struct Settings {
    pub database: SocketAddr,
    /// More than one: nodes of a cluster.
    pub redis: Vec<String>,
    pub cluster: bool,
    pub coherence: Coherence,
    pub strict: Option<Duration>,
    /// Entries from before a failover are served after it.
    pub trust: bool,
    /// The broken promise: stamps are taken when an entry is stored.
    pub restamp: bool,
    /// All registers belong to one namespace, which every write invalidates.
    pub wide: bool,
    /// Each target is remembered, and its response at hand, at once.
    pub at_hand: bool,
    /// How long the lock of a fill stands whose owner is lost.
    pub lock: Duration,
}

impl Settings {
    /// As words of a command line.
    pub fn to_words(&self) -> Vec<String> {
        let mut words = vec![WORD.to_owned(), format!("--database={}", self.database)];
        words.extend(self.redis.iter().map(|url| format!("--redis={url}")));
        words.push(match self.coherence {
            Coherence::Validated => "--validated".into(),
            Coherence::Ttl(ttl) => format!("--ttl={}", ttl.as_millis()),
            _ => "--leased".into(),
        });
        words.push(format!("--lock={}", self.lock.as_millis()));
        words.extend(self.strict.map(|deadline| format!("--strict={}", deadline.as_millis())));
        let flags = [
            (self.cluster, "--cluster"),
            (self.trust, "--trust"),
            (self.restamp, "--restamp"),
            (self.wide, "--wide"),
            (self.at_hand, "--at-hand"),
        ];
        words.extend(flags.iter().filter(|(is, _)| *is).map(|(_, flag)| (*flag).to_owned()));
        words
    }

    fn from_words(words: impl Iterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        let mut settings = Self {
            database: ([127, 0, 0, 1], 0).into(),
            redis: Vec::new(),
            cluster: false,
            coherence: Coherence::Leased,
            strict: None,
            trust: false,
            restamp: false,
            wide: false,
            at_hand: false,
            lock: Duration::from_secs(1),
        };
        let mut words = lexopt::Parser::from_args(words);
        while let Some(word) = words.next()? {
            match word {
                Long("database") => settings.database = words.value()?.parse()?,
                Long("redis") => settings.redis.push(words.value()?.parse()?),
                Long("cluster") => settings.cluster = true,
                Long("leased") => settings.coherence = Coherence::Leased,
                Long("validated") => settings.coherence = Coherence::Validated,
                Long("ttl") => settings.coherence = Coherence::Ttl(Duration::from_millis(words.value()?.parse()?)),
                Long("strict") => settings.strict = Some(Duration::from_millis(words.value()?.parse()?)),
                Long("lock") => settings.lock = Duration::from_millis(words.value()?.parse()?),
                Long("trust") => settings.trust = true,
                Long("restamp") => settings.restamp = true,
                Long("wide") => settings.wide = true,
                Long("at-hand") => settings.at_hand = true,
                other => return Err(other.unexpected()),
            }
        }
        Ok(settings)
    }

    async fn store(&self) -> Redis {
        let builder = match self.cluster {
            true => tower_response_cache::RedisBuilder::cluster(self.redis.clone()),
            false => Redis::builder(&self.redis[0]),
        };
        let builder = builder
            .prefix("history")
            .memory(8 << 20)
            .coherence(self.coherence)
            .heartbeat(HEARTBEAT)
            .max_round_trip(ROUND_TRIP)
            .command_timeout(BUDGET)
            .failover(if self.trust { Failover::Trust } else { Failover::Flush });
        let builder = match self.strict {
            Some(deadline) => builder.strict(deadline),
            None => builder,
        };
        builder.build().await.expect("settings that may be")
    }
}

/// Runs until whoever started it ends or closes its standard input. Says on which port it listens, first of all.
pub fn run(words: impl Iterator<Item = OsString>) {
    let settings = Settings::from_words(words).expect("words of a command line");
    if settings.at_hand {
        remember_at_once();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = settings.store().await;
        let app = match settings.restamp {
            true => app(Restamp(store.clone()), store, &settings),
            false => app(store.clone(), store, &settings),
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", socket.local_addr().expect("its address"));
        tokio::spawn(async move { axum::serve(socket, app).await });
        let ended = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
        let _ = ended.await;
    });
    runtime.shutdown_background();
}

/// The same register under three rules: `/r/{key}`, whose namespace is known from the request; `/v/{key}`, where only the response
/// knows it; and `/x/{key}`, short-lived, refreshed early and in the background, and filled by one process at a time.
fn app<St: Store>(store: St, redis: Redis, settings: &Settings) -> Router {
    let names = if settings.wide { "row" } else { "row:{key}" };
    let rules = Rules::new()
        .route("/r/{key}", Rule::ttl(Duration::from_secs(60)).namespace(names))
        .route("/v/{key}", Rule::ttl(Duration::from_secs(60)))
        .route(
            "/x/{key}",
            Rule::ttl(Duration::from_millis(300))
                .stale_while_revalidate(Duration::from_secs(2))
                .refresh_ahead(1.0)
                .distributed_lock(settings.lock)
                .namespace(names),
        );
    let database: &'static Database = Box::leak(Box::new(Database::at(settings.database)));
    let row = move |Path(key): Path<u32>| async move { database.read(key).await };
    let view = move |Path(key): Path<u32>| async move {
        let mut response = database.read(key).await;
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", &key.to_string()])));
        response
    };
    let write = move |Path(key): Path<u32>, headers: HeaderMap| async move {
        let operation = headers.get(OPERATION).and_then(|value| value.to_str().ok()).unwrap_or("0");
        database.write(key, operation).await
    };
    Router::new()
        .route("/r/{key}", get(row).post(write))
        .route("/v/{key}", get(view))
        .route("/x/{key}", get(row))
        .layer(CacheLayer::new(store.clone()).rules(rules.clone()))
        .layer(
            InvalidateLayer::new(store).rules(rules).delivery_timeout(HOLD, tower_response_cache::OnDeliveryTimeout::Respond),
        )
        .layer(from_fn(mark))
        // Not before the last layer: this one is about the process, not of the application.
        .route("/waiting", get(move || async move { (database.at_work() + redis.waiting()).to_string() }))
}

/// Says in headers what is otherwise seen in this process alone.
async fn mark(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(status) = response.extensions().get::<CacheStatus>() {
        let word = word_of(status.outcome());
        response.headers_mut().insert(CACHE, HeaderValue::from_static(word));
    }
    if let Some(what) = response.extensions().get::<Invalidation>() {
        let word = match what {
            Invalidation::Delivered => "delivered",
            Invalidation::NotFenced => "not-fenced",
            _ => "undelivered",
        };
        response.headers_mut().insert(CLEARING, HeaderValue::from_static(word));
    }
    response
}

fn word_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Hit => "hit",
        Outcome::Stale(_) => "stale",
        Outcome::Collapsed => "collapsed",
        Outcome::Miss(_) => "miss",
        _ => "other",
    }
}

/// The way to the database, over connections that are kept.
struct Database {
    at: SocketAddr,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
    at_work: AtomicUsize,
}

impl Database {
    fn at(at: SocketAddr) -> Self {
        Self { at, idle: Mutex::default(), at_work: AtomicUsize::new(0) }
    }

    /// How many writes are under way.
    fn at_work(&self) -> usize {
        self.at_work.load(SeqCst)
    }

    async fn read(&self, key: u32) -> Response {
        pause().await;
        self.answer(key, format!("read {key}\n")).await
    }

    async fn write(&self, key: u32, operation: &str) -> Response {
        self.at_work.fetch_add(1, SeqCst);
        pause().await;
        let response = self.answer(key, format!("write {key} {operation}\n")).await;
        self.at_work.fetch_sub(1, SeqCst);
        response
    }

    async fn answer(&self, key: u32, statement: String) -> Response {
        match self.ask(&statement).await {
            Ok(version) => {
                pause().await;
                format!("{key} {}", version.trim()).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }

    /// One statement and its result. A connection is not used again if this is dropped midway.
    async fn ask(&self, statement: &str) -> io::Result<String> {
        let idle = self.idle.lock().expect("never held over a panic").pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => BufReader::new(TcpStream::connect(self.at).await?),
        };
        connection.write_all(statement.as_bytes()).await?;
        let mut line = String::new();
        if connection.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.idle.lock().expect("never held over a panic").push(connection);
        Ok(line)
    }
}

/// What a handler does besides: it makes windows wider.
async fn pause() {
    let time = fastrand::u64(0..2_000);
    if time > 500 {
        tokio::time::sleep(Duration::from_micros(time)).await;
    }
}
