//! The inner service of the peers, which says how often it was asked: a cache that is told to have answered must not have asked it.

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
use tower_response_cache_cost::work::{Origin, Respond};
use tower_service::Service;

thread_local! {
    static CALLED: Cell<u64> = const { Cell::new(0) };
    static ANSWERED: Cell<u64> = const { Cell::new(0) };
}

/// What inner services were asked on this thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// How often `call` was called.
    pub called: u64,
    /// How often a response was computed.
    pub answered: u64,
}

/// Until now.
pub fn asked() -> Asked {
    Asked { called: CALLED.get(), answered: ANSWERED.get() }
}

/// Answers as [`Origin`] does, but within its future, as handlers do: who calls it and never polls has not asked for a response.
pub struct Inner<B = Full<Bytes>> {
    origin: Origin,
    eager: bool,
    own_bodies: bool,
    max_age: Option<HeaderValue>,
    body: fn(Full<Bytes>) -> B,
}

impl Inner {
    /// One that answers with so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self { origin: Origin::of(bytes), eager: false, own_bodies: false, max_age: None, body: |body| body }
    }
}

impl<B> Inner<B> {
    /// The same, with bodies of axum's type.
    pub fn axum(self) -> Inner<Body> {
        let Self { origin, eager, own_bodies, max_age, .. } = self;
        Inner { origin, eager, own_bodies, max_age, body: Body::new }
    }

    /// The same, computed in `call` already.
    pub fn eager(self) -> Self {
        Self { eager: true, ..self }
    }

    /// The same, where no two responses share a body: what two threads count up and down is not one counter for all entries.
    pub fn own_bodies(self) -> Self {
        Self { own_bodies: true, ..self }
    }

    /// The same, where `Cache-Control` allows so many seconds instead of a minute.
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
        ANSWERED.set(ANSWERED.get() + 1);
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
    type Future = Answer<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Answer<B> {
        CALLED.set(CALLED.get() + 1);
        drop(std::hint::black_box(request));
        if self.eager {
            return Answer(Step::Computed(self.respond().map(self.body)));
        }
        Answer(Step::Asked(self.clone()))
    }
}

/// The response to come.
pub struct Answer<B>(Step<B>);

enum Step<B> {
    Asked(Inner<B>),
    Computed(Response<B>),
    Answered,
}

impl<B> Unpin for Answer<B> {}

impl<B> Future for Answer<B> {
    type Output = Result<Response<B>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.0, Step::Answered) {
            Step::Asked(inner) => Poll::Ready(Ok(inner.respond().map(inner.body))),
            Step::Computed(response) => Poll::Ready(Ok(response)),
            Step::Answered => panic!("polled after it had answered"),
        }
    }
}
