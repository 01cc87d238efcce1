//! Entries whose namespaces come with the response: where they are stored, and how they are replaced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    common::{
        redis::{Server, until},
        *,
    },
    setup::{builder, rule, store},
};
use http::{Request, Response};
use tower::Layer;
use tower_response_cache::{CacheLayer, CachePolicy, Namespace, Outcome, Rule, Rules, Store, redis::Coherence};

const COHERENCE: [Coherence; 3] = [Coherence::Leased, Coherence::Validated, Coherence::Ttl(MINUTE)];

/// The first fill names a new namespace, the second fill is stored, and the next request is a hit, also in another process.
#[tokio::test(flavor = "multi_thread")]
async fn entry_is_found_with_any_added_namespaces() {
    let server = Server::start().await;
    let rules: [(&str, Rule); 4] = [
        ("none", Rule::ttl(MINUTE)),
        ("parent", Rule::ttl(MINUTE).namespace("t:{table}")),
        ("template", Rule::ttl(MINUTE).namespace("t")),
        ("two", Rule::ttl(MINUTE).namespace("a").namespace("t:{table}")),
    ];
    for (name, rule) in rules {
        for added in ["t:x:17", "u", "t:x:17:a", "a:b", "t"] {
            for (n, memory) in [false, true].into_iter().enumerate() {
                let prefix = format!("{name}{n}{added}");
                let (inner, calls) = counting(move |_, n| {
                    let mut response = ok(format!("answer {n}"));
                    response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::new(added).unwrap()));
                    response
                });
                let one = store(&server, &prefix, Coherence::Validated, memory).await;
                let two = store(&server, &prefix, Coherence::Validated, memory).await;
                let a = CacheLayer::new(one.clone()).rules(one_rule(rule.clone())).layer(inner.clone());
                let b = CacheLayer::new(two.clone()).rules(one_rule(rule.clone())).layer(inner);
                for _ in 0..3 {
                    send(&a, get("/t/x")).await;
                }
                let before = calls.load(Ordering::SeqCst);
                for cache in [&a, &b] {
                    assert_eq!(outcome(&send(cache, get("/t/x")).await), Outcome::Hit, "{name} {added} {memory}");
                }
                assert_eq!(calls.load(Ordering::SeqCst), before);
                one.invalidate([added]).await.unwrap();
                for cache in [&a, &b] {
                    let body = text(send(cache, get("/t/x")).await).await;
                    assert_ne!(body, format!("answer {before}"), "{name} {added} {memory}");
                }
            }
        }
    }
}

fn tagged(tag: &'static str, version: usize, body: bool) -> http::Response<Plain> {
    let mut response = ok(if body { format!("v{version}") } else { String::new() });
    let headers = response.headers_mut();
    headers.insert("etag", tag.parse().unwrap());
    headers.insert("cache-control", "max-age=60".parse().unwrap());
    headers.insert("x-version", version.into());
    response
}

fn head(target: &str) -> http::Request<Plain> {
    let mut request = get(target);
    *request.method_mut() = http::Method::HEAD;
    request.headers_mut().insert("cache-control", "no-cache".parse().unwrap());
    request
}

/// RFC 9111, section 4.3.5, through the script that compares and replaces.
#[tokio::test(flavor = "multi_thread")]
async fn head_freshens_the_entry_in_redis() {
    let server = Server::start().await;
    for (n, coherence) in COHERENCE.into_iter().enumerate() {
        for memory in [false, true] {
            let prefix = format!("h{n}{memory}");
            let (inner, calls) = counting(|request, n| tagged("\"1\"", n, request.method() == http::Method::GET));
            let one = store(&server, &prefix, coherence, memory).await;
            let two = store(&server, &prefix, coherence, memory).await;
            let rules = || Rules::new().route("/t/{table}", Rule::http().namespace("t:{table}"));
            let a = CacheLayer::new(one.clone()).rules(rules()).layer(inner.clone());
            let b = CacheLayer::new(two.clone()).rules(rules()).layer(inner);
            send(&a, get("/t/x")).await;
            assert_eq!(outcome(&send(&a, get("/t/x")).await), Outcome::Hit);
            send(&a, head("/t/x")).await;
            assert_eq!(calls.load(Ordering::SeqCst), 2, "the HEAD reached the inner service");
            for cache in [&a, &b] {
                let hit = send(cache, get("/t/x")).await;
                assert_eq!(outcome(&hit), Outcome::Hit, "{coherence:?} {memory}");
                assert_eq!(hit.headers()["x-version"], "2", "{coherence:?} {memory}");
                assert_eq!(text(hit).await, "v1");
            }
            // A freshened entry is invalidated like a stored one.
            two.invalidate(["t:x"]).await.unwrap();
            assert_eq!(text(send(&b, get("/t/x")).await).await, "v3");
        }
    }
}

