//! Statistics by route: every request is counted once, with its outcome, its tier and its bytes.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    CacheLayer, CacheStatus, Identity, Memory, Outcome, Rule, Rules, Store,
    stats::{RouteStats, Tier},
    status::{Bypass, Miss, NoStore},
};

use super::{settle, sized, with_manual_clock};
use crate::common::{MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, outcome, post, send};

/// The number of requests by the route, the outcome and the tier.
type Counts = BTreeMap<(String, String, &'static str), u64>;

fn name(route: Option<&str>) -> String {
    route.unwrap_or("none").to_owned()
}

fn counts(routes: &[RouteStats]) -> Counts {
    let requests = routes.iter().flat_map(|of| of.requests.iter().map(|counted| (name(of.route.as_deref()), counted)));
    requests.map(|(route, of)| ((route, format!("{:?}", of.outcome), of.tier.as_str()), of.count)).collect()
}

fn route<'a>(routes: &'a [RouteStats], pattern: &str) -> &'a RouteStats {
    routes.iter().find(|of| of.route.as_deref() == Some(pattern)).expect("the route has had a request")
}

#[tokio::test]
async fn each_request_counts_once_for_its_route_and_outcome() {
    let (clock, store) = with_manual_clock(8 << 20);
    let rules = Rules::new()
        .route("/plain/{n}", Rule::ttl(MINUTE).stale_while_revalidate(MINUTE).stale_if_error(10 * MINUTE))
        .route("/user/{n}", Rule::ttl(MINUTE).identity(Identity::bearer()))
        .route("/written/{n}", Rule::uncached())
        .fallback(Rule::http().default_ttl(MINUTE));
    let (inner, calls) = counting(|request, call| {
        let mut response = ok(format!("answer {call}"));
        if request.headers().contains_key("x-private") {
            response.headers_mut().insert("cache-control", HeaderValue::from_static("private"));
        }
        if request.headers().contains_key("x-fails") {
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    });
    let service = CacheLayer::new(store.clone()).rules(rules).layer(inner);
    let mut random = fastrand::Rng::with_seed(16);
    let (mut expected, mut forwarded) = (Counts::new(), 0);
    for _ in 0..4_000 {
        let pattern = ["/plain/{n}", "/user/{n}", "/written/{n}", "none"][random.usize(..4)];
        let mut request = get(&pattern.replace("{n}", &random.u8(0..3).to_string()).replace("none", "/other"));
        // Under `Rule::http()`, a HEAD can be a fill.
        let other = if pattern == "none" { Method::GET } else { Method::HEAD };
        *request.method_mut() = [Method::GET, Method::GET, Method::GET, other, Method::POST][random.usize(..5)].clone();
        for (field, value) in [
            ("authorization", "Bearer a"),
            ("range", "bytes=0-1"),
            ("x-private", "yes"),
            ("x-fails", "yes"),
            ("cache-control", "only-if-cached"),
            ("cache-control", "no-cache"),
            ("cache-control", "max-stale"),
        ] {
            if random.u8(..6) == 0 {
                request.headers_mut().insert(field, HeaderValue::from_static(value));
            }
        }
        if random.u8(..8) == 0 {
            clock.advance(20 * SECOND);
        }
        let outcome = outcome(&send(&service, request).await);
        let tier = match outcome {
            Outcome::Miss(_) | Outcome::Bypass(_) => Tier::Inner,
            _ => Tier::Memory,
        };
        forwarded += usize::from(matches!(outcome, Outcome::Bypass(_) | Outcome::Miss(Miss::Head)));
        *expected.entry((pattern.to_owned(), format!("{outcome:?}"), tier.as_str())).or_default() += 1;
    }
    let stats = store.stats();
    assert_eq!(counts(&stats.routes), expected);
    for (outcome, tier) in [
        ("Hit", "memory"),
        ("Stale(WhileRevalidate)", "memory"),
        ("Stale(IfError)", "memory"),
        ("Stale(MaxStale)", "memory"),
        ("OnlyIfCached", "memory"),
        ("Miss(Head)", "inner"),
        ("Miss(Request)", "inner"),
        ("Bypass(Method)", "inner"),
        ("Bypass(Uncached)", "inner"),
        ("Bypass(Range)", "inner"),
    ] {
        assert!(expected.keys().any(|key| (key.1.as_str(), key.2) == (outcome, tier)), "no {outcome} in {expected:?}");
    }
    // The counts of the store are the sums of the routes.
    let all: u64 = expected.values().sum();
    let of_store = stats.hits + stats.stale_hits + stats.collapsed + stats.misses() + stats.only_if_cached;
    assert_eq!(of_store + stats.bypasses.iter().map(|(_, n)| n).sum::<u64>(), all);
    assert_eq!(all, 4_000);
    assert_eq!(calls.load(Ordering::SeqCst), stats.inner_calls as usize + forwarded, "calls of the inner service");
}

#[tokio::test]
async fn route_is_the_pattern_for_any_number_of_paths() {
    let store = Memory::new(8 << 20);
    let rules = || Rules::new().route("/t/{table}", Rule::ttl(MINUTE)).route("/unused", Rule::ttl(MINUTE));
    // Layers over one store share the counters of a pattern.
    let layers: Vec<_> =
        (0..2).map(|_| CacheLayer::new(store.clone()).rules(rules()).layer(counting(|_, _| ok("x")).0)).collect();
    for n in 0..500 {
        send(&layers[n % 2], get(&format!("/t/{n}?page={n}"))).await;
    }
    drop(layers);
    let routes = store.stats().routes;
    assert_eq!(counts(&routes), Counts::from([(("/t/{table}".to_owned(), "Miss(Absent)".to_owned(), "inner"), 500)]));
    assert_eq!(store.stats().misses(), 500);
}

#[tokio::test]
async fn bytes_and_durations_equal_those_of_inner_service() {
    let (clock, store) = with_manual_clock(8 << 20);
    let (service, mut handle) = mocked::<Plain>(&CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))));
    let both = [(); 2].map(|()| tokio::spawn(service.clone().oneshot(get("/t/a"))));
    settle().await;
    clock.advance(3 * SECOND);
    next_call(&mut handle).await.1.send_response(ok(vec![b'.'; 1_000]));
    for answer in both {
        answer.await.expect("no panic").expect("a response");
    }
    for _ in 0..130 {
        let body = send(&service, get("/t/a")).await.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body.len(), 1_000);
    }
    let head = Request::head("/t/a").body(Plain::default()).expect("valid");
    assert_eq!(outcome(&send(&service, head).await), Outcome::Hit);
    let bypass = tokio::spawn(service.clone().oneshot(post("/t/a")));
    let call = next_call(&mut handle).await.1;
    clock.advance(5 * SECOND);
    call.send_response(ok(vec![b'.'; 70]));
    bypass.await.expect("no panic").expect("a response");

    let routes = store.stats().routes;
    let of = route(&routes, "/t/{table}");
    assert_eq!((of.cache_bytes, of.inner_bytes), (131_000, 1_070));
    assert_eq!((of.inner_calls, of.stored, of.fill_times.count(), of.fill_times.sum()), (1, 1, 1, 3 * SECOND));
    assert_eq!((of.miss_times.count(), of.miss_times.sum()), (1, 3 * SECOND));
    assert_eq!((of.bypass_times.count(), of.bypass_times.sum()), (1, 5 * SECOND));
    assert_eq!(of.hit_times.count(), 3, "one hit in 64 is timed, from the first on");
    let median = of.fill_times.quantile(0.5);
    assert!(median.abs_diff(3 * SECOND) < SECOND / 5, "{median:?}");
    assert!((of.hit_ratio() - 132.0 / 133.0).abs() < 1e-9);
    assert_eq!(store.stats().inner_time, 3 * SECOND);
}

