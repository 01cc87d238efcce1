//! Lifetimes: fresh, stale while revalidated, stale if error, refreshed ahead.

use std::{sync::atomic::Ordering, task::Poll, time::Duration};

use crate::common::{Handle, MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, outcome, send, text};
use http::{HeaderValue, Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{
    __private::Backend,
    BoxError, CacheLayer, CacheService, Clock, Memory, Outcome, Rule, Rules, Store,
    status::{Miss, NoStore, Stale, Storing},
};
use tower_test::mock;

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

const EXPIRED: Outcome = Outcome::Miss(Miss::Expired);

const HIT: Outcome = Outcome::Hit;

const REVALIDATING: Outcome = Outcome::Stale(Stale::WhileRevalidate);

const FAILING: Outcome = Outcome::Stale(Stale::IfError);

fn with_manual_clock() -> (Clock, Memory) {
    let clock = Clock::manual();
    let store = Memory::builder().capacity(1 << 20).clock(clock.clone()).build();
    (clock, store)
}

/// Responds with the status and the lifetime that the query of the target names.
fn as_requested(request: &Request<Plain>, call: usize) -> Response<Plain> {
    let mut response = ok(call.to_string());
    for pair in request.uri().query().unwrap_or_default().split('&') {
        match pair.split_once('=') {
            Some(("status", status)) => *response.status_mut() = status.parse().expect("a status"),
            Some(("ttl", ttl)) => {
                response.headers_mut().insert("x-ttl", HeaderValue::from_str(ttl).expect("a value"));
            }
            _ => {}
        }
    }
    response
}

#[tokio::test]
async fn response_lives_as_long_as_its_rule_says() {
    let by_request = || {
        Rule::ttl_by(|request| match request.param("table") {
            "orders" => MINUTE,
            "never" => Duration::ZERO,
            _ => 5 * MINUTE,
        })
    };
    let by_response = || {
        Rule::ttl_by_response(|response| {
            let seconds = response.headers.get("x-ttl")?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_secs(seconds))
        })
    };
    let by_status = || Rule::ttl(MINUTE).status(StatusCode::NOT_FOUND, 5 * SECOND).status(StatusCode::IM_A_TEAPOT, SECOND);
    for (rule, target, seconds) in [
        (Rule::ttl(MINUTE), "/t/a", 60),
        (Rule::ttl(Duration::ZERO), "/t/a", 0),
        (by_request(), "/t/orders", 60),
        (by_request(), "/t/other", 300),
        (by_request(), "/t/never", 0),
        (by_response(), "/t/a?ttl=7", 7),
        (by_response(), "/t/a?ttl=0", 0),
        (by_response(), "/t/a", 0),
        (by_response(), "/t/a?ttl=7&status=500", 0),
        (by_status(), "/t/a", 60),
        (by_status(), "/t/a?status=404", 5),
        (by_status(), "/t/a?status=418", 1),
        (by_status(), "/t/a?status=410", 60),
        (by_status(), "/t/a?status=500", 0),
        (by_status().status(StatusCode::OK, Duration::ZERO), "/t/a", 0),
        (by_status().status(StatusCode::NOT_FOUND, MINUTE), "/t/a?status=404", 60),
        (by_response().status(StatusCode::NOT_FOUND, SECOND), "/t/a?ttl=7&status=404", 1),
    ] {
        let (clock, store) = with_manual_clock();
        let (inner, _) = counting(as_requested);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        let first = send(&service, get(target)).await;
        assert_eq!(outcome(&first), ABSENT, "{target}");
        if seconds == 0 {
            assert!(!matches!(outcome(&send(&service, get(target)).await), HIT), "{target}");
            continue;
        }
        clock.advance(Duration::from_secs(seconds) - Duration::from_nanos(1));
        assert_eq!(outcome(&send(&service, get(target)).await), HIT, "{target}");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(outcome(&send(&service, get(target)).await), EXPIRED, "{target}");
    }
}

#[tokio::test]
async fn lifetime_of_zero_is_not_stored() {
    let (_, store) = with_manual_clock();
    let (inner, _) = counting(as_requested);
    let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(Duration::ZERO))).layer(inner);
    let response = send(&service, get("/t/a")).await;
    let status = tower_response_cache::CacheStatus::of(&response).expect("marked");
    assert_eq!(status.stored(), Some(Storing::Not(NoStore::Lifetime)));
}

