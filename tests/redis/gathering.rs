//! Pushes that several processes share.

use std::time::Duration;

use ::redis::Value;
use futures_util::future::join_all;
use tower::Layer;
use tower_response_cache::{CacheLayer, Redis, Store};

use crate::{
    common::{
        redis::{Server, until},
        *,
    },
    setup::{builder, read, rule},
    touches::Listener,
};

/// The keys of the names that wait for a common push.
const WAITING: &str = "cache:1:w";

async fn stores(server: &Server, count: usize, gather: Duration) -> Vec<Redis> {
    let mut stores = Vec::new();
    for _ in 0..count {
        stores.push(builder(server).memory(8 << 20).gather(gather).build().await.unwrap());
    }
    for store in &stores {
        until("the lease is held", async || store.is_leased()).await;
    }
    stores
}

async fn share_a_push(stores: &[Redis], listener: &mut Listener) -> bool {
    let names: Vec<String> = (0..stores.len()).map(|n| format!("t:{n}")).collect();
    let invalidations = stores.iter().zip(&names).map(|(store, name)| store.invalidate([name.as_str()]));
    join_all(invalidations).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    let (keys, messages) = listener.take_both().await;
    assert!(keys >= stores.len(), "each invalidation is pushed before it returns");
    messages == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_invalidate_at_once_share_a_push() {
    let server = Server::start().await;
    let stores = stores(&server, 4, Duration::from_millis(100)).await;
    let mut listener = Listener::start(&server).await;
    until("four processes share a push", async || share_a_push(&stores, &mut listener).await).await;
    assert_eq!(server.keys(WAITING).await, Vec::<String>::new(), "none waits any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_server_shares_pushes() {
    let server = Server::start().await;
    let stores = stores(&server, 2, Duration::from_millis(100)).await;
    let mut listener = Listener::start(&server).await;
    server.config_set("maxmemory-policy", "noeviction").await;
    server.config_set("maxmemory", "1").await;
    until("two processes share a push", async || share_a_push(&stores, &mut listener).await).await;
}

/// Deletes the waiting keys once there are two or more.
const LOSE_TWO: &str = "return redis.call('ZCARD', KEYS[1]) >= 2 and redis.call('UNLINK', KEYS[1]) or 0";

#[tokio::test(flavor = "multi_thread")]
async fn lost_keys_of_several_processes_are_all_pushed() {
    let server = Server::start().await;
    let stores = stores(&server, 4, Duration::from_millis(100)).await;
    let mut listener = Listener::start(&server).await;
    let mut losses = 0;
    while losses < 5 {
        let mut round = Box::pin(share_a_push(&stores, &mut listener));
        loop {
            tokio::select! {
                _ = &mut round => break,
                lost = server.command(&["EVAL", LOSE_TWO, "1", WAITING]) => losses += usize::from(lost == Value::Int(1)),
            }
        }
    }
}

/// Another client deletes the waiting keys all the time, as an eviction can.
#[tokio::test(flavor = "multi_thread")]
async fn lost_keys_are_pushed_by_their_own_process() {
    let server = Server::start().await;
    let stores = stores(&server, 2, Duration::from_millis(10)).await;
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(stores[0].clone()).rules(one_rule(rule())).layer(inner);
    let mut losses = 0;
    while losses < 20 {
        until("the response is in memory", async || {
            let trips = stores[0].round_trips();
            read(&cache, "/t/x").await.1 && stores[0].round_trips() == trips
        })
        .await;
        let before = read(&cache, "/t/x").await.0;
        let mut invalidation = Box::pin(stores[1].invalidate(["t:x"]));
        loop {
            tokio::select! {
                result = &mut invalidation => break result.unwrap(),
                lost = server.command(&["UNLINK", WAITING]) => losses += usize::from(lost == Value::Int(1)),
            }
        }
        until("the push arrives", async || read(&cache, "/t/x").await.0 != before).await;
    }
    assert!(calls.load(std::sync::atomic::Ordering::SeqCst) >= losses);
}
