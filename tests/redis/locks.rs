//! The distributed lock of a fill: one inner call among all processes, and no lock that outlives its owner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    common::{
        redis::{Fault, Forwarder, Server, until},
        *,
    },
    setup::{HOUR, builder, in_time, rule},
};
use http::{Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{CacheLayer, Clock, Redis, Rule, Store, redis::Coherence};

#[tokio::test(flavor = "multi_thread")]
async fn thousand_cold_requests_in_three_processes_make_one_call() {
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
        let rule = rule().distributed_lock(Duration::from_secs(20));
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
async fn lock_of_a_dead_owner_is_taken_over_once() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let rules = || one_rule(rule().distributed_lock(Duration::from_millis(500)));
    let process = async |url: String| {
        let store = Redis::builder(&url).command_timeout(Duration::from_secs(2)).memory(8 << 20).build().await.unwrap();
        CacheLayer::new(store).rules(rules()).layer(inner.clone())
    };
    let thousand = |cache: &_| {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let cache = Clone::clone(cache);
            tasks.spawn(async move { text(send(&cache, get("/t/x")).await).await });
        }
        tasks
    };
    let (owner, one, two) = (process(forwarder.url()).await, process(server.url()).await, process(server.url()).await);
    let mut owners = thousand(&owner);
    let (_, never_answered) = next_call(&mut handle).await;
    let others = [thousand(&one), thousand(&two)];
    // The owner is gone: its process sends nothing any more.
    forwarder.refuse(true);
    forwarder.cut();
    owners.abort_all();
    let (_, second) = next_call(&mut handle).await;
    second.send_response(ok("taken over"));
    for mut tasks in others {
        while let Some(body) = tasks.join_next().await {
            assert_eq!(body.unwrap(), "taken over");
        }
    }
    drop(never_answered);
    let third = tokio::time::timeout(Duration::from_millis(1), handle.next_request()).await;
    assert!(third.is_err(), "there are two calls and no third");
}

/// A validator may be coarser than the change, a date above all. An invalidated entry is never revalidated.
#[tokio::test(flavor = "multi_thread")]
async fn entry_invalidated_during_a_lock_wait_is_not_revalidated() {
    let server = Server::start().await;
    let clock = Clock::manual();
    let process = async || {
        let (inner, handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let store = builder(&server).coherence(Coherence::Validated).clock(clock.clone()).build().await.unwrap();
        let rule = Rule::http().namespace("t:{table}").distributed_lock(Duration::from_secs(60));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
        (store, cache, handle)
    };
    let (store, one, mut handle) = process().await;
    let (other, two, mut others) = process().await;
    let ask = |cache: &_| {
        let cache = Clone::clone(cache);
        tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await })
    };
    let answer = |body: &'static str| {
        let dated =
            Response::builder().header("cache-control", "max-age=60").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        dated.body(Plain::from(body)).expect("a response")
    };
    let first = ask(&one);
    next_call(&mut handle).await.1.send_response(answer("old"));
    assert_eq!(first.await.unwrap(), "old");
    clock.advance(MINUTE);

    let owner = ask(&one);
    let (asked, call) = next_call(&mut handle).await;
    assert!(asked.headers().contains_key("if-modified-since"), "an entry that is only stale is revalidated");
    let trips = other.round_trips();
    let waits = ask(&two);
    until("the request waits for the owner", async || other.round_trips() > trips + 3).await;
    store.invalidate(["t:x"]).await.unwrap();
    call.send_response(Response::builder().status(503).body(Plain::default()).expect("a response"));
    owner.await.unwrap();
    let (asked, call) = next_call(&mut others).await;
    assert!(!asked.headers().contains_key("if-modified-since"), "an invalidated entry is revalidated");
    call.send_response(answer("new"));
    assert_eq!(waits.await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_dropped_while_locking_leaves_no_lock() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let store = Redis::builder(&forwarder.url())
        .command_timeout(Duration::from_secs(5))
        .coherence(Coherence::Validated)
        .build()
        .await
        .unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let rules = one_rule(rule().distributed_lock(Duration::from_secs(200)));
    let cache = CacheLayer::new(store).rules(rules).layer(inner);
    // All generations exist, so that the next command is the lock alone.
    send(&cache, get("/t/x?n=0")).await;
    forwarder.answers(Fault::Delay(Duration::from_millis(300)));
    let request = tokio::spawn(async move { send(&cache, get("/t/x?n=1")).await.status() });
    until("the lock is taken", async || !server.keys("*:l:*").await.is_empty()).await;
    request.abort();
    until("the lock is released", async || server.keys("*:l:*").await.is_empty()).await;
}

// ---- Release -----------------------------------------------------------------------------------------------------------

/// A lease that outlasts every test.
const LEASE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn lost_lock_release_is_sent_again() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let rules = || one_rule(rule().distributed_lock(LEASE));
        let make = |url: String| Redis::builder(&url).prefix(&format!("{coherence:?}")).coherence(coherence).build();
        let (owner, other) = (make(forwarder.url()).await.unwrap(), make(server.url()).await.unwrap());
        let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let [owner, other] =
            [owner, other].map(|store| CacheLayer::new(store).rules(rules()).wait_limit(HOUR).layer(inner.clone()));
        let first = tokio::spawn(async move { text(send(&owner, get("/t/x")).await).await });
        let (_, answer) = next_call(&mut handle).await;
        let second = tokio::spawn(async move { text(send(&other, get("/t/x")).await).await });
        forwarder.refuse(true);
        forwarder.cut();
        until("the connections are cut", async || forwarder.open() == 0).await;
        answer.send_response(ok("lost"));
        assert_eq!(first.await.unwrap(), "lost", "{coherence:?}");
        assert_eq!(server.keys("*:l:*").await.len(), 1);
        forwarder.refuse(false);
        let (_, answer) = in_time("the wait for the lock", next_call(&mut handle)).await;
        answer.send_response(ok("filled"));
        assert_eq!(second.await.unwrap(), "filled", "{coherence:?}");
        until("no lock is left", async || server.keys("*:l:*").await.is_empty()).await;
    }
}

/// Redis reads the command that takes the lock only after the process has given up.
#[tokio::test(flavor = "multi_thread")]
async fn lock_acquired_after_its_timeout_is_released() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule().distributed_lock(LEASE))).layer(inner);
    // All generations exist, so that the lookup needs no fill and only the lock hangs.
    send(&cache, get("/t/x?n=0")).await;
    for n in 1..20 {
        let asked = tokio::spawn({
            let cache = cache.clone();
            async move { send(&cache, get(&format!("/t/x?n={n}"))).await.status() }
        });
        tokio::task::yield_now().await;
        server.pause();
        assert_eq!(asked.await.unwrap(), StatusCode::OK);
        server.resume();
        until("Redis is used again", async || store.is_reachable()).await;
    }
    until("no lock is left", async || server.keys("*:l:*").await.is_empty()).await;
}

/// The task of a fill may end where there is no runtime any more.
#[tokio::test(flavor = "multi_thread")]
async fn lock_is_released_after_its_runtime_ended() {
    let server = Server::start().await;
    let url = server.url();
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = Redis::builder(&url).build().await.unwrap();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule().distributed_lock(LEASE))).layer(inner);
    runtime.spawn(async move { send(&cache, get("/t/x")).await.status() });
    let (_, _answer) = next_call(&mut handle).await;
    assert_eq!(server.keys("*:l:*").await.len(), 1);
    runtime.shutdown_background();
    until("no lock is left", async || server.keys("*:l:*").await.is_empty()).await;
}
