//! A server that has been replaced or cut off: by a sentinel, by a cluster, or because it no longer pushes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::common::{
    redis::{Cluster, Fault, Forwarder, Options, Sentinel, Server, until},
    *,
};
use http::StatusCode;
use tower::Layer;
use tower_response_cache::{CacheLayer, Coherence, Failover, Outcome, Redis, RedisBuilder, Rule, Store};

/// By how much a leased hit may be stale with [`patient`] settings: two heartbeats and a round trip.
const DELTA: Duration = Duration::from_millis(2 * 10 + 50);

fn patient(builder: RedisBuilder) -> RedisBuilder {
    builder
        .command_timeout(Duration::from_secs(2))
        .heartbeat(Duration::from_millis(10))
        .max_round_trip(Duration::from_millis(50))
}

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("t:{table}")
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The body of the answer to a request, and whether it was a hit.
macro_rules! ask {
    ($cache:expr, $target:expr) => {{
        let response = send(&$cache.clone(), get($target)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let hit = outcome(&response) == Outcome::Hit;
        (text(response).await, hit)
    }};
}

macro_rules! cache {
    ($store:expr) => {{
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        CacheLayer::new($store.clone()).rules(one_rule(rule())).layer(inner)
    }};
}

// ---- Sentinel ----------------------------------------------------------------------------------------------------------

/// A master that no sentinel can demote, and its replica.
async fn stubborn() -> (Server, Server) {
    let options = Options::default().line("rename-command REPLICAOF \"\"").line("rename-command SLAVEOF \"\"");
    let master = options.start().await;
    let replica = Options::default().replica_of(&master).start().await;
    replica.linked().await;
    (master, replica)
}

fn behind<const N: usize>(sentinels: [String; N]) -> RedisBuilder {
    patient(RedisBuilder::sentinel(sentinels, Sentinel::SERVICE, ::redis::RedisConnectionInfo::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_failover_is_followed_while_the_old_master_still_answers() {
    let (master, replica) = stubborn().await;
    let sentinels = Sentinel::three(&master).await;
    let urls = || sentinels.each_ref().map(Sentinel::url);
    let leased = behind(urls()).prefix("leased").memory(8 << 20).build().await.unwrap();
    let validated = behind(urls()).prefix("validated").memory(8 << 20).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let caches = [&leased, &validated].map(|store| CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone()));
    let mut before = Vec::new();
    for cache in &caches {
        until("it is a hit", async || ask!(cache, "/t/x").1).await;
        before.push(ask!(cache, "/t/x").0);
    }
    sentinels[0].fail_over().await;
    for sentinel in &sentinels {
        sentinel.names(replica.port()).await;
    }
    for (cache, before) in caches.iter().zip(&before) {
        until("the new master is asked", async || ask!(cache, "/t/x").0 != *before).await;
    }
    for (prefix, cache) in ["leased", "validated"].into_iter().zip(&caches) {
        let writer = patient(Redis::builder(&replica.url())).prefix(prefix).build().await.unwrap();
        until("hits are back", async || ask!(cache, "/t/x").1).await;
        let before = ask!(cache, "/t/x").0;
        writer.invalidate(["t:x"]).await.unwrap();
        tokio::time::sleep(DELTA).await;
        assert_ne!(ask!(cache, "/t/x").0, before);
    }
    assert!(master.info("replication").await.contains("role:master"), "nobody has demoted it");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_accepted_by_a_replaced_master_is_delivered_again() {
    let (master, replica) = stubborn().await;
    let sentinel = Sentinel::start(&master).await;
    let forwarder = Forwarder::start(local(sentinel.port()));
    // With the default, all entries from before the failover are misses anyway.
    let store = behind([forwarder.url()]).coherence(Coherence::Validated).failover(Failover::Trust).build().await.unwrap();
    let cache = cache!(store);
    ask!(cache, "/t/x");
    assert!(ask!(cache, "/t/x").1);
    let generation = async |server: &Server| server.keys("*:g:{t:x}").await.len();
    until("the replica has the generation", async || generation(&replica).await == 1).await;
    // The store hears of the failover late.
    forwarder.answers(Fault::Stall);
    sentinel.fail_over().await;
    sentinel.names(replica.port()).await;
    store.invalidate(["t:x"]).await.unwrap();
    assert_eq!((generation(&master).await, generation(&replica).await), (0, 1), "the replaced master has accepted it");
    forwarder.answers(Fault::Pass);
    until("the new master has it, too", async || generation(&replica).await == 0).await;
    assert!(!ask!(cache, "/t/x").1);
}

// ---- Cluster -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn isolated_cluster_master_gives_no_lease_and_keeps_no_invalidation() {
    let cluster = Cluster::start(3, 1).await;
    let slot = slot_of("t:x");
    let port = cluster.master_of(slot).await.port();
    let isolated = cluster.servers().iter().position(|server| server.port() == port).unwrap();
    let make = |prefix: &str| patient(RedisBuilder::cluster(cluster.urls())).prefix(prefix);
    let one = make("leased").memory(8 << 20).build().await.unwrap();
    let two = make("leased").build().await.unwrap();
    let trusting = make("trusting").coherence(Coherence::Validated).failover(Failover::Trust).build().await.unwrap();
    let (cache, trust) = (cache!(one), cache!(trusting));
    until("it is in memory under a lease", async || ask!(cache, "/t/x").1 && one.is_leased()).await;
    until("it is a hit", async || ask!(trust, "/t/x").1).await;
    let (before, trusted) = (ask!(cache, "/t/x").0, ask!(trust, "/t/x").0);
    let replica = &cluster.servers()[3 + isolated];
    until("the replica has the entry", async || !replica.keys("trusting:*:g:{t:x}").await.is_empty()).await;
    cluster.isolates(isolated);
    // It is still accepted, unless this machine is very slow.
    trusting.invalidate(["t:x"]).await.unwrap();
    cluster.have_replaced(isolated, slot).await;

    let written = tokio::time::timeout(10 * SECOND, async { while two.invalidate(["t:x"]).await.is_err() {} }).await;
    written.expect("the new master is reachable");
    tokio::time::sleep(DELTA).await;
    assert_ne!(ask!(cache, "/t/x").0, before);
    until("what the isolated master has accepted is delivered again", async || ask!(trust, "/t/x").0 != trusted).await;
    until("all masters are heard of", async || one.is_leased() && one.is_reachable()).await;

    let before = ask!(cache, "/t/x").0;
    cluster.heals(isolated);
    two.invalidate(["t:x"]).await.unwrap();
    tokio::time::sleep(DELTA).await;
    assert_ne!(ask!(cache, "/t/x").0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn demoted_cluster_master_gives_no_lease() {
    let cluster = Cluster::start_with(3, 1, &["enable-debug-command yes"]).await;
    let slot = slot_of("t:x");
    let port = cluster.master_of(slot).await.port();
    let index = cluster.servers().iter().position(|server| server.port() == port).unwrap();
    let (old, new) = (&cluster.servers()[index], &cluster.servers()[3 + index]);
    let make = || patient(RedisBuilder::cluster(cluster.urls())).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let cache = cache!(one);
    until("it is in memory under a lease", async || ask!(cache, "/t/x").1 && one.is_leased()).await;
    let before = ask!(cache, "/t/x").0;
    // It cannot follow the new master, and so pushes nothing that is invalidated there.
    old.config_set("masterauth", "wrong").await;
    new.command(&["CLUSTER", "FAILOVER"]).await;
    until("it is demoted", async || old.info("replication").await.contains("role:slave")).await;
    let written = tokio::time::timeout(10 * SECOND, async { while two.invalidate(["t:x"]).await.is_err() {} }).await;
    written.expect("the new master is reachable");
    tokio::time::sleep(DELTA).await;
    assert_ne!(ask!(cache, "/t/x").0, before);

    // From here on it can, from the beginning.
    new.command(&["DEBUG", "CHANGE-REPL-ID"]).await;
    until("hits are leased again", async || ask!(cache, "/t/x").1 && one.is_leased()).await;
    let before = ask!(cache, "/t/x").0;
    old.config_set("masterauth", "").await;
    old.linked().await;
    assert!(!new.info("stats").await.contains("sync_full:0\r"), "it was synchronised in full");
    two.invalidate(["t:x"]).await.unwrap();
    tokio::time::sleep(DELTA).await;
    assert_ne!(ask!(cache, "/t/x").0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_without_a_host_are_followed() {
    let cluster = Cluster::start_with(3, 0, &["cluster-preferred-endpoint-type unknown-endpoint"]).await;
    let store = patient(RedisBuilder::cluster(cluster.urls())).coherence(Coherence::Validated).build().await.unwrap();
    let cache = cache!(store);
    let slot = slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = cluster.servers().iter().find(|server| server.port() != from.port()).unwrap();
    let is_invalidated = async || {
        until("it is a hit", async || ask!(cache, "/t/x").1).await;
        let written = tokio::time::timeout(10 * SECOND, store.invalidate(["t:x"])).await;
        written.expect("the redirection is followed").unwrap();
        assert!(!ask!(cache, "/t/x").1);
    };
    is_invalidated().await;
    cluster.begin_to_move(slot, to).await;
    is_invalidated().await;
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    is_invalidated().await;
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, from, to).await;
    is_invalidated().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_budget_covers_all_redirections_of_a_command() {
    const BUDGET: Duration = Duration::from_secs(4);
    let cluster = Cluster::start(3, 0).await;
    // No heartbeat finds out what happens here.
    let builder = RedisBuilder::cluster(cluster.urls()).heartbeat(Duration::from_secs(10)).command_timeout(BUDGET);
    let store = builder.coherence(Coherence::Validated).build().await.unwrap();
    let cache = cache!(store);
    ask!(cache, "/t/x");
    let slot = slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = cluster.servers().iter().find(|server| server.port() != from.port()).unwrap();
    cluster.begin_to_move(slot, to).await;
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, from, to).await;
    // The one answers late, and names the other, which does not answer.
    from.command(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    to.command(&["CLIENT", "PAUSE", "60000", "ALL"]).await;
    let begin = Instant::now();
    assert!(!ask!(cache, "/t/x").1);
    // A budget for each round would be three of them. The rest is left to a slow machine.
    assert!(begin.elapsed() < 2 * BUDGET, "{:?}", begin.elapsed());
}

/// CRC-16/XMODEM, modulo the number of slots.
fn slot_of(tag: &str) -> u16 {
    let step = |crc: u16, byte: u8| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    };
    tag.bytes().fold(0, step) % 16_384
}

// ---- Pushes ------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn lease_begins_although_one_request_for_pushes_was_answered_late() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(local(server.port()));
    forwarder.holds(Some(b"TRACKING"));
    let late = async {
        until("it is held back", async || forwarder.held() == 1).await;
        // For longer than an answer is waited for, and not so long that the connection would be given up for another reason.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        forwarder.holds(None);
    };
    let (store, ()) = tokio::join!(patient(Redis::builder(&forwarder.url())).memory(8 << 20).build(), late);
    let store = store.unwrap();
    until("pushes are asked for once more", async || store.is_leased()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_begins_once_the_server_allows_pushes() {
    let server = Options::default().line("user app on nopass ~* &* +@all -client|tracking").start().await;
    let url = format!("redis://app:any@127.0.0.1:{}", server.port());
    let store = patient(Redis::builder(&url)).memory(8 << 20).build().await.unwrap();
    let cache = cache!(store);
    until("hits are validated", async || ask!(cache, "/t/x").1).await;
    assert!(!store.is_leased());
    server.command(&["ACL", "SETUSER", "app", "+client|tracking"]).await;
    until("it is leased", async || store.is_leased() && ask!(cache, "/t/x").1).await;
}
