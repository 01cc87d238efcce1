//! Invalidations on their way to Redis: bounded waits, a bounded queue, and delivery as soon as Redis is back.

use std::{sync::atomic::Ordering, time::Duration};

use crate::common::{
    redis::{Cluster, Fault, Forwarder, Server, until},
    *,
};
use http::{Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Coherence, InvalidateLayer, Invalidation, OnDeliveryTimeout, Outcome, Redis, RedisBuilder, Rule, Store,
};

/// Longer than any wait that is tested, so that a test which would wait for ever fails.
const FOR_EVER: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("t:{table}")
}

fn forwarder(server: &Server) -> Forwarder {
    Forwarder::start(([127, 0, 0, 1], server.port()).into())
}

fn cleared<B>(response: &Response<B>) -> Option<Invalidation> {
    response.extensions().get().copied()
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(FOR_EVER, work).await.unwrap_or_else(|_| panic!("{what} never ends"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explicit_invalidation_ends_while_redis_is_down() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).invalidate_timeout(Duration::from_millis(20)).build().await.unwrap();
    let other = Redis::builder(&server.url()).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(other).rules(one_rule(rule())).layer(inner);
    let before = text(send(&cache, get("/t/x")).await).await;
    let key = one_rule(rule()).key(&store, &get("/t/x")).expect("a rule covers it");
    server.pause();
    for _ in 0..3 {
        let error = in_time("invalidate", store.invalidate(["t:x"])).await.unwrap_err();
        assert!(error.is_queued(), "{error}");
        assert!(error.to_string().contains("queued"), "{error}");
        assert!(in_time("invalidate_softly", store.invalidate_softly(["t:y"])).await.unwrap_err().is_queued());
        assert!(in_time("invalidate_key", store.invalidate_key(&key)).await.unwrap_err().is_queued());
    }
    server.resume();
    until("all are delivered", async || store.waiting() == 0).await;
    assert_ne!(text(send(&cache, get("/t/x")).await).await, before);
    store.invalidate(["t:x"]).await.unwrap();
    store.invalidate([""; 0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_held_while_redis_is_known_to_be_down() {
    let server = Server::start().await;
    let forwarder = forwarder(&server);
    let store = Redis::builder(&forwarder.url()).invalidate_timeout(HOUR).build().await.unwrap();
    forwarder.refuse(true);
    forwarder.cut();
    until("it is known", async || !store.is_reachable()).await;
    let (inner, calls) = counting(|_, _| ok("written"));
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule()));
    let acknowledged = writes.clone().delivery_timeout(HOUR, OnDeliveryTimeout::Respond).layer(inner.clone());
    let response = in_time("a write", send(&acknowledged, post("/t/x"))).await;
    assert_eq!((response.status(), cleared(&response)), (StatusCode::OK, Some(Invalidation::Undelivered)));
    let rejected = writes.delivery_timeout(HOUR, OnDeliveryTimeout::Reject).layer(inner);
    let response = in_time("a write", send(&rejected, post("/t/x"))).await;
    assert_eq!((response.status(), cleared(&response)), (StatusCode::SERVICE_UNAVAILABLE, Some(Invalidation::Undelivered)));
    assert_eq!((calls.load(Ordering::SeqCst), store.waiting()), (2, 1));
    assert!(in_time("invalidate", store.invalidate(["t:y"])).await.unwrap_err().is_queued());
    forwarder.refuse(false);
    until("all are delivered", async || store.waiting() == 0).await;
}

/// It is known only while the writes are held already.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_opens_ends_the_hold_of_writes() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).build().await.unwrap();
    let (inner, _) = counting(|_, _| ok("written"));
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).delivery_timeout(HOUR, OnDeliveryTimeout::Respond);
    let writes = writes.layer(inner.clone());
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    server.pause();
    let write = tokio::spawn(async move { cleared(&send(&writes, post("/t/x")).await) });
    until("it waits", async || store.waiting() == 1).await;
    until("it is known", async || {
        send(&cache, get("/t/y")).await;
        !store.is_reachable()
    })
    .await;
    assert_eq!(in_time("the write", write).await.unwrap(), Some(Invalidation::Undelivered));
    server.resume();
    until("all are delivered", async || store.waiting() == 0).await;
}

/// A name whose slot a master has.
async fn name_at(cluster: &Cluster, server: &Server) -> String {
    for n in 0..1000 {
        let name = format!("t:{n}");
        if cluster.master_of(slot_of(&name)).await.port() == server.port() {
            return name;
        }
    }
    panic!("no name at {}", server.port());
}

