//! Figures, compared with the counts of the inner service and of the client.

use std::{
    sync::atomic::Ordering,
    time::{Duration, UNIX_EPOCH},
};

use http::{Method, StatusCode};
use serde_json::Value;
use tower_response_cache::{Clock, Memory, Outcome, ResponseCache, inspector::Inspector};

use super::{App, TOKEN, request, rules};
#[cfg(feature = "config")]
use crate::common::eventually;
use crate::common::{send, text};

#[tokio::test]
async fn figures_equal_the_counts_of_client_and_inner_service() {
    let app = App::new();
    let mut outcomes = Vec::new();
    for number in 0..60 {
        outcomes.push(app.get(&format!("/t/{}", number % 7)).await.expect("a rule"));
    }
    outcomes.push(app.get("/cookie").await.expect("a rule"));
    for _ in 0..3 {
        let with_cookie = send(&app.router, request(Method::GET, "/t/0", &[("cookie", "a=b")], "")).await;
        text(with_cookie).await;
    }
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    let (hits, misses) = (count(|outcome| *outcome == Outcome::Hit), count(|outcome| matches!(outcome, Outcome::Miss(_))));
    let report = app.json("/api/stats").await;
    let stats = &report["stats"];
    let calls = app.calls.load(Ordering::SeqCst);
    for (name, expected) in [
        ("hits", hits),
        ("misses", misses),
        ("bypasses", 3),
        ("stored", 7),
        ("not_stored", 1),
        ("entries", 7),
        ("stale_hits", 0),
        ("collapsed", 0),
        ("invalidations", 0),
        ("flights", 0),
        ("inner_calls", calls - 3 + 1),
        ("unmatched_rules", 1),
    ] {
        assert_eq!(stats[name], expected, "{name}");
    }
    assert_eq!(stats["misses_by_reason"][0]["reason"], "absent");
    assert_eq!(stats["bypasses_by_reason"][0]["reason"], "credentials");
    assert!(stats["bypasses_by_reason"][0]["remedy"].as_str().expect("a remedy").contains("identity"));
    assert_eq!(stats["not_stored_by_reason"][0]["reason"], "set-cookie");
    let route =
        stats["routes"].as_array().expect("routes").iter().find(|route| route["route"] == "/t/{table}").expect("a route");
    for (name, expected) in [
        ("answered", hits),
        ("misses", misses - 1),
        ("bypasses", 3),
        ("inner_calls", calls - 3),
        ("stored", 7),
        ("cache_bytes", 10 * hits),
        ("inner_bytes", 10 * calls),
    ] {
        assert_eq!(route[name], expected, "{name}");
    }
    assert_eq!(route["miss_times"]["count"], misses - 1);
    assert_eq!(report["unmatched_rules"], Value::from(vec!["/me"]));
    assert_eq!(report["rules"].as_array().map(Vec::len), Some(3));
    assert_eq!(report["enabled"], true);
}

#[tokio::test]
async fn requests_to_the_inspector_change_no_figure() {
    let app = App::new();
    app.get("/t/a").await;
    let before = app.json("/api/stats").await["stats"].clone();
    for path in ["/", "/api/keys", "/api/explain?url=/t/a", "/api/explain?url=/t/b", "/api/explain?url=/me"] {
        assert_eq!(app.ask(Method::GET, path, "").await.status, StatusCode::OK);
    }
    assert_eq!(app.json("/api/stats").await["stats"], before);
}

