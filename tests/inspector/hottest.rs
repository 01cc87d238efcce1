//! The hottest requests and namespaces, compared with the truth.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::Value;
use tower_response_cache::{Memory, ResponseCache, inspector::Inspector};

use super::{App, TOKEN, request, rules};
use crate::common::{send, text};

fn app(shows_identities: bool, most: usize) -> App {
    let cache = ResponseCache::new(Memory::default()).rules(rules()).status_extension(true).track_hottest(most);
    let inspector = Inspector::builder(cache.clone()).token(TOKEN).show_identities(shows_identities).build().expect("a token");
    App::with(cache, inspector)
}

/// The largest difference of a count by the sample of one hit in 64: four standard deviations.
fn sampling_error(count: f64) -> f64 {
    32.0 * count.sqrt() + 64.0
}

#[tokio::test]
async fn hottest_requests_and_namespaces_equal_the_truth_within_their_errors() {
    let (app, mut random) = (app(false, 50), fastrand::Rng::with_seed(16));
    let weights: Vec<f64> = (0..200).map(|rank| 1.0 / f64::from(rank + 1).powf(1.5)).collect();
    let all: f64 = weights.iter().sum();
    let mut truth = BTreeMap::<usize, u64>::new();
    for _ in 0..40_000 {
        let mut at = random.f64() * all;
        let table = weights
            .iter()
            .position(|weight| {
                at -= weight;
                at < 0.0
            })
            .unwrap_or(199);
        *truth.entry(table).or_default() += 1;
        app.get(&format!("/t/{table}")).await;
    }
    let hottest = app.json("/api/stats").await["hottest"].clone();
    let (requests, namespaces) =
        (hottest["requests"].as_array().expect("a list"), hottest["namespaces"].as_array().expect("a list"));
    let targets: Vec<_> = requests.iter().take(3).map(|row| row["target"].as_str().expect("text")).collect();
    assert_eq!(targets, ["/t/0", "/t/1", "/t/2"]);
    let names: Vec<_> = namespaces.iter().take(4).map(|row| row["namespace"].as_str().expect("text")).collect();
    assert_eq!(names, ["db", "db:0", "db:1", "db:2"]);
    let check = |row: &Value, count: &str, truth: u64| {
        let (count, error) = (row[count].as_f64().expect("a number"), row[&*error_of(count)].as_f64().expect("a number"));
        let (truth, sampled) = (truth as f64, sampling_error(truth as f64));
        assert!(truth - sampled <= count && count <= truth + sampled + error, "{row}: {truth}");
        // 200 misses count 1 each, so that the counts add up to about the number of requests.
        assert!(error <= 45_000.0 / 50.0, "{row}");
    };
    for row in requests {
        let table = row["target"].as_str().and_then(|target| target.strip_prefix("/t/")).expect("a table");
        check(row, "count", truth[&table.parse().expect("a number")]);
        assert_eq!((&row["route"], &row["host"], &row["method"]), (&"/t/{table}".into(), &"app.example".into(), &"GET".into()));
    }
    for row in namespaces {
        let name = row["namespace"].as_str().expect("text");
        let reads = name.strip_prefix("db:").map_or(40_000, |table| truth[&table.parse().expect("a number")]);
        check(row, "reads", reads);
    }
    // Each table with more than a fiftieth of the requests and the sampling error is listed.
    for (table, count) in truth {
        let target = format!("/t/{table}");
        let is_listed = requests.iter().any(|row| row["target"] == *target);
        assert!(is_listed || (count as f64) < 900.0 + sampling_error(count as f64), "{target}: {count}");
    }
}

fn error_of(count: &str) -> String {
    if count == "count" { "error".into() } else { format!("{count}_error") }
}

#[tokio::test]
async fn namespaces_that_are_invalidated_more_often_than_read_are_listed() {
    let app = app(false, 20);
    for table in ["a", "b", "c"] {
        app.get(&format!("/t/{table}")).await;
    }
    for _ in 0..300 {
        // Each read of `b` is a miss, `c` is read twice as often as it is invalidated, and `a` is not read.
        app.cache.invalidate(["db:a", "db:b"]).await.expect("memory");
        app.get("/t/b").await;
        app.cache.invalidate(["db:c"]).await.expect("memory");
        app.get("/t/c").await;
        app.get("/t/c").await;
    }
    let over = app.json("/api/stats").await["hottest"]["overinvalidated"].clone();
    assert_eq!(over.as_array().map(Vec::len), Some(1), "{over}");
    let a = &over[0];
    assert_eq!((&a["namespace"], &a["reads"], &a["invalidations"]), (&"db:a".into(), &1.into(), &300.into()));
    assert_eq!((&a["reads_error"], &a["invalidations_error"]), (&0.into(), &0.into()));
    assert_eq!(app.cache.stats().overinvalidated_namespaces, Some(1));
    let page = app.ask(Method::GET, "/", "").await.text;
    let table = page.split("id=\"overinvalidated\"").nth(1).and_then(|rest| rest.split("</section>").next()).expect("a table");
    assert!(table.contains("db:a") && table.contains(">300<") && !table.contains("db:b"), "{table}");
}

#[tokio::test]
async fn lists_of_tracking_are_bounded() {
    let app = app(false, 20);
    for table in 0..500 {
        app.get(&format!("/t/{table}")).await;
        app.cache.invalidate([format!("db:{table}")]).await.expect("memory");
    }
    let requests = app.cache.hottest_requests();
    assert_eq!((requests.len(), app.cache.hottest_namespaces().len()), (20, 20));
    assert_eq!(requests.iter().map(|hot| hot.count()).sum::<u64>(), 500);
    assert_eq!(app.cache.hottest_requests_of("db").len(), 16);
    assert!(app.cache.overinvalidated_namespaces().is_empty());
}

#[tokio::test]
async fn identities_are_hidden_in_the_tables_unless_allowed() {
    for shows in [false, true] {
        let app = app(shows, 20);
        let bearer = "Bearer s3cr3t";
        for _ in 0..2 {
            let response = send(&app.router, request(Method::GET, "/me", &[("authorization", bearer)], "")).await;
            assert_eq!(response.status(), StatusCode::OK);
            text(response).await;
        }
        let hash = app.cache.identity("s3cr3t");
        let page = app.ask(Method::GET, "/", "").await.text;
        let report = app.json("/api/stats").await["hottest"].to_string();
        for shown in [&page, &report] {
            assert!(!shown.contains("s3cr3t"), "{shown}");
            assert_eq!(shown.contains(&hash), shows, "{shown}");
            assert_eq!(shown.contains("user:(hidden)"), !shows, "{shown}");
        }
        let rows = app.json("/api/stats").await["hottest"]["requests"].clone();
        assert_eq!((&rows[0]["route"], &rows[0]["target"], &rows[0]["count"]), (&"/me".into(), &Value::Null, &65.into()));
    }
}

#[tokio::test]
async fn tables_are_absent_unless_it_is_tracked() {
    let app = App::new();
    app.get("/t/a").await;
    assert_eq!(app.json("/api/stats").await["hottest"], Value::Null);
    assert!(!app.ask(Method::GET, "/", "").await.text.contains("hottest-requests"));
    assert_eq!(app.cache.stats().overinvalidated_namespaces, None);
}
