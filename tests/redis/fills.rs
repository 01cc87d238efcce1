//! Request coalescing over Redis without the distributed lock: one inner call per cold key and process, in every coherence
//! mode.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{
    redis::{Server, unhurried},
    *,
};
use http::{Request, Response};
use tokio::task::JoinSet;
use tower::{Layer, Service};
use tower_response_cache::{CacheLayer, Outcome, Redis, Rule, Store, redis::Coherence};

/// Calls of an inner service by process and target.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<HashMap<(usize, String), usize>>>);

impl Calls {
    /// Returns the inner service of one process. It takes up to six milliseconds, so that fills overlap in different ways.
    fn service(
        &self,
        process: usize,
    ) -> impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static
    {
        let calls = self.clone();
        tower::service_fn(move |request: Request<Plain>| {
            let target = request.uri().to_string();
            *calls.0.lock().unwrap().entry((process, target.clone())).or_default() += 1;
            async move {
                tokio::time::sleep(Duration::from_micros(u64::from(rand(6_000)))).await;
                Ok(ok(target))
            }
        })
    }

    /// Fails if a process has called for one target more than `most` times, or if no process has called for a target. Forgets
    /// all calls.
    fn were_at_most(&self, most: usize, targets: &[String], what: &str) {
        let calls = std::mem::take(&mut *self.0.lock().unwrap());
        let many: Vec<_> = calls.iter().filter(|(_, count)| **count > most).collect();
        assert!(many.is_empty(), "{what}: more than {most} inner call per key and process: {many:?}");
        for target in targets {
            assert!(calls.keys().any(|(_, called)| called == target), "{what}: no call for {target}");
        }
    }
}

fn rand(below: u32) -> u32 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) % u64::from(below)) as u32
}

/// Setup of a run: coherence mode, memory in front of Redis, number of processes.
#[derive(Debug, Clone, Copy)]
struct Setting {
    coherence: Coherence,
    memory: bool,
    processes: usize,
}

fn settings() -> impl Iterator<Item = Setting> {
    [Coherence::Leased, Coherence::Validated, Coherence::Ttl(MINUTE)].into_iter().flat_map(|coherence| {
        [false, true].into_iter().flat_map(move |memory| [1, 2].map(|processes| Setting { coherence, memory, processes }))
    })
}

