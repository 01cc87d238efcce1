//! Reads by POST: the content is in the key, and a POST is a read only under a rule that says so.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, Limited};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    CacheBody, KeyExtractor, Memory, Outcome, RequestBodyLayer, ResponseCache, RouteAndQuery, Rule, Rules,
    invalidate::{InvalidateBody, Invalidation},
    key::{Extracted, KeyWriter, RequestBody, RequestView},
    request_body::ReadBody,
    status::{Bypass, Miss},
};

use crate::common::{MINUTE, outcome, text};

const MISS: Outcome = Outcome::Miss(Miss::Absent);
const HIT: Outcome = Outcome::Hit;

type Served = Response<InvalidateBody<CacheBody<Full<Bytes>>>>;

/// Content that begins with `parts`, and then repeats a chunk forever or never ends.
struct Endless {
    parts: Vec<&'static str>,
    repeats: bool,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match (self.parts.is_empty(), self.repeats) {
            (false, _) => Poll::Ready(Some(Ok(Frame::data(self.parts.remove(0).into())))),
            (true, true) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 4096]))))),
            (true, false) => Poll::Pending,
        }
    }
}

/// Returns a cache around a service that returns method, content and number of the call. A response to the content `none` may not be stored.
fn service<B>(cache: &ResponseCache) -> BoxCloneService<Request<B>, Served, Infallible>
where
    B: Body<Data: Send, Error = Infallible> + Send + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let inner = service_fn(move |request: Request<ReadBody<B>>| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let (head, body) = request.into_parts();
            // Reads as much as an endless body needs to show that it passes on.
            let content = match Limited::new(body, 1 << 20).collect().await {
                Ok(content) => String::from_utf8(content.to_bytes().to_vec()).expect("text"),
                Err(_) => "endless".to_owned(),
            };
            let mut response = Response::new(Full::<Bytes>::from(format!("{} {content} {call}", head.method)));
            if content == "none" {
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    BoxCloneService::new(ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner))
}

fn request(method: &str, target: &str, kind: &str, content: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(target).header("content-type", kind);
    request.body(Full::from(content)).expect("a request")
}

