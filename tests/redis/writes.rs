//! Writes over Redis: invalidations that cannot be delivered, and fences.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    common::{
        redis::{Cluster, Server, until},
        *,
    },
    paused::PausedFill,
    setup::{builder, invalidation, patient, rule},
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, InvalidateLayer, Outcome, Redis, Store,
    invalidate::{Invalidation, OnDeliveryTimeout, OnFenceError},
    redis::{Coherence, RedisBuilder},
    status::Miss,
};

#[tokio::test(flavor = "multi_thread")]
async fn undelivered_write_is_acknowledged_or_rejected_after_its_timeout() {
    let server = Server::start().await;
    let store = builder(&server).memory(8 << 20).command_timeout(Duration::from_millis(100)).build().await.unwrap();
    let other = builder(&server).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let others = CacheLayer::new(other).rules(one_rule(rule())).layer(inner.clone());
    let held = |then| {
        InvalidateLayer::new(store.clone())
            .rules(one_rule(rule()))
            .delivery_timeout(Duration::from_millis(50), then)
            .cache_status("test")
    };
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");

    let delivered = send(&held(OnDeliveryTimeout::Reject).layer(inner.clone()), post("/t/x")).await;
    assert_eq!((delivered.status(), invalidation(&delivered)), (StatusCode::OK, Some(Invalidation::Delivered)));
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 3");
    assert_eq!(text(send(&others, get("/t/x")).await).await, "answer 3");

    server.pause();
    let acknowledged = send(&held(OnDeliveryTimeout::Respond).layer(inner.clone()), post("/t/x")).await;
    assert_eq!((acknowledged.status(), invalidation(&acknowledged)), (StatusCode::OK, Some(Invalidation::Undelivered)));
    assert_eq!(acknowledged.headers()["cache-status"], "test; detail=undelivered");
    let rejected = send(&held(OnDeliveryTimeout::Reject).layer(inner.clone()), post("/t/x")).await;
    assert_eq!(
        (rejected.status(), invalidation(&rejected)),
        (StatusCode::SERVICE_UNAVAILABLE, Some(Invalidation::Undelivered))
    );
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    assert_eq!((store.stats().undelivered, store.waiting() > 0), (2, true));
    // In this process no older entry is served, from memory or from Redis.
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 6");
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 7");

    server.resume();
    until("the invalidation is delivered", async || store.waiting() == 0).await;
    assert_eq!(text(send(&others, get("/t/x")).await).await, "answer 8");
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_namespace_is_neither_served_nor_stored() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let strict = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).strict(Duration::from_secs(30));
        let (writer, reader) = (strict().build().await.unwrap(), strict().build().await.unwrap());
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let reads = CacheLayer::new(reader.clone()).rules(one_rule(rule())).layer(inner);
        let (handler, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let writes = InvalidateLayer::new(writer.clone()).rules(one_rule(rule())).layer(handler);

        assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");
        assert_eq!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        let (first, second) = (writes.clone(), writes.clone());
        let first = tokio::spawn(async move { send(&first, post("/t/x")).await });
        let (_, one) = next_call(&mut handle).await;
        let second = tokio::spawn(async move { send(&second, post("/t/x")).await });
        let (_, two) = next_call(&mut handle).await;
        if coherence == Coherence::Leased {
            until("the push arrives", async || outcome(&send(&reads, get("/t/x")).await) != Outcome::Hit).await;
        }
        for _ in 0..3 {
            assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        }
        one.send_response(ok("done"));
        assert_eq!(invalidation(&first.await.unwrap()), Some(Invalidation::Delivered));
        // The fence of the second write is still there although the first write has ended.
        assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        two.send_response(ok("done"));
        assert_eq!(invalidation(&second.await.unwrap()), Some(Invalidation::Delivered));
        until("hits are back", async || outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit).await;
        assert_eq!(server.keys("*:f:*").await, Vec::<String>::new());
    }
}

