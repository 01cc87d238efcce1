//! One fill per key and living stamp: who waits, who goes alone, and that nobody waits for ever.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use crate::common::*;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use tokio::{
    runtime::Builder,
    sync::{Barrier, Notify, Semaphore},
    time::{Instant, timeout},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_response_cache::{
    BoxError, CacheLayer, CachePolicy, CacheStatus, Clock, Memory, Miss, NoStore, Outcome, Rule, Stale, Store, Storing,
};
use tower_test::mock;

const CROWD: usize = 1000;

fn memory() -> Memory {
    Memory::new(16 << 20)
}

fn layer(store: &Memory, rule: Rule) -> CacheLayer {
    CacheLayer::new(store.clone()).rules(one_rule(rule.namespace("table:{table}")))
}

/// A store with a clock that the test moves.
fn by_hand() -> (Memory, Clock) {
    let clock = Clock::manual();
    (Memory::builder().capacity(16 << 20).clock(clock.clone()).build(), clock)
}

fn of_user(target: &str, user: usize) -> Request<Plain> {
    Request::get(target).header("x-user", user).body(Plain::default()).expect("a valid request")
}

fn user(request: &Request<Plain>) -> String {
    request.headers().get("x-user").expect("every request says whose it is").to_str().expect("text").to_owned()
}

