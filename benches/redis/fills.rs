//! How many calls of the inner service cold keys cost: the law is one for each key and process.

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
use tower_response_cache::{CacheLayer, Coherence, Redis, Rule, Store};

use super::{HOUR, MIB, Plain, rig::Server};

/// How many keys are asked for, and how often each in each process.
const LOADS: [(usize, usize); 2] = [(1, 1_000), (60, 100)];

/// How often each number is counted; the worst is printed.
const RUNS: usize = 5;

/// The calls by process and target.
type Calls = Arc<Mutex<HashMap<(usize, String), usize>>>;

/// Prints, for each setting, the calls for the worst key of a process, and those of all keys and processes.
pub(super) async fn fills() {
    let server = Server::start().await;
    let mut runs = 0;
    println!(
        "\n## Calls of the inner service, without a lock across processes: worst key of a process (all calls), worst of {RUNS} runs\n"
    );
    println!("| coherence | memory | processes | 1 key × 1,000, cold | after a write | 60 keys × 100, cold | after a write |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for coherence in [Coherence::Leased, Coherence::Validated, Coherence::Ttl(HOUR)] {
        for (memory, processes) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
            let mut row = String::new();
            for load in LOADS {
                let mut worst = [(0, 0); 2];
                for _ in 0..RUNS {
                    runs += 1;
                    let prefix = format!("run{runs}");
                    for (worst, counted) in
                        worst.iter_mut().zip(counted(&server, &prefix, coherence, memory, processes, load).await)
                    {
                        *worst = (*worst).max(counted);
                    }
                }
                for (most, all) in worst {
                    row += &format!(" {most} ({all}) |");
                }
            }
            let coherence = format!("{coherence:?}");
            println!("| {} | {memory} | {processes} |{row}", coherence.split('(').next().unwrap_or_default());
        }
    }
}

/// The calls for the worst key of a process and all calls: cold, and directly after a write.
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
        let store = if memory { builder.memory(8 * MIB) } else { builder }.build().await.expect("a server is there");
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
                    let response = cache.oneshot(request).await.expect("the inner service does not fail");
                    response.into_body().collect().await.expect("a whole body")
                });
            }
        }
        while let Some(answered) = requests.join_next().await {
            answered.expect("an answer");
        }
        let calls = std::mem::take(&mut *calls.lock().expect("no panic"));
        (calls.values().copied().max().unwrap_or(0), calls.values().sum())
    };
    let cold = run().await;
    stores[0].invalidate(["items"]).await.expect("it is delivered");
    [cold, run().await]
}

/// An inner service that takes two milliseconds.
fn inner(
    process: usize,
    calls: Calls,
) -> impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static {
    tower::service_fn(move |request: Request<Plain>| {
        *calls.lock().expect("no panic").entry((process, request.uri().to_string())).or_default() += 1;
        async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(Response::new(Plain::from("an item")))
        }
    })
}
