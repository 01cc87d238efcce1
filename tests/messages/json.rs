//! Messages in JSON.

use serde_json::Value;
use tower_response_cache::{KeyExtractor, RouteAndQuery, Rule, key::RequestBody};

use super::{reads::notes, *};

const JSON: &str = "application/json";

#[tokio::test]
async fn json_is_decoded_by_its_content_type() {
    let rule =
        Rule::ttl(MINUTE).reads_by_post().key(RouteAndQuery.and(RequestBody::json())).namespaces_from_request(|request| {
            let query: Value = request.json()?;
            named(query["name"].as_str().ok_or("no name")?.as_bytes())
        });
    let app = App::new(notes(rule), |content, _| response(JSON, content.to_owned()));
    let post = |kind: &str, content: &'static str| request(Method::POST, "/notes", kind, content);
    let with_coding = |mut request: Request<Plain>| {
        request.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        request
    };
    for (request, expected) in [
        (post(JSON, r#"{"name":"a"}"#), None),
        (post("Application/problem+JSON; charset=utf-8", r#"{"name":"a"}"#), None),
        (post("text/plain", r#"{"name":"a"}"#), Some(NoStore::ContentUnreadable)),
        (post(JSON, r#"{"name":"#), Some(NoStore::ContentUnreadable)),
        (post(JSON, r#"{"other":"a"}"#), Some(NoStore::ContentUnreadable)),
        (with_coding(post(JSON, r#"{"name":"a"}"#)), Some(NoStore::ContentCompressed)),
    ] {
        let content = request.body().clone();
        assert_eq!(app.refusal(request).await, expected, "{content:?}");
    }
    app.cache.invalidate(["note:a"]).await.unwrap();
    assert!(!app.is_hit(post(JSON, r#"{"name":"a"}"#)).await);
}
