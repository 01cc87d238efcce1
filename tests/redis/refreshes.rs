//! Refresh ahead over Redis: the choice of a hit holds for all lookups of its refresh.

use std::{convert::Infallible, time::Duration};

use http::Request;
use tower::{ServiceBuilder, service_fn};
use tower_response_cache::{Clock, Outcome, Redis, ResponseCache, Rule, Store, redis::Coherence, request_body::ReadBody};

use crate::{
    common::{
        MINUTE, Plain, SECOND, get, outcome,
        redis::{Server, until},
        rpc::success,
        send, text,
    },
    setup::{HOUR, builder},
};

/// A rule, and a request that it covers.
type Read = (fn() -> Rule, fn() -> Request<Plain>);

const HITS: u32 = 200;

/// Sends a request at a moment when half of the hits refresh their entry. Returns the number of hits of [`HITS`] that did.
async fn refreshes(store: Redis, clock: Clock, rule: Rule, request: fn() -> Request<Plain>) -> u32 {
    let cache = ResponseCache::new(store.clone()).route("/t/{x}", rule.refresh_ahead(10.0));
    let inner = service_fn({
        let clock = clock.clone();
        move |request: Request<ReadBody<Plain>>| {
            clock.advance(SECOND);
            let response = success(request.headers(), "x");
            async move { Ok::<_, Infallible>(response) }
        }
    });
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    until("the response is stored", async || {
        let response = send(&service, request()).await;
        let is_hit = outcome(&response) == Outcome::Hit;
        text(response).await;
        is_hit
    })
    .await;
    // The probability of a refresh is e^(-left / 10 s), which is one half then.
    let half = Duration::from_secs_f64(600.0 - 10.0 * std::f64::consts::LN_2);
    clock.advance(half);
    let (calls, mut refreshed) = (store.stats().refreshes, 0);
    for _ in 0..HITS {
        let before = store.stats();
        assert_eq!(outcome(&send(&service, request()).await), Outcome::Hit);
        // A refresh begins in a task, with a lookup. This invalidation is behind it on the connection.
        tokio::task::yield_now().await;
        store.invalidate(["other"]).await.expect("a server is there");
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        until("the refresh has ended", async || store.stats().flights == 0).await;
        if store.stats().refreshes > before.refreshes {
            refreshed += 1;
            until("the entry is refreshed", async || store.stats().stored > before.stored).await;
            clock.advance(half);
        }
    }
    assert_eq!(store.stats().refreshes - calls, u64::from(refreshed));
    refreshed
}

#[tokio::test]
async fn hits_refresh_ahead_at_the_set_rate() {
    let server = Server::start().await;
    let reads: [Read; 2] = [
        (|| Rule::ttl(10 * MINUTE), || get("/t/a")),
        (
            || Rule::rpc(10 * MINUTE),
            || {
                let call = Request::post("/t/a").header("content-type", "application/grpc");
                call.body(Plain::from(&b"\0\0\0\0\x01a"[..])).expect("a request")
            },
        ),
    ];
    for (n, (rule, request)) in reads.into_iter().enumerate() {
        for (coherence, has_memory) in [(Coherence::Validated, false), (Coherence::Ttl(HOUR), true)] {
            fastrand::seed(20);
            let clock = Clock::manual();
            let builder = builder(&server).prefix(&format!("{n}{has_memory}")).coherence(coherence).clock(clock.clone());
            let builder = if has_memory { builder.memory(8 << 20) } else { builder };
            let refreshed = refreshes(builder.build().await.expect("a server is there"), clock, rule(), request).await;
            assert!((70..130).contains(&refreshed), "rule {n}, in memory: {has_memory}: {refreshed} of {HITS}");
        }
    }
}
