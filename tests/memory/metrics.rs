//! Values that are passed to the recorder of the `metrics` facade.

use std::collections::BTreeMap;

use http::{HeaderValue, Request};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::{Layer, ServiceExt};
use tower_response_cache::{CacheLayer, Memory, ResponseCache, Rule, Rules, Store};

use super::{settle, with_manual_clock};
use crate::common::{MINUTE, Plain, SECOND, counting, get, mocked, next_call, ok, one_rule, post, send};

/// A recorded value. A histogram is the list of its values.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(f64),
    Histogram(Vec<f64>),
}

/// Returns the recorded values by name and labels.
fn values(recorder: &DebuggingRecorder) -> BTreeMap<String, Value> {
    let all = recorder.snapshotter().snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let labels: Vec<_> = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(count) => Value::Number(count as f64),
            DebugValue::Gauge(value) => Value::Number(value.into_inner()),
            DebugValue::Histogram(values) => Value::Histogram(values.into_iter().map(|value| value.into_inner()).collect()),
        };
        (format!("{} {}", key.key().name(), labels.join(" ")), value)
    });
    all.collect()
}

/// Returns the values that one call passes.
fn recorded(record: impl FnOnce()) -> BTreeMap<String, Value> {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, record);
    values(&recorder)
}

#[tokio::test]
async fn every_count_is_recorded_with_its_labels() {
    let store = Memory::new(1 << 20);
    let (inner, calls) = counting(|request, _| {
        let mut response = ok("rows");
        if request.uri().path() == "/t/private" {
            response.headers_mut().insert("cache-control", HeaderValue::from_static("private"));
        }
        response
    });
    let rules = one_rule(Rule::ttl(MINUTE)).fallback(Rule::ttl(MINUTE));
    let cache = CacheLayer::new(store.clone()).rules(rules).layer(inner);
    let head = Request::head("/t/a").body(Plain::default()).expect("valid");
    for request in [get("/t/a"), get("/t/a"), get("/t/a"), head, get("/t/b"), get("/t/private"), post("/t/a"), get("/other")] {
        send(&cache, request).await;
    }
    store.invalidate(["a"]).await.expect("a name");
    store.invalidate_softly(["b"]).await.expect("a name");
    let stats = store.stats();
    let said = recorded(|| stats.record("api"));
    let route = "cache=api route=/t/{table}";
    for (name, value) in [
        (format!("cache_requests_total {route} result=hit reason= tier=memory"), 3.0),
        (format!("cache_requests_total {route} result=miss reason=absent tier=inner"), 3.0),
        (format!("cache_requests_total {route} result=bypass reason=method tier=inner"), 1.0),
        ("cache_requests_total cache=api route=(any) result=miss reason=absent tier=inner".into(), 1.0),
        (format!("cache_responses_not_stored_total {route} reason=private"), 1.0),
        (format!("cache_responses_stored_total {route}"), 2.0),
        (format!("cache_response_bytes_total {route} source=cache"), 8.0),
        (format!("cache_response_bytes_total {route} source=inner"), 16.0),
        (format!("cache_inner_calls_total {route}"), 3.0),
        ("cache_inner_calls_total cache=api route=(any)".into(), 1.0),
        (format!("cache_inner_calls_saved_total {route}"), 3.0),
        (format!("cache_hit_ratio {route}"), 0.5),
        ("cache_entries cache=api".into(), 3.0),
        ("cache_capacity_bytes cache=api".into(), f64::from(1 << 20)),
        ("cache_size_bytes cache=api".into(), stats.bytes as f64),
        ("cache_invalidations_total cache=api kind=hard".into(), 1.0),
        ("cache_invalidations_total cache=api kind=soft".into(), 1.0),
        ("cache_fills_in_progress cache=api".into(), 0.0),
        ("cache_followers cache=api".into(), 0.0),
        ("cache_never_invalidated_entries_total cache=api".into(), 3.0),
    ] {
        assert_eq!(said.get(&name), Some(&Value::Number(value)), "{name} in {said:#?}");
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 5, "three fills, one bypass, one of the fallback");
    assert!(said.values().all(|value| matches!(value, Value::Number(_))), "no histogram is recorded late or without a name");
    // Outcomes and reasons that never occurred have no series.
    assert_eq!(said.keys().filter(|name| name.starts_with("cache_requests_total")).count(), 4);
}

#[tokio::test]
async fn reloads_are_recorded_by_result() {
    let cache = ResponseCache::new(Memory::new(1 << 20));
    cache.reload(one_rule(Rule::ttl(MINUTE))).await.expect("memory");
    let said = recorded(|| cache.stats().record("api"));
    for (result, count) in [("replaced", 1.0), ("refused", 0.0)] {
        assert_eq!(said[&format!("cache_rules_reloads_total cache=api result={result}")], Value::Number(count), "{result}");
    }
}

#[tokio::test]
async fn later_record_replaces_the_earlier_one() {
    let store = Memory::new(1 << 20);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(|_, _| ok("rows")).0);
    let recorder = DebuggingRecorder::new();
    for _ in 0..3 {
        send(&cache, get("/t/a")).await;
        metrics::with_local_recorder(&recorder, || store.stats().record("api"));
    }
    let said = values(&recorder);
    let hits = &said["cache_requests_total cache=api route=/t/{table} result=hit reason= tier=memory"];
    assert_eq!(*hits, Value::Number(2.0));
}

