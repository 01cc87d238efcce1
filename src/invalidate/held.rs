//! `HeldBody`: a body that repeats the frames that were read from it, and then passes the rest on.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use crate::{
    budget::{FRAMES_AT_ONCE, Share},
    rpc::frames::{FrameCounter, GRACE},
};

/// A body whose first frames were read.
pub(super) struct HeldBody<B: Body> {
    frames: VecDeque<Frame<B::Data>>,
    error: Option<B::Error>,
    body: Pin<Box<B>>,
    /// Nothing is left in `body`.
    has_ended: bool,
    /// The bytes of `frames` in the budget of the layer.
    share: Option<Share>,
}

/// The limits for reading one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    /// The body consists of frames. It is read only if it has at most one message.
    pub(super) is_framed: bool,
}

/// The content of a body that was read to its end.
pub(super) struct WholeContent {
    pub(super) bytes: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

/// The time for reading a body.
const READ_LIMIT: Duration = Duration::from_secs(10);

impl<B: Body> HeldBody<B> {
    /// Returns a body of which nothing was read.
    pub(super) fn untouched(body: B) -> Self {
        Self { frames: VecDeque::new(), error: None, body: Box::pin(body), has_ended: false, share: None }
    }

    /// Reads the body to its end. Returns `None` if it is too large, takes too long, has several messages, or fails.
    pub(super) async fn read(&mut self, limits: Limits, share: Share) -> Option<WholeContent> {
        let share = self.share.insert(share);
        let mut content = WholeContent { bytes: Vec::new(), trailers: None };
        let mut messages = limits.is_framed.then(FrameCounter::default);
        let end = Instant::now() + READ_LIMIT;
        for n in 1_usize.. {
            if self.has_ended {
                return Some(content);
            }
            if (content.bytes.len() as u64).saturating_add(self.body.size_hint().lower()) > limits.bytes as u64 {
                return None;
            }
            let has_message = messages.as_ref().is_some_and(FrameCounter::is_one_message);
            let limit = if has_message { end.min(Instant::now() + GRACE) } else { end };
            let frame = timeout_at(limit, poll_fn(|cx| self.body.as_mut().poll_frame(cx))).await.ok()?;
            match frame {
                None => self.has_ended = true,
                Some(Err(error)) => {
                    (self.error, self.has_ended) = (Some(error), true);
                    return None;
                }
                Some(Ok(frame)) => {
                    let fits = share.take(frame.data_ref().map_or(0, Buf::remaining));
                    let is_read = fits && content.take(&frame, messages.as_mut());
                    self.frames.push_back(frame);
                    if !is_read || content.bytes.len() > limits.bytes || messages.as_ref().is_some_and(FrameCounter::is_stream)
                    {
                        return None;
                    }
                }
            }
            if n.is_multiple_of(FRAMES_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        None
    }

    /// Returns the body of the inner service, of which some may have been read.
    pub(super) fn get(&self) -> &B {
        &self.body
    }
}

impl WholeContent {
    /// Adds a copy of a frame. Returns false for data that cannot be seen without being consumed.
    fn take<D: Buf>(&mut self, frame: &Frame<D>, messages: Option<&mut FrameCounter>) -> bool {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref() else { return true };
        let start = self.bytes.len();
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = data.chunks_vectored(&mut slices);
        slices[..filled].iter().for_each(|slice| self.bytes.extend_from_slice(slice));
        let added = &self.bytes[start..];
        if let Some(messages) = messages {
            messages.push(added);
        }
        added.len() == data.remaining()
    }
}

impl<B: Body> Body for HeldBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Self { frames, error, body, has_ended, share } = self.get_mut();
        if let Some(frame) = frames.pop_front() {
            if frames.is_empty() {
                *share = None;
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        match (error.take(), *has_ended) {
            (Some(error), _) => Poll::Ready(Some(Err(error))),
            (None, false) => body.as_mut().poll_frame(cx),
            (None, true) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.error.is_none() && (self.has_ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.frames.iter().filter_map(Frame::data_ref);
        let read = data.fold(0, |sum: u64, data| sum.saturating_add(data.remaining() as u64));
        let rest = match (self.has_ended, &self.error) {
            (false, _) => self.body.size_hint(),
            (true, Some(_)) => SizeHint::new(),
            (true, None) => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

// The parts of the body are boxed or moved out whole, so that no pinned place depends on this one.
impl<B: Body> Unpin for HeldBody<B> {}
