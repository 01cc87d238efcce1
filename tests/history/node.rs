//! One process of the application: an HTTP server with the cache, over the store under test and the shared database.

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
    __private::remember_at_once,
    CacheLayer, CachePolicy, CacheStatus, Clock, InvalidateLayer, Namespace, Outcome, Redis, Rule, Rules, Store,
    invalidate::Invalidation,
    redis::{Coherence, Failover, RedisBuilder},
};

use super::{
    crowd::{Crowd, CrowdSettings},
    restamp::Restamp,
};

/// Command-line argument that makes this program such a process.
pub const NODE_ARGUMENT: &str = "node";

/// The heartbeat of the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub interval: Duration,
    pub round_trip: Duration,
}

impl Heartbeat {
    /// Returns the allowed staleness of a leased hit.
    pub fn delta(self) -> Duration {
        self.interval * 2 + self.round_trip
    }
}

/// Timeout of a command of a request.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);

/// Longest wait of the response of a write for Redis.
pub const HOLD: Duration = Duration::from_millis(500);

/// Response header with the outcome of the cache: a word of [`outcome_word`].
pub const CACHE: &str = "x-cache";

/// Response header with the result of the invalidation of a write.
pub const INVALIDATION: &str = "x-clearing";

/// Request header with the number of the operation for the log of the database.
pub const OPERATION: &str = "x-operation";

/// Request header with the time in microseconds after which the handler stops waiting for its statement.
pub const PATIENCE_OF_HANDLER: &str = "x-patience";

/// The time of gathering of processes that push together.
const GATHER: Duration = Duration::from_millis(20);

/// Settings of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    pub database: SocketAddr,
    /// Several URLs are nodes of a cluster.
    pub redis: Vec<String>,
    pub cluster: bool,
    pub coherence: Coherence,
    pub strict: Option<Duration>,
    /// Entries from before a failover are served after it.
    pub trust: bool,
    /// A broken protocol: stamps are read when an entry is stored.
    pub restamp: bool,
    /// All registers belong to one namespace, which every write invalidates.
    pub one_namespace: bool,
    /// Frequent invalidations wait for a push that all processes share.
    pub gathers: bool,
    /// Each target is remembered, and its response hot, at once.
    pub hot: bool,
    /// Lifetime of the lock of a fill whose owner is lost.
    pub lock: Duration,
    pub heartbeat: Heartbeat,
    /// Further stores in the process, which report elsewhere.
    pub crowd: Option<CrowdSettings>,
}

