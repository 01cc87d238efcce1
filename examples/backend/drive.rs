//! The traffic: some clients at once, each doing the next thing on its plan as soon as the last is done.
//!
//! The run without the cache goes on for a given time. The run with it then repeats, client by client, the same plan for as many
//! deeds. After each write the client reads what the write must have changed, and an answer that does not show it counts as stale.

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

use super::{Fault, client::Reply, progress::Progress, user::User};

pub(crate) const CLIENTS: u64 = 8;

/// When a run ends.
pub(crate) enum Until {
    Time(Duration),
    /// As many deeds of each client as in an earlier run.
    SameAs(Vec<u64>),
}

/// What was seen on one route.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) hits: u64,
    /// One for each request, in microseconds.
    pub(crate) latencies: Vec<u32>,
}

#[derive(Default)]
pub(crate) struct Outcome {
    /// By `METHOD /route/{as}/{declared}`.
    pub(crate) routes: BTreeMap<String, Seen>,
    /// How many deeds each client has done.
    pub(crate) deeds: Vec<u64>,
    pub(crate) took: Duration,
    /// Reads after a write that had to show it, and those that did not.
    pub(crate) checked: u64,
    pub(crate) stale: u64,
}

/// Drives a server with all clients until the end, with a line of progress.
pub(crate) async fn run(server: SocketAddr, tokens: Arc<[String]>, until: Until, title: &str) -> Result<Outcome, Fault> {
    let begun = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (limit, deadline) = match &until {
            Until::Time(time) => (u64::MAX, Some(begun + *time)),
            Until::SameAs(deeds) => (deeds[number as usize], None),
        };
        let user = User::new(number, server, Arc::clone(&tokens));
        let done = Arc::clone(&done);
        clients.spawn(async move { (number, user.live(limit, deadline, &done).await) });
    }
    let mut progress = Progress::new(title, until);
    let mut all = Outcome { deeds: vec![0; CLIENTS as usize], ..Outcome::default() };
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            client = clients.join_next() => match client {
                Some(client) => {
                    let (number, seen) = client?;
                    all.add(number as usize, seen?);
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

impl Outcome {
    /// Notes an answer on a route.
    pub(crate) fn saw(&mut self, route: String, reply: &Reply) {
        let seen = self.routes.entry(route).or_default();
        seen.hits += u64::from(reply.hit());
        seen.latencies.push(u32::try_from(reply.took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Notes whether a read right after a write has shown it.
    pub(crate) fn checked(&mut self, shows: bool) {
        self.checked += 1;
        self.stale += u64::from(!shows);
    }

    fn add(&mut self, client: usize, part: Self) {
        for (route, seen) in part.routes {
            let sum = self.routes.entry(route).or_default();
            sum.hits += seen.hits;
            sum.latencies.extend(seen.latencies);
        }
        self.deeds[client] = part.deeds.iter().sum();
        self.checked += part.checked;
        self.stale += part.stale;
    }
}

impl Seen {
    pub(crate) fn requests(&self) -> u64 {
        self.latencies.len() as u64
    }
}
