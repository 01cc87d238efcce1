//! The clients: reads and writes through all processes, each recorded with its begin, its end and its result.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinSet;

use super::{
    clock::HistoryClock,
    node::{CACHE, INVALIDATION, OPERATION, PATIENCE_OF_HANDLER},
    operation::{Ending, Operation, Process, Source},
    proxies,
};

/// Number of registers. The first ones are read and written more often.
pub const KEYS: u32 = 12;

/// Routes on which a register is read. It is written on the first.
pub const ROUTES: [&str; 3] = ["r", "v", "x"];

/// The host of all requests. The addresses of the processes differ, and the host belongs to the keys of a proxy.
const AUTHORITY: &str = "history";

/// Longest wait for a response: no lock, fence or waiter outlives its deadline (I8).
const PATIENCE: Duration = Duration::from_secs(20);

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
    /// Handlers that stop waiting for their statement, per hundred writes.
    pub losing: u32,
    /// Routes on which registers are read.
    pub routes: &'static [&'static str],
}

/// The interruption of a write, unless it ends before.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    /// The client disconnects after this time.
    Disconnect(Duration),
    /// The handler stops waiting for its statement after this time.
    LostOutcome(Duration),
}

impl Mix {
    fn interruption(self, random: &mut fastrand::Rng) -> Option<Interruption> {
        let (chance, after) = (random.u32(..100), Duration::from_micros(random.u64(100..15_000)));
        match chance {
            chance if chance < self.disconnecting => Some(Interruption::Disconnect(after)),
            chance if chance < self.disconnecting + self.losing => Some(Interruption::LostOutcome(after)),
            _ => None,
        }
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self { clients: 12, writes: 40, disconnecting: 10, losing: 0, routes: &ROUTES }
    }
}

/// State that clients share.
pub struct Clients {
    http: legacy::Client<HttpConnector, Empty<Bytes>>,
    pub clock: HistoryClock,
    pub targets: Targets,
    /// The processes are proxies, which report by `Cache-Status`.
    of_proxies: bool,
    next: AtomicU64,
    hits: AtomicU64,
}

impl Clients {
    pub fn new(clock: HistoryClock, of_proxies: bool) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http();
        Self { http, clock, targets: Targets::default(), of_proxies, next: AtomicU64::new(1), hits: AtomicU64::new(0) }
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
        let request = Request::get(format!("http://{address}/{route}/{key}"))
            .header(HOST, AUTHORITY)
            .body(Empty::new())
            .expect("a request");
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

    /// Reads a register again and again, until that is finished.
    pub fn keep_reading(self: &Arc<Self>, node: usize, route: &'static str, key: u32) -> Reading {
        let (clients, stop) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let work = tokio::spawn(async move {
            let mut done = Vec::new();
            while !stopped.load(SeqCst) {
                done.push(clients.read(node, route, key).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            done
        });
        Reading { stop, work }
    }

    /// Writes a register.
    pub async fn write(&self, id: u64, node: usize, key: u32, interruption: Option<Interruption>) -> Operation {
        let (address, process) = self.targets.get(node);
        let begin = self.clock.elapsed();
        let mut request = Request::post(format!("http://{address}/r/{key}")).header(HOST, AUTHORITY).header(OPERATION, id);
        if let Some(Interruption::LostOutcome(after)) = interruption {
            request = request.header(PATIENCE_OF_HANDLER, after.as_micros() as u64);
        }
        let answer = self.send(request.body(Empty::new()).expect("a request"));
        let answer = match interruption {
            Some(Interruption::Disconnect(after)) => tokio::time::timeout(after, answer).await.ok(),
            _ => Some(answer.await),
        };
        let ending = match answer {
            None => Ending::Disconnected,
            Some(Ok((status, headers, text))) => {
                let said = headers.get(INVALIDATION).and_then(|word| word.to_str().ok());
                match (status, said.unwrap_or("nothing"), version_in(&text, key)) {
                    (StatusCode::OK, "delivered", Some(version)) => Ending::Written { version, delivered: true },
                    (StatusCode::OK, "undelivered", Some(version)) => Ending::Written { version, delivered: false },
                    (StatusCode::SERVICE_UNAVAILABLE, "not-fenced", _) => Ending::NotFenced,
                    (StatusCode::GATEWAY_TIMEOUT, ..) if matches!(interruption, Some(Interruption::LostOutcome(_))) => {
                        Ending::Lost
                    }
                    (StatusCode::OK, "nothing", Some(version)) if self.of_proxies => {
                        proxies::ending_of_write(&headers, version)
                    }
                    (StatusCode::SERVICE_UNAVAILABLE, "nothing", _) if self.of_proxies => proxies::ending_of_write(&headers, 0),
                    _ => Ending::Failed(format!("{status}, clearing {said:?}: {text}")),
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
        None => proxies::source(headers),
        Some(b"hit" | b"stale" | b"collapsed") => Source::Store,
        _ => Source::Database,
    }
}

/// A client that reads one register again and again.
pub struct Reading {
    stop: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<Vec<Operation>>,
}

impl Reading {
    /// Stops the client. Returns its operations.
    pub async fn finish(self) -> Vec<Operation> {
        self.stop.store(true, SeqCst);
        self.work.await.expect("a client does not panic")
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
            clients.write(clients.number(), node, key, mix.interruption(&mut random)).await
        } else {
            clients.read(node, mix.routes[random.usize(..mix.routes.len())], key).await
        };
        // A client does not retry an unreachable process at once.
        let failed = matches!(operation.ending, Ending::Failed(_));
        done.push(operation);
        let pause = if failed { 10_000 } else { random.u64(0..2_000) };
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }
    done
}
