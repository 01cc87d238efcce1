//! Runs a program: sends its requests, holds the origin in the hand, moves the clock, and writes down what clients see.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, UNIX_EPOCH},
};

use tokio::{runtime::Builder, task::JoinHandle};
use tower_response_cache::Clock;

use super::{
    broken::Fault,
    check::{Violation, check},
    hand::Held,
    history::{Call, Demand, History, Log, Sent},
    known,
    oracle::{self, Terms},
    origin::{CALL, Origin},
    program::{self, Ask, Program, Setup, Step, StoreKind, Verb},
    routes::Kind,
    shows::is_big,
    world::Process,
};

/// What a run has come to.
#[derive(Default)]
pub struct Outcome {
    pub requests: usize,
    pub hits: usize,
    /// How often a hit was demanded.
    pub demanded: usize,
    pub violation: Option<Violation>,
    /// The calls of the origin, for a report.
    pub calls: Vec<String>,
}

/// Runs a program; `redis` is the URL of a server for those that need one.
pub fn run(program: &Program, fault: Option<Fault>, redis: Option<&str>) -> Outcome {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut driver = Driver::new(program, fault, redis).await;
        for step in &program.steps {
            driver.step(step).await;
            // What is broken first is what is reported.
            if driver.fault.is_none() && driver.stuck {
                break;
            }
        }
        driver.finish().await
    })
}

pub struct Driver {
    pub setup: Setup,
    pub fault: Option<Fault>,
    pub log: Log,
    pub held: Held,
    pub clock: Clock,
    pub processes: Vec<Process>,
    pub clients: Vec<(usize, JoinHandle<()>)>,
    pub stuck: bool,
}

