//! Operations: the off switch, warnings about silent failures, and statistics.

use std::sync::atomic::Ordering;

use crate::common::{warnings::warned, *};
use http::{Request, Response};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    CacheLayer, CachePolicy, CacheStatus, InvalidateLayer, Invalidations, Memory, Namespace, Outcome, Rule, Rules, Store,
    Switch,
    status::{Bypass, Storing},
};

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
    assert!(CacheStatus::of(&unruled).is_none(), "no rule covers it");
    assert_eq!((calls.load(Ordering::SeqCst), store.stats().entries), (3, 0));
}

#[tokio::test]
async fn write_while_off_invalidates_for_later() {
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
    assert_eq!(outcome(&send(&service, get("/t/y")).await), Outcome::Hit, "no write has invalidated it");
}

/// A fill that runs while caching is turned off is stored under the stamp of its beginning.
#[tokio::test]
async fn fill_overtaken_while_off_is_not_served() {
    let switch = Switch::default();
    let store = Memory::new(1 << 20);
    let layer =
        CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE).namespace("t:{table}"))).enabled(switch.clone());
    let (cache, mut handle) = mocked::<Plain>(&layer);
    let first = begin(&cache, get("/t/x")).await;
    let (_, call) = next_call(&mut handle).await;
    switch.set(false);
    store.invalidate(["t:x"]).await.unwrap();
    switch.set(true);
    call.send_response(ok("old"));
    let response = first.await.unwrap();
    assert!(matches!(CacheStatus::of(&response).unwrap().stored(), Some(Storing::Not(_))));
    let second = begin(&cache, get("/t/x")).await;
    next_call(&mut handle).await.1.send_response(ok("new"));
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

// ---- Silent failures -------------------------------------------------------------------------------------------------

#[test]
fn uncovered_write_is_counted_and_warned_of_once() {
    let warnings = warned(async {
        let store = Memory::new(1 << 20);
        let rules = one_rule(Rule::ttl(MINUTE).namespace("t:{table}"));
        let (inner, _) = counting(|request, _| {
            let mut response = ok("");
            match request.uri().path() {
                "/refused" => *response.status_mut() = http::StatusCode::CONFLICT,
                "/said" => _ = response.extensions_mut().insert(Invalidations::only([])),
                _ => {}
            }
            response
        });
        let service = InvalidateLayer::new(store.clone()).rules(rules).layer(inner);
        for (target, uncovered) in [("/t/x", 0), ("/refused", 0), ("/said", 0), ("/orders/7", 1), ("/orders/8", 2)] {
            send(&service, post(target)).await;
            assert_eq!(store.stats().uncovered_writes, uncovered, "{target}");
        }
        send(&service, get("/orders/7")).await;
        assert_eq!((store.stats().uncovered_writes, store.stats().writes_without_rules), (2, 0));
        assert!(store.stats().to_string().contains("uncovered writes 2"), "{}", store.stats());
    });
    assert_eq!((warnings.with("no rule covers its route"), warnings.with("/orders/7")), (1, 1), "{warnings:?}");
}

#[test]
fn invalidate_layer_without_rules_is_counted_and_warned_of() {
    let warnings = warned(async {
        let store = Memory::new(1 << 20);
        let service = InvalidateLayer::new(store.clone()).layer(counting(|_, _| ok("")).0);
        send(&service, post("/orders")).await;
        assert_eq!((store.stats().uncovered_writes, store.stats().writes_without_rules), (1, 1));
    });
    assert_eq!(warnings.with("this InvalidateLayer has no rules"), 1, "{warnings:?}");
}

#[test]
fn entry_that_nothing_invalidates_is_counted_and_warned_of() {
    let warnings = warned(async {
        let store = Memory::new(1 << 20);
        let rules = Rules::new()
            .route("/never/{id}", Rule::ttl(MINUTE))
            .route("/meant/{id}", Rule::ttl(MINUTE).namespace("*"))
            .route("/named/{id}", Rule::ttl(MINUTE))
            .route("/http/{id}", Rule::http().default_ttl(MINUTE))
            .route("/t/{table}", Rule::ttl(MINUTE).namespace("t:{table}"));
        let (inner, _) = counting(|request, _| {
            let mut response = ok("x");
            if request.uri().path().starts_with("/named") {
                response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::new("row:7").expect("a name")));
            }
            response
        });
        let cache = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
        for (target, never) in [("/t/x", 0), ("/meant/1", 0), ("/named/1", 0), ("/http/1", 0), ("/never/1", 1), ("/never/2", 2)]
        {
            send(&cache, get(target)).await;
            assert_eq!(store.stats().never_invalidated, never, "{target}");
        }
        assert_eq!((store.stats().stored, store.stats().unmatched_rules), (6, 0));
    });
    assert_eq!((warnings.with("belong to no namespace"), warnings.with("/never/{id}")), (1, 1), "{warnings:?}");
}

