//! The laws of a store in Redis that processes share: a real server, and a store for each process.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{
    redis::{Fault, Forwarder, Options, Server, until},
    *,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, CachePolicy, CacheStatus, Clock, Coherence, Extracted, InvalidateLayer, Invalidation, KeyExtractor, KeyWriter,
    Miss, Namespace, OnDeliveryTimeout, OnFenceError, Outcome, Redis, RedisBuilder, RequestView, Rule, Store,
};

fn builder(server: &Server) -> RedisBuilder {
    Redis::builder(&server.url())
        .command_timeout(Duration::from_secs(2))
        .heartbeat(Duration::from_millis(20))
        .max_round_trip(Duration::from_millis(500))
}

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("t:{table}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_stores_another_serves() {
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

/// A target that was asked for in these words before is not routed again: it is asked with the names that it had.
#[tokio::test]
async fn a_target_that_is_remembered_is_cleared_by_its_own_names_and_by_no_others() {
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
                until("it is stored", async || ask(asked).await == ask(asked).await).await;
                let answer = ask(asked).await;
                let host = http::HeaderValue::from_static(asked.1);
                assert!(answer.starts_with(&format!("{} {:?}", asked.0, Some(host))), "{answer}");
                // Until each is remembered.
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
async fn names_that_depend_on_more_than_the_target_are_never_remembered_by_it() {
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
        until("it is stored for one", async || ask("one").await == ask("one").await).await;
        until("it is stored for the other", async || ask("other").await == ask("other").await).await;
    }
    let before = ask("other").await;
    store.invalidate(["tenant:one"]).await.unwrap();
    assert_eq!(ask("other").await, before);
    store.invalidate(["tenant:other"]).await.unwrap();
    assert_ne!(ask("other").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bump_during_a_fill_wins_whoever_bumps() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let make = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).build();
        let (one, two) = (make().await.unwrap(), make().await.unwrap());
        let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let key = one_rule(rule()).key(&one, &get("/t/x")).expect("a rule covers it");
        let cache = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner);
        let first = tokio::spawn({
            let cache = cache.clone();
            async move { text(send(&cache, get("/t/x")).await).await }
        });
        let (_, answer) = next_call(&mut hand).await;
        two.invalidate(["t:x"]).await.unwrap();
        answer.send_response(ok("old"));
        assert_eq!(first.await.unwrap(), "old");
        // Under a lease it may take the push to hear of it.
        until("it has heard", async || one.get_now(key.as_ref()).is_none_or(|look| look.found.is_none())).await;
        let second = tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await });
        let (_, answer) = next_call(&mut hand).await;
        answer.send_response(ok("new"));
        assert_eq!(second.await.unwrap(), "new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cold_requests_in_each_of_three_processes_are_one_call() {
    let server = Server::start().await;
    let make = || builder(&server).memory(8 << 20).build();
    let calls = Arc::new(AtomicUsize::new(0));
    let mut all = Vec::new();
    for _ in 0..3 {
        let calls = calls.clone();
        let inner = tower::service_fn(move |_: Request<Plain>| {
            let calls = calls.clone();
            async move {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok::<_, std::convert::Infallible>(ok("once"))
            }
        });
        let rule = rule().distributed_lock(Duration::from_secs(20));
        all.push(CacheLayer::new(make().await.unwrap()).rules(one_rule(rule)).layer(inner));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for cache in all {
        for _ in 0..1000 {
            let cache = cache.clone();
            tasks.spawn(async move { text(send(&cache, get("/t/x")).await).await });
        }
    }
    while let Some(body) = tasks.join_next().await {
        assert_eq!(body.unwrap(), "once");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_owner_of_a_cold_key_dies_one_of_the_others_takes_over_and_makes_the_second_call() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(([127, 0, 0, 1], server.port()).into());
    let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let rules = || one_rule(rule().distributed_lock(Duration::from_millis(500)));
    let process = async |url: String| {
        let store = Redis::builder(&url).command_timeout(Duration::from_secs(2)).memory(8 << 20).build().await.unwrap();
        CacheLayer::new(store).rules(rules()).layer(inner.clone())
    };
    let thousand = |cache: &_| {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let cache = Clone::clone(cache);
            tasks.spawn(async move { text(send(&cache, get("/t/x")).await).await });
        }
        tasks
    };
    let (owner, one, two) = (process(forwarder.url()).await, process(server.url()).await, process(server.url()).await);
    let mut owners = thousand(&owner);
    let (_, never_answered) = next_call(&mut hand).await;
    let others = [thousand(&one), thousand(&two)];
    // Killed: it says nothing any more, to nobody.
    forwarder.refuse(true);
    forwarder.cut();
    owners.abort_all();
    let (_, second) = next_call(&mut hand).await;
    second.send_response(ok("taken over"));
    for mut tasks in others {
        while let Some(body) = tasks.join_next().await {
            assert_eq!(body.unwrap(), "taken over");
        }
    }
    drop(never_answered);
    let third = tokio::time::timeout(Duration::from_millis(1), hand.next_request()).await;
    assert!(third.is_err(), "two calls, and no third");
}

/// A validator may be coarser than what has changed, a date above all: what was cleared is not asked about, whatever it says of itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cleared_while_another_process_was_filling_is_not_asked_about() {
    let server = Server::start().await;
    let clock = Clock::manual();
    let process = async || {
        let (inner, hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let store = builder(&server).coherence(Coherence::Validated).clock(clock.clone()).build().await.unwrap();
        let rule = Rule::http().namespace("t:{table}").distributed_lock(Duration::from_secs(60));
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
        (store, cache, hand)
    };
    let (store, one, mut hand) = process().await;
    let (other, two, mut others) = process().await;
    let ask = |cache: &_| {
        let cache = Clone::clone(cache);
        tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await })
    };
    let answer = |body: &'static str| {
        let dated =
            Response::builder().header("cache-control", "max-age=60").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        dated.body(Plain::from(body)).expect("a response")
    };
    let first = ask(&one);
    next_call(&mut hand).await.1.send_response(answer("old"));
    assert_eq!(first.await.unwrap(), "old");
    clock.advance(MINUTE);

    let owner = ask(&one);
    let (asked, call) = next_call(&mut hand).await;
    assert!(asked.headers().contains_key("if-modified-since"), "what is only stale is asked about");
    let trips = other.round_trips();
    let waits = ask(&two);
    until("it waits for the owner", async || other.round_trips() > trips + 3).await;
    store.invalidate(["t:x"]).await.unwrap();
    call.send_response(Response::builder().status(503).body(Plain::default()).expect("a response"));
    owner.await.unwrap();
    let (asked, call) = next_call(&mut others).await;
    assert!(!asked.headers().contains_key("if-modified-since"), "what was cleared is asked about");
    call.send_response(answer("new"));
    assert_eq!(waits.await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_the_lock_is_taken_leaves_no_lock_behind() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(([127, 0, 0, 1], server.port()).into());
    let store = Redis::builder(&forwarder.url())
        .command_timeout(Duration::from_secs(5))
        .coherence(Coherence::Validated)
        .build()
        .await
        .unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let rules = one_rule(rule().distributed_lock(Duration::from_secs(200)));
    let cache = CacheLayer::new(store).rules(rules).layer(inner);
    // All generations are there, so that what is sent next is the lock alone.
    send(&cache, get("/t/x?n=0")).await;
    forwarder.answers(Fault::Delay(Duration::from_millis(20)));
    let request = tokio::spawn(async move { send(&cache, get("/t/x?n=1")).await.status() });
    until("the lock is taken", async || !server.keys("*:l:*").await.is_empty()).await;
    request.abort();
    until("it is given back", async || server.keys("*:l:*").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_is_no_error_and_hits_come_back_by_themselves() {
    let server = Server::start().await;
    let store = builder(&server).command_timeout(Duration::from_millis(50)).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
    server.pause();
    until("the lease ends", async || !store.is_leased()).await;
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 2");
    for n in 0..20 {
        assert_eq!(send(&cache, get(&format!("/t/{n}"))).await.status(), StatusCode::OK);
    }
    assert!(!store.is_reachable());
    server.resume();
    until("redis is asked again", async || store.is_reachable()).await;
    until("hits are back", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
}

// ---- Writes ------------------------------------------------------------------------------------------------------------

/// What a write is told of its clearing.
fn cleared<B>(response: &Response<B>) -> Option<Invalidation> {
    response.extensions().get().copied()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_cannot_be_delivered_is_held_then_acknowledged_or_rejected_and_delivered_later() {
    let server = Server::start().await;
    let store = builder(&server).memory(8 << 20).command_timeout(Duration::from_millis(100)).build().await.unwrap();
    let other = builder(&server).coherence(Coherence::Validated).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let others = CacheLayer::new(other).rules(one_rule(rule())).layer(inner.clone());
    let held = |then| {
        InvalidateLayer::new(store.clone())
            .rules(one_rule(rule()))
            .delivery_timeout(Duration::from_millis(50), then)
            .cache_status("test")
    };
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");

    let delivered = send(&held(OnDeliveryTimeout::Reject).layer(inner.clone()), post("/t/x")).await;
    assert_eq!((delivered.status(), cleared(&delivered)), (StatusCode::OK, Some(Invalidation::Delivered)));
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 3");
    assert_eq!(text(send(&others, get("/t/x")).await).await, "answer 3");

    server.pause();
    let acknowledged = send(&held(OnDeliveryTimeout::Respond).layer(inner.clone()), post("/t/x")).await;
    assert_eq!((acknowledged.status(), cleared(&acknowledged)), (StatusCode::OK, Some(Invalidation::Undelivered)));
    assert_eq!(acknowledged.headers()["cache-status"], "test; detail=undelivered");
    let rejected = send(&held(OnDeliveryTimeout::Reject).layer(inner.clone()), post("/t/x")).await;
    assert_eq!((rejected.status(), cleared(&rejected)), (StatusCode::SERVICE_UNAVAILABLE, Some(Invalidation::Undelivered)));
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    assert_eq!((store.stats().undelivered, store.waiting() > 0), (2, true));
    // In this process nothing from before is served, from memory or otherwise.
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 6");
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 7");

    server.resume();
    until("it is delivered", async || store.waiting() == 0).await;
    assert_eq!(text(send(&others, get("/t/x")).await).await, "answer 8");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cleared_again_while_its_clearing_waits_does_not_wait_once_more() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(([127, 0, 0, 1], server.port()).into());
    let store = Redis::builder(&forwarder.url()).build().await.unwrap();
    forwarder.refuse(true);
    forwarder.cut();
    until("it is known", async || !store.is_reachable()).await;
    let names = [["t:x", "row:1"], ["t:x", "row:2"]];
    for n in 0..2_000 {
        assert!(store.invalidate(names[n % 2]).await.unwrap_err().is_queued());
    }
    assert_eq!(store.waiting(), 3, "each name waits once");
    forwarder.refuse(false);
    until("all are delivered", async || store.waiting() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_more_names_wait_than_are_kept_everything_waits_in_their_place_and_is_cleared() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(([127, 0, 0, 1], server.port()).into());
    let store = Redis::builder(&forwarder.url()).memory(8 << 20).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    let ask = async || text(send(&cache, get("/t/x")).await).await;
    let before = ask().await;
    forwarder.refuse(true);
    forwarder.cut();
    until("it is known", async || !store.is_reachable()).await;
    for n in 0..100_000 {
        let name = format!("row:{n}");
        drop(polled(&mut Box::pin(store.invalidate([name.as_str()]))));
    }
    until("fewer wait", async || store.waiting() <= 64 << 10).await;
    assert_ne!(ask().await, before);
    forwarder.refuse(false);
    until("nothing waits", async || store.waiting() == 0).await;
    assert_ne!(ask().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_fence_stands_nobody_is_served_and_nothing_is_stored() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let strict = || builder(&server).prefix(&prefix).coherence(coherence).memory(8 << 20).strict(Duration::from_secs(30));
        let (writer, reader) = (strict().build().await.unwrap(), strict().build().await.unwrap());
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let reads = CacheLayer::new(reader.clone()).rules(one_rule(rule())).layer(inner);
        let (handler, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let writes = InvalidateLayer::new(writer.clone()).rules(one_rule(rule())).layer(handler);

        assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");
        assert_eq!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        let (first, second) = (writes.clone(), writes.clone());
        let first = tokio::spawn(async move { send(&first, post("/t/x")).await });
        let (_, one) = next_call(&mut hand).await;
        let second = tokio::spawn(async move { send(&second, post("/t/x")).await });
        let (_, two) = next_call(&mut hand).await;
        if coherence == Coherence::Leased {
            until("the push arrives", async || outcome(&send(&reads, get("/t/x")).await) != Outcome::Hit).await;
        }
        for _ in 0..3 {
            assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        }
        one.send_response(ok("done"));
        assert_eq!(cleared(&first.await.unwrap()), Some(Invalidation::Delivered));
        // The fence of the second stands although the first has ended.
        assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
        two.send_response(ok("done"));
        assert_eq!(cleared(&second.await.unwrap()), Some(Invalidation::Delivered));
        until("hits are back", async || outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit).await;
        assert_eq!(server.keys("*:f:*").await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_nobody_knows_leaves_the_fence_to_its_deadline() {
    let server = Server::start().await;
    let store = builder(&server).strict(Duration::from_secs(2)).build().await.unwrap();
    let (inner, _) = counting(|request, n| {
        let mut response = ok(format!("answer {n}"));
        if request.method() == "POST" {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    });
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let writes = InvalidateLayer::new(store).rules(one_rule(rule())).layer(inner);
    assert_eq!(outcome(&send(&reads, get("/t/x")).await), Outcome::Miss(Miss::Absent));
    send(&writes, post("/t/x")).await;
    assert_eq!(server.keys("*:f:*").await.len(), 1);
    assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
    assert_ne!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
    until("the fence ends", async || server.keys("*:f:*").await.is_empty()).await;
    until("hits are back", async || outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_takes_bumps_and_fences_and_no_request_fails() {
    let server = Server::start().await;
    let strict = builder(&server).strict(Duration::from_secs(30)).build().await.unwrap();
    let store = builder(&server).coherence(Coherence::Validated).strict(Duration::from_secs(30)).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 1");
    store.invalidate(["t:x"]).await.unwrap();
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 2");
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 3");

    let writes = InvalidateLayer::new(strict).rules(one_rule(rule())).layer(inner);
    let written = send(&writes, post("/t/x")).await;
    assert_eq!((written.status(), cleared(&written)), (StatusCode::OK, Some(Invalidation::Delivered)));

    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    until("hits are back", async || outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_its_fence_is_rejected_before_the_handler_unless_it_is_to_proceed() {
    let server = Server::start().await;
    let budget = Duration::from_millis(50);
    let strict = builder(&server).strict(Duration::from_secs(2)).command_timeout(budget).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let writes =
        InvalidateLayer::new(strict.clone()).rules(one_rule(rule())).delivery_timeout(budget, OnDeliveryTimeout::Respond);
    server.pause();
    let rejected = send(&writes.clone().layer(inner.clone()), post("/t/x")).await;
    assert_eq!((rejected.status(), cleared(&rejected)), (StatusCode::SERVICE_UNAVAILABLE, Some(Invalidation::NotFenced)));
    assert_eq!((calls.load(Ordering::SeqCst), strict.stats().not_fenced), (0, 1));
    let proceeds = send(&writes.on_fence_error(OnFenceError::Proceed).layer(inner), post("/t/x")).await;
    assert_eq!((proceeds.status(), cleared(&proceeds)), (StatusCode::OK, Some(Invalidation::Undelivered)));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    server.resume();
    until("all is delivered", async || strict.waiting() == 0).await;
    // What was sent in vain may be done after it was taken back: then it stands to its deadline.
    until("no fence is left", async || server.keys("*:f:*").await.is_empty()).await;
}

/// While nobody asks Redis, a write that is rejected leaves nothing behind: there is nothing to be taken back.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_are_rejected_while_redis_is_away_leave_nothing_to_be_delivered() {
    let server = Server::start().await;
    let budget = Duration::from_millis(50);
    let strict = builder(&server).strict(Duration::from_secs(1)).command_timeout(budget).build().await.unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let writes = InvalidateLayer::new(strict.clone()).rules(one_rule(rule())).layer(inner);
    server.pause();
    until("it is known to be away", async || {
        send(&writes, post("/t/before")).await;
        !strict.is_reachable()
    })
    .await;
    let waiting = strict.waiting();
    for n in 0..100 {
        let rejected = send(&writes, post(&format!("/t/{n}"))).await;
        assert_eq!(cleared(&rejected), Some(Invalidation::NotFenced));
    }
    assert_eq!((strict.waiting(), calls.load(Ordering::SeqCst)), (waiting, 0));
    server.resume();
    until("all is delivered", async || strict.waiting() == 0).await;
    until("no fence is left", async || server.keys("*:f:*").await.is_empty()).await;
}

/// Names may be chosen by whoever chooses a path. These two have one hash by xxh3 with 64 bits, found in a minute.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_were_chosen_to_be_taken_for_each_other_are_not() {
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
        for clears in [&[OTHER][..], &[ONE], &[ONE, OTHER], &[OTHER, ONE]] {
            let before = [ask(ONE).await, ask(OTHER).await];
            assert_eq!([ask(ONE).await, ask(OTHER).await], before, "both are stored");
            writer.invalidate(clears.iter().map(|name| Namespace::of(["t", name]))).await.unwrap();
            until("what was cleared is not served", async || {
                let after = [ask(ONE).await, ask(OTHER).await];
                [ONE, OTHER]
                    .iter()
                    .zip(after.iter().zip(&before))
                    .all(|(name, (after, before))| !clears.contains(name) || after != before)
            })
            .await;
        }
    }
}

// ---- What a server loses -----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_is_missing_is_a_miss_and_never_brings_an_old_entry_back() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let store = builder(&server).prefix(&prefix).coherence(coherence).build().await.unwrap();
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let reads = CacheLayer::new(store).rules(one_rule(rule())).layer(inner);
        for (n, name) in ["*", "t", "t:x"].into_iter().enumerate() {
            assert_eq!(text(send(&reads, get("/t/x")).await).await, format!("answer {}", n + 1));
            let gone = server.command(&["DEL", &format!("{prefix}:1:g:{{{name}}}")]).await;
            assert_eq!(gone, ::redis::Value::Int(1), "{name}");
            until("it is another answer", async || text(send(&reads, get("/t/x")).await).await == format!("answer {}", n + 2))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_everything_was_lost_no_generation_from_before_is_believed_under_a_lease() {
    let server = Server::start().await;
    let make = || builder(&server).memory(8 << 20).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner);
    until("the lease is held", async || one.is_leased()).await;
    send(&cache, get("/t/x")).await;
    send(&cache, get("/t/y")).await;
    server.command(&["FLUSHALL"]).await;
    // The generation of the root is learned anew with this one, that of the other table is not.
    until("the push arrives", async || outcome(&send(&cache, get("/t/y")).await) == Outcome::Miss(Miss::Absent)).await;
    let old = text(send(&cache, get("/t/x")).await).await;
    two.invalidate(["t:x"]).await.unwrap();
    until("the push arrives", async || text(send(&cache, get("/t/x")).await).await != old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_foreign_is_a_miss_counted_and_removed() {
    let server = Server::start().await;
    let store = builder(&server).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let reads = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    send(&reads, get("/t/x")).await;
    send(&reads, get("/t/y")).await;
    let entries = server.keys("*:e:*").await;
    assert_eq!(entries.len(), 2);
    let (x, y): (Vec<_>, Vec<_>) = entries.iter().partition(|key| key.contains("t:x"));
    // Another's entry, byte for byte, and one cut short.
    server.command(&["COPY", y[0], x[0], "REPLACE"]).await;
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 3");
    server.command(&["SETRANGE", y[0], "30", "damage"]).await;
    assert_eq!(text(send(&reads, get("/t/y")).await).await, "answer 4");
    server.command(&["SET", x[0], ""]).await;
    assert_eq!(text(send(&reads, get("/t/x")).await).await, "answer 5");
    assert_eq!(store.stats().damaged, 3);
    assert_eq!(outcome(&send(&reads, get("/t/x")).await), Outcome::Hit);
}

// ---- Names known only from the response --------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn names_that_came_with_the_response_are_vouched_for_from_the_second_fill_on() {
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
        // The number that the first fill has written is pushed back to where it came from, and may cost one more.
        until("it is stored", async || outcome(&send(&a, get("/t/x")).await) == Outcome::Hit).await;
        let kept = text(send(&a, get("/t/x")).await).await;
        let from_b = send(&b, get("/t/x")).await;
        assert_eq!((outcome(&from_b), text(from_b).await), (Outcome::Hit, kept.clone()));
        two.invalidate(["row:17"]).await.unwrap();
        assert_ne!(text(send(&b, get("/t/x")).await).await, kept);
        until("the other sees it", async || text(send(&a, get("/t/x")).await).await != kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_cleared_while_its_response_was_computed_is_not_vouched_for() {
    let server = Server::start().await;
    let make = || builder(&server).coherence(Coherence::Validated).build();
    let (one, two) = (make().await.unwrap(), make().await.unwrap());
    let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let cache = CacheLayer::new(one).rules(one_rule(rule())).layer(inner);
    let mut answers = ["first", "second", "stale", "fresh"].into_iter();
    for (round, clears) in [false, false, true, false].into_iter().enumerate() {
        if round == 2 {
            // What the second round has stored is cleared, so that there is a third.
            two.invalidate(["t:x"]).await.unwrap();
        }
        let request = tokio::spawn({
            let cache = cache.clone();
            async move { text(send(&cache, get("/t/x")).await).await }
        });
        let (_, answer) = next_call(&mut hand).await;
        if clears {
            two.invalidate(["row:17"]).await.unwrap();
        }
        let mut response = ok(answers.next().unwrap());
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "17"])));
        answer.send_response(response);
        request.await.unwrap();
    }
}

/// A namespace that only the response names has no generation from before the call to compare with.
#[tokio::test(flavor = "multi_thread")]
async fn fill_overtaken_by_soft_invalidation_of_its_rows_is_not_fresh() {
    let server = Server::start().await;
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let store =
            builder(&server).prefix(&format!("{coherence:?}")).coherence(coherence).memory(8 << 20).build().await.unwrap();
        let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        for text_of in ["first", "second", "overtaken", "third"] {
            if text_of == "overtaken" {
                store.invalidate(["t:x"]).await.unwrap();
            }
            let request = tokio::spawn({
                let cache = cache.clone();
                async move { text(send(&cache, get("/t/x")).await).await }
            });
            // A response that was computed before the soft invalidation would answer the third request, without a call.
            let (_, answer) = within(next_call(&mut hand)).await;
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

// ---- Redis away --------------------------------------------------------------------------------------------------------

/// What the handler has named, the request does not know.
#[tokio::test(flavor = "multi_thread")]
async fn until_a_clearing_has_arrived_its_process_serves_nothing_of_it_that_only_the_response_has_named() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(([127, 0, 0, 1], server.port()).into());
    for coherence in [Coherence::Validated, Coherence::Leased] {
        let make = Redis::builder(&forwarder.url()).prefix(&format!("{coherence:?}")).coherence(coherence).memory(8 << 20);
        let store = make.command_timeout(Duration::from_secs(2)).build().await.unwrap();
        let (inner, _) = counting(|_, n| {
            let mut response = ok(format!("answer {n}"));
            response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", "1"])));
            response
        });
        let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
        until("hits are there", async || outcome(&send(&cache, get("/t/x")).await) == Outcome::Hit).await;
        let before = text(send(&cache, get("/t/x")).await).await;
        forwarder.is_deaf_to(Some(b"UNLINK"));
        let clearing = tokio::spawn({
            let store = store.clone();
            async move { store.invalidate(["row:1"]).await }
        });
        until("it is on its way", async || store.waiting() > 0).await;
        assert_ne!(text(send(&cache, get("/t/x")).await).await, before, "{coherence:?}");
        forwarder.is_deaf_to(None);
        // In time, or told that it waits.
        let _ = clearing.await.unwrap();
        until("it has arrived", async || store.waiting() == 0).await;
        assert_ne!(text(send(&cache, get("/t/x")).await).await, before, "{coherence:?}");
    }
}

/// On one thread: whoever is counted as having looked in vain has joined before anybody else runs.
#[tokio::test]
async fn without_redis_one_call_runs_and_one_forms_and_there_is_no_third() {
    let server = Server::start().await;
    let store = builder(&server).command_timeout(Duration::from_millis(20)).build().await.unwrap();
    let (inner, mut hand) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    server.pause();
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { text(send(&cache, get("/t/x")).await).await })
    };
    let first = ask();
    let (_, one) = next_call(&mut hand).await;
    until("redis is known to be away", async || !store.is_reachable()).await;
    let later: Vec<_> = (0..100).map(|_| ask()).collect();
    until("they wait", async || store.stats().away > 100).await;
    one.send_response(ok("before they came"));
    assert_eq!(first.await.unwrap(), "before they came");
    let (_, two) = next_call(&mut hand).await;
    two.send_response(ok("after they came"));
    for request in later {
        assert_eq!(request.await.unwrap(), "after they came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_made_without_redis_unless_it_must_be_there() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("redis://127.0.0.1:{port}");
    let error = Redis::builder(&url).require_connection().build().await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    let store = Redis::connect(&url).await.unwrap();
    assert!(!store.is_reachable());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(rule())).layer(inner);
    assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
    for (wrong, why) in [
        (Redis::builder("http://127.0.0.1").build().await, "URL"),
        (Redis::builder(&url).prefix("a b").build().await, "letters, digits"),
        (Redis::builder(&url).heartbeat(Duration::ZERO).build().await, "heartbeat is 0ns; it is from 5ms to 10s"),
        (Redis::builder(&url).connections(0).build().await, "connections is 0"),
        (RedisBuilder::cluster(Vec::<String>::new()).build().await, "at least one node"),
        (RedisBuilder::sentinel([""; 0], "service", Default::default()).build().await, "at least one"),
        (
            RedisBuilder::sentinel([&url], "service", Default::default()).root_certificate("PEM").build().await,
            "root_certificate counts for",
        ),
    ] {
        let error = wrong.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_at_once() {
    let server = Options::default().password("right").start().await;
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port());
    let error = Redis::connect(&url("wrong")).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("password") || error.contains("WRONGPASS"), "{error}");
    assert!(Redis::connect(&url("right")).await.unwrap().is_reachable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_file_system_and_another_database_are_the_same_store_to_all_who_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let server = Options::default().line(format!("unixsocket {}", socket.display())).start().await;
    let by_socket = format!("unix://{}?db=2", socket.display());
    let by_port = format!("redis://127.0.0.1:{}/2", server.port());
    for coherence in [Coherence::Leased, Coherence::Validated] {
        let prefix = format!("{coherence:?}");
        let make = async |url: &str| {
            let builder = Redis::builder(url).prefix(&prefix).coherence(coherence).command_timeout(Duration::from_secs(2));
            builder.require_connection().build().await.unwrap()
        };
        let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
        let one = CacheLayer::new(make(&by_socket).await).rules(one_rule(rule())).layer(inner.clone());
        let other = CacheLayer::new(make(&by_port).await).rules(one_rule(rule())).layer(inner);
        assert_eq!(outcome(&send(&one, get("/t/x")).await), Outcome::Miss(Miss::Absent));
        for cache in [&other, &one] {
            let response = send(cache, get("/t/x")).await;
            assert_eq!(outcome(&response), Outcome::Hit, "{coherence:?}");
            assert_eq!(text(response).await, "answer 1");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
    assert!(server.keys("*").await.is_empty(), "nothing is in the first database");
}

// ---- Housekeeping ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn reclaim_removes_what_is_dead_and_nothing_else() {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_cleared_for_all_processes() {
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

/// Keys stand in sets, and a set has one generation: of one that is gone already nothing is pushed.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_cleared_a_key_learns_that_another_clears_one_of_the_same_set() {
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
    let (kept, cleared) = (0..).find_map(twins).unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(one.clone()).rules(rules.clone()).layer(inner);
    let ask = async || text(send(&cache, get(&format!("/t/{kept}"))).await).await;
    until("it is leased", async || one.is_leased()).await;
    let before = ask().await;
    assert_eq!(ask().await, before);
    one.invalidate_key(&key(cleared)).await.unwrap();
    two.invalidate_key(&key(kept)).await.unwrap();
    until("it is not served any more", async || ask().await != before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cleared_softly_is_stale_for_all_processes() {
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
    until("it is refreshed", async || outcome(&send(&a, get("/t/x")).await) == Outcome::Hit).await;
    assert_ne!(text(send(&a, get("/t/x")).await).await, "answer 1");
}

// ---- Round trips -------------------------------------------------------------------------------------------------------

/// What one request costs: round trips of the store, and commands by name as the server has seen them.
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
async fn round_trips_are_as_the_protocol_states_them() {
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

    // With a lock: the entry is read behind it, and the script that gives it back runs two commands.
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
        until("it is in memory", async || cost!(store, log, cache, "/t/x") == cost(true, trips, sent)).await;
        let (before, _) = (server.info("stats").await, log.take().await);
        assert_eq!(cost!(store, log, cache, "/t/x"), cost(true, trips, sent));
        drop(before);
    }

    // A bump is one UNLINK.
    log.take().await;
    store.invalidate(["t:x"]).await.unwrap();
    let mut sent = log.take().await;
    sent.remove("pexpireat"); // Heartbeats.
    assert_eq!(sent.into_iter().collect::<Vec<_>>(), [("unlink".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_miss_in_memory_under_a_lease_read_redis_once() {
    let server = Server::start().await;
    let make = || builder(&server).memory(8 << 20).build();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let a = CacheLayer::new(make().await.unwrap()).rules(one_rule(rule())).layer(inner.clone());
    send(&a, get("/t/x")).await;
    // Only now: else it would still be told of the generations that this fill has made, and who had begun to wait by then reads again.
    let two = make().await.unwrap();
    let b = CacheLayer::new(two.clone()).rules(one_rule(rule())).layer(inner);
    until("it is leased", async || two.is_leased()).await;
    let before = two.round_trips();
    // All are there before the first is answered: one thread, and none waits for another to begin.
    let all = futures_util::future::join_all((0..1000).map(|_| send(&b, get("/t/x")))).await;
    assert!(all.iter().all(|response| outcome(response) == Outcome::Hit));
    assert_eq!((two.round_trips() - before, calls.load(Ordering::SeqCst)), (1, 1));
}

// ---- By what it is reached, and how it is kept -------------------------------------------------------------------------

/// Keys that are not the same and have the same hash, which does not withstand those who look for such.
struct Twins;

impl KeyExtractor for Twins {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        let n: u32 = request.param("table").parse().unwrap();
        let mut part = [0; 490];
        // Where four bytes are those of the hash's own constant, it multiplies by nothing, and only adds what follows.
        for (at, constant, number) in [(42, 0x2c81_017c_u32, 1 + n), (106, 0xe96d_d4de, 9 - n)] {
            part[at..at + 4].copy_from_slice(&constant.to_le_bytes());
            part[at + 4..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        key.part(part);
        Extracted::Key
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_read_gets_what_is_of_his_own_key_and_not_of_one_with_the_same_hash() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(([127, 0, 0, 1], server.port()).into());
    let rules = one_rule(Rule::ttl(MINUTE).namespace("t").key(Twins));
    let (inner, _) = counting(|request, _| ok(request.uri().to_string()));
    let two = CacheLayer::new(builder(&server).build().await.unwrap()).rules(rules.clone()).layer(inner.clone());
    let one = Redis::builder(&forwarder.url()).command_timeout(Duration::from_secs(2)).max_round_trip(Duration::from_secs(5));
    let one = one.memory(8 << 20).build().await.unwrap();
    let keys = ["/t/0", "/t/1"].map(|target| rules.key(&one, &get(target)).unwrap());
    assert!(keys[0] != keys[1] && keys[0].hash() == keys[1].hash());
    send(&two, get("/t/0")).await;
    let cache = CacheLayer::new(one.clone()).rules(rules).layer(inner);
    until("it is leased", async || one.is_leased()).await;
    forwarder.answers(Fault::Delay(Duration::from_millis(100)));
    let (first, second) = tokio::join!(send(&cache, get("/t/0")), send(&cache, get("/t/1")));
    assert_eq!((text(first).await.as_str(), text(second).await.as_str()), ("/t/0", "/t/1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_pool_of_ones_own_share_entries_with_a_url() {
    use bb8_redis::bb8::Pool;
    use tower_response_cache::RedisManager;

    let server = Server::start().await;
    let manager = RedisManager::new(&server.url()).unwrap();
    let pool = Pool::builder().max_size(3).test_on_check_out(false).build(manager.clone()).await.unwrap();
    let client = ::redis::Client::open(server.url()).unwrap();
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let budget = Duration::from_secs(2);
    for store in [
        Redis::builder(&server.url()).command_timeout(budget).build().await.unwrap(),
        RedisBuilder::client(client).command_timeout(budget).build().await.unwrap(),
        RedisBuilder::pool(manager, pool).command_timeout(budget).build().await.unwrap(),
    ] {
        let cache = CacheLayer::new(store).rules(one_rule(rule())).layer(inner.clone());
        assert_eq!(text(send(&cache, get("/t/x")).await).await, "answer 1");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[cfg(all(feature = "redis-compression", feature = "redis-encryption"))]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_cannot_be_read_in_redis_and_keys_are_rotated_without_a_miss() {
    use tower_response_cache::KeyRing;

    let server = Server::start().await;
    let (inner, calls) = counting(|_, _| {
        let mut response = ok("a body that nobody is to read ".repeat(400));
        response.headers_mut().insert("x-secret", "of-a-field".parse().unwrap());
        response
    });
    let store = async |keys: &[[u8; 32]]| {
        let ring = KeyRing::new(keys.iter().copied()).unwrap();
        builder(&server).encryption(ring).compression(4096, 1).build().await.unwrap()
    };
    let cache = |store: &Redis| CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner.clone());
    let (old, both, new) = (store(&[[1; 32]]).await, store(&[[2; 32], [1; 32]]).await, store(&[[2; 32]]).await);
    send(&cache(&old), get("/t/x?filter=private")).await;
    let keys = server.keys("*:e:*").await;
    let raw: Vec<u8> = ::redis::from_redis_value(server.command(&["GET", &keys[0]]).await).unwrap();
    assert!(raw.len() < 2_000, "compressed");
    for text in ["nobody is to read", "x-secret", "of-a-field", "private", "filter"] {
        assert!(!raw.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
        assert!(!keys[0].contains(text), "{text}");
    }
    // The next release knows both keys; the one after that only the new one.
    let hit = send(&cache(&both), get("/t/x?filter=private")).await;
    assert_eq!((outcome(&hit), hit.headers()["x-secret"].to_str().unwrap()), (Outcome::Hit, "of-a-field"));
    send(&cache(&both), get("/t/y")).await;
    assert_eq!(outcome(&send(&cache(&new), get("/t/y")).await), Outcome::Hit);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    // Whoever has no key for it leaves it where it is.
    assert_ne!(outcome(&send(&cache(&new), get("/t/x?filter=private")).await), Outcome::Hit);
    assert_eq!(new.stats().damaged, 1);
}

// ---- What is counted ---------------------------------------------------------------------------------------------------

/// How many requests were answered in each way: fresh, stale, together with another, by the inner service, and without a look.
fn ways(store: &Redis) -> [u64; 5] {
    let stats = store.stats();
    [stats.hits, stats.stale_hits, stats.collapsed, stats.misses(), stats.bypasses.iter().map(|(_, n)| n).sum()]
}

#[tokio::test]
async fn each_request_is_counted_once_and_as_its_extension_tells() {
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
            let before = ways(&store);
            let (head, body) = send(&cache, request).await.into_parts();
            body.collect().await.unwrap();
            until("nothing goes on behind its back", async || store.stats().flights == 0).await;
            let after = ways(&store);
            let told = head.extensions.get::<CacheStatus>().unwrap().outcome();
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

/// Runs over an older server alone: tests/servers/run starts it so.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Redis older than 7.0: tests/servers/run"]
async fn redis_older_than_7_is_refused() {
    let server = Server::start().await;
    let version = server.info("server").await;
    assert!(version.contains("redis_version:6."), "{version}");
    let error = builder(&server).build().await.expect_err("Redis 6 is refused").to_string();
    assert!(error.contains("7.0 or newer, or Valkey, is needed"), "{error}");
}

/// RFC 5861, section 4: without a window there is nothing that may stand in. A store of one process knows this from its own epochs; over Redis the
/// generations say it, and only to the look that has found the entry.
#[tokio::test]
async fn softly_invalidated_response_stands_in_for_nothing_over_redis() {
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
