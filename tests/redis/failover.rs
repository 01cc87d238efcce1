//! Redis servers that were replaced or cut off: by a sentinel, by a cluster, or because they no longer push.

use std::time::{Duration, Instant};

use crate::{
    common::{
        redis::{Cluster, Fault, Forwarder, Options, Sentinel, Server, until},
        *,
    },
    setup::{read, rule},
};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Redis, Store,
    redis::{Coherence, Failover, RedisBuilder},
};

/// Largest staleness of a leased hit with [`tight`] limits: two heartbeats and a round trip.
const DELTA: Duration = Duration::from_millis(2 * 10 + 50);

fn tight(builder: RedisBuilder) -> RedisBuilder {
    builder
        .command_timeout(Duration::from_secs(2))
        .heartbeat(Duration::from_millis(10))
        .max_round_trip(Duration::from_millis(50))
}

macro_rules! cache {
    ($store:expr) => {{
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        CacheLayer::new($store.clone()).rules(one_rule(rule())).layer(inner)
    }};
}

// ---- Sentinel ----------------------------------------------------------------------------------------------------------

/// Starts a master that no sentinel can demote, and its replica.
async fn stubborn() -> (Server, Server) {
    let options = Options::default().line("rename-command REPLICAOF \"\"").line("rename-command SLAVEOF \"\"");
    let master = options.start().await;
    let replica = Options::default().replica_of(&master).start().await;
    replica.linked().await;
    (master, replica)
}

