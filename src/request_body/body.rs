//! The body of a request that was read, in part or in full.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::timeout;

use super::budget::Share;
use crate::{rpc::frames::FrameCounter, status::Bypass};

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
    // Boxed: most bodies pass untouched.
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

    /// Reads a body within its limits. Returns the body to pass on, and its content for the key or the reason against it.
    pub(super) async fn read(body: B, limits: Limits, mut share: Share) -> (Self, Result<Bytes, Bypass>) {
        let mut body = Box::pin(body);
        let mut read = Buffer { frames: limits.is_framed.then(FrameCounter::default), ..Buffer::default() };
        let end = match body.size_hint().lower() > limits.bytes as u64 {
            true => End::Unread(Bypass::RequestBodyTooLarge),
            false => match timeout(limits.time, read.fill(body.as_mut(), limits.bytes, &mut share)).await {
                Ok(end) => end,
                Err(_) => End::Unread(Bypass::RequestBodyTooLarge),
            },
        };
        let data = read.whole();
        let (content, error, rest) = match end {
            End::Whole => (Ok(data.clone()), None, None),
            End::Failed(error) => (Err(Bypass::RequestBodyError), Some(error), Some(body)),
            End::Unread(reason) => (Err(reason), None, Some(body)),
        };
        let data = Some(data).filter(|data| !data.is_empty());
        let read = Read { data, trailers: read.trailers, error, rest, share: Some(share) };
        (Self { kind: Kind::Read(Box::new(read)) }, content)
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

/// The time in which the first message of a call must begin, and in which the body must end behind it. After that the body counts as a
/// stream, which must not be held.
const GRACE: Duration = Duration::from_millis(100);

/// The end of reading.
enum End<E> {
    Whole,
    Failed(E),
    Unread(Bypass),
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
    async fn fill<B: Body>(&mut self, mut body: Pin<&mut B>, max: usize, share: &mut Share) -> End<B::Error> {
        while !body.is_end_stream() {
            let next = poll_fn(|cx| body.as_mut().poll_frame(cx));
            let next = match self.may_be_stream() {
                false => next.await,
                true => match timeout(GRACE, next).await {
                    Ok(next) => next,
                    Err(_) => return End::Unread(Bypass::NotUnary),
                },
            };
            let frame = match next {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return End::Failed(error),
            };
            match frame.into_data() {
                Ok(mut data) => {
                    let data = data.copy_to_bytes(data.remaining());
                    let len = data.len();
                    let fits = share.take(len);
                    let missing = self.count(&data);
                    match self.copied.is_empty() && body.is_end_stream() {
                        true => self.only = Some(data),
                        false => self.copied.extend_from_slice(&data),
                    }
                    if !fits || self.copied.len().max(len) > max || missing > max {
                        return End::Unread(Bypass::RequestBodyTooLarge);
                    }
                    if self.frames.as_ref().is_some_and(FrameCounter::is_stream) {
                        return End::Unread(Bypass::NotUnary);
                    }
                }
                Err(frame) => self.trailers = frame.into_trailers().ok().or(self.trailers.take()),
            }
        }
        match self.frames.is_none() || self.is_one_message() {
            true => End::Whole,
            false => End::Unread(Bypass::NotUnary),
        }
    }

    /// Counts the frames in some data. Returns the number of bytes that the current frame misses.
    fn count(&mut self, data: &[u8]) -> usize {
        let Some(frames) = &mut self.frames else { return 0 };
        frames.push(data);
        frames.missing()
    }

    /// Returns true if the body may be a stream: it has frames, and no message has begun or exactly one has arrived.
    fn may_be_stream(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| !frames.has_begun() || frames.is_one_message())
    }

    fn is_one_message(&self) -> bool {
        self.frames.as_ref().is_some_and(FrameCounter::is_one_message)
    }

    fn whole(&mut self) -> Bytes {
        self.only.take().unwrap_or_else(|| self.copied.split().freeze())
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
            KindProj::Read(read) => read.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched(body) => body.is_end_stream(),
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
            Kind::Read(read) => read.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for ReadBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadBody")
    }
}
