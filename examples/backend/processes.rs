//! Three processes, one Redis, one database: what one of them writes, the next read in each of the others shows.
//!
//! `cargo run --example processes --features redis` starts a `redis-server` of its own; with `-- --redis URL` it uses one that is
//! there. It starts itself three times, asserts what it prints, and ends.

use std::{
    error::Error,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, Request, StatusCode},
    routing::get,
};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rusqlite::Connection;
use tokio::net::TcpListener;
use tower_response_cache::{CacheLayer, InvalidateLayer, Redis, RouteAndQuery, Rule, Rules};

type Fault = Box<dyn Error + Send + Sync>;
type Db = State<Arc<Mutex<Connection>>>;

const MINUTE: Duration = Duration::from_secs(60);

/// How long the others wait for the process that computes a response before one of them takes over.
const LEASE: Duration = Duration::from_secs(10);

/// By how much a hit may be stale under a lease with the settings below: two heartbeats of 50 ms and a round trip of 20 ms.
const DELTA: Duration = Duration::from_millis(120);

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", redis, database, prefix] => serve(redis, Path::new(database), prefix).await,
        ["--redis", redis] => show(redis).await,
        [] => {
            let server = Server::start()?;
            show(&server.url).await
        }
        _ => Err("usage: processes [--redis URL]".into()),
    }
}

// ── one process ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn serve(redis: &str, database: &Path, prefix: &str) -> Result<(), Fault> {
    // More than the default of 50 ms, so that nothing that is asserted below hangs on how busy the machine is.
    let builder = Redis::builder(redis).prefix(prefix).memory(64 << 20).command_timeout(Duration::from_secs(2));
    let store = builder.require_connection().build().await?;
    let db = Connection::open(database)?;
    db.busy_timeout(Duration::from_secs(5))?;

    // The handlers do not ask for the host, and it is another one in each process.
    let rule = Rule::ttl(MINUTE).key(RouteAndQuery.without_host()).namespace("notes").distributed_lock(LEASE);
    let rules = Rules::new().route("/notes", rule);
    let app = Router::new()
        .route("/notes", get(list).post(add))
        .with_state(Arc::new(Mutex::new(db)))
        .layer(CacheLayer::new(store.clone()).rules(rules.clone()).cache_status("processes"))
        .layer(InvalidateLayer::new(store).rules(rules));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

async fn list(State(db): Db) -> Result<([(&'static str, String); 1], String), StatusCode> {
    let db = db.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let notes = db.query_row("SELECT coalesce(group_concat(text, ', '), '') FROM notes", [], |row| row.get(0));
    let notes = notes.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("listed-by", std::process::id().to_string())], notes))
}

async fn add(State(db): Db, text: String) -> Result<StatusCode, StatusCode> {
    let db = db.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    db.execute("INSERT INTO notes VALUES (?)", [text]).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(StatusCode::CREATED)
}

// ── all three ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn show(redis: &str) -> Result<(), Fault> {
    let home = tempfile::tempdir()?;
    let database = home.path().join("notes.db");
    Connection::open(&database)?.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE notes (text TEXT NOT NULL)")?;
    let prefix = format!("processes-{:016x}", fastrand::u64(..));
    let processes = (0..3).map(|_| Process::start(redis, &database, &prefix)).collect::<Result<Vec<_>, _>>()?;

    for (number, process) in processes.iter().enumerate() {
        let first = process.send(Method::GET, "").await?;
        let second = process.send(Method::GET, "").await?;
        println!("process {number} at {}: {}, then {}", process.address, first.cache, second.cache);
        assert_eq!(first.listed_by, processes[0].running.0.id().to_string(), "one has listed the notes, for all");
        assert!(second.cache.starts_with("processes; hit"), "what was read once is there");
    }

    for (writer, process) in processes.iter().enumerate() {
        let text = format!("note of process {writer}");
        let reply = process.send(Method::POST, &text).await?;
        assert_eq!(reply.status, StatusCode::CREATED);
        let acknowledged = Instant::now();
        println!("process {writer} has written \"{text}\"");
        for (number, other) in processes.iter().enumerate().filter(|(number, _)| *number != writer) {
            let mut reads = 0;
            let seen = loop {
                let begun = acknowledged.elapsed();
                reads += 1;
                let reply = other.send(Method::GET, "").await?;
                if reply.body.ends_with(text.as_bytes()) {
                    break begun;
                }
                assert!(begun < DELTA, "a read that began {begun:?} after the write must show it");
            };
            println!("  seen by process {number} in read {reads}, which began {seen:?} after the answer to the write");
        }
    }
    Ok(())
}

/// A server in a process of its own, which ends with this.
struct Process {
    running: Running,
    address: String,
    client: Client<HttpConnector, Body>,
}

struct Reply {
    status: StatusCode,
    /// What the cache says of it.
    cache: String,
    /// The process whose handler has computed it.
    listed_by: String,
    body: Bytes,
}

impl Process {
    fn start(redis: &str, database: &Path, prefix: &str) -> Result<Self, Fault> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(["--serve", redis]).arg(database).arg(prefix).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take();
        let running = Running(child);
        let mut line = String::new();
        BufReader::new(output.ok_or("a pipe was asked for")?).read_line(&mut line)?;
        match line.trim_end() {
            "" => Err("a process has ended before it served".into()),
            address => {
                Ok(Self { running, address: address.into(), client: Client::builder(TokioExecutor::new()).build_http() })
            }
        }
    }

    async fn send(&self, method: Method, body: &str) -> Result<Reply, Fault> {
        let uri = format!("http://{}/notes", self.address);
        let request = Request::builder().method(method).uri(uri).body(Body::from(body.to_owned()))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: head.status, cache: field("cache-status"), listed_by: field("listed-by"), body })
    }
}

/// A `redis-server` on a free port, which keeps nothing on disk and ends with this.
struct Server {
    _running: Running,
    url: String,
}

impl Server {
    fn start() -> Result<Self, Fault> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| format!("redis-server, or give --redis URL: {error}"))?;
        let running = Running(child);
        for _ in 0..1_000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(Self { _running: running, url: format!("redis://127.0.0.1:{port}") });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("the redis-server that was started does not listen".into())
    }
}

/// A child, killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