/// Runs the same requests over every setting: cold, and directly after each of some writes.
async fn over_all_settings(targets: &[String], clients: usize, writes: usize) {
    let server = Server::start().await;
    for (n, setting) in settings().enumerate() {
        let calls = Calls::default();
        let mut stores = Vec::new();
        let mut caches = Vec::new();
        for process in 0..setting.processes {
            let builder = Redis::builder(&server.url()).prefix(&format!("run{n}")).command_timeout(Duration::from_secs(5));
            let builder = builder
                .heartbeat(Duration::from_millis(50))
                .max_round_trip(Duration::from_secs(2))
                .coherence(setting.coherence);
            let store = match setting.memory {
                true => builder.memory(8 << 20).build().await,
                false => builder.build().await,
            };
            let store = store.expect("a server is there");
            let rule = Rule::ttl(MINUTE).namespace("t:{table}");
            caches.push(CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(calls.service(process)));
            stores.push(store);
        }
        let run = async || {
            let mut requests = JoinSet::new();
            for _ in 0..clients {
                for (target, cache) in targets.iter().flat_map(|target| caches.iter().map(move |cache| (target, cache))) {
                    let (target, cache) = (target.clone(), cache.clone());
                    requests.spawn(async move { assert_eq!(text(send(&cache, get(&target)).await).await, target) });
                }
            }
            while let Some(request) = requests.join_next().await {
                request.expect("an answer");
            }
        };
        run().await;
        calls.were_at_most(1, targets, &format!("cold, {setting:?}"));
        for _ in 0..writes {
            stores[0].invalidate(["t"]).await.expect("it is delivered");
            run().await;
            // A process that may serve stale entries need not call at all.
            let all = if matches!(setting.coherence, Coherence::Ttl(_)) && setting.processes > 1 { &[] } else { targets };
            calls.were_at_most(1, all, &format!("after a write, {setting:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_cold_requests_make_one_call_per_process() {
    over_all_settings(&["/t/x".to_owned()], 1_000, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_cold_keys_make_sixty_calls_per_process() {
    let targets: Vec<_> = (0..60).map(|n| format!("/t/{n}")).collect();
    over_all_settings(&targets, 100, 1).await;
}

// ---- Generations that fills leave in Redis ------------------------------------------------------------------------------

/// Returns the remaining lifetime of each generation whose name has a prefix, in milliseconds.
async fn lives(server: &Server, name: &str) -> Vec<i64> {
    let keys = server.keys(&format!("*:g:{{{name}*")).await;
    let mut lives = Vec::with_capacity(keys.len());
    let client = ::redis::Client::open(server.url()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection_with_config(&unhurried()).await.expect("a connection");
    for key in keys {
        lives.push(::redis::cmd("PTTL").arg(key).query_async(&mut connection).await.expect("a number"));
    }
    lives
}

fn missing() -> Response<Plain> {
    let missing = Response::builder().status(404).header("cache-control", "no-store");
    missing.body(Plain::default()).expect("a response")
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_of_invented_paths_expire_in_two_minutes() {
    const FIRST: i64 = 120_000;
    let server = Server::start().await;
    for (n, coherence) in [Coherence::Leased, Coherence::Validated].into_iter().enumerate() {
        let builder = Redis::builder(&server.url())
            .prefix(&format!("run{n}"))
            .command_timeout(Duration::from_secs(5))
            .coherence(coherence);
        let store = builder.memory(8 << 20).build().await.expect("a server is there");
        let (inner, _) = counting(|_, _| missing());
        let cache = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE).namespace("page:{table}"))).layer(inner);
        for n in 0..5_000 {
            send(&cache, get(&format!("/t/{n}"))).await;
        }
        let pages = lives(&server, "page").await;
        assert!(pages.len() > 1_000, "{}", pages.len());
        assert!(pages.iter().all(|life| *life <= FIRST), "{:?}", pages.iter().max());
        // The others are those of the root and of 4,096 sets of keys.
        let all = lives(&server, "").await;
        assert!(all.iter().filter(|life| **life > FIRST).count() <= 4_097);
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generation_lives_as_long_as_its_entries() {
    let server = Server::start().await;
    for (n, coherence) in [Coherence::Leased, Coherence::Validated].into_iter().enumerate() {
        let prefix = format!("run{n}");
        let make = async || {
            let builder =
                Redis::builder(&server.url()).prefix(&prefix).command_timeout(Duration::from_secs(5)).coherence(coherence);
            builder.max_round_trip(Duration::from_secs(2)).memory(8 << 20).build().await.expect("a server is there")
        };
        let (one, two) = (make().await, make().await);
        let (inner, _) = counting(|request, _| match request.uri().query() {
            Some("missing") => missing(),
            _ => ok("found"),
        });
        let cache = |store: &Redis| {
            let rule = Rule::ttl(5 * MINUTE).namespace("page:{table}");
            CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner.clone())
        };
        let (a, b) = (cache(&one), cache(&two));
        let hour = |lives: &[i64]| matches!(lives, [life] if *life > 3_600_000);
        // One process creates the generation and stores nothing, the other stores an entry under it.
        send(&a, get("/t/x?missing")).await;
        assert!(!hour(&lives(&server, "page:x").await));
        send(&b, get("/t/x")).await;
        assert!(hour(&lives(&server, "page:x").await), "{coherence:?}: extended");
        assert_eq!(outcome(&send(&b, get("/t/x")).await), Outcome::Hit, "{coherence:?}");
        // The next generation of a name with entries lives that long from the start.
        two.invalidate(["page:x"]).await.expect("it is delivered");
        send(&b, get("/t/x?missing")).await;
        assert!(hour(&lives(&server, "page:x").await), "{coherence:?}: created");
        server.command(&["FLUSHALL"]).await;
    }
}
