//! Explicit invalidation of namespaces and keys.

use super::{ABSENT, HIT, sized};
use crate::common::{MINUTE, counting, get, one_rule, outcome, send};
use tower::Layer;
use tower_response_cache::{CacheLayer, Memory, Namespace, Outcome, Rule, Rules, Store, status::Miss};

#[tokio::test]
async fn namespace_invalidates_itself_and_its_descendants_only() {
    for (invalidated, namespace, is_gone) in [
        ("users", "users", true),
        ("users", "users:1", true),
        ("users", "users:1:posts", true),
        ("users:1", "users:1:posts", true),
        ("users:1", "users:1", true),
        ("users:1", "users", false),
        ("users:1", "users:10", false),
        ("users", "users-admin", false),
        ("users", "users-admin:1", false),
        ("users", "Users", false),
        ("users", "admin:users", false),
        ("user", "users", false),
        ("*", "users:1", true),
        // Glob characters are part of the name.
        ("user?", "users", false),
        ("[u]sers", "users", false),
        ("users\\", "users", false),
        ("%", "users", false),
    ] {
        for soft in [false, true] {
            let store = Memory::default();
            let rule = Rule::ttl(MINUTE).namespaces_by(move |_| vec![Namespace::new(namespace).expect("a name")]);
            let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
            send(&service, get("/t/a-1")).await;
            match soft {
                true => store.invalidate_softly([invalidated]).await.expect("a name"),
                false => store.invalidate([invalidated]).await.expect("a name"),
            }
            let want = match (is_gone, soft) {
                (false, _) => HIT,
                (true, false) => ABSENT,
                (true, true) => Outcome::Miss(Miss::SoftlyInvalidated),
            };
            assert_eq!(outcome(&send(&service, get("/t/a-1")).await), want, "{invalidated} {namespace}");
        }
    }
}

#[tokio::test]
async fn list_with_an_invalid_name_invalidates_nothing() {
    let store = Memory::default();
    let rule = Rule::ttl(MINUTE).namespace("users");
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
    send(&service, get("/t/a-1")).await;
    for bad in ["users*", "users:", "", "a b"] {
        let error = store.invalidate(["users", bad]).await.expect_err(bad).to_string();
        assert!(error.contains(&format!("{bad:?}")), "{error}");
        assert!(store.invalidate_softly(["users", bad]).await.is_err());
    }
    assert_eq!(outcome(&send(&service, get("/t/a-1")).await), HIT);
}

#[tokio::test]
async fn invalidated_key_leaves_other_keys() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(counting(sized).0);
    let ask = async |target: &str| outcome(&send(&service, get(target)).await);
    assert_eq!((ask("/t/a-1").await, ask("/t/a-1?b").await), (ABSENT, ABSENT));
    store.invalidate_key(&rules.key(&store, &get("/t/a-1")).expect("a key")).await.expect("memory answers");
    assert_eq!((ask("/t/a-1").await, ask("/t/a-1?b").await), (ABSENT, HIT));
}

#[tokio::test]
async fn many_and_repeated_names_are_invalidated_at_once() {
    let store = Memory::default();
    // No two names have a common ancestor except the root.
    let rules = Rules::new().route("/t/{id}", Rule::ttl(MINUTE).namespace("{id}:row"));
    let service = CacheLayer::new(store.clone()).rules(rules).layer(counting(sized).0);
    let others: Vec<_> = (0..40).map(|n| format!("/t/other{n}-1")).collect();
    for target in ["/t/0-1", "/t/399-1"].into_iter().chain(others.iter().map(String::as_str)) {
        send(&service, get(target)).await;
    }
    // The names have more than 64 KiB of text.
    let names = (0..400).map(|n| format!("{n}-1:row")).chain((0..400).map(|n| format!("{}{n}", "ä".repeat(90))));
    let names: Vec<_> = names.collect();
    store.invalidate(names.iter().chain(&names).map(String::as_str)).await.expect("names");
    for target in ["/t/0-1", "/t/399-1"] {
        assert_eq!(outcome(&send(&service, get(target)).await), ABSENT, "{target}");
    }
    let mut alive = 0;
    for target in &others {
        alive += usize::from(outcome(&send(&service, get(target)).await) == HIT);
    }
    // Names that collide in the table of epochs are invalidated together: some, never many.
    assert!(alive >= 30, "{alive} of 40");
}

#[tokio::test]
async fn clones_of_a_memory_share_invalidations() {
    let store = Memory::default();
    let other = store.clone();
    let rule = || one_rule(Rule::ttl(MINUTE).namespace("users"));
    let one = CacheLayer::new(store).rules(rule()).layer(counting(sized).0);
    let two = CacheLayer::new(other.clone()).rules(rule()).layer(counting(sized).0);
    send(&one, get("/t/a-1")).await;
    assert_eq!(outcome(&send(&two, get("/t/a-1")).await), HIT);
    other.invalidate(["users"]).await.expect("a name");
    assert_eq!(outcome(&send(&one, get("/t/a-1")).await), ABSENT);
}