fn slot_of(tag: &str) -> u16 {
    crc16(tag.as_bytes()) % 16_384
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_master_does_not_delay_invalidations_at_others() {
    let cluster = Cluster::start(3, 0).await;
    let store = RedisBuilder::cluster(cluster.urls()).invalidate_timeout(HOUR).build().await.unwrap();
    let [hung, well, ..] = cluster.servers() else { panic!("three masters") };
    let (there, here) = (name_at(&cluster, hung).await, name_at(&cluster, well).await);
    store.invalidate([there.as_str(), here.as_str()]).await.unwrap();
    hung.pause();
    let waits = tokio::spawn({
        let store = store.clone();
        async move { store.invalidate([there.as_str()]).await }
    });
    until("it waits", async || store.waiting() > 0).await;
    // An attempt at the one that hangs takes half a second, and there are three before it is given up.
    let mut delivered = 0;
    while store.is_reachable() {
        in_time("an invalidation", store.invalidate([here.as_str()])).await.unwrap();
        delivered += 1;
    }
    assert!(delivered > 10, "{delivered}");
    assert!(in_time("that at the one that hangs", waits).await.unwrap().unwrap_err().is_queued());
    hung.resume();
    until("all are delivered", async || store.waiting() == 0).await;
}

// ---- Locks ---------------------------------------------------------------------------------------------------------------

/// A lease that no test waits for.
const LEASE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_release_is_lost_is_given_back_later() {
    let server = Server::start().await;
    let forwarder = forwarder(&server);
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let rules = || one_rule(rule().distributed_lock(LEASE));
        let make = |url: String| Redis::builder(&url).prefix(&format!("{coherence:?}")).coherence(coherence).build();
        let (owner, other) = (make(forwarder.url()).await.unwrap(), make(server.url()).await.unwrap());
        let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let [owner, other] =
            [owner, other].map(|store| CacheLayer::new(store).rules(rules()).wait_limit(HOUR).layer(inner.clone()));
        let first = tokio::spawn(async move { text(send(&owner, get("/t/x")).await).await });
        let (_, answer) = next_call(&mut hand).await;
        let second = tokio::spawn(async move { text(send(&other, get("/t/x")).await).await });
        forwarder.refuse(true);
        forwarder.cut();
        until("the connections are cut", async || forwarder.open() == 0).await;
        answer.send_response(ok("lost"));
        assert_eq!(first.await.unwrap(), "lost", "{coherence:?}");
        assert_eq!(server.keys("*:l:*").await.len(), 1);
        forwarder.refuse(false);
        let (_, answer) = in_time("the wait for the lock", next_call(&mut hand)).await;
        answer.send_response(ok("filled"));
        assert_eq!(second.await.unwrap(), "filled", "{coherence:?}");
        until("no lock is left", async || server.keys("*:l:*").await.is_empty()).await;
    }
}

/// A lock that is taken by a command which Redis reads only after its process has given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_taken_too_late_is_given_back() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule().distributed_lock(LEASE))).layer(inner);
    // All generations are there, so that the look succeeds from them alone and the lock is what hangs.
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
        until("redis is asked again", async || store.is_reachable()).await;
    }
    until("no lock is left", async || server.keys("*:l:*").await.is_empty()).await;
}

/// The task of a fill may end where there is no runtime any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_given_back_after_the_runtime_of_its_fill_has_ended() {
    let server = Server::start().await;
    let url = server.url();
    let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = Redis::builder(&url).build().await.unwrap();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule().distributed_lock(LEASE))).layer(inner);
    runtime.spawn(async move { send(&cache, get("/t/x")).await.status() });
    let (_, _answer) = next_call(&mut hand).await;
    assert_eq!(server.keys("*:l:*").await.len(), 1);
    runtime.shutdown_background();
    until("no lock is left", async || server.keys("*:l:*").await.is_empty()).await;
}

// ---- Waits ---------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_nobody_polls_holds_up_nobody_who_reads_the_same() {
    let server = Server::start().await;
    let forwarder = forwarder(&server);
    let store = Redis::builder(&forwarder.url()).memory(8 << 20).max_round_trip(Duration::from_secs(5)).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    until("it is leased", async || store.is_leased()).await;
    forwarder.answers(Fault::Stall);
    let mut reader = Box::pin(send(&cache, get("/t/x")));
    assert!(polled(&mut reader).is_pending());
    forwarder.answers(Fault::Pass);
    for _ in 0..3 {
        in_time("a look-up", send(&cache, get("/t/x"))).await;
    }
    until("hits are there", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
    drop(reader);
    assert!(calls.load(Ordering::SeqCst) > 0);
}

