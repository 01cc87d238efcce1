//! The hook that is called after invalidations.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Method, Response};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tower::Layer;
use tower_response_cache::{
    CacheTags, Invalidations, Memory, Namespace, ResponseCache, Rule, Store,
    cdn::{Purge, PurgeHook},
};

use crate::common::{MINUTE, SECOND, counting, get, ok, post, send};

/// A call of the hook: its purge, and the sender of its result.
type Call = (Purge, oneshot::Sender<Result<(), &'static str>>);

/// Returns a hook whose calls wait for the test.
fn held() -> (PurgeHook, mpsc::UnboundedReceiver<Call>) {
    let (calls, received) = mpsc::unbounded_channel();
    let hook = PurgeHook::new(move |purge| {
        let (sender, result) = oneshot::channel();
        calls.send((purge, sender)).expect("the test receives");
        async move { result.await.expect("the test answers") }
    });
    (hook, received)
}

fn cache(hook: PurgeHook) -> ResponseCache {
    ResponseCache::new(Memory::new(1 << 20))
        .route("/t/{table}", Rule::ttl(MINUTE).namespace("db:{table}"))
        .after_invalidation(hook)
}

fn names(purge: &Purge) -> Vec<&str> {
    purge.namespaces().iter().map(Namespace::as_str).collect()
}

#[tokio::test]
async fn write_is_answered_while_the_hook_is_pending() {
    let (hook, mut calls) = held();
    let cache = cache(hook);
    let (inner, _) = counting(|request, _| {
        let mut response = ok("");
        if *request.method() == Method::GET {
            response.extensions_mut().insert(Invalidations::also([Namespace::of(["row", "17"])]));
        }
        response
    });
    let service = cache.invalidate_layer().layer(inner);
    send(&service, post("/t/orders")).await;
    let (first, answer) = calls.recv().await.expect("the hook is called");
    assert_eq!(names(&first), ["db:orders"]);
    assert_eq!(first.tags(&CacheTags::surrogate_key()), ["db:orders"]);
    // The hook is still pending.
    for table in ["a", "b", "a"] {
        send(&service, post(&format!("/t/{table}"))).await;
    }
    send(&service, get("/t/orders")).await;
    cache.invalidate(["job"]).await.unwrap();
    cache.invalidate_softly(["soft"]).await.unwrap();
    cache.invalidate_uri(&"/t/uri".parse().unwrap()).await.unwrap();
    assert!(calls.try_recv().is_err(), "one call at a time");
    answer.send(Ok(())).unwrap();
    let (second, answer) = calls.recv().await.expect("the hook is called again");
    assert_eq!(names(&second), ["db:a", "db:b", "db:uri", "job", "row:17", "soft"], "merged, each once");
    answer.send(Ok(())).unwrap();
    cache.wait_for_purges().await;
    assert_eq!((cache.stats().purges, cache.stats().failed_purge_attempts), (2, 0));
}

#[tokio::test]
async fn key_alone_calls_no_hook() {
    let (hook, mut calls) = held();
    let cache = cache(hook);
    let found = cache.matches(&Method::GET, &"/t/orders".parse().unwrap()).unwrap();
    cache.invalidate_key(found.key()).await.unwrap();
    cache.wait_for_purges().await;
    assert!(calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn failed_call_is_repeated_with_backoff_and_given_up() {
    let (hook, mut calls) = held();
    let cache = cache(hook.attempts(4).backoff(SECOND, 3 * SECOND));
    cache.invalidate(["a"]).await.unwrap();
    let mut times = Vec::new();
    let began = Instant::now();
    for _ in 0..4 {
        let (purge, answer) = calls.recv().await.expect("an attempt");
        assert_eq!(names(&purge), ["a"]);
        times.push(began.elapsed().as_secs());
        cache.invalidate(["b"]).await.unwrap();
        answer.send(Err("the CDN is down")).unwrap();
    }
    assert_eq!(times, [0, 1, 3, 6]);
    let (purge, answer) = calls.recv().await.expect("the next names");
    assert_eq!((names(&purge), began.elapsed().as_secs()), (vec!["b"], 6));
    answer.send(Ok(())).unwrap();
    cache.wait_for_purges().await;
    let stats = cache.stats();
    assert_eq!((stats.purges, stats.failed_purge_attempts, stats.abandoned_purges), (1, 4, 1));
    assert!(stats.to_string().contains("purges 1, failed attempts 4, abandoned 1, overflows 0"), "{stats}");
}

#[tokio::test(start_paused = true)]
async fn attempt_that_takes_too_long_is_repeated() {
    let (hook, mut calls) = held();
    let cache = cache(hook.attempt_timeout(5 * SECOND));
    cache.invalidate(["a"]).await.unwrap();
    let (_, unanswered) = calls.recv().await.expect("an attempt");
    let began = Instant::now();
    let (purge, answer) = calls.recv().await.expect("another attempt");
    assert_eq!((names(&purge), began.elapsed()), (vec!["a"], 6 * SECOND));
    assert!(unanswered.is_closed(), "the late attempt was dropped");
    answer.send(Ok(())).unwrap();
    cache.wait_for_purges().await;
    assert_eq!(cache.stats().purges, 1);
}

#[tokio::test]
async fn full_queue_purges_everything() {
    let (hook, mut calls) = held();
    let cache = cache(hook.max_namespaces(3));
    cache.invalidate(["first"]).await.unwrap();
    let (_, first) = calls.recv().await.expect("the hook is called");
    cache.invalidate(["a", "b", "c", "d", "e"]).await.unwrap();
    cache.invalidate(["f"]).await.unwrap();
    first.send(Ok(())).unwrap();
    let (purge, answer) = calls.recv().await.expect("the hook is called again");
    assert!(purge.is_everything());
    assert_eq!((names(&purge), purge.tags(&CacheTags::cloudflare())), (vec!["*"], vec!["%2A".to_owned()]));
    answer.send(Ok(())).unwrap();
    cache.wait_for_purges().await;
    assert_eq!(cache.stats().purge_overflows, 1);
}

#[tokio::test]
async fn every_tagged_response_carries_what_a_purge_of_everything_names() {
    let (hook, _calls) = held();
    let cache = cache(hook).cache_tags(CacheTags::cloudflare());
    let (inner, _) = counting(|_, _| ok("rows"));
    let response: Response<_> = send(&cache.cache_layer().layer(inner), get("/t/orders")).await;
    assert_eq!(response.headers()["cache-tag"], "%2A,db,db:orders");
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_hook_is_contained_and_repeated() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let hook = PurgeHook::new(move |_| {
        let call = counter.fetch_add(1, Ordering::SeqCst);
        assert!(call != 0, "a panic before the future");
        async move {
            assert!(call != 1, "a panic within the future");
            Ok::<_, std::io::Error>(())
        }
    });
    let cache = cache(hook);
    let (inner, _) = counting(|_, _| ok("created"));
    let response = send(&cache.invalidate_layer().layer(inner), post("/t/orders")).await;
    assert_eq!(response.status(), 200);
    cache.wait_for_purges().await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!((cache.stats().purges, cache.stats().failed_purge_attempts), (1, 2));
}

#[test]
fn names_outlive_a_runtime_that_is_shut_down() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (hook, mut calls) = held();
    let cache = cache(hook);
    let first = runtime();
    first.block_on(async {
        cache.invalidate(["a"]).await.unwrap();
        let (purge, _unanswered) = calls.recv().await.expect("a call");
        assert_eq!(names(&purge), ["a"]);
        cache.invalidate(["b"]).await.unwrap();
    });
    drop(first);
    runtime().block_on(async {
        let (idle, ()) = tokio::join!(cache.wait_for_purges(), async {
            let (purge, answer) = calls.recv().await.expect("a call by the second runtime");
            assert_eq!(names(&purge), ["a", "b"]);
            answer.send(Ok(())).unwrap();
        });
        idle
    });
    assert_eq!(cache.stats().purges, 1);
}

#[tokio::test]
async fn each_of_several_hooks_gets_the_names() {
    let ((slow, mut slow_calls), (fast, mut fast_calls)) = (held(), held());
    let store = Memory::new(1 << 20);
    store.after_invalidation(slow);
    store.after_invalidation(fast);
    store.invalidate(["a"]).await.unwrap();
    let (_, pending) = slow_calls.recv().await.expect("the first hook is called");
    for name in ["a", "b"] {
        let (purge, answer) = fast_calls.recv().await.expect("the second hook is called");
        assert_eq!(names(&purge), [name]);
        answer.send(Ok(())).unwrap();
        if name == "a" {
            store.invalidate(["b"]).await.unwrap();
        }
    }
    pending.send(Ok(())).unwrap();
    let (purge, answer) = slow_calls.recv().await.expect("the first hook is called again");
    assert_eq!(names(&purge), ["b"]);
    answer.send(Ok(())).unwrap();
    store.wait_for_purges().await;
    assert_eq!(store.stats().purges, 4);
}
