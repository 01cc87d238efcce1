//! Purges: visible for the next read when they are answered.

use http::{Method, StatusCode};
use tower_response_cache::{Outcome, status::Miss};

use super::App;

const HIT: Option<Outcome> = Some(Outcome::Hit);
const ABSENT: Option<Outcome> = Some(Outcome::Miss(Miss::Absent));

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).expect("a method")
}

#[tokio::test]
async fn purge_is_visible_for_the_next_read() {
    let app = App::new();
    for (name, path, content) in [
        ("POST", "/api/purge", "namespace=db:a"),
        ("POST", "/api/invalidate", "namespace=db%3Aa"),
        ("POST", "/api/purge", "{\"namespace\": [\"db:other\", \"db:a\"]}"),
        ("POST", "/api/purge", "{\"everything\": true}"),
        ("POST", "/api/purge", "prefix=db"),
        ("POST", "/api/purge", "prefix=db:"),
        ("POST", "/api/purge", "prefix=db:*"),
        ("POST", "/api/purge?uri=/t/a", ""),
        ("POST", "/api/purge", "uri=http://app.example/t/a"),
        ("PURGE", "/?namespace=db:a", ""),
        ("PURGE", "/api/purge?uri=/t/a", ""),
    ] {
        app.get("/t/a").await;
        assert_eq!(app.get("/t/a").await, HIT);
        let answer = app.ask(method(name), path, content).await;
        assert_eq!((answer.status, &answer.json()["visible"]), (StatusCode::OK, &true.into()), "{content} {}", answer.text);
        assert_eq!(app.get("/t/a").await, ABSENT, "{name} {path} {content}");
    }
}

#[tokio::test]
async fn purge_leaves_other_namespaces() {
    let app = App::new();
    app.get("/t/a").await;
    app.get("/t/b").await;
    app.ask(Method::POST, "/api/purge", "namespace=db:a").await;
    assert_eq!((app.get("/t/a").await, app.get("/t/b").await), (ABSENT, HIT));
}

#[tokio::test]
async fn soft_purge_makes_entries_stale() {
    let app = App::new();
    app.get("/t/a").await;
    assert_eq!(app.ask(Method::POST, "/api/purge", "namespace=db:a&soft=true").await.status, StatusCode::OK);
    assert_eq!(app.get("/t/a").await, Some(Outcome::Miss(Miss::SoftlyInvalidated)));
}

#[tokio::test]
async fn purge_of_nothing_or_of_a_wrong_name_is_refused() {
    let app = App::new();
    for content in
        ["", "namespace=", "namespace=db::a", "prefix=db:or*", "uri=%20%20", "uri=a b", "everything=false", "{broken"]
    {
        let answer = app.ask(Method::POST, "/api/purge", content).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{content:?}: {}", answer.text);
    }
    let long = format!("namespace={}", "a".repeat(70_000));
    assert_eq!(app.ask(Method::POST, "/api/purge", &long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(app.ask(Method::GET, "/api/purge?everything=true", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(app.cache.stats().invalidations, 0);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn purge_that_waits_for_redis_says_so() {
    use tower_response_cache::Redis;

    use crate::common::redis::Server;

    let mut server = Server::start().await;
    let store = Redis::builder(&server.url()).memory(8 << 20).require_connection().build().await.expect("a connection");
    let app = App::over(store);
    let stats = app.json("/api/stats").await;
    assert_eq!((&stats["server"]["masters"], &stats["stats"]["reachable"]), (&1.into(), &true.into()));
    app.get("/t/a").await;
    let purged = app.ask(Method::POST, "/api/purge", "namespace=db:a").await;
    assert_eq!((purged.status, app.get("/t/a").await), (StatusCode::OK, ABSENT));
    server.kill();
    let answer = app.ask(Method::POST, "/api/purge", "namespace=db:a").await;
    assert_eq!((answer.status, &answer.json()["queued"]), (StatusCode::ACCEPTED, &true.into()), "{}", answer.text);
    assert_eq!(answer.json()["visible"], false);
    assert!(app.json("/api/stats").await["server"]["error"].is_string());
}