/// The fill has read the generations before the fence was set, and creates the missing one while it stands. The process has received the push of
/// the fence in between.
#[tokio::test(flavor = "multi_thread")]
async fn generation_created_inside_a_fence_is_not_known_afterwards() {
    let (server, cluster) = (Server::start().await, Cluster::start(1, 0).await);
    for is_cluster in [false, true] {
        let strict = || {
            let builder = if is_cluster {
                patient(RedisBuilder::cluster(cluster.urls()))
            } else {
                patient(Redis::builder(&server.url()))
            };
            builder.memory(8 << 20).strict(Duration::from_secs(30))
        };
        let (writer, reader) = (strict().build().await.unwrap(), strict().build().await.unwrap());
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let paused = PausedFill::of(reader.clone());
        let reads = CacheLayer::new(reader.clone()).rules(one_rule(rule())).layer(inner.clone());
        let fills = CacheLayer::new(paused.clone()).rules(one_rule(rule())).layer(inner);
        let (handler, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let writes = InvalidateLayer::new(writer.clone()).rules(one_rule(rule())).layer(handler);
        until("another name is in memory", async || outcome(&send(&reads, get("/t/z")).await) == Outcome::Hit).await;

        paused.pause_next();
        let fill = tokio::spawn(async move { send(&fills, get("/t/x")).await });
        paused.wait_for_fill().await;
        let write = tokio::spawn(async move { send(&writes, post("/t/x")).await });
        let (_, held) = next_call(&mut handle).await;
        // Pushes arrive in order.
        writer.invalidate(["t:z"]).await.unwrap();
        until("the push arrives", async || outcome(&send(&reads, get("/t/z")).await) != Outcome::Hit).await;
        paused.release();
        assert_eq!(fill.await.unwrap().status(), 200);

        until("the lease is held", async || reader.is_leased()).await;
        for _ in 0..5 {
            assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        }
        held.send_response(ok("done"));
        assert_eq!(invalidation(&write.await.unwrap()), Some(Invalidation::Delivered));
        until("hits are back", async || outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_outcome_leaves_the_fence_to_its_deadline() {
    let server = Server::start().await;
    let store = builder(&server).strict(Duration::from_secs(2)).build().await.unwrap();
    let (inner, _) = counting(|request, n| {
        let mut response = ok(format!("answer {n}"));
        if request.method() == "POST" {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    });
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let writes = InvalidateLayer::new(store).rules(one_rule(rule())).layer(inner);
    assert_eq!(outcome(&send(&reads, get("/t/x")).await), Outcome::Miss(Miss::Absent));
    send(&writes, post("/t/x")).await;
    assert_eq!(server.keys("*:f:*").await.len(), 1);
    assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
    assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
    until("the fence ends", async || server.keys("*:f:*").await.is_empty()).await;
    until("hits are back", async || outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit).await;
}

/// A call by gRPC is a write until its status is known.
#[tokio::test(flavor = "multi_thread")]
async fn fence_stands_while_the_response_of_a_call_streams() {
    let server = Server::start().await;
    let store = builder(&server).strict(Duration::from_secs(2)).build().await.unwrap();
    for is_read in [true, false] {
        let (handler, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<ChannelBody>>();
        let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(handler);
        let mut request = post("/t/x");
        *request.version_mut() = http::Version::HTTP_2;
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let call = tokio::spawn(async move { send(&writes, request).await });
        let (source, body) = channel_body(None);
        next_call(&mut handle).await.1.send_response(Response::new(body));
        let mut body = Box::pin(call.await.unwrap().into_body());
        source.send("\0\0\0\0\x01a");
        body.frame().await.unwrap().unwrap();
        // Also of a client that reads nothing for a while, or that has left.
        let body = is_read.then_some(body);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(server.keys("*:f:*").await.len(), 1, "{is_read}");
        source.trailers("grpc-status", "0");
        if let Some(body) = body {
            body.collect().await.unwrap();
        }
        until("the fence is removed", async || server.keys("*:f:*").await.is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_redis_accepts_invalidations_and_fences() {
    let server = Server::start().await;
    let strict = builder(&server).strict(Duration::from_secs(30)).build().await.unwrap();
    let store = builder(&server).coherence(Coherence::Validated).strict(Duration::from_secs(30)).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");
    store.invalidate(["t:x"]).await.unwrap();
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 2");
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 3");

    let writes = InvalidateLayer::new(strict).rules(one_rule(rule())).layer(inner);
    let written = send(&writes, post("/t/x")).await;
    assert_eq!((written.status(), invalidation(&written)), (StatusCode::OK, Some(Invalidation::Delivered)));

    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    until("hits are back", async || outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfenced_write_is_rejected_unless_told_to_proceed() {
    let server = Server::start().await;
    let budget = Duration::from_millis(50);
    let strict = builder(&server).strict(Duration::from_secs(2)).command_timeout(budget).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let writes =
        InvalidateLayer::new(strict.clone()).rules(one_rule(rule())).delivery_timeout(budget, OnDeliveryTimeout::Respond);
    server.pause();
    let rejected = send(&writes.clone().layer(inner.clone()), post("/t/x")).await;
    assert_eq!((rejected.status(), invalidation(&rejected)), (StatusCode::SERVICE_UNAVAILABLE, Some(Invalidation::NotFenced)));
    assert_eq!((calls.load(Ordering::SeqCst), strict.stats().unfenced_writes), (0, 1));
    let proceeds = send(&writes.on_fence_error(OnFenceError::Proceed).layer(inner), post("/t/x")).await;
    assert_eq!((proceeds.status(), invalidation(&proceeds)), (StatusCode::OK, Some(Invalidation::Undelivered)));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    server.resume();
    until("all invalidations are delivered", async || strict.waiting() == 0).await;
    // A fence command may run after its removal: that fence stays until its deadline.
    until("no fence is left", async || server.keys("*:f:*").await.is_empty()).await;
}

/// While Redis is known to be down, a rejected write sends no fence, so that none has to be removed later.
#[tokio::test(flavor = "multi_thread")]
async fn writes_rejected_without_redis_leave_nothing_to_deliver() {
    let server = Server::start().await;
    let budget = Duration::from_millis(50);
    let strict = builder(&server).strict(Duration::from_secs(1)).command_timeout(budget).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let writes = InvalidateLayer::new(strict.clone()).rules(one_rule(rule())).layer(inner);
    server.pause();
    until("the store knows that Redis is down", async || {
        send(&writes, post("/t/before")).await;
        !strict.is_reachable()
    })
    .await;
    let waiting = strict.waiting();
    for n in 0..100 {
        let rejected = send(&writes, post(&format!("/t/{n}"))).await;
        assert_eq!(invalidation(&rejected), Some(Invalidation::NotFenced));
    }
    assert_eq!((strict.waiting(), calls.load(Ordering::SeqCst)), (waiting, 0));
    server.resume();
    until("all invalidations are delivered", async || strict.waiting() == 0).await;
    until("no fence is left", async || server.keys("*:f:*").await.is_empty()).await;
}
