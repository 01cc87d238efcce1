//! Invalidations on their way to Redis: bounded waits, a bounded queue, and delivery as soon as Redis is back.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    common::{
        redis::{Cluster, Fault, Forwarder, Server, until},
        *,
    },
    setup::{HOUR, in_time, invalidation, rule},
};
use http::{Request, StatusCode};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, CachePolicy, InvalidateLayer, Namespace, Outcome, Redis, Store,
    invalidate::{Invalidation, OnDeliveryTimeout},
    redis::{Coherence, RedisBuilder},
};

#[tokio::test(flavor = "multi_thread")]
async fn explicit_invalidation_returns_while_redis_is_down() {
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
    until("all invalidations are delivered", async || store.waiting() == 0).await;
    assert_ne!(text(send(&cache, get("/t/x")).await).await, before);
    store.invalidate(["t:x"]).await.unwrap();
    store.invalidate([""; 0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_do_not_wait_once_redis_is_known_down() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let store = Redis::builder(&forwarder.url()).invalidate_timeout(HOUR).build().await.unwrap();
    forwarder.refuse(true);
    forwarder.cut();
    until("the store knows that Redis is down", async || !store.is_reachable()).await;
    let (inner, calls) = counting(|_, _| ok("written"));
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule()));
    let acknowledged = writes.clone().delivery_timeout(HOUR, OnDeliveryTimeout::Respond).layer(inner.clone());
    let response = in_time("a write", send(&acknowledged, post("/t/x"))).await;
    assert_eq!((response.status(), invalidation(&response)), (StatusCode::OK, Some(Invalidation::Undelivered)));
    let rejected = writes.delivery_timeout(HOUR, OnDeliveryTimeout::Reject).layer(inner);
    let response = in_time("a write", send(&rejected, post("/t/x"))).await;
    assert_eq!(
        (response.status(), invalidation(&response)),
        (StatusCode::SERVICE_UNAVAILABLE, Some(Invalidation::Undelivered))
    );
    assert_eq!((calls.load(Ordering::SeqCst), store.waiting()), (2, 1));
    assert!(in_time("invalidate", store.invalidate(["t:y"])).await.unwrap_err().is_queued());
    forwarder.refuse(false);
    until("all invalidations are delivered", async || store.waiting() == 0).await;
}

/// The circuit breaker opens while the write already waits for its delivery.
#[tokio::test(flavor = "multi_thread")]
async fn open_circuit_breaker_ends_the_delivery_wait_of_writes() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).build().await.unwrap();
    let (inner, _) = counting(|_, _| ok("written"));
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).delivery_timeout(HOUR, OnDeliveryTimeout::Respond);
    let writes = writes.layer(inner.clone());
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    server.pause();
    let write = tokio::spawn(async move { invalidation(&send(&writes, post("/t/x")).await) });
    until("the invalidation waits", async || store.waiting() == 1).await;
    until("the store knows that Redis is down", async || {
        send(&cache, get("/t/y")).await;
        !store.is_reachable()
    })
    .await;
    assert_eq!(in_time("the write", write).await.unwrap(), Some(Invalidation::Undelivered));
    server.resume();
    until("all invalidations are delivered", async || store.waiting() == 0).await;
}

