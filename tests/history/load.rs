//! The clients: reads and writes through all processes, each recorded with its begin, its end and its result.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinSet;

use super::{
    check::Process,
    clock::HistoryClock,
    node::{CACHE, INVALIDATION, OPERATION},
};

/// Number of registers. The first ones are read and written more often.
pub const KEYS: u32 = 12;

/// Routes on which a register is read. It is written on the first.
pub const ROUTES: [&str; 3] = ["r", "v", "x"];

/// Longest wait for a response: no lock, fence or waiter outlives its deadline (I8).
const PATIENCE: Duration = Duration::from_secs(20);

/// One request and its result. Times are by the clock of the history.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: u64,
    pub key: u32,
    pub process: Process,
    pub begin: Duration,
    pub end: Duration,
    pub ending: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Read {
        version: u64,
        source: Source,
    },
    /// Acknowledged. `delivered`: all stores knew of the invalidation by then.
    Written {
        version: u64,
        delivered: bool,
    },
    /// Refused before the write was executed.
    NotFenced,
    /// The client has disconnected.
    Disconnected,
    Failed(String),
}

/// Source of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A stored response, or the fill of another request.
    Store,
    /// The inner service, for this request.
    Database,
}

/// Current addresses of the processes.
#[derive(Default)]
pub struct Targets(RwLock<Vec<(String, Process)>>);

impl Targets {
    pub fn set(&self, address: String, process: Process) {
        let mut all = self.0.write().expect("never held over a panic");
        match all.get_mut(process.node) {
            Some(target) => *target = (address, process),
            None => all.push((address, process)),
        }
    }

    pub fn get(&self, node: usize) -> (String, Process) {
        self.0.read().expect("never held over a panic")[node].clone()
    }

    pub fn count(&self) -> usize {
        self.0.read().expect("never held over a panic").len()
    }
}

/// Behaviour of the clients.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub clients: usize,
    /// Writes per thousand requests.
    pub writes: u32,
    /// Disconnects per hundred writes.
    pub disconnecting: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self { clients: 12, writes: 40, disconnecting: 10 }
    }
}

/// State that clients share.
pub struct Clients {
    http: legacy::Client<HttpConnector, Empty<Bytes>>,
    pub clock: HistoryClock,
    pub targets: Targets,
    next: AtomicU64,
    hits: AtomicU64,
}

impl Clients {
    pub fn new(clock: HistoryClock) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http();
        Self { http, clock, targets: Targets::default(), next: AtomicU64::new(1), hits: AtomicU64::new(0) }
    }

    /// Sends a request. Returns status, headers and text of the response.
    pub async fn send(&self, request: Request<Empty<Bytes>>) -> Result<(StatusCode, HeaderMap, String), String> {
        let answered = async {
            let response = self.http.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            Ok((head.status, head.headers, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| Err(format!("no response within {PATIENCE:?}")))
    }

    /// Returns the number of a new operation.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, SeqCst)
    }

    /// Number of reads served from the store.
    pub fn hits(&self) -> u64 {
        self.hits.load(SeqCst)
    }

    pub async fn read(&self, node: usize, route: &str, key: u32) -> Operation {
        let (address, process) = self.targets.get(node);
        let request = Request::get(format!("http://{address}/{route}/{key}")).body(Empty::new()).expect("a request");
        let (id, begin) = (self.number(), self.clock.elapsed());
        let ending = match self.send(request).await {
            Ok((StatusCode::OK, headers, text)) => match version_in(&text, key) {
                Some(version) => {
                    let source = source(&headers);
                    self.hits.fetch_add(u64::from(source == Source::Store), SeqCst);
                    Ending::Read { version, source }
                }
                None => Ending::Failed(format!("the response is {text:?}")),
            },
            Ok((status, _, text)) => Ending::Failed(format!("{status}: {text}")),
            Err(error) => Ending::Failed(error),
        };
        Operation { id, key, process, begin, end: self.clock.elapsed(), ending }
    }

    /// Writes a register. `disconnects_after`: the client disconnects after that time, unless it gets the response before.
    pub async fn write(&self, id: u64, node: usize, key: u32, disconnects_after: Option<Duration>) -> Operation {
        let (address, process) = self.targets.get(node);
        let begin = self.clock.elapsed();
        let request = Request::post(format!("http://{address}/r/{key}")).header(OPERATION, id).body(Empty::new());
        let answer = self.send(request.expect("a request"));
        let answer = match disconnects_after {
            Some(after) => tokio::time::timeout(after, answer).await.ok(),
            None => Some(answer.await),
        };
        let ending = match answer {
            None => Ending::Disconnected,
            Some(Ok((status, headers, text))) => {
                let invalidation = headers.get(INVALIDATION).and_then(|word| word.to_str().ok()).unwrap_or("nothing");
                match (status, invalidation, version_in(&text, key)) {
                    (StatusCode::OK, "delivered", Some(version)) => Ending::Written { version, delivered: true },
                    (StatusCode::OK, "undelivered", Some(version)) => Ending::Written { version, delivered: false },
                    (StatusCode::SERVICE_UNAVAILABLE, "not-fenced", _) => Ending::NotFenced,
                    _ => Ending::Failed(format!("{status}, clearing {invalidation}: {text}")),
                }
            }
            Some(Err(error)) => Ending::Failed(error),
        };
        Operation { id, key, process, begin, end: self.clock.elapsed(), ending }
    }
}

/// Returns the version in a response about this key.
fn version_in(text: &str, key: u32) -> Option<u64> {
    let (of, version) = text.split_once(' ')?;
    (of.parse() == Ok(key)).then(|| version.parse().ok())?
}

fn source(headers: &HeaderMap) -> Source {
    match headers.get(CACHE).map(|word| word.as_bytes()) {
        Some(b"hit" | b"stale" | b"collapsed") => Source::Store,
        _ => Source::Database,
    }
}

/// Clients that run until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    work: JoinSet<Vec<Operation>>,
}

impl Load {
    pub fn start(clients: &Arc<Clients>, mix: Mix, random: &mut fastrand::Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut work = JoinSet::new();
        for _ in 0..mix.clients {
            work.spawn(client(clients.clone(), mix, random.fork(), stop.clone()));
        }
        Self { stop, work }
    }

    /// Stops the clients. Returns their operations.
    pub async fn finish(mut self) -> Vec<Operation> {
        self.stop.store(true, SeqCst);
        let mut all = Vec::new();
        while let Some(done) = self.work.join_next().await {
            all.extend(done.expect("a client does not panic"));
        }
        all
    }
}

async fn client(clients: Arc<Clients>, mix: Mix, mut random: fastrand::Rng, stop: Arc<AtomicBool>) -> Vec<Operation> {
    let mut done = Vec::new();
    while !stop.load(SeqCst) {
        let node = random.usize(..clients.targets.count());
        let key = random.u32(..KEYS).min(random.u32(..KEYS));
        let operation = if random.u32(..1000) < mix.writes {
            let disconnects_after =
                (random.u32(..100) < mix.disconnecting).then(|| Duration::from_micros(random.u64(100..15_000)));
            clients.write(clients.number(), node, key, disconnects_after).await
        } else {
            clients.read(node, ROUTES[random.usize(..ROUTES.len())], key).await
        };
        // A client does not retry an unreachable process at once.
        let failed = matches!(operation.ending, Ending::Failed(_));
        done.push(operation);
        let pause = if failed { 10_000 } else { random.u64(0..2_000) };
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }
    done
}
