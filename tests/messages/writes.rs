//! The namespaces that writes invalidate, from their requests and their responses.

use http::StatusCode;
use tower_response_cache::{InvalidateLayer, Invalidations, RequestBodyLayer, Rule, Store};

use super::*;

/// Rules for notes that are read by GET, each in its own namespace, and written by this rule.
fn rules(write: Rule) -> Rules {
    Rules::new().route("/notes/{name}", Rule::ttl(MINUTE).namespace("note:{name}")).route("/write", write)
}

fn by_request() -> Rule {
    Rule::uncached().invalidates_from_request(|request| named(request.bytes()))
}

fn by_response() -> Rule {
    Rule::uncached().invalidates_from_response(|response| named(response.bytes()))
}

impl App {
    /// Stores the notes a and b, writes, and returns the notes that are still stored.
    async fn left_after(&self, write: Request<Plain>) -> String {
        for target in ["/notes/a", "/notes/b"] {
            self.read(get(target)).await;
        }
        text(self.send(write).await).await;
        let mut left = String::new();
        for (name, target) in [("a", "/notes/a"), ("b", "/notes/b")] {
            if self.is_hit(get(target)).await {
                left += name;
            }
        }
        left
    }
}

fn plain(content: &str, _: usize) -> Response<Boxed> {
    response("text/plain", content.to_owned())
}

fn write(content: impl Into<Bytes>) -> Request<Plain> {
    request(Method::POST, "/write", "text/plain", content)
}

#[tokio::test]
async fn request_names_what_its_write_invalidates() {
    let app = App::new(rules(by_request()), plain);
    for (method, left) in [(Method::POST, "b"), (Method::PUT, "b"), (Method::DELETE, "b"), (Method::GET, "ab")] {
        assert_eq!(app.left_after(request(method.clone(), "/write", "text/plain", "a")).await, left, "{method}");
    }
    assert_eq!(app.left_after(write("c")).await, "ab");
    assert_eq!(app.cache.stats().unread_writes, 0);
}

#[tokio::test]
async fn write_that_cannot_be_read_invalidates_everything() {
    let app = App::new(rules(by_request().max_request_body(100)), plain);
    assert_eq!(app.left_after(write("bad")).await, "");
    assert_eq!(app.left_after(write(vec![b'a'; 101])).await, "");
    assert_eq!(app.left_after(write(vec![b'a'; 100])).await, "ab");
    assert_eq!(app.left_after(request(Method::POST, "/write", GRPC, [frame("a"), frame("b")].concat())).await, "");
    assert_eq!(app.cache.stats().unread_writes, 3);
}

#[tokio::test]
async fn write_without_a_layer_that_reads_content_invalidates_everything() {
    let store = Memory::default();
    let (inner, _) = counting(|_, _| ok("x"));
    let layer = InvalidateLayer::new(store.clone()).rules(rules(by_request()));
    let service = ServiceBuilder::new().layer(layer).service(inner);
    let cache = ResponseCache::new(store.clone()).rules(rules(by_request()));
    let (inner, _) = counting(|_, _| ok("x"));
    let reads = ServiceBuilder::new().layer(cache.cache_layer()).service(inner);
    for outcome in [Outcome::Miss(tower_response_cache::status::Miss::Absent), Outcome::Hit] {
        assert_eq!(common::outcome(&send(&reads, get("/notes/b")).await), outcome);
    }
    send(&service, write("a")).await;
    assert_ne!(common::outcome(&send(&reads, get("/notes/b")).await), Outcome::Hit);
    assert_eq!(store.stats().unread_writes, 1);
}