#[tokio::test]
async fn jitter_shortens_and_spreads_lifetimes() {
    let (clock, store) = with_manual_clock();
    let (inner, _) = counting(|_, _| ok("x"));
    let rules = Rules::new().route("/t/{id}", Rule::ttl(100 * SECOND).jitter(0.5));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let mut lifetimes = Vec::new();
    for id in 0..200 {
        let request = || get(&format!("/t/{id}"));
        send(&service, request()).await;
        let key = rules.key(&store, &request()).expect("a key");
        let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("stored");
        lifetimes.push(entry.expires().duration_since(clock.now()).expect("later"));
    }
    let (least, most) = (lifetimes.iter().min().expect("some"), lifetimes.iter().max().expect("some"));
    assert!(*most <= 100 * SECOND && *least >= 50 * SECOND, "{least:?} {most:?}");
    assert!(*most > 90 * SECOND && *least < 60 * SECOND, "{least:?} {most:?}");
}

#[tokio::test]
async fn longest_lifetimes_overflow_neither_jitter_nor_clock() {
    for jitter in [0.0, f64::MIN_POSITIVE, 0.5] {
        let (clock, store) = with_manual_clock();
        let (inner, _) = counting(|_, _| ok("x"));
        let rule = Rule::ttl(Duration::MAX).jitter(jitter).stale_while_revalidate(Duration::MAX).stale_if_error(Duration::MAX);
        let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
        send(&service, get("/t/a")).await;
        clock.advance(Duration::from_secs(100 * 365 * 86_400));
        store.remove_expired();
        assert_eq!(outcome(&send(&service, get("/t/a")).await), HIT, "{jitter}");
    }
}

type Mocked = (CacheService<mock::Mock<Request<Plain>, Response<Plain>>>, Handle);

fn mocked_service(store: &Memory, rule: Rule) -> Mocked {
    mocked(&CacheLayer::new(store.clone()).rules(one_rule(rule)))
}

/// Sends a request in its own task, as a server does.
fn request(service: &Mocked) -> tokio::task::JoinHandle<Result<(Outcome, StatusCode, String), BoxError>> {
    let service = service.0.clone();
    tokio::spawn(async move {
        let response = tower::ServiceExt::oneshot(service, get("/t/a")).await?;
        Ok((outcome(&response), response.status(), text(response).await))
    })
}

/// Lets every task run that can run.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn fill(service: &mut Mocked, body: &'static str) {
    let asking = request(service);
    next_call(&mut service.1).await.1.send_response(ok(body));
    assert_eq!(asking.await.expect("no panic").expect("a response").2, body);
}

/// Returns the response of the cache before the inner service has responded.
async fn at_once(service: &Mocked) -> (Outcome, String) {
    let asking = request(service);
    settle().await;
    assert!(asking.is_finished(), "the request waits for the inner service");
    let (outcome, _, body) = asking.await.expect("no panic").expect("a response");
    (outcome, body)
}

fn is_idle(handle: &mut Handle) -> bool {
    matches!(handle.poll_request(), Poll::Pending)
}

#[tokio::test]
async fn stale_while_revalidate_serves_and_refreshes_once() {
    let (clock, store) = with_manual_clock();
    let mut service = mocked_service(&store, Rule::ttl(MINUTE).stale_while_revalidate(MINUTE / 2));
    fill(&mut service, "old").await;
    clock.advance(MINUTE);
    for _ in 0..5 {
        assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
    }
    let (_, call) = next_call(&mut service.1).await;
    assert!(is_idle(&mut service.1), "there is only one refresh");
    call.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
    let stats = store.stats();
    assert_eq!((stats.stale_hits, stats.refreshes, stats.flights), (5, 1, 0));
}

#[tokio::test]
async fn stale_while_revalidate_ends_with_its_window() {
    for (age, want) in [
        (MINUTE - Duration::from_nanos(1), HIT),
        (MINUTE, REVALIDATING),
        (MINUTE * 3 / 2 - Duration::from_nanos(1), REVALIDATING),
        (MINUTE * 3 / 2, EXPIRED),
        (100 * MINUTE, EXPIRED),
    ] {
        let (clock, store) = with_manual_clock();
        let (inner, _) = counting(as_requested);
        let rule = Rule::ttl(MINUTE).stale_while_revalidate(MINUTE / 2);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        send(&service, get("/t/a")).await;
        clock.advance(age);
        assert_eq!(outcome(&send(&service, get("/t/a")).await), want, "{age:?}");
    }
}

