//! The page for operators: access and memory.

use std::{collections::HashMap, time::Duration};

use crate::{
    common::{
        redis::{Options, Server, until},
        *,
    },
    setup::{patient, read, rule},
};
use ::redis::{Value, from_redis_value};
use tower::Layer;
use tower_response_cache::{CacheLayer, InvalidateLayer, Redis, Rule, Store, invalidate::Invalidation};

const PAGE: &str = include_str!("../../docs/operations.md");

/// Returns the documented line of ACL, with the additions for some features.
fn acl(features: &[&str]) -> String {
    let line = PAGE.lines().find(|line| line.starts_with("user app ")).expect("a line of ACL");
    let more = features.iter().map(|feature| {
        let row = PAGE.lines().find(|line| line.starts_with("| ") && line.contains(feature)).expect("a row of the table");
        row.split('`').filter(|text| text.starts_with('+')).collect::<String>().replace("\\|", "|")
    });
    [line.replace("SECRET", "secret")].into_iter().chain(more).collect::<Vec<_>>().join(" ")
}

async fn server(features: &[&str]) -> (Server, String) {
    let server = Options::default().line(acl(features)).start().await;
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    (server, url)
}

/// Returns the commands, keys and channels that were denied, without the optional name of a connection.
async fn denied(server: &Server) -> Vec<String> {
    let log: Vec<HashMap<String, Value>> = from_redis_value(server.command(&["ACL", "LOG"]).await).expect("a log");
    let object = |mut line: HashMap<String, Value>| from_redis_value(line.remove("object")?).ok();
    log.into_iter().filter_map(object).filter(|object: &String| object != "client|setinfo").collect()
}

/// Reads and invalidates through a store, and returns the outcome of a write.
async fn exercise(store: &Redis) -> Option<Invalidation> {
    let written = read_and_write(store).await;
    store.invalidate_softly(["t:x"]).await.expect("a soft invalidation");
    store.invalidate(["t:x"]).await.expect("an invalidation");
    written
}

async fn read_and_write(store: &Redis) -> Option<Invalidation> {
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let shared = rule().distributed_lock(Duration::from_secs(5)).stale_while_revalidate(MINUTE);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(shared.clone())).layer(inner.clone());
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(shared)).layer(inner);
    until("requests are hits", async || read(&cache, "/t/x").await.1).await;
    send(&writes, post("/t/x")).await.extensions().get().copied()
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_access_suffices_and_is_needed() {
    let (plain, url) = server(&[]).await;
    let build = |url: &str| patient(Redis::builder(url)).prefix("shop").memory(8 << 20);
    let store = build(&url).build().await.unwrap();
    until("the lease is held", async || store.is_leased()).await;
    assert_eq!(exercise(&store).await, Some(Invalidation::Delivered));
    assert_eq!(denied(&plain).await, [""; 0]);
    assert!(store.server().await.is_err(), "DBSIZE needs its addition");
    assert!(store.reclaim(1_000).await.is_err(), "SCAN needs its addition");
    let strict = build(&url).strict(Duration::from_secs(30)).build().await.unwrap();
    assert_eq!(read_and_write(&strict).await, Some(Invalidation::NotFenced), "fences need their addition");

    let (all, url) = server(&["strict invalidation", "Redis::server", "Redis::reclaim"]).await;
    let store = build(&url).strict(Duration::from_secs(30)).build().await.unwrap();
    until("the lease is held", async || store.is_leased()).await;
    assert_eq!(exercise(&store).await, Some(Invalidation::Delivered));
    store.server().await.unwrap();
    store.reclaim(1_000).await.unwrap();
    assert_eq!(denied(&all).await, [""; 0]);
}

/// Returns the documented number of bytes in a row of the table.
fn documented(row: &str) -> usize {
    let line = PAGE.lines().find(|line| line.starts_with(&format!("| {row}"))).expect("a row of the table");
    let digits: String = line.rsplit("at most").next().expect("a figure").chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

async fn used(server: &Server) -> usize {
    let info = server.info("memory").await;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("the memory in use");
    line.trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_in_redis_is_as_documented() {
    const ENTRIES: usize = 4_000;
    let server = Server::start().await;
    let store = patient(Redis::builder(&server.url())).build().await.unwrap();
    let (inner, _) = counting(|_, _| ok("x".repeat(1024)));
    // Keys belong to sets, which have generations as well. Most of these exist after this.
    let cache = CacheLayer::new(store.clone()).route("/t/{table}", Rule::ttl(MINUTE).namespace("one")).layer(inner.clone());
    for n in 0..3 * ENTRIES {
        read(&cache, &format!("/t/{n:06}?first")).await;
    }
    let before_namespaces = used(&server).await;
    // Each entry has one namespace of its own, with a name of 40 bytes.
    let names = Rule::ttl(MINUTE).namespace("table_with_a_name_of_twenty_eight:{table}");
    let cache = CacheLayer::new(store.clone()).route("/t/{table}", names).layer(inner.clone());
    for n in 0..ENTRIES {
        read(&cache, &format!("/t/{n:06}")).await;
    }
    let with_namespaces = used(&server).await;
    let cache = CacheLayer::new(store).route("/t/{table}", Rule::ttl(MINUTE).namespace("one")).layer(inner);
    for n in 0..ENTRIES {
        read(&cache, &format!("/t/{n:06}?other")).await;
    }
    let entry = (used(&server).await - with_namespaces) / ENTRIES;
    let namespace = ((with_namespaces - before_namespaces) / ENTRIES).saturating_sub(entry);
    println!("an entry takes {entry} bytes, a namespace {namespace}");
    assert!(entry <= documented("an entry"), "an entry takes {entry} bytes");
    assert!(namespace <= documented("a namespace,"), "a namespace takes {namespace} bytes");
}
