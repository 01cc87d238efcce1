//! The body of a response that has passed the layer.

use std::{
    fmt,
    future::{Future, poll_fn},
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::runtime::Handle;
use tracing::Instrument;

use super::held::HeldBody;
use crate::{
    budget::FRAMES_AT_ONCE,
    rpc::outcome,
    status::{CacheStatus, StatusBody},
};

/// The body of a response that has passed an [`InvalidateLayer`](crate::InvalidateLayer): that of the inner service, or an empty body in a
/// 503 of the layer.
///
/// Its data and its error are the types of the inner body.
#[pin_project]
pub struct InvalidateBody<B: Body> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProj)]
enum Kind<B: Body> {
    Empty,
    Inner(#[pin] B),
    // Boxed: few bodies are.
    Held(Box<HeldBody<B>>),
    Call(Box<CallBody<B>>),
}

impl<B: Body> InvalidateBody<B> {
    #[inline]
    pub(crate) fn inner(body: B) -> Self {
        Self { kind: Kind::Inner(body) }
    }

    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Empty }
    }

    /// Returns a 503 without content.
    pub(super) fn unavailable() -> Response<Self> {
        let mut response = Response::new(Self::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    /// Returns the body of a response whose beginning may have been read.
    pub(super) fn held(body: HeldBody<B>) -> Self {
        Self { kind: Kind::Held(Box::new(body)) }
    }

    /// Returns the body of the response to a call by RPC that writes.
    pub(super) fn call(body: HeldBody<B>, end: Box<dyn CallEnd>) -> Self {
        let call = CallBody { body: Some(body), end: Some(end), settling: None, trailers: None, read_to_end: None };
        Self { kind: Kind::Call(Box::new(call)) }
    }

    /// The body of the inner service. `None` in a 503 of the layer, in the response to a call by RPC that writes, since the layer has to see its
    /// end, and in a response that the layer has read.
    pub fn into_inner(self) -> Option<B> {
        match self.kind {
            Kind::Inner(body) => Some(body),
            Kind::Empty | Kind::Held(_) | Kind::Call(_) => None,
        }
    }
}

/// The end of a call by RPC that writes.
pub(super) trait CallEnd: Send {
    /// Invalidates. The status is unknown if the call has failed. Returns true if the client must not see the call succeed.
    fn settle(self: Box<Self>, status: Option<i32>) -> Settling;
}

pub(super) type Settling = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Reads a body to its end, and settles its call.
type ReadToEnd<B> = fn(HeldBody<B>, Box<dyn CallEnd>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of the response to a call that writes. Its trailers are held until the invalidation: they say that the call has succeeded.
struct CallBody<B: Body> {
    body: Option<HeldBody<B>>,
    end: Option<Box<dyn CallEnd>>,
    settling: Option<Settling>,
    trailers: Option<HeaderMap>,
    /// Known once the body was polled. Before that, nothing is running.
    read_to_end: Option<ReadToEnd<B>>,
}

/// The next frame of a body.
type NextFrame<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

impl<B: Body<Data: Send, Error: Send> + Send + 'static> CallBody<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<NextFrame<B>> {
        self.read_to_end = Some(|body, end| Box::pin(read_to_end(body, end)));
        loop {
            if let Some(settling) = &mut self.settling {
                let is_rejected = ready!(settling.as_mut().poll(cx));
                self.settling = None;
                let trailers = if is_rejected { Some(unavailable()) } else { self.trailers.take() };
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => self.end_with(Some(trailers)),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                None => self.end_with(None),
                Some(Err(error)) => {
                    self.end_with(None);
                    self.settle_in_a_task();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl<B: Body> CallBody<B> {
    fn end_with(&mut self, trailers: Option<HeaderMap>) {
        self.body = None;
        let status = trailers.as_ref().and_then(outcome::status);
        self.settling = self.end.take().map(|end| end.settle(status));
        self.trailers = trailers;
    }

    /// Lets an invalidation that has begun come to its end without its client.
    fn settle_in_a_task(&mut self) {
        if let (Some(settling), Ok(runtime)) = (self.settling.take(), Handle::try_current()) {
            runtime.spawn(settling.in_current_span());
        }
    }
}

/// The time that a call has left when its client has left.
const ABANDONED_LIMIT: Duration = Duration::from_secs(60);

/// A client that leaves does not end a write: the method goes on for a minute, and its end invalidates.
impl<B: Body> Drop for CallBody<B> {
    fn drop(&mut self) {
        self.settle_in_a_task();
        let (body, Ok(runtime)) = (self.body.take(), Handle::try_current()) else { return };
        let Some(end) = self.end.take() else { return };
        let rest = match (self.read_to_end, body) {
            (Some(read), Some(body)) => read(body, end),
            // A body that was never polled has ended with its drop.
            _ => Box::pin(async { _ = end.settle(None).await }),
        };
        runtime.spawn(rest.in_current_span());
    }
}

async fn read_to_end<B: Body<Data: Send, Error: Send>>(mut body: HeldBody<B>, end: Box<dyn CallEnd>) {
    let reading = async {
        for n in 1_usize.. {
            // The frame itself may not be kept across an await, since its data need not be `Send`.
            let step = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx).map(after));
            if let ControlFlow::Break(status) = step.await {
                return status;
            }
            if n.is_multiple_of(FRAMES_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        None
    };
    let status = tokio::time::timeout(ABANDONED_LIMIT, reading).await.unwrap_or_default();
    // Ends the method, if it is still running.
    drop(body);
    end.settle(status).await;
}

/// Returns the status if this is the end of a body.
fn after<D, E>(frame: Option<Result<Frame<D>, E>>) -> ControlFlow<Option<i32>> {
    match frame {
        Some(Ok(frame)) => {
            frame.trailers_ref().map_or(ControlFlow::Continue(()), |end| ControlFlow::Break(outcome::status(end)))
        }
        Some(Err(_)) | None => ControlFlow::Break(None),
    }
}

/// Returns trailers with the status `UNAVAILABLE`.
fn unavailable() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("14"));
    trailers.insert("grpc-message", http::HeaderValue::from_static("the invalidation could not be delivered"));
    trailers
}

impl<B: Body + StatusBody> StatusBody for InvalidateBody<B> {
    fn cache_status(&self) -> Option<CacheStatus> {
        match &self.kind {
            Kind::Inner(body) => body.cache_status(),
            Kind::Held(held) => held.get().cache_status(),
            Kind::Call(call) => call.body.as_ref()?.get().cache_status(),
            Kind::Empty => None,
        }
    }
}

impl<B: Body<Data: Send, Error: Send> + Send + 'static> Body for InvalidateBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner(body) => body.poll_frame(cx),
            KindProj::Held(held) => Pin::new(&mut **held).poll_frame(cx),
            KindProj::Call(call) => call.poll_frame(cx),
            KindProj::Empty => Poll::Ready(None),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner(body) => body.is_end_stream(),
            Kind::Held(held) => held.is_end_stream(),
            Kind::Call(call) => call.body.is_none() && call.settling.is_none(),
            Kind::Empty => true,
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner(body) => body.size_hint(),
            Kind::Held(held) => held.size_hint(),
            // Not exact: with an exact length, a server may not ask for the end.
            Kind::Call(_) => SizeHint::default(),
            Kind::Empty => SizeHint::with_exact(0),
        }
    }
}

/// An empty body.
impl<B: Body> Default for InvalidateBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B: Body> fmt::Debug for InvalidateBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Inner(_) => "InvalidateBody::Inner",
            Kind::Held(_) => "InvalidateBody::Held",
            Kind::Call(_) => "InvalidateBody::Call",
            Kind::Empty => "InvalidateBody::Empty",
        })
    }
}