/// A cached page that is made of a cached part. While Redis is down, each call needs one of few places.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_call_within_another_never_waits_for_its_place() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).build().await.unwrap();
    for in_a_task in [false, true] {
        let layer = CacheLayer::new(store.clone()).rules(one_rule(rule())).max_uncoordinated_fills(4);
        // In a task of its own nobody sees within which call it is made.
        let layer = layer.wait_limit(if in_a_task { Duration::from_millis(100) } else { HOUR });
        let part = layer.layer(tower::service_fn(async |_: Request<Plain>| Ok::<_, std::convert::Infallible>(ok("part"))));
        let page = layer.layer(tower::service_fn(move |request: Request<Plain>| {
            let (part, target) = (part.clone(), format!("{}-part", request.uri()));
            async move {
                tokio::task::yield_now().await;
                let part = async move { text(send(&part, get(&target)).await).await };
                let part = if in_a_task { tokio::spawn(part).await.unwrap() } else { part.await };
                Ok::<_, std::convert::Infallible>(ok(format!("page of a {part}")))
            }
        }));
        if !in_a_task {
            server.pause();
            until("redis is known to be away", async || {
                send(&page, get("/t/before")).await;
                !store.is_reachable()
            })
            .await;
        }
        let pages = (0..16).map(|n| {
            let page = page.clone();
            async move { text(send(&page, get(&format!("/t/{n}"))).await).await }
        });
        for page in in_time("a page", futures_util::future::join_all(pages)).await {
            assert_eq!(page, "page of a part");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_ends_while_a_connection_is_made_takes_redis_from_no_other() {
    use bb8_redis::bb8::Pool;
    use tower_response_cache::RedisManager;

    let server = Server::start().await;
    let forwarder = forwarder(&server);
    for pooled in [false, true] {
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let first = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let runtime = first();
        let url = forwarder.url();
        let store = runtime.spawn(async move {
            let manager = RedisManager::new(&url).unwrap();
            let builder = match pooled {
                false => Redis::builder(&url),
                true => RedisBuilder::pool(manager.clone(), Pool::builder().max_size(1).build(manager).await.unwrap()),
            };
            builder.command_timeout(Duration::from_secs(1)).build().await.unwrap()
        });
        let store = store.await.unwrap();
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
        // New connections are accepted, and nothing is answered on them.
        forwarder.answers(Fault::Stall);
        forwarder.cut();
        let before = forwarder.connections();
        let asked = runtime.spawn({
            let cache = cache.clone();
            async move {
                loop {
                    send(&cache, get("/t/x")).await;
                }
            }
        });
        until("connections are being made", async || forwarder.connections() > before + 1).await;
        runtime.shutdown_background();
        assert!(asked.await.is_err());
        forwarder.cut();
        forwarder.answers(Fault::Pass);
        until("hits are back", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
    }
}

// ---- Stored bytes --------------------------------------------------------------------------------------------------------

/// Whoever can write to Redis, and has no key of the ring, can copy what is there.
#[cfg(feature = "redis-encryption")]
#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_entry_is_of_no_use_under_another_prefix_or_in_another_database() {
    use tower_response_cache::KeyRing;

    let server = Server::start().await;
    let make = async |url: String, prefix: &str| {
        let keys = KeyRing::new([[7; 32]]).unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let builder = Redis::builder(&url).prefix(prefix).coherence(Coherence::Validated).encryption(keys);
        CacheLayer::new(builder.build().await.unwrap()).rules(one_rule(rule())).layer(inner)
    };
    let own = make(server.url(), "own").await;
    send(&own, get("/t/x")).await;
    assert_eq!(outcome(&send(&own, get("/t/x")).await), Outcome::Hit);
    for key in server.keys("own:*").await {
        let other = key.replacen("own:", "other:", 1);
        server.command(&["COPY", &key, &other]).await;
        server.command(&["COPY", &key, &key, "DB", "1"]).await;
    }
    let elsewhere = [make(server.url(), "other").await, make(format!("{}/1", server.url()), "own").await];
    for cache in elsewhere {
        assert!(matches!(outcome(&send(&cache, get("/t/x")).await), Outcome::Miss(_)));
        assert_eq!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit, "its own");
    }
    assert_eq!(outcome(&send(&own, get("/t/x")).await), Outcome::Hit);
}

#[cfg(feature = "redis-compression")]
#[tokio::test(flavor = "multi_thread")]
async fn no_body_is_unpacked_beyond_the_rule_of_the_request() {
    let server = Server::start().await;
    let make = async |max_body: usize, length: usize, packed: bool| {
        let builder = Redis::builder(&server.url()).prefix(&packed.to_string()).coherence(Coherence::Validated);
        let builder = builder.command_timeout(Duration::from_secs(20));
        let builder = if packed { builder.compression(1 << 10, 1) } else { builder };
        let (inner, _) = counting(move |_, _| ok(vec![b'a'; length]));
        let store = builder.build().await.unwrap();
        (store.clone(), CacheLayer::new(store).rules(one_rule(rule().max_body(max_body))).layer(inner))
    };
    for packed in [true, false] {
        let (_, large) = make(16 << 20, 8 << 20, packed).await;
        let (store, small) = make(64 << 10, 1, packed).await;
        send(&large, get("/t/x")).await;
        assert_eq!(outcome(&send(&large, get("/t/x")).await), Outcome::Hit);
        let response = send(&small, get("/t/x")).await;
        assert!(matches!(outcome(&response), Outcome::Miss(_)), "{packed}");
        assert_eq!(text(response).await, "a");
        assert!(store.stats().damaged > 0);
        assert_eq!(text(send(&large, get("/t/x")).await).await, "a", "what is stored now is short enough for both");
    }
}
