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
use tokio::time::{Instant, timeout_at};

use super::budget::Share;
use crate::{key::content::RequestContent, status::Bypass};

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

    /// Reads a body of at most `max` bytes within a time. Returns the body to pass on, and its content for the key.
    pub(super) async fn read(body: B, max: usize, limit: Duration, mut share: Share) -> (Self, RequestContent) {
        let mut body = Box::pin(body);
        let mut read = Buffer::default();
        let deadline = Instant::now() + limit;
        let end = match body.size_hint().lower() > max as u64 {
            true => End::Unread(Bypass::RequestBodyTooLarge),
            false => match timeout_at(deadline, read.fill(body.as_mut(), max, &mut share)).await {
                Ok(end) => end,
                Err(_) => End::Unread(Bypass::RequestBodyTooLarge),
            },
        };
        let data = read.whole();
        let (content, error, rest) = match end {
            End::Whole => (RequestContent::Known(data.clone()), None, None),
            End::Failed(error) => (RequestContent::Unread(Bypass::RequestBodyError), Some(error), Some(body)),
            End::Unread(reason) => (RequestContent::Unread(reason), None, Some(body)),
        };
        let data = Some(data).filter(|data| !data.is_empty());
        let read = Read { data, trailers: read.trailers, error, rest, share: Some(share) };
        (Self { kind: Kind::Read(Box::new(read)) }, content)
    }
}

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
}

impl Buffer {
    async fn fill<B: Body>(&mut self, mut body: Pin<&mut B>, max: usize, share: &mut Share) -> End<B::Error> {
        while !body.is_end_stream() {
            let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return End::Failed(error),
            };
            match frame.into_data() {
                Ok(mut data) => {
                    let len = data.remaining();
                    let fits = share.take(len);
                    match self.copied.is_empty() && body.is_end_stream() {
                        true => self.only = Some(data.copy_to_bytes(len)),
                        false => self.copied.extend_from_slice(&data.copy_to_bytes(len)),
                    }
                    if !fits || self.copied.len().max(len) > max {
                        return End::Unread(Bypass::RequestBodyTooLarge);
                    }
                }
                Err(frame) => self.trailers = frame.into_trailers().ok().or(self.trailers.take()),
            }
        }
        End::Whole
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
            Some(rest) => rest.as_mut().poll_frame(cx).map_ok(to_bytes),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
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
                is_read && rest.as_ref().map_or(trailers.is_none(), |rest| rest.is_end_stream())
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