impl Settings {
    /// Returns the settings as arguments of a command line.
    pub fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![NODE_ARGUMENT.to_owned(), format!("--database={}", self.database)];
        arguments.extend(self.redis.iter().map(|url| format!("--redis={url}")));
        arguments.push(match self.coherence {
            Coherence::Validated => "--validated".into(),
            Coherence::Ttl(ttl) => format!("--ttl={}", ttl.as_millis()),
            _ => "--leased".into(),
        });
        let Heartbeat { interval, round_trip } = self.heartbeat;
        arguments.extend(
            [("lock", self.lock), ("interval", interval), ("round-trip", round_trip)]
                .map(|(word, time)| format!("--{word}={}", time.as_millis())),
        );
        if let Some(crowd) = &self.crowd {
            arguments.push(crowd.to_argument());
        }
        arguments.extend(self.strict.map(|deadline| format!("--strict={}", deadline.as_millis())));
        let flags = [
            (self.cluster, "--cluster"),
            (self.trust, "--trust"),
            (self.restamp, "--restamp"),
            (self.one_namespace, "--one-namespace"),
            (self.gathers, "--gather"),
            (self.hot, "--hot"),
        ];
        arguments.extend(flags.iter().filter(|(is, _)| *is).map(|(_, flag)| (*flag).to_owned()));
        arguments
    }

    fn from_arguments(arguments: impl Iterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        let mut settings = Self {
            database: ([127, 0, 0, 1], 0).into(),
            redis: Vec::new(),
            cluster: false,
            coherence: Coherence::Leased,
            strict: None,
            trust: false,
            restamp: false,
            one_namespace: false,
            gathers: false,
            hot: false,
            lock: Duration::from_secs(1),
            heartbeat: Heartbeat { interval: Duration::from_millis(20), round_trip: Duration::from_millis(60) },
            crowd: None,
        };
        let mut arguments = lexopt::Parser::from_args(arguments);
        while let Some(word) = arguments.next()? {
            match word {
                Long("database") => settings.database = arguments.value()?.parse()?,
                Long("redis") => settings.redis.push(arguments.value()?.parse()?),
                Long("cluster") => settings.cluster = true,
                Long("leased") => settings.coherence = Coherence::Leased,
                Long("validated") => settings.coherence = Coherence::Validated,
                Long("ttl") => settings.coherence = Coherence::Ttl(Duration::from_millis(arguments.value()?.parse()?)),
                Long("strict") => settings.strict = Some(Duration::from_millis(arguments.value()?.parse()?)),
                Long("lock") => settings.lock = Duration::from_millis(arguments.value()?.parse()?),
                Long("interval") => settings.heartbeat.interval = Duration::from_millis(arguments.value()?.parse()?),
                Long("round-trip") => settings.heartbeat.round_trip = Duration::from_millis(arguments.value()?.parse()?),
                Long("crowd") => settings.crowd = Some(CrowdSettings::from_argument(&arguments.value()?.string()?)),
                Long("trust") => settings.trust = true,
                Long("restamp") => settings.restamp = true,
                Long("one-namespace") => settings.one_namespace = true,
                Long("gather") => settings.gathers = true,
                Long("hot") => settings.hot = true,
                other => return Err(other.unexpected()),
            }
        }
        Ok(settings)
    }

    fn store(&self) -> RedisBuilder {
        let builder = match self.cluster {
            true => RedisBuilder::cluster(self.redis.clone()),
            false => Redis::builder(&self.redis[0]),
        };
        let builder = builder
            .prefix("history")
            .memory(8 << 20)
            .coherence(self.coherence)
            .heartbeat(self.heartbeat.interval)
            .max_heartbeat(self.heartbeat.interval)
            .max_round_trip(self.heartbeat.round_trip)
            .command_timeout(COMMAND_TIMEOUT)
            .failover(if self.trust { Failover::Trust } else { Failover::Flush });
        let builder = if self.gathers { builder.gather(GATHER) } else { builder };
        match self.strict {
            Some(deadline) => builder.strict(deadline),
            None => builder,
        }
    }

    /// Builds another store, with connections, memory and a clock of its own.
    pub async fn crowd_store(&self, clock: Clock, memory: usize) -> Redis {
        self.store().memory(memory).clock(clock).build().await.expect("valid settings")
    }
}

/// Runs until its parent ends or closes its standard input. Prints its address first.
pub fn run(arguments: impl Iterator<Item = OsString>) {
    let settings = Settings::from_arguments(arguments).expect("arguments of a command line");
    if settings.hot {
        remember_at_once();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = settings.store().build().await.expect("valid settings");
        let database: &'static Database = Box::leak(Box::new(Database::at(settings.database)));
        let crowd: &'static Crowd = Box::leak(Box::new(Crowd::start(&settings, database).await));
        let app = match settings.restamp {
            true => app(Restamp(store.clone()), store, &settings, database, crowd),
            false => app(store.clone(), store, &settings, database, crowd),
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", socket.local_addr().expect("its address"));
        tokio::spawn(async move { axum::serve(socket, app).await });
        let ended = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
        let _ = ended.await;
    });
    runtime.shutdown_background();
}

/// Returns the rules of the three routes.
pub fn rules(settings: &Settings) -> Rules {
    let names = if settings.one_namespace { "row" } else { "row:{key}" };
    Rules::new()
        .route("/r/{key}", Rule::ttl(Duration::from_secs(60)).namespace(names))
        .route("/v/{key}", Rule::ttl(Duration::from_secs(60)))
        .route(
            "/x/{key}",
            Rule::ttl(Duration::from_millis(300))
                .stale_while_revalidate(Duration::from_secs(2))
                .refresh_ahead(1.0)
                .distributed_lock(settings.lock)
                .namespace(names),
        )
}

