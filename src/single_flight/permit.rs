//! Permits for uncoordinated fills.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::sync::OwnedSemaphorePermit;

thread_local! {
    /// Whether an inner call is being polled that has a place.
    static WITHIN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// An inner call, which may have a place among those that nothing of a shared store stands behind: calls that it makes
/// [are within](Self::is_within) it.
#[pin_project]
pub(crate) struct WithPermit<F> {
    #[pin]
    inner: F,
    has_place: bool,
}

impl<F> WithPermit<F> {
    pub(crate) fn new(inner: F, permit: Option<&OwnedSemaphorePermit>) -> Self {
        Self { inner, has_place: permit.is_some() || WithPermit::<()>::is_within() }
    }
}

impl WithPermit<()> {
    pub(crate) fn is_within() -> bool {
        WITHIN.get()
    }
}

impl<F: Future> Future for WithPermit<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let within = Within(WITHIN.get());
        WITHIN.set(within.0 || *this.has_place);
        this.inner.poll(cx)
    }
}

/// Restores what was before, also when the inner call panics.
struct Within(bool);

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(self.0);
    }
}
