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
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    CacheLayer, InvalidateLayer, Redis, ResponseCache, Rule, Rules, Store, invalidate::Invalidation, redis::KeySample,
};

/// A time of gathering for which processes share pushes.
const GATHER: Duration = Duration::from_millis(20);

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

/// Saves the hottest requests twice: the second time replaces the value of the first.
async fn save_lists(store: &Redis) {
    let cache = ResponseCache::new(store.clone()).rules(one_rule(rule())).track_hottest(10);
    let service = cache.layer().layer(counting(|_, _| ok("rows")).0);
    for _ in 0..2 {
        service.clone().oneshot(get("/t/y")).await.expect("a response");
        cache.save_hottest("api").await.expect("access");
    }
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
    save_lists(&store).await;
    assert_eq!(denied(&plain).await, [""; 0]);
    assert!(store.server().await.is_err(), "DBSIZE needs its addition");
    assert!(store.reclaim(1_000).await.is_err(), "SCAN needs its addition");
    assert!(store.sample_keys(1).await.is_err(), "RANDOMKEY needs its addition");
    let strict = build(&url).strict(Duration::from_secs(30)).build().await.unwrap();
    assert_eq!(read_and_write(&strict).await, Some(Invalidation::NotFenced), "fences need their addition");
    plain.command(&["ACL", "LOG", "RESET"]).await;
    let gathers = build(&url).gather(GATHER).build().await.unwrap();
    until("a shared push needs its addition", async || {
        gathers.invalidate(["t:x"]).await.expect("an invalidation without it");
        denied(&plain).await.contains(&"zrange".to_owned())
    })
    .await;

    let (some, url) = server(&["RedisBuilder::gather"]).await;
    let store = build(&url).gather(GATHER).build().await.unwrap();
    until("a push is shared", async || {
        store.invalidate(["t:x"]).await.expect("an invalidation");
        !some.keys("shop:1:w:*").await.is_empty()
    })
    .await;
    assert_eq!(denied(&some).await, [""; 0]);

    let (all, url) = server(&["strict invalidation", "Redis::server", "Redis::sample_keys", "Redis::reclaim"]).await;
    let store = build(&url).strict(Duration::from_secs(30)).build().await.unwrap();
    until("the lease is held", async || store.is_leased()).await;
    assert_eq!(exercise(&store).await, Some(Invalidation::Delivered));
    store.server().await.unwrap();
    store.reclaim(1_000).await.unwrap();
    assert_eq!(store.sample_keys(100).await.unwrap().sampled, 100);
    assert_eq!(denied(&all).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sample_estimates_the_entries_of_each_namespace() {
    let server = Server::start().await;
    let store = patient(Redis::builder(&server.url())).prefix("shop").build().await.unwrap();
    assert_eq!(store.sample_keys(100).await.unwrap(), KeySample::default(), "an empty server");
    let rules = Rules::new().route("/t/{table}", Rule::ttl(MINUTE).namespace("t:{table}")).route("/none", Rule::ttl(MINUTE));
    let cache = CacheLayer::new(store.clone()).rules(rules).layer(counting(|_, _| ok("rows")).0);
    let wanted = [("/t/a", Some("t:a"), 600_usize), ("/t/b", Some("t:b"), 300), ("/none", None, 100)];
    for (path, _, count) in wanted {
        for n in 0..count {
            read(&cache, &format!("{path}?{n}")).await;
        }
    }
    for n in 0..500 {
        server.command(&["SET", &format!("session:{n}"), "x"]).await;
    }
    until("the responses are stored", async || store.stats().stored == 1_000).await;
    let sample = store.sample_keys(100_000).await.unwrap();
    assert_eq!(sample.sampled, 10_000, "the limit");
    assert_eq!(server.command(&["DBSIZE"]).await, Value::Int(sample.keys as i64));
    let names: Vec<_> = sample.entries.iter().map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names, wanted.map(|(_, name, _)| name), "the largest first");
    // The standard error of these estimates is at most five percent. The server does not draw quite evenly.
    for ((name, estimated), (.., count)) in sample.entries.iter().zip(wanted) {
        assert!((estimated / count as f64 - 1.0).abs() < 0.4, "{name:?}: {estimated} of {count}");
    }
    assert!((sample.foreign / 500.0 - 1.0).abs() < 0.4, "{}", sample.foreign);
    let sum = sample.entries.iter().map(|(_, count)| count).sum::<f64>() + sample.generations + sample.others + sample.foreign;
    assert!((sum - sample.keys as f64).abs() < 1e-3, "{sum} of {}", sample.keys);
}

/// Returns the documented number of bytes in a row of the table.
fn documented(row: &str) -> usize {
    let line = PAGE.lines().find(|line| line.starts_with(&format!("| {row}"))).expect("a row of the table");
    let digits: String = line.rsplit("at most").next().expect("a figure").chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

async fn used(server: &Server) -> usize {
    server.info_number("memory", "used_memory").await as usize
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
