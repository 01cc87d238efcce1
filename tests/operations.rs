//! What an operator needs: to turn caching off and on, and to be told of what would otherwise fail silently.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use http::{Request, Response};
use tower::{Layer, ServiceExt};
use tower_response_cache::{Bypass, CacheLayer, CacheStatus, InvalidateLayer, Memory, Outcome, Rule, Store, Storing, Switch};

const OFF: Outcome = Outcome::Bypass(Bypass::Disabled);

#[tokio::test]
async fn layer_that_is_turned_off_calls_the_inner_service() {
    let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
    let store = Memory::new(1 << 20);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).enabled(false).layer(inner);
    for n in 1..=2 {
        let response = send(&cache, get("/t/x")).await;
        assert_eq!((outcome(&response), text(response).await), (OFF, format!("answer {n}")));
    }
    let unruled = send(&cache, get("/other")).await;
    assert!(unruled.extensions().get::<CacheStatus>().is_none(), "no rule covers it");
    assert_eq!((calls.load(Ordering::SeqCst), store.usage().entries), (3, 0));
}

#[tokio::test]
async fn what_a_write_invalidated_while_off_is_not_served_later() {
    let switch = Switch::default();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let store = Memory::new(1 << 20);
    let rules = one_rule(Rule::ttl(MINUTE).namespace("t:{table}"));
    let cache = CacheLayer::new(store.clone()).rules(rules.clone()).enabled(&switch).layer(inner);
    let service = InvalidateLayer::new(store).rules(rules).layer(cache);
    send(&service, get("/t/x")).await;
    send(&service, get("/t/y")).await;
    switch.set(false);
    assert_eq!(outcome(&send(&service, get("/t/x")).await), OFF);
    send(&service, post("/t/x")).await;
    switch.set(true);
    let response = send(&service, get("/t/x")).await;
    assert!(matches!(outcome(&response), Outcome::Miss(_)));
    assert_eq!(text(response).await, "answer 5");
    assert_eq!(outcome(&send(&service, get("/t/y")).await), Outcome::Hit, "nothing has invalidated it");
}

/// A fill that was under way when caching was turned off is stored under the stamp that it began with.
#[tokio::test]
async fn fill_across_an_off_and_a_write_is_not_served() {
    let switch = Switch::default();
    let store = Memory::new(1 << 20);
    let layer =
        CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE).namespace("t:{table}"))).enabled(switch.clone());
    let (cache, mut hand) = in_hand::<Plain>(&layer);
    let first = begin(&cache, get("/t/x")).await;
    let (_, call) = next_call(&mut hand).await;
    switch.set(false);
    store.invalidate(["t:x"]).await.unwrap();
    switch.set(true);
    call.send_response(ok("old"));
    let response = first.await.unwrap();
    assert!(matches!(response.extensions().get::<CacheStatus>().unwrap().stored(), Some(Storing::Not(_))));
    let second = begin(&cache, get("/t/x")).await;
    next_call(&mut hand).await.1.send_response(ok("new"));
    assert_eq!(text(second.await.unwrap()).await, "new");
}

#[tokio::test]
async fn clones_of_a_layer_share_their_switch() {
    let switch = Switch::new(true);
    let layer = CacheLayer::new(Memory::new(1 << 20)).rules(one_rule(Rule::ttl(MINUTE))).enabled(&switch);
    let services = [layer.clone(), layer.clone().cache_status("other")].map(|layer| {
        layer.layer(tower::service_fn(async |_: Request<Plain>| {
            Ok::<_, std::convert::Infallible>(Response::new(Plain::default()))
        }))
    });
    switch.set(false);
    for service in services {
        assert_eq!(outcome(&service.oneshot(get("/t/x")).await.unwrap()), OFF);
    }
}
