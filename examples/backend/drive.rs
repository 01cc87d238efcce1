//! The traffic: some clients at once, each doing the next thing on its plan as soon as the last is done.
//!
//! The run without the cache goes on for a given time. The run with it then repeats, client by client, the same plan for as many
//! deeds. After each write the client reads what the write must have changed, and an answer that does not show it counts as stale.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::Method;
use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    Fault,
    client::{Client, Reply},
    plan::{Next, Plan, Step, Write, newest_of, read},
    progress::Progress,
};

pub(crate) const CLIENTS: u64 = 8;

/// When a run ends.
pub(crate) enum Until {
    Time(Duration),
    /// As many deeds of each client as in an earlier run.
    SameAs(Vec<u64>),
}

/// What was seen on one route.
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) hits: u64,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
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
pub(crate) async fn run(
    server: std::net::SocketAddr,
    tokens: Arc<[String]>,
    until: Until,
    title: &str,
) -> Result<Outcome, Fault> {
    let begun = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (limit, deadline) = match &until {
            Until::Time(time) => (u64::MAX, Some(begun + *time)),
            Until::SameAs(deeds) => (deeds[number as usize], None),
        };
        let user = User {
            client: Client::new(server),
            tokens: tokens.clone(),
            plan: Plan::new(number),
            inserted: None,
            seen: Outcome::default(),
        };
        let done = Arc::clone(&done);
        clients.spawn(async move { (number, user.live(limit, deadline, &done).await) });
    }
    let mut progress = Progress::new(title, until);
    let mut all = Outcome {
        deeds: vec![0; CLIENTS as usize],
        ..Outcome::default()
    };
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

struct User {
    client: Client,
    tokens: Arc<[String]>,
    plan: Plan,
    /// The flight this client inserted last and has not deleted, with its carrier.
    inserted: Option<(i64, &'static str)>,
    seen: Outcome,
}

impl User {
    async fn live(
        mut self,
        limit: u64,
        deadline: Option<Instant>,
        done: &AtomicU64,
    ) -> Result<Outcome, Fault> {
        let mut deeds = 0;
        while deeds < limit && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            match self.plan.next() {
                Next::Read(step) => drop(self.send(step).await?),
                Next::Write(write) => self.write(write).await?,
            }
            deeds += 1;
            done.fetch_add(1, Ordering::Relaxed);
        }
        self.seen.deeds = vec![deeds];
        Ok(self.seen)
    }

    async fn write(&mut self, write: Write) -> Result<(), Fault> {
        match write {
            Write::Insert { carrier, row } => {
                let reply = self
                    .change(
                        Method::POST,
                        "/tables/{table}",
                        "/tables/flights".into(),
                        row,
                    )
                    .await?;
                if let Some(id) = reply.json()["id"].as_i64() {
                    self.inserted = Some((id, carrier));
                    let rows = self.newest(carrier).await?;
                    self.check(row_with(&rows, id).is_some());
                }
            }
            Write::Update { delay } => {
                let Some((id, carrier)) = self.inserted else {
                    return Ok(());
                };
                let path = format!("/tables/flights/{id}");
                self.change(
                    Method::PATCH,
                    "/tables/{table}/{id}",
                    path,
                    format!("{{\"dep_delay\": {delay}}}"),
                )
                .await?;
                let rows = self.newest(carrier).await?;
                // Out of sight, behind newer rows, says nothing about the cache.
                if let Some(row) = row_with(&rows, id) {
                    self.check(row["dep_delay"] == delay);
                }
            }
            Write::Delete => {
                let Some((id, carrier)) = self.inserted.take() else {
                    return Ok(());
                };
                self.change(
                    Method::DELETE,
                    "/tables/{table}/{id}",
                    format!("/tables/flights/{id}"),
                    String::new(),
                )
                .await?;
                let rows = self.newest(carrier).await?;
                self.check(row_with(&rows, id).is_none());
            }
            Write::Upload { path, content } => {
                let route = "/storage/{bucket}/{*path}";
                let reply = self
                    .change(
                        Method::PUT,
                        route,
                        format!("/storage/flights/{path}"),
                        content,
                    )
                    .await?;
                let folder = path.split('/').next().unwrap_or_default();
                let list = self
                    .send(read(
                        "/storage/{bucket}",
                        format!("/storage/flights?prefix={folder}/"),
                        None,
                    ))
                    .await?
                    .json();
                let stored = reply.json();
                self.check(
                    list["objects"]
                        .as_array()
                        .is_some_and(|objects| objects.contains(&stored)),
                );
            }
        }
        Ok(())
    }

    async fn newest(&mut self, carrier: &str) -> Result<Value, Fault> {
        Ok(self
            .send(read("/tables/{table}", newest_of(carrier), None))
            .await?
            .json())
    }

    async fn change(
        &mut self,
        method: Method,
        route: &'static str,
        path: String,
        body: String,
    ) -> Result<Reply, Fault> {
        let user = Some(self.plan.writer());
        self.send(Step {
            route,
            method,
            path,
            user,
            body,
        })
        .await
    }

    async fn send(&mut self, step: Step) -> Result<Reply, Fault> {
        let token = step.user.map(|user| self.tokens[user].as_str());
        let route = format!("{} {}", step.method, step.route);
        let reply = self
            .client
            .send(step.method, &step.path, token, step.body)
            .await?;
        if !reply.status.is_success() {
            return Err(format!(
                "{route} at {}: {} {}",
                step.path,
                reply.status,
                String::from_utf8_lossy(&reply.body)
            )
            .into());
        }
        let seen = self.seen.routes.entry(route).or_default();
        seen.requests += 1;
        seen.hits += u64::from(reply.hit());
        seen.latency
            .saturating_record(reply.took.as_micros() as u64);
        Ok(reply)
    }

    fn check(&mut self, shows: bool) {
        self.seen.checked += 1;
        self.seen.stale += u64::from(!shows);
    }
}

fn row_with(answer: &Value, id: i64) -> Option<&Value> {
    answer["rows"]
        .as_array()?
        .iter()
        .find(|row| row["id"] == id)
}

impl Outcome {
    fn add(&mut self, client: usize, part: Self) {
        for (route, seen) in part.routes {
            let sum = self.routes.entry(route).or_default();
            sum.requests += seen.requests;
            sum.hits += seen.hits;
            sum.latency += seen.latency;
        }
        self.deeds[client] = part.deeds.iter().sum();
        self.checked += part.checked;
        self.stale += part.stale;
    }
}

impl Default for Seen {
    fn default() -> Self {
        let latency =
            Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are in order");
        Self {
            requests: 0,
            hits: 0,
            latency,
        }
    }
}
