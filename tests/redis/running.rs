//! Running bodies are shared over Redis as well, and never past an invalidation.

use std::time::Duration;

use crate::{
    common::{redis::Server, *},
    setup::store,
};
use http::Response;
use tower::Layer;
use tower_response_cache::{CacheLayer, CachePolicy, Clock, Namespace, Outcome, Redis, Rule, Store, redis::Coherence};

fn answer(name: Option<&str>) -> (BodySource, Response<ChannelBody>) {
    let (source, body) = channel_body(None);
    let mut response = Response::new(body);
    if let Some(name) = name {
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::new(name).unwrap()));
    }
    (source, response)
}

/// A request that begins after an invalidation gets a response that was computed after it, whether the rule or the response
/// named the invalidated namespace. Leased coherence guarantees this for invalidations by the same process.
#[tokio::test(flavor = "multi_thread")]
async fn request_after_an_invalidation_joins_no_running_body() {
    let server = Server::start().await;
    for (n, coherence) in [Coherence::Leased, Coherence::Validated].into_iter().enumerate() {
        for memory in [false, true] {
            for named in [None, Some("row")] {
                for elsewhere in [false, true] {
                    if elsewhere && coherence == Coherence::Leased {
                        continue;
                    }
                    let prefix = format!("r{n}{memory}{}{elsewhere}", named.is_some());
                    let one = store(&server, &prefix, coherence, memory).await;
                    let two = store(&server, &prefix, coherence, memory).await;
                    let (inner, mut handle) = tower_test::mock::pair();
                    let rule = Rule::ttl(MINUTE).namespace("t:{table}");
                    let cache = CacheLayer::new(one.clone()).rules(one_rule(rule)).layer(inner);
                    if named.is_some() {
                        // The namespace becomes known with the first fill, which is not stored.
                        for _ in 0..2 {
                            let first = tokio::spawn(begin(&cache, get("/t/y")).await);
                            let (source, response) = answer(named);
                            source.send("y");
                            drop(source);
                            next_call(&mut handle).await.1.send_response(response);
                            first.await.unwrap().unwrap();
                        }
                    }
                    let leader = tokio::spawn(begin(&cache, get("/t/x")).await);
                    let (old, response) = answer(named);
                    next_call(&mut handle).await.1.send_response(response);
                    let leader = leader.await.unwrap().unwrap();
                    old.send("old");
                    let invalidated = named.unwrap_or("t:x");
                    if elsewhere { two.invalidate([invalidated]).await } else { one.invalidate([invalidated]).await }.unwrap();
                    let late = tokio::spawn(begin(&cache, get("/t/x")).await);
                    let mut old = Some(old);
                    let mut leader = Some(leader);
                    if named.is_some() {
                        // The namespaces are known at the end of the body: a waiting request looks it up again then.
                        for _ in 0..1000 {
                            tokio::task::yield_now().await;
                        }
                        drop(old.take());
                        assert_eq!(text(leader.take().unwrap()).await, "old");
                    }
                    let (new, response) = answer(named);
                    next_call(&mut handle).await.1.send_response(response);
                    new.send("new");
                    drop(new);
                    let late = late.await.unwrap().unwrap();
                    assert_ne!(outcome(&late), Outcome::Collapsed, "{prefix}");
                    assert_eq!(text(late).await, "new", "{prefix}");
                    drop((old, leader));
                }
            }
        }
    }
}

/// A request waits for the lock of a fill in another process. If it may not use the stored response, it calls the inner
/// service.
#[tokio::test(flavor = "multi_thread")]
async fn request_that_may_not_use_the_stored_response_calls() {
    let server = Server::start().await;
    for (n, (field, value)) in [("authorization", "Basic YQ=="), ("cache-control", "min-fresh=3600")].into_iter().enumerate() {
        let rules = || one_rule(Rule::http().namespace("t:{table}").distributed_lock(20 * SECOND));
        let (one_inner, mut one_handle) = tower_test::mock::pair::<http::Request<Plain>, Response<Plain>>();
        let (two_inner, mut two_handle) = tower_test::mock::pair::<http::Request<Plain>, Response<Plain>>();
        let one = store(&server, &n.to_string(), Coherence::Validated, false).await;
        let two = store(&server, &n.to_string(), Coherence::Validated, false).await;
        let one = CacheLayer::new(one).rules(rules()).layer(one_inner);
        let cache = CacheLayer::new(two.clone()).rules(rules()).layer(two_inner);
        let first = tokio::spawn(begin(&one, get("/t/x")).await);
        let answer = next_call(&mut one_handle).await.1;
        let mut request = get("/t/x");
        request.headers_mut().insert(field, value.parse().unwrap());
        let before = two.round_trips();
        let second = tokio::spawn(begin(&cache, request).await);
        // The request has read, has not got the lock, and has read again.
        crate::common::redis::until("the request waits", async || two.round_trips() > before + 3).await;
        let mut response = ok("first");
        response.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
        answer.send_response(response);
        first.await.unwrap().unwrap();
        let call = tokio::time::timeout(10 * SECOND, next_call(&mut two_handle)).await;
        let (_, answer) = call.unwrap_or_else(|_| panic!("{field}: no call after {} round trips", two.round_trips()));
        answer.send_response(ok("second"));
        assert_eq!(text(second.await.unwrap().unwrap()).await, "second");
    }
}

/// A stale copy in memory hides no newer response that another process has stored, whether its lifetime has passed or it was
/// invalidated softly.
#[tokio::test(flavor = "multi_thread")]
async fn stale_copy_in_memory_hides_no_newer_redis_response() {
    let server = Server::start().await;
    for (n, coherence) in [Coherence::Leased, Coherence::Validated, Coherence::Ttl(MINUTE)].into_iter().enumerate() {
        for (lock, softly) in [(true, true), (false, false), (true, false), (false, true)] {
            // Without the pushes of a lease, the other process is not informed.
            if softly && coherence != Coherence::Validated {
                continue;
            }
            let rule = Rule::ttl(5 * SECOND).stale_if_error(10 * MINUTE).namespace("t:{table}");
            let rule = if lock { rule.distributed_lock(20 * SECOND) } else { rule };
            let clock = Clock::manual();
            let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
            let (mut caches, mut stores) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                let prefix = format!("e{n}{lock}{softly}");
                let builder = Redis::builder(&server.url()).prefix(&prefix).coherence(coherence).clock(clock.clone());
                let builder = builder.command_timeout(Duration::from_secs(5)).heartbeat(Duration::from_millis(50));
                let store = builder.max_round_trip(Duration::from_secs(2)).memory(8 << 20).build().await.unwrap();
                caches.push(CacheLayer::new(store.clone()).rules(one_rule(rule.clone())).layer(inner.clone()));
                stores.push(store);
            }
            for cache in &caches {
                assert_eq!(text(send(cache, get("/t/x")).await).await, "answer 1");
            }
            match softly {
                true => stores[0].invalidate_softly(["t:x"]).await.unwrap(),
                false => clock.advance(6 * SECOND),
            }
            for cache in &caches {
                let asked = tokio::time::timeout(10 * SECOND, send(cache, get("/t/x"))).await;
                let response = asked.unwrap_or_else(|_| panic!("{coherence:?} {lock} {softly}: no answer"));
                assert_eq!(text(response).await, "answer 2", "{coherence:?} {lock} {softly}");
            }
            assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 2, "{coherence:?} {lock} {softly}");
        }
    }
}
