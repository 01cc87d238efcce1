//! Namespaces in header fields of responses.

use http::StatusCode;
use tower_response_cache::Rule;

use super::*;
use crate::reads::notes;

const NAMES: &str = "cache-namespaces";
const CHANGED: &str = "cache-invalidates";

/// Returns a response whose field lists the names in a text.
fn listing(field: &'static str, names: &str) -> Response<Boxed> {
    let mut response = response("text/plain", "x");
    response.headers_mut().insert(field, names.parse().expect("a value"));
    response
}

fn by_field() -> Rule {
    Rule::ttl(MINUTE).namespaces_from_header(NAMES)
}

#[tokio::test]
async fn field_names_namespaces_under_every_kind_of_rule() {
    let http = Rule::http().default_ttl(MINUTE).namespaces_from_header(NAMES);
    for (rule, method) in [
        (by_field(), Method::GET),
        (http, Method::GET),
        (by_field().cache_groups(), Method::GET),
        (by_field().namespace("others"), Method::GET),
        (by_field().reads_by_post(), Method::POST),
    ] {
        let app = App::new(notes(rule), |_, _| {
            let mut response = listing(NAMES, "note:a , note:b,");
            response.headers_mut().append(NAMES, "user:7".parse().unwrap());
            response.headers_mut().insert("etag", "\"a\"".parse().unwrap());
            response
        });
        let read = || request(method.clone(), "/notes", "text/plain", if method == Method::GET { "" } else { "all" });
        for (name, is_hit) in [("note:a", false), ("note:b", false), ("user", false), ("*", false), ("note:c", true)] {
            app.read(read()).await;
            assert!(app.is_hit(read()).await);
            app.cache.invalidate([name]).await.unwrap();
            assert_eq!(app.is_hit(read()).await, is_hit, "{name}");
        }
    }
}

#[tokio::test]
async fn response_with_an_invalid_name_is_not_stored() {
    for names in ["a b", "note:", "note:*"] {
        let app = App::new(notes(by_field().namespace("notes")), move |_, _| listing(NAMES, names));
        assert_eq!(app.refusal(get("/notes")).await, Some(NoStore::Namespaces), "{names}");
    }
    let many: Vec<_> = (0..129).map(|n| format!("n{n}")).collect();
    let app = App::new(notes(by_field()), move |_, _| listing(NAMES, &many.join(",")));
    assert_eq!(app.refusal(get("/notes")).await, Some(NoStore::Namespaces));
}

#[tokio::test]
async fn fields_of_other_names_do_not_count() {
    let app = App::new(notes(by_field().namespace("notes")), |_, _| listing(CHANGED, "note:a"));
    app.read(get("/notes")).await;
    app.cache.invalidate(["note"]).await.unwrap();
    assert!(app.is_hit(get("/notes")).await);
    app.cache.invalidate(["notes"]).await.unwrap();
    assert!(!app.is_hit(get("/notes")).await);
}

/// The names are known only when the response arrives. It may be older than an invalidation that came before it.
#[tokio::test]
async fn response_older_than_the_invalidation_of_its_names_is_not_shared() {
    let (inner, mut handle) = held();
    let cache = ResponseCache::new(Memory::default()).rules(notes(by_field()));
    let service = ServiceBuilder::new().layer(cache.layer()).service(inner);
    let send = || tokio::spawn(service.clone().oneshot(get("/notes")));
    let leader = send();
    let (_, older) = next_call(&mut handle).await;
    cache.invalidate(["note:a"]).await.unwrap();
    let follower = send();
    no_call(&mut handle).await;
    let answer = |body: &'static str| {
        let (mut response, source) = channel_response(None);
        response.headers_mut().insert(NAMES, "note:a".parse().unwrap());
        source.send(body);
        response
    };
    older.send_response(answer("older"));
    let response = leader.await.unwrap().unwrap();
    assert_eq!(text(response).await, "older");
    let (_, newer) = next_call(&mut handle).await;
    newer.send_response(answer("newer"));
    assert_eq!(text(follower.await.unwrap().unwrap()).await, "newer");
    assert_eq!(text(send().await.unwrap().unwrap()).await, "newer");
    no_call(&mut handle).await;
}

/// Returns the notes that are still stored after a write with this response. The notes have the namespaces `note:a` and `note:b`.
async fn left_after(write: Rule, field: &'static str, names: &'static str, status: StatusCode) -> (String, u64) {
    let rules = Rules::new().route("/notes/{name}", Rule::ttl(MINUTE).namespace("note:{name}")).route("/write", write);
    let app = App::new(rules, move |content, _| match content {
        "write" => {
            let mut response = listing(field, names);
            *response.status_mut() = status;
            response
        }
        _ => response("text/plain", "x"),
    });
    for target in ["/notes/a", "/notes/b"] {
        app.read(get(target)).await;
    }
    text(app.send(request(Method::POST, "/write", "text/plain", "write")).await).await;
    let mut left = String::new();
    for (name, target) in [("a", "/notes/a"), ("b", "/notes/b")] {
        if app.is_hit(get(target)).await {
            left += name;
        }
    }
    (left, app.cache.stats().unread_writes)
}

#[tokio::test]
async fn field_of_a_written_response_names_what_is_invalidated() {
    let write = || Rule::uncached().invalidates_from_header(CHANGED);
    let nothing = || write().skip_on_client_error();
    for (rule, field, names, status, left, unread) in [
        (write(), CHANGED, "note:a", 200, "b", 0),
        (write(), CHANGED, "note:a", 500, "b", 0),
        (write(), CHANGED, "note:a", 404, "b", 0),
        (nothing(), CHANGED, "note:a", 404, "ab", 0),
        (write(), CHANGED, "note:c, note:b", 200, "a", 0),
        (write(), CHANGED, "", 200, "ab", 0),
        (write(), NAMES, "note:a", 200, "ab", 0),
        (write().invalidates("note:b"), CHANGED, "note:a", 200, "", 0),
        (write().invalidates("note:b").invalidates_nothing(), CHANGED, "note:a", 200, "b", 0),
        // The names are not known.
        (write(), CHANGED, "note:a, note b", 200, "", 1),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let result = left_after(rule, field, names, status).await;
        assert_eq!(result, (left.to_owned(), unread), "{field}: {names} {status}");
    }
}

#[test]
#[should_panic(expected = "is not a header name")]
fn text_that_is_no_header_name_panics() {
    let _ = Rule::uncached().invalidates_from_header("a b");
}
