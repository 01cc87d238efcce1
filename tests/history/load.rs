//! The clients: reads and writes against all processes, each recorded with its begin, its end and what came of it.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
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
    node::{CACHE, CLEARING, OPERATION},
};

/// How many registers there are. The first ones are asked for, and written, more often.
pub const KEYS: u32 = 12;

/// The roads on which a register is read; it is written on the first.
pub const ROADS: [&str; 3] = ["r", "v", "x"];

/// How long an answer may take before nobody expects it any more: no lock, fence or waiter outlives its deadline (I8).
const PATIENCE: Duration = Duration::from_secs(20);

/// One request and what came of it. Times are by the clock of the history.
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
    /// Acknowledged; `delivered` if all stores knew of it by then.
    Written {
        version: u64,
        delivered: bool,
    },
    /// Refused before anything was done.
    NotFenced,
    /// The client has gone away.
    Left,
    Failed(String),
}

/// Who answered a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A stored response, or what another request was fetching.
    Store,
    /// The inner service, for this request.
    Database,
}

/// Where the processes are at the moment.
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

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub clients: usize,
    /// Of a thousand requests, so many write.
    pub writes: u32,
    /// Of a hundred writers, so many go away before they are answered.
    pub leavers: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self { clients: 12, writes: 40, leavers: 10 }
    }
}

/// All that clients share.
pub struct Clients {
    http: legacy::Client<HttpConnector, Empty<Bytes>>,
    pub clock: Instant,
    pub targets: Targets,
    next: AtomicU64,
}

impl Clients {
    pub fn new(clock: Instant) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http();
        Self { http, clock, targets: Targets::default(), next: AtomicU64::new(1) }
    }

    /// One answer: its status, its header and its text.
    pub async fn ask(&self, request: Request<Empty<Bytes>>) -> Result<(StatusCode, HeaderMap, String), String> {
        let answered = async {
            let response = self.http.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            Ok((head.status, head.headers, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    }

    /// The number of another operation.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, SeqCst)
    }

    pub async fn read(&self, node: usize, road: &str, key: u32) -> Operation {
        let (address, process) = self.targets.get(node);
        let request = Request::get(format!("http://{address}/{road}/{key}")).body(Empty::new()).expect("a request");
        let (id, begin) = (self.number(), self.clock.elapsed());
        let ending = match self.ask(request).await {
            Ok((StatusCode::OK, headers, text)) => match version_in(&text, key) {
                Some(version) => Ending::Read { version, source: source(&headers) },
                None => Ending::Failed(format!("the answer is {text:?}")),
            },
            Ok((status, _, text)) => Ending::Failed(format!("{status}: {text}")),
            Err(error) => Ending::Failed(error),
        };
        Operation { id, key, process, begin, end: self.clock.elapsed(), ending }
    }

    /// `leaves`: the client does so after that time, if it is not answered before.
    pub async fn write(&self, id: u64, node: usize, key: u32, leaves: Option<Duration>) -> Operation {
        let (address, process) = self.targets.get(node);
        let begin = self.clock.elapsed();
        let request = Request::post(format!("http://{address}/r/{key}")).header(OPERATION, id).body(Empty::new());
        let answer = self.ask(request.expect("a request"));
        let answer = match leaves {
            Some(after) => tokio::time::timeout(after, answer).await.ok(),
            None => Some(answer.await),
        };
        let ending = match answer {
            None => Ending::Left,
            Some(Ok((status, headers, text))) => {
                let clearing = headers.get(CLEARING).and_then(|word| word.to_str().ok()).unwrap_or("nothing");
                match (status, clearing, version_in(&text, key)) {
                    (StatusCode::OK, "delivered", Some(version)) => Ending::Written { version, delivered: true },
                    (StatusCode::OK, "undelivered", Some(version)) => Ending::Written { version, delivered: false },
                    (StatusCode::SERVICE_UNAVAILABLE, "not-fenced", _) => Ending::NotFenced,
                    _ => Ending::Failed(format!("{status}, clearing {clearing}: {text}")),
                }
            }
            Some(Err(error)) => Ending::Failed(error),
        };
        Operation { id, key, process, begin, end: self.clock.elapsed(), ending }
    }
}

/// The version in an answer, if it is one about this key.
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

/// Clients at work until they are told to stop.
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

    /// Everything that was done, once the last has been answered.
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
            let leaves = (random.u32(..100) < mix.leavers).then(|| Duration::from_micros(random.u64(100..15_000)));
            clients.write(clients.number(), node, key, leaves).await
        } else {
            clients.read(node, ROADS[random.usize(..ROADS.len())], key).await
        };
        // Nobody comes back at once to where nobody is.
        let failed = matches!(operation.ending, Ending::Failed(_));
        done.push(operation);
        let pause = if failed { 10_000 } else { random.u64(0..2_000) };
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }
    done
}
