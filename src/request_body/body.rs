//! The body of a request that was read, in part or in full.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::timeout;

use crate::{
    budget::{FRAMES_AT_ONCE, Share},
    rpc::frames::{FrameCounter, GRACE},
    status::Bypass,
};

/// The body of a request after a [`RequestBodyLayer`](super::RequestBodyLayer): unread, or read in part or in full. Its data are [`Bytes`].
/// Trailers are kept.
#[pin_project]
pub struct ReadBody<B: Body> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProj)]
enum Kind<B: Body> {
    // Not read.
    Untouched(#[pin] B),
    // Read to its end, without trailers.
    Whole { data: Option<Bytes>, share: Option<Share> },
    // Boxed: few bodies are read in part or have trailers.
    Read(Box<Read<B>>),
}

/// A body that was read. `rest` is the part that was not read.
struct Read<B: Body> {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    error: Option<B::Error>,
    rest: Option<Pin<Box<B>>>,
    /// The bytes of `data` in the budget of the layer.
    share: Option<Share>,
}

impl<B: Body> ReadBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self { kind: Kind::Untouched(body) }
    }

    /// Returns the body to pass on, and its content for the key or the reason against it.
    pub(super) fn read(reading: Reading<B>, end: End<B::Error>) -> (Self, Result<Bytes, Bypass>) {
        let Reading { body, buffer, share, .. } = reading;
        let (data, trailers) = buffer.whole();
        let (content, error, rest) = match end {
            End::Whole => (Ok(data.clone()), None, None),
            End::Failed(error) => (Err(Bypass::RequestBodyError), Some(error), Some(body)),
            End::Unread(reason) => (Err(reason), None, Some(body)),
        };
        let data = Some(data).filter(|data| !data.is_empty());
        if content.is_ok() && trailers.is_none() {
            return (Self { kind: Kind::Whole { data, share: Some(share) } }, content);
        }
        (Self { kind: Kind::Read(Box::new(Read { data, trailers, error, rest, share: Some(share) })) }, content)
    }
}

/// Returns a body with this content, for a request that is repeated.
impl<B: Body> From<Bytes> for ReadBody<B> {
    fn from(content: Bytes) -> Self {
        Self { kind: Kind::Whole { data: Some(content).filter(|content| !content.is_empty()), share: None } }
    }
}

/// The limits for reading one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) time: Duration,
    /// The body consists of frames and is read only if it has exactly one message.
    pub(super) is_framed: bool,
}

/// The end of reading.
pub(super) enum End<E> {
    Whole,
    Failed(E),
    Unread(Bypass),
}

/// A body that is being read within its limits.
pub(super) struct Reading<B: Body> {
    body: Pin<Box<B>>,
    buffer: Buffer,
    limits: Limits,
    share: Share,
}

impl<B: Body> Reading<B> {
    pub(super) fn new(body: B, limits: Limits, share: Share) -> Self {
        let buffer = Buffer { frames: limits.is_framed.then(FrameCounter::default), ..Buffer::default() };
        Self { body: Box::pin(body), buffer, limits, share }
    }

    /// Reads the frames that have arrived. Returns the end if nothing has to be awaited. A body that is polled here is polled again.
    pub(super) fn arrived(&mut self) -> Option<End<B::Error>> {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..FRAMES_AT_ONCE {
            match self.poll_step(cx) {
                Poll::Ready(None) => {}
                Poll::Ready(end) => return end,
                Poll::Pending => return None,
            }
        }
        None
    }

    /// Reads to the end.
    pub(super) async fn read_all(&mut self) -> End<B::Error> {
        let limit = self.limits.time;
        timeout(limit, self.steps()).await.unwrap_or(End::Unread(Bypass::RequestBodyTooLarge))
    }

