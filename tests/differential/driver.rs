//! Runs a program: sends its requests, releases the origin's held calls, advances the clock and records the responses.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, UNIX_EPOCH},
};

use tokio::{runtime::Builder, task::JoinHandle};
use tower_response_cache::Clock;

use super::{
    check::{Violation, check},
    held::HeldCalls,
    history::{Call, Expectation, History, Log, SentRequest},
    mutations::Mutation,
    oracle::{self, Terms},
    origin::{CALL, Origin},
    program::{self, Method, Program, RequestSpec, Setup, Step, StoreKind},
    responses::is_big,
    routes::Kind,
    switches,
    system::Process,
};

/// Result of a run.
#[derive(Default)]
pub struct Outcome {
    pub requests: usize,
    pub hits: usize,
    /// Number of requests that had to be hits.
    pub expected_hits: usize,
    pub violation: Option<Violation>,
    /// The origin's calls, described for a report.
    pub calls: Vec<String>,
}

/// Runs a program; `redis` is the URL of a server for those that need one.
pub fn run(program: &Program, mutation: Option<Mutation>, redis: Option<&str>) -> Outcome {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut driver = Driver::new(program, mutation, redis).await;
        for step in &program.steps {
            driver.step(step).await;
            // Only the first violation is reported.
            if driver.mutation.is_none() && driver.stuck {
                break;
            }
        }
        driver.finish().await
    })
}

pub struct Driver {
    pub setup: Setup,
    pub mutation: Option<Mutation>,
    pub log: Log,
    pub held: HeldCalls,
    pub clock: Clock,
    pub processes: Vec<Process>,
    pub clients: Vec<(usize, JoinHandle<()>)>,
    pub stuck: bool,
}

