//! Processes that do not read their pushes, and many processes on one server.

use std::time::Duration;

use crate::{
    common::{
        redis::{Fault, Forwarder, Options, Server, until},
        *,
    },
    setup::{builder, patient, read, rule},
};
use ::redis::from_redis_value;
use tokio::io::AsyncWriteExt;
use tower::Layer;
use tower_response_cache::{CacheLayer, Redis, Store};

/// Returns the number of connections of a class.
async fn clients(server: &Server, class: &str) -> usize {
    let list: String = from_redis_value(server.command(&["CLIENT", "LIST", "TYPE", class]).await).unwrap();
    list.lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_process_is_cut_off_and_lacks_its_lease() {
    let server = Options::default().line("client-output-buffer-limit pubsub 1mb 1mb 60").start().await;
    let forwarder = Forwarder::to(&server);
    let store = patient(Redis::builder(&forwarder.url())).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    until("hits are served from memory under a lease", async || read(&cache, "/t/x").await.1 && store.is_leased()).await;
    let before = read(&cache, "/t/x").await.0;

    assert_eq!(clients(&server, "pubsub").await, 1);
    forwarder.answers(Fault::Stall);
    let prefix = ["cache:1:g:{", &"x".repeat(60_000)].concat();
    let mut number = 0;
    until("the connection is closed by the server", async || {
        for _ in 0..50 {
            number += 1;
            server.command(&["SET", &format!("{prefix}{number}}}"), "", "PX", "60000"]).await;
        }
        clients(&server, "pubsub").await == 0
    })
    .await;
    // Its pushes can never arrive any more, so a lease would be a mistake.
    until("the lease has ended", async || !store.is_leased()).await;
    builder(&server).build().await.unwrap().invalidate(["t:x"]).await.unwrap();
    forwarder.answers(Fault::Pass);
    until("the lease is back", async || store.is_leased()).await;
    assert_ne!(read(&cache, "/t/x").await.0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_without_channels_still_holds_a_lease() {
    let server = Options::default().line("user app on >secret resetchannels ~* +@all").start().await;
    let url = format!("redis://app:secret@{}", server.addr());
    let store = patient(Redis::builder(&url)).memory(8 << 20).build().await.unwrap();
    until("the lease is held", async || store.is_leased()).await;
    assert_eq!(clients(&server, "pubsub").await, 0);
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(rule())).layer(inner);
    until("requests are hits", async || read(&cache, "/t/x").await.1).await;
    let before = read(&cache, "/t/x").await.0;
    builder(&server).build().await.unwrap().invalidate(["t:x"]).await.unwrap();
    until("the push arrives", async || read(&cache, "/t/x").await.0 != before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_slow_down_with_many_processes() {
    let server = Server::start().await;
    let (shortest, round_trip) = (Duration::from_millis(20), Duration::from_millis(500));
    let (one, fixed) = (builder(&server), builder(&server).max_heartbeat(shortest));
    let (one, fixed) = (one.build().await.unwrap(), fixed.build().await.unwrap());
    until("both hold a lease", async || one.is_leased() && fixed.is_leased()).await;
    assert_eq!(one.max_staleness(), 2 * shortest + round_trip);
    let mut others = Vec::new();
    for _ in 0..198 {
        let mut other = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        other.write_all(b"HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX others\r\n").await.unwrap();
        others.push(other);
    }
    let slowed = Duration::from_millis(180);
    until("the heartbeats are slower", async || one.max_staleness() == 2 * slowed + round_trip).await;
    until("the lease is held", async || one.is_leased()).await;
    assert_eq!(fixed.max_staleness(), 2 * shortest + round_trip);
    drop(others);
    until("the heartbeats are fast again", async || one.max_staleness() == 2 * shortest + round_trip).await;
    until("the lease is held", async || one.is_leased()).await;
}
