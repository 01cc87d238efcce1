//! The laws of a store in Redis that processes share: a real server, and a store for each process.
#![cfg(feature = "redis")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::*;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_response_cache::{
    AfterHold, Cache, CacheLayer, Caching, Coherence, Invalidation, InvalidateLayer, Miss, Namespace, OnFenceError, Outcome, Redis, RedisBuilder, Rule,
    Rules, Store,
};

struct Server { child: std::process::Child, port: u16, _dir: tempfile::TempDir }
impl Server {
    async fn start() -> Self { Self::with(&[]).await }
    async fn with(args: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let child = std::process::Command::new("redis-server").args(["--port", &port.to_string(), "--save", "", "--dir"]).arg(dir.path()).args(args).stdout(std::process::Stdio::null()).spawn().unwrap();
        for _ in 0..500 { if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() { break } tokio::time::sleep(Duration::from_millis(10)).await; }
        Self { child, port, _dir: dir }
    }
    fn url(&self) -> String { format!("redis://127.0.0.1:{}", self.port) }
    fn signal(&self, s: &str) { std::process::Command::new("kill").args([s, &self.child.id().to_string()]).status().unwrap(); }
    fn pause(&self) { self.signal("-STOP") }
    fn resume(&self) { self.signal("-CONT") }
}
impl Drop for Server { fn drop(&mut self) { let _ = self.child.kill(); let _ = self.child.wait(); } }

fn builder(server: &Server) -> RedisBuilder {
    Redis::builder(&server.url()).budget(Duration::from_secs(2)).heartbeat(Duration::from_millis(20)).round_trip(Duration::from_millis(500))
}

fn rule() -> Rule { Rule::ttl(MINUTE).namespace("t:{table}") }

async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if is().await { return }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_stores_another_serves() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated, Coherence::Ttl(MINUTE)] {
        let prefix = format!("{coherence:?}").split('(').next().unwrap().to_owned();
        let make = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).build();
        let (one, two) = (make().await.unwrap(), make().await.unwrap());
        let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
        let a = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner.clone());
        let b = CacheLayer::new(two.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(outcome(&send(&a, get("/t/x")).await), Outcome::Miss(Miss::Absent));
        let from_b = send(&b, get("/t/x")).await;
        assert_eq!(outcome(&from_b), Outcome::Hit, "{coherence:?}");
        assert_eq!(text(from_b).await, "answer 1");
        assert_eq!(text(send(&a, get("/t/x")).await).await, "answer 1");
        assert_eq!(calls.load(Ordering::SeqCst), 1);

        two.invalidate(["t:x"]).await.unwrap();
        assert_eq!(text(send(&b, get("/t/x")).await).await, "answer 2");
        if matches!(coherence, Coherence::Validated) {
            assert_eq!(text(send(&a, get("/t/x")).await).await, "answer 2");
        }
        if matches!(coherence, Coherence::Leased) {
            eventually("the push arrives", async || text(send(&a, get("/t/x")).await).await == "answer 2").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bump_during_a_fill_wins_whoever_bumps() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let make = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).build();
        let (one, two) = (make().await.unwrap(), make().await.unwrap());
        let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let cache = CacheLayer::new(one).rules(one_rule(rule())).layer(inner);
        let first = tokio::spawn({ let cache = cache.clone(); async move { text(send(&cache, get("/t/x")).await).await } });
        let (_, answer) = next_call(&mut hand).await;
        two.invalidate(["t:x"]).await.unwrap();
        answer.send_response(ok("old"));
        assert_eq!(first.await.unwrap(), "old");
        let second = tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await });
        let (_, answer) = next_call(&mut hand).await;
        answer.send_response(ok("new"));
        assert_eq!(second.await.unwrap(), "new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cold_requests_in_each_of_three_processes_are_one_call() {
    let server = Server::start().await;
    let make = || builder(&server).memory(8 << 20).build();
    let calls = Arc::new(AtomicUsize::new(0));
    let mut all = Vec::new();
    for _ in 0..3 {
        let calls = calls.clone();
        let inner = tower::service_fn(move |_: Request<Plain>| {
            let calls = calls.clone();
            async move {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, std::convert::Infallible>(ok("once"))
            }
        });
        let rule = rule().fill_across_processes(Duration::from_secs(20));
        all.push(CacheLayer::new(make().await.unwrap()).rules(one_rule(rule)).layer(inner));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for cache in all {
        for _ in 0..1000 {
            let cache = cache.clone();
            tasks.spawn(async move { text(send(&cache, get("/t/x")).await).await });
        }
    }
    while let Some(body) = tasks.join_next().await {
        assert_eq!(body.unwrap(), "once");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_is_no_error_and_hits_come_back_by_themselves() {
    let server = Server::start().await;
    let store = builder(&server).budget(Duration::from_millis(50)).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
    server.pause();
    eventually("the lease ends", async || !store.is_leased()).await;
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 2");
    for n in 0..20 {
        assert_eq!(send(&cache, get(&format!("/t/{n}"))).await.status(), StatusCode::OK);
    }
    assert!(!store.is_reachable());
    server.resume();
    eventually("redis is asked again", async || store.is_reachable()).await;
    eventually("hits are back", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
}
