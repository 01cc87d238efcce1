//! Refresh ahead. XFetch draws one random number for each hit. Two draws, or a choice that is lost on the way, would change the rate of refreshes.

use std::{convert::Infallible, time::Duration};

use http::Request;
use tower::{ServiceBuilder, service_fn};
use tower_response_cache::{
    Clock, Identity, Memory, Outcome, ResponseCache, RouteAndQuery, Rule, Store, request_body::ReadBody,
};

use super::remembered::{ENOUGH, Unremembered};
use crate::common::{MINUTE, Plain, SECOND, get, outcome, rpc::success, send, text, until};

const HITS: u32 = 400;

/// Sends a request at a moment when half of the hits refresh their entry. Returns the number of hits of [`HITS`] that did.
async fn refreshes(rule: Rule, request: fn() -> Request<Plain>) -> u32 {
    fastrand::seed(20);
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let cache = ResponseCache::new(store.clone()).route("/t/{x}", rule.refresh_ahead(10.0));
    let inner = service_fn({
        let clock = clock.clone();
        move |request: Request<ReadBody<Plain>>| {
            clock.advance(SECOND);
            let response = success(request.headers(), r#"{"data":{"a":1}}"#);
            async move { Ok::<_, Infallible>(response) }
        }
    });
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    for _ in 0..=ENOUGH {
        text(send(&service, request()).await).await;
    }
    // The probability of a refresh is e^(-left / 10 s), which is one half then.
    let half = Duration::from_secs_f64(600.0 - 10.0 * std::f64::consts::LN_2);
    clock.advance(half);
    let mut refreshed = 0;
    for _ in 0..HITS {
        let before = store.stats();
        assert_eq!(outcome(&send(&service, request()).await), Outcome::Hit);
        if store.stats().refreshes > before.refreshes {
            refreshed += 1;
            until("the entry is refreshed", || store.stats().stored > before.stored).await;
            clock.advance(half);
        }
    }
    refreshed
}

async fn assert_half(rules: impl IntoIterator<Item = Rule>, request: fn() -> Request<Plain>) {
    for (n, rule) in rules.into_iter().enumerate() {
        let refreshed = refreshes(rule, request).await;
        assert!((160..240).contains(&refreshed), "rule {n}: {refreshed} of {HITS}");
    }
}

#[tokio::test]
async fn hits_of_get_refresh_ahead_at_the_set_rate() {
    let rule = || Rule::ttl(10 * MINUTE);
    assert_half([rule(), rule().key(Unremembered(RouteAndQuery)), Rule::http().default_ttl(10 * MINUTE)], || get("/t/a")).await;
}

#[tokio::test]
async fn hits_of_an_identity_refresh_ahead_at_the_set_rate() {
    let rule = || Rule::ttl(10 * MINUTE);
    let identified =
        [rule().identity(Identity::bearer()), rule().key(Unremembered(RouteAndQuery)).identity(Identity::bearer())];
    assert_half(identified, || {
        let mut request = get("/t/a");
        request.headers_mut().insert("authorization", "Bearer ada".parse().expect("a value"));
        request
    })
    .await;
}

#[tokio::test]
async fn hits_of_a_post_refresh_ahead_at_the_set_rate() {
    let rule = || Rule::ttl(10 * MINUTE).reads_by_post();
    assert_half([rule(), rule().key(Unremembered(RouteAndQuery))], || {
        Request::post("/t/a").body(Plain::from("x")).expect("a request")
    })
    .await;
}

#[tokio::test]
async fn hits_of_calls_refresh_ahead_at_the_set_rate() {
    let rule = || Rule::rpc(10 * MINUTE);
    assert_half([rule(), rule().rpc_age(), rule().key(Unremembered(RouteAndQuery.query_as_sent()))], || {
        let call = Request::post("/t/a").header("content-type", "application/grpc").header("grpc-timeout", "9S");
        call.body(Plain::from(&b"\0\0\0\0\x01a"[..])).expect("a request")
    })
    .await;
}

#[cfg(feature = "graphql")]
#[tokio::test]
async fn hits_of_graphql_refresh_ahead_at_the_set_rate() {
    let rule = || Rule::graphql(10 * MINUTE);
    assert_half([rule()], || {
        let query = Request::post("/t/a").header("content-type", "application/json");
        query.body(Plain::from(r#"{"query":"{ a }"}"#)).expect("a request")
    })
    .await;
}