// ---- one call for all

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_to_a_cold_key_are_one_call() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(begin(&cache, get("/t/a")).await);
    }
    let (_, answer) = next_call(&mut handle).await;
    no_call(&mut handle).await;
    answer.send_response(ok("rows"));
    let mut collapsed = 0;
    for one in crowd {
        let response = one.await.unwrap();
        collapsed += usize::from(outcome(&response) == Outcome::Collapsed);
        assert_eq!(text(response).await, "rows");
    }
    assert_eq!(collapsed, CROWD - 1);
    no_call(&mut handle).await;
    assert_eq!(store.stats().inner_calls, 1);
    assert_eq!(store.stats().flights, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_requests_on_many_threads_are_one_call() {
    let calls = Arc::new(AtomicUsize::new(0));
    let open = Arc::new(Semaphore::new(0));
    let inner = service_fn({
        let (calls, open) = (calls.clone(), open.clone());
        move |_: Request<Plain>| {
            let open = open.clone();
            calls.fetch_add(1, Ordering::SeqCst);
            async move {
                let _ = open.acquire().await;
                Ok::<_, Infallible>(ok("rows"))
            }
        }
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    let began = Arc::new(Barrier::new(CROWD + 1));
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let (cache, began) = (cache.clone(), began.clone());
            tokio::spawn(async move {
                let mine = begin(&cache, get("/t/a")).await;
                began.wait().await;
                text(mine.await.unwrap()).await
            })
        })
        .collect();
    began.wait().await;
    open.add_permits(CROWD);
    for one in crowd {
        assert_eq!(one.await.unwrap(), "rows");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// Nothing holds the inner service here: a request that looked before the entry was there and joins after its flight has
/// landed must find the entry all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_the_requests_race_a_cold_key_is_filled_once() {
    const KEYS: usize = 400;
    const EACH: usize = 16;
    let (inner, calls) = counting(|_, _| ok("rows"));
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    for key in 0..KEYS {
        let together = Arc::new(Barrier::new(EACH));
        let crowd: Vec<_> = (0..EACH)
            .map(|_| {
                let (cache, together) = (cache.clone(), together.clone());
                tokio::spawn(async move {
                    together.wait().await;
                    text(send(&cache, get(&format!("/t/{key}"))).await).await
                })
            })
            .collect();
        for one in crowd {
            assert_eq!(one.await.unwrap(), "rows");
        }
        assert_eq!(calls.load(Ordering::SeqCst), key + 1, "key {key} was fetched more than once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_the_requests_race_a_stale_entry_is_refreshed_once() {
    const ROUNDS: usize = 400;
    const EACH: usize = 16;
    let (store, clock) = by_hand();
    let (inner, calls) = counting(|_, _| ok("rows"));
    let cache = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).layer(inner);
    send(&cache, get("/t/a")).await;
    for round in 1..=ROUNDS {
        clock.advance(2 * SECOND);
        let together = Arc::new(Barrier::new(EACH));
        let crowd: Vec<_> = (0..EACH)
            .map(|_| {
                let (cache, together) = (cache.clone(), together.clone());
                tokio::spawn(async move {
                    together.wait().await;
                    text(send(&cache, get("/t/a")).await).await
                })
            })
            .collect();
        for one in crowd {
            assert_eq!(one.await.unwrap(), "rows");
        }
        until("the refresh ends", || store.stats().stored as usize > round && store.stats().flights == 0).await;
        assert_eq!(calls.load(Ordering::SeqCst), round + 1, "more than one refresh in round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_keys_do_not_wait_for_each_other() {
    let (cache, mut handle) = mocked(&layer(&memory(), Rule::ttl(MINUTE)));
    let first = begin(&cache, get("/t/a")).await;
    let second = begin(&cache, get("/t/b")).await;
    let also_second = begin(&cache, get("/t/b")).await;
    let (_, answer_a) = next_call(&mut handle).await;
    let (request, answer_b) = next_call(&mut handle).await;
    assert_eq!(request.uri().path(), "/t/b");
    answer_b.send_response(ok("b"));
    assert_eq!(text(second.await.unwrap()).await, "b");
    assert_eq!(text(also_second.await.unwrap()).await, "b");
    answer_a.send_response(ok("a"));
    assert_eq!(text(first.await.unwrap()).await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_follower_holds_no_readiness_of_the_inner_service() {
    let gate = Arc::new(Semaphore::new(0));
    let inner = service_fn({
        let gate = gate.clone();
        move |request: Request<Plain>| {
            let gate = gate.clone();
            async move {
                if request.uri().path() == "/t/slow" {
                    let _ = gate.acquire().await;
                }
                Ok::<_, Infallible>(ok(request.uri().path().to_owned()))
            }
        }
    });
    let inner = ServiceBuilder::new().concurrency_limit(2).service(inner);
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    let slow: Vec<_> = {
        let mut slow = Vec::new();
        for _ in 0..5 {
            slow.push(begin(&cache, get("/t/slow")).await);
        }
        slow
    };
    let start = Instant::now();
    assert_eq!(text(send(&cache, get("/t/quick")).await).await, "/t/quick");
    assert_eq!(start.elapsed(), Duration::ZERO);
    gate.add_permits(1);
    for one in slow {
        assert_eq!(text(one.await.unwrap()).await, "/t/slow");
    }
}

#[tokio::test(start_paused = true)]
async fn each_variant_of_a_cold_key_gets_its_own() {
    let (inner, calls) = counting(|request, _| {
        let language = request.headers()[header::ACCEPT_LANGUAGE].clone();
        let mut response = ok(Bytes::copy_from_slice(language.as_bytes()));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-language"));
        response
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    let mut crowd = Vec::new();
    for i in 0..60 {
        let language = ["de", "en", "fr"][i % 3];
        let request = Request::get("/t/a").header(header::ACCEPT_LANGUAGE, language).body(Plain::default()).unwrap();
        crowd.push((language, begin(&cache, request).await));
    }
    for (language, one) in crowd {
        assert_eq!(text(one.await.unwrap()).await, language);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

/// The fields of requests are not kept where responses have not varied for long; the first that does is for its own request.
#[tokio::test(start_paused = true)]
async fn where_nothing_has_varied_for_long_the_first_that_does_is_not_stored_and_those_who_wait_elect_another() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    for n in 0..200 {
        let plain = begin(&cache, get(&format!("/t/plain-{n}"))).await;
        next_call(&mut handle).await.1.send_response(ok("plain"));
        assert_eq!(text(plain.await.unwrap()).await, "plain");
    }
    let in_language = |language: &str| {
        Request::get("/t/a").header(header::ACCEPT_LANGUAGE, language).body(Plain::default()).expect("a valid request")
    };
    let varying = |text: &'static str| {
        let mut response = ok(text);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-language"));
        response
    };
    let leads = begin(&cache, in_language("de")).await;
    let same = begin(&cache, in_language("de")).await;
    let other = begin(&cache, in_language("fr")).await;
    next_call(&mut handle).await.1.send_response(varying("eins"));
    let response = leads.await.unwrap();
    let not_stored = response.extensions().get::<CacheStatus>().expect("a rule covers it").stored();
    assert_eq!(not_stored, Some(Storing::Not(NoStore::Vary)));
    assert_eq!(text(response).await, "eins");
    // One of the two who have waited asks for both, and the other for itself once it sees that they differ.
    let (same, other) = (tokio::spawn(same), tokio::spawn(other));
    for _ in 0..2 {
        let (asked, answers) = next_call(&mut handle).await;
        let de = asked.headers()[header::ACCEPT_LANGUAGE] == "de";
        answers.send_response(varying(if de { "zwei" } else { "deux" }));
    }
    assert_eq!(text(same.await.unwrap().unwrap()).await, "zwei");
    assert_eq!(text(other.await.unwrap().unwrap()).await, "deux");
    for (language, want) in [("de", "zwei"), ("fr", "deux")] {
        let hit = send(&cache, in_language(language)).await;
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, want));
    }
    no_call(&mut handle).await;
}

// ---- what may not be shared

/// Makes a response unfit for storing.
type Change = fn(&mut Response<Plain>);

/// Responses that belong to one request alone.
fn unfit() -> Vec<(&'static str, Change)> {
    fn control(response: &mut Response<Plain>, value: &'static str) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(value));
    }
    vec![
        ("set-cookie", |_| ()),
        ("private", |response| control(response, "private")),
        ("no-store", |response| control(response, "No-Store")),
        ("no-cache", |response| control(response, "max-age=60, no-cache")),
        ("vary", |response| drop(response.headers_mut().insert(header::VARY, HeaderValue::from_static("*")))),
        ("handler", |response| drop(response.extensions_mut().insert(CachePolicy::no_store()))),
        ("status", |response| *response.status_mut() = http::StatusCode::IM_A_TEAPOT),
    ]
}

/// The first call is let through when all have begun; the others are held until every one of them is inside.
async fn everybody_goes_alone_and_together(name: &'static str, spoil: fn(&mut Response<Plain>)) {
    let store = memory();
    let calls = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(Semaphore::new(0));
    let inside = [Arc::new(Barrier::new(CROWD - 1)), Arc::new(Barrier::new(CROWD))];
    let inner = service_fn({
        let (calls, begun) = (calls.clone(), begun.clone());
        move |request: Request<Plain>| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            let (begun, inside) = (begun.clone(), inside.clone());
            async move {
                match call {
                    0 => drop(begun.acquire().await),
                    1..CROWD => _ = inside[0].wait().await,
                    _ => _ = inside[1].wait().await,
                }
                let user = user(&request);
                let mut response = ok(user.clone());
                spoil(&mut response);
                // Only what must not be stored anyway may carry it: else it would be the reason in every case.
                if name == "set-cookie" {
                    response.headers_mut().insert(header::SET_COOKIE, format!("session={user}").parse().unwrap());
                }
                Ok::<_, Infallible>(response)
            }
        }
    });
    let cache = layer(&store, Rule::ttl(MINUTE)).layer(inner);
    for (round, why) in [(0, Miss::NotShared), (1, Miss::HitForMiss)] {
        let mut crowd = Vec::new();
        for user in 0..CROWD {
            let mine = begin(&cache, of_user("/t/a", user)).await;
            crowd.push(tokio::spawn(async move { (user, mine.await.unwrap()) }));
        }
        begun.add_permits(1);
        for (i, one) in crowd.into_iter().enumerate() {
            let (user, response) = timeout(20 * SECOND, one).await.expect("all are inside at once").unwrap();
            let expected = if i == 0 && round == 0 { Miss::Absent } else { why };
            assert_eq!(outcome(&response), Outcome::Miss(expected), "{name}");
            if name == "set-cookie" {
                assert_eq!(response.headers()[header::SET_COOKIE], format!("session={user}"));
                assert_eq!(response.headers().get_all(header::SET_COOKIE).iter().count(), 1);
            }
            assert_eq!(text(response).await, user.to_string(), "{name}");
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2 * CROWD, "{name}");
    assert_eq!(store.stats().stored, 0, "{name}");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_stored_is_fetched_by_each_alone_and_by_all_at_once() {
    for (name, spoil) in unfit() {
        everybody_goes_alone_and_together(name, spoil).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_may_not_be_stored_is_fetched_by_all_at_once_on_many_threads_too() {
    everybody_goes_alone_and_together("set-cookie", |_| ()).await;
}

#[tokio::test(start_paused = true)]
async fn after_an_unfit_response_nobody_queues_and_a_fit_one_is_stored_again() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    let private = || {
        let mut response = ok("mine");
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        response
    };
    let first = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(private());
    assert_eq!(outcome(&first.await.unwrap()), Outcome::Miss(Miss::Absent));

    let second = begin(&cache, get("/t/a")).await;
    let third = begin(&cache, get("/t/a")).await;
    let answers = [next_call(&mut handle).await.1, next_call(&mut handle).await.1];
    answers.into_iter().for_each(|answer| answer.send_response(ok("ours")));
    for one in [second, third] {
        assert_eq!(outcome(&one.await.unwrap()), Outcome::Miss(Miss::HitForMiss));
    }
    assert_eq!(outcome(&begin(&cache, get("/t/a")).await.await.unwrap()), Outcome::Hit);

    store.invalidate(["table:a"]).await.unwrap();
    let leads = begin(&cache, get("/t/a")).await;
    let follows = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("new"));
    assert_eq!(outcome(&leads.await.unwrap()), Outcome::Miss(Miss::Absent));
    assert_eq!(outcome(&follows.await.unwrap()), Outcome::Collapsed);
}

/// A 304 to the client's own conditions says nothing of what a whole response would be.
#[tokio::test(start_paused = true)]
async fn a_not_modified_to_a_client_that_went_alone_does_not_end_coalescing() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).max_waiters(0);
    let (cache, mut handle) = mocked(&layer);
    let leads = begin(&cache, get("/t/a")).await;
    let asks = Request::get("/t/a").header(header::IF_NONE_MATCH, "\"1\"").body(Plain::default()).unwrap();
    let alone = begin(&cache, asks).await;
    let (_, first) = next_call(&mut handle).await;
    let (_, second) = next_call(&mut handle).await;
    let mut not_modified = ok("");
    *not_modified.status_mut() = http::StatusCode::NOT_MODIFIED;
    second.send_response(not_modified);
    assert_eq!(alone.await.unwrap().status(), http::StatusCode::NOT_MODIFIED);
    first.send_error("away");
    leads.await.unwrap_err();

    let leads = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(outcome(&leads.await.unwrap()), Outcome::Miss(Miss::Absent));
}

// ---- clients that leave, leaders that end badly

#[tokio::test(start_paused = true)]
async fn the_first_client_leaves_in_the_middle_of_the_call_and_the_rest_get_that_call() {
    for polled in [false, true] {
        let store = memory();
        let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
        let mut first = begin(&cache, get("/t/a")).await;
        if polled {
            assert!(poll_once(&mut first).is_pending());
        }
        let before = begin(&cache, get("/t/a")).await;
        drop(first);
        let after = begin(&cache, get("/t/a")).await;
        next_call(&mut handle).await.1.send_response(ok("rows"));
        for one in [before, after] {
            let response = one.await.unwrap();
            assert_eq!(outcome(&response), Outcome::Collapsed);
            assert_eq!(text(response).await, "rows");
        }
        assert_eq!(store.stats().inner_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_client_leaves_in_the_middle_of_the_body_and_the_rest_get_all_of_it() {
    for length in [Some(9), None] {
        let store = memory();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)));
        let first = begin(&cache, get("/t/a")).await;
        let before = begin(&cache, get("/t/a")).await;
        let (response, source) = channel_response(length);
        next_call(&mut handle).await.1.send_response(response);
        let mut body = opened(first.await.unwrap());
        source.send("one");
        assert_eq!(piece(&mut body).await, Some(Ok("one".to_owned())));
        drop(body);
        let after = begin(&cache, get("/t/a")).await;
        source.send("two");
        source.send("end");
        drop(source);
        for one in [before, after] {
            let response = one.await.unwrap();
            assert_eq!(outcome(&response), Outcome::Collapsed, "{length:?}");
            assert_eq!(text(response).await, "onetwoend", "{length:?}");
        }
        assert_eq!(outcome(&begin(&cache, get("/t/a")).await.await.unwrap()), Outcome::Hit);
        assert_eq!(store.stats().inner_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_clients_leave_the_fill_ends_all_the_same_and_is_stored() {
    let store = memory();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)));
    // In the middle of the call.
    let crowd = [begin(&cache, get("/t/a")).await, begin(&cache, get("/t/a")).await];
    let (_, answer) = next_call(&mut handle).await;
    drop(crowd);
    let (response, source) = channel_response(Some(4));
    source.send("rows");
    drop(source);
    answer.send_response(response);
    until("stored", || store.stats().stored == 1).await;
    assert_eq!(text(begin(&cache, get("/t/a")).await.await.unwrap()).await, "rows");
    // In the middle of the body.
    let leads = begin(&cache, get("/t/b")).await;
    let follows = begin(&cache, get("/t/b")).await;
    let (response, source) = channel_response(None);
    next_call(&mut handle).await.1.send_response(response);
    drop((leads.await.unwrap(), follows));
    source.send("more ");
    source.send("rows");
    drop(source);
    until("stored", || store.stats().stored == 2).await;
    assert_eq!(text(begin(&cache, get("/t/b")).await.await.unwrap()).await, "more rows");
    assert_eq!(store.stats().inner_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_the_first_byte_of_an_announced_body_before_its_last() {
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&memory(), Rule::ttl(MINUTE)));
    let leads = begin(&cache, get("/t/a")).await;
    let follows = begin(&cache, get("/t/a")).await;
    let (response, source) = channel_response(Some(6));
    next_call(&mut handle).await.1.send_response(response);
    // Held, and its body never read.
    let _leader = leads.await.unwrap();
    let mut body = opened(follows.await.unwrap());
    source.send("one");
    assert_eq!(piece(&mut body).await, Some(Ok("one".to_owned())));
    source.send("two");
    assert_eq!(piece(&mut body).await, Some(Ok("two".to_owned())));
    drop(source);
    assert_eq!(piece(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_an_error_for_all_and_is_not_stored() {
    let store = memory();
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)));
    let leads = begin(&cache, get("/t/a")).await;
    let follows = begin(&cache, get("/t/a")).await;
    let (response, source) = channel_response(Some(6));
    next_call(&mut handle).await.1.send_response(response);
    source.send("one");
    let (leads, follows) = (leads.await.unwrap(), follows.await.unwrap());
    source.fail("the upstream broke off");
    let error = leads.into_body().collect().await.unwrap_err();
    assert_eq!(error.to_string(), "the upstream broke off");
    follows.into_body().collect().await.unwrap_err();
    assert_eq!(store.stats().stored, 0);
    assert_eq!(store.stats().flights, 0);
}

/// The budget for bodies on their way says which may *begin* to be shared; it cuts off nobody who was promised a whole one.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_shared_already_is_not_cut_off_by_the_budget() {
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&memory(), Rule::ttl(MINUTE)).max_buffered_bytes(10));
    let leads = begin(&cache, get("/t/a")).await;
    let follows = begin(&cache, get("/t/a")).await;
    let (response, first) = channel_response(Some(8));
    next_call(&mut handle).await.1.send_response(response);
    let bodies = [leads.await.unwrap(), follows.await.unwrap()];
    first.send("1234");
    // A second one, which does not fit in beside the first: whoever wants it goes alone.
    let leads = begin(&cache, get("/t/b")).await;
    let follows = tokio::spawn(begin(&cache, get("/t/b")).await);
    let (response, second) = channel_response(Some(8));
    next_call(&mut handle).await.1.send_response(response);
    let second_body = leads.await.unwrap();
    second.send("12345678");
    let (response, alone) = channel_response(Some(8));
    alone.send("12345678");
    next_call(&mut handle).await.1.send_response(response);
    drop((second, alone));
    let follows = follows.await.unwrap().unwrap();
    assert_eq!(outcome(&follows), Outcome::Miss(Miss::NotShared));
    assert_eq!(text(follows).await, "12345678");
    assert_eq!(text(second_body).await, "12345678");
    first.send("5678");
    drop(first);
    for body in bodies {
        assert_eq!(text(body).await, "12345678");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_not_polled_holds_up_no_follower() {
    for polled in [false, true] {
        let (cache, mut handle) = mocked(&layer(&memory(), Rule::ttl(MINUTE)));
        let mut leads = begin(&cache, get("/t/a")).await;
        if polled {
            assert!(poll_once(&mut leads).is_pending());
        }
        let follows = begin(&cache, get("/t/a")).await;
        next_call(&mut handle).await.1.send_response(ok("rows"));
        let response = follows.await.unwrap();
        assert_eq!(outcome(&response), Outcome::Collapsed);
        assert_eq!(text(response).await, "rows");
        assert_eq!(text(leads.await.unwrap()).await, "rows");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_polled_again_late_still_gets_its_answer() {
    let (cache, mut handle) = mocked(&layer(&memory(), Rule::ttl(MINUTE)));
    let mut leads = tokio::spawn(begin(&cache, get("/t/a")).await);
    let follows = begin(&cache, get("/t/a")).await;
    assert!(poll_once(&mut leads).is_pending());
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(text(follows.await.unwrap()).await, "rows");
    assert_eq!(text(timeout(SECOND, leads).await.expect("woken at the end of its fill").unwrap().unwrap()).await, "rows");
}

#[tokio::test(start_paused = true)]
async fn when_the_inner_service_fails_those_who_wait_go_alone_at_once() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    let leads = begin(&cache, get("/t/a")).await;
    let mut rest = Vec::new();
    for _ in 0..10 {
        rest.push(tokio::spawn(begin(&cache, get("/t/a")).await));
    }
    let start = Instant::now();
    next_call(&mut handle).await.1.send_error("away");
    assert_eq!(leads.await.unwrap_err().to_string(), "away");
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(next_call(&mut handle).await.1);
    }
    answers.into_iter().for_each(|answer| answer.send_response(ok("rows")));
    for one in rest {
        assert_eq!(text(one.await.unwrap().unwrap()).await, "rows");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn when_the_inner_service_fails_those_who_wait_get_what_may_stand_in_without_asking_it_again() {
    type Fails = fn(mock::SendResponse<Response<Plain>>);
    let fails: [Fails; 2] = [
        |call| call.send_error("away"),
        |call| call.send_response(Response::builder().status(503).body(Plain::default()).expect("a response")),
    ];
    for fails in fails {
        let (store, clock) = by_hand();
        let rule = Rule::ttl(MINUTE).stale_if_error(MINUTE);
        let (cache, mut handle) = mocked(&layer(&store, rule));
        let first = tokio::spawn(begin(&cache, get("/t/a")).await);
        next_call(&mut handle).await.1.send_response(ok("old rows"));
        assert_eq!(text(first.await.unwrap().unwrap()).await, "old rows");
        clock.advance(MINUTE);
        let mut crowd = Vec::new();
        for _ in 0..10 {
            crowd.push(tokio::spawn(begin(&cache, get("/t/a")).await));
        }
        fails(next_call(&mut handle).await.1);
        no_call(&mut handle).await;
        for one in crowd {
            let response = timeout(SECOND, one).await.expect("nobody waits any more").unwrap().unwrap();
            assert_eq!((outcome(&response), text(response).await.as_str()), (Outcome::Stale(Stale::IfError), "old rows"));
        }
        assert_eq!(store.stats().inner_calls, 2);
    }
}

/// What was cleared by a write stands in for nothing, also for those who began to wait before that.
#[tokio::test(start_paused = true)]
async fn when_the_inner_service_fails_those_who_wait_do_not_get_what_was_cleared_meanwhile() {
    let (store, clock) = by_hand();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE)));
    let first = tokio::spawn(begin(&cache, get("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("old rows"));
    first.await.unwrap().unwrap();
    clock.advance(MINUTE);
    let leads = tokio::spawn(begin(&cache, get("/t/a")).await);
    let (_, call) = next_call(&mut handle).await;
    let follows = tokio::spawn(begin(&cache, get("/t/a")).await);
    no_call(&mut handle).await;
    store.invalidate(["table:a"]).await.unwrap();
    call.send_error("away");
    assert!(leads.await.unwrap().is_err());
    next_call(&mut handle).await.1.send_response(ok("new rows"));
    assert_eq!(text(follows.await.unwrap().unwrap()).await, "new rows");
}

/// How an inner service dies: in its future, or before there is one.
#[tokio::test(start_paused = true)]
async fn when_the_leader_panics_another_is_elected_and_nobody_hangs() {
    for in_call in [false, true] {
        let calls = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let inner = service_fn({
            let (calls, gate) = (calls.clone(), gate.clone());
            move |_: Request<Plain>| {
                let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
                assert!(!(first && in_call), "the handler panics");
                let gate = gate.clone();
                async move {
                    let _ = gate.acquire().await;
                    assert!(!first, "the handler panics");
                    Ok::<_, Infallible>(ok("rows"))
                }
            }
        });
        let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
        let start = Instant::now();
        if in_call {
            let cache = cache.clone();
            tokio::spawn(async move { begin(&cache, get("/t/a")).await.await }).await.unwrap_err();
        }
        let leads = begin(&cache, get("/t/a")).await;
        let mut rest = Vec::new();
        for _ in 0..10 {
            rest.push(tokio::spawn(begin(&cache, get("/t/a")).await));
        }
        let leads = tokio::spawn(leads);
        gate.add_permits(1);
        for one in rest {
            assert_eq!(text(one.await.unwrap().unwrap()).await, "rows");
        }
        assert_eq!(leads.await.is_err(), !in_call, "the panic reaches whoever began the call");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[test]
fn a_leader_that_dies_with_its_runtime_leaves_nobody_waiting() {
    let runtime = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    // Who has begun to depend on the leader before its runtime goes: somebody of its own runtime, of another, nobody.
    for depends in ["own", "other", "nobody"] {
        let (ours, theirs) = (runtime(), runtime());
        let (inner, calls) = counting(|_, _| ok("rows"));
        let hold = Arc::new(AtomicBool::new(true));
        let inner = service_fn({
            let hold = hold.clone();
            move |request: Request<Plain>| {
                let (held, answer) = (hold.swap(false, Ordering::SeqCst), inner.clone().call(request));
                async move {
                    if held {
                        pending::<()>().await;
                    }
                    answer.await
                }
            }
        });
        let cache = theirs.block_on(async { layer(&memory(), Rule::ttl(MINUTE)).layer(inner) });
        theirs.block_on(async {
            tokio::spawn(begin(&cache, get("/t/a")).await);
            tokio::task::yield_now().await;
            if depends == "own" {
                tokio::spawn(begin(&cache, get("/t/a")).await);
                tokio::task::yield_now().await;
            }
        });
        ours.block_on(async {
            let start = Instant::now();
            let early = match depends {
                "nobody" => None,
                _ => Some(begin(&cache, get("/t/a")).await),
            };
            std::thread::spawn(move || drop(theirs)).join().unwrap();
            let late = begin(&cache, get("/t/a")).await;
            for one in early.into_iter().chain([late]) {
                assert_eq!(text(one.await.unwrap()).await, "rows", "{depends}");
            }
            assert_eq!(start.elapsed(), Duration::ZERO, "{depends}");
        });
        assert_eq!(calls.load(Ordering::SeqCst), 2, "{depends}");
    }
}

#[test]
fn fill_that_nothing_drives_is_waited_for_once() {
    let runtime = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (ours, theirs) = (runtime(), runtime());
    let store = memory();
    let (cache, mut handle) = theirs.block_on(async { mocked(&layer(&store, Rule::ttl(MINUTE))) });
    let leads = theirs.block_on(begin(&cache, get("/t/a")));
    // Its client leaves, and so it is a task of a runtime that is kept and not run.
    drop(leads);
    ours.block_on(async {
        let _lost = next_call(&mut handle).await;
        let start = Instant::now();
        let first = tokio::spawn(begin(&cache, get("/t/a")).await);
        let mut failed = ok("own");
        *failed.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        next_call(&mut handle).await.1.send_response(failed);
        assert_eq!(outcome(&first.await.unwrap().unwrap()), Outcome::Miss(Miss::WaitLimit));
        let waited = start.elapsed();
        assert!(waited >= 30 * SECOND);
        // Whoever comes later leads, is waited for, and stores.
        let [second, third] = [begin(&cache, get("/t/a")).await, begin(&cache, get("/t/a")).await].map(tokio::spawn);
        next_call(&mut handle).await.1.send_response(ok("rows"));
        let outcomes = [second.await.unwrap().unwrap(), third.await.unwrap().unwrap()].map(|response| outcome(&response));
        assert_eq!(outcomes, [Outcome::Miss(Miss::Absent), Outcome::Collapsed]);
        assert_eq!(start.elapsed(), waited);
        assert_eq!(store.stats().stored, 1);
    });
}

#[test]
fn the_end_of_a_followers_runtime_does_not_end_the_leaders_call() {
    let runtime = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (ours, theirs) = (runtime(), runtime());
    let (cache, mut handle) = ours.block_on(async { mocked(&layer(&memory(), Rule::ttl(MINUTE))) });
    let leads = ours.block_on(begin(&cache, get("/t/a")));
    let follows = theirs.block_on(begin(&cache, get("/t/a")));
    drop(follows);
    drop(theirs);
    ours.block_on(async {
        next_call(&mut handle).await.1.send_response(ok("rows"));
        assert_eq!(text(leads.await.unwrap()).await, "rows");
    });
}

// ---- bounds

#[tokio::test(start_paused = true)]
async fn fills_beyond_the_cap_go_alone_at_once() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).max_concurrent_fills(1);
    let (cache, mut handle) = mocked(&layer);
    let leads = begin(&cache, get("/t/a")).await;
    let (_, held) = next_call(&mut handle).await;
    let beyond = begin(&cache, get("/t/b")).await;
    next_call(&mut handle).await.1.send_response(ok("b"));
    let response = beyond.await.unwrap();
    assert_eq!(outcome(&response), Outcome::Miss(Miss::FlightLimit));
    // It is stored all the same.
    assert_eq!(outcome(&begin(&cache, get("/t/b")).await.await.unwrap()), Outcome::Hit);
    held.send_response(ok("a"));
    leads.await.unwrap();
    let next = begin(&cache, get("/t/c")).await;
    next_call(&mut handle).await.1.send_response(ok("c"));
    assert_eq!(outcome(&next.await.unwrap()), Outcome::Miss(Miss::Absent));
}

#[tokio::test(start_paused = true)]
async fn waiters_beyond_the_cap_go_alone_at_once() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).max_waiters(1);
    let (cache, mut handle) = mocked(&layer);
    let leads = begin(&cache, get("/t/a")).await;
    let waits = begin(&cache, get("/t/a")).await;
    let (_, held) = next_call(&mut handle).await;
    let beyond = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("alone"));
    let response = beyond.await.unwrap();
    assert_eq!(outcome(&response), Outcome::Miss(Miss::FlightLimit));
    assert_eq!(text(response).await, "alone");
    drop(waits);
    store_is_not_asked_to_wait(&cache, held, leads).await;
}

/// The place of a waiter that has left is free again.
async fn store_is_not_asked_to_wait<S, F>(
    cache: &S,
    held: tower_test::mock::SendResponse<Response<Plain>>,
    leads: std::pin::Pin<Box<F>>,
) where
    S: Service<Request<Plain>, Response = Response<tower_response_cache::CacheBody<Plain>>, Error = BoxError, Future = F>
        + Clone,
    F: Future<Output = Result<S::Response, BoxError>>,
{
    // The lone request has stored its answer meanwhile: a hit needs no place.
    assert_eq!(outcome(&begin(cache, get("/t/a")).await.await.unwrap()), Outcome::Hit);
    held.send_response(ok("rows"));
    assert_eq!(text(leads.await.unwrap()).await, "rows");
}

#[tokio::test(start_paused = true)]
async fn whoever_has_waited_long_enough_goes_alone() {
    let layer = layer(&memory(), Rule::ttl(MINUTE)).wait_limit(10 * SECOND);
    let (cache, mut handle) = mocked(&layer);
    let _leads = begin(&cache, get("/t/a")).await;
    let waits = tokio::spawn(begin(&cache, get("/t/a")).await);
    let _held = next_call(&mut handle).await;
    let start = Instant::now();
    let (_, answer) = next_call(&mut handle).await;
    assert_eq!(start.elapsed().as_secs(), 10);
    answer.send_response(ok("alone"));
    let response = waits.await.unwrap().unwrap();
    assert_eq!(outcome(&response), Outcome::Miss(Miss::WaitLimit));
    assert_eq!(text(response).await, "alone");
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_waiting_is_one_for_all_the_leaders_that_were_waited_for() {
    let calls = Arc::new(AtomicUsize::new(0));
    let inner = service_fn({
        let calls = calls.clone();
        move |request: Request<Plain>| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move {
                match user(&request).as_str() {
                    "last" => Ok::<_, Infallible>(ok("rows")),
                    _ => {
                        tokio::time::sleep(6 * SECOND).await;
                        panic!("the handler panics")
                    }
                }
            }
        }
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).wait_limit(10 * SECOND).layer(inner);
    let start = Instant::now();
    let mut doomed = Vec::new();
    for i in 0..5 {
        doomed.push(tokio::spawn(begin(&cache, of_user("/t/a", i)).await));
    }
    let last = Request::get("/t/a").header("x-user", "last").body(Plain::default()).unwrap();
    let response = tokio::spawn(begin(&cache, last).await).await.unwrap().unwrap();
    assert!(start.elapsed() <= 11 * SECOND, "waited {:?}", start.elapsed());
    assert_eq!(text(response).await, "rows");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_asks_for_its_own_route_through_the_cache_is_not_locked_for_ever() {
    type Own = tower::util::BoxCloneService<Request<Plain>, Response<tower_response_cache::CacheBody<Plain>>, Infallible>;
    let own: Arc<std::sync::OnceLock<std::sync::Mutex<Own>>> = Arc::default();
    let depth = Arc::new(AtomicUsize::new(0));
    let inner = service_fn({
        let own = own.clone();
        move |_: Request<Plain>| {
            let (own, outermost) = (own.clone(), depth.fetch_add(1, Ordering::SeqCst) == 0);
            async move {
                if !outermost {
                    return Ok::<_, Infallible>(ok("inner"));
                }
                let service = own.get().unwrap().lock().unwrap().clone();
                let answer = text(service.oneshot(get("/t/a")).await?).await;
                Ok(ok(format!("outer of {answer}")))
            }
        }
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).wait_limit(5 * SECOND).layer(inner);
    own.set(std::sync::Mutex::new(cache.clone().boxed_clone())).ok().unwrap();
    let start = Instant::now();
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "outer of inner");
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_somebody_still_waits_for_is_not_given_up_with_its_first_client() {
    for arrived in [false, true] {
        let store = memory();
        let layer = layer(&store, Rule::ttl(MINUTE)).fill_limit(SECOND).wait_limit(30 * SECOND);
        let (cache, mut handle) = mocked::<ChannelBody>(&layer);
        let leads = begin(&cache, get("/t/a")).await;
        let (_, answer) = next_call(&mut handle).await;
        let follows = tokio::spawn(begin(&cache, get("/t/a")).await);
        let (response, source) = channel_response(None);
        if arrived {
            answer.send_response(response);
            drop(leads.await.unwrap());
            tokio::time::sleep(5 * SECOND).await;
        } else {
            drop(leads);
            tokio::time::sleep(5 * SECOND).await;
            answer.send_response(response);
        }
        source.send("rows");
        drop(source);
        let response = timeout(SECOND, follows).await.expect("it has its answer").unwrap().unwrap();
        assert_eq!(outcome(&response), Outcome::Collapsed);
        assert_eq!(text(response).await, "rows");
        assert_eq!(store.stats().inner_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_nobody_waits_for_is_given_up_at_its_limit() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)).fill_limit(SECOND));
    drop(begin(&cache, get("/t/a")).await);
    let _held = next_call(&mut handle).await;
    assert_eq!(store.stats().flights, 1);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(store.stats().flights, 0);
    let again = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(outcome(&again.await.unwrap()), Outcome::Miss(Miss::Absent));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_and_nobody_reads_is_given_up_at_the_limit() {
    for leaves_early in [false, true] {
        let store = memory();
        let (cache, mut handle) = mocked::<ChannelBody>(&layer(&store, Rule::ttl(MINUTE)).fill_limit(SECOND));
        let leads = begin(&cache, get("/t/a")).await;
        let (_, answer) = next_call(&mut handle).await;
        let (response, _pipe) = channel_response(Some(9));
        if leaves_early {
            drop(leads);
            answer.send_response(response);
        } else {
            answer.send_response(response);
            drop(leads.await.unwrap());
        }
        assert_eq!(store.stats().flights, 1);
        tokio::time::sleep(4 * SECOND).await;
        assert_eq!(store.stats().flights, 0, "left in the middle of the call: {leaves_early}");
    }
}

// ---- refreshes

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_on_a_stale_entry_are_answered_at_once_and_make_one_refresh() {
    let (store, clock) = by_hand();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)));
    let first = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("old"));
    first.await.unwrap();
    clock.advance(2 * SECOND);
    for _ in 0..CROWD {
        let Poll::Ready(response) = poll_once(&mut begin(&cache, get("/t/a")).await) else {
            panic!("a stale answer waits for nobody")
        };
        let response = response.unwrap();
        assert_eq!(outcome(&response), Outcome::Stale(Stale::WhileRevalidate));
        assert_eq!(text(response).await, "old");
    }
    let (_, answer) = next_call(&mut handle).await;
    no_call(&mut handle).await;
    answer.send_response(ok("new"));
    until("refreshed", || store.stats().stored == 2).await;
    assert_eq!(text(begin(&cache, get("/t/a")).await.await.unwrap()).await, "new");
    assert_eq!(store.stats().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stale_entry_is_refreshed_under_a_concurrency_limit_of_one() {
    let (store, clock) = by_hand();
    let (inner, calls) = counting(|_, call| ok(call.to_string()));
    let inner = ServiceBuilder::new().concurrency_limit(1).service(inner);
    let cache = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).layer(inner);
    assert_eq!(text(send(&cache, get("/t/a")).await).await, "1");
    for round in 1..5_usize {
        clock.advance(2 * SECOND);
        assert_eq!(text(send(&cache, get("/t/a")).await).await, round.to_string());
        until("refreshed", || store.stats().stored as usize == round + 1).await;
        let fresh = send(&cache, get("/t/a")).await;
        assert_eq!(outcome(&fresh), Outcome::Hit);
        assert_eq!(text(fresh).await, (round + 1).to_string());
    }
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_panicked_or_failed_does_not_block_its_key() {
    for panics in [true, false] {
        let (store, clock) = by_hand();
        let ended = Arc::new(Notify::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let inner = service_fn({
            let (calls, ended) = (calls.clone(), ended.clone());
            move |_: Request<Plain>| {
                let (call, ended) = (calls.fetch_add(1, Ordering::SeqCst), ended.clone());
                async move {
                    match call {
                        1 if panics => {
                            ended.notify_one();
                            panic!("the handler panics")
                        }
                        1 => {
                            ended.notify_one();
                            Err("away")
                        }
                        call => Ok(ok(call.to_string())),
                    }
                }
            }
        });
        let cache = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).layer(inner);
        send(&cache, get("/t/a")).await;
        clock.advance(2 * SECOND);
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "0");
        ended.notified().await;
        tokio::task::yield_now().await;
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "0");
        until("refreshed", || store.stats().stored == 2).await;
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_hangs_is_given_up_at_its_limit() {
    let (store, clock) = by_hand();
    let layer = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).fill_limit(10 * SECOND);
    let (cache, mut handle) = mocked(&layer);
    let first = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("old"));
    first.await.unwrap();
    clock.advance(2 * SECOND);
    begin(&cache, get("/t/a")).await.await.unwrap();
    let _hangs = next_call(&mut handle).await;
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(store.stats().flights, 0);
    begin(&cache, get("/t/a")).await.await.unwrap();
    let (_, answer) = timeout(SECOND, handle.next_request()).await.expect("another refresh").unwrap();
    answer.send_response(ok("new"));
    until("refreshed", || store.stats().stored == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_body_of_a_shared_response_is_the_same_for_each_reader() {
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&memory(), Rule::ttl(MINUTE)));
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(tokio::spawn(begin(&cache, get("/t/a")).await));
    }
    let (response, source) = channel_response(Some(3000));
    next_call(&mut handle).await.1.send_response(response);
    let mut readers = Vec::new();
    for one in crowd {
        readers.push(tokio::spawn(text(one.await.unwrap().unwrap())));
    }
    for _ in 0..1000 {
        source.send("abc");
        tokio::task::yield_now().await;
    }
    drop(source);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), "abc".repeat(1000));
    }
}

