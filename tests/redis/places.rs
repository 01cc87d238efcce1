//! Redis behind a forwarder, a sentinel, TLS or a cluster; restarted, promoted or moved.

use std::time::Duration;

use crate::{
    common::{
        redis::{Cluster, Forwarder, Options, Sentinel, Server, free_port, until},
        *,
    },
    setup::{patient, read, rule},
};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, InvalidateLayer, Redis, Store,
    invalidate::Invalidation,
    redis::{Coherence, Failover, RedisBuilder},
};

#[tokio::test(flavor = "multi_thread")]
async fn entries_from_before_a_restart_are_not_served() {
    for (keeps, coherence) in [(true, Coherence::Leased), (false, Coherence::Leased), (true, Coherence::Validated)] {
        let mut server = Options::default().appendonly().start().await;
        let store = patient(Redis::builder(&server.url())).coherence(coherence).memory(8 << 20).build().await.unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(read(&cache, "/t/x").await.0, "answer 1");
        assert!(read(&cache, "/t/x").await.1);
        server.restart(keeps).await;
        assert_eq!(!server.keys("*:e:*").await.is_empty(), keeps);
        until("Redis is used again", async || store.is_reachable()).await;
        until("no entry from before is served", async || read(&cache, "/t/x").await.0 != "answer 1").await;
        until("hits are back", async || read(&cache, "/t/x").await.1).await;
        assert_ne!(read(&cache, "/t/x").await.0, "answer 1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promoted_replica_revives_entries_only_if_trusted() {
    for failover in [Failover::Flush, Failover::Trust] {
        let master = Server::start().await;
        let replica = Options::default().replica_of(&master).start().await;
        replica.linked().await;
        let forwarder = Forwarder::start(master.addr());
        let make = || patient(Redis::builder(&forwarder.url())).coherence(Coherence::Validated).failover(failover).build();
        let store = make().await.unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(read(&cache, "/t/x").await.0, "answer 1");
        until("the replica has the entry", async || replica.keys("*:e:*").await.len() == 1).await;
        // From here on the replica receives nothing.
        replica.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
        store.invalidate(["t:x"]).await.unwrap();
        replica.promote().await;
        forwarder.retarget(replica.addr());
        forwarder.cut();
        until("Redis is used again", async || store.is_reachable() && read(&cache, "/t/y").await.1).await;
        let answer = read(&cache, "/t/x").await.0;
        match failover {
            Failover::Flush => assert_ne!(answer, "answer 1"),
            _ => assert_eq!(answer, "answer 1", "what trust means"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn master_demoted_under_a_connection_is_not_trusted() {
    let master = Server::start().await;
    let other = Server::start().await;
    let store = patient(Redis::builder(&master.url())).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    read(&cache, "/t/x").await;
    assert!(read(&cache, "/t/x").await.1);
    master.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]).await;
    until("the replaced master is no longer used", async || !store.is_reachable()).await;
    let before = read(&cache, "/t/x").await.0;
    assert_ne!(read(&cache, "/t/x").await.0, before);
    master.promote().await;
    until("the master is used again", async || store.is_reachable()).await;
    until("hits are back", async || read(&cache, "/t/x").await.1).await;
    assert_ne!(read(&cache, "/t/x").await.0, "answer 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_pushes_end_the_lease() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    // Δ is two heartbeats and a round trip.
    let leased = Redis::builder(&forwarder.url())
        .memory(8 << 20)
        .heartbeat(Duration::from_millis(20))
        .max_round_trip(Duration::from_millis(100))
        .command_timeout(Duration::from_millis(100));
    let store = leased.build().await.unwrap();
    let writer = patient(Redis::builder(&server.url())).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    until("the entry is in memory under a lease", async || read(&cache, "/t/x").await.1 && store.is_leased()).await;
    let before = read(&cache, "/t/x").await.0;
    forwarder.answers(crate::common::redis::Fault::Stall);
    writer.invalidate(["t:x"]).await.unwrap();
    until("the lease ends", async || !store.is_leased()).await;
    assert_ne!(read(&cache, "/t/x").await.0, before);
    forwarder.answers(crate::common::redis::Fault::Pass);
    until("hits are back", async || read(&cache, "/t/x").await.1 && store.is_leased()).await;
    assert_ne!(read(&cache, "/t/x").await.0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_are_replaced_without_failed_requests() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let store = patient(Redis::builder(&forwarder.url())).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    for round in 0..3 {
        match round {
            0 => forwarder.cut(),
            1 => server.client_kill_all().await,
            _ => {
                forwarder.refuse(true);
                forwarder.cut();
                until("the store knows that Redis is down", async || !store.is_reachable()).await;
                read(&cache, "/t/x").await;
                forwarder.refuse(false);
            }
        }
        for n in 0..20 {
            read(&cache, &format!("/t/{n}")).await;
        }
        until("hits are back", async || read(&cache, "/t/x").await.1 && store.is_leased()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_unanswered_connection_is_replaced() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let builder = Redis::builder(&forwarder.url()).command_timeout(Duration::from_millis(100)).memory(8 << 20);
    let store = builder.heartbeat(Duration::from_millis(20)).max_round_trip(Duration::from_millis(500)).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    until("requests are hits", async || read(&cache, "/t/x").await.1).await;
    store.invalidate(["t:x"]).await.unwrap();
    forwarder.swallow(Some(b"MGET"));
    assert!(!read(&cache, "/t/x").await.1);
    forwarder.swallow(None);
    // Invalidations use another connection, which is answered.
    until("hits are back", async || {
        store.invalidate(["t:y"]).await.unwrap();
        read(&cache, "/t/x").await.1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn master_is_the_one_that_the_sentinel_names() {
    let mut master = Server::start().await;
    let replica = Options::default().replica_of(&master).start().await;
    replica.linked().await;
    let sentinel = Sentinel::start(&master).await;
    let builder = RedisBuilder::sentinel([sentinel.url()], Sentinel::SERVICE, ::redis::RedisConnectionInfo::default());
    let store = patient(builder).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    read(&cache, "/t/x").await;
    assert!(read(&cache, "/t/x").await.1);
    assert_eq!(master.keys("*:e:*").await.len(), 1);
    master.kill();
    sentinel.wait_for_master(replica.port()).await;
    until("the new master is used", async || store.is_reachable() && read(&cache, "/t/x").await.1).await;
    assert_ne!(read(&cache, "/t/x").await.0, "answer 1");
}

/// A sentinel on a hung machine accepts connections and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn silent_sentinel_does_not_hide_the_master() {
    let master = Server::start().await;
    let replica = Options::default().replica_of(&master).start().await;
    replica.linked().await;
    let sentinel = Sentinel::start(&master).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let urls = [format!("redis://{}", silent.local_addr().unwrap()), sentinel.url()];
    let builder = RedisBuilder::sentinel(urls, Sentinel::SERVICE, ::redis::RedisConnectionInfo::default());
    let store = patient(builder).require_connection().build().await.expect("the other sentinel knows the master");
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(counting(|_, _| ok("answer")).0);
    until("requests are hits", async || read(&cache, "/t/x").await.1).await;
}

/// Permissions that the Redis user of a store needs.
const ALLOWED: &str = "+get +mget +set +getrange +exists +unlink +eval +zadd +zrem +zrange +zcard +zremrangebyscore \
                       +pexpire +pexpireat +time +info +ping +hello +auth +subscribe +client|tracking";

#[tokio::test(flavor = "multi_thread")]
async fn least_privileged_user_connects_by_tls() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (dir, pem) = (tempfile::tempdir().unwrap(), own.cert.pem());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let port = free_port();
    let server = Options::default()
        .line(format!("tls-port {port}"))
        .line(format!("tls-cert-file {}", file("cert.pem", &pem)))
        .line(format!("tls-key-file {}", file("key.pem", &own.signing_key.serialize_pem())))
        .line(format!("tls-ca-cert-file {}", file("ca.pem", &pem)))
        .line("tls-auth-clients no")
        .line(format!("user app on >secret resetchannels ~shop:1:* &shop:1:* {ALLOWED}"))
        .start()
        .await;
    let place = |password: &str| Redis::builder(&format!("rediss://app:{password}@localhost:{port}")).prefix("shop");
    let error = place("secret").require_connection().build().await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let error = place("wrong").root_certificate(pem.clone()).build().await.unwrap_err().to_string();
    assert!(error.contains("WRONGPASS") || error.to_lowercase().contains("password"), "{error}");

    let store = patient(place("secret").root_certificate(pem)).memory(8 << 20).strict(Duration::from_secs(30));
    let store = store.build().await.unwrap();
    until("the lease is held", async || store.is_leased()).await;
    let subscribed = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    assert!(::redis::from_redis_value::<String>(subscribed).unwrap().contains("user=app"));
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let before = read(&cache, "/t/x").await.0;
    until("requests are hits", async || read(&cache, "/t/x").await.1).await;
    let written = send(&writes, post("/t/x")).await;
    assert_eq!(written.extensions().get(), Some(&Invalidation::Delivered));
    assert_ne!(read(&cache, "/t/x").await.0, before);
    store.invalidate_softly(["t:x"]).await.unwrap();
    assert_eq!(server.keys("shop:1:f:*").await, Vec::<String>::new());
}

// ---- A cluster ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn cluster_writes_are_seen_despite_failover_and_migration() {
    let mut cluster = Cluster::start(3, 1).await;
    for coherence in [Coherence::Validated, Coherence::Leased] {
        let make = || patient(RedisBuilder::cluster(cluster.urls())).prefix(&format!("{coherence:?}")).coherence(coherence);
        let (one, two) = (make().memory(8 << 20).build().await.unwrap(), make().build().await.unwrap());
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let a = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner.clone());
        let b = CacheLayer::new(two.clone()).rules(one_rule(rule())).layer(inner.clone());
        for n in 0..20 {
            let target = format!("/t/{n}");
            let (answer, _) = read(&a, &target).await;
            assert_eq!(read(&b, &target).await, (answer.clone(), true), "{coherence:?}");
            two.invalidate([format!("t:{n}").as_str()]).await.unwrap();
            assert_ne!(read(&b, &target).await.0, answer);
            until("the other process sees the invalidation", async || read(&a, &target).await.0 != answer).await;
        }
    }

    // A slot migrates while it is read and written.
    let strict = || patient(RedisBuilder::cluster(cluster.urls())).prefix("moving").coherence(Coherence::Validated);
    let store = strict().strict(Duration::from_secs(30)).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    read(&cache, "/t/x").await;
    assert!(read(&cache, "/t/x").await.1);
    let slot = Cluster::slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = cluster.servers()[..3].iter().find(|server| server.port() != from.port()).unwrap();
    cluster.begin_to_move(slot, to).await;
    let mut last = read(&cache, "/t/x").await.0;
    loop {
        let moved = cluster.move_keys(slot, from, to, 1).await;
        // Each write is seen by the next read, wherever its keys are by then.
        let written = send(&writes, post("/t/x")).await;
        assert_eq!(written.extensions().get(), Some(&Invalidation::Delivered));
        let (next, hit) = read(&cache, "/t/x").await;
        assert!(next != last && !hit);
        last = next;
        if moved == 0 {
            break;
        }
    }
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, from, to).await;
    until("hits are back", async || read(&cache, "/t/x").await.1).await;
    store.invalidate(["t:x"]).await.unwrap();
    assert!(!read(&cache, "/t/x").await.1);

    // A master dies. Its replica may have missed the last writes.
    let store = patient(RedisBuilder::cluster(cluster.urls())).prefix("failing").memory(8 << 20).build().await.unwrap();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let mut before = Vec::new();
    for n in 0..30 {
        before.push(read(&cache, &format!("/t/{n}")).await.0);
    }
    cluster.failover(0).await;
    until("the leases of all masters are held", async || store.is_reachable() && store.is_leased()).await;
    for (n, before) in before.iter().enumerate() {
        // All entries belong to the root, whose generation may be at another master: a hit is an entry that no failover has
        // touched.
        let (answer, hit) = read(&cache, &format!("/t/{n}")).await;
        assert!(hit || answer != *before);
        until("hits are back", async || read(&cache, &format!("/t/{n}")).await.1).await;
        store.invalidate([format!("t:{n}").as_str()]).await.unwrap();
        assert!(!read(&cache, &format!("/t/{n}")).await.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_cluster_delays_reads_by_their_timeout_only() {
    // This listener accepts connections and answers nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let store = RedisBuilder::cluster([url.clone(), url]).command_timeout(Duration::from_millis(20)).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(rule())).layer(inner);
    // One node is asked for the slots for at most a second.
    let all = async {
        for n in 0..20 {
            read(&cache, &format!("/t/{n}")).await;
        }
    };
    tokio::time::timeout(10 * SECOND, all).await.expect("twenty reads, each of two timeouts");
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_taken_over_are_trusted_only_once_pushes_arrive() {
    let mut cluster = Cluster::start(2, 0).await;
    cluster.add_server().await;
    let make = || patient(RedisBuilder::cluster(cluster.urls())).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner);
    until("the leases of all masters are held", async || one.is_leased()).await;
    let slot = Cluster::slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = &cluster.servers()[2];
    // The slot stays in migration: the table of slots does not show the new master.
    cluster.begin_to_move(slot, to).await;
    until("requests are hits", async || read(&cache, "/t/x").await.1).await;
    let before = read(&cache, "/t/x").await.0;
    two.invalidate(["t:x"]).await.unwrap();
    until("the invalidation is seen", async || read(&cache, "/t/x").await.0 != before).await;
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, from, to).await;
    until("hits are leased again", async || read(&cache, "/t/x").await.1 && one.is_leased()).await;
    let before = read(&cache, "/t/x").await.0;
    two.invalidate(["t:x"]).await.unwrap();
    until("the invalidation is seen", async || read(&cache, "/t/x").await.0 != before).await;
}
