//! Round trips, commands, statistics and reclaimed entries.

use std::time::Duration;

use crate::{
    common::{
        redis::{Server, until},
        *,
    },
    setup::{builder, rule},
};
use http::Method;
use http_body_util::BodyExt;
use tower::Layer;
use tower_response_cache::{CacheLayer, Clock, Outcome, Redis, Rule, Store, redis::Coherence, stats::Tier};

/// Cost of one request: whether it is a hit, round trips of the store, and commands by name as the server has seen them.
macro_rules! cost {
    ($store:expr, $log:expr, $cache:expr, $target:expr) => {{
        let (before, _) = ($store.round_trips(), $log.take().await);
        let response = send(&$cache, get($target)).await;
        let trips = $store.round_trips() - before;
        let mut sent = $log.take().await;
        sent.remove("pexpireat"); // Heartbeats.
        let sent = sent.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ");
        (outcome(&response) == Outcome::Hit, trips, sent)
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_take_the_round_trips_of_the_protocol() {
    let server = Server::start().await;
    let make = |prefix: &str| builder(&server).prefix(prefix).heartbeat(Duration::from_secs(5));
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = |store: &Redis, rule: Rule| CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner.clone());
    let mut log = server.command_log().await;
    let cost = |hit, trips, sent: &str| (hit, trips, sent.to_owned());

    let store = make("validated").coherence(Coherence::Validated).build().await.unwrap();
    let plain = cache(&store, rule());
    // Three namespaces and the set of the key: four generations, made with the first fill.
    assert_eq!(cost!(store, log, plain, "/t/x?n=1"), cost(false, 3, "mget 1, set 5"));
    assert_eq!(cost!(store, log, plain, "/t/x?n=1"), cost(true, 1, "mget 1"));
    until("no generation is missing", async || cost!(store, log, plain, "/t/x?n=2").1 < 3).await;
    store.invalidate(["t:x"]).await.unwrap();
    assert_eq!(cost!(store, log, plain, "/t/x?n=1"), cost(false, 3, "mget 1, set 2"));
    assert_eq!(cost!(store, log, plain, "/t/x?n=2"), cost(false, 2, "mget 1, set 1"));
    assert_eq!(cost!(store, log, plain, "/t/x?n=2"), cost(true, 1, "mget 1"));

    // With a lock: the entry is read after locking, and the script that releases the lock runs two commands.
    let locked = cache(&store, rule().distributed_lock(Duration::from_secs(10)));
    store.invalidate(["t:x"]).await.unwrap();
    assert_eq!(cost!(store, log, locked, "/t/x?n=1"), cost(false, 3, "eval 1, get 2, mget 1, set 3, unlink 1"));
    assert_eq!(cost!(store, log, locked, "/t/x?n=1"), cost(true, 1, "mget 1"));

    let store = make("strict").coherence(Coherence::Validated).strict(Duration::from_secs(30)).build().await.unwrap();
    let strict = cache(&store, rule());
    assert_eq!(cost!(store, log, strict, "/t/x"), cost(false, 3, "exists 5, mget 1, set 5"));
    assert_eq!(cost!(store, log, strict, "/t/x"), cost(true, 1, "exists 1, mget 1"));

    let store = make("leased").build().await.unwrap();
    let leased = cache(&store, rule());
    assert_eq!(cost!(store, log, leased, "/t/x"), cost(false, 3, "mget 1, set 5"));
    until("all generations are known", async || cost!(store, log, leased, "/t/x") == cost(true, 1, "get 1")).await;

    // A hit in memory.
    for (coherence, trips, sent) in
        [(Coherence::Leased, 0, ""), (Coherence::Ttl(MINUTE), 0, ""), (Coherence::Validated, 1, "mget 1")]
    {
        let store = make(&format!("memory{trips}{}", sent.len())).coherence(coherence).memory(8 << 20).build().await.unwrap();
        let cache = cache(&store, rule());
        send(&cache, get("/t/x")).await;
        until("the entry is in memory", async || cost!(store, log, cache, "/t/x") == cost(true, trips, sent)).await;
        let (before, _) = (server.info("stats").await, log.take().await);
        assert_eq!(cost!(store, log, cache, "/t/x"), cost(true, trips, sent));
        drop(before);
    }

    // An invalidation is one script of three commands.
    log.take().await;
    store.invalidate(["t:x"]).await.unwrap();
    let mut sent = log.take().await;
    sent.remove("pexpireat"); // Heartbeats.
    let expected = [("eval", 1), ("set", 1), ("unlink", 2)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(sent.into_iter().collect::<Vec<_>>(), expected);
}

/// Requests by outcome: fresh hits, stale hits, collapsed, misses, bypasses.
fn outcomes(store: &Redis) -> [u64; 5] {
    let stats = store.stats();
    [stats.hits, stats.stale_hits, stats.collapsed, stats.misses(), stats.bypasses.iter().map(|(_, n)| n).sum()]
}

#[tokio::test]
async fn each_request_is_counted_once_by_its_outcome() {
    const FIELDS: [(&str, &str); 7] = [
        ("range", "bytes=0-1"),
        ("if-none-match", "\"tag\""),
        ("if-match", "\"tag\""),
        ("cookie", "a=b"),
        ("x-answer", "set-cookie"),
        ("cache-control", "no-cache"),
        ("cache-control", "max-stale"),
    ];
    let server = Server::start().await;
    let clock = Clock::manual();
    let rules = [
        rule().stale_while_revalidate(MINUTE),
        Rule::http().default_ttl(MINUTE).namespace("t:{table}"),
        rule().distributed_lock(SECOND),
    ];
    let setups = rules.into_iter().flat_map(|rule| {
        let setup = |(coherence, memory)| (rule.clone(), coherence, memory);
        [(Coherence::Leased, true), (Coherence::Leased, false), (Coherence::Validated, true), (Coherence::Validated, false)]
            .map(setup)
    });
    for (number, (rule, coherence, memory)) in setups.enumerate() {
        let make = builder(&server).prefix(&number.to_string()).coherence(coherence).clock(clock.clone());
        let store = if memory { make.memory(8 << 20) } else { make }.build().await.unwrap();
        let (inner, _) = counting(|request, n| {
            let mut response = ok(format!("answer {n}"));
            response.headers_mut().insert("etag", "\"tag\"".parse().unwrap());
            if request.headers().contains_key("x-answer") {
                response.headers_mut().insert("set-cookie", "a=b".parse().unwrap());
            }
            response
        });
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut request = get(&format!("/t/{}", random.u8(0..3)));
            if random.u8(0..8) == 0 {
                *request.method_mut() = random.choice([Method::HEAD, Method::POST]).unwrap();
            }
            if random.bool() {
                let (name, value) = random.choice(FIELDS).unwrap();
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            let name = format!("t:{}", random.u8(0..3));
            match random.u8(0..20) {
                0 => clock.advance(45 * SECOND),
                1 => store.invalidate([name.as_str()]).await.unwrap(),
                2 => store.invalidate_softly([name.as_str()]).await.unwrap(),
                _ => {}
            }
            let before = outcomes(&store);
            let response = send(&cache, request).await;
            let told = outcome(&response);
            response.into_body().collect().await.unwrap();
            until("no fill is running", async || store.stats().flights == 0).await;
            let after = outcomes(&store);
            let want = match told {
                Outcome::Hit => [1, 0, 0, 0, 0],
                Outcome::Stale(_) => [0, 1, 0, 0, 0],
                Outcome::Collapsed => [0, 0, 1, 0, 0],
                Outcome::Bypass(_) => [0, 0, 0, 0, 1],
                _ => [0, 0, 0, 1, 0],
            };
            assert_eq!(std::array::from_fn(|way| after[way] - before[way]), want, "{told:?}, {coherence:?}, memory: {memory}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tier_of_a_hit_says_if_redis_was_queried() {
    let server = Server::start().await;
    for (number, (coherence, memory, tier)) in [
        (Coherence::Ttl(MINUTE), true, Tier::Memory),
        (Coherence::Leased, true, Tier::Memory),
        (Coherence::Leased, false, Tier::Store),
        (Coherence::Validated, true, Tier::Store),
        (Coherence::Validated, false, Tier::Store),
    ]
    .into_iter()
    .enumerate()
    {
        let make = builder(&server).prefix(&number.to_string()).coherence(coherence);
        let store = if memory { make.memory(8 << 20) } else { make }.build().await.unwrap();
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(counting(|_, _| ok("rows")).0);
        let hits = || {
            let routes = store.stats().routes;
            let all = routes.iter().flat_map(|of| &of.requests).filter(|of| of.outcome == Outcome::Hit && of.tier == tier);
            all.map(|of| of.count).sum::<u64>()
        };
        until("hits have their final tier", async || {
            let before = hits();
            send(&cache, get("/t/x")).await;
            hits() > before
        })
        .await;
        let (hits_before, bytes_before, trips) = (hits(), store.stats().routes[0].cache_bytes, store.round_trips());
        for _ in 0..20 {
            assert_eq!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit);
        }
        assert_eq!(
            (hits() - hits_before, store.stats().routes[0].cache_bytes - bytes_before),
            (20, 80),
            "{coherence:?} {memory}"
        );
        let queries = if tier == Tier::Store { 20 } else { 0 };
        assert_eq!(store.round_trips() - trips, queries, "{coherence:?} {memory}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reclaim_removes_only_invalidated_entries() {
    let server = Server::start().await;
    let store = builder(&server).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    for n in 0..300 {
        send(&reads, get(&format!("/t/{}?n={n}", ["x", "y", "z"][n % 3]))).await;
    }
    store.invalidate(["t:x"]).await.unwrap();
    let done = store.reclaim(1_000_000).await.unwrap();
    assert_eq!((done.seen, done.removed), (300, 100));
    assert_eq!(server.keys("*:e:*").await.len(), 200);
    assert_eq!(outcome(&send(&reads, get("/t/y?n=1")).await), Outcome::Hit);
    let usage = store.server().await.unwrap();
    assert!(usage.masters == 1 && usage.keys > 200 && usage.bytes > 100_000, "{usage:?}");
}