/// The response to a HEAD that arrives after a newer response was stored neither changes the newer one nor revives an older
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn late_head_neither_overwrites_nor_revives_in_redis() {
    let server = Server::start().await;
    for (n, coherence) in COHERENCE.into_iter().enumerate() {
        for memory in [false, true] {
            for refill in [false, true] {
                let prefix = format!("l{n}{memory}{refill}");
                let (inner, mut handle) = tower_test::mock::pair();
                let one = store(&server, &prefix, coherence, memory).await;
                let two = store(&server, &prefix, coherence, memory).await;
                let rules = || Rules::new().route("/t/{table}", Rule::http().namespace("t:{table}"));
                let a = CacheLayer::new(one.clone()).rules(rules()).layer(inner.clone());
                let b = CacheLayer::new(two.clone()).rules(rules()).layer(inner);
                let first = tokio::spawn({
                    let a = a.clone();
                    async move { send(&a, get("/t/x")).await }
                });
                next_call(&mut handle).await.1.send_response(tagged("\"1\"", 1, true));
                first.await.unwrap();
                let late = tokio::spawn({
                    let a = a.clone();
                    async move { send(&a, head("/t/x")).await }
                });
                let held = next_call(&mut handle).await.1;
                two.invalidate(["t:x"]).await.unwrap();
                if refill {
                    let second = tokio::spawn({
                        let b = b.clone();
                        async move { send(&b, get("/t/x")).await }
                    });
                    next_call(&mut handle).await.1.send_response(tagged("\"1\"", 2, true));
                    second.await.unwrap();
                }
                held.send_response(tagged("\"1\"", 9, false));
                late.await.unwrap();
                let asked = tokio::spawn({
                    let b = b.clone();
                    async move { send(&b, get("/t/x")).await }
                });
                if refill {
                    let hit = asked.await.unwrap();
                    assert_eq!(outcome(&hit), Outcome::Hit, "{prefix}");
                    assert_eq!(hit.headers()["x-version"], "2", "{prefix}");
                    assert_eq!(text(hit).await, "v2", "{prefix}");
                } else {
                    next_call(&mut handle).await.1.send_response(tagged("\"1\"", 3, true));
                    assert_eq!(text(asked.await.unwrap()).await, "v3", "{prefix}");
                }
            }
        }
    }
}

/// A response whose rows are written all the time is never stored. Its followers do not wait one after the other: each would
/// wait for as many calls as there are requests before it.
#[tokio::test]
async fn followers_of_unstorable_rows_do_not_queue() {
    const REQUESTS: usize = 12;
    let server = Server::start().await;
    let store = store(&server, "queue", Coherence::Validated, false).await;
    let (inner, mut handle) = tower_test::mock::pair::<http::Request<Plain>, http::Response<Plain>>();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await })
        })
        .collect();
    let mut rounds = 0;
    while !requests.iter().all(tokio::task::JoinHandle::is_finished) {
        let mut calls = vec![tokio::time::timeout(20 * SECOND, handle.next_request()).await.expect("a call").unwrap().1];
        // All calls that arrive without further requests.
        while let Ok(Some((_, call))) = tokio::time::timeout(SECOND / 4, handle.next_request()).await {
            calls.push(call);
        }
        rounds += 1;
        store.invalidate(["hot"]).await.unwrap();
        for call in calls {
            let mut response = ok("rows");
            response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::new("hot").unwrap()));
            call.send_response(response);
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(SECOND / 4).await;
    }
    assert!(rounds <= 5, "{rounds} consecutive calls for {REQUESTS} concurrent requests");
}