    async fn steps(&mut self) -> End<B::Error> {
        for n in 1_usize.. {
            let may_be_stream = self.buffer.may_be_stream();
            let step = poll_fn(|cx| self.poll_step(cx));
            let step = match may_be_stream {
                false => step.await,
                true => timeout(GRACE, step).await.unwrap_or(Some(End::Unread(Bypass::NotUnary))),
            };
            if let Some(end) = step {
                return end;
            }
            if n.is_multiple_of(FRAMES_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        unreachable!("a body has less than 2^64 frames")
    }

    /// Reads one frame. Returns the end, if this is the end.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<End<B::Error>>> {
        let Self { body, buffer, limits, share } = self;
        let hint = body.size_hint().lower();
        if (buffer.len() as u64).saturating_add(hint) > limits.bytes as u64 {
            return Poll::Ready(Some(End::Unread(Bypass::RequestBodyTooLarge)));
        }
        if body.is_end_stream() {
            return Poll::Ready(Some(buffer.end()));
        }
        let frame = match ready!(body.as_mut().poll_frame(cx)) {
            None => return Poll::Ready(Some(buffer.end())),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(End::Failed(error))),
        };
        Poll::Ready(match frame.into_data() {
            Ok(mut data) => {
                let data = data.copy_to_bytes(data.remaining());
                let fits = share.take(data.len());
                buffer.push(data, body.is_end_stream());
                buffer.reason_against(limits.bytes, fits).map(End::Unread)
            }
            Err(frame) => {
                buffer.trailers = frame.into_trailers().ok().or(buffer.trailers.take());
                None
            }
        })
    }
}

/// The data that were read.
#[derive(Default)]
struct Buffer {
    /// The only chunk, if it was also the last one.
    only: Option<Bytes>,
    /// A copy of all chunks. A chunk itself may be a small part of a large network buffer.
    copied: BytesMut,
    trailers: Option<HeaderMap>,
    /// The frames so far, if the body must have one message.
    frames: Option<FrameCounter>,
}

impl Buffer {
    fn push(&mut self, data: Bytes, is_last: bool) {
        if let Some(frames) = &mut self.frames {
            frames.push(&data);
        }
        match self.copied.is_empty() && is_last {
            true => self.only = Some(data),
            false => self.copied.extend_from_slice(&data),
        }
    }

    fn len(&self) -> usize {
        self.copied.len() + self.only.as_ref().map_or(0, Bytes::len)
    }

    /// Returns the reason against reading on, after some data for which there was room or not.
    fn reason_against(&self, max: usize, fits: bool) -> Option<Bypass> {
        let missing = self.frames.as_ref().map_or(0, FrameCounter::missing);
        if !fits || self.len() > max || missing > max {
            return Some(Bypass::RequestBodyTooLarge);
        }
        self.frames.as_ref().is_some_and(FrameCounter::is_stream).then_some(Bypass::NotUnary)
    }

    /// Returns the end of a body of which nothing is left.
    fn end<E>(&self) -> End<E> {
        match self.frames.as_ref().is_none_or(FrameCounter::is_one_message) {
            true => End::Whole,
            false => End::Unread(Bypass::NotUnary),
        }
    }

    /// Returns true if the body may be a stream: it has frames, and no message has begun or exactly one has arrived.
    fn may_be_stream(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| !frames.has_begun() || frames.is_one_message())
    }

    fn whole(self) -> (Bytes, Option<HeaderMap>) {
        (self.only.unwrap_or_else(|| self.copied.freeze()), self.trailers)
    }
}

impl<B: Body> Read<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(data) = self.data.take() {
            self.share = None;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match &mut self.rest {
            Some(rest) if !rest.is_end_stream() => rest.as_mut().poll_frame(cx).map_ok(to_bytes),
            _ => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.data.as_ref().map_or(0, |data| data.len() as u64);
        let Some(rest) = &self.rest else { return SizeHint::with_exact(read) };
        let rest = rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(read + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(read + upper);
        }
        hint
    }
}

fn to_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

impl<B: Body> Body for ReadBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Untouched(body) => body.poll_frame(cx).map_ok(to_bytes),
            KindProj::Whole { data, share } => {
                *share = None;
                Poll::Ready(data.take().map(|data| Ok(Frame::data(data))))
            }
            KindProj::Read(read) => read.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched(body) => body.is_end_stream(),
            Kind::Whole { data, .. } => data.is_none(),
            Kind::Read(read) => {
                let Read { data, trailers, error, rest, .. } = &**read;
                let is_read = data.is_none() && error.is_none();
                is_read && trailers.is_none() && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched(body) => body.size_hint(),
            Kind::Whole { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Kind::Read(read) => read.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for ReadBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadBody")
    }
}
