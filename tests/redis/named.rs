//! Entries in Redis whose namespaces come with the response: where they stand, and how they are replaced.

use std::{sync::atomic::Ordering, time::Duration};

use crate::common::{redis::Server, *};
use tower::Layer;
use tower_response_cache::{CacheLayer, CachePolicy, Coherence, Namespace, Outcome, Redis, Rule, Rules, Store};

const COHERENCE: [Coherence; 3] = [Coherence::Leased, Coherence::Validated, Coherence::Ttl(MINUTE)];

async fn store(server: &Server, prefix: &str, coherence: Coherence, memory: bool) -> Redis {
    let builder = Redis::builder(&server.url()).prefix(prefix).coherence(coherence).command_timeout(Duration::from_secs(5));
    let builder = builder.heartbeat(Duration::from_millis(50)).max_round_trip(Duration::from_secs(2));
    if memory { builder.memory(8 << 20).build().await } else { builder.build().await }.expect("a server is there")
}

/// The first fill names a namespace that is new, the next one is stored, and the one after that is a hit; also in another process.
#[tokio::test(flavor = "multi_thread")]
async fn entry_is_found_whatever_namespaces_its_response_adds() {
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

/// RFC 9111, section 4.3.5, by the script that compares and replaces.
#[tokio::test(flavor = "multi_thread")]
async fn head_freshens_the_response_that_redis_has() {
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
            assert_eq!(calls.load(Ordering::SeqCst), 2, "the HEAD was asked");
            for cache in [&a, &b] {
                let hit = send(cache, get("/t/x")).await;
                assert_eq!(outcome(&hit), Outcome::Hit, "{coherence:?} {memory}");
                assert_eq!(hit.headers()["x-version"], "2", "{coherence:?} {memory}");
                assert_eq!(text(hit).await, "v1");
            }
            // What was freshened is invalidated like what was stored.
            two.invalidate(["t:x"]).await.unwrap();
            assert_eq!(text(send(&b, get("/t/x")).await).await, "v3");
        }
    }
}

/// The answer to a HEAD that comes after a newer response was stored changes nothing of that, and brings nothing back.
#[tokio::test(flavor = "multi_thread")]
async fn late_head_neither_overwrites_nor_revives_in_redis() {
    let server = Server::start().await;
    for (n, coherence) in COHERENCE.into_iter().enumerate() {
        for memory in [false, true] {
            for refill in [false, true] {
                let prefix = format!("l{n}{memory}{refill}");
                let (inner, mut hand) = tower_test::mock::pair();
                let one = store(&server, &prefix, coherence, memory).await;
                let two = store(&server, &prefix, coherence, memory).await;
                let rules = || Rules::new().route("/t/{table}", Rule::http().namespace("t:{table}"));
                let a = CacheLayer::new(one.clone()).rules(rules()).layer(inner.clone());
                let b = CacheLayer::new(two.clone()).rules(rules()).layer(inner);
                let first = tokio::spawn({
                    let a = a.clone();
                    async move { send(&a, get("/t/x")).await }
                });
                next_call(&mut hand).await.1.send_response(tagged("\"1\"", 1, true));
                first.await.unwrap();
                let late = tokio::spawn({
                    let a = a.clone();
                    async move { send(&a, head("/t/x")).await }
                });
                let held = next_call(&mut hand).await.1;
                two.invalidate(["t:x"]).await.unwrap();
                if refill {
                    let second = tokio::spawn({
                        let b = b.clone();
                        async move { send(&b, get("/t/x")).await }
                    });
                    next_call(&mut hand).await.1.send_response(tagged("\"1\"", 2, true));
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
                    next_call(&mut hand).await.1.send_response(tagged("\"1\"", 3, true));
                    assert_eq!(text(asked.await.unwrap()).await, "v3", "{prefix}");
                }
            }
        }
    }
}

/// A response whose rows are written all the time is never vouched for. Those who wait for it do not wait one behind another: each would
/// wait for as many calls as there are requests before it.
#[tokio::test]
async fn followers_of_unvouched_fills_do_not_queue() {
    const REQUESTS: usize = 12;
    let server = Server::start().await;
    let store = store(&server, "queue", Coherence::Validated, false).await;
    let (inner, mut hand) = tower_test::mock::pair::<http::Request<Plain>, http::Response<Plain>>();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await })
        })
        .collect();
    let mut rounds = 0;
    while !requests.iter().all(tokio::task::JoinHandle::is_finished) {
        let mut calls = vec![tokio::time::timeout(20 * SECOND, hand.next_request()).await.expect("a call").unwrap().1];
        // All that come by themselves.
        while let Ok(Some((_, call))) = tokio::time::timeout(SECOND / 4, hand.next_request()).await {
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
    assert!(rounds <= 5, "{rounds} calls, one after the other, for {REQUESTS} requests at a time");
}

/// Readers and writers of two processes at once, where only responses name what the writers invalidate.
#[tokio::test(flavor = "multi_thread")]
async fn validated_hit_is_never_older_than_an_acknowledged_write_of_its_rows() {
    use std::sync::{Arc, atomic::AtomicUsize};
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
        assert!(hits.load(Ordering::SeqCst) > 0, "nothing was stored");
    }
}

fn random_below(most: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) % most
}

/// RFC 9111, section 3.4: the whole that was put together of two parts is found, and goes with the rows of either.
#[tokio::test(flavor = "multi_thread")]
async fn whole_of_parts_in_redis_is_invalidated_by_the_rows_of_each() {
    let server = Server::start().await;
    for memory in [false, true] {
        for cleared in ["row:0", "row:5"] {
            let prefix = format!("parts{memory}{cleared}");
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
            // The first of each makes its row known.
            for range in ["bytes=0-4", "bytes=5-9", "bytes=0-4", "bytes=5-9"] {
                assert_eq!(send(&a, part(range)).await.status(), 206);
            }
            let before = calls.load(Ordering::SeqCst);
            for cache in [&a, &b] {
                let whole = send(cache, get("/t/x")).await;
                assert_eq!((outcome(&whole), whole.status().as_u16()), (Outcome::Hit, 200), "{prefix}");
            }
            assert_eq!(calls.load(Ordering::SeqCst), before, "{prefix}");
            two.invalidate([cleared]).await.unwrap();
            for cache in [&a, &b] {
                assert_ne!(outcome(&send(cache, get("/t/x")).await), Outcome::Hit, "{prefix}");
            }
        }
    }
}

/// A path that nobody has asked for before leaves little behind, also where the handler makes a namespace of it.
#[tokio::test]
async fn name_under_which_nothing_is_stored_leaves_redis_soon() {
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
        ::redis::Value::Int(life) => Duration::from_millis(u64::try_from(life).expect("it lives, and not for ever")),
        other => panic!("{other:?}"),
    };
    send(&cache, get("/t/7")).await;
    assert!(life("row:7").await <= 60 * MINUTE && life("t:7").await <= 2 * MINUTE);
    // What is stored has its generations for as long as it lives.
    send(&cache, get("/t/7")).await;
    assert_eq!(outcome(&send(&cache, get("/t/7")).await), Outcome::Hit);
    assert!(life("row:7").await >= 23 * 60 * MINUTE && life("t:7").await >= 23 * 60 * MINUTE);
}