/// Readers and writers of two processes run at once, and only responses name the namespaces that the writers invalidate.
#[tokio::test(flavor = "multi_thread")]
async fn validated_hit_reflects_acknowledged_writes_of_its_rows() {
    const ROWS: usize = 3;
    let server = Server::start().await;
    for memory in [false, true] {
        let database: Arc<[AtomicUsize; ROWS]> = Arc::default();
        let acknowledged: Arc<[AtomicUsize; ROWS]> = Arc::default();
        let hits = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for process in 0..2 {
            let store = store(&server, &format!("stress{memory}"), Coherence::Validated, memory).await;
            let handler = {
                let database = database.clone();
                tower::service_fn(move |request: http::Request<Plain>| {
                    let row: usize = request.uri().path()[3..].parse().unwrap();
                    let version = database[row].load(Ordering::SeqCst);
                    async move {
                        tokio::time::sleep(Duration::from_micros(random_below(2_000))).await;
                        let mut response = ok(version.to_string());
                        let name = Namespace::of(["t", &row.to_string(), "row"]);
                        response.extensions_mut().insert(CachePolicy::new().namespace(name));
                        Ok::<_, std::convert::Infallible>(response)
                    }
                })
            };
            let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(handler);
            for _ in 0..4 {
                let (cache, acknowledged, hits) = (cache.clone(), acknowledged.clone(), hits.clone());
                tasks.spawn(async move {
                    for n in 0..300 {
                        let row = n % ROWS;
                        let least = acknowledged[row].load(Ordering::SeqCst);
                        let response = send(&cache, get(&format!("/t/{row}"))).await;
                        let outcome = outcome(&response);
                        let version: usize = text(response).await.parse().unwrap();
                        assert!(version >= least, "{outcome:?} of version {version}, after {least} was acknowledged");
                        hits.fetch_add(usize::from(outcome == Outcome::Hit), Ordering::SeqCst);
                    }
                });
            }
            let (store, database, acknowledged) = (store.clone(), database.clone(), acknowledged.clone());
            tasks.spawn(async move {
                for n in 0..60 {
                    tokio::time::sleep(Duration::from_micros(random_below(20_000))).await;
                    let row = (n + process) % ROWS;
                    let version = database[row].fetch_add(1, Ordering::SeqCst) + 1;
                    store.invalidate([Namespace::of(["t", &row.to_string(), "row"])]).await.unwrap();
                    acknowledged[row].fetch_max(version, Ordering::SeqCst);
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        assert!(hits.load(Ordering::SeqCst) > 0, "no response was stored");
    }
}

fn random_below(most: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) % most
}

/// RFC 9111, section 3.4: a whole response combined from two parts is a hit, and is invalidated with the rows of either part.
#[tokio::test(flavor = "multi_thread")]
async fn combined_parts_are_invalidated_by_rows_of_either() {
    let server = Server::start().await;
    for memory in [false, true] {
        for invalidated in ["row:0", "row:5"] {
            let prefix = format!("parts{memory}{invalidated}");
            let one = store(&server, &prefix, Coherence::Validated, memory).await;
            let two = store(&server, &prefix, Coherence::Validated, memory).await;
            let (inner, calls) = counting(|request, n| {
                let first = request.headers().get("range").map(|range| range.as_bytes()[6] - b'0');
                let mut response = ok(if first.is_some() { "01234" } else { "0123456789" });
                let fields = response.headers_mut();
                fields.insert("etag", "\"1\"".parse().unwrap());
                fields.insert("cache-control", "max-age=60".parse().unwrap());
                fields.insert("x-call", n.into());
                if let Some(first) = first {
                    fields.insert("content-range", format!("bytes {first}-{}/10", first + 4).parse().unwrap());
                    *response.status_mut() = http::StatusCode::PARTIAL_CONTENT;
                }
                let row = Namespace::new(format!("row:{}", first.unwrap_or(9))).unwrap();
                response.extensions_mut().insert(CachePolicy::new().namespace(row));
                response
            });
            let a = CacheLayer::new(one.clone()).rules(one_rule(Rule::http())).layer(inner.clone());
            let b = CacheLayer::new(two.clone()).rules(one_rule(Rule::http())).layer(inner);
            let part = |range: &'static str| {
                let mut request = get("/t/x");
                request.headers_mut().insert("range", range.parse().unwrap());
                request
            };
            // The first request of each range makes its row known.
            for range in ["bytes=0-4", "bytes=5-9", "bytes=0-4", "bytes=5-9"] {
                assert_eq!(send(&a, part(range)).await.status(), 206);
            }
            let before = calls.load(Ordering::SeqCst);
            for cache in [&a, &b] {
                let whole = send(cache, get("/t/x")).await;
                assert_eq!((outcome(&whole), whole.status().as_u16()), (Outcome::Hit, 200), "{prefix}");
            }
            assert_eq!(calls.load(Ordering::SeqCst), before, "{prefix}");
            two.invalidate([invalidated]).await.unwrap();
            for cache in [&a, &b] {
                assert_ne!(outcome(&send(cache, get("/t/x")).await), Outcome::Hit, "{prefix}");
            }
        }
    }
}

/// A path that was never requested before leaves little behind, even if the handler makes a namespace of it.
#[tokio::test]
async fn unused_generation_expires_soon() {
    let server = Server::start().await;
    let store = store(&server, "soon", Coherence::Leased, true).await;
    let (inner, _) = counting(|request, _| {
        let mut response = ok("no such row");
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", &request.uri().path()[3..]])));
        response
    });
    let rule = Rule::ttl(24 * 60 * MINUTE).namespace("t:{table}");
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
    let life = async |name: &str| match server.command(&["PTTL", &format!("soon:1:g:{{{name}}}")]).await {
        ::redis::Value::Int(life) => Duration::from_millis(u64::try_from(life).expect("the generation has a time to live")),
        other => panic!("{other:?}"),
    };
    send(&cache, get("/t/7")).await;
    assert!(life("row:7").await <= 60 * MINUTE && life("t:7").await <= 2 * MINUTE);
    // A stored entry keeps its generations for as long as it lives.
    send(&cache, get("/t/7")).await;
    assert_eq!(outcome(&send(&cache, get("/t/7")).await), Outcome::Hit);
    assert!(life("row:7").await >= 23 * 60 * MINUTE && life("t:7").await >= 23 * 60 * MINUTE);
}

#[tokio::test(flavor = "multi_thread")]
async fn response_named_namespaces_are_stored_from_the_second_fill() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let make = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).build();
        let (one, two) = (make().await.unwrap(), make().await.unwrap());
        let (inner, _) = counting(|_, n| {
            let mut response = ok(format!("answer {n}"));
            response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "17"])));
            response
        });
        let a = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner.clone());
        let b = CacheLayer::new(two.clone()).rules(one_rule(rule())).layer(inner);
        assert_eq!(text(send(&a, get("/t/x")).await).await, "answer 1");
        assert_eq!(text(send(&a, get("/t/x")).await).await, "answer 2");
        // The creation number that the first fill wrote is pushed back to its own process, which may cost one more fill.
        until("the response is stored", async || outcome(&send(&a, get("/t/x")).await) == Outcome::Hit).await;
        let kept = text(send(&a, get("/t/x")).await).await;
        let from_b = send(&b, get("/t/x")).await;
        assert_eq!((outcome(&from_b), text(from_b).await), (Outcome::Hit, kept.clone()));
        two.invalidate(["row:17"]).await.unwrap();
        assert_ne!(text(send(&b, get("/t/x")).await).await, kept);
        until("the other process sees the invalidation", async || text(send(&a, get("/t/x")).await).await != kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_invalidated_during_its_fill_is_not_stored() {
    let server = Server::start().await;
    let make = || builder(&server).coherence(Coherence::Validated).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let cache = CacheLayer::new(one).rules(one_rule(rule())).layer(inner);
    let mut answers = ["first", "second", "stale", "fresh"].into_iter();
    for (round, invalidates) in [false, false, true, false].into_iter().enumerate() {
        if round == 2 {
            // The entry of the second round is invalidated, so that there is a third round.
            two.invalidate(["t:x"]).await.unwrap();
        }
        let request = tokio::spawn({
            let cache = cache.clone();
            async move { text(send(&cache, get("/t/x")).await).await }
        });
        let (_, answer) = next_call(&mut handle).await;
        if invalidates {
            two.invalidate(["row:17"]).await.unwrap();
        }
        let mut response = ok(answers.next().unwrap());
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "17"])));
        answer.send_response(response);
        request.await.unwrap();
    }
}

/// For a namespace that only the response names, there is no generation from before the call to compare with.
#[tokio::test(flavor = "multi_thread")]
async fn fill_overtaken_by_a_soft_invalidation_is_not_fresh() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let store =
            builder(&server).prefix(&format!("{coherence:?}")).coherence(coherence).memory(8 << 20).build().await.unwrap();
        let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        for text_of in ["first", "second", "overtaken", "third"] {
            if text_of == "overtaken" {
                store.invalidate(["t:x"]).await.unwrap();
            }
            let request = tokio::spawn({
                let cache = cache.clone();
                async move { text(send(&cache, get("/t/x")).await).await }
            });
            // A response that was computed before the soft invalidation would be served to the third request, without a call.
            let (_, answer) = within(next_call(&mut handle)).await;
            if text_of == "overtaken" {
                store.invalidate_softly(["row:17"]).await.unwrap();
            }
            let mut response = ok(text_of);
            response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "17"])));
            answer.send_response(response);
            assert_eq!(request.await.unwrap(), text_of);
        }
    }
}