impl Driver {
    async fn new(program: &Program, fault: Option<Fault>, redis: Option<&str>) -> Self {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let (log, held, clock) = (Log::default(), Held::default(), Clock::manual());
        // Whole seconds: dates have no others.
        let nanos = clock.now().duration_since(UNIX_EPOCH).expect("a time").subsec_nanos();
        clock.advance(Duration::from_nanos(1_000_000_000 - u64::from(nanos)));
        let setup = program.setup;
        let two = matches!(setup.store, StoreKind::Redis { two: true, .. });
        let prefix = format!("r{}", RUNS.fetch_add(1, Ordering::Relaxed));
        let mut processes = Vec::new();
        for _ in 0..if two { 2 } else { 1 } {
            let origin = Origin { log: log.clone(), held: held.clone(), clock: clock.clone(), setup };
            processes.push(Process::build(origin, fault, redis.map(|url| (url, prefix.as_str()))).await);
        }
        Self { setup, fault, log, held, clock, processes, clients: Vec::new(), stuck: false }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Ask(ask) => {
                let demand = self.demand(ask);
                self.send(ask, demand);
                self.settle().await;
            }
            Step::Burst(ask, count) => self.burst(ask, *count).await,
            Step::Release(which) => {
                self.held.release(usize::from(*which));
                self.settle().await;
            }
            Step::Leave(which) => {
                let open: Vec<usize> = (0..self.clients.len()).filter(|n| !self.clients[*n].1.is_finished()).collect();
                if let Some(place) = open.get(usize::from(*which) % open.len().max(1)) {
                    let (sent, client) = &self.clients[*place];
                    self.log.lock().sent[*sent].left = true;
                    client.abort();
                    self.settle().await;
                }
            }
            Step::Advance(by) => {
                self.clock.advance(Duration::from_millis(*by));
                self.log.lock().now += by;
            }
            Step::Invalidate { names, soft, process } => self.invalidate(names, *soft, *process).await,
            Step::InvalidateKey(ask) => self.invalidate_key(ask).await,
        }
    }

    /// What a cache must be good for with this request, if nothing is under way.
    fn demand(&self, ask: &Ask) -> Option<Demand> {
        let log = self.log.lock();
        let quiet = (0..log.sent.len()).all(|sent| !log.is_open(sent)) && log.calls.iter().all(|call| call.answered.is_some());
        let idle = quiet && self.processes.iter().all(|process| process.fills() == 0);
        // A new name's first fills over Redis may go unstored (README: Redis, limits).
        let redis = matches!(self.setup.store, StoreKind::Redis { .. });
        if !idle || redis && ask.facts().rows {
            return None;
        }
        let demand = oracle::demand(&self.setup, &log, ask)?;
        match demand {
            // Redis ends an entry by its own clock, which stands where ours is moved: what had little time left when it was stored is gone.
            Demand::Hit(number) if redis => {
                let call = &log.calls[number];
                let stored = log.sent[call.ask].seen.as_ref().map(|seen| seen.ended);
                let at_once = stored == call.answered.map(|(_, at)| at);
                // Another process learns by its next command only how far our clock has gone from that of Redis.
                let same = log.sent[call.ask].ask.process == ask.process || log.now == 0;
                (at_once && same && Terms::of(&log, call).fresh.0 >= 5000).then_some(demand)
            }
            _ => Some(demand),
        }
    }

    async fn burst(&mut self, ask: &Ask, count: u8) {
        let mut held = ask.clone();
        held.answer.held = true;
        let first = {
            let log = self.log.lock();
            let quiet =
                (0..log.sent.len()).all(|sent| !log.is_open(sent)) && log.calls.iter().all(|call| call.answered.is_some());
            // A response of this key that could not be shared lets nobody wait for the next.
            let apart = |call: &Call| {
                let made = &log.sent[call.ask].ask;
                oracle::same_key(&self.setup, made, ask)
                    && (Terms::of(&log, call).shared.is_err()
                        || Terms::of(&log, call).fresh.0 <= 0
                        || Terms::of(&log, call).validate_always
                        || call.status != 200
                        || made.answer.body != program::Body::Whole
                        || is_big(made))
            };
            let identified = ask.user.is_none() || ask.facts().identity && ask.identity(&self.setup).is_ok();
            let fit =
                quiet && identified && ask.verb == Verb::Get && oracle::is_plain(ask) && ask.facts().kind != Kind::Uncovered;
            let fit = fit && (known::ONE_CALL_OVER_REDIS || self.setup.store == StoreKind::Memory);
            (fit && !log.calls.iter().any(apart)).then_some(log.sent.len())
        };
        let begin = self.log.lock().tick;
        for _ in 0..count {
            self.send(&held, first.map(Demand::OneCall));
        }
        self.settle().await;
        if let Some(first) = first {
            let log = self.log.lock();
            let calls = log.calls.iter().filter(|call| call.begin > begin && call.ask >= first).count();
            drop(log);
            if calls > 1 {
                self.log.lock().sent[first].demand = Some(Demand::OneCall(calls));
            } else {
                (first..first + usize::from(count)).for_each(|sent| self.log.lock().sent[sent].demand = None);
            }
        }
        while self.held.release(0) {
            self.settle().await;
        }
    }

    /// Lets everything run until nothing moves any more.
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
            // Followers wait for others' calls, and nothing shows that from outside.
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

    /// The last tick, and whether each open request has a call of its own that is held, or a body.
    fn state(&self) -> (u64, bool) {
        let log: &History = &self.log.lock();
        let open = (0..log.sent.len()).filter(|sent| log.is_open(*sent));
        let held = |ask: &Ask| ask.answer.held || ask.answer.body == program::Body::Held;
        let accounted = open
            .map(|sent| (sent, &log.sent[sent].ask))
            .all(|(sent, ask)| held(ask) && log.calls.iter().any(|call| call.ask == sent));
        (log.tick, accounted)
    }

    async fn finish(mut self) -> Outcome {
        // A call that has been late may still come, and be held.
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
        let many = log.sent.iter().find_map(|sent| match sent.demand {
            Some(Demand::OneCall(calls)) => Some(calls),
            _ => None,
        });
        if let (None, Some(calls)) = (&violation, many) {
            violation = Some(Violation { law: "a burst makes one call", how: format!("{calls} calls") });
        }
        let reused = |(number, sent): &(usize, &Sent)| {
            let line =
                sent.seen.as_ref().and_then(|seen| seen.head.as_ref().ok()?.1.get(CALL)?.to_str().ok()?.parse::<usize>().ok());
            line.and_then(|line| log.calls.get(line)).is_some_and(|call| call.ask != *number)
        };
        Outcome {
            requests: log.sent.len(),
            hits: log.sent.iter().enumerate().filter(reused).count(),
            demanded: log.sent.iter().filter(|sent| matches!(sent.demand, Some(Demand::Hit(_)))).count(),
            violation,
            calls: log.calls.iter().map(described).collect(),
        }
    }
}

fn described(call: &Call) -> String {
    let Call { ask, begin, answered, status, rep, part, etag, .. } = call;
    format!("for request {ask}, from {begin} to {answered:?}: {status} {etag:?} {part:?} {rep:?}")
}
