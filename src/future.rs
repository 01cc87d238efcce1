//! The future of a response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use crate::{
    body::CacheBody,
    error::BoxError,
    fill::{Answer, forwarded::Forwarded},
    single_flight::{detach::Detachable, flight::Flight},
    store::Store,
};

/// The future of a [`CacheService`](crate::CacheService). A hit is ready at once.
#[pin_project]
pub struct ResponseFuture<F, St, B: Send + 'static, E: Send + 'static> {
    #[pin]
    state: State<F, St, B, E>,
}

#[pin_project(project = StateProj)]
enum State<F, St, B: Send + 'static, E: Send + 'static> {
    // Answered from the store.
    Ready(Option<Response<CacheBody<B>>>),
    // Not ours.
    Pass(#[pin] F),
    // Ours, but left alone, and marked so.
    Forward {
        #[pin]
        inner: F,
        forwarded: Option<Forwarded<St>>,
    },
    // Fills; goes on without us if we are dropped.
    Lead(Detachable<Answer<B, E>, Flight>),
    // Everything that waits.
    Work(Pin<Box<dyn Future<Output = Answer<B, E>> + Send>>),
}

impl<F, St, B: Send + 'static, E: Send + 'static> ResponseFuture<F, St, B, E> {
    #[inline]
    pub(crate) fn ready(response: Response<CacheBody<B>>) -> Self {
        Self { state: State::Ready(Some(response)) }
    }

    #[inline]
    pub(crate) fn pass(inner: F) -> Self {
        Self { state: State::Pass(inner) }
    }

    pub(crate) fn forward(inner: F, forwarded: Forwarded<St>) -> Self {
        Self { state: State::Forward { inner, forwarded: Some(forwarded) } }
    }

    pub(crate) fn lead(fill: Detachable<Answer<B, E>, Flight>) -> Self {
        Self { state: State::Lead(fill) }
    }

    pub(crate) fn work(work: impl Future<Output = Answer<B, E>> + Send + 'static) -> Self {
        Self { state: State::Work(Box::pin(work)) }
    }
}

impl<F, St, B, E> Future for ResponseFuture<F, St, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    St: Store,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    type Output = Answer<B, E>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.as_mut().project().state.project() {
            StateProj::Ready(response) => Poll::Ready(Ok(response.take().expect("polled after its end"))),
            _ => self.poll_call(cx),
        }
    }
}

impl<F, St, B, E> ResponseFuture<F, St, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    St: Store,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    /// Polls a call of the inner service. A separate function, so that callers can inline [`poll`](Future::poll) for hits.
    #[inline(never)]
    fn poll_call(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer<B, E>> {
        match self.project().state.project() {
            StateProj::Ready(_) => unreachable!("polled by the caller"),
            StateProj::Pass(inner) => {
                let response = ready!(inner.poll(cx))?;
                Poll::Ready(Ok(response.map(CacheBody::inner)))
            }
            StateProj::Forward { inner, forwarded } => {
                let response = ready!(inner.poll(cx))?.map(CacheBody::inner);
                Poll::Ready(Ok(forwarded.take().expect("polled after its end").answered(response)))
            }
            StateProj::Lead(fill) => Pin::new(fill).poll(cx),
            StateProj::Work(work) => work.as_mut().poll(cx),
        }
    }
}

impl<F, St, B: Send + 'static, E: Send + 'static> fmt::Debug for ResponseFuture<F, St, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