#[tokio::test]
async fn failed_refresh_is_tried_again() {
    let (clock, store) = with_manual_clock();
    let mut service = mocked_service(&store, Rule::ttl(MINUTE).stale_while_revalidate(MINUTE));
    fill(&mut service, "old").await;
    clock.advance(MINUTE);
    for failure in [true, false] {
        assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
        let (_, call) = next_call(&mut service.1).await;
        if failure {
            call.send_error("down");
        } else {
            call.send_response(Response::builder().status(503).body(Plain::default()).expect("valid"));
        }
        settle().await;
    }
    assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
    next_call(&mut service.1).await.1.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
}

#[tokio::test]
async fn soft_invalidation_makes_stale_and_hard_removes() {
    let (_, store) = with_manual_clock();
    let rule = || Rule::ttl(MINUTE).namespace("db:{table}");
    let mut service = mocked_service(&store, rule().stale_while_revalidate(MINUTE));
    fill(&mut service, "old").await;
    store.invalidate_softly(["db:a"]).await.expect("valid");
    assert_eq!(at_once(&service).await, (REVALIDATING, "old".into()));
    next_call(&mut service.1).await.1.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
    store.invalidate(["db:a"]).await.expect("valid");
    let asking = request(&service);
    next_call(&mut service.1).await.1.send_response(ok("newer"));
    assert_eq!(asking.await.expect("no panic").expect("a response").0, ABSENT);

    // Without a window, a softly invalidated entry counts as expired.
    let mut service = mocked_service(&with_manual_clock().1, rule());
    fill(&mut service, "old").await;
    let (_, store) = with_manual_clock();
    let mut service = mocked_service(&store, rule());
    fill(&mut service, "old").await;
    store.invalidate_softly(["db"]).await.expect("valid");
    let asking = request(&service);
    next_call(&mut service.1).await.1.send_response(ok("new"));
    assert_eq!(asking.await.expect("no panic").expect("a response").0, Outcome::Miss(Miss::SoftlyInvalidated));
}

#[tokio::test]
async fn stale_if_error_serves_for_server_errors_only() {
    for (status, stale) in
        [(500, true), (502, true), (503, true), (504, true), (501, false), (505, false), (404, false), (429, false)]
    {
        let (clock, store) = with_manual_clock();
        let (inner, _) = counting(move |_, call| {
            let status = if call == 1 { 200 } else { status };
            Response::builder().status(status).body(Plain::from(call.to_string())).expect("valid")
        });
        let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE).stale_if_error(MINUTE))).layer(inner);
        send(&service, get("/t/a")).await;
        clock.advance(MINUTE);
        let response = send(&service, get("/t/a")).await;
        let want = if stale { (FAILING, 200, "1") } else { (EXPIRED, status, "2") };
        assert_eq!((outcome(&response), response.status().as_u16(), text(response).await.as_str()), want);
        assert_eq!(store.stats().stale_hits, u64::from(stale));
        assert_eq!(store.stats().flights, 0);
    }
}

#[tokio::test]
async fn stale_if_error_ends_with_its_window() {
    for (age, stale) in
        [(MINUTE, true), (2 * MINUTE - Duration::from_nanos(1), true), (2 * MINUTE, false), (90 * MINUTE, false)]
    {
        let (clock, store) = with_manual_clock();
        let mut service = mocked_service(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE));
        fill(&mut service, "old").await;
        clock.advance(age);
        let asking = request(&service);
        next_call(&mut service.1).await.1.send_error("down");
        let answer = asking.await.expect("no panic");
        match stale {
            true => assert_eq!(answer.expect("a stale response"), (FAILING, StatusCode::OK, "old".into()), "{age:?}"),
            false => assert_eq!(answer.expect_err("the error").to_string(), "down", "{age:?}"),
        }
        assert_eq!(store.stats().flights, 0);
    }
}

#[tokio::test]
async fn stale_if_error_window_counts_when_the_error_comes() {
    let (clock, store) = with_manual_clock();
    let mut service = mocked_service(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE));
    fill(&mut service, "old").await;
    clock.advance(MINUTE * 3 / 2);
    let asking = request(&service);
    let (_, call) = next_call(&mut service.1).await;
    clock.advance(MINUTE);
    call.send_error("down");
    assert!(asking.await.expect("no panic").is_err());
}

