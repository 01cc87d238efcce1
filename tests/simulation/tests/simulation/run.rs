//! One run: a seed decides everything in it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tower_response_cache::{__private::remember_at_once, redis::Coherence};

use super::{
    client,
    faults::{self, Processes},
    laws::{
        check::{self, Guarantee, Violation},
        operation::{self, Ending, Source},
    },
    machine,
    plan::{Broken, Fault, Plan},
    process::{FIRST_SOFT, Process, ROUTES, SOFT},
    world::World,
};

/// The longest time until all invalidations are delivered when the faults are over.
const SETTLING: Duration = Duration::from_secs(30);

/// The time after its commit in which a write must be visible, if nothing fails.
const PROMPT: Duration = Duration::from_millis(500);

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The hash of all events.
    pub hash: u64,
    pub events: u64,
    pub reads: u64,
    pub hits: u64,
    pub writes: u64,
    pub violations: Vec<String>,
    pub plan: String,
    /// The last events of a run with a violation, or all events.
    pub trace: Vec<String>,
}

/// Runs a seed in the current thread, of which it must be the only run.
pub fn run(seed: u64, broken: Option<Broken>, all_events: bool) -> Report {
    machine::begin(seed);
    let began = Arc::new(OnceLock::new());
    let follows = began.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // Time moves only while the runtime has nothing to do.
        .on_thread_unpark(move || {
            if let Some(began) = follows.get() {
                machine::set_time(Instant::now().duration_since(*began).as_nanos() as u64);
            }
        })
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        began.set(Instant::now()).expect("set once");
        let mut random = Rng::with_seed(seed);
        let plan = Plan::new(&mut random, broken);
        if plan.hot {
            remember_at_once();
        }
        let world = World::new(plan.clone(), random);
        world.lock().trace.all = all_events;
        tokio::spawn(world.clone().run());
        let violations = simulate(&world, &plan).await;
        report(&world, &plan, violations)
    })
}

async fn simulate(world: &World, plan: &Plan) -> Vec<String> {
    let processes = Processes::default();
    for node in 0..plan.processes {
        let id = operation::Process { node, run: 0, store: 0 };
        let line = world.act(|inner| inner.new_line());
        let process = Process::start(world, id, line).await;
        processes.lock().expect("never held over a panic").push(process);
    }
    let mut clients = JoinSet::new();
    let end = Instant::now() + plan.duration;
    for client in 0..plan.processes * plan.clients {
        clients.spawn(act_as_client(world.clone(), processes.clone(), client % plan.processes, end));
    }
    let faults = tokio::spawn(faults::inject(world.clone(), processes.clone()));
    tokio::time::sleep_until(end).await;
    faults.abort();
    let _ = faults.await;
    let lines: Vec<usize> = world.lock().lines.keys().copied().collect();
    lines.into_iter().for_each(|line| world.act(|inner| faults::end(inner, line)));
    world.note(|| "the faults are over".into());
    while let Some(done) = clients.join_next().await {
        done.expect("a client does not panic");
    }
    settle(world, plan, &processes).await
}

async fn act_as_client(world: World, processes: Processes, which: usize, end: Instant) {
    while Instant::now() < end {
        let pause = world.lock().plan.pause;
        world.pause(pause).await;
        let process = processes.lock().expect("never held over a panic")[which].clone();
        if process.is_killed() {
            continue;
        }
        let (writes, route, key) = {
            let inner = &mut *world.lock();
            let key = inner.random.u32(..inner.plan.registers);
            (inner.random.u32(..100) < inner.plan.writes, inner.random.usize(..ROUTES.len()), key)
        };
        if writes {
            client::write(&world, &process, if route == SOFT { SOFT } else { 0 }, key).await;
        } else {
            client::read(&world, &process, route, key).await;
        }
    }
}

/// Waits until everything is delivered, and reads every register in every process. Returns violations of laws about the end.
async fn settle(world: &World, plan: &Plan, processes: &Processes) -> Vec<String> {
    let mut violations = Vec::new();
    let mut processes = processes.lock().expect("never held over a panic").clone();
    // One that was killed last, while its successor was about to start.
    processes.retain(|process| !process.is_killed());
    let until = Instant::now() + SETTLING;
    while processes.iter().any(|process| process.store.waiting() > 0) {
        if Instant::now() > until {
            violations.push("I8: an invalidation is not delivered 30 seconds after the last fault".to_owned());
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    // Statements of clients that left, and fences of processes that were killed.
    sleep(Duration::from_millis(1_200) + plan.strict.unwrap_or_default() + ttl(plan)).await;
    let newest = check::settled(&world.lock().history, guarantee(plan));
    for process in &processes {
        for (route, name) in ROUTES.into_iter().enumerate() {
            for key in 0..plan.registers {
                let register = if route == SOFT { key + FIRST_SOFT } else { key };
                let Some(read) = client::read(world, process, route, key).await else { continue };
                let newest = newest.get(&register).copied().unwrap_or(0);
                if read.source.is_some() && read.version < newest {
                    let path = format!("/{name}/{key}");
                    let violation = Violation::Outdated { node: process.id.node, key: register, path, version: read.version, newest };
                    violations.push(violation.to_string());
                }
            }
        }
        let mut hits = false;
        for _ in 0..20 {
            hits |= client::read(world, process, 0, 0).await.is_some_and(|read| read.is_hit());
        }
        if !hits {
            violations.push(format!("I8: process {} has no hits after the faults", process.line));
        }
    }
    violations
}

fn ttl(plan: &Plan) -> Duration {
    match plan.coherence {
        Coherence::Ttl(ttl) => ttl,
        _ => Duration::ZERO,
    }
}

fn guarantee(plan: &Plan) -> Guarantee {
    let delta = match plan.coherence {
        Coherence::Leased => 2 * plan.heartbeat + plan.round_trip,
        Coherence::Ttl(ttl) => ttl,
        _ => Duration::ZERO,
    };
    let loses_data = [Fault::RestartEmpty, Fault::RestartOlder, Fault::Flush].into_iter().any(|fault| plan.has(fault));
    let evicts_fences = plan.has(Fault::Evict) && plan.evicts_fences;
    Guarantee {
        delta: if plan.broken == Some(Broken::NoDelta) { Duration::ZERO } else { delta },
        strict: plan.strict.is_some() || plan.broken == Some(Broken::NoFences),
        prompt: plan.faults.is_empty().then_some(PROMPT),
        fences_last: !loses_data && !evicts_fences,
    }
}

fn report(world: &World, plan: &Plan, at_the_end: Vec<String>) -> Report {
    let inner = &mut *world.lock();
    let mut violations: Vec<String> = check::check(&inner.history, guarantee(plan)).iter().map(ToString::to_string).collect();
    violations.extend(at_the_end);
    let is_violated = !violations.is_empty();
    let count =
        |is: fn(&Ending) -> bool| inner.history.operations.iter().filter(|operation| is(&operation.ending)).count() as u64;
    Report {
        hash: inner.trace.hash(),
        events: inner.trace.count,
        reads: count(|ending| matches!(ending, Ending::Read { .. })),
        hits: count(|ending| matches!(ending, Ending::Read { source: Source::Store, .. })),
        writes: count(|ending| matches!(ending, Ending::Written { .. })),
        violations,
        plan: format!("{plan:?}"),
        trace: if inner.trace.all || is_violated { inner.trace.last().map(str::to_owned).collect() } else { Vec::new() },
    }
}