/// Sends requests to one cache. Returns their outcomes.
async fn outcomes(rule: Rule, requests: &[(&str, &str, &'static str)]) -> Vec<Outcome> {
    let service = service::<Full<Bytes>>(&ResponseCache::new(Memory::default()).route("/search", rule));
    let mut outcomes = Vec::new();
    for (method, kind, content) in requests {
        let response = service.clone().oneshot(request(method, "/search", kind, content)).await.expect("a response");
        outcomes.push(outcome(&response));
    }
    outcomes
}

#[tokio::test]
async fn post_is_a_read_only_under_a_rule_that_says_so() {
    let posts = [("POST", "a/b", "x"), ("POST", "a/b", "x")];
    assert_eq!(outcomes(Rule::ttl(MINUTE).reads_by_post(), &posts).await, [MISS, HIT]);
    assert_eq!(outcomes(Rule::ttl(MINUTE), &posts).await, [Outcome::Bypass(Bypass::Method); 2]);
    let others = [("PUT", "a/b", "x"), ("PATCH", "a/b", "x"), ("post", "a/b", "x")];
    assert_eq!(outcomes(Rule::ttl(MINUTE).reads_by_post(), &others).await, [Outcome::Bypass(Bypass::Method); 3]);
    assert_eq!(outcomes(Rule::uncached().reads_by_post(), &posts).await, [Outcome::Bypass(Bypass::Uncached); 2]);
}

#[tokio::test]
async fn requests_that_differ_in_content_share_no_response() {
    let different = [
        ("POST", "a/b", "x"),
        ("POST", "a/b", "y"),
        ("POST", "a/b", ""),
        ("POST", "a/c", "x"),
        ("QUERY", "a/b", "x"),
        ("GET", "a/b", ""),
        ("QUERY", "a/b", ""),
    ];
    let rule = || Rule::ttl(MINUTE).reads_by_post();
    assert_eq!(outcomes(rule(), &different).await, [MISS; 7]);
    for form in [RequestBody::bytes(), RequestBody::json(), RequestBody::form()] {
        let rule = rule().key(RouteAndQuery.and(form));
        assert_eq!(outcomes(rule, &different).await, [MISS; 7]);
    }
    // Method and type are in the key of an extractor that writes a content of its own.
    let rule = || rule().key(RouteAndQuery.and(FirstWord));
    assert_eq!(outcomes(rule(), &different).await, [MISS; 7]);
    // The content is in the key of an extractor that does not see it.
    let rule = Rule::ttl(MINUTE).reads_by_post().key(|_: &RequestView<'_>| Some("same".to_owned()));
    assert_eq!(outcomes(rule, &different).await, [MISS; 7]);
}

#[tokio::test]
async fn spellings_of_one_document_share_a_response_if_asked() {
    let spellings =
        [("POST", "application/json", "{\"a\":1,\"b\":[1.0]}"), ("POST", "application/json", "{ \"b\": [1.0], \"a\": 1 }")];
    let rule = || Rule::ttl(MINUTE).reads_by_post();
    assert_eq!(outcomes(rule(), &spellings).await, [MISS, MISS]);
    assert_eq!(outcomes(rule().key(RouteAndQuery.and(RequestBody::json())), &spellings).await, [MISS, HIT]);
    let numbers = [("POST", "application/json", "[1]"), ("POST", "application/json", "[1.0]")];
    assert_eq!(outcomes(rule().key(RouteAndQuery.and(RequestBody::json())), &numbers).await, [MISS, MISS]);
    const FORM: &str = "application/x-www-form-urlencoded";
    let forms = [("POST", FORM, "b=1&a=2"), ("POST", FORM, "a=2&b=1"), ("POST", FORM, "a=2&b=1&a=3")];
    assert_eq!(outcomes(rule().key(RouteAndQuery.and(RequestBody::form())), &forms).await, [MISS, HIT, MISS]);
}

#[tokio::test]
async fn canonical_form_is_for_content_of_its_type() {
    let json = || Rule::ttl(MINUTE).reads_by_post().key(RouteAndQuery.and(RequestBody::json()));
    let form = || Rule::ttl(MINUTE).reads_by_post().key(RouteAndQuery.and(RequestBody::form()));
    for (kind, second) in [
        ("application/json; charset=utf-8", HIT),
        ("Application/Problem+JSON", HIT),
        ("text/plain", MISS),
        ("application/x-www-form-urlencoded", MISS),
        ("", MISS),
    ] {
        let spellings = [("POST", kind, "[1,2]"), ("POST", kind, "[1, 2]")];
        assert_eq!(outcomes(json(), &spellings).await, [MISS, second], "{kind}");
    }
    for (kind, second) in [("application/x-www-form-urlencoded", HIT), ("application/json", MISS)] {
        assert_eq!(outcomes(form(), &[("POST", kind, "b=1&a=2"), ("POST", kind, "a=2&b=1")]).await, [MISS, second], "{kind}");
    }
}

/// An extractor of the first word of the content.
struct FirstWord;

impl KeyExtractor for FirstWord {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        key.part(request.body().unwrap_or_default().split(|byte| *byte == b' ').next().unwrap_or_default());
        Extracted::Key
    }

    fn writes_body(&self) -> bool {
        true
    }
}

/// An origin by RFC 9110, section 13.1.2: it fails a POST with a condition that its tag does not meet.
#[tokio::test]
async fn post_is_never_made_conditional() {
    let rule = Rule::http().reads_by_post();
    let cache = ResponseCache::new(Memory::default()).route("/search", rule);
    let inner = service_fn(|request: Request<ReadBody<Full<Bytes>>>| {
        let response = Response::builder().header("etag", "\"a\"").header("cache-control", "no-cache");
        let status = if request.headers().contains_key("if-none-match") { 412 } else { 200 };
        async move { Ok::<_, Infallible>(response.status(status).body(Full::<Bytes>::from("found")).expect("a response")) }
    });
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    for _ in 0..3 {
        let response = service.clone().oneshot(request("POST", "/search", "a/b", "x")).await.expect("a response");
        assert_eq!(response.status(), 200);
    }
    let mut conditional = request("POST", "/search", "a/b", "x");
    conditional.headers_mut().insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"a\""));
    let response = service.oneshot(conditional).await.expect("a response");
    assert_eq!((response.status().as_u16(), outcome(&response)), (412, Outcome::Bypass(Bypass::Precondition)));
}

#[tokio::test]
async fn read_timeout_may_be_endless() {
    let rules = Rules::new().route("/search", Rule::ttl(MINUTE).reads_by_post());
    let service = ServiceBuilder::new()
        .layer(RequestBodyLayer::new(rules).read_timeout(Duration::MAX))
        .service(service_fn(|_: Request<ReadBody<Full<Bytes>>>| async { Ok::<_, Infallible>(Response::new("read")) }));
    let response = service.oneshot(request("POST", "/search", "a/b", "x")).await.expect("a response");
    assert_eq!(*response.body(), "read");
}

#[tokio::test]
async fn extractor_reads_the_content_of_a_post() {
    let rule = Rule::ttl(MINUTE).reads_by_post().key(RouteAndQuery.and(FirstWord));
    let posts = [("POST", "a/b", "one two"), ("POST", "a/b", "one three"), ("POST", "a/b", "two")];
    assert_eq!(outcomes(rule, &posts).await, [MISS, HIT, MISS]);
}

