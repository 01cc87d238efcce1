//! Figures, compared with the counts of the inner service and of the client.

use std::{sync::atomic::Ordering, time::Duration};

use http::{Method, StatusCode};
use serde_json::Value;
use tower_response_cache::{Memory, Outcome, ResponseCache, inspector::Inspector};

use super::{App, TOKEN, request, rules};
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