#[tokio::test]
async fn a_response_of_an_empty_body_is_shared_too() {
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer(&memory(), Rule::ttl(MINUTE)));
    let leads = begin(&cache, get("/t/a")).await;
    let follows = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok(""));
    assert_eq!(text(leads.await.unwrap()).await, "");
    let response = follows.await.unwrap();
    assert_eq!(outcome(&response), Outcome::Collapsed);
    assert_eq!(text(response).await, "");
}

// ---- what is seen in logs

/// Work that a follower has moved to a task goes on in the span of the request that began it.
#[tokio::test]
async fn a_fill_keeps_the_span_of_the_request_that_began_it() {
    use tracing::{Instrument, Subscriber, span};

    /// Numbers spans, and keeps which is entered on this thread.
    #[derive(Default)]
    struct Spans {
        entered: std::sync::Mutex<Vec<u64>>,
        all: std::sync::Mutex<Vec<&'static tracing::Metadata<'static>>>,
    }

    impl Subscriber for Spans {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            let mut all = self.all.lock().unwrap();
            all.push(attributes.metadata());
            span::Id::from_u64(all.len() as u64)
        }
        fn current_span(&self) -> tracing_core::span::Current {
            match self.entered.lock().unwrap().last() {
                Some(id) => {
                    tracing_core::span::Current::new(span::Id::from_u64(*id), self.all.lock().unwrap()[*id as usize - 1])
                }
                None => tracing_core::span::Current::none(),
            }
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, id: &span::Id) {
            self.entered.lock().unwrap().push(id.into_u64());
        }
        fn exit(&self, _: &span::Id) {
            self.entered.lock().unwrap().pop();
        }
    }

    let spans = Arc::new(Spans::default());
    let _default = tracing::subscriber::set_default(spans.clone());
    let opened = Arc::new(tokio::sync::Notify::new());
    let (seen, open) = (Arc::new(std::sync::Mutex::new(Vec::new())), opened.clone());
    let (spans_inside, seen_inside) = (spans.clone(), seen.clone());
    let inner = tower::service_fn(move |_: Request<Plain>| {
        let (spans, seen, open) = (spans_inside.clone(), seen_inside.clone(), open.clone());
        async move {
            open.notified().await;
            seen.lock().unwrap().extend(spans.entered.lock().unwrap().last().copied());
            Ok::<_, std::convert::Infallible>(ok("x"))
        }
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let request = |span: tracing::Span| {
        let service = service.clone();
        tokio::spawn(async move { text(send(&service, get("/t/a")).await).await }.instrument(span))
    };
    let (first, second) = (tracing::info_span!("first"), tracing::info_span!("second"));
    let began_in = first.id().expect("enabled").into_u64();
    let tasks = [request(first), request(second)];
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    opened.notify_one();
    for task in tasks {
        assert_eq!(task.await.unwrap(), "x");
    }
    assert_eq!(*seen.lock().unwrap(), [began_in]);
}

/// `stale_if_error` is zero unless it is set: neither who leads nor who follows gets what was invalidated, however softly.
#[tokio::test(start_paused = true)]
async fn softly_invalidated_response_needs_a_window_to_stand_in() {
    for (rule, stands_in) in [(Rule::ttl(MINUTE), false), (Rule::ttl(MINUTE).stale_if_error(SECOND), true)] {
        let store = memory();
        let (cache, mut handle) = mocked(&layer(&store, rule));
        let first = begin(&cache, get("/t/a")).await;
        next_call(&mut handle).await.1.send_response(ok("old"));
        assert_eq!(text(first.await.unwrap()).await, "old");
        store.invalidate_softly(["table:a"]).await.unwrap();
        let (leader, follower) = (begin(&cache, get("/t/a")).await, begin(&cache, get("/t/a")).await);
        let (leader, follower) = (tokio::spawn(leader), tokio::spawn(follower));
        let fail = async |handle: &mut Handle| {
            let mut response = ok("failed");
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            within(next_call(handle)).await.1.send_response(response);
        };
        fail(&mut handle).await;
        if !stands_in {
            // Who followed asks for himself.
            fail(&mut handle).await;
        }
        for one in [leader, follower] {
            let response = one.await.unwrap().unwrap();
            let stale = outcome(&response) == Outcome::Stale(Stale::IfError);
            assert_eq!((stale, text(response).await.as_str()), (stands_in, if stands_in { "old" } else { "failed" }));
        }
    }
}
