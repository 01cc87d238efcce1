//! Writes through the cache are never reported, whenever they come.

use http::{Method, Response};
use tower::Layer;
use tower_response_cache::{InvalidateLayer, Memory, Store, stats::AuditResult};
use tower_test::mock;

use crate::{audited, audits, common::*, layer, memory};

/// The inner service under the control of the test, and both layers over it.
fn held(
    store: &Memory,
) -> (
    impl tower::Service<http::Request<Plain>, Response = Response<impl Send + 'static>, Error = tower::BoxError, Future: Send>
    + Clone
    + Send
    + 'static,
    Handle,
) {
    let (inner, handle) = mock::pair();
    let rules = one_rule(audited());
    let cache = layer(store.clone(), audited()).layer(inner);
    (InvalidateLayer::new(store.clone()).rules(rules).layer(cache), handle)
}

/// The time of a write through the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    /// It ends before the fresh response is computed.
    Before,
    /// It is in progress when the fresh response is computed, with its data committed, and ends after that.
    Across,
    /// It begins and ends between the fresh response and the check of the entry.
    Between,
    /// It ends after the audit.
    After,
}

#[tokio::test]
async fn write_through_the_cache_never_differs() {
    for at in [At::Before, At::Across, At::Between, At::After] {
        let store = memory();
        let (service, mut handle) = held(&store);
        let call = |request| {
            let service = service.clone();
            tokio::spawn(async move { drop(send(&service, request).await) })
        };
        let first = call(get("/t/a"));
        next_call(&mut handle).await.1.send_response(ok("old"));
        first.await.unwrap();
        call(get("/t/a")).await.unwrap();
        let (audit, reply) = next_call(&mut handle).await;
        assert_eq!(audit.method(), Method::GET);
        let write = |handle: Handle| async move {
            let mut handle = handle;
            let write = tokio::spawn({
                let service = service.clone();
                async move { drop(send(&service, post("/t/a")).await) }
            });
            let (request, reply) = next_call(&mut handle).await;
            assert_eq!(request.method(), Method::POST);
            (handle, write, reply)
        };
        let result = match at {
            At::Before => {
                let (handle, write, ends) = write(handle).await;
                ends.send_response(ok(""));
                write.await.unwrap();
                reply.send_response(ok("new"));
                drop(handle);
                AuditResult::Changed
            }
            At::Across => {
                let (handle, write, ends) = write(handle).await;
                reply.send_response(ok("new"));
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                assert!(crate::route(&store).audits.is_empty(), "the audit waits for the write");
                ends.send_response(ok(""));
                write.await.unwrap();
                drop(handle);
                AuditResult::Changed
            }
            At::Between => {
                reply.send_response(ok("new"));
                // The audit reads the response when it is polled next.
                store.invalidate(["t:a"]).await.unwrap();
                AuditResult::Changed
            }
            At::After => {
                reply.send_response(ok("old"));
                audits(&store, 1).await;
                let (handle, write, ends) = write(handle).await;
                ends.send_response(ok(""));
                write.await.unwrap();
                drop(handle);
                AuditResult::Same
            }
        };
        assert_eq!(audits(&store, 1).await, [(result, 1)], "{at:?}");
    }
}

#[tokio::test]
async fn write_between_two_fresh_responses_is_no_instability() {
    let store = memory();
    let (service, mut handle) = held(&store);
    let first = tokio::spawn({
        let service = service.clone();
        async move { drop(send(&service, get("/t/a")).await) }
    });
    next_call(&mut handle).await.1.send_response(ok("old"));
    first.await.unwrap();
    drop(send(&service, get("/t/a")).await);
    next_call(&mut handle).await.1.send_response(ok("bypassed"));
    let (_, second) = next_call(&mut handle).await;
    let write = tokio::spawn(async move { drop(send(&service, post("/t/a")).await) });
    let (_, ends) = next_call(&mut handle).await;
    second.send_response(ok("written"));
    ends.send_response(ok(""));
    write.await.unwrap();
    assert_eq!(audits(&store, 1).await, [(AuditResult::Changed, 1)]);
}

#[tokio::test]
async fn entry_that_was_replaced_says_nothing() {
    let store = memory();
    let (service, mut handle) = held(&store);
    let fill = |handle| async {
        let mut handle: Handle = handle;
        let filling = tokio::spawn({
            let service = service.clone();
            async move { drop(send(&service, get("/t/a")).await) }
        });
        let (_, reply) = next_call(&mut handle).await;
        (handle, filling, reply)
    };
    let (rest, filling, reply) = fill(handle).await;
    handle = rest;
    reply.send_response(ok("old"));
    filling.await.unwrap();
    drop(send(&service, get("/t/a")).await);
    let (_, audit) = next_call(&mut handle).await;
    store.invalidate(["t:a"]).await.unwrap();
    let (rest, filling, reply) = fill(handle).await;
    reply.send_response(ok("new"));
    filling.await.unwrap();
    audit.send_response(ok("new"));
    assert_eq!(audits(&store, 1).await, [(AuditResult::Changed, 1)]);
    drop(rest);
}
