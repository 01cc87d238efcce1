//! The load: concurrent clients, each of which starts its next operation as soon as the previous one has ended.
//!
//! The run without the cache has a given duration. The run with the cache repeats the same operations of each client. After each write
//! the client reads what it wrote. A response without the write counts as stale.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{BoxError, client::Reply, progress::Progress, user::User};

pub(crate) const CLIENTS: u64 = 8;

/// When a run ends.
pub(crate) enum Limit {
    Time(Duration),
    /// The number of operations of each client.
    Operations(Vec<u64>),
}

/// The requests of one route.
#[derive(Default)]
pub(crate) struct RouteStats {
    pub(crate) hits: u64,
    /// One for each request, in microseconds.
    pub(crate) latencies: Vec<u32>,
}

#[derive(Default)]
pub(crate) struct RunResult {
    /// By `METHOD /route/{pattern}`.
    pub(crate) routes: BTreeMap<String, RouteStats>,
    /// The number of operations of each client.
    pub(crate) operations: Vec<u64>,
    pub(crate) took: Duration,
    /// Reads right after a write.
    pub(crate) checked: u64,
    /// Reads right after a write whose response did not contain the write.
    pub(crate) stale: u64,
}

/// Runs all clients against a server, and prints the progress.
pub(crate) async fn run(server: SocketAddr, tokens: Arc<[String]>, until: Limit, title: &str) -> Result<RunResult, BoxError> {
    let begun = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (limit, deadline) = match &until {
            Limit::Time(time) => (u64::MAX, Some(begun + *time)),
            Limit::Operations(operations) => (operations[number as usize], None),
        };
        let user = User::new(number, server, Arc::clone(&tokens));
        let done = Arc::clone(&done);
        clients.spawn(async move { (number, user.run(limit, deadline, &done).await) });
    }
    let mut progress = Progress::new(title, until);
    let mut all = RunResult { operations: vec![0; CLIENTS as usize], ..RunResult::default() };
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            client = clients.join_next() => match client {
                Some(client) => {
                    let (number, part) = client?;
                    all.add(number as usize, part?);
                }
                None => break,
            },
            _ = tick.tick() => progress.show(begun.elapsed(), done.load(Ordering::Relaxed)),
        }
    }
    all.took = begun.elapsed();
    progress.end(all.took, done.load(Ordering::Relaxed));
    Ok(all)
}

impl RunResult {
    /// Records a response on a route.
    pub(crate) fn record(&mut self, route: String, reply: &Reply) {
        let seen = self.routes.entry(route).or_default();
        seen.hits += u64::from(reply.hit());
        seen.latencies.push(u32::try_from(reply.took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Records whether a read right after a write returned it.
    pub(crate) fn record_check(&mut self, fresh: bool) {
        self.checked += 1;
        self.stale += u64::from(!fresh);
    }

    fn add(&mut self, client: usize, part: Self) {
        for (route, seen) in part.routes {
            let sum = self.routes.entry(route).or_default();
            sum.hits += seen.hits;
            sum.latencies.extend(seen.latencies);
        }
        self.operations[client] = part.operations.iter().sum();
        self.checked += part.checked;
        self.stale += part.stale;
    }
}

impl RouteStats {
    pub(crate) fn requests(&self) -> u64 {
        self.latencies.len() as u64
    }
}
