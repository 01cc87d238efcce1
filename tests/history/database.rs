//! The database: registers that count their writes, in the process of the checker, which therefore knows the time of each
//! commit.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{clock::HistoryClock, operation::Commit};

/// Registers behind a socket. Statements are `read KEY` and `write KEY OPERATION`. Both return the version, which a write
/// increments. A statement that has arrived is executed, whether or not a client waits for its result.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

struct Shared {
    clock: HistoryClock,
    address: SocketAddr,
    rows: Mutex<Rows>,
    running: AtomicUsize,
}

struct Rows {
    versions: HashMap<u32, u64>,
    log: Vec<Commit>,
    /// Operations whose statement waits for some time before it commits.
    slow: HashMap<u64, Duration>,
    random: fastrand::Rng,
}

impl Database {
    pub async fn start(clock: HistoryClock, seed: u64) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let rows =
            Rows { versions: HashMap::new(), log: Vec::new(), slow: HashMap::new(), random: fastrand::Rng::with_seed(seed) };
        let shared = Arc::new(Shared {
            clock,
            address: socket.local_addr().expect("its address"),
            rows: Mutex::new(rows),
            running: AtomicUsize::new(0),
        });
        tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((connection, _)) = socket.accept().await {
                    tokio::spawn(serve(shared.clone(), connection));
                }
            }
        });
        Self { shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Executes a statement to its end, whether or not the future is dropped. Returns the version.
    pub async fn execute(&self, statement: String) -> u64 {
        let shared = self.shared.clone();
        shared.running.fetch_add(1, SeqCst);
        let work = tokio::spawn(async move {
            let version = shared.execute(&statement).await;
            shared.running.fetch_sub(1, SeqCst);
            version
        });
        work.await.expect("a statement does not panic")
    }

    /// Returns whether a statement has arrived that is not executed yet.
    pub fn is_busy(&self) -> bool {
        self.shared.running.load(SeqCst) > 0
    }

    pub fn version(&self, key: u32) -> u64 {
        self.shared.rows().versions.get(&key).copied().unwrap_or(0)
    }

    /// Returns whether a recent operation has committed.
    pub fn has_committed(&self, operation: u64) -> bool {
        self.shared.rows().log.iter().rev().take(1_000).any(|commit| commit.operation == operation)
    }

    /// Lets the statement of an operation wait before it commits.
    pub fn slow_down(&self, operation: u64, time: Duration) {
        self.shared.rows().slow.insert(operation, time);
    }

    /// Returns all commits in order.
    pub fn log(&self) -> Vec<Commit> {
        self.shared.rows().log.clone()
    }
}

impl Shared {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().expect("never held over a panic")
    }

    /// Waits for a random time: mostly short, sometimes long enough to be overtaken.
    async fn pause(&self) {
        let time = {
            let random = &mut self.rows().random;
            let most = if random.u8(..) < 24 { 40_000 } else { 3_000 };
            random.u64(0..most)
        };
        tokio::time::sleep(Duration::from_micros(time)).await;
    }

    async fn execute(&self, statement: &str) -> u64 {
        let mut words = statement.split_whitespace();
        let verb = words.next();
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a statement of words and numbers");
        let key = number() as u32;
        self.pause().await;
        let version = match verb {
            Some("read") => self.rows().versions.get(&key).copied().unwrap_or(0),
            Some("write") => {
                let operation = number();
                let slow = self.rows().slow.remove(&operation);
                if let Some(time) = slow {
                    tokio::time::sleep(time).await;
                }
                self.commit(key, operation)
            }
            _ => panic!("{statement:?} is no statement"),
        };
        self.pause().await;
        version
    }

    fn commit(&self, key: u32, operation: u64) -> u64 {
        let mut rows = self.rows();
        let version = rows.versions.entry(key).or_insert(0);
        *version += 1;
        let version = *version;
        let at = self.clock.elapsed();
        rows.log.push(Commit { key, version, at, operation });
        version
    }
}

async fn serve(shared: Arc<Shared>, mut connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let (read, mut write) = connection.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(statement)) = lines.next_line().await {
        shared.running.fetch_add(1, SeqCst);
        let version = shared.execute(&statement).await;
        shared.running.fetch_sub(1, SeqCst);
        if write.write_all(format!("{version}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