#[tokio::test]
async fn stale_if_error_never_serves_invalidated_entries() {
    for (hard, by_key) in [(true, false), (true, true), (false, false)] {
        let (clock, store) = with_manual_clock();
        let rule = Rule::ttl(MINUTE).namespace("db:{table}").stale_if_error(MINUTE);
        let mut service = mocked_service(&store, rule.clone());
        fill(&mut service, "old").await;
        clock.advance(MINUTE);
        let asking = request(&service);
        let (_, call) = next_call(&mut service.1).await;
        match (hard, by_key) {
            (_, true) => {
                let key = one_rule(rule).key(&store, &get("/t/a")).expect("a key");
                store.invalidate_key(&key).await.expect("memory answers");
            }
            (true, _) => store.invalidate(["db:a"]).await.expect("valid"),
            (false, _) => store.invalidate_softly(["db:a"]).await.expect("valid"),
        }
        call.send_error("down");
        match asking.await.expect("no panic") {
            Ok(answer) => assert_eq!((hard, answer.0), (false, FAILING)),
            Err(error) => assert!(hard, "{error}"),
        }
    }
}

#[tokio::test]
async fn followers_of_failed_fills_do_not_queue() {
    let (clock, store) = with_manual_clock();
    let mut service = mocked_service(&store, Rule::ttl(MINUTE).stale_if_error(MINUTE));
    fill(&mut service, "old").await;
    clock.advance(MINUTE);
    let asking: Vec<_> = (0..5).map(|_| request(&service)).collect();
    settle().await;
    next_call(&mut service.1).await.1.send_error("down");
    settle().await;
    let mut calls = Vec::new();
    while let Poll::Ready(Some((_, call))) = service.1.poll_request() {
        calls.push(call);
    }
    assert_ne!(calls.len(), 1, "the calls fail one after the other");
    calls.into_iter().for_each(|call| call.send_error("down"));
    for answer in asking {
        assert_eq!(answer.await.expect("no panic").expect("a stale response").2, "old");
    }
}

#[tokio::test]
async fn refresh_ahead_calls_once_while_hits_are_served() {
    let (clock, store) = with_manual_clock();
    let mut service = mocked_service(&store, Rule::ttl(MINUTE).refresh_ahead(1e9));
    let asking = request(&service);
    let (_, call) = next_call(&mut service.1).await;
    clock.advance(SECOND);
    call.send_response(ok("old"));
    asking.await.expect("no panic").expect("a response");
    for _ in 0..5 {
        assert_eq!(at_once(&service).await, (HIT, "old".into()));
    }
    let (_, call) = next_call(&mut service.1).await;
    assert!(is_idle(&mut service.1), "there is only one refresh");
    // An entry whose fill took no time is not refreshed ahead.
    call.send_response(ok("new"));
    settle().await;
    assert_eq!(at_once(&service).await, (HIT, "new".into()));
    assert!(is_idle(&mut service.1));
    assert_eq!((store.stats().refreshes, store.stats().hits), (1, 6));
}

#[tokio::test]
async fn refresh_ahead_is_off_by_default() {
    for rule in [Rule::ttl(MINUTE), Rule::ttl(MINUTE).refresh_ahead(0.0)] {
        let (clock, store) = with_manual_clock();
        let mut service = mocked_service(&store, rule);
        let asking = request(&service);
        let (_, call) = next_call(&mut service.1).await;
        clock.advance(1000 * MINUTE);
        call.send_response(ok("old"));
        asking.await.expect("no panic").expect("a response");
        clock.advance(MINUTE - Duration::from_nanos(1));
        for _ in 0..20 {
            assert_eq!(at_once(&service).await, (HIT, "old".into()));
        }
        assert!(is_idle(&mut service.1));
    }
}

#[tokio::test]
async fn refresh_ahead_ignores_entries_with_long_lifetimes() {
    let (clock, store) = with_manual_clock();
    let mut service = mocked_service(&store, Rule::ttl(1000 * MINUTE).refresh_ahead(1.0));
    let asking = request(&service);
    let (_, call) = next_call(&mut service.1).await;
    clock.advance(SECOND);
    call.send_response(ok("old"));
    asking.await.expect("no panic").expect("a response");
    for _ in 0..100 {
        assert_eq!(at_once(&service).await, (HIT, "old".into()));
    }
    assert!(is_idle(&mut service.1));
}

#[tokio::test]
async fn uncached_rule_bypasses_reads() {
    let (inner, calls) = counting(as_requested);
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::uncached().namespace("a"))).layer(inner);
    for _ in 0..2 {
        let response = send(&service, get("/t/a")).await;
        assert_eq!(outcome(&response), Outcome::Bypass(tower_response_cache::status::Bypass::Uncached));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
