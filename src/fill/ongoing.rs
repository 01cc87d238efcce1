//! The fill whose call of the inner service runs on this thread now.
//!
//! A request for the same key inside that call comes from a second layer over the same store, or from a handler that requests its own URI. If it were
//! served from the store, a refresh would store the old response again. If it followed the fill, it would wait for itself.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    ptr,
    task::{self, Poll, ready},
};

use http::{Response, StatusCode};
use pin_project::pin_project;
use tracing::Span;

use crate::{key::KeyRef, store::backend::Context};

/// A fill, known by its store and its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct OngoingFill {
    store: usize,
    key: u128,
}

thread_local! {
    static CURRENT: Cell<Option<OngoingFill>> = const { Cell::new(None) };
}

impl OngoingFill {
    #[inline]
    pub(crate) fn of(store: &Context, key: KeyRef<'_>) -> Self {
        Self { store: ptr::from_ref(store).addr(), key: key.hash() }
    }

    /// Returns true if the call of a fill runs on this thread.
    #[inline]
    pub(crate) fn is_any() -> bool {
        CURRENT.with(|current| current.get().is_some())
    }

    /// Returns the innermost fill whose call runs on this thread.
    #[inline]
    pub(crate) fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Marks that the call of this fill runs on this thread, until the guard is dropped.
    #[inline]
    pub(crate) fn enter(self) -> OngoingGuard {
        OngoingGuard { outer: CURRENT.replace(Some(self)) }
    }
}

/// Ends the mark of [`OngoingFill::enter`].
#[must_use]
pub(crate) struct OngoingGuard {
    outer: Option<OngoingFill>,
}

impl Drop for OngoingGuard {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

/// The call of the inner service for a fill. Whenever the call is polled, the fill is marked and the span is entered.
#[pin_project]
pub(crate) struct OngoingCall<F> {
    fill: OngoingFill,
    span: Span,
    #[pin]
    call: F,
}

impl<F> OngoingCall<F> {
    #[inline]
    pub(crate) fn new(fill: OngoingFill, span: Span, call: F) -> Self {
        Self { fill, span, call }
    }
}

impl<F, B, E> Future for OngoingCall<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _guard = this.fill.enter();
        let entered = this.span.enter();
        let answer = ready!(this.call.poll(cx));
        drop(entered);
        if !this.span.is_disabled() {
            record_answer(this.span, answer.as_ref().ok().map(Response::status));
        }
        Poll::Ready(answer)
    }
}

/// Records the status of a response, or a failure, by the names of OpenTelemetry.
#[cold]
fn record_answer(span: &Span, status: Option<StatusCode>) {
    match status {
        None => _ = span.record("error.type", "inner_service"),
        Some(status) => {
            span.record("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                span.record("error.type", status.as_str());
            }
        }
    }
}
