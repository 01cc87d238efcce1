//! Namespaces from the data of responses.

use super::*;

/// Returns a server that answers with the variable `reply` of each request.
fn app(rule: Rule) -> App {
    App::answering(rule, |content, _| {
        let request: Value = serde_json::from_str(content).unwrap_or_default();
        reply(&request["variables"]["reply"])
    })
}

fn with(document: &str, reply: &Value) -> Request<Plain> {
    post_json(&json!({ "query": document, "variables": { "reply": reply } }))
}

fn note(id: usize) -> Value {
    json!({ "__typename": "Note", "id": id })
}

/// Returns true if a write with this response makes the response to a query invalid.
async fn invalidates(read: &Value, written: &Value) -> bool {
    let app = app(Rule::graphql(MINUTE).graphql_entities());
    app.read(with(NOTES, read)).await;
    assert!(app.is_hit(with(NOTES, read)).await);
    app.send(with(ADD, written)).await;
    !app.is_hit(with(NOTES, read)).await
}

#[tokio::test]
async fn mutation_invalidates_the_types_in_its_response() {
    let read = json!({ "data": { "notes": [note(1)], "author": { "__typename": "User", "id": "a" } } });
    for (written, want) in [
        (json!({ "data": { "add": note(1) } }), true),
        (json!({ "data": { "add": note(9) } }), true),
        (json!({ "data": { "a": [{ "__typename": "User" }] } }), true),
        (json!({ "data": { "add": { "__typename": "Tag", "id": 1 } } }), false),
        (json!({ "data": { "__typename": "Mutation", "add": { "__typename": "Tag", "id": 1 } } }), false),
        // The response does not say what has changed.
        (json!({ "data": { "add": { "__typename": "Tag", "of": { "id": 1 } } } }), true),
        (json!({ "data": { "add": { "id": 1 } } }), true),
        (json!({ "data": { "add": true } }), true),
        (json!({ "data": { "add": null } }), true),
        // Nothing was executed.
        (json!({ "errors": [{ "message": "a" }] }), false),
        // It is not known what has changed.
        (json!({ "data": null, "errors": [{ "message": "a" }] }), true),
        (json!({ "data": { "add": null }, "errors": [{ "message": "a" }] }), true),
        (json!("no response of GraphQL"), true),
    ] {
        assert_eq!(invalidates(&read, &written).await, want, "{written}");
    }
}

/// Nothing would invalidate such an entry, or not all that it holds.
#[tokio::test]
async fn data_without_names_are_stored_only_under_a_rule_with_namespaces() {
    for (rule, refusal) in [
        (Rule::graphql(MINUTE).graphql_entities(), Some(NoStore::GraphqlTypename)),
        (Rule::graphql(MINUTE).graphql_entities().namespace("notes"), None),
    ] {
        let app = app(rule);
        for data in [json!({ "notes": [] }), json!({ "note": { "id": 1 } }), json!({ "note": note(1), "user": { "id": 1 } })] {
            assert_eq!(app.refusal(with(NOTES, &json!({ "data": data }))).await, refusal, "{data}");
        }
        assert_eq!(app.refusal(with(NOTES, &json!({ "data": { "note": note(1) } }))).await, None);
    }
}

#[tokio::test]
async fn mutation_without_names_invalidates_what_the_rule_names() {
    let app = app(Rule::graphql(MINUTE).graphql_entities().namespace("notes"));
    let read = || with(NOTES, &json!({ "data": { "notes": [] } }));
    app.read(read()).await;
    app.send(with(ADD, &json!({ "data": { "add": true } }))).await;
    assert!(!app.is_hit(read()).await);
    assert_eq!(app.cache.stats().unread_writes, 0);
}

#[tokio::test]
async fn objects_are_namespaces_for_the_application() {
    let app = app(Rule::graphql(MINUTE).graphql_entities());
    let reads = [
        json!({ "data": { "note": note(1) } }),
        json!({ "data": { "notes": [note(1), note(2)] } }),
        json!({ "data": { "note": note(3) } }),
    ];
    for read in &reads {
        app.read(with(NOTES, read)).await;
    }
    app.cache.invalidate(["graphql:Note:1"]).await.expect("a name");
    let mut hits = Vec::new();
    for read in &reads {
        hits.push(app.is_hit(with(NOTES, read)).await);
    }
    assert_eq!(hits, [false, false, true]);
}