#[tokio::test]
async fn error_of_the_client_invalidates_only_what_is_named() {
    let answer = |content: &str, _: usize| {
        let mut response = response("text/plain", "no");
        *response.status_mut() = if content == "bad" { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        response
    };
    let app = App::new(rules(by_request().invalidates("note:a")), answer);
    assert_eq!(app.left_after(write("bad")).await, "b");
    let app = App::new(rules(by_response().invalidates("note:a")), answer);
    assert_eq!(app.left_after(write("bad")).await, "b");
}

#[tokio::test]
async fn response_names_what_its_write_invalidates() {
    let app = App::new(rules(by_response()), plain);
    assert_eq!(app.left_after(write("a")).await, "b");
    assert_eq!(app.left_after(write("c")).await, "ab");
    assert_eq!(app.left_after(write("bad")).await, "");
    assert_eq!(app.cache.stats().unread_writes, 1);
    // The response passes unchanged.
    assert_eq!(app.read(write("a")).await.1, "a");
}

#[tokio::test]
async fn response_that_cannot_be_read_passes_and_invalidates_everything() {
    let app = App::new(rules(by_response().max_body(100)), plain);
    for length in [99, 100, 101, 10_000] {
        let left = app.left_after(write(vec![b'a'; length])).await;
        assert_eq!(left, if length > 100 { "" } else { "ab" }, "{length}");
        assert_eq!(app.read(write(vec![b'a'; length])).await.1.len(), length);
    }
}

#[tokio::test]
async fn outcome_that_is_not_known_invalidates_everything() {
    let answer = |content: &str, _: usize| {
        let mut response = response("text/plain", "a");
        if content == "x" {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    };
    assert_eq!(App::new(rules(by_response()), answer).left_after(write("x")).await, "");
    assert_eq!(App::new(rules(by_response().skip_on_error()), answer).left_after(write("x")).await, "ab");
}

#[tokio::test]
async fn handler_may_name_the_namespaces_in_place_of_the_rule() {
    let answer = |_: &str, _: usize| {
        let mut response = response("text/plain", "bad");
        response.extensions_mut().insert(Invalidations::only([Namespace::of(["note", "b"])]));
        response
    };
    assert_eq!(App::new(rules(by_response()), answer).left_after(write("bad")).await, "a");
    assert_eq!(App::new(rules(by_request()), answer).left_after(write("bad")).await, "a");
}

#[tokio::test]
async fn call_by_grpc_names_namespaces_in_both_messages() {
    let rule = by_request().invalidates_from_response(|response| named(response.bytes()));
    let call = |name: &str| request(Method::POST, "/write", GRPC, frame(name));
    let app = App::new(rules(rule.clone()), |_, _| call_response("b", "0"));
    assert_eq!(app.left_after(call("a")).await, "");
    assert_eq!(app.left_after(call("c")).await, "a");
    assert_eq!(app.cache.stats().unread_writes, 0);
    // The response passes bit for bit.
    let passed = app.send(call("c")).await.into_body().collect().await.unwrap();
    assert_eq!(passed.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(passed.to_bytes(), frame("b"));
    for (status, left) in [("5", "ab"), ("13", "")] {
        let app = App::new(rules(rule.clone()), move |_, _| {
            Response::builder().header("grpc-status", status).body(BoxBody::default()).unwrap()
        });
        assert_eq!(app.left_after(call("c")).await, left, "{status}");
    }
}

/// A response that does not end is passed on as it arrives once its limit is reached.
#[tokio::test(start_paused = true)]
async fn endless_response_passes() {
    let (inner, mut handle) = held();
    let store = Memory::default();
    let layer = InvalidateLayer::new(store.clone()).rules(rules(by_response()));
    let service = ServiceBuilder::new().layer(layer).service(inner);
    let writing = begin(&service, write("x")).await;
    let (_, answer) = next_call(&mut handle).await;
    let (head, source) = channel_response(None);
    answer.send_response(head);
    source.send("a");
    let mut body = opened(writing.await.unwrap());
    assert_eq!(store.stats().unread_writes, 1);
    assert_eq!(piece(&mut body).await.unwrap().unwrap(), "a");
    source.send("b");
    assert_eq!(piece(&mut body).await.unwrap().unwrap(), "b");
    source.fail("broken");
    assert!(piece(&mut body).await.unwrap().is_err());
}

/// Events and incremental responses are not held.
#[tokio::test(start_paused = true)]
async fn response_in_parts_passes_at_once() {
    for kind in ["text/event-stream", "multipart/mixed; boundary=-"] {
        let (inner, mut handle) = held();
        let store = Memory::default();
        let service =
            ServiceBuilder::new().layer(InvalidateLayer::new(store.clone()).rules(rules(by_response()))).service(inner);
        let writing = begin(&service, write("x")).await;
        let (_, answer) = next_call(&mut handle).await;
        let (mut head, source) = channel_response(None);
        head.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
        answer.send_response(head);
        let began = tokio::time::Instant::now();
        let mut body = opened(writing.await.unwrap());
        assert_eq!((began.elapsed(), store.stats().unread_writes), (std::time::Duration::ZERO, 1), "{kind}");
        source.send("a");
        assert_eq!(piece(&mut body).await.unwrap().unwrap(), "a");
    }
}

#[tokio::test]
async fn panic_of_a_closure_invalidates_everything() {
    let panics = |message: &tower_response_cache::message::MessageView<'_>| match message.bytes() {
        b"panic" => panic!("by the test"),
        other => named(other),
    };
    for rule in [Rule::uncached().invalidates_from_request(panics), Rule::uncached().invalidates_from_response(panics)] {
        let app = App::new(rules(rule), plain);
        assert_eq!(app.left_after(write("a")).await, "b");
        assert_eq!(app.left_after(write("panic")).await, "");
        assert_eq!(app.read(write("panic")).await.1, "panic");
    }
}

/// The response is not sent before the invalidation, also if its body arrives late.
#[tokio::test]
async fn response_leaves_after_the_invalidation() {
    let (inner, mut handle) = held();
    let store = Memory::default();
    let service = ServiceBuilder::new().layer(InvalidateLayer::new(store.clone()).rules(rules(by_response()))).service(inner);
    let mut writing = begin(&service, write("x")).await;
    let (_, answer) = next_call(&mut handle).await;
    let (head, source) = channel_response(None);
    answer.send_response(head);
    source.send("a");
    assert!(poll_once(&mut writing).is_pending());
    assert_eq!(store.stats().invalidations, 0);
    drop(source);
    let response = writing.await.unwrap();
    assert_eq!((store.stats().invalidations, store.stats().unread_writes), (1, 0));
    assert_eq!(text(response).await, "a");
}

/// A write whose client has left is read and invalidates all the same.
#[tokio::test]
async fn write_without_its_client_invalidates() {
    let (inner, mut handle) = held();
    let store = Memory::default();
    let service = ServiceBuilder::new().layer(InvalidateLayer::new(store.clone()).rules(rules(by_response()))).service(inner);
    let writing = begin(&service, write("x")).await;
    let (_, answer) = next_call(&mut handle).await;
    drop(writing);
    let (head, source) = channel_response(None);
    answer.send_response(head);
    source.send("a");
    drop(source);
    eventually(|| store.stats().invalidations == 1).await;
    assert_eq!(store.stats().unread_writes, 0);
}

#[tokio::test]
async fn content_of_writes_is_passed_on_whole() {
    let rules = rules(by_request().max_request_body(10));
    let (inner, _) = answering(|content, _| response("text/plain", content.len().to_string()));
    let service = ServiceBuilder::new().layer(RequestBodyLayer::new(rules)).service(inner);
    for length in [0, 9, 10, 11, 1000] {
        let response = service.clone().oneshot(write(vec![b'a'; length])).await.unwrap();
        assert_eq!(text(response).await, length.to_string());
    }
}

/// The bytes of a response count until its client has taken them.
#[tokio::test]
async fn responses_that_are_read_have_a_common_limit() {
    let (inner, mut handle) = held();
    let store = Memory::default();
    let layer = InvalidateLayer::new(store.clone()).rules(rules(by_response())).max_buffered_bytes(100);
    let service = ServiceBuilder::new().layer(layer).service(inner);
    let mut written = Vec::new();
    let mut respond = async || {
        let writing = begin(&service, write("x")).await;
        let (_, answer) = next_call(&mut handle).await;
        let (head, source) = channel_response(None);
        answer.send_response(head);
        source.send("a".repeat(80));
        drop(source);
        writing.await.unwrap()
    };
    for unread in [0, 1] {
        written.push(respond().await);
        assert_eq!(store.stats().unread_writes, unread);
    }
    for response in written {
        assert_eq!(text(response).await.len(), 80);
    }
    respond().await;
    assert_eq!(store.stats().unread_writes, 1);
}
