//! Metrics of a store in Redis: their names, their documentation, the dashboard, and the counts of the server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use metrics_util::debugging::DebuggingRecorder;
use serde_json::Value;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    CacheLayer, Outcome, Redis, ResponseCache, Rule, Store, postgres::PostgresStats, redis::Coherence, stats::AuditResult,
};

use crate::{
    common::{
        redis::{Server, until},
        spans::Spans,
        *,
    },
    setup::{builder, rule},
};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a file of the repository")
}

/// Returns the recorded names, each with its kind and its labels.
fn recorded(recorder: &DebuggingRecorder) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut all = BTreeMap::new();
    for (key, ..) in recorder.snapshotter().snapshot().into_vec() {
        let labels = key.key().labels().map(|label| label.key().to_owned()).collect();
        all.insert(key.key().name().to_owned(), (format!("{:?}", key.kind()).to_lowercase(), labels));
    }
    all
}

fn audited() -> Rule {
    Rule::ttl(MINUTE).namespace("audited").audit(1.0)
}

/// Lets a cache emit every metric that it has.
async fn emitted() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let server = Server::start().await;
    let store = builder(&server).memory(1 << 16).build().await.expect("a store");
    let (recorder, outdated) = (DebuggingRecorder::new(), Arc::new(AtomicUsize::new(0)));
    let cache = ResponseCache::new(store.clone())
        .route("/t/{table}", rule())
        .route("/audited", audited())
        .route("/shadow", Rule::ttl(MINUTE).namespace("shadow").shadow())
        .track_hottest(10)
        .map_cache_layer(|layer| layer.audit_body(Plain::new).audit_grace(Duration::ZERO));
    let service = metrics::with_local_recorder(&recorder, || {
        let outdated = outdated.clone();
        let (inner, _) = counting(move |request, _| {
            if matches!(request.uri().path(), "/audited" | "/shadow") {
                let is_new = outdated.load(Ordering::SeqCst) > 0;
                return ok(if is_new { "new" } else { "old" });
            }
            let mut response = ok(vec![b'.'; 4_000]);
            if request.uri().path() == "/t/private" {
                response.headers_mut().insert("cache-control", "private".parse().expect("a value"));
            }
            response
        });
        cache.clone().metrics("api").layer().layer(inner)
    });
    let table = |n: usize| get(&format!("/t/{n}"));
    until("entries are evicted", async || {
        for n in 0..100 {
            service.clone().oneshot(table(n)).await.expect("a response");
        }
        store.stats().evictions > 0
    })
    .await;
    until("there is a hit", async || {
        service.clone().oneshot(table(1)).await.expect("a response");
        store.stats().hits > 0
    })
    .await;
    for request in [get("/t/private"), post("/t/1")] {
        service.clone().oneshot(request).await.expect("a response");
    }
    let read = async |target: &str| {
        let response = service.clone().oneshot(get(target)).await.expect("a response");
        response.into_body().collect().await.expect("a body");
    };
    until("the responses are stored", async || {
        let before = store.stats().stored;
        read("/audited").await;
        read("/shadow").await;
        store.stats().stored == before
    })
    .await;
    outdated.store(1, Ordering::SeqCst);
    until("an audit and a hit in shadow mode differ", async || {
        read("/audited").await;
        read("/shadow").await;
        let stats = store.stats();
        stats.audits(AuditResult::Differed) > 0 && stats.routes.iter().any(|route| route.shadow.differed > 0)
    })
    .await;
    let usage = store.server().await.expect("the server answers");
    metrics::with_local_recorder(&recorder, || {
        cache.stats().record("api");
        usage.record("api");
        PostgresStats::default().record("api");
    });
    recorded(&recorder)
}

#[tokio::test]
async fn emitted_metrics_are_those_of_guide_and_dashboard() {
    let emitted = emitted().await;
    let guide = file("docs/observability.md");
    let rows = guide.lines().filter(|line| line.starts_with("| `cache_"));
    let documented: BTreeMap<String, (String, BTreeSet<String>)> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let labels = cells[3].split(", ").filter(|label| !label.is_empty()).chain(["cache"]);
            (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels.map(str::to_owned).collect()))
        })
        .collect();
    assert_eq!(emitted, documented);
    for (name, (kind, _)) in &emitted {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
    }

    let dashboard: Value = serde_json::from_str(&file("docs/grafana.json")).expect("JSON");
    let queries = queries(&dashboard);
    assert!(queries.len() > 30, "{queries:?}");
    for query in queries {
        for (name, labels) in series(&query) {
            let base = ["_sum", "_count", "_bucket"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let known = match base {
                Some(base) => emitted.get(base).filter(|(kind, _)| kind == "histogram"),
                None => emitted.get(&name),
            };
            let (kind, known) = known.unwrap_or_else(|| panic!("nothing emits {name}: {query}"));
            let mut known = known.clone();
            if kind == "histogram" {
                // The labels of buckets, and of a summary. Prometheus groups the buckets of a query by the first.
                known.extend(["le".to_owned(), "quantile".to_owned()]);
            }
            assert!(labels.is_subset(&known), "{name} has the labels {known:?}: {query}");
        }
    }
}

/// Returns all queries of a dashboard.
fn queries(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str).map(str::to_owned);
            let variable = fields.get("query").and_then(Value::as_str).filter(|query| query.starts_with("label_values"));
            let own = own.into_iter().chain(variable.map(str::to_owned));
            own.chain(fields.values().flat_map(queries)).collect()
        }
        Value::Array(values) => values.iter().flat_map(queries).collect(),
        _ => Vec::new(),
    }
}

