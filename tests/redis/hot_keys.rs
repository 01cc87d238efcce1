//! Hot keys and large values: what many reads of one key cost Redis and the inner service. Redis counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower::Layer;
use tower_response_cache::{CacheLayer, Outcome, Redis, Store, redis::Coherence};

use crate::{
    common::{
        redis::{Server, until},
        *,
    },
    setup::{builder, read, rule},
};

/// Returns how many commands that read entries or generations the server has run.
async fn reads_of_server(server: &Server) -> u64 {
    let calls = server.command_calls().await;
    ["get", "mget", "getrange", "strlen", "exists"].iter().filter_map(|command| calls.get(*command)).sum()
}

/// Returns the bytes that the server has sent.
async fn sent_by_server(server: &Server) -> u64 {
    server.info_number("stats", "total_net_output_bytes").await
}

#[tokio::test(flavor = "multi_thread")]
async fn leased_reads_of_a_hot_key_query_redis_only_after_invalidations() {
    const STORES: usize = 10;
    const READS: u64 = 2_000;
    const INVALIDATIONS: u64 = 5;
    let server = Server::start().await;
    let (inner, calls) = counting(|_, _| ok("hot"));
    let mut caches = Vec::new();
    for _ in 0..STORES {
        let store = builder(&server).memory(8 << 20).build().await.unwrap();
        caches.push((CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone()), store));
    }
    // Returns true if each store has answered from its own memory.
    let all_in_memory = async || {
        for (cache, store) in &caches {
            let trips = store.round_trips();
            let (_, is_hit) = read(cache, "/t/hot").await;
            if !is_hit || store.round_trips() != trips {
                return false;
            }
        }
        true
    };
    until("all have the entry in memory", all_in_memory).await;
    let before = reads_of_server(&server).await;
    for (cache, _) in &caches {
        for _ in 0..READS {
            read(cache, "/t/hot").await;
        }
    }
    let hot = reads_of_server(&server).await - before;
    // A lease that ends on a busy machine costs a query for each read until it is back.
    let by_store: u64 = caches
        .iter()
        .flat_map(|(_, store)| store.stats().routes[0].requests.clone())
        .filter(|of| of.outcome == Outcome::Hit && of.tier.as_str() == "store")
        .map(|of| of.count)
        .sum();
    assert!(hot <= 3 * by_store, "{hot} queries, of which only those of {by_store} hits are explained");
    assert!(hot < READS, "{hot} queries for {} reads", STORES as u64 * READS);
    println!("{hot} queries for {} reads of {STORES} stores", STORES as u64 * READS);

    let (before, fills) = (reads_of_server(&server).await, calls.load(Ordering::SeqCst));
    for _ in 0..INVALIDATIONS {
        caches[0].1.invalidate(["t:hot"]).await.unwrap();
        until("all have the new entry in memory", all_in_memory).await;
    }
    let fills = calls.load(Ordering::SeqCst) - fills;
    println!("{} queries and {fills} fills for {INVALIDATIONS} invalidations", reads_of_server(&server).await - before);
    assert!(fills >= INVALIDATIONS as usize && fills <= STORES * INVALIDATIONS as usize, "{fills}");
}

#[tokio::test(flavor = "multi_thread")]
async fn validation_does_not_move_a_body() {
    const BODY: usize = 1 << 20;
    const HITS: u64 = 50;
    let server = Server::start().await;
    let store = builder(&server).coherence(Coherence::Validated).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, _| ok("x".repeat(BODY)));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule().max_body(2 * BODY))).layer(inner);
    until("the entry is in memory", async || {
        let before = sent_by_server(&server).await;
        let (_, is_hit) = read(&cache, "/t/large").await;
        is_hit && sent_by_server(&server).await - before < BODY as u64
    })
    .await;
    let (sent, trips) = (sent_by_server(&server).await, store.round_trips());
    for _ in 0..HITS {
        let (body, is_hit) = read(&cache, "/t/large").await;
        assert_eq!((body.len(), is_hit), (BODY, true));
    }
    let (sent, trips) = (sent_by_server(&server).await - sent, store.round_trips() - trips);
    println!("{sent} bytes for {HITS} validated hits of {BODY} bytes");
    assert_eq!(trips, HITS, "one round trip each");
    assert!(sent < HITS * 1_024 + 64 * 1024, "{sent} bytes, with heartbeats and INFO");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_softly_invalidated_namespace_get_stale_responses() {
    const INVALIDATIONS: usize = 1_000;
    let server = Server::start().await;
    let store = builder(&server).memory(8 << 20).build().await.unwrap();
    let rules = one_rule(rule().stale_while_revalidate(MINUTE));
    let (inner, mut handle): (_, Handle) = tower_test::mock::pair();
    let service = CacheLayer::new(store.clone()).rules(rules).layer(inner);
    let first = tokio::spawn(begin(&service, get("/t/hot")).await);
    next_call(&mut handle).await.1.send_response(ok("old"));
    assert_eq!(text(first.await.unwrap().unwrap()).await, "old");
    until("the entry is in memory", async || {
        let trips = store.round_trips();
        outcome(&send(&service, get("/t/hot")).await) == Outcome::Hit && store.round_trips() == trips
    })
    .await;
    // The inner service holds the refresh all the time.
    let mut held = None;
    for n in 0..INVALIDATIONS {
        store.invalidate_softly(["t:hot"]).await.unwrap();
        let response = send(&service, get("/t/hot")).await;
        assert!(matches!(outcome(&response), Outcome::Stale(_)), "read {n}: {:?}", outcome(&response));
        assert_eq!(text(response).await, "old");
        if held.is_none() {
            held = Some(next_call(&mut handle).await);
        }
    }
    assert_eq!(store.stats().refreshes, 1, "there is no second refresh while one is in progress");
    drop(held);
}