#[tokio::test]
async fn responses_with_too_many_objects_are_not_stored() {
    let app = app(Rule::graphql(MINUTE).graphql_entities());
    let notes = |count: usize| with(NOTES, &json!({ "data": (0..count).map(note).collect::<Vec<_>>() }));
    assert_eq!(app.refusal(notes(128)).await, None);
    assert_eq!(app.refusal(notes(129)).await, Some(NoStore::Namespaces));
}

#[tokio::test]
async fn data_name_nothing_without_the_option() {
    let app = app(rule());
    let read = with(NOTES, &json!({ "data": note(1) }));
    app.read(read).await;
    app.cache.invalidate(["graphql"]).await.expect("a name");
    assert!(app.is_hit(with(NOTES, &json!({ "data": note(1) }))).await);
}

/// Otherwise a client could decide which entries its mutation leaves.
#[tokio::test]
async fn aliases_hide_no_object() {
    let app = app(Rule::graphql(MINUTE).graphql_entities());
    let read = || with(NOTES, &json!({ "data": { "notes": [note(1)] } }));
    for mutation in ["mutation { add { __typename: text } }", "mutation { id: add { __typename } }"] {
        app.read(read()).await;
        assert!(app.is_hit(read()).await);
        app.send(with(mutation, &json!({ "data": { "add": { "__typename": "Other" } } }))).await;
        assert!(!app.is_hit(read()).await, "{mutation}");
    }
    let (outcome, _) = app.read(with("{ notes { id: text } }", &json!({ "data": {} }))).await;
    assert_eq!(outcome, Outcome::Bypass(Bypass::GraphqlOperation));
}

#[tokio::test]
async fn name_of_the_mutation_itself_names_nothing() {
    assert!(
        invalidates(&json!({ "data": { "note": note(1) } }), &json!({ "data": { "__typename": "Mutation", "add": true } }))
            .await
    );
}

/// A server may name namespaces in a header in place of `__typename`.
#[tokio::test]
async fn header_of_the_server_names_namespaces() {
    let rule = Rule::graphql(MINUTE).graphql_entities();
    let rule = rule.namespaces_from_header("cache-namespaces").invalidates_from_header("cache-invalidates");
    let app = App::answering(rule, |content, _| {
        let request: Value = serde_json::from_str(content).unwrap_or_default();
        let names = &request["variables"];
        let mut response = reply(&json!({ "data": { "notes": [{ "text": "a" }], "add": true } }));
        for field in ["cache-namespaces", "cache-invalidates"] {
            if let Some(list) = names[field].as_str() {
                response.headers_mut().insert(field, list.parse().expect("a value"));
            }
        }
        response
    });
    let send = |document: &str, field: &str, list: &str| post_json(&json!({ "query": document, "variables": { field: list } }));
    let read = || send(NOTES, "cache-namespaces", "notes:1, notes:2");
    for (list, is_hit) in [("notes:1", false), ("notes:3", true), ("notes", false)] {
        app.read(read()).await;
        assert!(app.is_hit(read()).await);
        app.send(send(ADD, "cache-invalidates", list)).await;
        assert_eq!(app.is_hit(read()).await, is_hit, "{list}");
    }
    assert_eq!(app.cache.stats().unread_writes, 0);
    // Without the field, the response does not say what has changed, and such an entry could not be invalidated.
    app.send(send(ADD, "other", "notes:1")).await;
    assert_eq!((app.is_hit(read()).await, app.cache.stats().unread_writes), (false, 1));
    assert_eq!(app.refusal(send(NOTES, "cache-namespaces", " ,")).await, Some(NoStore::GraphqlTypename));
}

/// A client without rights may send anything. A server that refuses it before execution has changed nothing.
#[tokio::test]
async fn request_that_was_not_executed_invalidates_no_types() {
    let app = App::answering(Rule::graphql(MINUTE).graphql_entities(), |content, _| {
        let is_query = content.contains("query Notes");
        reply(&if is_query { json!({ "data": { "note": note(1) } }) } else { json!({ "errors": [{ "message": "a" }] }) })
    });
    app.read(query(NOTES)).await;
    for content in ["{\"query\":\"{ broken\"}", "{\"query\":\"mutation { id: add }\"}", "not JSON", "[]", "{}"] {
        app.send(by_post(content)).await;
        assert!(app.is_hit(query(NOTES)).await, "{content}");
    }
    assert_eq!(app.cache.stats().unread_writes, 0);
}