/// Serves each register under three rules: `/r/{key}`, whose namespace is known from the request; `/v/{key}`, where only the
/// response names it; and `/x/{key}`, short-lived, refreshed ahead and in the background, and filled by one process at a time.
fn app<St: Store>(store: St, redis: Redis, settings: &Settings, database: &'static Database, crowd: &'static Crowd) -> Router {
    let rules = rules(settings);
    let row = move |Path(key): Path<u32>| async move { database.read(key).await };
    let view = move |Path(key): Path<u32>| async move {
        let mut response = database.read(key).await;
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", &key.to_string()])));
        response
    };
    let write = move |Path(key): Path<u32>, headers: HeaderMap| async move {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let patience = text(PATIENCE_OF_HANDLER).and_then(|micros| micros.parse().ok()).map(Duration::from_micros);
        database.write(key, text(OPERATION).unwrap_or("0"), patience).await
    };
    Router::new()
        .route("/r/{key}", get(row).post(write))
        .route("/v/{key}", get(view))
        .route("/x/{key}", get(row))
        .layer(CacheLayer::new(store.clone()).rules(rules.clone()).status_extension(true))
        .layer(
            InvalidateLayer::new(store)
                .rules(rules)
                .delivery_timeout(HOLD, tower_response_cache::invalidate::OnDeliveryTimeout::Respond),
        )
        .layer(from_fn(report_in_headers))
        // After the last layer: this route reports on the process and is no part of the application.
        .route("/waiting", get(move || async move { (database.running() + redis.waiting() + crowd.waiting()).to_string() }))
}

/// Reports in headers the results that only this process can see.
async fn report_in_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(status) = response.extensions().get::<CacheStatus>() {
        let word = outcome_word(status.outcome());
        response.headers_mut().insert(CACHE, HeaderValue::from_static(word));
    }
    if let Some(what) = response.extensions().get::<Invalidation>() {
        let word = match what {
            Invalidation::Delivered => "delivered",
            Invalidation::NotFenced => "not-fenced",
            _ => "undelivered",
        };
        response.headers_mut().insert(INVALIDATION, HeaderValue::from_static(word));
    }
    response
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Hit => "hit",
        Outcome::Stale(_) => "stale",
        Outcome::Collapsed => "collapsed",
        Outcome::Miss(_) => "miss",
        _ => "other",
    }
}

/// A client of the database, with pooled connections.
pub struct Database {
    at: SocketAddr,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
    running: AtomicUsize,
}

impl Database {
    fn at(at: SocketAddr) -> Self {
        Self { at, idle: Mutex::default(), running: AtomicUsize::new(0) }
    }

    /// Number of running writes.
    fn running(&self) -> usize {
        self.running.load(SeqCst)
    }

    async fn read(&self, key: u32) -> Response {
        pause().await;
        self.answer(key, format!("read {key}\n")).await
    }

    /// Writes a register. Without an answer after the `patience` of the handler, the outcome is unknown.
    async fn write(&self, key: u32, operation: &str, patience: Option<Duration>) -> Response {
        let write = async {
            pause().await;
            self.answer(key, format!("write {key} {operation}\n")).await
        };
        self.during(async {
            match patience {
                None => write.await,
                Some(patience) => {
                    let late = |_| StatusCode::GATEWAY_TIMEOUT.into_response();
                    tokio::time::timeout(patience, write).await.unwrap_or_else(late)
                }
            }
        })
        .await
    }

    /// Counts a write as running, until it ends or is dropped.
    pub async fn during<T>(&self, write: impl Future<Output = T>) -> T {
        struct Running<'a>(&'a AtomicUsize);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        self.running.fetch_add(1, SeqCst);
        let _running = Running(&self.running);
        write.await
    }

    async fn answer(&self, key: u32, statement: String) -> Response {
        match self.query(&statement).await {
            Ok(version) => {
                pause().await;
                format!("{key} {}", version.trim()).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }

    /// Sends one statement, and returns its result. If the future is dropped, its connection is not used again.
    pub async fn query(&self, statement: &str) -> io::Result<String> {
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

/// Waits for a random time, as the work of a handler.
pub async fn pause() {
    let time = fastrand::u64(0..2_000);
    if time > 500 {
        tokio::time::sleep(Duration::from_micros(time)).await;
    }
}
