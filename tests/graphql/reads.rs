//! Queries: which requests the cache answers, and which responses it stores.

use http::StatusCode;
#[cfg(feature = "json")]
use tower_response_cache::Namespace;
use tower_response_cache::{CacheLayer, Identity};

use super::*;

#[tokio::test]
async fn get_and_post_of_one_operation_share_their_entry() {
    let app = App::new(rule());
    let extensions = json!({ "a": 1 });
    let post = json!({ "query": NOTES, "operationName": "Notes", "variables": { "b": [1, 2] }, "extensions": extensions });
    assert!(!app.is_hit(post_json(&post)).await);
    assert!(app.is_hit(post_json(&post)).await);
    let get = by_get(&[
        ("extensions", "{\"a\": 1}"),
        ("query", NOTES),
        ("operationName", "Notes"),
        ("variables", "{ \"b\": [1,2] }"),
    ]);
    assert!(app.is_hit(get).await);
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn unwritten_and_null_parameters_are_equal() {
    let app = App::new(rule());
    for request in [
        query(NOTES),
        by_get(&[("query", NOTES)]),
        by_post(format!("{{\"variables\": null, \"query\": {NOTES:?}, \"operationName\": null, \"extensions\": {{}}}}")),
        by_get(&[("query", NOTES), ("variables", "null")]),
    ] {
        app.read(request).await;
    }
    assert_eq!(app.calls(), 1);
}

#[tokio::test]
async fn other_parameters_of_the_target_are_in_the_key() {
    let app = App::new(rule());
    let at = |target: &str| {
        let mut request = query(NOTES);
        *request.uri_mut() = target.parse().expect("a target");
        request
    };
    for (request, is_hit) in [
        (at("/graphql?tenant=a"), false),
        (at("/graphql?tenant=b"), false),
        (at("/graphql"), false),
        (by_get(&[("query", NOTES), ("tenant", "a")]), false),
        (get("/graphql?query=query%20Notes%20%7B%20notes%20%7B%20text%20%7D%20%7D&tenant=a"), true),
        (get("/graphql?tenant=b&query=query+Notes+{+notes+{+text+}+}".replace('{', "%7B").replace('}', "%7D").as_str()), true),
    ] {
        let target = request.uri().to_string();
        // `by_get` encodes the value of `tenant`, which stands in the key as it was sent.
        assert_eq!(app.is_hit(request).await, is_hit, "{target}");
    }
}

#[tokio::test]
async fn requests_that_are_not_queries_bypass_with_their_reason() {
    let app = App::new(rule());
    let list = json!([{ "query": NOTES }]);
    let twice = format!("{{\"query\":{NOTES:?},\"query\":{ADD:?}}}");
    let both = format!("{NOTES} {ADD}");
    let plain = |kind: &str| {
        let mut request = query(NOTES);
        request.headers_mut().insert(header::CONTENT_TYPE, kind.parse().expect("a content type"));
        request
    };
    let mut with_content = query(NOTES);
    *with_content.method_mut() = Method::GET;
    let mut in_both_places = query(NOTES);
    *in_both_places.uri_mut() = "/graphql?variables=%7B%7D".parse().expect("a target");
    let mut head = by_get(&[("query", NOTES)]);
    *head.method_mut() = Method::HEAD;
    let mut put = query(NOTES);
    *put.method_mut() = Method::PUT;
    for (request, want) in [
        (by_post("not JSON"), Bypass::GraphqlRequest),
        (post_json(&list), Bypass::GraphqlRequest),
        (by_post(twice), Bypass::GraphqlRequest),
        (post_json(&json!({ "id": "7" })), Bypass::GraphqlRequest),
        (post_json(&json!({ "variables": {} })), Bypass::GraphqlRequest),
        (plain("application/graphql"), Bypass::GraphqlRequest),
        (plain("application/x-www-form-urlencoded"), Bypass::GraphqlRequest),
        (in_both_places, Bypass::GraphqlRequest),
        (get("/graphql"), Bypass::GraphqlRequest),
        (get("/graphql?query=%7Ba%7D&query=%7Bb%7D"), Bypass::GraphqlRequest),
        (query("{ notes"), Bypass::GraphqlDocument),
        (query(""), Bypass::GraphqlDocument),
        (query("type Query { a: Int }"), Bypass::GraphqlDocument),
        (query(&"{a".repeat(2_000)), Bypass::GraphqlDocument),
        (query(ADD), Bypass::GraphqlOperation),
        (query("subscription { notes }"), Bypass::GraphqlOperation),
        (query(&both), Bypass::GraphqlOperation),
        (post_json(&json!({ "query": both, "operationName": "Add" })), Bypass::GraphqlOperation),
        (post_json(&json!({ "query": NOTES, "operationName": "Others" })), Bypass::GraphqlOperation),
        (by_get(&[("query", ADD)]), Bypass::GraphqlOperation),
        (query("{ a { ... @defer { b } } }"), Bypass::GraphqlIncremental),
        (query("{ a @stream }"), Bypass::GraphqlIncremental),
        (with_content, Bypass::RequestBody),
        (head, Bypass::Method),
        (put, Bypass::Method),
    ] {
        let name = format!("{request:?}");
        assert_eq!(app.bypass(request).await, Some(want), "{name}");
    }
    assert!(!app.is_hit(post_json(&json!({ "query": both, "operationName": "Notes" }))).await);
    assert!(app.is_hit(post_json(&json!({ "query": both, "operationName": "Notes" }))).await);
}

#[tokio::test]
async fn only_responses_without_errors_are_stored() {
    let with = |answer: fn() -> Response<Plain>| App::answering(rule(), move |_, _| answer());
    let of_status = |status: StatusCode| {
        App::answering(rule(), move |_, _| {
            let mut response = reply(&json!({ "data": {} }));
            *response.status_mut() = status;
            response
        })
    };
    for (app, want) in [
        (with(|| reply(&json!({ "data": { "a": 1 } }))), None),
        (with(|| reply(&json!({ "data": null, "errors": [] }))), None),
        (with(|| reply_of("application/graphql-response+json; charset=utf-8", "{\"data\":{}}")), None),
        (with(|| reply(&json!({ "data": { "a": null }, "errors": [{ "message": "b" }] }))), Some(NoStore::GraphqlErrors)),
        (with(|| reply(&json!({ "errors": [{ "message": "b" }] }))), Some(NoStore::GraphqlErrors)),
        (with(|| reply(&json!({ "errors": [] }))), Some(NoStore::GraphqlResponse)),
        (with(|| reply(&json!([{ "data": {} }]))), Some(NoStore::GraphqlResponse)),
        (with(|| reply_of("text/plain", "{\"data\":{}}")), Some(NoStore::GraphqlResponse)),
        (with(|| reply_of("application/json", "{\"data\":{}")), Some(NoStore::GraphqlResponse)),
        (with(|| reply_of("multipart/mixed; boundary=\"-\"", "---\r\n\r\n{\"data\":{}}")), Some(NoStore::GraphqlResponse)),
        (of_status(StatusCode::NOT_FOUND), Some(NoStore::Status)),
        (of_status(StatusCode::NO_CONTENT), Some(NoStore::Status)),
        (of_status(StatusCode::BAD_REQUEST), Some(NoStore::Status)),
    ] {
        let reason = app.refusal(query(NOTES)).await;
        assert_eq!(reason, want);
        assert_eq!(app.is_hit(query(NOTES)).await, want.is_none(), "{want:?}");
    }
}

#[tokio::test]
async fn compressed_responses_are_not_stored() {
    let app = App::answering(rule(), |_, _| {
        let mut response = reply(&json!({ "data": {} }));
        response.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().expect("a coding"));
        response
    });
    assert_eq!(app.refusal(query(NOTES)).await, Some(NoStore::ContentCompressed));
}

