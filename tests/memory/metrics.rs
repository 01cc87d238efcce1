//! Values that are passed to the recorder of the `metrics` facade.

use std::collections::BTreeMap;

use crate::common::{MINUTE, counting, get, ok, one_rule, post, send};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Memory, Rule, Store,
    status::{Bypass, Miss, NoStore},
};

/// Returns the values that one call of `record` passes, by name and labels.
fn recorded(record: impl FnOnce()) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, record);
    let all = snapshots.snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let labels: Vec<_> = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(_) => panic!("no histogram is recorded"),
        };
        (format!("{} {}", key.key().name(), labels.join(" ")), value)
    });
    all.collect()
}

#[tokio::test]
async fn every_count_is_recorded_with_the_cache_name() {
    let store = Memory::new(1 << 20);
    let (inner, _) = counting(|request, _| {
        let mut response = ok("rows");
        if request.uri().path() == "/t/private" {
            response.headers_mut().insert("cache-control", "private".parse().expect("a value"));
        }
        response
    });
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    for request in [get("/t/a"), get("/t/a"), get("/t/a"), get("/t/b"), get("/t/private"), post("/t/a"), get("/other")] {
        send(&cache, request).await;
    }
    let stats = store.stats();
    let said = recorded(|| stats.record("api"));
    for (name, value) in [
        ("response_cache_hits_total cache=api kind=fresh", 2.0),
        ("response_cache_hits_total cache=api kind=stale", 0.0),
        ("response_cache_misses_total cache=api reason=absent", 3.0),
        ("response_cache_misses_total cache=api reason=expired", 0.0),
        ("response_cache_bypasses_total cache=api reason=method", 1.0),
        ("response_cache_not_stored_total cache=api reason=private", 1.0),
        ("response_cache_stored_total cache=api", 2.0),
        ("response_cache_inner_calls_total cache=api", 3.0),
        ("response_cache_entries cache=api", 2.0),
        ("response_cache_capacity_bytes cache=api", f64::from(1 << 20)),
        ("response_cache_bytes cache=api", stats.bytes as f64),
        ("response_cache_hit_ratio cache=api", 0.4),
    ] {
        assert_eq!(said.get(name), Some(&value), "{name} in {said:#?}");
    }
    // One value for each reason, each kind of hit, each other count and each state: a new one must be recorded, too.
    assert_eq!(said.len(), 3 + Miss::ALL.len() + Bypass::ALL.len() + NoStore::ALL.len() + 20 + 8);
}

#[tokio::test]
async fn later_record_replaces_the_earlier_one() {
    let store = Memory::new(1 << 20);
    let (inner, _) = counting(|_, _| ok("rows"));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    for _ in 0..3 {
        send(&cache, get("/t/a")).await;
        metrics::with_local_recorder(&recorder, || store.stats().record("api"));
    }
    let hits = snapshots.snapshot().into_vec().into_iter().find(|(key, ..)| {
        key.key().name() == "response_cache_hits_total" && key.key().labels().any(|label| label.value() == "fresh")
    });
    assert_eq!(hits.expect("the counter is recorded").3, DebugValue::Counter(2));
}
