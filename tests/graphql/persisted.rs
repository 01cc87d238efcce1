//! Persisted queries: a hash stands for a document that was seen with it, or was registered.

use sha2::{Digest, Sha256};

use super::*;

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a POST with the hash of a text, and a document if there is one.
fn with_hash(hashed: &str, document: Option<&str>) -> Request<Plain> {
    post_json(&json!({ "query": document, "extensions": { "persistedQuery": { "version": 1, "sha256Hash": hash(hashed) } } }))
}

fn get_hash(hashed: &str) -> Request<Plain> {
    let extensions = json!({ "persistedQuery": { "version": 1, "sha256Hash": hash(hashed) } }).to_string();
    by_get(&[("extensions", &extensions)])
}

#[tokio::test]
async fn verified_hash_shares_the_entry_of_its_document() {
    let app = App::new(rule());
    for request in [with_hash(NOTES, None), get_hash(NOTES)] {
        assert_eq!(app.bypass(request).await, Some(Bypass::GraphqlPersisted));
    }
    let (_, first) = app.read(with_hash(NOTES, Some(NOTES))).await;
    for request in [with_hash(NOTES, None), get_hash(NOTES), with_hash(NOTES, Some(NOTES)), query(NOTES)] {
        assert_eq!(app.read(request).await, (Outcome::Hit, first.clone()));
    }
    assert_eq!(app.calls(), 3);
}

#[tokio::test]
async fn wrong_hash_stands_for_nothing() {
    let app = App::new(rule());
    assert_eq!(app.bypass(with_hash("query Other { a }", Some(NOTES))).await, Some(Bypass::GraphqlPersisted));
    assert_eq!(app.bypass(with_hash("query Other { a }", None)).await, Some(Bypass::GraphqlPersisted));
    assert_eq!(app.bypass(with_hash(NOTES, None)).await, Some(Bypass::GraphqlPersisted));
}

#[tokio::test]
async fn registered_documents_are_known_from_the_start() {
    let app = App::new(rule().graphql_document(NOTES).graphql_document(ADD));
    assert!(!app.is_hit(get_hash(NOTES)).await);
    assert!(app.is_hit(query(NOTES)).await);
    assert_eq!(app.bypass(get_hash(ADD)).await, Some(Bypass::GraphqlOperation));
}

#[tokio::test]
async fn unknown_hash_by_post_is_a_write() {
    let is_write = async |app: &App, request: Request<Plain>| {
        app.read(query(NOTES)).await;
        app.send(request).await;
        !app.is_hit(query(NOTES)).await
    };
    let app = App::new(rule());
    assert!(is_write(&app, with_hash(NOTES, None)).await, "it may be a mutation");
    assert!(!is_write(&app, get_hash(ADD)).await, "a GET is no write");
    assert!(is_write(&app, with_hash(ADD, Some(NOTES))).await, "a server may execute the document of the hash");
    assert!(!is_write(&app, with_hash(NOTES, Some(NOTES))).await);
    assert!(!is_write(&app, with_hash(NOTES, None)).await);
    assert!(is_write(&app, with_hash(ADD, Some(ADD))).await);
    assert!(is_write(&app, with_hash(ADD, None)).await);
}

#[tokio::test]
async fn answer_that_asks_for_the_document_is_not_stored() {
    let app = App::answering(rule().graphql_document(NOTES), |content, _| match content.contains("query Notes") {
        true => reply(&json!({ "data": {} })),
        false => reply(&json!({ "errors": [{ "message": "PersistedQueryNotFound" }] })),
    });
    assert_eq!(app.refusal(with_hash(NOTES, None)).await, Some(NoStore::GraphqlErrors));
    assert_eq!(app.refusal(with_hash(NOTES, Some(NOTES))).await, None);
    assert!(app.is_hit(with_hash(NOTES, None)).await);
}

#[tokio::test]
async fn verified_documents_are_bounded() {
    let app = App::new(Rule::graphql(MINUTE));
    let document = |n: usize| format!("query Q{n} {{ a }}");
    for n in 0..3_000 {
        app.read(with_hash(&document(n), Some(&document(n)))).await;
    }
    let mut known = 0;
    for n in 0..3_000 {
        known += usize::from(app.bypass(get_hash(&document(n))).await.is_none());
    }
    assert!((1..=1_100).contains(&known), "{known} documents are known");
}

#[test]
fn options_are_checked_with_the_rule() {
    let error = |rule: Rule| tower_response_cache::Rules::new().try_route("/graphql", rule).expect_err("an error").to_string();
    assert!(error(rule().graphql_document("{ broken")).contains("invalid graphql_document: expected an executable document"));
    for rule in [Rule::ttl(MINUTE).graphql_document(NOTES), Rule::ttl(MINUTE).graphql_entities()] {
        assert!(error(rule).contains("expected a rule for GraphQL"));
    }
}
