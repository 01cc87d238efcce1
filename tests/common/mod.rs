//! Helpers of the integration tests: a mocked inner service, bodies that a test sends piece by piece, short requests.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::type_complexity)]

pub mod app;
#[cfg(feature = "redis")]
pub mod redis;
pub mod rpc;
pub mod spans;
pub mod warnings;

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    marker::{PhantomData, PhantomPinned},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{BoxError, CacheLayer, CacheService, CacheStatus, Memory, Outcome, Rule, Rules, status::StatusBody};
use tower_test::mock;

pub type Plain = Full<Bytes>;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);

/// Returns a GET without content.
pub fn get(target: &str) -> Request<Plain> {
    Request::get(target).body(Plain::default()).expect("a valid request")
}

/// Returns a POST without content.
pub fn post(target: &str) -> Request<Plain> {
    Request::post(target).body(Plain::default()).expect("a valid request")
}

/// Returns a response with status 200.
pub fn ok(body: impl Into<Bytes>) -> Response<Plain> {
    Response::new(Full::new(body.into()))
}

/// Returns a table with one rule, for `/t/{table}`.
pub fn one_rule(rule: Rule) -> Rules {
    Rules::new().route("/t/{table}", rule)
}

/// Returns the outcome that the cache reports.
pub fn outcome<B: StatusBody>(response: &Response<B>) -> Outcome {
    CacheStatus::of(response).expect("a rule covers the request").outcome()
}

/// Returns the outcome that the cache reports in the extensions of a response, if a rule covers the request.
pub fn outcome_in_extension<B>(response: &Response<B>) -> Option<Outcome> {
    response.extensions().get::<CacheStatus>().map(CacheStatus::outcome)
}

/// Reads the whole body of a response.
pub async fn text<B>(response: Response<B>) -> String
where
    B: Body<Error: Into<BoxError>>,
{
    let body = response.into_body().collect().await.map_err(Into::into).expect("a whole body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

// ---- The inner service -----------------------------------------------------------------------------------------------

/// Returns an inner service that counts its calls and answers at once: a closure makes the response from the request and the
/// count.
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

/// The inner service under the control of the test: each call waits until the test answers it.
pub type Handle<B = Plain> = mock::Handle<Request<Plain>, Response<B>>;

/// Returns a cache over a mocked inner service, and the handle of the mock.
pub fn mocked<B: Send + 'static>(
    layer: &CacheLayer<Memory>,
) -> (CacheService<mock::Mock<Request<Plain>, Response<B>>>, Handle<B>) {
    let (inner, handle) = mock::pair();
    (layer.layer(inner), handle)
}

/// Waits for the next call of the inner service.
pub async fn next_call<B>(handle: &mut Handle<B>) -> (Request<Plain>, mock::SendResponse<Response<B>>) {
    handle.next_request().await.expect("the cache calls the inner service")
}

/// Fails if the inner service has been called, after every other task had its turn.
pub async fn no_call<B>(handle: &mut Handle<B>) {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
    let next = std::pin::pin!(handle.next_request()).poll(&mut Context::from_waker(Waker::noop()));
    assert!(!matches!(next, Poll::Ready(Some(_))), "unexpected call of the inner service");
}

// ---- Requests and futures --------------------------------------------------------------------------------------------

/// Sends a request through a clone of a service, and waits for the response.
pub async fn send<S, B, R>(service: &S, request: Request<B>) -> Response<R>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: std::fmt::Debug,
{
    service.clone().oneshot(request).await.expect("the inner service does not fail")
}

/// Calls a clone of a service that is ready. The returned future has not been polled.
pub async fn begin<S, B>(service: &S, request: Request<B>) -> Pin<Box<S::Future>>
where
    S: Service<Request<B>> + Clone,
    S::Error: std::fmt::Debug,
{
    Box::pin(service.clone().ready().await.expect("the inner service is ready").call(request))
}

/// Polls a future once, with a waker that does nothing.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets other tasks run until a condition is true. Fails if they cannot bring it about.
pub async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if is_true() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never came true: {what}");
}

/// Fails if a future does not end by itself within twenty seconds.
pub async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(20 * SECOND, work).await.expect("this ends by itself")
}

/// Lets other tasks run until a condition is true. Fails after twenty seconds.
pub async fn eventually(mut is_true: impl FnMut() -> bool) {
    within(async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

// ---- Bodies ------------------------------------------------------------------------------------------------------------

/// A body whose frames come from a [`BodySource`]. It is `Send`, and neither `Sync` nor `Unpin`.
#[pin_project::pin_project]
pub struct ChannelBody {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
    length: Option<u64>,
    not_sync: PhantomData<Cell<()>>,
    #[pin]
    not_unpin: PhantomPinned,
}

/// The sender of a [`ChannelBody`]. Dropping it ends the body.
pub struct BodySource(mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>);

/// Returns a body whose size hint is exact if a length is given, and its source.
pub fn channel_body(length: Option<u64>) -> (BodySource, ChannelBody) {
    let (sender, frames) = mpsc::unbounded_channel();
    (BodySource(sender), ChannelBody { frames, length, not_sync: PhantomData, not_unpin: PhantomPinned })
}

/// Returns a response with status 200 and a body still to come, whose `Content-Length` is the given length.
pub fn channel_response(length: Option<usize>) -> (Response<ChannelBody>, BodySource) {
    let (source, body) = channel_body(None);
    let mut response = Response::new(body);
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    (response, source)
}

impl BodySource {
    /// Sends a piece of the body. Does nothing if the body was dropped.
    pub fn send(&self, data: impl Into<Bytes>) {
        let _ = self.0.send(Ok(Frame::data(data.into())));
    }

    pub fn trailers(&self, name: &'static str, value: &'static str) {
        let trailers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        let _ = self.0.send(Ok(Frame::trailers(trailers)));
    }

    pub fn fail(&self, reason: &'static str) {
        let _ = self.0.send(Err(reason.into()));
    }

    /// Waits until the body is dropped.
    pub async fn dropped(&self) {
        self.0.closed().await;
    }

    pub fn is_dropped(&self) -> bool {
        self.0.is_closed()
    }
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().frames.poll_recv(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Returns the body of a response, to be read piece by piece.
pub fn opened<B>(response: Response<B>) -> Pin<Box<B>> {
    Box::pin(response.into_body())
}

/// Reads the next piece of a body: `None` at a clean end, the text of the error at another.
pub async fn piece<B>(body: &mut Pin<Box<B>>) -> Option<Result<String, String>>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let frame = body.frame().await?.map_err(|error| error.into().to_string());
    Some(frame.map(|frame| String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")))
}
