//! Where Redis is: behind a forwarder, a sentinel, TLS, in a cluster; restarted, promoted, moved.

use std::{net::SocketAddr, time::Duration};

use crate::common::{
    redis::{Cluster, Forwarder, Options, Sentinel, Server, until},
    *,
};
use http::StatusCode;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Coherence, Failover, InvalidateLayer, Invalidation, Outcome, Redis, RedisBuilder, Rule, Store,
};

fn patient(builder: RedisBuilder) -> RedisBuilder {
    builder
        .command_timeout(Duration::from_secs(2))
        .heartbeat(Duration::from_millis(20))
        .max_round_trip(Duration::from_millis(500))
}

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("t:{table}")
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// What a request is answered with, and whether it was a hit.
macro_rules! ask {
    ($cache:expr, $target:expr) => {{
        let response = send(&$cache, get($target)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let hit = outcome(&response) == Outcome::Hit;
        (text(response).await, hit)
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_from_before_a_restart_are_not_served_whether_redis_kept_them_or_not() {
    for (keeps, coherence) in [(true, Coherence::Leased), (false, Coherence::Leased), (true, Coherence::Validated)] {
        let mut server = Options::default().appendonly().start().await;
        let store = patient(Redis::builder(&server.url())).coherence(coherence).memory(8 << 20).build().await.unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(ask!(cache, "/t/x").0, "answer 1");
        assert!(ask!(cache, "/t/x").1);
        server.restart(keeps).await;
        assert_eq!(!server.keys("*:e:*").await.is_empty(), keeps);
        until("redis is asked again", async || store.is_reachable()).await;
        until("nothing from before is served", async || ask!(cache, "/t/x").0 != "answer 1").await;
        until("hits are back", async || ask!(cache, "/t/x").1).await;
        assert_ne!(ask!(cache, "/t/x").0, "answer 1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_that_has_missed_a_clearing_brings_nothing_back_unless_it_is_trusted() {
    for failover in [Failover::Flush, Failover::Trust] {
        let master = Server::start().await;
        let replica = Options::default().replica_of(&master).start().await;
        replica.linked().await;
        let forwarder = Forwarder::start(local(master.port()));
        let make = || patient(Redis::builder(&forwarder.url())).coherence(Coherence::Validated).failover(failover).build();
        let store = make().await.unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(ask!(cache, "/t/x").0, "answer 1");
        until("the replica has the entry", async || replica.keys("*:e:*").await.len() == 1).await;
        // From here on the replica hears nothing.
        replica.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
        store.invalidate(["t:x"]).await.unwrap();
        replica.promote().await;
        forwarder.retarget(local(replica.port()));
        forwarder.cut();
        until("redis is asked again", async || store.is_reachable() && ask!(cache, "/t/y").1).await;
        let answer = ask!(cache, "/t/x").0;
        match failover {
            Failover::Flush => assert_ne!(answer, "answer 1"),
            _ => assert_eq!(answer, "answer 1", "what trust means"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_demoted_under_a_connection_is_not_believed_any_more() {
    let master = Server::start().await;
    let other = Server::start().await;
    let store = patient(Redis::builder(&master.url())).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    ask!(cache, "/t/x");
    assert!(ask!(cache, "/t/x").1);
    master.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]).await;
    until("it is not asked any more", async || !store.is_reachable()).await;
    let before = ask!(cache, "/t/x").0;
    assert_ne!(ask!(cache, "/t/x").0, before);
    master.promote().await;
    until("it is asked again", async || store.is_reachable()).await;
    until("hits are back", async || ask!(cache, "/t/x").1).await;
    assert_ne!(ask!(cache, "/t/x").0, "answer 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_do_not_come_end_the_lease_and_hits_are_validated() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(local(server.port()));
    // Δ is two heartbeats and the time for a round trip.
    let leased = Redis::builder(&forwarder.url())
        .memory(8 << 20)
        .heartbeat(Duration::from_millis(20))
        .max_round_trip(Duration::from_millis(100))
        .command_timeout(Duration::from_millis(100));
    let store = leased.build().await.unwrap();
    let writer = patient(Redis::builder(&server.url())).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    until("it is in memory under a lease", async || ask!(cache, "/t/x").1 && store.is_leased()).await;
    let before = ask!(cache, "/t/x").0;
    forwarder.answers(crate::common::redis::Fault::Stall);
    writer.invalidate(["t:x"]).await.unwrap();
    until("the lease ends", async || !store.is_leased()).await;
    assert_ne!(ask!(cache, "/t/x").0, before);
    forwarder.answers(crate::common::redis::Fault::Pass);
    until("hits are back", async || ask!(cache, "/t/x").1 && store.is_leased()).await;
    assert_ne!(ask!(cache, "/t/x").0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_or_killed_are_replaced_and_no_request_fails() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(local(server.port()));
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
                until("it is known", async || !store.is_reachable()).await;
                ask!(cache, "/t/x");
                forwarder.refuse(false);
            }
        }
        for n in 0..20 {
            ask!(cache, &format!("/t/{n}"));
        }
        until("hits are back", async || ask!(cache, "/t/x").1 && store.is_leased()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_is_answered_any_more_is_replaced_though_others_are_answered() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(local(server.port()));
    let builder = Redis::builder(&forwarder.url()).command_timeout(Duration::from_millis(100)).memory(8 << 20);
    let store = builder.heartbeat(Duration::from_millis(20)).max_round_trip(Duration::from_millis(500)).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    until("hits are there", async || ask!(cache, "/t/x").1).await;
    store.invalidate(["t:x"]).await.unwrap();
    forwarder.is_deaf_to(Some(b"MGET"));
    assert!(!ask!(cache, "/t/x").1);
    forwarder.is_deaf_to(None);
    // What is written goes by another connection, and is answered.
    until("hits are back", async || {
        store.invalidate(["t:y"]).await.unwrap();
        ask!(cache, "/t/x").1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_is_the_one_that_the_sentinel_names() {
    let mut master = Server::start().await;
    let replica = Options::default().replica_of(&master).start().await;
    replica.linked().await;
    let sentinel = Sentinel::start(&master).await;
    let builder = RedisBuilder::sentinel([sentinel.url()], Sentinel::SERVICE, ::redis::RedisConnectionInfo::default());
    let store = patient(builder).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    ask!(cache, "/t/x");
    assert!(ask!(cache, "/t/x").1);
    assert_eq!(master.keys("*:e:*").await.len(), 1);
    master.kill();
    sentinel.names(replica.port()).await;
    until("the new master is asked", async || store.is_reachable() && ask!(cache, "/t/x").1).await;
    assert_ne!(ask!(cache, "/t/x").0, "answer 1");
}

/// A sentinel whose machine hangs takes connections, and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_says_nothing_does_not_hide_the_master_that_another_names() {
    let master = Server::start().await;
    let replica = Options::default().replica_of(&master).start().await;
    replica.linked().await;
    let sentinel = Sentinel::start(&master).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let urls = [format!("redis://{}", silent.local_addr().unwrap()), sentinel.url()];
    let builder = RedisBuilder::sentinel(urls, Sentinel::SERVICE, ::redis::RedisConnectionInfo::default());
    let store = patient(builder).require_connection().build().await.expect("the other sentinel knows the master");
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(counting(|_, _| ok("answer")).0);
    until("hits are there", async || ask!(cache, "/t/x").1).await;
}

/// All that a user of the server has to be allowed for a store.
const ALLOWED: &str = "+get +mget +set +strlen +setrange +exists +unlink +eval +zadd +zrem +zrange +zcard +zremrangebyscore \
                       +pexpireat +time +info +ping +hello +auth +client|tracking";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_no_more_than_needed_comes_by_tls_with_a_certificate_of_ones_own_authority() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (dir, pem) = (tempfile::tempdir().unwrap(), own.cert.pem());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Options::default()
        .line(format!("tls-port {port}"))
        .line(format!("tls-cert-file {}", file("cert.pem", &pem)))
        .line(format!("tls-key-file {}", file("key.pem", &own.signing_key.serialize_pem())))
        .line(format!("tls-ca-cert-file {}", file("ca.pem", &pem)))
        .line("tls-auth-clients no")
        .line(format!("user app on >secret resetchannels ~shop:1:* {ALLOWED}"))
        .start()
        .await;
    let place = |password: &str| Redis::builder(&format!("rediss://app:{password}@localhost:{port}")).prefix("shop");
    let error = place("secret").require_connection().build().await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let error = place("wrong").root_certificate(pem.clone()).build().await.unwrap_err().to_string();
    assert!(error.contains("WRONGPASS") || error.to_lowercase().contains("password"), "{error}");

    let store = patient(place("secret").root_certificate(pem)).memory(8 << 20).strict(Duration::from_secs(30));
    let store = store.build().await.unwrap();
    until("it is leased", async || store.is_leased()).await;
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let before = ask!(cache, "/t/x").0;
    until("hits are there", async || ask!(cache, "/t/x").1).await;
    let written = send(&writes, post("/t/x")).await;
    assert_eq!(written.extensions().get(), Some(&Invalidation::Delivered));
    assert_ne!(ask!(cache, "/t/x").0, before);
    store.invalidate_softly(["t:x"]).await.unwrap();
    assert_eq!(server.keys("shop:1:f:*").await, Vec::<String>::new());
}

// ---- A cluster ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_writes_are_seen_through_a_failover_and_a_slot_on_its_way() {
    let mut cluster = Cluster::start(3, 1).await;
    for coherence in [Coherence::Validated, Coherence::Leased] {
        let make = || patient(RedisBuilder::cluster(cluster.urls())).prefix(&format!("{coherence:?}")).coherence(coherence);
        let (one, two) = (make().memory(8 << 20).build().await.unwrap(), make().build().await.unwrap());
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let a = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner.clone());
        let b = CacheLayer::new(two.clone()).rules(one_rule(rule())).layer(inner.clone());
        for n in 0..20 {
            let target = format!("/t/{n}");
            let (answer, _) = ask!(a, &target);
            assert_eq!(ask!(b, &target), (answer.clone(), true), "{coherence:?}");
            two.invalidate([format!("t:{n}").as_str()]).await.unwrap();
            assert_ne!(ask!(b, &target).0, answer);
            until("the other sees it", async || ask!(a, &target).0 != answer).await;
        }
    }

    // A slot moves while it is read and written.
    let strict = || patient(RedisBuilder::cluster(cluster.urls())).prefix("moving").coherence(Coherence::Validated);
    let store = strict().strict(Duration::from_secs(30)).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    ask!(cache, "/t/x");
    assert!(ask!(cache, "/t/x").1);
    let slot = slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = cluster.servers()[..3].iter().find(|server| server.port() != from.port()).unwrap();
    cluster.begin_to_move(slot, to).await;
    let mut last = ask!(cache, "/t/x").0;
    loop {
        let moved = cluster.move_keys(slot, from, to, 1).await;
        // Each write is seen by the next read, wherever its keys are by now.
        let written = send(&writes, post("/t/x")).await;
        assert_eq!(written.extensions().get(), Some(&Invalidation::Delivered));
        let (next, hit) = ask!(cache, "/t/x");
        assert!(next != last && !hit);
        last = next;
        if moved == 0 {
            break;
        }
    }
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, from, to).await;
    until("hits are back", async || ask!(cache, "/t/x").1).await;
    store.invalidate(["t:x"]).await.unwrap();
    assert!(!ask!(cache, "/t/x").1);

    // A master dies; its replica may have missed what it was told last.
    let store = patient(RedisBuilder::cluster(cluster.urls())).prefix("failing").memory(8 << 20).build().await.unwrap();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let mut before = Vec::new();
    for n in 0..30 {
        before.push(ask!(cache, &format!("/t/{n}")).0);
    }
    cluster.failover(0).await;
    until("all masters are heard of", async || store.is_reachable() && store.is_leased()).await;
    for (n, before) in before.iter().enumerate() {
        // All belong to the root, whose generation another master may have: what is a hit is what no failover has touched.
        let (answer, hit) = ask!(cache, &format!("/t/{n}"));
        assert!(hit || answer != *before);
        until("hits are back", async || ask!(cache, &format!("/t/{n}")).1).await;
        store.invalidate([format!("t:{n}").as_str()]).await.unwrap();
        assert!(!ask!(cache, &format!("/t/{n}")).1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_waits_longer_than_its_budget_for_a_cluster_that_nobody_can_tell_of() {
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let store = RedisBuilder::cluster([url.clone(), url]).command_timeout(Duration::from_millis(20)).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(rule())).layer(inner);
    // A second is what one of its nodes is asked for at most.
    let all = async {
        for n in 0..20 {
            ask!(cache, &format!("/t/{n}"));
        }
    };
    tokio::time::timeout(10 * SECOND, all).await.expect("twenty reads, of two budgets each");
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_master_without_slots_takes_over_is_not_trusted_before_its_pushes_are_heard() {
    let mut cluster = Cluster::start(2, 0).await;
    cluster.joins().await;
    let make = || patient(RedisBuilder::cluster(cluster.urls())).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner);
    until("all masters are heard of", async || one.is_leased()).await;
    let slot = slot_of("t:x");
    let from = cluster.master_of(slot).await;
    let to = &cluster.servers()[2];
    // It stays on its way: the table of slots does not show that there is a new master.
    cluster.begin_to_move(slot, to).await;
    until("hits are there", async || ask!(cache, "/t/x").1).await;
    let before = ask!(cache, "/t/x").0;
    two.invalidate(["t:x"]).await.unwrap();
    until("the clearing is seen", async || ask!(cache, "/t/x").0 != before).await;
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, from, to).await;
    until("hits are leased again", async || ask!(cache, "/t/x").1 && one.is_leased()).await;
    let before = ask!(cache, "/t/x").0;
    two.invalidate(["t:x"]).await.unwrap();
    until("the clearing is seen", async || ask!(cache, "/t/x").0 != before).await;
}

/// CRC-16/XMODEM, modulo the number of slots.
fn slot_of(tag: &str) -> u16 {
    let step = |crc: u16, byte: u8| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    };
    tag.bytes().fold(0, step) % 16_384
}
