//! The future of `RequestBodyService`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;

/// The future of a [`RequestBodyService`](super::RequestBodyService).
#[pin_project]
pub struct RequestBodyFuture<F, T, E> {
    #[pin]
    state: State<F, T, E>,
}

/// A boxed future, because the content has to be awaited.
type Reading<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

#[pin_project(project = StateProj)]
enum State<F, T, E> {
    Pass(#[pin] F),
    Read(Reading<T, E>),
}

impl<F, T, E> RequestBodyFuture<F, T, E> {
    pub(super) fn pass(inner: F) -> Self {
        Self { state: State::Pass(inner) }
    }

    pub(super) fn read(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Self {
        Self { state: State::Read(Box::pin(work)) }
    }
}

impl<F: Future<Output = Result<T, E>>, T, E> Future for RequestBodyFuture<F, T, E> {
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        match self.project().state.project() {
            StateProj::Pass(inner) => inner.poll(cx),
            StateProj::Read(work) => work.as_mut().poll(cx),
        }
    }
}

impl<F, T, E> fmt::Debug for RequestBodyFuture<F, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestBodyFuture")
    }
}
