//! The bounds of audits: their number, their time and their bytes.

use tower::Layer;
use tower_response_cache::{Outcome, Rule, stats::AuditResult};
use tower_test::mock;

use crate::{Origin, audited, audits, common::*, layer, memory, route};

#[tokio::test]
async fn hits_beyond_the_limit_are_skipped_and_served() {
    let (store, (inner, mut handle)) = (memory(), mock::pair::<_, http::Response<Plain>>());
    let cache = layer(store.clone(), audited()).layer(inner);
    let first = begin(&cache, get("/t/a")).await;
    let (filled, ()) = tokio::join!(first, async { next_call(&mut handle).await.1.send_response(ok("rows")) });
    drop(filled.unwrap());
    for _ in 0..5 {
        assert_eq!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit, "no hit waits for its audit");
    }
    assert_eq!(route(&store).audits, [(AuditResult::Skipped, 3)]);
    for _ in 0..2 {
        next_call(&mut handle).await.1.send_response(ok("rows"));
    }
    assert_eq!(audits(&store, 5).await, [(AuditResult::Same, 2), (AuditResult::Skipped, 3)]);
}

#[tokio::test]
async fn no_hit_is_audited_with_a_limit_of_zero() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let cache = layer(store.clone(), audited()).max_audits(0).layer(origin.service());
    for _ in 0..3 {
        send(&cache, get("/t/a")).await;
    }
    assert_eq!((audits(&store, 2).await, origin.calls()), (vec![(AuditResult::Skipped, 2)], 1));
}

#[tokio::test(start_paused = true)]
async fn call_that_never_ends_has_failed() {
    let (store, (inner, mut handle)) = (memory(), mock::pair::<_, http::Response<Plain>>());
    let cache = layer(store.clone(), audited()).layer(inner);
    let first = begin(&cache, get("/t/a")).await;
    let (filled, ()) = tokio::join!(first, async { next_call(&mut handle).await.1.send_response(ok("rows")) });
    drop(filled.unwrap());
    send(&cache, get("/t/a")).await;
    let _held = next_call(&mut handle).await;
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(audits(&store, 1).await, [(AuditResult::Failed, 1)]);
}

#[tokio::test]
async fn failed_and_panicked_calls_have_failed() {
    for panics in [false, true] {
        let store = memory();
        let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let inner = tower::service_fn(move |_: http::Request<Plain>| {
            let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                match call {
                    0 => Ok(ok("rows")),
                    _ if panics => panic!("the handler panics"),
                    _ => Err("the handler fails"),
                }
            }
        });
        let cache = layer(store.clone(), audited()).layer(inner);
        send(&cache, get("/t/a")).await;
        assert_eq!(outcome(&send(&cache, get("/t/a")).await), Outcome::Hit);
        assert_eq!(audits(&store, 1).await, [(AuditResult::Failed, 1)]);
    }
}

#[tokio::test]
async fn body_larger_than_the_limit_differs() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let cache = layer(store.clone(), audited().max_body(100)).layer(origin.service());
    send(&cache, get("/t/a")).await;
    origin.set(&"x".repeat(1000));
    send(&cache, get("/t/a")).await;
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
}

#[tokio::test]
async fn endless_body_differs_and_is_dropped() {
    let (store, (inner, mut handle)) = (memory(), mock::pair::<_, http::Response<ChannelBody>>());
    let cache = layer(store.clone(), audited().max_body(100)).layer(inner);
    let first = begin(&cache, get("/t/a")).await;
    let (filled, ()) = tokio::join!(first, async {
        let (response, source) = channel_response(None);
        source.send("rows");
        drop(source);
        next_call(&mut handle).await.1.send_response(response);
    });
    assert_eq!(text(filled.unwrap()).await, "rows");
    drop(send(&cache, get("/t/a")).await);
    for _ in 0..2 {
        let (response, source) = channel_response(None);
        source.send("x".repeat(101));
        next_call(&mut handle).await.1.send_response(response);
        within(source.dropped()).await;
    }
    assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)]);
}

#[test]
fn audit_that_its_runtime_drops_has_failed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = memory();
    let (inner, mut handle) = mock::pair::<_, http::Response<Plain>>();
    runtime.block_on(async {
        let cache = layer(store.clone(), audited()).layer(inner);
        let first = begin(&cache, get("/t/a")).await;
        let (filled, ()) = tokio::join!(first, async { next_call(&mut handle).await.1.send_response(ok("rows")) });
        drop(filled.unwrap());
        send(&cache, get("/t/a")).await;
        let _held = next_call(&mut handle).await;
    });
    drop(runtime);
    assert_eq!(route(&store).audits, [(AuditResult::Failed, 1)]);
}

#[tokio::test]
async fn rule_without_audit_makes_no_call() {
    let (store, origin) = (memory(), Origin::new("rows"));
    let cache = layer(store.clone(), Rule::ttl(MINUTE)).layer(origin.service());
    for _ in 0..100 {
        send(&cache, get("/t/a")).await;
    }
    assert_eq!((origin.calls(), route(&store).audits.len()), (1, 0));
}
