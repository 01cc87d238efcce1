//! An application that a response cache was made for: an axum service over SQLite and a disk, which measures itself without and with
//! the cache. `cargo run --release --example backend`, and `-- --help` for its flags. With the feature `redis`, several processes over
//! one database can share the cache.
//!
//! Read [`caching`] for how a cache joins an application, [`app`] for the routes, [`auth`], [`tables`] and [`storage`] for what is
//! behind them, and [`drive`] for how the figures come about. A test can include this file as a module, which is why the modules
//! below are open to the crate and never say `crate::`.

pub(crate) mod app;
pub(crate) mod args;
pub(crate) mod auth;
pub(crate) mod buckets;
pub(crate) mod caching;
pub(crate) mod client;
pub(crate) mod db;
pub(crate) mod demo;
pub(crate) mod drive;
pub(crate) mod error;
pub(crate) mod extract;
pub(crate) mod hash;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod query;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod seed;
pub(crate) mod serve;
pub(crate) mod session;
#[cfg(feature = "redis")]
pub(crate) mod shared;
pub(crate) mod stats;
pub(crate) mod storage;
pub(crate) mod tables;
pub(crate) mod tour;
pub(crate) mod user;

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
use tower_response_cache::{Memory, Store};

use app::{Backend, Calls};
use args::Args;
use buckets::Buckets;
use db::Db;
use serve::Server;

/// What ends the program early.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

const CONNECTIONS: usize = 4;

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
    match Runtime::new().map_err(Fault::from).and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// Everything from the first file to the last, whether it ends by itself or by Ctrl-C.
async fn run(args: Args) -> Result<(), Fault> {
    let home = Home::new(args.db.as_deref())?;
    println!("Data in {home}");
    let mut server = None;
    let outcome = tokio::select! {
        outcome = work(&args, home.path(), &mut server) => outcome,
        () = interrupted() => Ok(()),
    };
    if let Some(server) = server {
        println!("\nStopping");
        server.stop().await;
    }
    outcome
}

/// Chooses the store, and goes on with it.
async fn work(args: &Args, home: &Path, server: &mut Option<Server>) -> Result<(), Fault> {
    let listener = listen(args.listen).await?;
    let turn = turn(home).await?;
    #[cfg(feature = "redis")]
    if !args.redis.urls.is_empty() {
        let store = shared::open(&args.redis, args.memory, home).await?;
        return work_with(store, args, listener, home, turn, server).await;
    }
    work_with(Memory::new(args.memory), args, listener, home, turn, server).await
}

/// Sets up, demonstrates unless told not to, and serves for ever.
async fn work_with(
    store: impl Store,
    args: &Args,
    listener: TcpListener,
    home: &Path,
    turn: File,
    server: &mut Option<Server>,
) -> Result<(), Fault> {
    let db = Db::open(&home.join("app.db"), CONNECTIONS)?;
    let buckets = Arc::new(Buckets::open(&home.join("buckets"))?);
    seed::fill(&db, Arc::clone(&buckets)).await?;
    drop(turn);
    let backend = || Arc::new(Backend { db: db.clone(), buckets: Arc::clone(&buckets), calls: Calls::default() });

    let measured = backend();
    let cached = caching::cached(app::app(Arc::clone(&measured)), &store);
    let server = server.insert(Server::start(listener, cached)?);
    if !args.serve {
        let bare = Server::start(TcpListener::bind("127.0.0.1:0").await?, app::app(backend()))?;
        demo::run(bare, server, &store, &measured.calls, args.measure).await?;
        println!("\nWhat the store counted:\n{}", store.stats());
    }
    demo::invite(server).await?;
    std::future::pending().await
}

/// Waits until no other process sets up in this place; none does until the file is dropped.
async fn turn(home: &Path) -> Result<File, Fault> {
    let file = File::create(home.join("lock"))?;
    tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await?.map_err(Fault::from)
}

/// The wanted address; or if none is wanted, the usual one, or any.
async fn listen(wanted: Option<SocketAddr>) -> Result<TcpListener, Fault> {
    match wanted {
        Some(address) => {
            TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}").into())
        }
        None => match TcpListener::bind("127.0.0.1:3000").await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(TcpListener::bind("127.0.0.1:0").await?),
            other => Ok(other?),
        },
    }
}

/// Returns at Ctrl-C; on Unix, also when asked to terminate.
async fn interrupted() {
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

/// Where the data are. A temporary place is removed when this is dropped.
enum Home {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Home {
    fn new(wanted: Option<&Path>) -> Result<Self, Fault> {
        let Some(path) = wanted else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("backend-example-").tempdir()?));
        };
        std::fs::create_dir_all(path).map_err(|error| format!("cannot use {}: {error}", path.display()))?;
        Ok(Self::Kept(path.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self {
            Self::Kept(_) => "kept",
            Self::Temporary(_) => "removed at the end",
        };
        write!(f, "{} ({end})", self.path().display())
    }
}
