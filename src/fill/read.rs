//! The body of a fit response: complete at once, or read on while it passes.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response, header, response};
use http_body::Body;
use tracing::Instrument;

use super::{Answer, Fill, Rest as Left, fit::Fit, store::Kept};
use crate::{
    body::{BoxError, CacheBody, Rest},
    drive::{Awaited, unless_left},
    flight::{Arriving, Leader},
    layer::Shared,
    status::{CacheStatus, NoStore, Outcome, Storing},
    store::Store,
    tape::{End, Reader, Tape, join},
};

impl<St: Store> Fill<St> {
    /// The client's response where the inner service's is fit. If its body is complete, it is stored first; else it is read on, and
    /// stored, while it passes.
    #[inline(never)]
    pub(super) fn kept<B, E>(
        self,
        mut fit: Fit,
        mut parts: response::Parts,
        body: Pin<Box<B>>,
        mut got: Got,
        reading: Reading,
        left: &mut Option<Left<B, E>>,
    ) -> Poll<Answer<B, E>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        if matches!(reading, Reading::Whole) && fit.announced.is_none_or(|n| n == got.len as u64) {
            let trailers = got.trailers.take();
            let Exact { sent, kept } = exact(got.whole());
            self.state_length(&mut fit, kept.len(), trailers.is_some());
            if let Some(tag) = self.tag(&mut fit, &kept) {
                parts.headers.insert(header::ETAG, tag);
            }
            let mut response = Response::from_parts(parts, CacheBody::whole(sent, trailers.clone()));
            if self.of.quest.asked.less {
                response = self.of.quest.asked.conditional(response, self.answered);
            }
            let (shared, miss) = (self.shared.clone(), self.of.missed.why);
            let status = move |storing| CacheStatus::new(Outcome::Miss(miss)).storing(storing);
            return match self.store_now(fit, kept, trailers) {
                Kept::Now(storing) => {
                    shared.mark(&mut response, || status(storing));
                    Poll::Ready(Ok(response))
                }
                Kept::Later(storing) => {
                    *left = Some(Box::pin(async move {
                        let (storing, _) = storing.await;
                        Ok(shared.marked(response, status(storing)))
                    }));
                    Poll::Pending
                }
            };
        }
        let length = got.exact.or(fit.announced);
        let mut taken = Taken { shared: self.shared.clone(), bytes: 0, used: 0 };
        let reading = match reading {
            // Who shares a body that is still coming is promised all of it, so there must be room for all of it.
            Reading::Pending if length.is_some_and(|length| !taken.reserve(length as usize)) => Reading::TooLarge,
            other => other,
        };
        let (rest, trailers) = (Rest::new(), got.trailers.take());
        let tape = Arc::new(Tape::new(got.chunks()));
        let leading = CacheBody::leading(Reader::new(tape.clone()), rest.clone(), length);
        let response = Response::from_parts(parts, leading);
        let (shared, status) = (self.shared.clone(), CacheStatus::new(Outcome::Miss(self.of.missed.why)));
        let why = reading.why();
        match reading {
            Reading::Pending => {
                // Names that came with the response are asked about at the end, in a store that has to be asked.
                let known = fit.added().is_none() || !self.shared.store.is_shared();
                if let (Some(leader), Some(length), true) = (&self.leader, length, known) {
                    leader.arrives(Arriving {
                        key: fit.key.clone(),
                        status: fit.status,
                        headers: HeaderMap::clone(&fit.headers),
                        born: fit.times.born,
                        length,
                        tape: tape.clone(),
                        vary: fit.vary.clone(),
                        added: fit.added().cloned().unwrap_or_default(),
                        http: fit.http.clone(),
                    });
                }
                let response = self.of.quest.asked.conditional(response, self.answered);
                tokio::spawn(Box::pin(self.read_on(fit, body, tape, rest, taken)).in_current_span());
                return Poll::Ready(Ok(shared.marked(response, status.storing(Storing::Pending))));
            }
            // Grown too large, broken, or not as long as it was announced: the client gets it as it comes.
            Reading::TooLarge => {
                rest.leave_body(body);
                tape.end(End::Rest);
            }
            Reading::Broken(error) => {
                rest.leave_error(error);
                tape.end(End::Broken(CUT_OFF.into()));
            }
            Reading::Whole => tape.end(End::Whole(trailers.map(|trailers| *trailers))),
        }
        self.not_shared(why, true);
        Poll::Ready(Ok(shared.marked(response, status.storing(Storing::Not(why)))))
    }

    /// Reads a body to its end, whoever is still there to hear it, and stores it then.
    async fn read_on<B>(self, mut fit: Fit, body: Pin<Box<B>>, tape: Arc<Tape>, rest: Rest<B>, taken: Taken<St>)
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let _end = tape.ends_with(CUT_OFF);
        let limit = Some(shared.options.fill_limit);
        let max = self.of.quest.rule.max_body();
        let reading = read_to_end(body, &tape, &rest, max, taken);
        let flight = self.leader.as_ref().map(Leader::flight);
        let awaited = || flight.as_ref().is_some_and(|flight| flight.flight().is_awaited());
        let end = unless_left(reading, limit, || !tape.is_heard() && !awaited()).await;
        let why = match end {
            Some(Ok(trailers)) if fit.announced.is_none_or(|n| n == tape.len() as u64) => {
                // Stored before its end is told: who has read it to the end finds it in the store.
                let data = exact(tape.whole()).kept;
                self.state_length(&mut fit, data.len(), trailers.is_some());
                self.tag(&mut fit, &data);
                let _ = self.store(fit, data, trailers.clone().map(Box::new)).await;
                tape.end(End::Whole(trailers));
                return;
            }
            Some(Ok(trailers)) => {
                tape.end(End::Whole(trailers));
                NoStore::Truncated
            }
            Some(Err(why)) => why,
            None => {
                tape.end(End::Broken(CUT_OFF.into()));
                NoStore::Truncated
            }
        };
        self.not_shared(why, true);
    }
}

