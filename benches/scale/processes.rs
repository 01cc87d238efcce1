//! Processes: a store, a cache over it and an origin.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt, service_fn, util::ServiceFn};
use tower_response_cache::{CacheLayer, CacheService, CacheStatus, Outcome, Redis, Rule, redis::RedisBuilder};

use crate::rig::{Cluster, Server};

pub(super) type Plain = Full<Bytes>;
type InnerFuture = Ready<Result<Response<Plain>, Infallible>>;
type Inner = ServiceFn<fn(Request<Plain>) -> InnerFuture>;

/// The number of processes that connect together, so that a start is not measured by accident.
const TOGETHER: usize = 25;

/// The default time for which frequent invalidations are gathered.
pub(super) const GATHER: Duration = Duration::from_millis(1);

/// The longest wait for all leases.
const SETTLING: Duration = Duration::from_secs(60);

/// One process.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) store: Redis,
    cache: CacheService<Inner, Redis>,
}

fn answer(_: Request<Plain>) -> InnerFuture {
    ready(Ok(Response::new(Plain::from("an item"))))
}

impl Process {
    pub(super) async fn start(builder: RedisBuilder) -> Self {
        // The machine is busy with all processes at once.
        let store = builder.memory(1 << 20).command_timeout(Duration::from_secs(5)).build().await.expect("a store");
        let rule = Rule::ttl(Duration::from_secs(3600)).namespace("db:{id}");
        let cache = CacheLayer::new(store.clone()).route("/items/{id}", rule).layer(service_fn(answer as fn(_) -> _));
        Self { store, cache }
    }

    /// Requests an item, from memory or Redis alone if `cached`.
    pub(super) async fn request(&self, item: usize, cached: bool) -> Outcome {
        let request = Request::get(format!("/items/{item}"));
        let request = if cached { request.header("cache-control", "only-if-cached") } else { request };
        let request = request.body(Plain::default()).expect("a request");
        let mut cache = self.cache.clone();
        let response = cache.ready().await.expect("ready").call(request).await.expect("an infallible service");
        let outcome = CacheStatus::of(&response).expect("a matching rule").outcome();
        let _ = response.into_body().collect().await.expect("a complete body");
        outcome
    }

    /// Requests an item until it is a hit.
    pub(super) async fn warm(&self, item: usize) {
        while self.request(item, false).await != Outcome::Hit {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Starts processes and waits until all of them hold a lease, or a minute if the machine is too slow for that.
pub(super) async fn start(server: &Server, count: usize, gather: Duration) -> Vec<Process> {
    start_by(|| Redis::builder(&server.url()).gather(gather), count).await
}

/// Starts processes of a cluster, as `start` does.
pub(super) async fn start_in_cluster(cluster: &Cluster, count: usize) -> Vec<Process> {
    start_by(|| RedisBuilder::cluster(cluster.urls()), count).await
}

async fn start_by(builder: impl Fn() -> RedisBuilder, count: usize) -> Vec<Process> {
    let mut processes = Vec::with_capacity(count);
    while processes.len() < count {
        let starting: JoinSet<Process> =
            (0..TOGETHER.min(count - processes.len())).map(|_| Process::start(builder())).collect();
        processes.extend(starting.join_all().await);
    }
    let begin = Instant::now();
    while begin.elapsed() < SETTLING && !processes.iter().all(|process| process.store.is_leased()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    processes
}

/// Starts processes at the same time.
pub(super) async fn start_at_once(url: &str, count: usize, gather: Duration) -> Vec<Process> {
    let starting: JoinSet<Process> = (0..count).map(|_| Process::start(Redis::builder(url).gather(gather))).collect();
    starting.join_all().await
}
