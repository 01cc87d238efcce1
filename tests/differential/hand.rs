//! The hand that calls and bodies of the origin are held in.

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

/// It cannot be reached.
#[derive(Debug)]
pub struct Unreachable;

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the origin is out of reach")
    }
}

impl std::error::Error for Unreachable {}

/// What is held in the hand: calls and bodies that wait to be let go.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Vec<oneshot::Sender<()>>>>);

impl Held {
    pub fn hold(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().filter(|sender| !sender.is_closed()).count()
    }

    /// Lets one of them go on, if there is any.
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

/// A body whose pieces are known beforehand, the last first.
pub struct Script {
    pub pieces: Vec<Bytes>,
    pub end: End,
    /// Waited for before the second piece.
    pub held: Option<oneshot::Receiver<()>>,
    pub started: bool,
    pub exact: Option<u64>,
    pub sent: u64,
}

impl http_body::Body for Script {
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

/// Answers with 503 in place of an error, as a router's handlers must.
#[derive(Clone)]
pub struct Infallibly<S>(pub S);

impl<S> Service<Request<Body>> for Infallibly<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

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
