//! Load by many tasks on one or two threads, measured in requests per second and in CPU time, which other processes disturb least.

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
use tower::Service;
use tower_response_cache_cost::work::{nth_item, request};

use crate::{
    client::{runtime, send},
    inner::call_count,
    times::processor,
};

/// The number of tasks of each thread.
pub const TASKS: usize = 64;

/// The number of requests generated in advance. The sequence then repeats.
const ORDER_LENGTH: usize = 1 << 20;

/// The requests of one thread. Threads share nothing but the cache.
pub struct Workload {
    targets: Vec<Uri>,
    order: Vec<u32>,
}

impl Workload {
    /// Generates requests for key `k` in proportion to `1 / (k + 1)^exponent`. An exponent of 0 is a uniform distribution.
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
        Self { targets: (0..keys).map(nth_item).collect(), order: (0..ORDER_LENGTH).map(|_| draw()).collect() }
    }

    fn target(&self, n: usize) -> Uri {
        self.targets[self.order[n % ORDER_LENGTH] as usize].clone()
    }
}

/// A period of load.
pub struct Round<'a> {
    pub duration: Duration,
    /// The requests of each thread, and the position of its first request.
    pub threads: &'a [Arc<Workload>],
    pub from: usize,
}

/// The result of a round.
#[derive(Debug, Clone, Copy)]
pub struct RoundResult {
    pub requests: u64,
    /// The number of responses computed by the inner service.
    pub responded: u64,
    pub wall: Duration,
    pub cpu: Duration,
}

impl RoundResult {
    /// Returns the CPU time of the process per request, in nanoseconds.
    pub fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.requests as f64
    }

    /// Returns the requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.wall.as_secs_f64()
    }

    /// Returns the CPU share of each thread. It is less than 1 if other processes used the processors, too.
    pub fn share(&self, threads: usize) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64() / threads as f64
    }

    /// Returns the share of requests without a response from the inner service.
    pub fn hit_ratio(&self) -> f64 {
        1.0 - self.responded as f64 / self.requests as f64
    }
}

/// A service under load.
pub struct Candidate {
    pub name: &'static str,
    run: Box<dyn Fn(&Round) -> RoundResult>,
}

impl Candidate {
    /// Creates a candidate. `convert` adapts the request to the service.
    pub fn new<S, R, B>(name: &'static str, service: S, convert: fn(Request<Empty<Bytes>>) -> Request<R>) -> Self
    where
        S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
        R: 'static,
        B: Body<Data = Bytes>,
    {
        Self { name, run: Box::new(move |round| run(round, &service, convert)) }
    }

    /// Runs a round.
    pub fn run(&self, round: &Round) -> RoundResult {
        (self.run)(round)
    }
}

fn run<S, R, B>(round: &Round, service: &S, convert: fn(Request<Empty<Bytes>>) -> Request<R>) -> RoundResult
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let (barrier, stop) = (Barrier::new(round.threads.len() + 1), Arc::new(AtomicBool::new(false)));
    let cpu = processor(ClockId::ProcessCPUTime);
    let (mut requests, mut responded, mut wall) = (0, 0, Duration::ZERO);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for workload in round.threads {
            let (service, barrier, stop) = (service.clone(), &barrier, stop.clone());
            workers.push(scope.spawn(move || {
                barrier.wait();
                work(workload, round.from, &stop, service, convert)
            }));
        }
        barrier.wait();
        let began = Instant::now();
        thread::sleep(round.duration);
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            let (made, seen) = worker.join().expect("a worker ended without a panic");
            requests += made;
            responded += seen;
        }
        wall = began.elapsed();
    });
    RoundResult { requests, responded, wall, cpu: processor(ClockId::ProcessCPUTime) - cpu }
}

/// Runs the tasks of one thread. Returns the number of requests and of responses computed by the inner service.
fn work<S, R, B>(
    workload: &Arc<Workload>,
    from: usize,
    stop: &Arc<AtomicBool>,
    service: S,
    convert: fn(Request<Empty<Bytes>>) -> Request<R>,
) -> (u64, u64)
where
    S: Service<Request<R>, Response = Response<B>> + Clone + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let before = call_count().responded;
    let (next, made) = (Rc::new(Cell::new(from)), Rc::new(Cell::new(0)));
    let (runtime, local) = (runtime(), LocalSet::new());
    let task = |_| {
        let (workload, stop, mut service) = (workload.clone(), stop.clone(), service.clone());
        let (next, made) = (next.clone(), made.clone());
        local.spawn_local(async move {
            while !stop.load(Ordering::Relaxed) {
                let n = next.replace(next.get() + 1);
                send(&mut service, convert(request(workload.target(n)))).await;
                made.set(made.get() + 1);
                yield_now().await;
            }
        })
    };
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
    local.block_on(&runtime, async {
        for task in tasks {
            task.await.expect("a task ended without a panic");
        }
    });
    (made.get(), call_count().responded - before)
}
