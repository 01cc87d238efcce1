//! An axum service over a database and files, which measures itself without and with the cache.
//!
//! ```sh
//! cargo run --release --example backend              # -- --help prints the flags
//! ```
//!
//! `--bypass-writes` lets some writes of the demonstration bypass the cache, which its audit finds. With the feature `postgres`,
//! `--postgres URL` replaces SQLite, and a listener sees such writes.
//!
//! `--admin-token TOKEN` serves the Inspector at `/_cache/`, and `/metrics` serves the metrics to Prometheus. With the feature `redis`, several
//! processes over one database can share the cache.
//!
//! [`caching`] has the rules of the cache, [`app`] the routes, [`auth`], [`tables`] and [`storage`] the handlers, [`load_test`] the
//! measurement. `tests/backend.rs` includes this file as a module. Therefore the modules do not use `crate::` paths.

pub(crate) mod app;
pub(crate) mod args;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod buckets;
pub(crate) mod caching;
pub(crate) mod client;
pub(crate) mod db;
pub(crate) mod demo;
pub(crate) mod error;
pub(crate) mod external;
pub(crate) mod extract;
pub(crate) mod hash;
#[cfg(feature = "postgres")]
pub(crate) mod listener;
pub(crate) mod load_test;
pub(crate) mod progress;
pub(crate) mod prometheus;
pub(crate) mod query;
#[cfg(feature = "redis")]
pub(crate) mod redis_store;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod seed;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod stats;
pub(crate) mod storage;
pub(crate) mod tables;
pub(crate) mod user;
pub(crate) mod walkthrough;
pub(crate) mod workload;

use std::{
    fmt,
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
#[cfg(feature = "redis")]
use tower_response_cache::AnyStore;
use tower_response_cache::Memory;

use app::{Backend, Calls};
use args::Args;
use buckets::Buckets;
use db::Db;
use serve::Server;

/// An error that ends the program.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

const CONNECTIONS: u32 = 4;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if args.help {
        print!("{}", args::HELP);
        return ExitCode::SUCCESS;
    }
    match Runtime::new().map_err(BoxError::from).and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until Ctrl-C, an error, or the end of `--demo`, and then stops the server.
pub(crate) async fn run(args: Args) -> Result<(), BoxError> {
    let data = DataDir::new(args.db.as_deref())?;
    println!("Data in {data}");
    let mut server = None;
    let outcome = tokio::select! {
        outcome = serve(&args, data.path(), &mut server) => outcome,
        () = shutdown_signal() => Ok(()),
    };
    if let Some(server) = server {
        println!("\nStopping");
        server.stop().await;
    }
    outcome
}

/// Opens the store: memory, or also Redis.
#[cfg(feature = "redis")]
async fn open_store(args: &Args, home: &Path) -> Result<AnyStore, BoxError> {
    Ok(match args.redis.urls.is_empty() {
        true => Memory::new(args.memory).into(),
        false => redis_store::open(&args.redis, args.memory, home).await?.into(),
    })
}

/// Opens the database: SQLite, or PostgreSQL.
async fn open_database(args: &Args, home: &Path) -> Result<Db, BoxError> {
    #[cfg(feature = "postgres")]
    if let Some(url) = &args.postgres {
        return Db::connect(url, CONNECTIONS)
            .await
            .map_err(|error| format!("cannot use the database of --postgres: {error}").into());
    }
    debug_assert!(args.postgres.is_none());
    Ok(Db::open(&home.join("app.db"), CONNECTIONS)?)
}

/// Fills the database and runs the demonstration, unless `--serve` is given. Then serves forever, unless `--demo` is given.
async fn serve(args: &Args, home: &Path, server: &mut Option<Server>) -> Result<(), BoxError> {
    let listener = listen(args.listen).await?;
    let lock = lock(home).await?;
    #[cfg(feature = "redis")]
    let store = open_store(args, home).await?;
    #[cfg(not(feature = "redis"))]
    let store = Memory::new(args.memory);
    let recorder = prometheus::install()?;
    let cache = if args.serve { caching::cache(store) } else { caching::audited_cache(store) };
    let cache = cache.metrics(prometheus::CACHE);
    let db = open_database(args, home).await?;
    let buckets = Arc::new(Buckets::open(&home.join("buckets"))?);
    seed::fill(&db, Arc::clone(&buckets)).await?;
    drop(lock);
    #[cfg(feature = "postgres")]
    let _listener = match &args.postgres {
        Some(url) if args.listens() => Some(listener::start(url, &cache).await?),
        _ => None,
    };
    let backend = || Arc::new(Backend { db: db.clone(), buckets: Arc::clone(&buckets), calls: Calls::default() });

    let measured = backend();
    let metrics = prometheus::routes(recorder, cache.clone());
    let cached = app::app(Arc::clone(&measured)).layer(cache.layer()).merge(metrics);
    let cached = caching::with_inspector(cached, &cache, args.admin_token.as_deref())?;
    let server = server.insert(Server::start(listener, cached)?);
    if args.admin_token.is_some() {
        println!("Inspector of the cache: http://{}/_cache/", server.address());
    }
    if !args.serve {
        let uncached = Server::start(TcpListener::bind("127.0.0.1:0").await?, app::app(backend()))?;
        demo::run(uncached, server, &cache, &measured, args).await?;
        println!("\nStatistics of the cache:\n{}", cache.stats());
    }
    if args.demo {
        return Ok(());
    }
    demo::print_examples(server).await?;
    std::future::pending().await
}

/// Waits until no other process fills the database. The lock is released when the file is dropped.
async fn lock(home: &Path) -> Result<File, BoxError> {
    let file = File::create(home.join("lock"))?;
    tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await?.map_err(BoxError::from)
}

/// Binds the given address, or else port 3000, or else a free port.
async fn listen(address: Option<SocketAddr>) -> Result<TcpListener, BoxError> {
    match address {
        Some(address) => {
            TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}").into())
        }
        None => match TcpListener::bind("127.0.0.1:3000").await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(TcpListener::bind("127.0.0.1:0").await?),
            other => Ok(other?),
        },
    }
}

/// Waits for Ctrl-C and, on Unix, for SIGTERM.
async fn shutdown_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = interrupt => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    let _ = interrupt.await;
}

/// The directory of the database and the files. A temporary directory is removed when this is dropped.
enum DataDir {
    Permanent(PathBuf),
    Temporary(TempDir),
}

impl DataDir {
    fn new(path: Option<&Path>) -> Result<Self, BoxError> {
        let Some(path) = path else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("backend-example-").tempdir()?));
        };
        std::fs::create_dir_all(path).map_err(|error| format!("cannot use {}: {error}", path.display()))?;
        Ok(Self::Permanent(path.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Permanent(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }
}

impl fmt::Display for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lifetime = match self {
            Self::Permanent(_) => "permanent",
            Self::Temporary(_) => "removed at exit",
        };
        write!(f, "{} ({lifetime})", self.path().display())
    }
}
