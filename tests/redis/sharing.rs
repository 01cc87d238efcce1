//! Processes that share one Redis: entries, generations, keys and invalidations of one are seen by the others.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use crate::{
    common::{
        redis::{Fault, Forwarder, Server, until},
        *,
    },
    setup::{builder, rule},
};
use http::{Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{
    __private::Backend,
    CacheLayer, KeyExtractor, Namespace, Outcome, Redis, Rule, Store,
    key::{Extracted, KeyWriter, RequestView},
    redis::Coherence,
    status::Miss,
};

#[tokio::test(flavor = "multi_thread")]
async fn entry_of_one_process_is_a_hit_in_another() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated, Coherence::Ttl(MINUTE)] {
        let prefix = format!("{coherence:?}").split('(').next().unwrap().to_owned();
        let make = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).build();
        let (one, two) = (make().await.unwrap(), make().await.unwrap());
        let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
        let a = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner.clone());
        let b = CacheLayer::new(two.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(outcome(&send(&a, get("/t/x")).await), Outcome::Miss(Miss::Absent));
        let from_b = send(&b, get("/t/x")).await;
        assert_eq!(outcome(&from_b), Outcome::Hit, "{coherence:?}");
        assert_eq!(text(from_b).await, "answer 1");
        assert_eq!(text(send(&a, get("/t/x")).await).await, "answer 1");
        assert_eq!(calls.load(Ordering::SeqCst), 1);

        two.invalidate(["t:x"]).await.unwrap();
        assert_eq!(text(send(&b, get("/t/x")).await).await, "answer 2");
        if matches!(coherence, Coherence::Validated) {
            assert_eq!(text(send(&a, get("/t/x")).await).await, "answer 2");
        }
        if matches!(coherence, Coherence::Leased) {
            until("the push arrives", async || text(send(&a, get("/t/x")).await).await == "answer 2").await;
        }
    }
}

/// A hot target is not routed again: its remembered namespaces are sent to Redis.
#[tokio::test]
async fn remembered_target_is_invalidated_by_its_own_namespaces_only() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let store = builder(&server).prefix(&format!("{coherence:?}")).coherence(coherence).build().await.unwrap();
        let (inner, calls) = counting(|request, n| ok(format!("{} {:?} {n}", request.uri(), request.headers().get("host"))));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        let asked = [("/t/x", "one.example"), ("/t/y", "one.example"), ("/t/x", "two.example"), ("/t/x?a=1", "one.example")];
        let ask = async |(target, host): (&str, &'static str)| {
            let mut request = get(target);
            request.headers_mut().insert("host", http::HeaderValue::from_static(host));
            text(send(&cache, request).await).await
        };
        let settled = async || {
            let mut answers = Vec::new();
            for asked in asked {
                until("the response is stored", async || ask(asked).await == ask(asked).await).await;
                let answer = ask(asked).await;
                let host = http::HeaderValue::from_static(asked.1);
                assert!(answer.starts_with(&format!("{} {:?}", asked.0, Some(host))), "{answer}");
                // Until each target is remembered.
                for _ in 0..40 {
                    assert_eq!(ask(asked).await, answer);
                }
                answers.push(answer);
            }
            answers
        };
        let before = settled().await;
        let called = calls.load(Ordering::SeqCst);
        assert_eq!(settled().await, before);
        assert_eq!(calls.load(Ordering::SeqCst), called, "all of them are hits");
        store.invalidate(["t:y"]).await.unwrap();
        let after = settled().await;
        let same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
        assert_eq!(same, [true, false, true, true], "{coherence:?}");
        store.invalidate(["t:x"]).await.unwrap();
        let last = settled().await;
        let same: Vec<bool> = after.iter().zip(&last).map(|(before, after)| before == after).collect();
        assert_eq!(same, [false, true, false, false], "{coherence:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_by_header_are_not_remembered_by_target() {
    let server = Server::start().await;
    let store = builder(&server).coherence(Coherence::Validated).build().await.unwrap();
    let by = |request: &RequestView<'_>| {
        let tenant = request.headers().get("x-tenant").and_then(|tenant| tenant.to_str().ok()).unwrap_or("none");
        vec![Namespace::of(["tenant", tenant])]
    };
    let (inner, _) = counting(|_, n| ok(format!("{n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule().namespaces_by(by))).layer(inner);
    let ask = async |tenant: &'static str| {
        let mut request = get("/t/x");
        request.headers_mut().insert("x-tenant", http::HeaderValue::from_static(tenant));
        text(send(&cache, request).await).await
    };
    for _ in 0..20 {
        until("the response for one is stored", async || ask("one").await == ask("one").await).await;
        until("the response for the other is stored", async || ask("other").await == ask("other").await).await;
    }
    let before = ask("other").await;
    store.invalidate(["tenant:one"]).await.unwrap();
    assert_eq!(ask("other").await, before);
    store.invalidate(["tenant:other"]).await.unwrap();
    assert_ne!(ask("other").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_during_a_fill_of_another_process_wins() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let make = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).build();
        let (one, two) = (make().await.unwrap(), make().await.unwrap());
        let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let key = one_rule(rule()).key(&one, &get("/t/x")).expect("a rule covers it");
        let cache = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner);
        let first = tokio::spawn({
            let cache = cache.clone();
            async move { text(send(&cache, get("/t/x")).await).await }
        });
        let (_, answer) = next_call(&mut handle).await;
        two.invalidate(["t:x"]).await.unwrap();
        answer.send_response(ok("old"));
        assert_eq!(first.await.unwrap(), "old");
        // Under a lease, the push may take a while to arrive.
        until("the invalidation has arrived", async || one.get_now(key.as_ref()).is_none_or(|look| look.found.is_none())).await;
        let second = tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await });
        let (_, answer) = next_call(&mut handle).await;
        answer.send_response(ok("new"));
        assert_eq!(second.await.unwrap(), "new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_is_invalidated_for_all_processes() {
    let server = Server::start().await;
    let make = || builder(&server).coherence(Coherence::Validated).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let a = CacheLayer::new(one).rules(one_rule(rule())).layer(inner);
    assert_eq!(text(send(&a, get("/t/x?a=1")).await).await, "answer 1");
    let key = one_rule(rule()).key(&two, &get("/t/x?a=1")).unwrap();
    two.invalidate_key(&key).await.unwrap();
    assert_eq!(text(send(&a, get("/t/x?a=1")).await).await, "answer 2");
}

