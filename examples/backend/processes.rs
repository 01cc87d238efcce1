//! Three processes over one Redis and one database: a write in one process is visible in the others within 120 ms.
//!
//! ```sh
//! cargo run --example processes --features redis     # starts a redis-server; -- --redis URL uses another one
//! ```
//!
//! The program starts itself three times, prints what each process reads, and panics if a read is stale.

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
use tower_response_cache::{Redis, ResponseCache, RouteAndQuery, Rule};

type BoxError = Box<dyn Error + Send + Sync>;
type Db = State<Arc<Mutex<Connection>>>;

const MINUTE: Duration = Duration::from_secs(60);

/// The time after which another process takes over the fill of a process that has crashed.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// The maximum staleness of a hit: two heartbeats of 50 ms and a round trip of 20 ms, the defaults.
const MAX_STALENESS: Duration = Duration::from_millis(120);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", redis, database, prefix] => serve(redis, Path::new(database), prefix).await,
        ["--redis", redis] => demonstrate(redis).await,
        [] => {
            let server = Server::start()?;
            demonstrate(&server.url).await
        }
        _ => Err("usage: processes [--redis URL]".into()),
    }
}

async fn serve(redis: &str, database: &Path, prefix: &str) -> Result<(), BoxError> {
    // On a busy machine a command may take longer than the default of 50 ms.
    let builder = Redis::builder(redis).prefix(prefix).memory(64 << 20).command_timeout(Duration::from_secs(2));
    let store = builder.require_connection().build().await?;
    let db = Connection::open(database)?;
    db.busy_timeout(Duration::from_secs(5))?;

    // Each process has its own `Host`, which the handlers do not read.
    let rule = Rule::ttl(MINUTE).key(RouteAndQuery.without_host()).namespace("notes").distributed_lock(LOCK_DEADLINE);
    let cache = ResponseCache::new(store).route("/notes", rule).cache_status("processes");
    let app = Router::new().route("/notes", get(list).post(add)).with_state(Arc::new(Mutex::new(db))).layer(cache.layer());

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

async fn demonstrate(redis: &str) -> Result<(), BoxError> {
    let home = tempfile::tempdir()?;
    let database = home.path().join("notes.db");
    Connection::open(&database)?.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE notes (text TEXT NOT NULL)")?;
    let prefix = format!("processes-{:016x}", fastrand::u64(..));
    let processes = (0..3).map(|_| Process::start(redis, &database, &prefix)).collect::<Result<Vec<_>, _>>()?;

    for (number, process) in processes.iter().enumerate() {
        let first = process.send(Method::GET, "").await?;
        let second = process.send(Method::GET, "").await?;
        println!("process {number} at {}: {}, then {}", process.address, first.cache, second.cache);
        assert_eq!(first.listed_by, processes[0].running.0.id().to_string(), "the first process has listed the notes for all");
        assert!(second.cache.starts_with("processes; hit"), "the second read is a hit");
    }

    for (writer, process) in processes.iter().enumerate() {
        let text = format!("note of process {writer}");
        let reply = process.send(Method::POST, &text).await?;
        assert_eq!(reply.status, StatusCode::CREATED);
        let responded = Instant::now();
        println!("process {writer} wrote \"{text}\"");
        for (number, other) in processes.iter().enumerate().filter(|(number, _)| *number != writer) {
            let mut reads = 0;
            let seen = loop {
                let begun = responded.elapsed();
                reads += 1;
                let reply = other.send(Method::GET, "").await?;
                if reply.body.ends_with(text.as_bytes()) {
                    break begun;
                }
                assert!(begun < MAX_STALENESS, "a read that began {begun:?} after the write is stale");
            };
            println!("  visible in process {number} in read {reads}, which began {seen:?} after the response to the write");
        }
    }
    Ok(())
}

/// A server process, which is killed when this is dropped.
struct Process {
    running: Running,
    address: String,
    client: Client<HttpConnector, Body>,
}

struct Reply {
    status: StatusCode,
    /// The value of `Cache-Status`.
    cache: String,
    /// The process whose handler made the response.
    listed_by: String,
    body: Bytes,
}

impl Process {
    fn start(redis: &str, database: &Path, prefix: &str) -> Result<Self, BoxError> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(["--serve", redis]).arg(database).arg(prefix).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take();
        let running = Running(child);
        let mut line = String::new();
        BufReader::new(output.ok_or("stdout is not piped")?).read_line(&mut line)?;
        match line.trim_end() {
            "" => Err("a process has ended before it served".into()),
            address => {
                Ok(Self { running, address: address.into(), client: Client::builder(TokioExecutor::new()).build_http() })
            }
        }
    }

    async fn send(&self, method: Method, body: &str) -> Result<Reply, BoxError> {
        let uri = format!("http://{}/notes", self.address);
        let request = Request::builder().method(method).uri(uri).body(Body::from(body.to_owned()))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: head.status, cache: field("cache-status"), listed_by: field("listed-by"), body })
    }
}

/// A `redis-server` on a free port without persistence, which is killed when this is dropped.
struct Server {
    _running: Running,
    url: String,
}

impl Server {
    fn start() -> Result<Self, BoxError> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| format!("cannot start redis-server: {error}; or give --redis URL"))?;
        let running = Running(child);
        for _ in 0..1_000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(Self { _running: running, url: format!("redis://127.0.0.1:{port}") });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("redis-server does not listen".into())
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
