//! Queries of GraphQL over a store that two processes share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, header};
use serde_json::json;
use tower_response_cache::{Outcome, Redis, ResponseCache, Rule, redis::Coherence, status::Stale};

use crate::{
    common::{
        app,
        redis::{Server, until},
        *,
    },
    setup::store,
};

const QUERY: &str = "{ notes { __typename id version } }";
const MUTATION: &str = "mutation { edit { __typename id version } }";

/// A process with a server of GraphQL behind its cache.
type Process = app::App<Plain>;

/// Returns a process whose note has the version `written`. A mutation increments it.
fn process(store: Redis, rule: Rule, written: &Arc<AtomicUsize>) -> Process {
    let written = written.clone();
    let answer = move |content: &str, _: usize| {
        let version = match content.contains("mutation") {
            true => written.fetch_add(1, Ordering::SeqCst) + 1,
            false => written.load(Ordering::SeqCst),
        };
        let note = json!({ "__typename": "Note", "id": 7, "version": version });
        let mut response: Response<Plain> = ok(json!({ "data": { "note": note } }).to_string());
        response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        response.headers_mut().insert("cache-namespaces", "notes:7".parse().unwrap());
        response.headers_mut().insert("cache-invalidates", "notes:7".parse().unwrap());
        response
    };
    Process::around(ResponseCache::new(store).route("/graphql", rule), answer)
}

fn post(document: &str) -> Request<Plain> {
    let request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    request.body(Plain::from(json!({ "query": document }).to_string())).unwrap()
}

/// Returns the outcome of the query and the version that it shows.
async fn read(process: &Process) -> (Outcome, usize) {
    let (outcome, text) = process.read(post(QUERY)).await;
    let content: serde_json::Value = serde_json::from_str(&text).unwrap();
    (outcome, usize::try_from(content["data"]["note"]["version"].as_u64().unwrap()).unwrap())
}

/// The namespaces are known from the request, from the data, or from a header field.
fn rules() -> [(&'static str, Rule); 3] {
    let by_header = Rule::graphql(MINUTE).namespaces_from_header("cache-namespaces");
    [
        ("rule", Rule::graphql(MINUTE).namespace("notes")),
        ("data", Rule::graphql(MINUTE).graphql_entities()),
        ("header", by_header.invalidates_from_header("cache-invalidates")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn mutation_in_one_process_is_seen_in_another() {
    let server = Server::start().await;
    for (name, rule) in rules() {
        for (coherence, memory) in [(Coherence::Validated, false), (Coherence::Validated, true), (Coherence::Leased, true)] {
            let prefix = format!("{name}{coherence:?}{memory}");
            let written = Arc::default();
            let one = process(store(&server, &prefix, coherence, memory).await, rule.clone(), &written);
            let other = process(store(&server, &prefix, coherence, memory).await, rule.clone(), &written);
            for version in 0..3 {
                // The first fill that names a new namespace is not stored.
                until("a hit", async || read(&one).await == (Outcome::Hit, version)).await;
                assert_eq!(read(&other).await, (Outcome::Hit, version), "{prefix}: one entry serves both processes");
                one.send(post(MUTATION)).await;
                assert_eq!(read(&one).await.1, version + 1, "{prefix}");
                match coherence {
                    Coherence::Validated => assert_eq!(read(&other).await.1, version + 1, "{prefix}"),
                    _ => until("the mutation is seen", async || read(&other).await.1 == version + 1).await,
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_is_invalidated_from_another_process() {
    let server = Server::start().await;
    let written = Arc::default();
    let rule = Rule::graphql(MINUTE).graphql_entities();
    let one = process(store(&server, "p", Coherence::Validated, true).await, rule.clone(), &written);
    let other = process(store(&server, "p", Coherence::Validated, true).await, rule, &written);
    until("a hit", async || read(&one).await.0 == Outcome::Hit).await;
    other.cache.invalidate(["graphql:Note:8"]).await.unwrap();
    assert_eq!(read(&one).await.0, Outcome::Hit);
    other.cache.invalidate(["graphql:Note:7"]).await.unwrap();
    assert_ne!(read(&one).await.0, Outcome::Hit);
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_invalidation_serves_the_older_version_once_more() {
    let server = Server::start().await;
    for (name, rule) in rules() {
        let rule = rule.stale_while_revalidate(MINUTE).invalidates_softly();
        let written = Arc::default();
        let one = process(store(&server, name, Coherence::Validated, true).await, rule.clone(), &written);
        let other = process(store(&server, name, Coherence::Validated, true).await, rule, &written);
        until("a hit", async || read(&other).await == (Outcome::Hit, 0)).await;
        one.send(post(MUTATION)).await;
        assert_eq!(read(&other).await, (Outcome::Stale(Stale::WhileRevalidate), 0), "{name}");
        until("the refresh is seen", async || read(&other).await == (Outcome::Hit, 1)).await;
        until("the refresh is seen", async || read(&one).await == (Outcome::Hit, 1)).await;
    }
}
