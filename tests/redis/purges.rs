//! Purge hooks of processes that share a store.

use http::StatusCode;
use tokio::sync::mpsc;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, InvalidateLayer, Redis, Store,
    cdn::{Purge, PurgeHook},
    redis::Coherence,
};

use crate::{
    common::{redis::Server, *},
    setup::{builder, in_time, read, rule, store},
};

/// Adds a hook that succeeds at once. Returns its calls.
fn purges_of(store: &Redis) -> mpsc::UnboundedReceiver<Purge> {
    let (sender, calls) = mpsc::unbounded_channel();
    store.after_invalidation(PurgeHook::new(move |purge| {
        let sent = sender.send(purge);
        async move { sent }
    }));
    calls
}

fn names(purge: &Purge) -> Vec<&str> {
    purge.namespaces().iter().map(|name| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_process_that_invalidates_calls_its_hook() {
    let server = Server::start().await;
    let writer = store(&server, "p", Coherence::Validated, false).await;
    let reader = store(&server, "p", Coherence::Validated, false).await;
    let (mut written, mut read_only) = (purges_of(&writer), purges_of(&reader));
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(reader.clone()).rules(one_rule(rule())).layer(inner.clone());
    assert_eq!(read(&cache, "/t/x").await, ("answer 1".to_owned(), false));
    send(&InvalidateLayer::new(writer.clone()).rules(one_rule(rule())).layer(inner), post("/t/x")).await;
    assert!(!read(&cache, "/t/x").await.1, "the reader knows of the write");
    in_time("the purge", writer.wait_for_purges()).await;
    in_time("no purge", reader.wait_for_purges()).await;
    assert_eq!(names(&written.try_recv().expect("one call")), ["t:x"]);
    assert!(written.try_recv().is_err() && read_only.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_is_repeated_when_redis_knows_of_the_invalidation() {
    let server = Server::start().await;
    let store = Redis::builder(&server.url()).invalidate_timeout(std::time::Duration::from_millis(20)).build().await.unwrap();
    let mut calls = purges_of(&store);
    server.pause();
    assert!(in_time("invalidate", store.invalidate(["t:x"])).await.unwrap_err().is_queued());
    let first = in_time("a purge", calls.recv()).await.expect("a call while Redis is down");
    assert_eq!((names(&first), store.waiting()), (vec!["t:x"], 1));
    server.resume();
    let second = in_time("another purge", calls.recv()).await.expect("a call after the delivery");
    assert_eq!((names(&second), store.waiting()), (vec!["t:x"], 0));
    in_time("the end of the purges", store.wait_for_purges()).await;
    assert!(calls.try_recv().is_err());
    assert_eq!(store.stats().purges, 2);
}

/// A statement of such a write may commit until its fence ends, and a CDN may store an older response until then.
#[tokio::test(flavor = "multi_thread")]
async fn purge_is_repeated_at_the_end_of_a_fence() {
    let server = Server::start().await;
    let store = builder(&server).strict(SECOND).build().await.unwrap();
    let mut calls = purges_of(&store);
    let (inner, _) = counting(|request, _| {
        let mut response = ok("");
        if request.uri().path() == "/t/lost" {
            *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        }
        response
    });
    let writes = InvalidateLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    send(&writes, post("/t/done")).await;
    in_time("the purge", store.wait_for_purges()).await;
    assert_eq!(names(&calls.try_recv().expect("one call")), ["t:done"]);
    assert!(calls.try_recv().is_err(), "the fence was removed");
    send(&writes, post("/t/lost")).await;
    let first = in_time("a purge", calls.recv()).await.expect("a call at once");
    let second = in_time("another purge", calls.recv()).await.expect("a call at the end of the fence");
    assert_eq!((names(&first), names(&second)), (vec!["t:lost"], vec!["t:lost"]));
    assert_eq!(server.keys("*:f:*").await, Vec::<String>::new());
    in_time("the end of the purges", store.wait_for_purges()).await;
    assert!(calls.try_recv().is_err());
}