#[tokio::test]
async fn explanation_equals_the_next_outcome() {
    let app = App::new();
    let explained = async |query: &str| app.json(&format!("/api/explain?{query}")).await;
    let before = explained("url=/t/a").await;
    assert_eq!((&before["outcome"], &before["reason"]), (&"miss".into(), &"absent".into()));
    assert!(before["remedy"].is_string() && before["stored"].is_null());
    app.get("/t/a").await;
    let after = explained("url=/t/a").await;
    assert_eq!((&after["outcome"], &after["stored"]["body_bytes"]), (&"hit".into(), &10.into()));
    assert_eq!((&after["rule"]["route"], &after["namespaces"][0]), (&"/t/{table}".into(), &"db:a".into()));
    assert!(after["stored"]["body"].is_null(), "bodies are hidden by default");
    assert_eq!(explained("url=http://app.example/t/a").await["outcome"], "hit");
    assert_eq!(explained("url=http://other.example/t/a").await["outcome"], "miss");
    assert_eq!(explained("url=/elsewhere").await["outcome"], "uncovered");
    assert_eq!(explained("method=POST&url=/t/a").await["reason"], "method");
    let line = "{\"curl\": \"curl -H 'Cookie: a=b' http://app.example/t/a\"}";
    let answer = app.ask(Method::POST, "/api/explain", line).await;
    assert_eq!(answer.json()["reason"], "credentials");
    let fault = app.ask(Method::GET, "/api/explain?url=curl%20--frob%20x", "").await;
    assert_eq!(fault.status, StatusCode::BAD_REQUEST);
    assert!(fault.text.contains("--frob"), "{}", fault.text);
    assert_eq!(app.ask(Method::GET, "/api/explain", "").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn identities_and_bodies_are_shown_only_if_allowed() {
    let hidden = App::new();
    let cache = ResponseCache::new(Memory::default()).rules(rules()).status_extension(true);
    let inspector =
        Inspector::builder(cache.clone()).token(TOKEN).show_bodies(true).show_identities(true).build().expect("a token");
    let open = App::with(cache, inspector);
    for (app, is_open) in [(&hidden, true), (&open, false)].map(|(app, is_hidden)| (app, !is_hidden)) {
        let response = send(&app.router, request(Method::GET, "/me", &[("authorization", "Bearer hunter2")], "")).await;
        text(response).await;
        let line = "{\"curl\": \"curl -H 'Authorization: Bearer hunter2' http://app.example/me\"}";
        let explained = app.ask(Method::POST, "/api/explain", line).await;
        let keys = app.ask(Method::GET, "/api/keys", "").await;
        let hash = app.cache.identity("hunter2");
        assert_eq!(explained.json()["outcome"], "hit");
        for answer in [&explained, &keys] {
            assert!(!answer.text.contains("hunter2"), "{}", answer.text);
            assert_eq!(answer.text.contains(&hash), is_open, "{}", answer.text);
        }
        assert_eq!(explained.json()["stored"]["body"] == "0123456789", is_open);
    }
}

#[tokio::test]
async fn keys_list_entries_and_namespaces() {
    let app = App::new();
    for number in 0..5 {
        app.get(&format!("/t/{number}")).await;
    }
    app.get("/t/0?page=2").await;
    let keys = app.json("/api/keys").await;
    assert_eq!((&keys["sampled"], keys["entries"].as_array().map(Vec::len)), (&6.into(), Some(6)));
    assert_eq!((&keys["namespaces"][0]["namespace"], &keys["namespaces"][0]["entries"]), (&"db:0".into(), &2.into()));
    let parts = keys["entries"].to_string();
    assert!(parts.contains("/t/4") && parts.contains("page=2"), "{parts}");
    let bytes: u64 = keys["entries"].as_array().expect("entries").iter().filter_map(|entry| entry["bytes"].as_u64()).sum();
    assert!(bytes > 0 && bytes < app.cache.stats().bytes);
}

#[tokio::test]
async fn keys_list_fills_in_progress() {
    use tower::Layer;

    let cache = ResponseCache::new(Memory::default()).rules(rules());
    let (inner, mut handle) = tower_test::mock::pair();
    let service = cache.cache_layer().layer(inner);
    let inspector = Inspector::builder(cache.clone()).token(TOKEN).build().expect("a token");
    let app = App::with(cache, inspector);
    let leader = tokio::spawn(crate::common::begin(&service, crate::common::get("/t/slow")).await);
    let (_, answer) = crate::common::next_call(&mut handle).await;
    let fills = app.json("/api/keys").await["fills"].clone();
    assert_eq!(fills.as_array().map(Vec::len), Some(1));
    assert!(fills[0].to_string().contains("/t/slow"), "{fills}");
    assert_eq!(app.json("/api/stats").await["stats"]["flights"], 1);
    answer.send_response(crate::common::ok("rows"));
    text(leader.await.expect("a task").expect("a response")).await;
    assert_eq!(app.json("/api/keys").await["fills"].as_array().map(Vec::len), Some(0));
}

#[tokio::test(start_paused = true)]
async fn samples_are_taken_at_their_interval() {
    let app = App::new();
    let rows = async || app.json("/api/stats").await["history"]["rows"].as_array().map(Vec::len).expect("rows");
    tokio::task::yield_now().await;
    assert_eq!(rows().await, 2, "one sample, and the present");
    app.get("/t/a").await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    let history = app.json("/api/stats").await["history"].clone();
    assert_eq!(history["rows"].as_array().map(Vec::len), Some(4));
    assert_eq!((&history["rows"][0][2], &history["rows"][1][2]), (&0.into(), &1.into()), "misses");
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    assert_eq!(rows().await, 361, "the ring is bounded");
}

#[tokio::test]
async fn line_of_reloads_shows_the_last_replacement() {
    let clock = Clock::manual();
    clock.set(UNIX_EPOCH + Duration::from_secs(1_795_899_682));
    let app = App::over(Memory::builder().clock(clock.clone()).build());
    assert!(!app.ask(Method::GET, "/", "").await.text.contains("Rules replaced"), "there was none");
    app.cache.reload(rules()).await.expect("memory");
    clock.advance(Duration::from_secs(60));
    app.cache.reload(rules()).await.expect("memory");
    let reloads = app.json("/api/stats").await["reloads"].clone();
    assert_eq!((&reloads["replaced"], &reloads["refused"], &reloads["is_refused"]), (&2.into(), &0.into(), &false.into()));
    assert!(reloads["last_refused"].is_null() && reloads["last_refusal"].is_null());
    assert_eq!(reloads["last_replaced"], 1_795_899_742_000_u64);
    let page = app.ask(Method::GET, "/", "").await.text;
    assert!(page.contains("Rules replaced: 2, last on Sat, 28 Nov 2026 21:02:22 GMT. Refused: 0</p>"), "{page}");
}

#[cfg(feature = "config")]
#[tokio::test]
async fn line_of_reloads_shows_the_last_refusal() {
    let app = App::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, "[[route]]\npath = '/<b>'\nttl = '60'\n").expect("a file");
    let watch = app.cache.watch_rules(tower_response_cache::rules::RulesFile::new(&path), Duration::from_millis(10));
    eventually(|| watch.failures() == 1).await;
    let reloads = app.json("/api/stats").await["reloads"].clone();
    assert_eq!((&reloads["replaced"], &reloads["refused"], &reloads["is_refused"]), (&0.into(), &1.into(), &true.into()));
    assert!(reloads["last_replaced"].is_null() && reloads["last_refused"].is_u64(), "{reloads}");
    let message = reloads["last_refusal"].as_str().expect("a message");
    assert!(message.contains("rules.toml:3:7: invalid value: string \"60\", expected a duration"), "{message}");
    let page = app.ask(Method::GET, "/", "").await.text;
    assert!(page.contains("class=\"notice bad\"") && page.contains("rules.toml:3:7: invalid value"), "{page}");

    let next = folder.path().join("next.toml");
    std::fs::write(&next, "[[route]]\npath = '/a'\nttl = '60s'\n").expect("a file");
    std::fs::rename(next, &path).expect("a file");
    eventually(|| watch.reloads() == 1).await;
    let reloads = app.json("/api/stats").await["reloads"].clone();
    assert_eq!((&reloads["replaced"], &reloads["refused"], &reloads["is_refused"]), (&1.into(), &1.into(), &false.into()));
    assert_eq!(reloads["last_refusal"], message, "it stays, for the report of an incident");
    assert!(!app.ask(Method::GET, "/", "").await.text.contains("class=\"notice bad\""));
}

#[tokio::test(start_paused = true)]
async fn routes_over_time_equal_the_requests_of_each_interval() {
    let app = App::new();
    // Samples are taken every ten seconds from the start, requests are sent in the middle between two.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (count, path) in [(1, "/t/a"), (3, "/t/b"), (0, "/t/c")] {
        for _ in 0..count {
            app.get(path).await;
        }
        app.get("/cookie").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    app.get("/t/a").await;
    let history = app.json("/api/stats").await["route_history"].clone();
    let fields = history["fields"].as_array().expect("fields").len();
    let rows = |route: &str| {
        let routes = history["routes"].as_array().expect("routes");
        let rows = routes.iter().find(|of| of["route"] == route).expect("the route")["rows"].as_array().expect("rows").clone();
        let number = |value: &Value| value.as_u64().expect("a number");
        let row = |row: &Value| {
            assert_eq!(row.as_array().map(Vec::len), Some(fields));
            // The p99 of misses has a value if there was a miss.
            assert_eq!(row[6].is_number(), number(&row[1]) > 0, "{row}");
            [number(&row[0]), number(&row[1]), number(&row[2])]
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(rows("/t/{table}"), [[0, 1, 0], [2, 1, 0], [0, 0, 0], [1, 0, 0]], "answered, misses, bypasses");
    assert_eq!(rows("/cookie"), [[0, 1, 0]; 3].into_iter().chain([[0; 3]]).collect::<Vec<_>>());
    let page = app.ask(Method::GET, "/", "").await.text;
    assert_eq!(page.matches("<details").count(), 2, "{page}");
    assert!(page.contains("<details data-route=\"/t/{table}\" open>"), "the busiest is open: {page}");
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_redis_are_shown_by_namespace() {
    use crate::common::redis::{Server, until};

    let server = Server::start().await;
    let store = tower_response_cache::Redis::connect(&server.url()).await.expect("a server");
    let app = App::over(store);
    for number in 0..30 {
        app.get(&format!("/t/a?{number}")).await;
    }
    app.get("/t/b").await;
    until("the responses are stored", async || app.cache.stats().stored == 31).await;
    let usage = app.json("/api/stats").await["server"].clone();
    let sample = &usage["sample"];
    assert_eq!(sample["sampled"], 1_000);
    let entries = sample["entries"].as_array().expect("entries");
    assert_eq!(entries[0]["namespace"], "db:a", "{usage}");
    let count = entries[0]["entries"].as_u64().expect("a number");
    assert!((20..=40).contains(&count), "thirty, of which the standard error is one: {usage}");
    let page = app.ask(Method::GET, "/", "").await.text;
    assert!(page.contains("Keys in Redis") && page.contains("<th scope=\"row\">db:a</th>"), "{page}");
}