/// Returns the metrics of a query, with the labels that it selects or groups by.
fn series(query: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let grouped = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()).flat_map(|labels| labels.split(','));
    let grouped: BTreeSet<String> = grouped.map(|label| label.trim().to_owned()).collect();
    let starts = query.match_indices("cache_").map(|(at, _)| at).filter(|at| !query[..*at].ends_with(is_name));
    starts
        .map(|at| {
            let rest = &query[at..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let selector = rest[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            let selected =
                selector.split(',').filter_map(|part| part.split(['=', '!']).next()).filter(|label| !label.is_empty());
            (rest[..end].to_owned(), selected.map(str::to_owned).chain(grouped.clone()).collect())
        })
        .collect()
}

/// Returns how often the server has run a command.
async fn server_calls(server: &Server, command: &str) -> u64 {
    server.command_calls().await.get(command).copied().unwrap_or(0)
}

#[tokio::test]
async fn round_trips_equal_the_commands_of_the_server() {
    let server = Server::start().await;
    let store = builder(&server).coherence(Coherence::Validated).build().await.unwrap();
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(counting(|_, _| ok("rows")).0);
    until("hits need one command", async || {
        let (hits, trips) = (store.stats().hits, store.stats().round_trips);
        send(&service, get("/t/x")).await;
        store.stats().hits > hits && store.stats().round_trips == trips + 1
    })
    .await;
    let (before, of_server) = (store.stats(), server_calls(&server, "mget").await);
    for _ in 0..50 {
        assert_eq!(outcome(&send(&service, get("/t/x")).await), Outcome::Hit);
    }
    let after = store.stats();
    assert_eq!(server_calls(&server, "mget").await - of_server, 50);
    assert_eq!(after.round_trips - before.round_trips, 50);
    assert_eq!(after.round_trip_times.count() - before.round_trip_times.count(), 50);
    assert_eq!((after.failed_round_trips, after.hits - before.hits), (0, 50));
    assert_eq!(after.round_trips, store.round_trips());
    let in_the_middle = after.round_trip_times.since(&before.round_trip_times).quantile(0.5);
    assert!(in_the_middle > Duration::ZERO && in_the_middle < Duration::from_secs(2), "{in_the_middle:?}");
}

#[tokio::test]
async fn failed_round_trips_are_those_without_an_answer() {
    let server = Server::start().await;
    let store =
        builder(&server).coherence(Coherence::Validated).command_timeout(Duration::from_millis(100)).build().await.unwrap();
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(counting(|_, _| ok("rows")).0);
    send(&service, get("/t/x")).await;
    assert_eq!(store.stats().failed_round_trips, 0);
    server.pause();
    until("the breaker opens", async || {
        send(&service, get("/t/x")).await;
        store.stats().reachable == Some(false)
    })
    .await;
    server.resume();
    let stats = store.stats();
    assert!(stats.failed_round_trips > 0 && stats.failed_round_trips <= stats.round_trips, "{stats:?}");
    assert!(stats.failed_lookups > 0 && stats.failed_lookups <= stats.failed_round_trips, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_keys_equal_those_of_the_server() {
    let server = Server::start().await;
    let leased = || async { builder(&server).memory(8 << 20).build().await.unwrap() };
    let (reader, writer): (Redis, Redis) = (leased().await, leased().await);
    let service = CacheLayer::new(reader.clone()).rules(one_rule(rule())).layer(counting(|_, _| ok("rows")).0);
    for n in 0..10 {
        until("the entry is in memory", async || {
            let trips = reader.round_trips();
            outcome(&send(&service, get(&format!("/t/{n}"))).await) == Outcome::Hit && reader.round_trips() == trips
        })
        .await;
    }
    let before = reader.stats().pushes;
    for n in 0..10 {
        writer.invalidate([format!("t:{n}")]).await.unwrap();
    }
    until("each invalidated key is pushed", async || reader.stats().pushes - before == 10).await;
    assert_eq!((writer.stats().invalidations, writer.stats().invalidation_times.count()), (10, 10));
    let usage = reader.server().await.unwrap();
    let keys = server.command(&["DBSIZE"]).await;
    assert_eq!(keys, ::redis::Value::Int(usage.keys as i64));
}

static TRIPS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn each_round_trip_has_one_span_and_a_memory_hit_none() {
    let spans = Spans::during(async {
        let server = Server::start().await;
        for (memory, coherence) in [(true, Coherence::Ttl(MINUTE)), (false, Coherence::Validated)] {
            let make = builder(&server).prefix(&format!("{memory}")).coherence(coherence);
            let store = if memory { make.memory(8 << 20) } else { make }.build().await.unwrap();
            let service = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(counting(|_, _| ok("rows")).0);
            for _ in 0..20 {
                send(&service, get("/t/x")).await.into_body().collect().await.expect("a body");
            }
            TRIPS.fetch_add(store.round_trips() as usize, Ordering::SeqCst);
        }
    });
    let redis: Vec<_> = spans.iter().filter(|span| span.name == "redis").collect();
    let trips = TRIPS.load(Ordering::SeqCst);
    assert_eq!(redis.len(), trips);
    assert!((20..60).contains(&trips), "hits in memory need none: {trips}");
    for span in redis {
        assert_eq!((span.get("db.system.name"), span.get("error.type")), ("redis", ""));
        assert!(!span.get("db.operation.name").is_empty(), "{span:?}");
    }
    assert_eq!(spans.iter().filter(|span| span.name == "cache fill").count(), 2);
}