/// Hard invalidations admit no stale response. A read needs a fill that began after the last of them, and readers share it.
#[tokio::test(flavor = "multi_thread")]
async fn readers_share_the_fills_of_a_namespace_that_others_invalidate() {
    let server = Server::start().await;
    let writer = builder(&server).memory(8 << 20).build().await.unwrap();
    let store = builder(&server).memory(8 << 20).build().await.unwrap();
    invalidate_while_reading(&writer, store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_share_the_fills_of_a_namespace_that_their_process_invalidates() {
    let server = Server::start().await;
    let store = builder(&server).memory(8 << 20).build().await.unwrap();
    invalidate_while_reading(&store.clone(), store).await;
}

async fn invalidate_while_reading(writer: &Redis, store: Redis) {
    const INVALIDATIONS: usize = 300;
    const READERS: usize = 32;
    let (inner, calls) = counting(|_, _| ok("row"));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let (done, reads) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (cache, done, reads) = (cache.clone(), done.clone(), reads.clone());
            tokio::spawn(async move {
                while done.load(Ordering::SeqCst) == 0 {
                    read(&cache, "/t/hot").await;
                    reads.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..INVALIDATIONS {
        writer.invalidate(["t:hot"]).await.unwrap();
    }
    done.store(1, Ordering::SeqCst);
    for reader in readers {
        reader.await.expect("every read is answered");
    }
    let (calls, reads) = (calls.load(Ordering::SeqCst), reads.load(Ordering::SeqCst));
    println!("{calls} fills, {reads} reads, {INVALIDATIONS} invalidations");
    assert!(reads >= READERS, "no reader starves");
    // A fill may fail to be stored because of the next invalidation, and its key is then fetched once more.
    assert!(calls <= 2 * (INVALIDATIONS + 1), "{calls} fills, {reads} reads");
}

/// An invalidation on its way to Redis affects only the reads of its own names, and those only if its call has already returned.
#[tokio::test(flavor = "multi_thread")]
async fn invalidation_on_its_way_leaves_other_hits_in_memory() {
    let server = Server::start().await;
    // Invalidations that follow each other wait for up to a second.
    let store = builder(&server).memory(8 << 20).gather(Duration::from_secs(1)).build().await.unwrap();
    let (inner, calls) = counting(|_, _| ok("row"));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let is_in_memory = async |path| {
        let trips = store.round_trips();
        read(&cache, path).await.1 && store.round_trips() == trips
    };
    loop {
        until("both are in memory", async || is_in_memory("/t/a").await && is_in_memory("/t/b").await).await;
        store.invalidate(["unrelated"]).await.unwrap();
        let before = calls.load(Ordering::SeqCst);
        let mut invalidation = Box::pin(store.invalidate(["t:a"]));
        assert!(poll_once(&mut invalidation).is_pending());
        let other = is_in_memory("/t/b").await;
        let (_, own) = read(&cache, "/t/a").await;
        if poll_once(&mut invalidation).is_ready() {
            continue;
        }
        // From here on the caller may believe that it is done.
        drop(invalidation);
        let (other_after, (_, own_after)) = (is_in_memory("/t/b").await, read(&cache, "/t/a").await);
        if store.stats().pending_invalidations > 0 {
            assert!(other && other_after, "hits of other names stay in memory");
            assert!(own, "a read during a write may get the response from before");
            assert!(!own_after && calls.load(Ordering::SeqCst) == before + 1, "a read after it may not");
            break;
        }
    }
}
