//! Requests that bypass the cache because a key cannot describe them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use super::{ABSENT, EXTRACTOR, HIT, key_of, outcomes};
use crate::common::{MINUTE, counting, get, ok, one_rule, outcome, post, send, text};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Identity, KeyExtractor, Memory, Outcome, RouteAndQuery, Rule,
    key::{MAX_KEY_LEN, RequestView},
    status::{Bypass, Miss},
};

#[tokio::test]
async fn request_outside_of_the_key_bypasses() {
    use Bypass::{MethodOverride, Precondition, Upgrade};
    for (name, value, reason) in [
        ("if-match", "\"a\"", Precondition),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", Precondition),
        ("x-http-method-override", "DELETE", MethodOverride),
        ("X-HTTP-Method", "DELETE", MethodOverride),
        ("x-method-override", "PATCH", MethodOverride),
        ("upgrade", "websocket", Upgrade),
    ] {
        let target: &[(&str, &str)] = &[(name, value)];
        let got = outcomes(Rule::ttl(MINUTE), &[&[], target, &[]]).await;
        assert_eq!(got, [ABSENT, Outcome::Bypass(reason), HIT], "{name}");
    }
}

#[tokio::test]
async fn get_with_content_bypasses() {
    let (inner, calls) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    for _ in 0..2 {
        let request = Request::get("/t/a").body(Full::from("content")).expect("valid");
        assert_eq!(outcome(&send(&service, request).await), Outcome::Bypass(Bypass::RequestBody));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn head_is_served_from_get_and_not_stored() {
    let (inner, calls) = counting(|request, _| ok(if request.method() == "HEAD" { "" } else { "rows" }));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let head = || Request::head("/t/a").body(Full::default()).expect("valid");
    assert_eq!(outcome(&send(&service, head()).await), Outcome::Miss(Miss::Head));
    let response = send(&service, get("/t/a")).await;
    assert_eq!((outcome(&response), text(response).await.as_str()), (ABSENT, "rows"));
    let response = send(&service, head()).await;
    assert_eq!(response.headers()["content-length"], "4");
    assert_eq!((outcome(&response), text(response).await.as_str()), (HIT, ""));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn too_long_key_bypasses() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE));
    let (inner, _) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let request = |len: usize| get(&format!("/t/{}", "a".repeat(len)));
    assert_eq!(outcome(&send(&service, request(MAX_KEY_LEN)).await), Outcome::Bypass(Bypass::KeyTooLong));
    assert!(rules.key(&store, &request(MAX_KEY_LEN)).is_none());
    assert_eq!(outcome(&send(&service, request(MAX_KEY_LEN - 200)).await), ABSENT);
    assert_eq!(outcome(&send(&service, request(MAX_KEY_LEN - 200)).await), HIT);
    assert!(key_of(&rules, &store, &request(MAX_KEY_LEN - 200)).canonical().len() <= MAX_KEY_LEN);
}

#[tokio::test]
async fn extractor_returning_none_bypasses() {
    let store = Memory::default();
    let rules = one_rule(Rule::ttl(MINUTE).key(|request: &RequestView<'_>| {
        let table = request.param("table");
        (table != "secret").then(|| table.to_owned())
    }));
    let (inner, _) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    for (target, want) in [("/t/secret", EXTRACTOR), ("/t/secret", EXTRACTOR), ("/t/open", ABSENT), ("/t/open?a", HIT)] {
        assert_eq!(outcome(&send(&service, get(target)).await), want, "{target}");
    }
    assert!(rules.key(&store, &get("/t/secret")).is_none());
}

/// Content that counts how often it is polled.
struct CountedContent(Arc<AtomicUsize>);

impl Body for CountedContent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(None)
    }
}

#[tokio::test]
async fn no_extractor_polls_request_content() {
    let polls = Arc::new(AtomicUsize::new(0));
    let inner = tower::service_fn(|request: Request<CountedContent>| async move {
        drop(request);
        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("x")))
    });
    let rule =
        Rule::ttl(MINUTE).key(RouteAndQuery.and(|_: &RequestView<'_>| Some("a".to_owned()))).identity(Identity::bearer());
    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
    for method in ["GET", "POST", "HEAD"] {
        let request = Request::builder().method(method).uri("/t/a").body(CountedContent(polls.clone())).expect("valid");
        assert!(matches!(outcome(&send(&service, request).await), Outcome::Bypass(_)), "{method}");
    }
    assert_eq!(polls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn unmatched_request_has_no_status() {
    let (inner, _) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    for request in [get("/u/a"), get("/t"), get("/t/a/b"), post("/t")] {
        let response = send(&service, request).await;
        assert!(tower_response_cache::CacheStatus::of(&response).is_none());
    }
}
