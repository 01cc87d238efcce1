//! The example application: a cached response equals the response without the cache, in every order of reads and writes. With Redis
//! this holds in every process.
#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "../main.rs"]
mod backend;
#[cfg(feature = "redis")]
#[path = "../../../tests/common/redis/mod.rs"]
mod redis;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{Method, StatusCode};
use backend::{
    app::{Backend, Calls, app},
    args::Args,
    buckets::Buckets,
    caching,
    client::{Client, Reply},
    db::Db,
    prometheus, seed,
    serve::Server,
};
use fastrand::Rng;
use tempfile::TempDir;
use tower_response_cache::{Memory, ResponseCache};

/// The application over one database: without the cache, and with the cache in one or several processes.
struct Twins {
    uncached: Client,
    cached: Vec<Client>,
    caches: Vec<ResponseCache>,
    /// The maximum staleness of a hit in a process that has not written.
    delta: Duration,
    /// The time of the response to the last write.
    written: Instant,
    _servers: Vec<Server>,
    _data: TempDir,
}

impl Twins {
    /// Starts one process for each cache.
    async fn new(caches: Vec<ResponseCache>, delta: Duration) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let db = Db::open(&data.path().join("app.db"), 4).expect("a database");
        let buckets = Arc::new(Buckets::open(&data.path().join("buckets")).expect("buckets"));
        seed::fill(&db, Arc::clone(&buckets)).await.expect("initial data");
        let one = || app(Arc::new(Backend { db: db.clone(), buckets: Arc::clone(&buckets), calls: Calls::default() }));
        let mut servers = vec![serve(one()).await];
        for cache in &caches {
            servers.push(serve(one().layer(cache.layer())).await);
        }
        let mut cached: Vec<_> = servers.iter().map(|server| Client::new(server.address())).collect();
        let uncached = cached.remove(0);
        Self { uncached, cached, caches, delta, written: Instant::now(), _servers: servers, _data: data }
    }

    /// Writes through a random process.
    async fn write(&mut self, rng: &mut Rng, method: Method, path: &str, token: &str, body: String) -> Reply {
        let process = &self.cached[rng.usize(..self.cached.len())];
        let reply = process.send(method.clone(), path, Some(token), body).await.expect("a response");
        assert!(reply.status.is_success() || reply.status == StatusCode::CONFLICT, "{method} {path}: {}", reply.status);
        self.written = Instant::now();
        reply
    }

    /// Compares the responses of a random process and of the uncached application. Returns whether the first was a hit.
    ///
    /// A read that began within `delta` of the last write may be stale and is repeated.
    async fn compare(&self, rng: &mut Rng, path: &str, token: Option<&str>) -> bool {
        let process = &self.cached[rng.usize(..self.cached.len())];
        let uncached = self.uncached.send(Method::GET, path, token, "").await.expect("a response");
        loop {
            let since = self.written.elapsed();
            let cached = process.send(Method::GET, path, token, "").await.expect("a response");
            if since < self.delta && cached.body != uncached.body {
                continue;
            }
            assert_eq!((cached.status, &cached.body), (uncached.status, &uncached.body), "GET {path}");
            return cached.hit();
        }
    }

    /// Performs random reads and writes with one client. Returns the number of hits.
    async fn run(&mut self, operations: u32) -> usize {
        let tokens = [self.uncached.login(0).await.expect("a token"), self.uncached.login(0).await.expect("a token")];
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
        println!("SEED={seed}");
        let mut rng = Rng::with_seed(seed);
        let mut rows = Vec::new();
        let mut hits = 0;
        for _ in 0..operations {
            if rng.u8(..100) < 15 {
                random_write(self, &mut rng, &tokens[0], &mut rows).await;
            } else {
                let path = random_read(&mut rng);
                let token = tokens[rng.usize(..2)].as_str();
                hits += usize::from(self.compare(&mut rng, &path, (path == "/auth/user").then_some(token)).await);
            }
        }
        hits
    }
}

async fn serve(app: axum::Router) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    Server::start(listener, app).expect("a server")
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