/// Keys are grouped into sets, and a set has one generation: deleting a generation that is missing already pushes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn later_invalidation_of_a_key_set_is_noticed() {
    let server = Server::start().await;
    let make = || builder(&server).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let rules = one_rule(rule());
    let key = |n: usize| rules.key(&one, &get(&format!("/t/{n}"))).unwrap();
    let mut seen = HashMap::new();
    let twins = |n: usize| {
        let hash = key(n).hash();
        seen.insert(((hash >> 64) as u64 ^ hash as u64) % 4096, n).map(|twin| (twin, n))
    };
    let (kept, invalidated) = (0..).find_map(twins).unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(one.clone()).rules(rules.clone()).layer(inner);
    let ask = async || text(send(&cache, get(&format!("/t/{kept}"))).await).await;
    until("the lease is held", async || one.is_leased()).await;
    let before = ask().await;
    assert_eq!(ask().await, before);
    one.invalidate_key(&key(invalidated)).await.unwrap();
    two.invalidate_key(&key(kept)).await.unwrap();
    until("the entry is no longer served", async || ask().await != before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_invalidation_makes_entries_stale_for_all_processes() {
    let server = Server::start().await;
    let make = || builder(&server).coherence(Coherence::Validated).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let rule = rule().stale_while_revalidate(MINUTE);
    let a = CacheLayer::new(one).rules(one_rule(rule)).layer(inner);
    assert_eq!(text(send(&a, get("/t/x")).await).await, "answer 1");
    two.invalidate_softly(["t:x"]).await.unwrap();
    let stale = send(&a, get("/t/x")).await;
    assert!(matches!(outcome(&stale), Outcome::Stale(_)), "{:?}", outcome(&stale));
    assert_eq!(text(stale).await, "answer 1");
    until("the entry is refreshed", async || outcome(&send(&a, get("/t/x")).await) == Outcome::Hit).await;
    assert_ne!(text(send(&a, get("/t/x")).await).await, "answer 1");
}

/// RFC 5861, section 4: without a stale-if-error window, no entry may be served for an error. A store of one process knows this
/// from its own epochs. Over Redis, only the lookup that found the entry has seen the generations.
#[tokio::test]
async fn softly_invalidated_entry_is_not_served_for_an_error() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let store = builder(&server).prefix(&format!("{coherence:?}")).coherence(coherence).build().await.unwrap();
        let (inner, _) = counting(|_, n| {
            let status = if n == 1 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            let response = Response::builder().status(status).header("cache-control", "max-age=60").header("etag", "\"a\"");
            response.body(Plain::from(format!("answer {n}"))).unwrap()
        });
        let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::http().namespace("t:{table}"))).layer(inner);
        assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
        until("the entry is stored", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;

        store.invalidate_softly(["t:x"]).await.unwrap();
        let response = send(&cache, get("/t/x")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR, "{coherence:?}");
        assert_eq!(text(response).await, "answer 2");
    }
}