#[tokio::test]
async fn sizes_of_bodies_add_up_by_route() {
    let store = Memory::new(8 << 20);
    let rules = Rules::new().route("/a/{n}", Rule::ttl(MINUTE)).route("/b/{n}", Rule::ttl(MINUTE));
    let service = CacheLayer::new(store.clone()).rules(rules).layer(counting(sized).0);
    for (path, times) in [("/a/x-10", 3), ("/a/x-7", 2), ("/b/x-500", 5), ("/b/x-0", 4)] {
        for _ in 0..times {
            send(&service, get(path)).await;
        }
    }
    let routes = store.stats().routes;
    let bytes = |pattern| (route(&routes, pattern).cache_bytes, route(&routes, pattern).inner_bytes);
    assert_eq!((bytes("/a/{n}"), bytes("/b/{n}")), ((27, 17), (2_000, 500)));
}

#[tokio::test]
async fn failed_and_abandoned_requests_count_as_misses() {
    let store = Memory::new(8 << 20);
    let layer = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE)));
    let failing = layer.layer(service_fn(async |_: Request<Plain>| Err::<Response<Plain>, _>("down")));
    failing.oneshot(get("/t/a")).await.map(|_| ()).expect_err("the inner service fails");
    // With no room for fills, nothing outlives the client.
    let (service, mut handle) = mocked::<Plain>(&layer.max_concurrent_fills(0));
    let abandoned = tokio::spawn(service.oneshot(get("/t/b")));
    let call = next_call(&mut handle).await;
    abandoned.abort();
    assert!(abandoned.await.expect_err("it was aborted").is_cancelled());
    drop(call);
    let routes = store.stats().routes;
    let of = route(&routes, "/t/{table}");
    assert_eq!(of.count(|outcome| outcome == Outcome::Miss(Miss::Absent)), 1);
    assert_eq!(of.count(|outcome| outcome == Outcome::Miss(Miss::FlightLimit)), 1);
    assert_eq!((of.not_stored.clone(), of.inner_calls), (vec![(NoStore::Failed, 1)], 2));
}

#[tokio::test]
async fn bypass_without_a_rule_is_not_counted() {
    let store = Memory::new(8 << 20);
    let layer = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).enabled(false);
    let service = layer.layer(counting(|_, _| ok("x")).0);
    assert!(CacheStatus::of(&send(&service, get("/other")).await).is_none());
    assert!(store.stats().routes.is_empty());
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Bypass(Bypass::Disabled));
    assert_eq!(counts(&store.stats().routes).into_values().sum::<u64>(), 1);
}
