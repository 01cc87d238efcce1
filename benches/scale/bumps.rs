//! Invalidations while many processes hold leases.

use std::{
    slice::from_ref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tower_response_cache::{Outcome, Store};

use super::{
    Row, Scale,
    judge::{cpu_of, share_over},
    processes::{GATHER, Process, start, start_in_cluster},
};
use crate::rig::{Cluster, Server};

/// The number of invalidations in a second.
pub(super) const RATE: u32 = 200;

/// The number of namespaces that are invalidated in turn.
pub(super) const NAMES: usize = 64;

/// The number of processes that write.
const WRITERS: usize = 10;

/// The number of the first item that no invalidation has met.
const FRESH: usize = 1_000_000;

/// Δ of a store with the default settings and few processes.
const DELTA: Duration = Duration::from_millis(120);

/// What processes do at the rate.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    /// Invalidate a namespace, and request its item afterwards, which is filled again.
    BumpsAndFills,
    /// Request an item for the first time.
    Fills,
}

/// Puts a load on some of the processes. Returns the number of operations.
async fn work(load: Load, processes: &[Process], time: Duration) -> usize {
    let count = Arc::<AtomicUsize>::default();
    let mut writers = JoinSet::new();
    for (writer, process) in processes.iter().take(WRITERS).enumerate() {
        let (process, count) = (process.clone(), count.clone());
        writers.spawn(async move {
            let mut ticks = interval(Duration::from_secs(WRITERS as u64) / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let begin = Instant::now();
            let mut writes = JoinSet::new();
            for number in 0.. {
                ticks.tick().await;
                if begin.elapsed() >= time {
                    break;
                }
                let (process, count) = (process.clone(), count.clone());
                let number = number * WRITERS + writer;
                writes.spawn(async move {
                    let item = if load == Load::Fills { FRESH + number } else { number % NAMES };
                    if load == Load::Fills || process.store.invalidate([format!("db:{item}").as_str()]).await.is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    process.request(item, false).await;
                });
            }
            writes.join_all().await;
        });
    }
    writers.join_all().await;
    count.load(Ordering::Relaxed)
}

/// The longest wait for the interval of heartbeats that belongs to the number of processes.
const SETTLING: Duration = Duration::from_secs(60);

/// Waits until all processes have the same interval of heartbeats. They learn the number of processes from time to time.
async fn settle(processes: &[Process]) {
    let begin = Instant::now();
    let staleness = || processes.iter().map(|process| process.store.max_staleness());
    while staleness().min() != staleness().max() && begin.elapsed() < SETTLING {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The longer time for which invalidations are gathered in a second run.
const LONGER: Duration = Duration::from_millis(100);

/// Measures the cost of an invalidation where more of them are gathered.
pub(super) async fn gathered(scale: Scale, server: &Server) {
    let processes = start(server, scale.many, LONGER).await;
    settle(&processes).await;
    let idle = share_over(from_ref(server), scale.time).await;
    let names = [
        "cpu per bump, gathered for 100 ms",
        "cpu per bump and fill, gathered for 100 ms",
        "bumps reached, gathered for 100 ms",
    ];
    cost(scale, server, &processes, idle, names).await;
}

/// Measures the cost of an invalidation and the fill after it in clusters, for all masters together. The names are spread over them. A fill of
/// a new item is pushed too, so that its cost cannot be subtracted.
pub(super) async fn in_clusters(scale: Scale) {
    let rows = [(3, "cpu per bump and fill, cluster of 3 masters"), (6, "cpu per bump and fill, cluster of 6 masters")];
    for (masters, row) in rows {
        let cluster = Cluster::start(masters, 0).await;
        let processes = start_in_cluster(&cluster, scale.fewer).await;
        settle(&processes).await;
        let idle = share_over(cluster.servers(), scale.time).await;
        warm(&processes).await;
        let (measured, _) = cost_of(Load::BumpsAndFills, scale, cluster.servers(), &processes, idle).await;
        scale.print(Row { row, processes: scale.fewer, aim: None, measured: measured * 1000.0, unit: "ms" });
    }
}

/// Measures the idle processes and the cost of an invalidation.
pub(super) async fn bumps(scale: Scale, server: &Server) {
    let processes = start(server, scale.many, GATHER).await;
    settle(&processes).await;
    let idle = share_over(from_ref(server), scale.time).await;
    scale.print(Row { row: "idle", processes: scale.many, aim: Some(3.0), measured: idle * 100.0, unit: "% of a core" });
    cost(scale, server, &processes, idle, ["cpu per bump", "cpu per bump and fill", "bumps reached"]).await;
    let leased = processes.iter().filter(|process| process.store.is_leased()).count();
    let row = "leases held after the bumps";
    scale.print(Row { row, processes: scale.many, aim: None, measured: leased as f64, unit: "processes" });
}

/// Requests every item in each process that writes.
async fn warm(processes: &[Process]) {
    for process in processes.iter().take(WRITERS) {
        for item in 0..NAMES {
            process.request(item, false).await;
        }
    }
}

/// Returns the processor time of each operation in seconds, without that of idle processes, and the number of operations in a second.
async fn cost_of(load: Load, scale: Scale, masters: &[Server], processes: &[Process], idle: f64) -> (f64, f64) {
    let (before, begin) = (cpu_of(masters).await, Instant::now());
    let count = work(load, processes, scale.time).await;
    let seconds = begin.elapsed().as_secs_f64();
    ((cpu_of(masters).await - before - idle * seconds) / count.max(1) as f64, count as f64 / seconds)
}

/// Measures invalidations at the rate, each followed by the fill of what it invalidated, and subtracts the cost of as many fills alone.
async fn cost(scale: Scale, server: &Server, processes: &[Process], idle: f64, names: [&'static str; 3]) {
    warm(processes).await;
    let master = from_ref(server);
    let (fill, _) = cost_of(Load::Fills, scale, master, processes, idle).await;
    let (both, rate) = cost_of(Load::BumpsAndFills, scale, master, processes, idle).await;
    let row = |row, aim, measured, unit| Row { row, processes: scale.many, aim, measured, unit };
    scale.print(row(names[0], Some(0.2), (both - fill) * 1000.0, "ms"));
    scale.print(row(names[1], None, both * 1000.0, "ms"));
    scale.print(row(names[2], Some(f64::from(RATE)), rate, "1/s"));
}

/// Measures the time from an invalidation until other processes see it.
pub(super) async fn visible(scale: Scale, server: &Server) {
    let processes = start(server, scale.fewer, GATHER).await;
    let times = Arc::new(std::sync::Mutex::new(Histogram::<u64>::new(3).expect("three digits")));
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut samples = JoinSet::new();
    for number in 0.. {
        ticks.tick().await;
        if begin.elapsed() >= scale.time {
            break;
        }
        let (writer, reader) = (&processes[number % WRITERS], &processes[(number * 7 + WRITERS) % processes.len()]);
        let (writer, reader, times) = (writer.clone(), reader.clone(), times.clone());
        samples.spawn(async move {
            // Each sample has a namespace of its own, so that it observes only its own invalidation.
            let item = NAMES + number;
            reader.warm(item).await;
            let sent = Instant::now();
            writer.store.invalidate([format!("db:{item}").as_str()]).await.expect("it is delivered");
            while reader.request(item, true).await == Outcome::Hit {
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            times.lock().expect("no panic").record(sent.elapsed().as_micros() as u64).expect("a short time");
        });
    }
    samples.join_all().await;
    let times = times.lock().expect("no panic");
    let millis = |micros: u64| micros as f64 / 1000.0;
    let row = |row, aim, measured| Row { row, processes: scale.fewer, aim, measured, unit: "ms" };
    scale.print(row("bump to visible, p50", None, millis(times.value_at_quantile(0.5))));
    scale.print(row("bump to visible, p99", Some(25.0), millis(times.value_at_quantile(0.99))));
    scale.print(row("bump to visible, latest", Some(DELTA.as_secs_f64() * 1000.0), millis(times.max())));
}
