//! The future of a fill.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use super::{Answer, Fill, RestFuture, ongoing::OngoingCall};
use crate::{error::BoxError, store::Store};

/// Awaits the inner service, and stores its response if that is allowed.
///
/// Work that has to await something after the response is a future of its own, made only when needed. This future is small, because it is
/// copied to the place where it is kept.
#[must_use]
#[pin_project]
pub(crate) struct FillFuture<F, St: Store, B, E> {
    #[pin]
    inner: Option<OngoingCall<F>>,
    fill: Option<Fill<St>>,
    rest: Option<RestFuture<B, E>>,
}

impl<F, St, B, E> FillFuture<F, St, B, E>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    St: Store,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    #[inline]
    pub(super) fn new(fill: Fill<St>, inner: F) -> Self {
        fill.route().call();
        match fill.request.rule.soft_timeout().filter(|_| fill.miss.fallback.is_some()) {
            None => Self { inner: Some(fill.call(inner)), fill: Some(fill), rest: None },
            Some(limit) => Self { inner: None, fill: None, rest: Some(Box::pin(fill.run_softly(inner, limit))) },
        }
    }
}

impl<F, St, B, E> Future for FillFuture<F, St, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    St: Store,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    type Output = Answer<B, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            let answer = ready!(inner.poll(cx));
            // Resources of the call are released before anything else is awaited.
            this.inner.set(None);
            let fill = this.fill.take().expect("it is there as long as the call");
            if let Poll::Ready(answer) = fill.answered(answer, cx, this.rest) {
                return Poll::Ready(answer);
            }
        }
        this.rest.as_mut().expect("polled after its end").as_mut().poll(cx)
    }
}