/// Returns a namespace whose slot belongs to a master.
async fn name_at(cluster: &Cluster, server: &Server) -> String {
    for n in 0..1000 {
        let name = format!("t:{n}");
        if cluster.master_of(Cluster::slot_of(&name)).await.port() == server.port() {
            return name;
        }
    }
    panic!("no namespace at {}", server.port());
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_master_delays_no_invalidation_at_others() {
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
    until("the invalidation waits", async || store.waiting() > 0).await;
    // An attempt at the hung master takes half a second, and the breaker opens after three of them.
    let mut delivered = 0;
    while store.is_reachable() {
        in_time("an invalidation", store.invalidate([here.as_str()])).await.unwrap();
        delivered += 1;
    }
    assert!(delivered > 10, "{delivered}");
    assert!(in_time("the invalidation at the hung master", waits).await.unwrap().unwrap_err().is_queued());
    hung.resume();
    until("all invalidations are delivered", async || store.waiting() == 0).await;
}

// ---- Waits ---------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn unpolled_reader_delays_no_other_reader_of_its_key() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let store = Redis::builder(&forwarder.url()).memory(8 << 20).max_round_trip(Duration::from_secs(5)).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    until("the lease is held", async || store.is_leased()).await;
    forwarder.answers(Fault::Stall);
    let mut reader = Box::pin(send(&cache, get("/t/x")));
    assert!(poll_once(&mut reader).is_pending());
    forwarder.answers(Fault::Pass);
    for _ in 0..3 {
        in_time("a look-up", send(&cache, get("/t/x"))).await;
    }
    until("requests are hits", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
    drop(reader);
    assert!(calls.load(Ordering::SeqCst) > 0);
}

/// A cached page contains a cached part. While Redis is down, each call needs one of few places.
#[tokio::test(flavor = "multi_thread")]
async fn nested_cached_call_never_waits_for_its_parent() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).build().await.unwrap();
    for in_a_task in [false, true] {
        let layer = CacheLayer::new(store.clone()).rules(one_rule(rule())).max_uncoordinated_fills(4);
        // In a task of its own, the call cannot see the call that contains it.
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
            until("the store knows that Redis is down", async || {
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
async fn runtime_ending_while_connecting_takes_redis_from_no_other() {
    use bb8_redis::bb8::Pool;
    use tower_response_cache::redis::RedisManager;

    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
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
        until("new connections are being made", async || forwarder.connections() > before + 1).await;
        runtime.shutdown_background();
        assert!(asked.await.is_err());
        forwarder.cut();
        forwarder.answers(Fault::Pass);
        until("hits are back", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
    }
}

// ---- The outbox ------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn repeated_invalidations_of_a_name_wait_once() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let store = Redis::builder(&forwarder.url()).build().await.unwrap();
    forwarder.refuse(true);
    forwarder.cut();
    until("the store knows that Redis is down", async || !store.is_reachable()).await;
    let names = [["t:x", "row:1"], ["t:x", "row:2"]];
    for n in 0..2_000 {
        assert!(store.invalidate(names[n % 2]).await.unwrap_err().is_queued());
    }
    assert_eq!(store.waiting(), 3, "each name waits once");
    forwarder.refuse(false);
    until("all are delivered", async || store.waiting() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overflow_of_the_outbox_invalidates_everything() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let store = Redis::builder(&forwarder.url()).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let ask = async || text(send(&cache, get("/t/x")).await).await;
    let before = ask().await;
    forwarder.refuse(true);
    forwarder.cut();
    until("the store knows that Redis is down", async || !store.is_reachable()).await;
    for n in 0..100_000 {
        let name = format!("row:{n}");
        drop(poll_once(&mut Box::pin(store.invalidate([name.as_str()]))));
    }
    until("fewer names wait", async || store.waiting() <= 64 << 10).await;
    assert_ne!(ask().await, before);
    forwarder.refuse(false);
    until("no name waits", async || store.waiting() == 0).await;
    assert_ne!(ask().await, before);
}

/// A namespace that the handler names is not known to the request.
#[tokio::test(flavor = "multi_thread")]
async fn undelivered_invalidation_hides_entries_that_name_it() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    for coherence in [Coherence::Validated, Coherence::Leased] {
        let make = Redis::builder(&forwarder.url()).prefix(&format!("{coherence:?}")).coherence(coherence).memory(8 << 20);
        let store = make.command_timeout(Duration::from_secs(2)).build().await.unwrap();
        let (inner, _) = counting(|_, n| {
            let mut response = ok(format!("answer {n}"));
            response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "1"])));
            response
        });
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        until("requests are hits", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
        let before = text(send(&cache, get("/t/x")).await).await;
        forwarder.swallow(Some(b"UNLINK"));
        let invalidation = tokio::spawn({
            let store = store.clone();
            async move { store.invalidate(["row:1"]).await }
        });
        until("the invalidation is being sent", async || store.waiting() > 0).await;
        // The caller may believe that it has arrived.
        invalidation.abort();
        let _ = invalidation.await;
        assert_ne!(text(send(&cache, get("/t/x")).await).await, before, "{coherence:?}");
        forwarder.swallow(None);
        until("the invalidation has arrived", async || store.waiting() == 0).await;
        assert_ne!(text(send(&cache, get("/t/x")).await).await, before, "{coherence:?}");
    }
}
