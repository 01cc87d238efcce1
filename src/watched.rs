//! The body of the inner service on its way to the client, with a watcher that sees all of it.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
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
    /// What follows the announced length. It is read with the last data, since a server may not poll for it.
    ahead: Option<Option<Result<Frame<Bytes>, BoxError>>>,
}

impl<B: Body<Error: Into<BoxError>>> Watched<B> {
    pub(crate) fn new(inner: B, announced: Option<u64>, watcher: Box<dyn Watcher>) -> Self {
        let left = inner.size_hint().exact().or(announced);
        let watcher = Mutex::new(Some(watcher));
        let mut watched = Self { inner: Box::pin(inner), watcher, left, trailers: None, ahead: None };
        watched.look_for_end(&mut Context::from_waker(Waker::noop()));
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

    /// Tells the watcher if the body is complete. A server does not poll a body whose announced length it has sent, so that the trailers are read now.
    fn look_for_end(&mut self, cx: &mut Context<'_>) {
        if self.inner.is_end_stream() {
            return self.ended();
        }
        if self.left == Some(0)
            && self.watcher().is_some()
            && let Poll::Ready(next) = self.next(cx)
        {
            self.ahead = Some(next);
        }
    }

    /// Reads the next frame, and shows it to the watcher.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(self.inner.as_mut().poll_frame(cx)) {
            None => {
                // A body that is shorter than announced was cut off.
                if self.left.is_some_and(|left| left > 0) {
                    *self.watcher() = None;
                }
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
            match self.left.map(|left| left.checked_sub(chunk.len() as u64)) {
                None => {}
                Some(Some(left)) => self.left = Some(left),
                // It is longer than announced.
                Some(None) => *self.watcher() = None,
            }
            if let Some(watcher) = self.watcher() {
                watcher.data(chunk);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            // They are the end: a server need not poll on.
            match self.left {
                None | Some(0) => self.ended(),
                Some(_) => *self.watcher() = None,
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(next) = self.ahead.take() {
            return Poll::Ready(next);
        }
        let frame = ready!(self.next(cx));
        if matches!(frame, Some(Ok(_))) {
            self.look_for_end(cx);
        }
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.ahead {
            Some(next) => next.is_none(),
            None => self.inner.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
