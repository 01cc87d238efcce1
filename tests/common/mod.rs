//! What the tests share: the inner service held in the hand, and short words for requests and answers.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::type_complexity)]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{BoxError, Cache, CacheLayer, CacheStatus, Memory, Outcome, Rule, Rules};
use tower_test::mock;

pub type Plain = Full<Bytes>;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);

/// A GET without content.
pub fn get(target: &str) -> Request<Plain> {
    Request::get(target).body(Plain::default()).expect("a valid request")
}

/// A POST without content.
pub fn post(target: &str) -> Request<Plain> {
    Request::post(target).body(Plain::default()).expect("a valid request")
}

/// A response of 200.
pub fn ok(body: impl Into<Bytes>) -> Response<Plain> {
    Response::new(Full::new(body.into()))
}

/// A rule for all of `/t/{table}`, and nothing else.
pub fn one_rule(rule: Rule) -> Rules {
    Rules::new().route("/t/{table}", rule)
}

/// What the cache says that it did.
pub fn outcome<B>(response: &Response<B>) -> Outcome {
    response.extensions().get::<CacheStatus>().expect("a rule covers the request").outcome()
}

/// The whole body of a response.
pub async fn text<B>(response: Response<B>) -> String
where
    B: Body<Error: Into<BoxError>>,
{
    let body = response.into_body().collect().await.map_err(Into::into).expect("a whole body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

/// One request through a clone of a service that is made ready for it.
pub async fn send<S, B, R>(service: &S, request: Request<B>) -> Response<R>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: std::fmt::Debug,
{
    service.clone().oneshot(request).await.expect("the inner service does not fail")
}

/// An inner service that counts its calls and answers at once with what a closure makes of the request and the count.
pub fn counting<F>(
    answer: F,
) -> (
    impl Service<
        Request<Plain>,
        Response = Response<Plain>,
        Error = Infallible,
        Future = std::future::Ready<Result<Response<Plain>, Infallible>>,
    > + Clone
    + Send
    + 'static,
    Arc<AtomicUsize>,
)
where
    F: Fn(&Request<Plain>, usize) -> Response<Plain> + Clone + Send + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let service = tower::service_fn(move |request: Request<Plain>| {
        let call = counter.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(Ok(answer(&request, call)))
    });
    (service, calls)
}

/// The inner service held in the hand: each call waits for the test to answer it.
pub type Hand<B = Plain> = mock::Handle<Request<Plain>, Response<B>>;

/// A cache over a service that is held in the hand.
pub fn in_hand<B: Send + 'static>(layer: &CacheLayer<Memory>) -> (Cache<mock::Mock<Request<Plain>, Response<B>>>, Hand<B>) {
    let (inner, hand) = mock::pair();
    (layer.layer(inner), hand)
}

/// The next call that arrives at the hand.
pub async fn next_call<B>(hand: &mut Hand<B>) -> (Request<Plain>, mock::SendResponse<Response<B>>) {
    hand.next_request().await.expect("the cache calls the inner service")
}
