//! Warming: requests of the application through its own stack.

#[path = "../common/mod.rs"]
mod common;

mod hot;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Request, StatusCode, header},
    routing::get,
};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_response_cache::{Memory, ResponseCache, Rule, warm::Warmer};

use crate::common::{MINUTE, eventually, within};

/// A handler that counts its calls. A call ends when a permit is there.
#[derive(Clone)]
struct Tables {
    calls: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
}

impl Tables {
    fn open() -> Self {
        Self::with_permits(Semaphore::MAX_PERMITS)
    }

    fn with_permits(permits: usize) -> Self {
        Self {
            calls: Arc::default(),
            running: Arc::default(),
            most: Arc::default(),
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    fn running(&self) -> usize {
        self.running.load(SeqCst)
    }
}

async fn rows(State(tables): State<Tables>, Path(table): Path<String>, headers: HeaderMap) -> (StatusCode, String) {
    let call = tables.calls.fetch_add(1, SeqCst) + 1;
    let running = tables.running.fetch_add(1, SeqCst) + 1;
    tables.most.fetch_max(running, SeqCst);
    tables.permits.acquire().await.expect("never closed").forget();
    tables.running.fetch_sub(1, SeqCst);
    let status = if table == "broken" { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let host = headers.get(header::HOST).map_or("", |host| host.to_str().expect("text"));
    (status, format!("{table} of {host}, call {call}"))
}

fn app(tables: &Tables) -> (ResponseCache, Router) {
    let cache =
        ResponseCache::new(Memory::new(64 << 20)).route("/tables/{table}", Rule::ttl(MINUTE).namespace("db_query:{table}"));
    let router = Router::new().route("/tables/{table}", get(rows)).layer(cache.layer()).with_state(tables.clone());
    (cache, router)
}

async fn read(app: &Router, target: &str, host: &str) -> String {
    let request = Request::get(target).header(header::HOST, host).body(Body::empty()).expect("a request");
    let response = app.clone().oneshot(request).await.expect("a response");
    String::from_utf8(response.into_body().collect().await.expect("a body").to_bytes().into()).expect("text")
}

const HOST: &str = "api.example";

#[tokio::test]
async fn warmed_responses_are_hits_for_clients() {
    let tables = Tables::open();
    let (cache, app) = app(&tables);
    let warmer = Warmer::new(&cache, app.clone()).host(HOST).targets(["/tables/a", "http://api.example/tables/b"]).unwrap();
    let summary = within(warmer.clone().start()).await;
    assert_eq!((summary.requests, summary.succeeded, summary.failed, summary.unsent()), (2, 2, 0, 0));
    let bytes = ["a", "b"].map(|table| format!("{table} of {HOST}, call 1").len() as u64).iter().sum::<u64>();
    assert_eq!((tables.calls(), summary.bytes, cache.stats().stored), (2, bytes, 2));
    for table in ["a", "b"] {
        assert!(read(&app, &format!("/tables/{table}"), HOST).await.starts_with(&format!("{table} of {HOST}")));
    }
    assert_eq!(tables.calls(), 2, "both were hits");
    within(warmer.start()).await;
    assert_eq!(tables.calls(), 2, "a second time costs no call");
}

#[tokio::test]
async fn ten_thousand_targets_cost_one_call_each() {
    let tables = Tables::open();
    let (cache, app) = app(&tables);
    let targets: Vec<_> = (0..10_000).map(|n| format!("/tables/{n}")).collect();
    let warmer = Warmer::new(&cache, app).host(HOST).concurrency(16).targets(targets).unwrap();
    let summary = within(warmer.start()).await;
    assert_eq!((summary.succeeded, tables.calls(), cache.stats().stored), (10_000, 10_000, 10_000));
    assert!(tables.most.load(SeqCst) <= 16);
}

#[tokio::test]
async fn concurrency_is_limited_and_clients_do_not_wait() {
    let tables = Tables::with_permits(0);
    let (cache, app) = app(&tables);
    let targets: Vec<_> = (0..10).map(|n| format!("/tables/{n}")).collect();
    let warming = Warmer::new(&cache, app.clone()).host(HOST).concurrency(3).targets(targets).unwrap().start();
    eventually(|| tables.running() == 3).await;
    // A client asks for a table that nobody warms, and another one joins a warming fill.
    let other = tokio::spawn({
        let app = app.clone();
        async move { read(&app, "/tables/other", HOST).await }
    });
    eventually(|| tables.running() == 4).await;
    let joined = tokio::spawn(async move { read(&app, "/tables/0", HOST).await });
    tables.permits.add_permits(Semaphore::MAX_PERMITS - 16);
    assert!(within(other).await.unwrap().starts_with("other of"));
    assert!(within(joined).await.unwrap().starts_with("0 of"));
    assert_eq!(within(warming).await.succeeded, 10);
    assert_eq!((tables.calls(), tables.most.load(SeqCst)), (11, 4));
}

#[tokio::test]
async fn failures_are_counted_with_the_first_reason() {
    let tables = Tables::open();
    let (cache, app) = app(&tables);
    let warmer = Warmer::new(&cache, app.clone()).host(HOST).concurrency(1);
    let summary = within(warmer.targets(["/tables/broken", "/tables/a", "/nowhere"]).unwrap().start()).await;
    assert_eq!((summary.succeeded, summary.failed), (1, 2));
    assert_eq!(summary.first_failure.as_deref(), Some("/tables/broken: status 500 Internal Server Error"));
    assert!(summary.to_string().contains("1 succeeded, 2 failed"), "{summary}");

    let tables = Tables::with_permits(0);
    let (cache, app) = self::app(&tables);
    let warmer = Warmer::new(&cache, app).host(HOST).timeout(Duration::from_millis(1));
    let summary = within(warmer.targets(["/tables/a"]).unwrap().start()).await;
    assert_eq!((summary.succeeded, summary.failed), (0, 1));
}

#[tokio::test]
async fn cancelled_warming_sends_no_further_request() {
    let tables = Tables::with_permits(2);
    let (cache, app) = app(&tables);
    let targets: Vec<_> = (0..10).map(|n| format!("/tables/{n}")).collect();
    let mut warming = Warmer::new(&cache, app).host(HOST).concurrency(1).targets(targets).unwrap().start();
    while warming.progress().succeeded < 2 {
        let progress = within(warming.next()).await.expect("not the end");
        assert_eq!((progress.requests, progress.failed), (10, 0));
    }
    eventually(|| tables.running() == 1).await;
    warming.cancel();
    let summary = within(warming).await;
    assert_eq!((summary.succeeded, summary.failed, summary.unsent()), (2, 0, 8));
    tables.permits.add_permits(100);
    eventually(|| tables.running() == 0).await;
    assert_eq!(tables.calls(), 3, "the fill in progress went on, and no other began");
}

#[tokio::test]
async fn invalidation_sends_the_requests_of_its_namespaces_again() {
    let tables = Tables::open();
    let (cache, app) = app(&tables);
    let warmer = Warmer::new(&cache, app.clone()).host(HOST).targets(["/tables/a", "/tables/b"]).unwrap();
    within(warmer.clone().start()).await;
    let again = warmer.after_invalidations();
    for (name, calls) in [("db_query:a", 3), ("db_query:other", 3), ("db_query", 5), ("*", 7)] {
        cache.invalidate([name]).await.unwrap();
        within(cache.wait_for_purges()).await;
        assert_eq!(tables.calls(), calls, "{name}");
    }
    assert!(read(&app, "/tables/a", HOST).await.starts_with("a of"));
    assert_eq!((tables.calls(), cache.stats().purges), (7, 0), "a warmed hit, and warming is no purge");
    drop(again);
    cache.invalidate(["*"]).await.unwrap();
    within(cache.wait_for_purges()).await;
    assert_eq!(tables.calls(), 7);
}

#[tokio::test]
async fn fields_of_a_request_take_precedence() {
    let tables = Tables::open();
    let (cache, app) = app(&tables);
    let own = Request::get("/tables/a").header(header::HOST, "own.example").body(()).unwrap();
    let warmer = Warmer::new(&cache, app.clone()).host(HOST).header(header::ACCEPT_ENCODING, "br".parse().unwrap());
    assert_eq!(within(warmer.requests([own]).start()).await.succeeded, 1);
    assert_eq!(read(&app, "/tables/a", "own.example").await, "a of own.example, call 1");
    assert_eq!(read(&app, "/tables/a", HOST).await, format!("a of {HOST}, call 2"));
}

#[cfg(feature = "sitemap")]
#[tokio::test]
async fn sitemap_is_warmed_for_its_hosts() {
    let tables = Tables::open();
    let (cache, app) = app(&tables);
    let xml = "<urlset><url><loc>https://api.example/tables/a</loc></url></urlset>";
    assert_eq!(within(Warmer::new(&cache, app.clone()).sitemap(xml).unwrap().start()).await.succeeded, 1);
    assert_eq!(read(&app, "/tables/a", HOST).await, format!("a of {HOST}, call 1"));
}

#[tokio::test]
async fn dropping_the_handle_ends_the_round_in_progress() {
    let tables = Tables::with_permits(0);
    let (cache, app) = app(&tables);
    let targets: Vec<_> = (0..10).map(|n| format!("/tables/{n}")).collect();
    let again = Warmer::new(&cache, app).host(HOST).concurrency(1).targets(targets).unwrap().after_invalidations();
    cache.invalidate(["db_query"]).await.unwrap();
    eventually(|| tables.running() == 1).await;
    drop(again);
    within(cache.wait_for_purges()).await;
    tables.permits.add_permits(100);
    eventually(|| tables.running() == 0).await;
    assert_eq!(tables.calls(), 1, "no further request");
}

#[tokio::test]
async fn highest_rate_is_no_panic() {
    let (cache, app) = app(&Tables::open());
    let warmer = Warmer::new(&cache, app).host(HOST).rate(u32::MAX).targets(["/tables/a"]).unwrap();
    assert_eq!(within(warmer.start()).await.succeeded, 1);
}