impl Driver {
    async fn new(program: &Program, mutation: Option<Mutation>, redis: Option<&str>) -> Self {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let (log, held, clock) = (Log::default(), HeldCalls::default(), Clock::manual());
        // HTTP dates have whole seconds.
        let nanos = clock.now().duration_since(UNIX_EPOCH).expect("a time").subsec_nanos();
        clock.advance(Duration::from_nanos(1_000_000_000 - u64::from(nanos)));
        let setup = program.setup;
        let two = matches!(setup.store, StoreKind::Redis { two: true, .. });
        let prefix = format!("r{}", RUNS.fetch_add(1, Ordering::Relaxed));
        let mut processes = Vec::new();
        for _ in 0..if two { 2 } else { 1 } {
            let origin = Origin { log: log.clone(), held: held.clone(), clock: clock.clone(), setup };
            processes.push(Process::build(origin, mutation, redis.map(|url| (url, prefix.as_str()))).await);
        }
        Self { setup, mutation, log, held, clock, processes, clients: Vec::new(), stuck: false }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Request(spec) => {
                let expectation = self.expectation(spec);
                self.send(spec, expectation);
                self.settle().await;
            }
            Step::Burst(spec, count) => self.burst(spec, *count).await,
            Step::Release(which) => {
                self.held.release(usize::from(*which));
                self.settle().await;
            }
            Step::Disconnect(which) => {
                let open: Vec<usize> = (0..self.clients.len()).filter(|n| !self.clients[*n].1.is_finished()).collect();
                if let Some(place) = open.get(usize::from(*which) % open.len().max(1)) {
                    let (sent, client) = &self.clients[*place];
                    self.log.lock().requests[*sent].disconnected = true;
                    client.abort();
                    self.settle().await;
                }
            }
            Step::Advance(by) => {
                self.clock.advance(Duration::from_millis(*by));
                self.log.lock().now += by;
            }
            Step::Invalidate { names, soft, process } => self.invalidate(names, *soft, *process).await,
            Step::InvalidateKey(spec) => self.invalidate_key(spec).await,
        }
    }

    /// Returns the oracle's expectation for this request, if nothing else is in progress.
    fn expectation(&self, spec: &RequestSpec) -> Option<Expectation> {
        let log = self.log.lock();
        let quiet =
            (0..log.requests.len()).all(|sent| !log.is_open(sent)) && log.calls.iter().all(|call| call.answered.is_some());
        let idle = quiet && self.processes.iter().all(|process| process.fills() == 0);
        // Over Redis the first fills of a new namespace may not be stored, a documented limit.
        let redis = matches!(self.setup.store, StoreKind::Redis { .. });
        if !idle || redis && spec.rule().rows {
            return None;
        }
        let expectation = oracle::expectation(&self.setup, &log, spec)?;
        match expectation {
            // Redis expires an entry by its own clock, which does not advance with the test's. An entry that had little time left
            // when it was stored is gone.
            Expectation::Hit(number) if redis => {
                let call = &log.calls[number];
                let stored = log.requests[call.request].received.as_ref().map(|received| received.ended);
                let at_once = stored == call.answered.map(|(_, at)| at);
                // Another process learns the difference between the test's clock and Redis's only with its next command.
                let same = log.requests[call.request].spec.process == spec.process || log.now == 0;
                (at_once && same && Terms::of(&log, call).fresh.0 >= 5000).then_some(expectation)
            }
            _ => Some(expectation),
        }
    }

    async fn burst(&mut self, spec: &RequestSpec, count: u8) {
        let mut held = spec.clone();
        held.response.held = true;
        let first = {
            let log = self.log.lock();
            let quiet =
                (0..log.requests.len()).all(|sent| !log.is_open(sent)) && log.calls.iter().all(|call| call.answered.is_some());
            // After an unshareable response of this key, requests do not wait for each other.
            let apart = |call: &Call| {
                let made = &log.requests[call.request].spec;
                oracle::same_key(&self.setup, made, spec)
                    && (Terms::of(&log, call).shared.is_err()
                        || Terms::of(&log, call).fresh.0 <= 0
                        || Terms::of(&log, call).validate_always
                        || call.status != 200
                        || made.response.body != program::Body::Whole
                        || is_big(made))
            };
            let identified = spec.user.is_none() || spec.rule().identity && spec.identity(&self.setup).is_ok();
            let fit = quiet
                && identified
                && spec.method == Method::Get
                && oracle::is_plain(spec)
                && spec.rule().kind != Kind::Uncovered;
            let fit = fit && (switches::ONE_CALL_OVER_REDIS || self.setup.store == StoreKind::Memory);
            (fit && !log.calls.iter().any(apart)).then_some(log.requests.len())
        };
        let begin = self.log.lock().tick;
        for _ in 0..count {
            self.send(&held, first.map(Expectation::OneCall));
        }
        self.settle().await;
        if let Some(first) = first {
            let log = self.log.lock();
            let calls = log.calls.iter().filter(|call| call.begin > begin && call.request >= first).count();
            drop(log);
            if calls > 1 {
                self.log.lock().requests[first].expectation = Some(Expectation::OneCall(calls));
            } else {
                (first..first + usize::from(count)).for_each(|sent| self.log.lock().requests[sent].expectation = None);
            }
        }
        while self.held.release(0) {
            self.settle().await;
        }
    }

    /// Runs all tasks until nothing changes.
    async fn settle(&mut self) {
        let StoreKind::Redis { .. } = self.setup.store else { return self.settle_here().await };
        let begin = Instant::now();
        let (mut last, mut since) = (u64::MAX, begin);
        loop {
            tokio::time::sleep(Duration::from_micros(100)).await;
            let (tick, accounted) = self.state();
            let waiting = self.held.count();
            let fills: u64 = self.processes.iter().map(Process::fills).sum();
            if accounted && fills as usize <= waiting {
                return;
            }
            if tick != last {
                (last, since) = (tick, Instant::now());
            }
            // Followers wait for other requests' calls, which cannot be observed from outside.
            if since.elapsed() > Duration::from_millis(if waiting > 0 { 6 } else { 3000 }) {
                self.stuck |= waiting == 0 && !accounted;
                return;
            }
        }
    }

    async fn settle_here(&mut self) {
        let (mut last, mut quiet) = (u64::MAX, 0);
        while quiet < 10 {
            tokio::task::yield_now().await;
            let tick = self.log.lock().tick;
            quiet = if tick == last { quiet + 1 } else { 0 };
            last = tick;
        }
    }

    /// Returns the last tick, and true if each open request has its own held call or held body.
    fn state(&self) -> (u64, bool) {
        let log: &History = &self.log.lock();
        let open = (0..log.requests.len()).filter(|sent| log.is_open(*sent));
        let held = |spec: &RequestSpec| spec.response.held || spec.response.body == program::Body::Held;
        let accounted = open
            .map(|sent| (sent, &log.requests[sent].spec))
            .all(|(sent, spec)| held(spec) && log.calls.iter().any(|call| call.request == sent));
        (log.tick, accounted)
    }

    async fn finish(mut self) -> Outcome {
        // A delayed call may still arrive and be held.
        let begin = Instant::now();
        let mut idle = 0;
        while idle < 2 && begin.elapsed() < Duration::from_secs(20) {
            self.settle().await;
            let open = self.clients.iter().any(|(_, client)| !client.is_finished());
            let over = !self.held.release(0) && (!open || self.setup.store == StoreKind::Memory);
            idle = if over { idle + 1 } else { 0 };
        }
        let log = self.log.lock();
        let mut violation = check(&self.setup, &log).err();
        let many = log.requests.iter().find_map(|sent| match sent.expectation {
            Some(Expectation::OneCall(calls)) => Some(calls),
            _ => None,
        });
        if let (None, Some(calls)) = (&violation, many) {
            violation = Some(Violation { law: "a burst makes one call", detail: format!("{calls} calls") });
        }
        let reused = |(number, sent): &(usize, &SentRequest)| {
            let line = sent
                .received
                .as_ref()
                .and_then(|received| received.head.as_ref().ok()?.1.get(CALL)?.to_str().ok()?.parse::<usize>().ok());
            line.and_then(|line| log.calls.get(line)).is_some_and(|call| call.request != *number)
        };
        Outcome {
            requests: log.requests.len(),
            hits: log.requests.iter().enumerate().filter(reused).count(),
            expected_hits: log.requests.iter().filter(|sent| matches!(sent.expectation, Some(Expectation::Hit(_)))).count(),
            violation,
            calls: log.calls.iter().map(described).collect(),
        }
    }
}

fn described(call: &Call) -> String {
    let Call { request, begin, answered, status, representation, part, etag, .. } = call;
    format!("for request {request}, from {begin} to {answered:?}: {status} {etag:?} {part:?} {representation:?}")
}
