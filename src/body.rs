//! The body of every response that passes the layer.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::{
    error::BoxError,
    single_flight::shared_body::{BodyEnd, BodyEvent, BodyReader},
    status::{CacheStatus, StatusBody},
    watched::{Watched, Watcher},
};

/// The body of a response that has passed a [`CacheLayer`](crate::CacheLayer): stored bytes, the inner service's own
/// body, or a body that is sent to a client while it is stored.
///
/// Its data are [`Bytes`], its error is a [`BoxError`], and it is `Send` if the inner body is; it requires neither `Sync`
/// nor `Unpin`. Trailers are kept.
///
/// The body of a response that a rule covers also holds the [`CacheStatus`] of the response.
#[pin_project]
pub struct CacheBody<B> {
    #[pin]
    kind: Kind<B>,
    status: Option<CacheStatus>,
}

#[pin_project(project = KindProj)]
enum Kind<B> {
    // Complete: stored, or just fetched whole.
    Whole { data: Option<Bytes>, trailers: Option<Box<HeaderMap>> },
    // The inner service's, untouched.
    Inner(#[pin] B),
    // Boxed: few bodies are, and all the others would be as large.
    Coming(Box<Coming>),
    // The inner service's, seen by a watcher. Boxed for the same reason.
    Watched(Box<Watched<B>>),
}

/// A body that is being read.
struct Coming {
    reader: BodyReader,
    /// The number of bytes still to come, if known.
    length: Option<u64>,
    done: bool,
}

impl<B> CacheBody<B> {
    #[inline]
    pub(crate) fn whole(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self { kind: Kind::Whole { data, trailers }, status: None }
    }

    #[inline]
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Whole { data: None, trailers: None }, status: None }
    }

    #[inline]
    pub(crate) fn inner(body: B) -> Self {
        Self { kind: Kind::Inner(body), status: None }
    }

    /// Returns the inner service's body, which a watcher sees. `announced` is the length that the head of the response states.
    pub(crate) fn watched(body: B, announced: Option<u64>, watcher: Box<dyn Watcher>) -> Self
    where
        B: Body<Error: Into<BoxError>>,
    {
        Self { kind: Kind::Watched(Box::new(Watched::new(body, announced, watcher))), status: None }
    }

    /// Returns a body that is being read, of `length` bytes if known.
    pub(crate) fn coming(reader: BodyReader, length: Option<u64>) -> Self {
        Self { kind: Kind::Coming(Box::new(Coming { reader, length, done: false })), status: None }
    }

    /// Returns the number of bytes of a body that the cache sends, or 0 if it is unknown.
    #[inline]
    pub(crate) fn cached_length(&self) -> u64 {
        match &self.kind {
            Kind::Whole { data, .. } => data.as_ref().map_or(0, |data| data.len() as u64),
            Kind::Coming(coming) => coming.length.unwrap_or(0),
            Kind::Inner(_) | Kind::Watched(_) => 0,
        }
    }

    /// Returns the number of bytes of the body, or 0 if it is unknown.
    pub(crate) fn known_length(&self) -> u64
    where
        B: Body<Error: Into<BoxError>>,
    {
        match &self.kind {
            Kind::Inner(body) => body.size_hint().exact().unwrap_or(0),
            Kind::Watched(body) => body.size_hint().exact().unwrap_or(0),
            _ => self.cached_length(),
        }
    }

    #[inline]
    pub(crate) fn set_status(&mut self, status: CacheStatus) {
        self.status = Some(status);
    }
}

impl<B> StatusBody for CacheBody<B> {
    #[inline]
    fn cache_status(&self) -> Option<CacheStatus> {
        self.status
    }
}

impl<B> Body for CacheBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Whole { data, trailers } => {
                if let Some(data) = data.take() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            KindProj::Inner(body) => body.poll_frame(cx).map(|frame| frame.map(ours)),
            KindProj::Coming(coming) => coming.poll_frame(cx),
            KindProj::Watched(body) => body.poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { data, trailers } => data.is_none() && trailers.is_none(),
            Kind::Inner(body) => body.is_end_stream(),
            Kind::Coming(coming) => coming.done,
            Kind::Watched(body) => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { data, trailers } => {
                let length = data.as_ref().map_or(0, |data| data.len() as u64);
                match trailers {
                    None => SizeHint::with_exact(length),
                    // Over HTTP/1.1, trailers follow a chunked body only. With an exact length, the server would drop them.
                    Some(_) => {
                        let mut hint = SizeHint::new();
                        hint.set_lower(length);
                        hint
                    }
                }
            }
            Kind::Inner(body) => body.size_hint(),
            Kind::Coming(coming) => coming.size_hint(),
            Kind::Watched(body) => body.size_hint(),
        }
    }
}

impl Coming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let last = match ready!(self.reader.poll(cx)) {
            BodyEvent::Chunk(chunk) => {
                self.length = self.length.map(|length| length.saturating_sub(chunk.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            BodyEvent::End(BodyEnd::Complete(trailers)) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            BodyEvent::End(BodyEnd::Failed(how)) => Some(Err(how.into())),
            BodyEvent::Failed(error) => Some(Err(error)),
        };
        self.done = true;
        Poll::Ready(last)
    }

    fn size_hint(&self) -> SizeHint {
        match self.done {
            false => self.length.map_or_else(SizeHint::default, SizeHint::with_exact),
            true => SizeHint::with_exact(0),
        }
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
            Kind::Inner(_) => "CacheBody::Inner",
            Kind::Coming(_) => "CacheBody::Coming",
            Kind::Watched(_) => "CacheBody::Watched",
        })
    }
}
