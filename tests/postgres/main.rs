//! The listener for changes in PostgreSQL, over real servers.

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod failures;
#[path = "../../examples/listen_notify.rs"]
#[allow(dead_code)]
mod listen_notify;
mod over_redis;
mod server;
mod sign_in;
mod start;
mod timing;

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request, routing::get};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_response_cache::{
    AnyStore, Memory, ResponseCache, Rule,
    postgres::{PostgresListener, RunningListener},
};

use self::{common::redis::free_port, server::Server};

/// The longest wait for a state, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The calls of all handlers. Applications that share a store never compute equal responses.
static CALLS: AtomicU64 = AtomicU64::new(1);

/// An application whose responses hold the number of the call of its handler.
#[derive(Clone)]
struct App {
    cache: ResponseCache,
    router: Router,
}

impl App {
    fn new() -> Self {
        Self::over(Memory::new(64 << 20))
    }

    fn over(store: impl Into<AnyStore>) -> Self {
        let minute = Duration::from_secs(600);
        let rule = |namespace: &str| Rule::ttl(minute).namespace(namespace);
        let cache = ResponseCache::new(store)
            .route("/tables/{table}", rule("db_query:{table}"))
            .route("/orders/{id}", rule("order:{id}"))
            .route("/customers/{id}", rule("customer:{id}:orders"))
            .route("/other", rule("other"));
        let count = async || CALLS.fetch_add(1, SeqCst).to_string();
        let router = Router::new().fallback(get(count)).layer(cache.layer());
        Self { cache, router }
    }

    /// Returns the number of the call whose response a request gets.
    async fn read(&self, path: &str) -> u64 {
        let request = Request::get(path).header("host", "app").body(Body::empty()).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("a response");
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        str::from_utf8(&body).expect("text").parse().expect("a number")
    }

    async fn read_all<const N: usize>(&self, paths: [&str; N]) -> [u64; N] {
        let mut calls = [0; N];
        for (call, path) in calls.iter_mut().zip(paths) {
            *call = self.read(path).await;
        }
        calls
    }

    /// Waits until a response is computed again.
    async fn renewed(&self, path: &str, before: u64) -> u64 {
        let begin = Instant::now();
        loop {
            match self.read(path).await {
                call if call != before => return call,
                _ => assert!(begin.elapsed() < PATIENCE, "{path} is never computed again"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Polls a condition until it is true.
async fn until(what: &str, is: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A table of orders. Its replica identity has the customer.
const ORDERS: &str =
    "CREATE TABLE orders (id int PRIMARY KEY, customer int, note text); ALTER TABLE orders REPLICA IDENTITY FULL;";

/// Returns a listener for the orders, as a superuser.
fn listener(server: &Server) -> PostgresListener {
    PostgresListener::new(server.url("postgres"))
        .slot("cache")
        .table("orders", ["db_query:{table}", "order:{id}", "customer:{customer}:orders"])
        .check_interval(Duration::from_millis(100))
}

/// Starts a listener, and waits until it has begun.
async fn started(listener: PostgresListener, app: &App) -> RunningListener {
    let running = listener.start(&app.cache).await.unwrap_or_else(|error| panic!("{error}"));
    until("the listener streams", || running.stats().connected).await;
    running
}