#[tokio::test]
async fn errors_reach_every_waiting_client_unchanged() {
    let app = App::answering(rule(), |_, call| reply(&json!({ "errors": [{ "message": call }] })));
    for call in 1..=3 {
        assert_eq!(app.read(query(NOTES)).await.1, format!("{{\"errors\":[{{\"message\":{call}}}]}}"));
    }
}

#[tokio::test]
async fn credentials_bypass_without_an_identity() {
    let with = |name: &'static str, value: &'static str| {
        let mut request = query(NOTES);
        request.headers_mut().insert(name, value.parse().expect("a value"));
        request
    };
    let app = App::new(rule());
    for name in ["cookie", "authorization"] {
        assert_eq!(app.bypass(with(name, "a")).await, Some(Bypass::Credentials), "{name}");
    }
    let app = App::new(rule().identity(Identity::header("authorization")));
    let (_, first) = app.read(with("authorization", "Bearer a")).await;
    assert!(!app.is_hit(with("authorization", "Bearer b")).await);
    assert!(!app.is_hit(query(NOTES)).await);
    assert_eq!(app.read(with("authorization", "Bearer a")).await, (Outcome::Hit, first));
}

#[tokio::test]
async fn requests_bypass_if_nothing_reads_them() {
    let cache = ResponseCache::new(Memory::default()).route("/graphql", rule());
    let layer: CacheLayer<_> = cache.cache_layer();
    let (inner, _) = counting(|_, _| reply(&json!({ "data": {} })));
    let service = ServiceBuilder::new().layer(layer).service(inner);
    for request in [query(NOTES), by_get(&[("query", NOTES)])] {
        let response = service.clone().oneshot(request).await.expect("a response");
        assert_eq!(outcome(&response), Outcome::Bypass(Bypass::RequestBodyUnread));
    }
}

#[tokio::test]
async fn large_requests_bypass() {
    let app = App::new(rule().max_request_body(100));
    let large = json!({ "query": NOTES, "variables": { "a": "b".repeat(100) } });
    assert_eq!(app.bypass(post_json(&large)).await, Some(Bypass::RequestBodyTooLarge));
    assert_eq!(app.bypass(query(NOTES)).await, None);
}

#[cfg(feature = "json")]
#[tokio::test]
async fn closures_read_a_get_like_a_post() {
    let rule = Rule::graphql(MINUTE).namespaces_from_request(|request| {
        let json: Value = request.json()?;
        let author = json["variables"]["author"].as_str().ok_or("no author")?;
        assert_eq!(json["query"], NOTES);
        Ok(vec![Namespace::of(["author", author])])
    });
    let app = App::new(rule);
    let reads = [
        || post_json(&json!({ "query": NOTES, "variables": { "author": "a \"b\"" } })),
        || by_get(&[("variables", "{ \"author\": \"a \\\"b\\\"\" }"), ("query", NOTES), ("tenant", "1")]),
    ];
    for read in reads {
        app.read(read()).await;
        assert!(app.is_hit(read()).await);
        app.cache.invalidate([Namespace::of(["author", "a \"b\""])]).await.expect("a name");
        assert!(!app.is_hit(read()).await);
    }
    assert_eq!(app.refusal(by_get(&[("query", NOTES)])).await, Some(NoStore::ContentUnreadable));
}
