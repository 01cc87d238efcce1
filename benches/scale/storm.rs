//! The start of many processes at once, the return of Redis under them, and the memory of many namespaces.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};
use tower_response_cache::Outcome;

use super::{
    Row, Scale,
    judge::Reading,
    processes::{GATHER, Process, start, start_at_once},
};
use crate::rig::{Server, until};

/// The number of items that the processes request, and the pause of each process between its requests.
const ITEMS: usize = 50;
const PAUSE: Duration = Duration::from_millis(50);

/// The time between two readings.
const STEP: Duration = Duration::from_millis(250);

/// The longest time for which a storm is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// Counts of the requests of all processes.
#[derive(Default)]
struct Traffic {
    hits: AtomicUsize,
    all: AtomicUsize,
    ended: AtomicBool,
}

impl Traffic {
    /// Returns the ratio of hits since the last call.
    fn ratio(&self) -> f64 {
        let (hits, all) = (self.hits.swap(0, Ordering::Relaxed), self.all.swap(0, Ordering::Relaxed));
        hits as f64 / all.max(1) as f64
    }

    fn of(processes: &[Process]) -> (Arc<Self>, JoinSet<()>) {
        let traffic = Arc::<Self>::default();
        let mut tasks = JoinSet::new();
        for (first, process) in processes.iter().enumerate() {
            let (process, traffic) = (process.clone(), traffic.clone());
            tasks.spawn(async move {
                for number in first.. {
                    if traffic.ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = process.request(number % ITEMS, false).await;
                    traffic.hits.fetch_add(usize::from(outcome == Outcome::Hit), Ordering::Relaxed);
                    traffic.all.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
            });
        }
        (traffic, tasks)
    }
}

/// The largest rates in a storm, in a second.
#[derive(Default)]
struct Peak {
    commands: f64,
    connections: f64,
}

/// Reads the counters until the time is over. `since` are the counters before.
async fn watch(server: &Server, mut since: Reading) -> Peak {
    let (begin, mut peak) = (Instant::now(), Peak::default());
    let mut last = Vec::from([since]);
    while begin.elapsed() < WATCHED {
        sleep(STEP).await;
        let now = Reading::of(server).await;
        // The rate over a second.
        since = *last.iter().find(|reading| now.at - reading.at <= Duration::from_millis(1_100)).unwrap_or(&since);
        let seconds = (now.at - since.at).as_secs_f64().max(1.0);
        peak.commands = peak.commands.max((now.commands - since.commands) / seconds);
        peak.connections = peak.connections.max((now.connections - since.connections) / seconds);
        last.push(now);
    }
    peak
}

/// Measures the start of processes at once, and the return of Redis under their load.
pub(super) async fn storms(scale: Scale, mut server: Server) {
    let count = scale.fewer;
    let before = Reading::of(&server).await;
    let url = server.url();
    let starting = tokio::spawn(async move { start_at_once(&url, count, GATHER).await });
    let peak = watch(&server, before).await;
    let processes = starting.await.expect("the processes start");
    until("all processes hold a lease", async || processes.iter().all(|process| process.store.is_leased())).await;
    let (traffic, tasks) = Traffic::of(&processes);
    sleep(Duration::from_secs(2)).await;
    let (steady, held) = (steady(&server).await, connections(&server).await);
    report(scale, ["start: commands", "start: connections"], &peak, steady, held);

    let usual = traffic.ratio();
    server.kill();
    sleep(Duration::from_secs(2)).await;
    server.restart(false).await;
    let (begin, returned) = (Instant::now(), Reading::try_of(&server).await.expect("it is back"));
    traffic.ratio();
    let hits = {
        let traffic = traffic.clone();
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(100)).await;
                if traffic.ratio() >= 0.95 * usual || begin.elapsed() > 4 * WATCHED {
                    return begin.elapsed();
                }
            }
        })
    };
    let peak = watch(&server, returned).await;
    report(scale, ["return: commands", "return: connections"], &peak, steady, held);
    scale.print(Row {
        row: "return: hit ratio back",
        processes: count,
        aim: Some(2.0),
        measured: hits.await.expect("it ends").as_secs_f64(),
        unit: "s",
    });
    traffic.ended.store(true, Ordering::Relaxed);
    tasks.join_all().await;
}

/// Returns the number of commands in a second.
async fn steady(server: &Server) -> f64 {
    let before = Reading::of(server).await;
    sleep(Duration::from_secs(2)).await;
    let after = Reading::of(server).await;
    (after.commands - before.commands) / (after.at - before.at).as_secs_f64()
}

async fn connections(server: &Server) -> f64 {
    let info = server.info("clients").await;
    let line = info.lines().find_map(|line| line.strip_prefix("connected_clients:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a number of clients")
}

/// Prints the rates as multiples: of the commands in a second, and of the held connections.
fn report(scale: Scale, rows: [&'static str; 2], peak: &Peak, steady: f64, held: f64) {
    for (row, measured) in rows.into_iter().zip([peak.commands / steady, peak.connections / held]) {
        scale.print(Row { row, processes: scale.fewer, aim: Some(3.0), measured, unit: "x steady state" });
    }
}

/// Measures the memory of generations in the form in which a store creates them.
pub(super) async fn generations(scale: Scale, server: &Server) {
    let processes = start(server, 1, GATHER).await;
    processes[0].warm(0).await;
    let key = server.keys("*:g:{db:0}").await.pop().expect("a generation");
    let client = ::redis::Client::open(server.url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let value: Vec<u8> = ::redis::cmd("GET").arg(&key).query_async(&mut connection).await.expect("a generation");
    let life: i64 = ::redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.expect("a life");
    let before = Reading::of(server).await;
    for first in (0..scale.generations).step_by(10_000) {
        let mut commands = ::redis::pipe();
        for number in first..first + 10_000 {
            let key = key.replace("db:0", &format!("db:{number:07}"));
            commands.cmd("SET").arg(key).arg(&value).arg("PX").arg(life).ignore();
        }
        let _: () = commands.query_async(&mut connection).await.expect("an answer");
    }
    let after = Reading::of(server).await;
    let bytes = (after.memory - before.memory) / scale.generations as f64;
    let row = "bytes per generation";
    scale.print(Row { row, processes: 1, aim: Some(120.0), measured: bytes, unit: "bytes" });
}
