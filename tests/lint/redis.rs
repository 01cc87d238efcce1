//! Mistakes that only a strict store in Redis shows.

use std::time::Duration;

use http::{Request, Response};
use tower::Layer;
use tower_response_cache::{
    Redis, ResponseCache,
    lint::{Finding, FindingKind},
};

use super::{assert_none, assert_one, lint, plain, rule};
use crate::common::{Plain, SECOND, counting, next_call, ok, post, redis::Server, send, text, within};

/// Returns a cache over a strict store whose fences stand for this time.
async fn strict(server: &Server, deadline: Duration) -> ResponseCache {
    let builder = Redis::builder(&server.url()).command_timeout(2 * SECOND).max_round_trip(SECOND).require_connection();
    let store = builder.strict(deadline).build().await.expect("a server is there");
    ResponseCache::new(store).route("/a", rule("a"))
}

/// Returns the findings once there are any.
async fn first_findings(cache: &ResponseCache) -> Vec<Finding> {
    within(async {
        loop {
            let found = cache.lint_with(&lint());
            if !found.is_empty() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_evicts_fences_is_found() {
    let server = Server::start().await;
    server.config_set("maxmemory-policy", "allkeys-lru").await;
    assert_one(&first_findings(&strict(&server, 30 * SECOND).await).await, FindingKind::Eviction, None);

    // A store that needs no fences does not care.
    let builder = Redis::builder(&server.url()).command_timeout(2 * SECOND).max_round_trip(SECOND);
    let cache = ResponseCache::new(builder.build().await.expect("a server is there")).route("/a", rule("a"));
    text(send(&cache.layer().layer(counting(plain).0), post("/a")).await).await;
    assert_none(&cache.lint_with(&lint()));

    server.config_set("maxmemory-policy", "noeviction").await;
    let cache = strict(&server, 30 * SECOND).await;
    text(send(&cache.layer().layer(counting(plain).0), post("/a")).await).await;
    assert_none(&cache.lint_with(&lint()));
}

#[tokio::test(flavor = "multi_thread")]
async fn handler_slower_than_its_fence_is_found() {
    let server = Server::start().await;
    let cache = strict(&server, SECOND).await;
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let service = cache.layer().layer(inner);
    let write = tokio::spawn(async move { send(&service, post("/a")).await.status() });
    let (_, answer) = next_call(&mut handle).await;
    assert_one(&first_findings(&cache).await, FindingKind::SlowWrite, Some("/a"));
    answer.send_response(ok("done"));
    assert!(write.await.unwrap().is_success());

    let cache = strict(&server, 30 * SECOND).await;
    text(send(&cache.layer().layer(counting(plain).0), post("/a")).await).await;
    assert_none(&cache.lint_with(&lint()));
}
