//! Calls of the inner service for cold keys. The expected number is one per key and process.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{CacheLayer, Redis, Rule, Store, redis::Coherence};

use super::{HOUR, MIB, Plain, rig::Server};

/// The number of keys, and the number of requests for each key in each process.
const LOADS: [(usize, usize); 2] = [(1, 1_000), (60, 100)];

/// The number of runs. The largest count is printed.
const RUNS: usize = 5;

/// The number of calls by process and target.
type Calls = Arc<Mutex<HashMap<(usize, String), usize>>>;

/// Prints, for each setting, the calls for the key with the most calls in one process, and all calls.
pub(super) async fn fills() {
    let server = Server::start().await;
    let mut runs = 0;
    println!(
        "\n## Calls of the inner service without a distributed lock: key with the most calls in one process (all calls), maximum of {RUNS} runs\n"
    );
    println!("| coherence | memory | processes | 1 key × 1,000, cold | after a write | 60 keys × 100, cold | after a write |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for coherence in [Coherence::Leased, Coherence::Validated, Coherence::Ttl(HOUR)] {
        for (memory, processes) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
            let mut row = String::new();
            for load in LOADS {
                let mut largest = [(0, 0); 2];
                for _ in 0..RUNS {
                    runs += 1;
                    let prefix = format!("run{runs}");
                    for (largest, counted) in
                        largest.iter_mut().zip(counted(&server, &prefix, coherence, memory, processes, load).await)
                    {
                        *largest = (*largest).max(counted);
                    }
                }
                for (largest_key, all) in largest {
                    row += &format!(" {largest_key} ({all}) |");
                }
            }
            let coherence = format!("{coherence:?}");
            println!("| {} | {memory} | {processes} |{row}", coherence.split('(').next().unwrap_or_default());
        }
    }
}

/// Returns the largest number of calls for a key in one process and the number of all calls: cold, and directly after a write.
async fn counted(
    server: &Server,
    prefix: &str,
    coherence: Coherence,
    memory: bool,
    processes: usize,
    (keys, clients): (usize, usize),
) -> [(usize, usize); 2] {
    let calls = Calls::default();
    let (mut stores, mut caches) = (Vec::new(), Vec::new());
    for process in 0..processes {
        let builder = Redis::builder(&server.url()).prefix(prefix).coherence(coherence).command_timeout(Duration::from_secs(5));
        let builder = builder.max_round_trip(Duration::from_secs(2));
        let store = if memory { builder.memory(8 * MIB) } else { builder }.build().await.expect("a store");
        let layer = CacheLayer::new(store.clone()).route("/items/{id}", Rule::ttl(HOUR).namespace("items:{id}"));
        caches.push(layer.layer(inner(process, calls.clone())));
        stores.push(store);
    }
    let run = async || {
        let mut requests = JoinSet::new();
        for target in (0..clients).flat_map(|_| 0..keys).map(|key| format!("/items/{key}")) {
            for cache in &caches {
                let request = Request::get(&target).body(Plain::default()).expect("a request");
                let cache = cache.clone();
                requests.spawn(async move {
                    let response = cache.oneshot(request).await.expect("an infallible service");
                    response.into_body().collect().await.expect("a complete body")
                });
            }
        }
        while let Some(result) = requests.join_next().await {
            result.expect("a response");
        }
        let calls = std::mem::take(&mut *calls.lock().expect("no poisoned lock"));
        (calls.values().copied().max().unwrap_or(0), calls.values().sum())
    };
    let cold = run().await;
    stores[0].invalidate(["items"]).await.expect("a delivered invalidation");
    [cold, run().await]
}

/// Returns an inner service with a latency of two milliseconds.
fn inner(
    process: usize,
    calls: Calls,
) -> impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static {
    tower::service_fn(move |request: Request<Plain>| {
        *calls.lock().expect("no poisoned lock").entry((process, request.uri().to_string())).or_default() += 1;
        async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(Response::new(Plain::from("an item")))
        }
    })
}
