//! What many stores in other processes report to the checker. A report that was sent before its process was killed counts.

use std::{
    net::SocketAddr,
    str::SplitWhitespace,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::watch,
};

use super::{
    operation::{Ending, Operation, Process},
    rig::until,
    seen::{Seen, Summary},
};

/// What a process was told, and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Running,
    /// All its clients have stopped.
    Stopped,
    /// Its clients have read everything again.
    Looked,
    /// The process has ended.
    Gone,
}

/// A read at the end of a history.
#[derive(Debug)]
pub struct LastRead {
    pub process: Process,
    pub path: String,
    pub key: u32,
    pub version: u64,
}

/// All reports of a history.
#[derive(Debug, Default)]
pub struct Reports {
    pub summary: Summary,
    /// Writes, and requests that failed.
    pub operations: Vec<Operation>,
    pub last_reads: Vec<LastRead>,
    pub reads: u64,
    pub hits: u64,
    /// The stores that have ever reported.
    pub stores: u64,
}

/// Receives reports.
pub struct Recorder {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    reports: Mutex<Reports>,
    reporters: Mutex<Vec<Reporter>>,
}

/// A process that reports.
struct Reporter {
    orders: OwnedWriteHalf,
    phase: watch::Receiver<Phase>,
}

impl Shared {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().expect("never held over a panic")
    }
}

impl Recorder {
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((connection, _)) = socket.accept().await {
                    let (input, orders) = connection.into_split();
                    let (phase, seen) = watch::channel(Phase::default());
                    shared.reporters.lock().expect("never held over a panic").push(Reporter { orders, phase: seen });
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let mut lines = BufReader::new(input).lines();
                        let mut process = Process { node: 0, run: 0, store: 0 };
                        while let Ok(Some(line)) = lines.next_line().await {
                            // A process that was killed leaves a part of a line.
                            if line.ends_with('.') {
                                take(&shared, &mut process, &line[..line.len() - 1], &phase);
                            }
                        }
                        phase.send_replace(Phase::Gone);
                    });
                }
            }
        });
        Self { address, shared }
    }

    /// Returns the numbers of reads and of hits so far.
    pub fn counts(&self) -> (u64, u64) {
        let reports = self.shared.reports();
        (reports.reads, reports.hits)
    }

    /// Stops all clients, and returns when nothing more is reported by them.
    pub async fn stop(&self) {
        self.order("stop", Phase::Stopped).await;
    }

    /// Lets each store read every register on every route. Returns all reports.
    pub async fn finish(&self) -> Reports {
        self.order("look", Phase::Looked).await;
        std::mem::take(&mut self.shared.reports())
    }

    async fn order(&self, word: &str, done: Phase) {
        let mut reporters = std::mem::take(&mut *self.shared.reporters.lock().expect("never held over a panic"));
        for reporter in &mut reporters {
            // A process that has ended takes no orders.
            let _ = reporter.orders.write_all(format!("{word}\n").as_bytes()).await;
        }
        until("all stores have done as they were told", async || reporters.iter().all(|one| *one.phase.borrow() >= done)).await;
        reporters.retain(|one| *one.phase.borrow() != Phase::Gone);
        self.shared.reporters.lock().expect("never held over a panic").extend(reporters);
    }
}

/// Takes one report of a process.
fn take(shared: &Shared, process: &mut Process, line: &str, phase: &watch::Sender<Phase>) {
    let mut words = line.split_whitespace();
    let kind = words.next().expect("a report begins with its kind");
    let mut reports = shared.reports();
    match kind {
        "process" => {
            *process = Process { node: number(&mut words) as usize, run: number(&mut words) as u32, store: 0 };
            reports.stores += number(&mut words);
        }
        "seen" => {
            let process = store(*process, &mut words);
            let (key, version) = (number(&mut words) as u32, number(&mut words));
            let seen = Seen {
                latest_from_store: time(&mut words),
                latest_from_database: time(&mut words),
                earliest_end: time(&mut words),
            };
            reports.summary.add(process, key, version, seen);
            reports.reads += number(&mut words);
            reports.hits += number(&mut words);
        }
        "operation" => {
            let process = store(*process, &mut words);
            let (id, key) = (number(&mut words), number(&mut words) as u32);
            let begin = time(&mut words).expect("an operation has begun");
            let end = time(&mut words).expect("an operation has ended");
            let ending = match words.next().expect("an ending") {
                "delivered" => Ending::Written { version: number(&mut words), delivered: true },
                "undelivered" => Ending::Written { version: number(&mut words), delivered: false },
                "not-fenced" => Ending::NotFenced,
                "disconnected" => Ending::Disconnected,
                _ => Ending::Failed(words.collect::<Vec<_>>().join(" ")),
            };
            reports.operations.push(Operation { id, key, process, begin, end, ending });
        }
        "last" => {
            let process = store(*process, &mut words);
            let path = words.next().expect("a path").to_owned();
            let (key, version) = (number(&mut words) as u32, number(&mut words));
            reports.last_reads.push(LastRead { process, path, key, version });
        }
        "stopped" => drop(phase.send_replace(Phase::Stopped)),
        "looked" => drop(phase.send_replace(Phase::Looked)),
        other => panic!("{other:?} is no report"),
    }
}

fn store(process: Process, words: &mut SplitWhitespace<'_>) -> Process {
    Process { store: number(words) as u32, ..process }
}

fn number(words: &mut SplitWhitespace<'_>) -> u64 {
    words.next().and_then(|word| word.parse().ok()).expect("a number")
}

/// Returns a time, or `None` for `-`.
fn time(words: &mut SplitWhitespace<'_>) -> Option<Duration> {
    match words.next().expect("a time") {
        "-" => None,
        nanos => Some(Duration::from_nanos(nanos.parse().expect("nanoseconds"))),
    }
}

/// Returns the word for a time in a report.
pub fn time_word(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".into(), |time| time.as_nanos().to_string())
}

/// The connection of a process to its recorder.
pub async fn connect(address: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(address).await.expect("the recorder listens");
    let _ = connection.set_nodelay(true);
    connection
}
