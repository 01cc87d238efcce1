//! Instructions of a handler through its response: lifetime, storing, namespaces.

use std::time::Duration;

use super::storing::{ABSENT, HIT, stored};
use crate::common::{MINUTE, SECOND, counting, get, ok, one_rule, outcome, send};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, CachePolicy, Clock, Memory, Namespace, Outcome, Rule, Store,
    namespace::MAX_NAMESPACES,
    status::{Miss, NoStore, Storing},
};

async fn with_policy(rule: Rule, policy: CachePolicy) -> (Storing, bool, Clock, Memory, impl AsyncFn() -> Outcome) {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let (inner, _) = counting(move |_, _| {
        let mut response = ok("x");
        response.extensions_mut().insert(policy.clone());
        response
    });
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(inner);
    let first = send(&service, get("/t/a")).await;
    let leaks = first.extensions().get::<CachePolicy>().is_some();
    let ask = async move || outcome(&send(&service, get("/t/a")).await);
    (stored(&first).expect("the inner service was called"), leaks, clock, store, ask)
}

fn named(names: &[&str]) -> CachePolicy {
    names.iter().fold(CachePolicy::new(), |policy, name| policy.namespace(Namespace::new(name).expect("a name")))
}

#[tokio::test]
async fn handler_sets_the_lifetime_of_its_response() {
    for (by_rule, ttl) in [(MINUTE, 5 * MINUTE), (5 * MINUTE, SECOND), (Duration::ZERO, SECOND)] {
        let (storing, leaks, clock, _, ask) = with_policy(Rule::ttl(by_rule), CachePolicy::new().ttl(ttl)).await;
        assert_eq!((storing, leaks), (Storing::Stored, false));
        clock.advance(ttl - Duration::from_nanos(1));
        assert_eq!(ask().await, HIT);
        clock.advance(Duration::from_nanos(1));
        assert_eq!(ask().await, Outcome::Miss(Miss::Expired));
    }
    let (storing, ..) = with_policy(Rule::ttl(MINUTE), CachePolicy::new().ttl(Duration::ZERO)).await;
    assert_eq!(storing, Storing::Not(NoStore::Lifetime));
}

#[tokio::test]
async fn handler_forbids_storing() {
    let (storing, leaks, _, store, ask) = with_policy(Rule::ttl(MINUTE), CachePolicy::no_store()).await;
    assert_eq!((storing, leaks), (Storing::Not(NoStore::NoStore), false));
    assert!(matches!(ask().await, Outcome::Miss(_)));
    assert_eq!(store.stats().entries, 0);
}

#[tokio::test]
async fn handler_names_the_namespaces_of_its_response() {
    for (invalidated, is_gone) in
        [("row:7", true), ("row", true), ("row:8", false), ("db:a", true), ("*", true), ("row:77", false)]
    {
        let rule = Rule::ttl(MINUTE).namespace("db:{table}");
        let (storing, _, _, store, ask) = with_policy(rule, named(&["row:7"])).await;
        assert_eq!((storing, ask().await), (Storing::Stored, HIT));
        store.invalidate([invalidated]).await.expect("a name");
        assert_eq!(ask().await == ABSENT, is_gone, "{invalidated}");
    }
}

#[tokio::test]
async fn response_may_name_the_allowed_number_of_namespaces() {
    let rows = |count: usize, levels: &str| (0..count).map(|n| format!("{levels}{n}")).collect::<Vec<_>>();
    let most = MAX_NAMESPACES - 1;
    for (names, want) in [
        (rows(64, ""), Storing::Stored),
        (rows(most, ""), Storing::Stored),
        // Ancestors, repeated names and implied names do not count.
        (rows(most, "a:b:c:d:e:f"), Storing::Stored),
        (["a", "a:b", "db", "db:a", "*"].map(String::from).into_iter().chain(rows(most, "a:b:c")).collect(), Storing::Stored),
        (rows(most + 1, ""), Storing::Not(NoStore::Namespaces)),
        (rows(most + 1, "a:b:c:d:e:f"), Storing::Not(NoStore::Namespaces)),
        (rows(100_000, "a:"), Storing::Not(NoStore::Namespaces)),
    ] {
        let rule = Rule::ttl(MINUTE).namespace("db:{table}");
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(with_policy(rule, named(&names)).await.0, want, "{} such as {:?}", names.len(), names.last());
    }
    let long: Vec<_> = (0..1000).map(|n| format!("{}ä{n}", "n".repeat(190))).collect();
    let long: Vec<_> = long.iter().chain(&long).map(String::as_str).collect();
    assert_eq!(with_policy(Rule::ttl(MINUTE), named(&long)).await.0, Storing::Not(NoStore::Namespaces));
}

#[tokio::test]
async fn each_of_many_namespaces_and_its_ancestors_invalidate() {
    let rows: Vec<_> = (0..100).map(|n| format!("row:t{}:{n}", n % 3)).collect();
    let rows: Vec<_> = rows.iter().map(String::as_str).collect();
    for (invalidated, is_gone) in
        [("row:t0:99", true), ("row:t1:1", true), ("row:t2", true), ("row", true), ("row:t0:1", false)]
    {
        let (storing, _, _, store, ask) = with_policy(Rule::ttl(MINUTE), named(&rows)).await;
        assert_eq!((storing, ask().await), (Storing::Stored, HIT));
        store.invalidate([invalidated]).await.expect("a name");
        assert_eq!(ask().await == ABSENT, is_gone, "{invalidated}");
    }
}
