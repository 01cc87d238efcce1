//! Processes that share entries through Redis.

use tower_response_cache::Redis;

use crate::{App, ORDERS, Server, common::redis::Server as RedisServer, listener, started, until};

async fn app(redis: &RedisServer) -> App {
    App::over(Redis::builder(&redis.url()).memory(8 << 20).build().await.expect("a store"))
}

#[tokio::test]
async fn one_listener_invalidates_for_all_processes() {
    let (server, redis) = (Server::start(), RedisServer::start().await);
    server.sql(ORDERS);
    let (one, other) = (app(&redis).await, app(&redis).await);
    let running = started(listener(&server).stand_by(true), &one).await;
    let standby = listener(&server).stand_by(true).start(&other.cache).await.expect("it stands by");
    for row in 0..2 {
        let before = (one.read("/orders/1").await, other.read("/orders/1").await);
        server.sql(&format!(
            "INSERT INTO orders VALUES ({row}, 7); UPDATE orders SET id = 1 WHERE id = {row}; DELETE FROM orders"
        ));
        one.renewed("/orders/1", before.0).await;
        other.renewed("/orders/1", before.1).await;
    }
    assert!(!standby.stats().connected);
    // Changes while nobody listens are kept for the next listener.
    running.stop().await;
    let before = (one.read("/orders/1").await, other.read("/orders/1").await);
    server.sql("INSERT INTO orders VALUES (1, 7)");
    one.renewed("/orders/1", before.0).await;
    other.renewed("/orders/1", before.1).await;
    assert!(standby.stats().connected);
}

#[tokio::test]
async fn changes_wait_for_a_store_that_cannot_be_reached() {
    let (server, redis) = (Server::start(), RedisServer::start().await);
    server.sql(ORDERS);
    let (one, other) = (app(&redis).await, app(&redis).await);
    let running = started(listener(&server), &one).await;
    let before = (one.read("/orders/1").await, other.read("/orders/1").await);
    redis.pause();
    server.sql("INSERT INTO orders VALUES (1, 7)");
    let committed = server.sql("SELECT pg_current_wal_lsn()");
    until("the invalidation fails", || running.stats().failed_invalidations > 1).await;
    let confirmed = format!("SELECT confirmed_flush_lsn < '{committed}' FROM pg_replication_slots");
    assert_eq!((server.sql(&confirmed).as_str(), running.stats().changes), ("t", 0));
    redis.resume();
    one.renewed("/orders/1", before.0).await;
    other.renewed("/orders/1", before.1).await;
    until("the change is confirmed", || server.sql(&confirmed) == "f").await;
    assert_eq!((running.stats().reconnections, running.stats().changes), (0, 1));
}

#[tokio::test]
async fn changes_of_a_listener_that_died_are_sent_again() {
    let (server, redis) = (Server::start(), RedisServer::start().await);
    server.sql(ORDERS);
    let (one, other) = (app(&redis).await, app(&redis).await);
    let running = started(listener(&server), &one).await;
    let before = other.read("/orders/1").await;
    // The listener has received the change, and ends before the store has confirmed it.
    redis.pause();
    server.sql("INSERT INTO orders VALUES (1, 7)");
    until("the invalidation fails", || running.stats().failed_invalidations > 0).await;
    running.stop().await;
    drop(one);
    redis.resume();
    let running = started(listener(&server), &other).await;
    other.renewed("/orders/1", before).await;
    until("the change is processed", || running.stats().changes == 1).await;
}
