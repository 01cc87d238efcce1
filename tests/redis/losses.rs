//! Data that Redis loses or damages, and requests while Redis is down.

use std::time::Duration;

use crate::{
    common::{
        redis::{Server, until},
        *,
    },
    setup::{builder, rule},
};
use http::{Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{CacheLayer, Outcome, Store, redis::Coherence, status::Miss};

#[tokio::test(flavor = "multi_thread")]
async fn missing_generation_is_a_miss_and_revives_nothing() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let store = builder(&server).prefix(&prefix).coherence(coherence).build().await.unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let reads = CacheLayer::new(store).rules(one_rule(rule())).layer(inner);
        for (n, name) in ["*", "t", "t:x"].into_iter().enumerate() {
            assert_eq!(text(send(&reads, get("/t/x")).await).await, format!("answer {}", n + 1));
            let gone = server.command(&["DEL", &format!("{prefix}:1:g:{{{name}}}")]).await;
            assert_eq!(gone, ::redis::Value::Int(1), "{name}");
            until("the inner service has answered anew", async || {
                text(send(&reads, get("/t/x")).await).await == format!("answer {}", n + 2)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_trusts_no_generation_from_before_a_flush() {
    let server = Server::start().await;
    let make = || builder(&server).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner);
    until("the lease is held", async || one.is_leased()).await;
    send(&cache, get("/t/x")).await;
    send(&cache, get("/t/y")).await;
    server.command(&["FLUSHALL"]).await;
    // This fill reads the generation of the root again, but not that of the other table.
    until("the push arrives", async || outcome(&send(&cache, get("/t/y")).await) == Outcome::Miss(Miss::Absent)).await;
    let old = text(send(&cache, get("/t/x")).await).await;
    two.invalidate(["t:x"]).await.unwrap();
    until("the push arrives", async || text(send(&cache, get("/t/x")).await).await != old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_entry_is_a_counted_miss_and_removed() {
    let server = Server::start().await;
    let store = builder(&server).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    send(&reads, get("/t/x")).await;
    send(&reads, get("/t/y")).await;
    let entries = server.keys("*:e:*").await;
    assert_eq!(entries.len(), 2);
    let (x, y): (Vec<_>, Vec<_>) = entries.iter().partition(|key| key.contains("t:x"));
    // The entry of another key, byte for byte, and one cut short.
    server.command(&["COPY", y[0], x[0], "REPLACE"]).await;
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 3");
    server.command(&["SETRANGE", y[0], "30", "damage"]).await;
    assert_eq!(text(send(&reads, get("/t/y")).await).await, "answer 4");
    server.command(&["SET", x[0], ""]).await;
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 5");
    assert_eq!(store.stats().damaged, 3);
    assert_eq!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_succeed_without_redis_and_hits_come_back() {
    let server = Server::start().await;
    let store = builder(&server).command_timeout(Duration::from_millis(50)).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
    server.pause();
    until("the lease ends", async || !store.is_leased()).await;
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 2");
    for n in 0..20 {
        assert_eq!(send(&cache, get(&format!("/t/{n}"))).await.status(), StatusCode::OK);
    }
    assert!(!store.is_reachable());
    server.resume();
    until("Redis is used again", async || store.is_reachable()).await;
    until("hits are back", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
}

/// The test has one thread: a request that is counted as having failed to read has joined before another task runs.
#[tokio::test]
async fn without_redis_one_call_runs_and_one_forms() {
    let server = Server::start().await;
    let store = builder(&server).command_timeout(Duration::from_millis(20)).build().await.unwrap();
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    server.pause();
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await })
    };
    let first = ask();
    let (_, one) = next_call(&mut handle).await;
    until("the store knows that Redis is down", async || !store.is_reachable()).await;
    let later: Vec<_> = (0..100).map(|_| ask()).collect();
    until("all requests wait", async || store.stats().failed_lookups > 100).await;
    one.send_response(ok("before they came"));
    assert_eq!(first.await.unwrap(), "before they came");
    let (_, two) = next_call(&mut handle).await;
    two.send_response(ok("after they came"));
    for request in later {
        assert_eq!(request.await.unwrap(), "after they came");
    }
}
