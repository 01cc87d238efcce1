//! Mutations: they are never cached, and they are writes.

use tower_response_cache::invalidate::Invalidation;

use super::*;

/// Returns true if a request makes the entry of a query invalid.
async fn invalidates(app: &App, request: Request<Plain>) -> bool {
    app.read(query(NOTES)).await;
    assert!(app.is_hit(query(NOTES)).await);
    app.send(request).await;
    !app.is_hit(query(NOTES)).await
}

#[tokio::test]
async fn requests_that_may_be_mutations_invalidate() {
    let both = format!("{NOTES} {ADD}");
    let named = |name: &str| post_json(&json!({ "query": both, "operationName": name }));
    let mut overridden = query(NOTES);
    overridden.headers_mut().insert("x-http-method-override", "DELETE".parse().expect("a value"));
    let large = "a".repeat(70_000);
    for (request, want) in [
        (query(ADD), true),
        (named("Add"), true),
        (named("Notes"), false),
        (named("Others"), true),
        (query(&both), true),
        (query("{ other }"), false),
        (query("subscription { notes }"), false),
        (query("{ a { ... @defer { b } } }"), false),
        (query("{ broken"), true),
        (by_post("not JSON"), true),
        (post_json(&json!([{ "query": NOTES }])), true),
        (post_json(&json!({ "query": NOTES, "variables": { "a": large } })), true),
        (overridden, true),
        (by_get(&[("query", ADD)]), false),
        (get("/graphql?query=broken"), false),
    ] {
        let app = App::new(rule());
        let name = format!("{request:?}");
        assert_eq!(invalidates(&app, request).await, want, "{name}");
    }
}

#[tokio::test]
async fn mutation_invalidates_what_the_rule_names_for_writes() {
    let app = App::new(rule().invalidates("others"));
    assert!(!invalidates(&app, query(ADD)).await);
    let app = App::new(rule().invalidates("notes"));
    assert!(invalidates(&app, query(ADD)).await);
}

#[tokio::test]
async fn mutations_are_called_each_time() {
    let app = App::new(rule());
    for _ in 0..3 {
        let response = app.send(query(ADD)).await;
        assert_eq!(outcome(&response), Outcome::Bypass(Bypass::GraphqlOperation));
        assert_eq!(response.extensions().get(), Some(&Invalidation::Delivered));
    }
    assert_eq!(app.calls(), 3);
}

#[tokio::test]
async fn operations_are_writes_if_nothing_reads_them() {
    let cache = ResponseCache::new(Memory::default()).route("/graphql", rule());
    let (inner, _) = counting(|_, _| reply(&json!({ "data": {} })));
    let service = ServiceBuilder::new().layer((cache.invalidate_layer(), cache.cache_layer())).service(inner);
    let before = cache.stats().invalidations;
    service.clone().oneshot(query(NOTES)).await.expect("a response");
    assert_eq!(cache.stats().invalidations, before + 1);
}
