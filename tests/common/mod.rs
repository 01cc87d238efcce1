//! What the tests share: the inner service held in the hand, and short words for requests and answers.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::type_complexity)]

#[cfg(feature = "redis")]
pub mod redis;

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
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{BoxError, CacheLayer, CacheService, CacheStatus, Memory, Outcome, Rule, Rules};
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
pub fn in_hand<B: Send + 'static>(
    layer: &CacheLayer<Memory>,
) -> (CacheService<mock::Mock<Request<Plain>, Response<B>>>, Hand<B>) {
    let (inner, hand) = mock::pair();
    (layer.layer(inner), hand)
}

/// The next call that arrives at the hand.
pub async fn next_call<B>(hand: &mut Hand<B>) -> (Request<Plain>, mock::SendResponse<Response<B>>) {
    hand.next_request().await.expect("the cache calls the inner service")
}

/// A request that has begun: the service was ready and has been called, its future has not been polled.
pub async fn begin<S, B>(service: &S, request: Request<B>) -> std::pin::Pin<Box<S::Future>>
where
    S: Service<Request<B>> + Clone,
    S::Error: std::fmt::Debug,
{
    let mut service = service.clone();
    service.ready().await.expect("the inner service is ready");
    Box::pin(service.call(request))
}

/// One look at a future, which nothing wakes.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// Lets the other tasks run until something has come true; fails if they cannot bring it about.
pub async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if is_true() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never came true: {what}");
}

/// No call waits in the hand, also after every other task had its turn.
pub async fn no_call<B>(hand: &mut Hand<B>) {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
    let polled = std::pin::pin!(hand.next_request()).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(!matches!(polled, std::task::Poll::Ready(Some(_))), "a call that nobody expected");
}

/// A body that a test sends piece by piece.
pub struct Piped {
    frames: tokio::sync::mpsc::UnboundedReceiver<Result<http_body::Frame<Bytes>, BoxError>>,
}

/// The other end of a [`Piped`] body: dropped, it ends the body.
pub struct Pipe(tokio::sync::mpsc::UnboundedSender<Result<http_body::Frame<Bytes>, BoxError>>);

/// A response of 200 whose body is still to come, of an announced length or none.
pub fn piped(length: Option<usize>) -> (Response<Piped>, Pipe) {
    let (sender, frames) = tokio::sync::mpsc::unbounded_channel();
    let mut response = Response::new(Piped { frames });
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    (response, Pipe(sender))
}

impl Pipe {
    pub fn send(&self, chunk: &'static str) {
        // Nobody there to read it: the test will see that.
        let _ = self.0.send(Ok(http_body::Frame::data(Bytes::from_static(chunk.as_bytes()))));
    }

    pub fn break_off(self) {
        let _ = self.0.send(Err("the upstream broke off".into()));
    }
}

impl Body for Piped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        self.frames.poll_recv(cx)
    }
}

// ---- Bodies held in the hand -----------------------------------------------------------------------------------------

pin_project_lite::pin_project! {
    /// A body whose frames come from a [`Tap`]. It is `Send`, and neither `Sync` nor `Unpin`.
    pub struct Tapped {
        frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
        length: Option<u64>,
        not_sync: PhantomData<Cell<()>>,
        #[pin]
        not_unpin: PhantomPinned,
    }
}

/// The hand that a [`Tapped`] body is held in. Dropped, it ends the body.
pub struct Tap(mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>);

/// A body whose size hint is this, and its hand.
pub fn tapped(length: Option<u64>) -> (Tap, Tapped) {
    let (sender, frames) = mpsc::unbounded_channel();
    (Tap(sender), Tapped { frames, length, not_sync: PhantomData, not_unpin: PhantomPinned })
}

impl Tap {
    pub fn send(&self, data: impl Into<Bytes>) {
        let _ = self.0.send(Ok(Frame::data(data.into())));
    }

    pub fn trailers(&self, name: &'static str, value: &'static str) {
        let trailers = http::HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        let _ = self.0.send(Ok(Frame::trailers(trailers)));
    }

    pub fn fail(&self, why: &'static str) {
        let _ = self.0.send(Err(why.into()));
    }

    /// Waits until nobody reads the body any more.
    pub async fn dropped(&self) {
        self.0.closed().await;
    }

    pub fn is_dropped(&self) -> bool {
        self.0.is_closed()
    }
}

impl Body for Tapped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().frames.poll_recv(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The body of a response, to be read piece by piece.
pub fn opened<B>(response: Response<B>) -> Pin<Box<B>> {
    Box::pin(response.into_body())
}

/// The next piece of a body; `None` at a clean end, and the words of the error at another.
pub async fn piece<B>(body: &mut Pin<Box<B>>) -> Option<Result<String, String>>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let frame = body.frame().await?.map_err(|error| error.into().to_string());
    Some(frame.map(|frame| String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")))
}

/// One request through a clone of a service that is made ready for it: called, and not polled yet.
pub async fn start<S, B>(service: &S, request: Request<B>) -> S::Future
where
    S: Service<Request<B>> + Clone,
    S::Error: std::fmt::Debug,
{
    service.clone().ready().await.expect("the inner service does not fail").call(request)
}

/// What comes of a future that is polled once.
pub fn polled<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(std::task::Waker::noop()))
}

/// What must end by itself, and fails the test if it does not.
pub async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(20 * SECOND, work).await.expect("this ends by itself")
}

/// Lets other tasks run until it is so.
pub async fn eventually(mut so: impl FnMut() -> bool) {
    within(async {
        while !so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