#[tokio::test]
async fn post_that_reads_invalidates_nothing_and_is_invalidated() {
    let rule = Rule::http().default_ttl(MINUTE).reads_by_post().namespace("rows");
    let cache = ResponseCache::new(Memory::default()).route("/search", rule);
    let service = service::<Full<Bytes>>(&cache);
    let send = async |method: &str, target: &str| {
        let response = service.clone().oneshot(request(method, target, "a/b", "x")).await.expect("a response");
        (outcome(&response), response.extensions().get::<Invalidation>().copied())
    };
    assert_eq!(send("POST", "/search").await, (MISS, None));
    assert_eq!(send("POST", "/search").await, (HIT, None));
    assert_eq!(cache.stats().invalidations, 0);
    // A write to the URI invalidates, and a write by another name of the method does.
    assert_eq!(send("PUT", "/search").await.1, Some(Invalidation::Delivered));
    assert_eq!(send("POST", "/search").await, (MISS, None));
    let mut overridden = request("POST", "/search", "a/b", "x");
    overridden.headers_mut().insert("x-http-method-override", "DELETE".parse().expect("a value"));
    let response = service.clone().oneshot(overridden).await.expect("a response");
    assert_eq!(response.extensions().get(), Some(&Invalidation::Delivered));
    assert_eq!(send("POST", "/search").await, (MISS, None));
    assert_eq!(send("POST", "/search").await, (HIT, None));
    cache.invalidate_uri(&"/search".parse().expect("a URI")).await.expect("memory");
    assert_eq!(send("POST", "/search").await, (MISS, None));
}

#[tokio::test]
async fn response_that_may_not_be_stored_passes() {
    let failures = [("POST", "a/b", "none"), ("POST", "a/b", "none")];
    assert_eq!(outcomes(Rule::ttl(MINUTE).reads_by_post(), &failures).await, [MISS, Outcome::Miss(Miss::HitForMiss)]);
}

#[tokio::test]
async fn concurrent_posts_of_one_content_make_one_call() {
    let rule = Rule::ttl(MINUTE).reads_by_post();
    let service = service::<Full<Bytes>>(&ResponseCache::new(Memory::default()).route("/search", rule));
    let send = || service.clone().oneshot(request("POST", "/search", "a/b", "x"));
    let (one, other) = tokio::join!(send(), send());
    assert_eq!(text(one.expect("a response")).await, text(other.expect("a response")).await);
}

#[tokio::test(start_paused = true)]
async fn endless_content_passes_on_uncached() {
    let rule = Rule::ttl(MINUTE).reads_by_post().max_request_body(1000);
    let service = service::<Endless>(&ResponseCache::new(Memory::default()).route("/search", rule));
    let send = async |body| {
        let request = Request::post("/search").body(body).expect("a request");
        tokio::time::timeout(Duration::from_secs(30), service.clone().oneshot(request)).await
    };
    let response = send(Endless { parts: vec!["begin"], repeats: true }).await.expect("in time").expect("a response");
    assert_eq!(outcome(&response), Outcome::Bypass(Bypass::RequestBodyTooLarge));
    assert_eq!(text(response).await, "POST endless 1");
    // A body that stalls reaches the handler after the read timeout.
    assert!(send(Endless { parts: vec!["begin"], repeats: false }).await.is_err(), "the handler waits for the end");
    let response = send(Endless { parts: vec!["x"], repeats: true }).await.expect("in time").expect("a response");
    assert_eq!(text(response).await, "POST endless 3", "the handler was called for the stalled body");
}

#[tokio::test(start_paused = true)]
async fn call_without_a_message_is_held_a_moment() {
    let cache = ResponseCache::new(Memory::default()).route("/search", Rule::rpc(MINUTE));
    let inner = service_fn(|_: Request<ReadBody<Endless>>| async { Ok::<_, Infallible>(Response::new(Full::from("called"))) });
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    let call = Request::post("/search").header("content-type", "application/grpc");
    let call = call.body(Endless { parts: vec![], repeats: false }).expect("a request");
    let before = tokio::time::Instant::now();
    let response: Served = service.oneshot(call).await.expect("a response");
    assert_eq!(outcome(&response), Outcome::Bypass(Bypass::NotUnary));
    // Paused time: it passes only while all tasks wait.
    assert!(before.elapsed() < Duration::from_millis(200), "{:?}", before.elapsed());
}

#[tokio::test]
async fn target_of_a_post_names_all_of_its_contents() {
    let cache = ResponseCache::new(Memory::default()).route("/search", Rule::ttl(MINUTE).reads_by_post());
    let service = service::<Full<Bytes>>(&cache);
    let send = async |content| {
        let response = service.clone().oneshot(request("POST", "/search", "a/b", content)).await.expect("a response");
        outcome(&response)
    };
    assert_eq!([send("x").await, send("y").await, send("x").await, send("y").await], [MISS, MISS, HIT, HIT]);
    let found = cache.matches(&Method::GET, &"/search".parse().expect("a URI")).expect("a rule");
    cache.invalidate_key(found.key()).await.expect("memory");
    assert_eq!([send("x").await, send("y").await], [MISS, MISS]);
}