const CUT_OFF: &str = "the response that was being fetched broke off";

/// Reads into the tape until the end of the body. What is left when it grows too large, and the error it ends with, go to
/// whoever fetched it.
async fn read_to_end<B, St>(
    mut body: Pin<Box<B>>,
    tape: &Tape,
    rest: &Rest<B>,
    max: usize,
    mut taken: Taken<St>,
) -> Result<Option<HeaderMap>, NoStore>
where
    B: Body<Error: Into<BoxError>>,
{
    let mut trailers = None;
    loop {
        if body.is_end_stream() {
            return Ok(trailers);
        }
        let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => return Ok(trailers),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                rest.leave_error(error.into());
                tape.end(End::Broken(CUT_OFF.into()));
                return Err(NoStore::BodyError);
            }
        };
        match frame.into_data() {
            Ok(mut data) => {
                let data = data.copy_to_bytes(data.remaining());
                let fits = taken.take(data.len());
                tape.push(data);
                if tape.len() > max || !fits {
                    rest.leave_body(body);
                    tape.end(End::Rest);
                    return Err(NoStore::TooLarge);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
}

/// A fill's part of the bytes that may be on tapes, of all fills of a layer: reserved, or taken as they come.
struct Taken<St> {
    shared: Arc<Shared<St>>,
    bytes: usize,
    used: usize,
}

impl<St> Taken<St> {
    /// Whether there is room for so many more.
    fn reserve(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let all = self.shared.taping.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        all <= self.shared.options.max_in_flight
    }

    /// Whether there is room for so many that have come; what was reserved has it.
    fn take(&mut self, bytes: usize) -> bool {
        self.used += bytes;
        let more = self.used.saturating_sub(self.bytes);
        more == 0 || self.reserve(more)
    }
}

impl<St> Drop for Taken<St> {
    fn drop(&mut self) {
        self.shared.taping.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What came of a body without waiting.
#[derive(Default)]
pub(super) struct Got {
    /// Most bodies are one chunk.
    first: Option<Bytes>,
    more: Vec<Bytes>,
    len: usize,
    /// The length that the body told of itself before it was read.
    exact: Option<u64>,
    trailers: Option<Box<HeaderMap>>,
}

pub(super) enum Reading {
    Whole,
    Pending,
    TooLarge,
    Broken(BoxError),
}

impl Got {
    fn whole(self) -> Bytes {
        match self.more.is_empty() {
            true => self.first.unwrap_or_default(),
            false => join(self.chunks()),
        }
    }

    /// All of it, if it is whole, in one piece, without trailers, and as long as was announced.
    #[inline]
    pub(super) fn only(&mut self, reading: &Reading, announced: Option<u64>) -> Option<Bytes> {
        let is_only = matches!(reading, Reading::Whole)
            && self.more.is_empty()
            && self.trailers.is_none()
            && announced.is_none_or(|announced| announced == self.len as u64);
        is_only.then(|| self.first.take().unwrap_or_default())
    }

    fn chunks(self) -> Vec<Bytes> {
        self.first.into_iter().chain(self.more).collect()
    }

    /// Nothing yet of this body.
    pub(super) fn of<B: Body>(body: &B) -> Self {
        Self { exact: body.size_hint().exact(), ..Self::default() }
    }

    /// Reads what is there.
    pub(super) fn read<B>(&mut self, mut body: Pin<&mut B>, cx: &mut std::task::Context<'_>, max: usize) -> Reading
    where
        B: Body<Error: Into<BoxError>>,
    {
        loop {
            if body.is_end_stream() {
                return Reading::Whole;
            }
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Reading::Pending,
                Poll::Ready(None) => return Reading::Whole,
                Poll::Ready(Some(Err(error))) => return Reading::Broken(error.into()),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(mut data) => {
                        self.len += data.remaining();
                        let data = data.copy_to_bytes(data.remaining());
                        match self.first {
                            None => self.first = Some(data),
                            Some(_) => self.more.push(data),
                        }
                        if self.len > max {
                            return Reading::TooLarge;
                        }
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new).or(self.trailers.take()),
                },
            }
        }
    }
}

impl Reading {
    fn why(&self) -> NoStore {
        match self {
            Self::TooLarge => NoStore::TooLarge,
            Self::Broken(_) => NoStore::BodyError,
            Self::Whole | Self::Pending => NoStore::Truncated,
        }
    }
}

/// A body as it is sent, and as it is kept.
pub(super) struct Exact {
    pub(super) sent: Bytes,
    pub(super) kept: Bytes,
}

/// What is kept holds on to little more memory than it shows: a small slice of a large buffer is copied out of it. Large ones are kept
/// as they are. What is sent is what has come: a copy made for the store is the store's alone until a hit shares it.
pub(super) fn exact(data: Bytes) -> Exact {
    const SMALL: usize = 64 << 10;
    let same = |data: Bytes| Exact { sent: data.clone(), kept: data };
    if data.is_empty() {
        return same(Bytes::new());
    }
    let len = data.len();
    match data.try_into_mut() {
        Ok(sole) if sole.capacity() <= len + len / 8 + 64 => same(sole.freeze()),
        Ok(sole) => same(Bytes::copy_from_slice(&sole)),
        Err(shared) if len <= SMALL => Exact { kept: Bytes::copy_from_slice(&shared), sent: shared },
        Err(shared) => same(shared),
    }
}
