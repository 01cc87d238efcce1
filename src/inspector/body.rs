//! The body of the Inspector's responses.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The body of a response of the [`Inspector`](super::Inspector).
#[derive(Debug, Clone, Default)]
pub struct InspectorBody(Option<Bytes>);

impl InspectorBody {
    pub(super) fn new(text: impl Into<Bytes>) -> Self {
        Self(Some(text.into()).filter(|text| !text.is_empty()))
    }
}

impl Body for InspectorBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| text.len() as u64))
    }
}
