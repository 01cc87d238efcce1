//! Permits for uncoordinated fills.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::sync::OwnedSemaphorePermit;

thread_local! {
    /// True while a call with a permit is being polled.
    static WITHIN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A call of the inner service, with or without a permit. Calls that it makes [are within](Self::is_within) it and need none.
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

/// Restores the previous state, also if the call panics.
struct Within(bool);

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(self.0);
    }
}