const CARRIERS: [&str; 4] = ["UA", "HA", "OO", "Q1"];
const ORIGINS: [&str; 2] = ["JFK", "EWR"];

fn random_read(rng: &mut Rng) -> String {
    let (carrier, origin, day) = (pick(rng, &CARRIERS), pick(rng, &ORIGINS), rng.u8(1..4));
    match rng.u8(..10) {
        0 => format!("/tables/flights?carrier={carrier}&sort=-id&limit=5"),
        1 => format!("/tables/flights?origin={origin}&day={day}&limit=1&sort=-id"),
        2 => "/tables/flights?limit=1".into(),
        3 => format!("/tables/flights?stats=carrier&day={day}"),
        4 => format!("/tables/flights?dep_delay.min={}&sort=-id&limit=2", day * 10),
        5 => format!("/tables/weather?origin={origin}&hour.min=20&sort=-id&limit=3"),
        6 => format!("/tables/flights?stats=origin&carrier={carrier}"),
        7 => format!("/tables/weather?day=%20{day}"),
        8 => "/storage/planes?prefix=test/".into(),
        _ => "/auth/user".into(),
    }
}

async fn random_write(twins: &mut Twins, rng: &mut Rng, token: &str, rows: &mut Vec<i64>) {
    let (carrier, origin, day) = (pick(rng, &CARRIERS), pick(rng, &ORIGINS), rng.u8(1..4));
    let delay = rng.u8(..);
    let row = |rows: &[i64], rng: &mut Rng| (!rows.is_empty()).then(|| rng.usize(..rows.len()));
    match rng.u8(..10) {
        0..=2 => {
            let new = format!(
                r#"{{"day":{day},"carrier":"{carrier}","flight":1,"origin":"{origin}","dest":"BOS","dep_delay":{delay}}}"#
            );
            let reply = twins.write(rng, Method::POST, "/tables/flights", token, new).await;
            rows.push(reply.json()["id"].as_i64().expect("the row's id"));
        }
        3 | 4 => {
            if let Some(row) = row(rows, rng) {
                let path = format!("/tables/flights/{}", rows[row]);
                let change = format!(r#"{{"carrier":"{carrier}","dep_delay":{delay}}}"#);
                twins.write(rng, Method::PATCH, &path, token, change).await;
            }
        }
        5 => {
            if let Some(row) = row(rows, rng) {
                let path = format!("/tables/flights/{}", rows.swap_remove(row));
                twins.write(rng, Method::DELETE, &path, token, String::new()).await;
            }
        }
        6 => {
            let path = format!("/tables/weather/{}", rng.u8(1..40));
            let change = format!(r#"{{"precip":{}}}"#, rng.u8(..3));
            twins.write(rng, Method::PATCH, &path, token, change).await;
        }
        7 => {
            let hour = rng.u16(24..2000);
            let new = format!(r#"{{"origin":"{origin}","day":{day},"hour":{hour},"precip":1.5}}"#);
            twins.write(rng, Method::POST, "/tables/weather", token, new).await;
        }
        8 => {
            let path = format!("/storage/planes/test/{}.txt", rng.u8(..4));
            twins.write(rng, Method::PUT, &path, token, format!("note {delay}")).await;
        }
        _ => {
            let change = format!(r#"{{"email":"user0+{delay}@example.com"}}"#);
            twins.write(rng, Method::PATCH, "/auth/user", token, change).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_responses_equal_uncached_responses() {
    let mut twins = Twins::new(vec![caching::cache(Memory::default())], Duration::ZERO).await;
    let hits = twins.run(400).await;
    // A cache without hits would prove nothing.
    assert!(hits > 40, "{hits} hits\n{}", twins.caches[0].stats());
}

/// Returns a figure from text in the format of Prometheus: the sum of the series whose labels contain all of these.
fn figure(text: &str, name: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    let chosen = series.filter(|(found, _)| labels.iter().all(|label| found.contains(label)));
    chosen.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_text_has_the_counts_of_handlers_and_clients() {
    let data = tempfile::tempdir().expect("a directory");
    let db = Db::open(&data.path().join("app.db"), 4).expect("a database");
    let buckets = Arc::new(Buckets::open(&data.path().join("buckets")).expect("buckets"));
    seed::fill(&db, Arc::clone(&buckets)).await.expect("initial data");
    let backend = Arc::new(Backend { db, buckets, calls: Calls::default() });
    let recorder = prometheus::install().expect("one recorder for the process");
    let cache = caching::cache(Memory::new(64 << 20)).metrics(prometheus::CACHE);
    let metrics = prometheus::routes(recorder, cache.clone());
    let server = serve(app(Arc::clone(&backend)).layer(cache.layer()).merge(metrics)).await;
    let client = Client::new(server.address());
    let token = client.login(1).await.expect("a token");
    let (mut rng, mut hits, mut bytes) = (Rng::with_seed(3), 0, 0);
    let reads = 200;
    for _ in 0..reads {
        let path = format!("/tables/airlines?limit={}", rng.u8(1..6));
        let reply = client.send(Method::GET, &path, None, String::new()).await.expect("a reply");
        assert_eq!(reply.status, StatusCode::OK);
        if reply.hit() {
            (hits, bytes) = (hits + 1, bytes + reply.body.len());
        }
    }
    client.send(Method::POST, "/tables/airlines", Some(&token), String::from("{}")).await.expect("a reply");
    let text = client.send(Method::GET, "/metrics", None, String::new()).await.expect("a reply");
    let text = String::from_utf8(text.body.to_vec()).expect("text");

    let route = "route=\"/tables/{table}\"";
    let requests = |labels: &[&str]| figure(&text, "cache_requests_total", &[&[route], labels].concat());
    let calls = backend.calls.counts();
    let handled = calls["GET /tables/{table}"] as f64;
    assert_eq!(requests(&[]), f64::from(reads + 1), "the requests of the client");
    assert_eq!(requests(&["result=\"miss\""]), handled, "the calls of the handler");
    assert_eq!(requests(&["result=\"hit\"", "tier=\"memory\""]), f64::from(hits), "the hits of the client");
    assert_eq!(requests(&["result=\"bypass\"", "reason=\"method\""]), calls["POST /tables/{table}"] as f64);
    assert_eq!(figure(&text, "cache_inner_calls_total", &[route]), handled);
    assert_eq!(figure(&text, "cache_inner_calls_saved_total", &[route]), f64::from(reads) - handled);
    assert_eq!(figure(&text, "cache_fill_duration_seconds_count", &[route]), handled);
    assert_eq!(
        figure(&text, "cache_entry_size_bytes_count", &[route]),
        figure(&text, "cache_responses_stored_total", &[route])
    );
    assert_eq!(figure(&text, "cache_response_bytes_total", &[route, "source=\"cache\""]), bytes as f64, "bytes of hits");
    assert_eq!(figure(&text, "cache_entries", &["cache=\"backend\""]), handled);
    assert!(!text.contains("limit="), "no path is a label");
}

#[tokio::test]
async fn admin_token_opens_the_inspector() {
    let data = tempfile::tempdir().expect("a directory");
    let db = Db::open(&data.path().join("app.db"), 2).expect("a database");
    let buckets = Arc::new(Buckets::open(&data.path().join("buckets")).expect("buckets"));
    seed::fill(&db, Arc::clone(&buckets)).await.expect("initial data");
    let cache = caching::cache(Memory::default());
    let backend = || Arc::new(Backend { db: db.clone(), buckets: Arc::clone(&buckets), calls: Calls::default() });
    let served = async |flags: &[&str]| {
        let args = Args::parse(flags.iter().map(Into::into)).expect("valid flags");
        let app = app(backend()).layer(cache.layer());
        serve(caching::with_inspector(app, &cache, args.admin_token.as_deref()).expect("a token")).await
    };
    let (open, closed) = (served(&["--admin-token", "hunter2"]).await, served(&[]).await);
    let client = Client::new(open.address());
    let get = async |path: &str, token| client.send(Method::GET, path, token, "").await.expect("a response");
    get("/tables/airlines", None).await;
    assert_eq!(get("/_cache/api/stats", None).await.status, StatusCode::UNAUTHORIZED);
    let stats = get("/_cache/api/stats", Some("hunter2")).await;
    assert_eq!((stats.status, &stats.json()["stats"]["misses"]), (StatusCode::OK, &1.into()));
    let explained = get("/_cache/api/explain?url=/tables/airlines", Some("hunter2")).await;
    assert_eq!(explained.json()["outcome"], "hit");
    assert!(String::from_utf8_lossy(&get("/_cache/", Some("hunter2")).await.body).contains("<h1>"));
    let closed = Client::new(closed.address()).send(Method::GET, "/_cache/api/stats", Some("hunter2"), "").await;
    assert_eq!(closed.expect("a response").status, StatusCode::NOT_FOUND);
    assert!(Args::parse(["--admin-token", ""].map(Into::into)).is_err());
}

#[test]
fn flags_of_redis_need_a_redis_url() {
    for flags in [&["--strict"][..], &["--prefix", "p"], &["--coherence", "leased"]] {
        let error = Args::parse(flags.iter().map(Into::into)).expect_err("no URL");
        let expected = if cfg!(feature = "redis") { "needs `--redis URL`" } else { "built without Redis" };
        assert!(error.contains(flags[0]) && error.contains(expected), "{error}");
    }
    let args = Args::parse(["--redis", "redis://localhost", "--strict"].map(Into::into));
    assert_eq!(args.is_ok(), cfg!(feature = "redis"), "{args:?}");
}

#[cfg(feature = "redis")]
mod over_redis {
    use std::process::Command;

    use super::redis::Server as RedisServer;
    use super::*;
    use tower_response_cache::{Redis, redis::Coherence};

    /// A heartbeat and a round trip for a busy machine, and the maximum staleness with them.
    const HEARTBEAT: Duration = Duration::from_millis(50);
    const ROUND_TRIP: Duration = Duration::from_millis(100);
    const DELTA: Duration = Duration::from_millis(200);

    /// Makes two caches over one Redis, as in two processes.
    async fn caches(server: &RedisServer, coherence: Coherence) -> Vec<ResponseCache> {
        let builder = Redis::builder(&server.url()).memory(16 << 20).coherence(coherence).require_connection();
        let builder = builder.heartbeat(HEARTBEAT).max_round_trip(ROUND_TRIP).command_timeout(Duration::from_secs(2));
        let one = builder.clone().build().await.expect("a store");
        vec![caching::cache(one), caching::cache(builder.build().await.expect("a store"))]
    }

    async fn law(coherence: Coherence, delta: Duration) {
        let server = RedisServer::start().await;
        let mut twins = Twins::new(caches(&server, coherence).await, delta).await;
        let hits = twins.run(400).await;
        for cache in &twins.caches {
            println!("{}", cache.stats());
        }
        assert!(hits > 40, "{hits} hits");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn validated_responses_of_two_processes_equal_uncached_responses() {
        law(Coherence::Validated, Duration::ZERO).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn leased_responses_equal_uncached_responses_after_delta() {
        law(Coherence::Leased, DELTA).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn caches_with_one_prefix_agree_on_identities() {
        let server = RedisServer::start().await;
        let caches = caches(&server, Coherence::Leased).await;
        assert_eq!(caches[0].identity("a token"), caches[1].identity("a token"));
        let other = Redis::builder(&server.url()).prefix("another").build().await.expect("a store");
        let other = caching::cache(other);
        assert_ne!(caches[0].identity("a token"), other.identity("a token"));
    }

    /// Runs the example `processes`.
    #[test]
    fn a_write_is_visible_in_three_processes() {
        let mut cargo = Command::new(env!("CARGO"));
        // The tests are built in the root of the workspace with all features. Another choice would compile everything again.
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        cargo.args(["run", "--quiet", "--locked", "--all-features", "--example", "processes"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let output = cargo.output().expect("cargo");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}\n{stderr}");
        assert_eq!(stdout.matches("then processes; hit").count(), 3, "{stdout}");
        assert_eq!(stdout.matches(" wrote ").count(), 3, "{stdout}");
        assert_eq!(stdout.matches("visible in process").count(), 6, "{stdout}");
    }
}
