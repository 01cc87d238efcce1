//! The body of every response that passes the layer.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::tape::{End, Heard, Reader};

/// A boxed error, as tower and axum use it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of a response that has passed a [`CacheLayer`](crate::CacheLayer): stored bytes, the inner service's own
    /// body, or one that is on its way to a client and to the store at once.
    ///
    /// Its data are [`Bytes`], its error is a [`BoxError`], and it is `Send` if the inner body is; it asks for neither `Sync`
    /// nor `Unpin`. Trailers are kept.
    pub struct CacheBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        // Complete: stored, or just fetched whole.
        Whole { data: Option<Bytes>, trailers: Option<Box<HeaderMap>> },
        // The inner service's, untouched.
        Inner { #[pin] body: B },
        // On its way, and this is the request that fetched it: it may have to read on by itself.
        Leading { reader: Reader, rest: Rest<B>, length: Option<u64> },
        // On its way, fetched by another request.
        Following { reader: Reader, length: Option<u64> },
        // What had been on its way, from where it grew too large to keep.
        Tail { body: Pin<Box<B>> },
        Done,
    }
}

/// What the task that reads a body leaves to the request that fetched it.
pub(crate) struct Rest<B>(Arc<Mutex<Option<Left<B>>>>);

enum Left<B> {
    Body(Pin<Box<B>>),
    Error(BoxError),
}

impl<B> Rest<B> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    pub(crate) fn leave_body(&self, body: Pin<Box<B>>) {
        self.put(Left::Body(body));
    }

    pub(crate) fn leave_error(&self, error: BoxError) {
        self.put(Left::Error(error));
    }

    fn put(&self, left: Left<B>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }

    fn take(&self) -> Option<Left<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<B> Clone for Rest<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> CacheBody<B> {
    #[inline]
    pub(crate) fn whole(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self { kind: Kind::Whole { data, trailers } }
    }

    #[inline]
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Done }
    }

    #[inline]
    pub(crate) fn inner(body: B) -> Self {
        Self { kind: Kind::Inner { body } }
    }

    pub(crate) fn leading(reader: Reader, rest: Rest<B>, length: Option<u64>) -> Self {
        Self { kind: Kind::Leading { reader, rest, length } }
    }

    pub(crate) fn following(reader: Reader, length: Option<u64>) -> Self {
        Self { kind: Kind::Following { reader, length } }
    }
}

impl<B> Body for CacheBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.as_mut().project();
        loop {
            match this.kind.as_mut().project() {
                KindProj::Whole { data, trailers } => {
                    let frame = data.take().map(Frame::data);
                    let frame = frame.or_else(|| trailers.take().map(|trailers| Frame::trailers(*trailers)));
                    return Poll::Ready(frame.map(Ok));
                }
                KindProj::Inner { body } => return body.poll_frame(cx).map(|frame| frame.map(ours)),
                KindProj::Tail { body } => return body.as_mut().poll_frame(cx).map(|frame| frame.map(ours)),
                KindProj::Done => return Poll::Ready(None),
                KindProj::Leading { reader, rest, length } => {
                    let end = match ready!(reader.poll(cx)) {
                        Heard::Chunk(chunk) => return data(chunk, length),
                        Heard::End(end) => end,
                    };
                    let (next, frame) = match (end, rest.take()) {
                        (_, Some(Left::Error(error))) => (Kind::Done, Some(Err(error))),
                        (_, Some(Left::Body(body))) => (Kind::Tail { body }, None),
                        (end, None) => (Kind::Done, last(end)),
                    };
                    let reads_on = matches!(next, Kind::Tail { .. });
                    this.kind.set(next);
                    if !reads_on {
                        return Poll::Ready(frame);
                    }
                }
                KindProj::Following { reader, length } => {
                    let end = match ready!(reader.poll(cx)) {
                        Heard::Chunk(chunk) => return data(chunk, length),
                        Heard::End(end) => end,
                    };
                    this.kind.set(Kind::Done);
                    return Poll::Ready(last(end));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { data, trailers } => data.is_none() && trailers.is_none(),
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Tail { body } => body.is_end_stream(),
            Kind::Leading { .. } | Kind::Following { .. } => false,
            Kind::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let known = |length: &Option<u64>| length.map_or_else(SizeHint::default, SizeHint::with_exact);
        match &self.kind {
            Kind::Whole { data, trailers } => {
                let length = data.as_ref().map_or(0, |data| data.len() as u64);
                match trailers {
                    None => SizeHint::with_exact(length),
                    // Over HTTP/1 trailers follow a chunked body only: an exact length would have the server drop them.
                    Some(_) => {
                        let mut hint = SizeHint::new();
                        hint.set_lower(length);
                        hint
                    }
                }
            }
            Kind::Inner { body } => body.size_hint(),
            Kind::Tail { body } => body.size_hint(),
            Kind::Leading { length, .. } | Kind::Following { length, .. } => known(length),
            Kind::Done => SizeHint::with_exact(0),
        }
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A chunk, and the length that is left after it.
fn data(chunk: Bytes, length: &mut Option<u64>) -> Polled {
    *length = length.map(|length| length.saturating_sub(chunk.len() as u64));
    Poll::Ready(Some(Ok(Frame::data(chunk))))
}

fn last(end: End) -> Option<Result<Frame<Bytes>, BoxError>> {
    match end {
        End::Whole(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
        End::Broken(how) => Some(Err(how.as_ref().into())),
        End::Rest => Some(Err("the response grew too large to share".into())),
    }
}

fn ours<D: Buf, E: Into<BoxError>>(frame: Result<Frame<D>, E>) -> Result<Frame<Bytes>, BoxError> {
    match frame {
        Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
        Err(error) => Err(error.into()),
    }
}

/// An empty body.
impl<B> Default for CacheBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Whole { .. } => "CacheBody::Whole",
            Kind::Inner { .. } => "CacheBody::Inner",
            Kind::Leading { .. } => "CacheBody::Leading",
            Kind::Following { .. } => "CacheBody::Following",
            Kind::Tail { .. } => "CacheBody::Tail",
            Kind::Done => "CacheBody::Done",
        })
    }
}