#[tokio::test]
async fn rule_that_has_never_matched_is_counted() {
    let store = Memory::new(1 << 20);
    let rules = Rules::new().route("/t/{table}", Rule::ttl(MINUTE)).route("/orders/{id}", Rule::ttl(MINUTE));
    let cache = CacheLayer::new(store.clone()).rules(rules.clone()).layer(counting(|_, _| ok("x")).0);
    let _ = InvalidateLayer::new(store.clone()).rules(rules.clone()).layer(counting(|_, _| ok("x")).0);
    assert_eq!(store.stats().unmatched_rules, 2);
    send(&cache, get("/t/x")).await;
    assert_eq!(store.stats().unmatched_rules, 1);
    assert_eq!(rules.unmatched().collect::<Vec<_>>(), ["/orders/{id}"]);
    assert!(store.stats().to_string().contains("unmatched rules 1"), "{}", store.stats());
}

#[tokio::test]
async fn write_hides_no_rule_that_matches_no_read() {
    let store = Memory::new(1 << 20);
    let rules =
        Rules::new().route("/tables/{table}", Rule::ttl(MINUTE).namespace("t:{table}")).route("/logout", Rule::uncached());
    let layers =
        (CacheLayer::new(store.clone()).rules(rules.clone()), InvalidateLayer::new(store.clone()).rules(rules.clone()));
    let service = layers.layer(counting(|_, _| ok("x")).0);
    // The layers are outside of a nested router, and the pattern lacks its prefix.
    send(&service, get("/api/tables/x")).await;
    send(&service, post("/api/tables/x")).await;
    send(&service, post("/logout")).await;
    assert_eq!(rules.unmatched().collect::<Vec<_>>(), ["/tables/{table}"]);
    assert_eq!(store.stats().unmatched_rules, 1);
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn stats_show_breaker_lease_and_pending_names() {
    use tower_response_cache::{Redis, redis::Coherence};
    let mut server = crate::common::redis::Server::start().await;
    let store = Redis::builder(&server.url()).build().await.unwrap();
    crate::common::redis::until("the lease is held", async || store.is_leased()).await;
    assert!(store.stats().to_string().contains("breaker closed, lease held"), "{}", store.stats());
    let validated = Redis::builder(&server.url()).coherence(Coherence::Validated).build().await.unwrap();
    assert!(validated.stats().to_string().contains("breaker closed, lease none"), "{}", validated.stats());
    server.kill();
    crate::common::redis::until("the store knows that Redis is down", async || !store.is_reachable() && !store.is_leased())
        .await;
    assert!(store.stats().to_string().contains("breaker open, lease lost"), "{}", store.stats());
    let _ = tokio::time::timeout(std::time::Duration::from_millis(1), store.invalidate(["t:x"])).await;
    crate::common::redis::until("an invalidation is pending", async || store.stats().to_string().contains("pending 1")).await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn unstored_first_fill_of_a_new_name_is_reported() {
    use tower_response_cache::{Redis, status::NoStore};
    let server = crate::common::redis::Server::start().await;
    let store = Redis::builder(&server.url()).command_timeout(5 * SECOND).build().await.unwrap();
    let (inner, _) = counting(|request, n| {
        let mut response = ok(format!("answer {n}"));
        let row = request.uri().query().unwrap_or_default();
        response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", row])));
        response
    });
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE).namespace("t:{table}"))).layer(inner);
    let stored = async |target| {
        let response = send(&cache, get(target)).await;
        CacheStatus::of(&response).unwrap().stored()
    };
    let new = Some(Storing::Not(NoStore::NewNamespace));
    assert_eq!(stored("/t/x?7").await, new);
    crate::common::redis::until("the response is stored", async || stored("/t/x?7").await.is_none()).await;
    assert_eq!(stored("/t/x?8").await, new, "another name is new");
    let refused = store.stats().not_stored;
    let of = |why| refused.iter().find(|(reason, _)| *reason == why).map(|(_, count)| *count);
    assert_eq!(of(NoStore::Invalidated), Some(0));
}

#[test]
fn unread_request_body_is_warned_of_once_with_route_and_cure() {
    let warnings = warned(async {
        let rules = Rules::new().route("/search/{table}", Rule::ttl(MINUTE).namespace("*").reads_by_post());
        let service = CacheLayer::new(Memory::new(1 << 20)).rules(rules).layer(counting(|_, _| ok("")).0);
        for _ in 0..3 {
            let response = send(&service, post("/search/orders")).await;
            assert_eq!(outcome(&response), Outcome::Bypass(Bypass::RequestBodyUnread));
        }
    });
    assert_eq!((warnings.with("/search/{table}"), warnings.with("Put RequestBodyLayer outside")), (1, 1), "{warnings:?}");
}
