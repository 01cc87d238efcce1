//! Calls and bodies of the origin that wait until the driver releases them.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tower::Service;

/// The future of a service in this test.
pub type ResponseFuture<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

/// The origin cannot be reached.
#[derive(Debug)]
pub struct Unreachable;

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the origin is unreachable")
    }
}

impl std::error::Error for Unreachable {}

/// Calls and bodies that wait to be released.
#[derive(Clone, Default)]
pub struct HeldCalls(Arc<Mutex<Vec<oneshot::Sender<()>>>>);

impl HeldCalls {
    pub fn hold(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// Returns the number of waiting calls and bodies.
    pub fn count(&self) -> usize {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().filter(|sender| !sender.is_closed()).count()
    }

    /// Releases one of them, and returns true if there was one.
    pub fn release(&self, which: usize) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|sender| !sender.is_closed());
        if held.is_empty() {
            return false;
        }
        let which = which % held.len();
        let _ = held.remove(which).send(());
        true
    }
}

pub enum End {
    Clean,
    Error,
}

/// A body with prepared pieces, the last first.
pub struct ScriptedBody {
    pub pieces: Vec<Bytes>,
    pub end: End,
    /// Delays the second piece until it is released.
    pub held: Option<oneshot::Receiver<()>>,
    pub started: bool,
    pub exact: Option<u64>,
    pub sent: u64,
}

impl http_body::Body for ScriptedBody {
    type Data = Bytes;
    type Error = Unreachable;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unreachable>>> {
        if self.started
            && let Some(held) = &mut self.held
        {
            std::task::ready!(Pin::new(held).poll(cx)).unwrap_or_default();
            self.held = None;
        }
        self.started = true;
        Poll::Ready(match self.pieces.pop() {
            Some(piece) => {
                self.sent += piece.len() as u64;
                Some(Ok(Frame::data(piece)))
            }
            None if matches!(self.end, End::Error) => {
                self.end = End::Clean;
                Some(Err(Unreachable))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && matches!(self.end, End::Clean)
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, |exact| SizeHint::with_exact(exact.saturating_sub(self.sent)))
    }
}

/// Answers 503 in place of an error, because a router's services must not fail.
#[derive(Clone)]
pub struct ErrorAs503<S>(pub S);

impl<S> Service<Request<Body>> for ErrorAs503<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.0.call(request);
        Box::pin(async move {
            Ok(inner.await.unwrap_or_else(|_| Response::builder().status(503).body(Body::empty()).expect("a response")))
        })
    }
}
