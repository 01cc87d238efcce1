//! The body of the inner service on its way to the client, with a watcher that sees all of it.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

/// Sees a body on its way to the client. It is dropped without [`end`](Self::end) if the body fails, or if the client leaves early.
pub(crate) trait Watcher: Send {
    /// The next piece of the body.
    fn data(&mut self, chunk: &Bytes);

    /// The end of the body, with its trailers.
    fn end(&mut self, trailers: Option<HeaderMap>);
}

/// A body that is watched.
pub(crate) struct Watched<B> {
    inner: Pin<Box<B>>,
    /// In a mutex that is never locked, so that the body is `Sync` if the inner body is.
    watcher: Mutex<Option<Box<dyn Watcher>>>,
    /// The number of bytes still to come, if it was announced.
    left: Option<u64>,
    trailers: Option<HeaderMap>,
}

impl<B: Body<Error: Into<BoxError>>> Watched<B> {
    pub(crate) fn new(inner: B, watcher: Box<dyn Watcher>) -> Self {
        let (left, is_over) = (inner.size_hint().exact(), inner.is_end_stream());
        let mut watched = Self { inner: Box::pin(inner), watcher: Mutex::new(Some(watcher)), left, trailers: None };
        if is_over || left == Some(0) {
            watched.ended();
        }
        watched
    }

    fn watcher(&mut self) -> &mut Option<Box<dyn Watcher>> {
        self.watcher.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&mut self) {
        if let Some(mut watcher) = self.watcher().take() {
            watcher.end(self.trailers.take());
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(self.inner.as_mut().poll_frame(cx)) {
            None => {
                self.ended();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                *self.watcher() = None;
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => frame.map_data(|mut data| data.copy_to_bytes(data.remaining())),
        };
        if let Some(chunk) = frame.data_ref() {
            self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
            if let Some(watcher) = self.watcher() {
                watcher.data(chunk);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        // A server does not poll a body whose announced length it has sent.
        if self.inner.is_end_stream() || self.left == Some(0) {
            self.ended();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
