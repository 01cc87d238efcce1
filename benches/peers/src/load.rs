//! Many tasks on one or two threads, and what they cost: CPU time, which a busy machine disturbs least, and requests a second.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Empty;
use rustix::time::ClockId;
use tokio::task::{LocalSet, yield_now};
use tower_response_cache_cost::work::{fresh_item, request};
use tower_service::Service;

use crate::{
    drive::{runtime, send},
    inner::asked,
    times::processor,
};

/// How many tasks each thread has.
pub const TASKS: usize = 64;

/// How many requests are made up beforehand; then they come again.
const MADE_UP: usize = 1 << 20;

/// What one thread asks for. Its targets are its own: threads share nothing but the cache.
pub struct Asks {
    targets: Vec<Uri>,
    order: Vec<u32>,
}

impl Asks {
    /// Key `k` is asked for in proportion to `1 / (k + 1)^exponent`; an exponent of 0 asks for all alike.
    pub fn zipf(keys: u64, exponent: f64, seed: u64) -> Self {
        let mut sum = 0.0;
        let mut upto = Vec::new();
        for rank in 1..=keys {
            sum += (rank as f64).powf(-exponent);
            upto.push(sum);
        }
        let mut random = Rng::with_seed(seed);
        let mut draw = || {
            let point = random.f64() * sum;
            upto.partition_point(|&end| end <= point).min(upto.len() - 1) as u32
        };
        Self { targets: (0..keys).map(fresh_item).collect(), order: (0..MADE_UP).map(|_| draw()).collect() }
    }

    fn target(&self, n: usize) -> Uri {
        self.targets[self.order[n % MADE_UP] as usize].clone()
    }
}

/// For how long, and who asks for what.
pub struct Round<'a> {
    pub span: Duration,
    /// What each thread asks for, from which of its requests on.
    pub threads: &'a [Arc<Asks>],
    pub from: usize,
}

/// What came of a round.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    pub requests: u64,
    /// How many of them the inner service answered.
    pub answered: u64,
    pub wall: Duration,
    pub cpu: Duration,
}

impl Tally {
    /// Nanoseconds of the process for one request.
    pub fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.requests as f64
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.wall.as_secs_f64()
    }

    /// The share of its processors that each thread had: less than all of it if others used them too.
    pub fn share(&self, threads: usize) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64() / threads as f64
    }

    /// The share of requests that the inner service did not answer.
    pub fn hit_ratio(&self) -> f64 {
        1.0 - self.answered as f64 / self.requests as f64
    }
}

/// A service under load.
pub struct Candidate {
    pub name: &'static str,
    run: Box<dyn Fn(&Round) -> Tally>,
}

impl Candidate {
    /// One of this name, which is sent such requests.
    pub fn new<S, R, B>(name: &'static str, service: S, ask: fn(Request<Empty<Bytes>>) -> Request<R>) -> Self
    where
        S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
        R: 'static,
        B: Body<Data = Bytes>,
    {
        Self { name, run: Box::new(move |round| run(round, &service, ask)) }
    }

    /// Goes through a round.
    pub fn run(&self, round: &Round) -> Tally {
        (self.run)(round)
    }
}

fn run<S, R, B>(round: &Round, service: &S, ask: fn(Request<Empty<Bytes>>) -> Request<R>) -> Tally
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let (barrier, stop) = (Barrier::new(round.threads.len() + 1), Arc::new(AtomicBool::new(false)));
    let cpu = processor(ClockId::ProcessCPUTime);
    let (mut requests, mut answered, mut wall) = (0, 0, Duration::ZERO);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for asks in round.threads {
            let (service, barrier, stop) = (service.clone(), &barrier, stop.clone());
            workers.push(scope.spawn(move || {
                barrier.wait();
                work(asks, round.from, &stop, service, ask)
            }));
        }
        barrier.wait();
        let began = Instant::now();
        thread::sleep(round.span);
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            let (made, seen) = worker.join().expect("a worker ended well");
            requests += made;
            answered += seen;
        }
        wall = began.elapsed();
    });
    Tally { requests, answered, wall, cpu: processor(ClockId::ProcessCPUTime) - cpu }
}

/// What one thread does. Returns how many requests it made, and how many of them the inner service answered.
fn work<S, R, B>(
    asks: &Arc<Asks>,
    from: usize,
    stop: &Arc<AtomicBool>,
    service: S,
    ask: fn(Request<Empty<Bytes>>) -> Request<R>,
) -> (u64, u64)
where
    S: Service<Request<R>, Response = Response<B>> + Clone + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let before = asked().answered;
    let (next, made) = (Rc::new(Cell::new(from)), Rc::new(Cell::new(0)));
    let (runtime, local) = (runtime(), LocalSet::new());
    let task = |_| {
        let (asks, stop, mut service) = (asks.clone(), stop.clone(), service.clone());
        let (next, made) = (next.clone(), made.clone());
        local.spawn_local(async move {
            while !stop.load(Ordering::Relaxed) {
                let n = next.replace(next.get() + 1);
                send(&mut service, ask(request(asks.target(n)))).await;
                made.set(made.get() + 1);
                yield_now().await;
            }
        })
    };
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
    local.block_on(&runtime, async {
        for task in tasks {
            task.await.expect("a task ended well");
        }
    });
    (made.get(), asked().answered - before)
}
