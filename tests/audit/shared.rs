//! Audits over Redis: the entry is checked in Redis itself.

use tower::Layer;
use tower_response_cache::{InvalidateLayer, Redis, redis::Coherence, stats::AuditResult};
use tower_test::mock;

use crate::{
    Origin, audited, audits,
    common::{redis::Server, *},
    differences, layer,
};

async fn store(server: &Server, coherence: Coherence) -> Redis {
    let builder = Redis::builder(&server.url()).command_timeout(2 * SECOND).max_round_trip(SECOND / 2);
    builder.memory(8 << 20).coherence(coherence).build().await.expect("a store")
}

const ALL: [Coherence; 3] = [Coherence::Leased, Coherence::Validated, Coherence::Ttl(MINUTE)];

#[tokio::test(flavor = "multi_thread")]
async fn write_past_the_cache_is_found() {
    for coherence in ALL {
        let server = Server::start().await;
        let (store, origin) = (store(&server, coherence).await, Origin::new("old"));
        let cache = layer(store.clone(), audited()).layer(origin.service());
        send(&cache, get("/t/a")).await;
        origin.set("new");
        assert_eq!(text(send(&cache, get("/t/a")).await).await, "old");
        assert_eq!(audits(&store, 1).await, [(AuditResult::Differed, 1)], "{coherence:?}");
        assert_eq!(differences(&store).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_by_another_process_is_seen_in_redis() {
    for coherence in ALL {
        let server = Server::start().await;
        let (one, two) = (store(&server, coherence).await, store(&server, coherence).await);
        let (inner, mut handle) = mock::pair::<_, http::Response<Plain>>();
        let cache = layer(one.clone(), audited()).layer(inner);
        let first = begin(&cache, get("/t/a")).await;
        let (filled, ()) = tokio::join!(first, async { next_call(&mut handle).await.1.send_response(ok("old")) });
        drop(filled.unwrap());
        send(&cache, get("/t/a")).await;
        let (_, audit) = next_call(&mut handle).await;
        // A write in another process, whose handler responds before the fresh response is computed.
        let writing = InvalidateLayer::new(two.clone()).rules(one_rule(audited())).layer(Origin::new("").service());
        send(&writing, post("/t/a")).await;
        audit.send_response(ok("new"));
        assert_eq!(audits(&one, 1).await, [(AuditResult::Changed, 1)], "{coherence:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_is_gone_leaves_the_audit_open() {
    let mut server = Server::start().await;
    let store = store(&server, Coherence::Ttl(MINUTE)).await;
    let (inner, mut handle) = mock::pair::<_, http::Response<Plain>>();
    let cache = layer(store.clone(), audited()).layer(inner);
    let first = begin(&cache, get("/t/a")).await;
    let (filled, ()) = tokio::join!(first, async { next_call(&mut handle).await.1.send_response(ok("old")) });
    drop(filled.unwrap());
    send(&cache, get("/t/a")).await;
    let (_, audit) = next_call(&mut handle).await;
    server.kill();
    audit.send_response(ok("new"));
    assert_eq!(audits(&store, 1).await, [(AuditResult::Changed, 1)]);
}
