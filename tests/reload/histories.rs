//! Random histories of reads, writes, invalidations and reloads: no read that begins after the end of a write sees an older value.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::common::*;
use http::{Method, Request, Response};
use tokio::{sync::oneshot, task::JoinSet};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{AnyStore, Identity, Memory, ResponseCache, RouteAndQuery, Rule, Rules};

/// Tables under which a write to `/t/a` invalidates the entries of `/t/a`.
fn tables() -> Vec<Rules> {
    let rule = |name: &str| Rule::ttl(MINUTE).namespace(name);
    vec![
        one_rule(rule("a:{table}")),
        one_rule(rule("a:{table}").stale_while_revalidate(MINUTE).jitter(0.1)),
        one_rule(rule("b:{table}").namespace("c")),
        one_rule(rule("{table}")),
        one_rule(rule("a:{table}").identity(Identity::bearer())),
        one_rule(rule("a:{table}").key(RouteAndQuery.only_query(["page"]))),
        one_rule(rule("a:{table}")).route("/t/a", rule("special")),
        one_rule(rule("a:{table}").invalidates("a")),
        one_rule(rule("e").invalidates_nothing().invalidates_by(|_, _| vec!["e".try_into().expect("a name")])),
        Rules::new().fallback(Rule::http().default_ttl(MINUTE)),
        Rules::new().route("/{kind}/{table}", rule("d:{kind}")),
        Rules::new(),
    ]
}

/// The newest value that a write has committed, and the newest one of a write that has ended.
#[derive(Default)]
struct Database {
    value: AtomicU64,
    acknowledged: AtomicU64,
    held: Mutex<Vec<oneshot::Sender<()>>>,
    turns: AtomicU64,
}

impl Database {
    /// Lets a call wait until the test releases it, or not, at random.
    async fn pause(&self) {
        let turn = self.turns.fetch_add(1, Ordering::SeqCst);
        if fastrand::Rng::with_seed(turn).bool() {
            let (release, released) = oneshot::channel();
            self.held.lock().unwrap().push(release);
            let _ = released.await;
        }
    }

    fn release(&self, random: &mut fastrand::Rng) {
        let mut held = self.held.lock().unwrap();
        if !held.is_empty() {
            let at = random.usize(..held.len());
            let _ = held.swap_remove(at).send(());
        }
    }
}

/// Runs a random history. Panics if a read sees a value that is too old.
async fn run(store: AnyStore, seed: u64, steps: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let tables = tables();
    let database = Arc::new(Database { turns: AtomicU64::new(seed << 20), ..Database::default() });
    let cache = ResponseCache::new(store).rules(tables[0].clone());
    let inner = service_fn({
        let database = database.clone();
        move |request: Request<Plain>| {
            let database = database.clone();
            async move {
                database.pause().await;
                let value = match *request.method() == Method::POST {
                    true => database.value.fetch_add(1, Ordering::SeqCst) + 1,
                    false => database.value.load(Ordering::SeqCst),
                };
                database.pause().await;
                Ok::<Response<Plain>, Infallible>(ok(value.to_string()))
            }
        }
    });
    let service = cache.layer().layer(inner);
    let mut tasks = JoinSet::new();
    for _ in 0..steps {
        let (service, database, cache) = (service.clone(), database.clone(), cache.clone());
        match random.u32(0..12) {
            0..5 => {
                let floor = database.acknowledged.load(Ordering::SeqCst);
                tasks.spawn(async move {
                    let seen: u64 = text(service.oneshot(get("/t/a")).await.unwrap()).await.parse().unwrap();
                    assert!(seen >= floor, "seed {seed}: {seen} was read after {floor} was acknowledged");
                });
            }
            5..7 => {
                tasks.spawn(async move {
                    let written: u64 = text(service.oneshot(post("/t/a")).await.unwrap()).await.parse().unwrap();
                    database.acknowledged.fetch_max(written, Ordering::SeqCst);
                });
            }
            7 => {
                tasks.spawn(async move {
                    let written = database.value.fetch_add(1, Ordering::SeqCst) + 1;
                    cache.invalidate(["*"]).await.unwrap();
                    database.acknowledged.fetch_max(written, Ordering::SeqCst);
                });
            }
            8 => {
                let rules = random.choice(&tables).expect("a table").clone();
                tasks.spawn(async move { cache.reload(rules).await.unwrap() });
            }
            _ => database.release(&mut random),
        }
        for _ in 0..random.u32(0..8) {
            tokio::task::yield_now().await;
        }
    }
    within(async {
        while !tasks.is_empty() {
            database.release(&mut random);
            tokio::task::yield_now().await;
            while let Some(task) = tasks.try_join_next() {
                task.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn no_read_is_older_than_an_ended_write_in_memory() {
    for seed in 0..600 {
        run(Memory::default().into(), seed, 60).await;
    }
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_older_than_an_ended_write_over_redis() {
    use tower_response_cache::redis::Coherence;

    let server = redis::Server::start().await;
    for seed in 0..60 {
        let coherence = if seed % 2 == 0 { Coherence::Validated } else { Coherence::Leased };
        let builder = tower_response_cache::Redis::builder(&server.url()).prefix(&format!("h{seed}")).coherence(coherence);
        let store = builder.memory(8 << 20).build().await.unwrap();
        run(store.into(), seed, 60).await;
    }
}