#[tokio::test]
async fn histograms_hold_each_fill_and_each_wait() {
    let (clock, store) = with_manual_clock(1 << 20);
    let rules = Rules::new().route("/t/{table}", Rule::ttl(MINUTE)).route("/unused", Rule::ttl(MINUTE));
    let recorder = DebuggingRecorder::new();
    let (service, mut handle) = metrics::with_local_recorder(&recorder, || {
        mocked::<Plain>(&CacheLayer::new(store.clone()).rules(rules).metrics("api"))
    });
    for (path, seconds, bytes) in [("/t/a", 2, 100), ("/t/b", 4, 1_000)] {
        let asking = [(); 3].map(|()| tokio::spawn(service.clone().oneshot(get(path))));
        settle().await;
        assert_eq!((store.stats().followers, store.stats().flights), (2, 1));
        clock.advance(seconds * SECOND);
        next_call(&mut handle).await.1.send_response(ok(vec![b'.'; bytes]));
        for answer in asking {
            answer.await.expect("no panic").expect("a response");
        }
        for _ in 0..100 {
            send(&service, get(path)).await;
        }
    }
    let said = values(&recorder);
    let of = |name: &str| match said.get(&format!("{name} cache=api route=/t/{{table}}")) {
        Some(Value::Histogram(values)) => values.clone(),
        other => panic!("{name}: {other:?} in {said:#?}"),
    };
    assert_eq!(of("cache_fill_duration_seconds"), [2.0, 4.0]);
    assert_eq!(of("cache_follower_wait_seconds"), [2.0, 2.0, 4.0, 4.0]);
    let misses = said.get("cache_request_duration_seconds cache=api route=/t/{table} result=miss");
    assert_eq!(misses, Some(&Value::Histogram(vec![2.0, 4.0])), "the leaders");
    let sizes = of("cache_entry_size_bytes");
    assert_eq!(sizes.len(), 2, "one for each stored response, none for a hit");
    let stats = store.stats();
    let sum = sizes.iter().sum::<f64>();
    assert!(sum > 1_100.0 && sum < stats.bytes as f64, "the bodies, and less than the store with its table: {sum}");
    assert_eq!(stats.routes[0].stored_bytes as f64, sum);
    assert_eq!((stats.routes[0].wait_times.count(), stats.routes[0].wait_times.sum()), (4, 12 * SECOND));
    assert_eq!((stats.followers, stats.collapsed), (0, 4));
}

#[tokio::test]
async fn ages_and_invalidation_times_are_measured() {
    let (clock, store) = with_manual_clock(1 << 16);
    let recorder = DebuggingRecorder::new();
    let layer = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).metrics("api");
    let service = metrics::with_local_recorder(&recorder, || layer.layer(counting(|_, _| ok(vec![b'.'; 1_000])).0));
    send(&service, get("/t/a")).await;
    clock.advance(40 * SECOND);
    send(&service, get("/t/a")).await;
    for n in 0..200 {
        send(&service, get(&format!("/t/{n}"))).await;
        clock.advance(SECOND / 10);
    }
    for _ in 0..70 {
        store.invalidate(["a"]).await.expect("a name");
    }
    let stats = store.stats();
    let age = stats.routes[0].hit_ages.quantile(0.5);
    assert!(age.abs_diff(40 * SECOND) < 3 * SECOND, "{age:?}");
    assert_eq!(stats.eviction_ages.count(), stats.evictions.div_ceil(16));
    let evicted = stats.eviction_ages.quantile(0.5);
    assert!(evicted > SECOND / 20 && evicted < 60 * SECOND, "a tenth of a second for each request after it: {evicted:?}");
    assert_eq!((stats.invalidation_times.count(), stats.invalidations, stats.soft_invalidations), (2, 70, 0));
    let said = values(&recorder);
    let route = &stats.routes[0];
    let of_route = "cache=api route=/t/{table}";
    for (name, times) in [
        ("cache_eviction_age_seconds cache=api".to_owned(), &stats.eviction_ages),
        ("cache_invalidation_duration_seconds cache=api".into(), &stats.invalidation_times),
        (format!("cache_hit_age_seconds {of_route}"), &route.hit_ages),
        (format!("cache_fill_duration_seconds {of_route}"), &route.fill_times),
        (format!("cache_request_duration_seconds {of_route} result=hit"), &route.hit_times),
        (format!("cache_request_duration_seconds {of_route} result=miss"), &route.miss_times),
    ] {
        let Some(Value::Histogram(exported)) = said.get(&name) else { panic!("{name} in {said:#?}") };
        assert!(times.count() > 0 && exported.len() as u64 == times.count(), "{name}: {exported:?}");
        let sum: f64 = exported.iter().sum();
        assert!((sum - times.sum().as_secs_f64()).abs() < 1e-6, "{name}: {sum} {:?}", times.sum());
    }
}

#[tokio::test]
async fn histograms_of_a_route_have_the_name_of_the_first_layer() {
    let (store, recorder) = (Memory::new(1 << 20), DebuggingRecorder::new());
    for name in ["first", "second"] {
        let layer = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).metrics(name);
        let service = metrics::with_local_recorder(&recorder, || layer.layer(counting(|_, _| ok("rows")).0));
        send(&service, get(&format!("/t/{name}"))).await;
    }
    let said = values(&recorder);
    let Some(Value::Histogram(fills)) = said.get("cache_fill_duration_seconds cache=first route=/t/{table}") else {
        panic!("{said:#?}")
    };
    assert_eq!(fills.len(), 2, "each fill once");
}

#[test]
fn invalidations_that_race_with_the_reading_count_none() {
    let mut stats = Memory::new(1 << 20).stats();
    // A soft invalidation began between the reading of one counter and of the other.
    stats.soft_invalidations = stats.invalidations + 1;
    let said = recorded(|| stats.record("api"));
    assert_eq!(said["cache_invalidations_total cache=api kind=hard"], Value::Number(0.0));
}