fn behind<const N: usize>(sentinels: [String; N]) -> RedisBuilder {
    tight(RedisBuilder::sentinel(sentinels, Sentinel::SERVICE, ::redis::RedisConnectionInfo::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_failover_is_followed_while_the_old_master_answers() {
    let (master, replica) = stubborn().await;
    let sentinels = Sentinel::three(&master).await;
    let urls = || sentinels.each_ref().map(Sentinel::url);
    let leased = behind(urls()).prefix("leased").memory(8 << 20).build().await.unwrap();
    let validated = behind(urls()).prefix("validated").memory(8 << 20).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let caches = [&leased, &validated].map(|store| CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone()));
    let mut before = Vec::new();
    for cache in &caches {
        until("the request is a hit", async || read(cache, "/t/x").await.1).await;
        before.push(read(cache, "/t/x").await.0);
    }
    sentinels[0].fail_over().await;
    for sentinel in &sentinels {
        sentinel.wait_for_master(replica.port()).await;
    }
    for (cache, before) in caches.iter().zip(&before) {
        until("the new master is used", async || read(cache, "/t/x").await.0 != *before).await;
    }
    for (prefix, cache) in ["leased", "validated"].into_iter().zip(&caches) {
        let writer = tight(Redis::builder(&replica.url())).prefix(prefix).build().await.unwrap();
        until("hits are back", async || read(cache, "/t/x").await.1).await;
        let before = read(cache, "/t/x").await.0;
        writer.invalidate(["t:x"]).await.unwrap();
        tokio::time::sleep(DELTA).await;
        assert_ne!(read(cache, "/t/x").await.0, before);
    }
    assert!(master.info("replication").await.contains("role:master"), "the old master is not demoted");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_accepted_by_a_replaced_master_is_redelivered() {
    let (master, replica) = stubborn().await;
    let sentinel = Sentinel::start(&master).await;
    let forwarder = Forwarder::start(sentinel.addr());
    // With the default, all entries from before the failover are misses anyway.
    let store = behind([forwarder.url()]).coherence(Coherence::Validated).failover(Failover::Trust).build().await.unwrap();
    let cache = cache!(store);
    read(&cache, "/t/x").await;
    assert!(read(&cache, "/t/x").await.1);
    let generation = async |server: &Server| server.keys("*:g:{t:x}").await.len();
    until("the replica has the generation", async || generation(&replica).await == 1).await;
    // The store learns of the failover late.
    forwarder.answers(Fault::Stall);
    sentinel.fail_over().await;
    sentinel.wait_for_master(replica.port()).await;
    store.invalidate(["t:x"]).await.unwrap();
    assert_eq!((generation(&master).await, generation(&replica).await), (0, 1), "the replaced master has accepted it");
    forwarder.answers(Fault::Pass);
    until("the new master has executed it, too", async || generation(&replica).await == 0).await;
    assert!(!read(&cache, "/t/x").await.1);
}

// ---- Cluster -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn isolated_cluster_master_gives_no_lease() {
    let cluster = Cluster::start(3, 1).await;
    let slot = Cluster::slot_of("t:x");
    let port = cluster.master_of(slot).await.port();
    let isolated = cluster.servers().iter().position(|server| server.port() == port).unwrap();
    let make = |prefix: &str| tight(RedisBuilder::cluster(cluster.urls())).prefix(prefix);
    let one = make("leased").memory(8 << 20).build().await.unwrap();
    let two = make("leased").build().await.unwrap();
    let trusting = make("trusting").coherence(Coherence::Validated).failover(Failover::Trust).build().await.unwrap();
    let (cache, trust) = (cache!(one), cache!(trusting));
    until("the entry is in memory under a lease", async || read(&cache, "/t/x").await.1 && one.is_leased()).await;
    until("the request is a hit", async || read(&trust, "/t/x").await.1).await;
    let (before, trusted) = (read(&cache, "/t/x").await.0, read(&trust, "/t/x").await.0);
    let replica = &cluster.servers()[3 + isolated];
    until("the replica has the entry", async || !replica.keys("trusting:*:g:{t:x}").await.is_empty()).await;
    cluster.isolate(isolated);
    // The old master still accepts it, unless this machine is very slow.
    trusting.invalidate(["t:x"]).await.unwrap();
    cluster.wait_until_replaced(isolated, slot).await;

    let written = tokio::time::timeout(10 * SECOND, async { while two.invalidate(["t:x"]).await.is_err() {} }).await;
    written.expect("the new master is reachable");
    tokio::time::sleep(DELTA).await;
    assert_ne!(read(&cache, "/t/x").await.0, before);
    until("the invalidation that the isolated master accepted is redelivered", async || {
        read(&trust, "/t/x").await.0 != trusted
    })
    .await;
    until("the leases of all masters are held", async || one.is_leased() && one.is_reachable()).await;

    let before = read(&cache, "/t/x").await.0;
    cluster.heal(isolated);
    two.invalidate(["t:x"]).await.unwrap();
    tokio::time::sleep(DELTA).await;
    assert_ne!(read(&cache, "/t/x").await.0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn demoted_cluster_master_gives_no_lease() {
    let cluster = Cluster::start_with(3, 1, &["enable-debug-command yes"]).await;
    let slot = Cluster::slot_of("t:x");
    let port = cluster.master_of(slot).await.port();
    let index = cluster.servers().iter().position(|server| server.port() == port).unwrap();
    let (old, new) = (&cluster.servers()[index], &cluster.servers()[3 + index]);
    let make = || tight(RedisBuilder::cluster(cluster.urls())).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let cache = cache!(one);
    until("the entry is in memory under a lease", async || read(&cache, "/t/x").await.1 && one.is_leased()).await;
    let before = read(&cache, "/t/x").await.0;
    // The old master cannot follow the new one, and so pushes no invalidation from there.
    old.config_set("masterauth", "wrong").await;
    new.command(&["CLUSTER", "FAILOVER"]).await;
    until("the old master is demoted", async || old.info("replication").await.contains("role:slave")).await;
    let written = tokio::time::timeout(10 * SECOND, async { while two.invalidate(["t:x"]).await.is_err() {} }).await;
    written.expect("the new master is reachable");
    tokio::time::sleep(DELTA).await;
    assert_ne!(read(&cache, "/t/x").await.0, before);

    // From here on it can follow, starting with a full synchronisation.
    new.command(&["DEBUG", "CHANGE-REPL-ID"]).await;
    until("hits are leased again", async || read(&cache, "/t/x").await.1 && one.is_leased()).await;
    let before = read(&cache, "/t/x").await.0;
    old.config_set("masterauth", "").await;
    old.linked().await;
    assert!(!new.info("stats").await.contains("sync_full:0\r"), "the old master was synchronised in full");
    two.invalidate(["t:x"]).await.unwrap();
    tokio::time::sleep(DELTA).await;
    assert_ne!(read(&cache, "/t/x").await.0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_without_a_host_are_followed() {
    let cluster = Cluster::start_with(3, 0, &["cluster-preferred-endpoint-type unknown-endpoint"]).await;
    let store = tight(RedisBuilder::cluster(cluster.urls())).coherence(Coherence::Validated).build().await.unwrap();
    let cache = cache!(store);
    let slot = Cluster::slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = cluster.servers().iter().find(|server| server.port() != from.port()).unwrap();
    let is_invalidated = async || {
        until("the request is a hit", async || read(&cache, "/t/x").await.1).await;
        let written = tokio::time::timeout(10 * SECOND, store.invalidate(["t:x"])).await;
        written.expect("the redirection is followed").unwrap();
        assert!(!read(&cache, "/t/x").await.1);
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
async fn one_timeout_covers_all_redirections_of_a_command() {
    const BUDGET: Duration = Duration::from_secs(4);
    let cluster = Cluster::start(3, 0).await;
    // No heartbeat notices the stall.
    let builder = RedisBuilder::cluster(cluster.urls()).heartbeat(Duration::from_secs(10)).command_timeout(BUDGET);
    let store = builder.coherence(Coherence::Validated).build().await.unwrap();
    let cache = cache!(store);
    read(&cache, "/t/x").await;
    let slot = Cluster::slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = cluster.servers().iter().find(|server| server.port() != from.port()).unwrap();
    cluster.begin_to_move(slot, to).await;
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, from, to).await;
    // The first node answers late and redirects to the second, which does not answer.
    from.command(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    to.command(&["CLIENT", "PAUSE", "60000", "ALL"]).await;
    let begin = Instant::now();
    assert!(!read(&cache, "/t/x").await.1);
    // A budget for each round would take three of them. The rest of the limit is for slow machines.
    assert!(begin.elapsed() < 2 * BUDGET, "{:?}", begin.elapsed());
}

// ---- Pushes ------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn lease_begins_despite_one_late_tracking_reply() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    forwarder.hold(Some(b"TRACKING"));
    let late = async {
        until("the reply is held back", async || forwarder.held() == 1).await;
        // For longer than a reply is waited for, and not so long that the connection is replaced for another reason.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        forwarder.hold(None);
    };
    let (store, ()) = tokio::join!(tight(Redis::builder(&forwarder.url())).memory(8 << 20).build(), late);
    let store = store.unwrap();
    until("tracking is requested again", async || store.is_leased()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_begins_once_the_server_permits_tracking() {
    let server = Options::default().line("user app on nopass ~* &* +@all -client|tracking").start().await;
    let url = format!("redis://app:any@127.0.0.1:{}", server.port());
    let store = tight(Redis::builder(&url)).memory(8 << 20).build().await.unwrap();
    let cache = cache!(store);
    until("hits are validated", async || read(&cache, "/t/x").await.1).await;
    assert!(!store.is_leased());
    server.command(&["ACL", "SETUSER", "app", "+client|tracking"]).await;
    until("the lease is held", async || store.is_leased() && read(&cache, "/t/x").await.1).await;
}
