//! The example application itself: whatever is written and read in whatever order, what comes from the cache is, byte for
//! byte, what the application without it answers.
#![allow(dead_code, missing_docs)]

#[path = "../examples/backend/main.rs"]
mod backend;

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use backend::{
    app::{Backend, Calls, app},
    buckets::Buckets,
    caching,
    client::{Client, Reply},
    db::Db,
    seed,
    serve::Server,
};
use fastrand::Rng;
use tempfile::TempDir;
use tower_response_cache::{Memory, Store};

/// One database, and the application over it twice: as it is, and with the cache.
struct Twins {
    bare: Client,
    cached: Client,
    store: Memory,
    _servers: [Server; 2],
    _home: TempDir,
}

impl Twins {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let db = Db::open(&home.path().join("app.db"), 4).expect("a database");
        let buckets = Arc::new(Buckets::open(&home.path().join("buckets")).expect("buckets"));
        seed::fill(&db, Arc::clone(&buckets)).await.expect("data");
        let one = || app(Arc::new(Backend { db: db.clone(), buckets: Arc::clone(&buckets), calls: Calls::default() }));
        let store = Memory::default();
        let (bare, cached) = (serve(one()).await, serve(caching::cached(one(), &store)).await);
        let clients = (Client::new(bare.address()), Client::new(cached.address()));
        Self { bare: clients.0, cached: clients.1, store, _servers: [bare, cached], _home: home }
    }

    async fn write(&self, method: Method, path: &str, token: &str, body: String) -> Reply {
        let reply = self.cached.send(method.clone(), path, Some(token), body).await.expect("an answer");
        assert!(reply.status.is_success() || reply.status == StatusCode::CONFLICT, "{method} {path}: {}", reply.status);
        reply
    }

    /// Reads from both; whether the one with the cache answered from it.
    async fn compare(&self, path: &str, token: Option<&str>) -> bool {
        let cached = self.cached.send(Method::GET, path, token, "").await.expect("an answer");
        let bare = self.bare.send(Method::GET, path, token, "").await.expect("an answer");
        assert_eq!((cached.status, &cached.body), (bare.status, &bare.body), "GET {path}");
        cached.hit()
    }
}

async fn serve(app: axum::Router) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    Server::start(listener, app).expect("a server")
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

const CARRIERS: [&str; 4] = ["UA", "HA", "OO", "Q1"];
const ORIGINS: [&str; 2] = ["JFK", "EWR"];

fn some_read(rng: &mut Rng) -> String {
    let (carrier, origin, day) = (pick(rng, &CARRIERS), pick(rng, &ORIGINS), rng.u8(1..4));
    match rng.u8(..10) {
        0 => format!("/tables/flights?carrier={carrier}&sort=-id&limit=5"),
        1 => format!("/tables/flights?origin={origin}&day={day}&limit=1&sort=-id"),
        2 => "/tables/flights?limit=1".into(),
        3 => format!("/tables/flights?stats=carrier&day={day}"),
        4 => format!("/tables/flights?dep_delay.min={}&sort=-id&limit=2", day * 10),
        5 => format!("/tables/weather?origin={origin}&hour.min=20&sort=-id&limit=3"),
        6 => format!("/tables/flights?stats=origin&carrier={carrier}"),
        7 => format!("/tables/weather?day=%20{day}"),
        8 => "/storage/planes?prefix=test/".into(),
        _ => "/auth/user".into(),
    }
}

async fn some_write(twins: &Twins, rng: &mut Rng, token: &str, rows: &mut Vec<i64>) {
    let (carrier, origin, day) = (pick(rng, &CARRIERS), pick(rng, &ORIGINS), rng.u8(1..4));
    let delay = rng.u8(..);
    let row = |rows: &[i64], rng: &mut Rng| (!rows.is_empty()).then(|| rng.usize(..rows.len()));
    match rng.u8(..10) {
        0..=2 => {
            let new = format!(
                r#"{{"day":{day},"carrier":"{carrier}","flight":1,"origin":"{origin}","dest":"BOS","dep_delay":{delay}}}"#
            );
            let reply = twins.write(Method::POST, "/tables/flights", token, new).await;
            rows.push(reply.json()["id"].as_i64().expect("the row's id"));
        }
        3 | 4 => {
            if let Some(row) = row(rows, rng) {
                let path = format!("/tables/flights/{}", rows[row]);
                let change = format!(r#"{{"carrier":"{carrier}","dep_delay":{delay}}}"#);
                twins.write(Method::PATCH, &path, token, change).await;
            }
        }
        5 => {
            if let Some(row) = row(rows, rng) {
                let path = format!("/tables/flights/{}", rows.swap_remove(row));
                twins.write(Method::DELETE, &path, token, String::new()).await;
            }
        }
        6 => {
            let path = format!("/tables/weather/{}", rng.u8(1..40));
            twins.write(Method::PATCH, &path, token, format!(r#"{{"precip":{}}}"#, rng.u8(..3))).await;
        }
        7 => {
            let hour = rng.u16(24..2000);
            let new = format!(r#"{{"origin":"{origin}","day":{day},"hour":{hour},"precip":1.5}}"#);
            twins.write(Method::POST, "/tables/weather", token, new).await;
        }
        8 => {
            let path = format!("/storage/planes/test/{}.txt", rng.u8(..4));
            twins.write(Method::PUT, &path, token, format!("note {delay}")).await;
        }
        _ => {
            let change = format!(r#"{{"email":"user0+{delay}@example.com"}}"#);
            twins.write(Method::PATCH, "/auth/user", token, change).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_from_the_cache_is_what_the_application_would_answer() {
    let twins = Twins::new().await;
    let tokens = [twins.bare.login(0).await.expect("a token"), twins.bare.login(0).await.expect("a token")];
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut rows = Vec::new();
    let mut hits = 0;
    for _ in 0..400 {
        if rng.u8(..100) < 15 {
            some_write(&twins, &mut rng, &tokens[0], &mut rows).await;
        } else {
            let path = some_read(&mut rng);
            let token = tokens[rng.usize(..2)].as_str();
            hits += usize::from(twins.compare(&path, (path == "/auth/user").then_some(token)).await);
        }
    }
    // A cache that never hits would prove nothing.
    assert!(hits > 40, "{hits} hits\n{}", twins.store.stats());
}
