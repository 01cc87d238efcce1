//! The inner service of the peers. It counts its calls, so that a hit can be verified.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tower::Service;
use tower_response_cache_cost::work::{Origin, Respond};

thread_local! {
    static CALLED: Cell<u64> = const { Cell::new(0) };
    static RESPONDED: Cell<u64> = const { Cell::new(0) };
}

/// The calls of inner services on this thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallCount {
    /// The number of calls of `call`.
    pub called: u64,
    /// The number of computed responses.
    pub responded: u64,
}

/// Returns the calls so far.
pub fn call_count() -> CallCount {
    CallCount { called: CALLED.get(), responded: RESPONDED.get() }
}

/// An inner service with the response of [`Origin`], computed inside its future as in a handler.
pub struct Inner<B = Full<Bytes>> {
    origin: Origin,
    eager: bool,
    own_bodies: bool,
    max_age: Option<HeaderValue>,
    body: fn(Full<Bytes>) -> B,
}

impl Inner {
    /// Creates a service whose body has this number of bytes.
    pub fn of(bytes: usize) -> Self {
        Self { origin: Origin::of(bytes), eager: false, own_bodies: false, max_age: None, body: |body| body }
    }
}

impl<B> Inner<B> {
    /// Changes the body to axum's type.
    pub fn axum(self) -> Inner<Body> {
        let Self { origin, eager, own_bodies, max_age, .. } = self;
        Inner { origin, eager, own_bodies, max_age, body: Body::new }
    }

    /// Computes the response in `call` rather than in the future.
    pub fn eager(self) -> Self {
        Self { eager: true, ..self }
    }

    /// Gives each response a body of its own, so that threads do not share one reference count.
    pub fn own_bodies(self) -> Self {
        Self { own_bodies: true, ..self }
    }

    /// Sets the `max-age` of the response, which is a minute otherwise.
    pub fn max_age(self, seconds: u64) -> Self {
        let value = format!("max-age={seconds}").try_into().expect("a value");
        Self { max_age: Some(value), ..self }
    }
}

impl<B> Clone for Inner<B> {
    fn clone(&self) -> Self {
        let Self { origin, eager, own_bodies, max_age, body } = self;
        Self { origin: origin.clone(), eager: *eager, own_bodies: *own_bodies, max_age: max_age.clone(), body: *body }
    }
}

impl<B> Respond for Inner<B> {
    fn respond(&self) -> Response<Full<Bytes>> {
        RESPONDED.set(RESPONDED.get() + 1);
        let mut response = self.origin.respond();
        if let Some(max_age) = &self.max_age {
            response.headers_mut().insert(header::CACHE_CONTROL, max_age.clone());
        }
        if !self.own_bodies {
            return response;
        }
        response.map(|body| Full::new(Bytes::copy_from_slice(&body.into_inner().unwrap_or_default())))
    }
}

impl<B, R> Service<Request<R>> for Inner<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = ResponseFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> ResponseFuture<B> {
        CALLED.set(CALLED.get() + 1);
        drop(std::hint::black_box(request));
        if self.eager {
            return ResponseFuture(Step::Computed(self.respond().map(self.body)));
        }
        ResponseFuture(Step::Called(self.clone()))
    }
}

/// The future of [`Inner`].
pub struct ResponseFuture<B>(Step<B>);

enum Step<B> {
    Called(Inner<B>),
    Computed(Response<B>),
    Done,
}

impl<B> Unpin for ResponseFuture<B> {}

impl<B> Future for ResponseFuture<B> {
    type Output = Result<Response<B>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.0, Step::Done) {
            Step::Called(inner) => Poll::Ready(Ok(inner.respond().map(inner.body))),
            Step::Computed(response) => Poll::Ready(Ok(response)),
            Step::Done => panic!("polled after completion"),
        }
    }
}