/// An attacker who chooses paths also chooses namespaces. These two have the same 64-bit xxh3 hash, found in a minute.
#[tokio::test(flavor = "multi_thread")]
async fn namespaces_with_equal_hashes_are_told_apart() {
    const ONE: &str = "fr5vv24b53rkb";
    const OTHER: &str = "wvn32fezegw3l";
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let make = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).build();
        let (store, writer) = (make().await.unwrap(), make().await.unwrap());
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        let ask = async |name: &str| text(send(&cache, get(&format!("/t/{name}"))).await).await;
        for invalidated in [&[OTHER][..], &[ONE], &[ONE, OTHER], &[OTHER, ONE]] {
            let before = [ask(ONE).await, ask(OTHER).await];
            assert_eq!([ask(ONE).await, ask(OTHER).await], before, "both are stored");
            writer.invalidate(invalidated.iter().map(|name| Namespace::of(["t", name]))).await.unwrap();
            until("no invalidated entry is served", async || {
                let after = [ask(ONE).await, ask(OTHER).await];
                [ONE, OTHER]
                    .iter()
                    .zip(after.iter().zip(&before))
                    .all(|(name, (after, before))| !invalidated.contains(name) || after != before)
            })
            .await;
        }
    }
}

/// Different keys with equal hashes: xxh3 does not withstand an attacker who looks for collisions.
struct Twins;

impl KeyExtractor for Twins {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        let n: u32 = request.param("table").parse().unwrap();
        let mut part = [0; 490];
        // Where four bytes equal the constant of the hash, it multiplies by zero and only adds the bytes that follow.
        for (at, constant, number) in [(42, 0x2c81_017c_u32, 1 + n), (106, 0xe96d_d4de, 9 - n)] {
            part[at..at + 4].copy_from_slice(&constant.to_le_bytes());
            part[at + 4..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        key.part(part);
        Extracted::Key
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_read_serves_no_key_with_an_equal_hash() {
    let server = Server::start().await;
    let forwarder = Forwarder::to(&server);
    let rules = one_rule(Rule::ttl(MINUTE).namespace("t").key(Twins));
    let (inner, _) = counting(|request, _| ok(request.uri().to_string()));
    let two = CacheLayer::new(builder(&server).build().await.unwrap()).rules(rules.clone()).layer(inner.clone());
    let one = Redis::builder(&forwarder.url()).command_timeout(Duration::from_secs(2)).max_round_trip(Duration::from_secs(5));
    let one = one.memory(8 << 20).build().await.unwrap();
    let keys = ["/t/0", "/t/1"].map(|target| rules.key(&one, &get(target)).unwrap());
    assert!(keys[0] != keys[1] && keys[0].hash() == keys[1].hash());
    send(&two, get("/t/0")).await;
    let cache = CacheLayer::new(one.clone()).rules(rules).layer(inner);
    until("the lease is held", async || one.is_leased()).await;
    forwarder.answers(Fault::Delay(Duration::from_millis(100)));
    let (first, second) = tokio::join!(send(&cache, get("/t/0")), send(&cache, get("/t/1")));
    assert_eq!((text(first).await.as_str(), text(second).await.as_str()), ("/t/0", "/t/1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_misses_in_memory_read_redis_once() {
    let server = Server::start().await;
    let make = || builder(&server).memory(8 << 20).build();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let a = CacheLayer::new(make().await.unwrap()).rules(one_rule(rule())).layer(inner.clone());
    send(&a, get("/t/x")).await;
    // Built only now: a store built before the fill would receive the pushes of its new generations, and waiting requests would
    // read again.
    let two = make().await.unwrap();
    let b = CacheLayer::new(two.clone()).rules(one_rule(rule())).layer(inner);
    until("the lease is held", async || two.is_leased()).await;
    let before = two.round_trips();
    // All requests are there before the first is answered: the test has one thread, and no request waits for another to begin.
    let all = futures_util::future::join_all((0..1000).map(|_| send(&b, get("/t/x")))).await;
    assert!(all.iter().all(|response| outcome(response) == Outcome::Hit));
    assert_eq!((two.round_trips() - before, calls.load(Ordering::SeqCst)), (1, 1));
}
