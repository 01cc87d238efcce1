//! The body of a response that may be stored: complete at once, or read while it is sent.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response, header, response};
use http_body::Body;
use tokio::runtime::Handle;

use super::{Answer, Fill, RestFuture, admission::Admission, commit::Commit, end::Refusal};
use crate::{
    body::CacheBody,
    cdn::response::TaggedBy,
    error::BoxError,
    respond,
    rpc::frames::{FrameCounter, GRACE},
    single_flight::{
        Leader,
        detach::{AwaitCount, start_in, unless_left},
        outcome::ArrivingResponse,
        shared_body::{BodyEnd, Pieces, SharedBody},
    },
    state::LayerState,
    status::{CacheStatus, NoStore, Outcome, Storing},
    store::Store,
};

impl<St: Store> Fill<St> {
    /// Returns the client's response for a response that may be stored. A complete body is stored first. Any other body is stored while it is
    /// sent.
    #[inline(never)]
    pub(super) fn kept<B, E>(
        self,
        mut fit: Admission,
        mut parts: response::Parts,
        body: Pin<Box<B>>,
        mut got: BodyPrefix,
        reading: ReadOutcome,
        left: &mut Option<RestFuture<B, E>>,
    ) -> Poll<Answer<B, E>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        if matches!(reading, ReadOutcome::Whole) && got.is_of(fit.announced) {
            let trailers = got.trailers.take();
            let ExactLength { sent, kept } = exact(got.whole());
            if let Err(refusal) = self.admit_end(&mut fit, &kept, trailers.as_deref()) {
                let response = Response::from_parts(parts, CacheBody::whole(sent, trailers));
                return Poll::Ready(Ok(self.refused(refusal, response)));
            }
            self.state_length(&mut fit, kept.len(), trailers.is_some());
            if let Some(tag) = self.tag(&mut fit, &kept) {
                parts.headers.insert(header::ETAG, tag);
            }
            let mut response = Response::from_parts(parts, CacheBody::whole(sent, trailers.clone()));
            if self.request.info.is_conditional_or_range {
                response = respond::conditional(&self.request.info, response, self.answered);
            }
            let (shared, miss) = (self.shared.clone(), self.miss.reason);
            let status = move |storing| CacheStatus::new(Outcome::Miss(miss)).storing(storing);
            return match self.store_now(fit, kept, trailers) {
                Commit::Now(storing) => {
                    shared.mark(&mut response, status(storing));
                    Poll::Ready(Ok(response))
                }
                Commit::Later(storing) => {
                    *left = Some(Box::pin(async move {
                        let (storing, _) = storing.await;
                        Ok(shared.marked(response, status(storing)))
                    }));
                    Poll::Pending
                }
            };
        }
        let length = got.exact.or(fit.announced);
        let mut frames = self.frames();
        if let Some(frames) = &mut frames {
            got.chunks(|chunk| frames.push(chunk));
        }
        let mut taken = BufferReservation::new(self.shared.clone());
        let reading = match reading {
            // A shared body of a known length must fit into the buffer completely.
            ReadOutcome::Pending if frames.as_ref().is_some_and(FrameCounter::is_stream) => ReadOutcome::Stream,
            ReadOutcome::Pending if length.is_some_and(|length| !taken.reserve(length as usize)) => ReadOutcome::TooLarge,
            other => other,
        };
        let (exact, trailers) = (got.exact, got.trailers.take());
        let (tape, reader) = SharedBody::new(got.pieces());
        let response = Response::from_parts(parts, CacheBody::coming(reader, length));
        let (shared, status) = (self.shared.clone(), CacheStatus::new(Outcome::Miss(self.miss.reason)));
        let source = Source { body, trailers };
        let why = match reading {
            ReadOutcome::Pending => {
                // A call is shared only with its status, and other responses with the namespaces of their messages.
                if frames.is_none() {
                    self.arrives(&fit, &tape, length, response.extensions().get());
                }
                let response = respond::conditional(&self.request.info, response, self.answered);
                start_in(&Handle::current(), Box::pin(self.read_on(fit, source, tape, (exact, frames), taken)));
                return Poll::Ready(Ok(shared.marked(response, status.storing(Storing::Pending))));
            }
            // The body is too large, a stream of messages, failed, or has another length than announced. The client gets it unchanged.
            ReadOutcome::TooLarge | ReadOutcome::Stream => {
                tape.close();
                let patience = shared.flights.longest_wait();
                start_in(&Handle::current(), Box::pin(async move { source.pass_on(&tape, patience).await }));
                if matches!(reading, ReadOutcome::Stream) { NoStore::NotUnary } else { NoStore::TooLarge }
            }
            ReadOutcome::Broken(error) => {
                tape.fail(error, CUT_OFF);
                NoStore::BodyError
            }
            ReadOutcome::Whole => {
                tape.end(BodyEnd::Complete(source.trailers.map(|trailers| *trailers)));
                NoStore::Truncated
            }
        };
        self.not_shared(why, true);
        Poll::Ready(Ok(shared.marked(response, status.storing(Storing::Not(why)))))
    }

    /// Ends the fill of a complete response that is not stored.
    fn refused<B>(self, refusal: Refusal, response: Response<CacheBody<B>>) -> Response<CacheBody<B>> {
        let shared = self.shared.clone();
        let status = CacheStatus::new(Outcome::Miss(self.miss.reason)).storing(Storing::Not(refusal.reason));
        self.not_shared(refusal.reason, refusal.is_lasting);
        shared.marked(response, status)
    }

    /// Tells the followers that the response may be shared while its body is read.
    fn arrives(&self, fit: &Admission, tape: &Arc<SharedBody>, length: Option<u64>, tagged_by: Option<&TaggedBy>) {
        let Some(leader) = &self.leader else { return };
        if self.request.rule.checks_responses() {
            return leader.reads();
        }
        // A store that must be queried verifies the namespaces of the response when the body is complete.
        if fit.added().is_some() && self.shared.store.is_shared() {
            return leader.reads();
        }
        leader.arrives(ArrivingResponse {
            key: fit.key.clone(),
            status: fit.status,
            headers: fit.headers.to_map(),
            born: fit.times.born,
            fresh_until: Some(fit.times.fresh_until).filter(|until| *until > self.answered),
            length,
            tape: tape.clone(),
            vary: fit.vary.clone(),
            added: fit.added().cloned().unwrap_or_default(),
            tagged_by: tagged_by.cloned(),
            http: fit.http.clone(),
        });
    }

    /// Reads a body to its end, also if all its readers have left, and stores it. A body that grows too large is read on for its present
    /// readers only.
    async fn read_on<B>(
        self,
        mut fit: Admission,
        mut source: Source<B>,
        tape: Arc<SharedBody>,
        (exact, frames): (Option<u64>, Option<FrameCounter>),
        taken: BufferReservation<St>,
    ) where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let _end = tape.ends_with(CUT_OFF);
        let limit = Some(shared.options.fill_limit);
        let max = self.request.rule.max_body();
        let reading = source.read_to_end(&tape, max as u64, frames, taken);
        let flight = self.leader.as_ref().map(Leader::flight);
        let awaited = || flight.as_ref().is_some_and(|flight| flight.flight().is_awaited());
        let end = unless_left(reading, limit, || !tape.is_heard() && !awaited()).await;
        let trailers = source.trailers.take();
        match end {
            Some(Ok(())) if is_length(tape.len(), exact, fit.announced) => {
                // Stored before the end is announced, so that a client that has read the body finds it in the store.
                let data = self::exact(tape.whole()).kept;
                match self.admit_end(&mut fit, &data, trailers.as_deref()) {
                    Ok(()) => {
                        self.state_length(&mut fit, data.len(), trailers.is_some());
                        self.tag(&mut fit, &data);
                        let _ = self.store(fit, data, trailers.clone()).await;
                    }
                    Err(refusal) => self.not_shared(refusal.reason, refusal.is_lasting),
                }
                tape.end(BodyEnd::Complete(trailers.map(|trailers| *trailers)));
            }
            Some(Ok(())) => {
                tape.end(BodyEnd::Complete(trailers.map(|trailers| *trailers)));
                self.not_shared(NoStore::Truncated, true);
            }
            Some(Err(why @ (NoStore::TooLarge | NoStore::NotUnary))) => {
                tape.close();
                source.trailers = trailers;
                self.not_shared(why, true);
                source.pass_on(&tape, shared.flights.longest_wait()).await;
            }
            Some(Err(why)) => self.not_shared(why, true),
            None => {
                tape.end(BodyEnd::Failed(CUT_OFF));
                self.not_shared(NoStore::Truncated, true);
            }
        }
    }
}

const CUT_OFF: &str = "the response that was being fetched broke off";

/// Returns true if the length of a body is the one that the body and its response announced.
fn is_length(len: u64, exact: Option<u64>, announced: Option<u64>) -> bool {
    [exact, announced].into_iter().flatten().all(|length| length == len)
}

/// A body that is being read, with its trailers once they have arrived.
struct Source<B> {
    body: Pin<Box<B>>,
    trailers: Option<Box<HeaderMap>>,
}

impl<B> Source<B>
where
    B: Body<Error: Into<BoxError>>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        poll_data(self.body.as_mut(), &mut self.trailers, cx)
    }

    /// Reads into the shared body until the end. Stops when a body with `frames` shows that it has more than one message: another message has
    /// begun, or the end does not follow the first one.
    async fn read_to_end<St>(
        &mut self,
        tape: &SharedBody,
        max: u64,
        mut frames: Option<FrameCounter>,
        mut taken: BufferReservation<St>,
    ) -> Result<(), NoStore> {
        loop {
            let next = poll_fn(|cx| self.poll(cx));
            let next = match frames.as_ref().is_some_and(FrameCounter::is_one_message) {
                false => next.await,
                true => match tokio::time::timeout(GRACE, next).await {
                    Ok(next) => next,
                    Err(_) => return Err(NoStore::NotUnary),
                },
            };
            match next {
                None => return Ok(()),
                Some(Ok(data)) => {
                    let fits = taken.take(data.len());
                    if let Some(frames) = &mut frames {
                        frames.push(&data);
                    }
                    tape.push(data);
                    if tape.len() > max || !fits {
                        return Err(NoStore::TooLarge);
                    }
                    if frames.as_ref().is_some_and(FrameCounter::is_stream) {
                        return Err(NoStore::NotUnary);
                    }
                }
                Some(Err(error)) => {
                    tape.fail(error.into(), CUT_OFF);
                    return Err(NoStore::BodyError);
                }
            }
        }
    }

    /// Reads on into a closed shared body, at the pace of its slowest reader, until the end or until no reader is left. A reader that delays
    /// another for longer than `patience` is disconnected.
    async fn pass_on(mut self, tape: &SharedBody, patience: Duration) {
        let _end = tape.ends_with(CUT_OFF);
        loop {
            match tokio::time::timeout(patience, poll_fn(|cx| tape.poll_room(cx))).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    tape.cut_off_the_slow();
                    continue;
                }
            }
            let data = poll_fn(|cx| match tape.poll_left(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => self.poll(cx).map(Some),
            });
            match data.await {
                None => return,
                Some(Some(Ok(data))) => tape.push(data),
                Some(Some(Err(error))) => return tape.fail(error.into(), CUT_OFF),
                Some(None) => return tape.end(BodyEnd::Complete(self.trailers.map(|trailers| *trailers))),
            }
        }
    }
}

/// The number of frames without data that are skipped before other tasks of the thread run.
const MOST_EMPTY: usize = 32;

/// Returns the next data of a body. Trailers are kept aside. Empty frames are dropped.
#[inline]
fn poll_data<B: Body>(
    mut body: Pin<&mut B>,
    trailers: &mut Option<Box<HeaderMap>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, B::Error>>> {
    for _ in 0..MOST_EMPTY {
        if body.is_end_stream() {
            return Poll::Ready(None);
        }
        match ready!(body.as_mut().poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) if data.has_remaining() => return Poll::Ready(Some(Ok(data.copy_to_bytes(data.remaining())))),
                Ok(_) => {}
                Err(frame) => *trailers = frame.into_trailers().ok().map(Box::new).or(trailers.take()),
            },
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// The share of one fill in the buffered bytes of a layer: reserved at once, or taken as data arrive.
pub(crate) struct BufferReservation<St> {
    shared: Arc<LayerState<St>>,
    bytes: usize,
    used: usize,
}

impl<St> BufferReservation<St> {
    pub(crate) fn new(shared: Arc<LayerState<St>>) -> Self {
        Self { shared, bytes: 0, used: 0 }
    }

    /// Reserves a number of bytes. Returns false if the buffer is full.
    fn reserve(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let all = self.shared.taping.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        all <= self.shared.options.max_buffered_bytes
    }

    /// Takes a number of bytes that have arrived. Returns false if the buffer is full. Reserved bytes count as taken.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        self.used += bytes;
        let more = self.used.saturating_sub(self.bytes);
        more == 0 || self.reserve(more)
    }
}

impl<St> Drop for BufferReservation<St> {
    fn drop(&mut self) {
        self.shared.taping.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The beginning of a body that was read without waiting.
#[derive(Default)]
pub(crate) struct BodyPrefix {
    /// Most bodies have one chunk.
    first: Option<Bytes>,
    more: Option<Box<Pieces>>,
    len: u64,
    /// The length that the body announced before it was read.
    exact: Option<u64>,
    trailers: Option<Box<HeaderMap>>,
}

pub(super) enum ReadOutcome {
    Whole,
    Pending,
    TooLarge,
    /// More than one message.
    Stream,
    Broken(BoxError),
}

impl BodyPrefix {
    fn whole(mut self) -> Bytes {
        match self.more.take() {
            None => self.first.unwrap_or_default(),
            Some(pieces) => pieces.whole(),
        }
    }

    /// Returns true if the length is the one that the body and the response announced.
    #[inline]
    fn is_of(&self, announced: Option<u64>) -> bool {
        is_length(self.len, self.exact, announced)
    }

    /// Returns the complete body if it is one chunk of the announced length without trailers.
    #[inline]
    pub(super) fn only(&mut self, reading: &ReadOutcome, announced: Option<u64>) -> Option<Bytes> {
        let is_only = matches!(reading, ReadOutcome::Whole) && self.more.is_none() && self.trailers.is_none();
        (is_only && self.is_of(announced)).then(|| self.first.take().unwrap_or_default())
    }

    /// Calls `each` with every chunk.
    fn chunks(&self, mut each: impl FnMut(&[u8])) {
        self.first.iter().for_each(|first| each(first));
        self.more.iter().for_each(|more| more.chunks().for_each(|chunk| each(chunk)));
    }

    fn pieces(self) -> Pieces {
        let mut pieces = self.more.map_or_else(Pieces::default, |more| *more);
        self.first.into_iter().for_each(|first| pieces.push(first));
        pieces
    }

    /// Returns the empty beginning of this body.
    pub(super) fn of<B: Body>(body: &B) -> Self {
        Self { exact: body.size_hint().exact(), ..Self::default() }
    }

    /// Reads without waiting.
    pub(super) fn read<B>(&mut self, mut body: Pin<&mut B>, cx: &mut Context<'_>, max: usize) -> ReadOutcome
    where
        B: Body<Error: Into<BoxError>>,
    {
        loop {
            match poll_data(body.as_mut(), &mut self.trailers, cx) {
                Poll::Pending => return ReadOutcome::Pending,
                Poll::Ready(None) => return ReadOutcome::Whole,
                Poll::Ready(Some(Err(error))) => return ReadOutcome::Broken(error.into()),
                Poll::Ready(Some(Ok(data))) => {
                    self.len += data.len() as u64;
                    self.push(data);
                    if self.len > max as u64 {
                        return ReadOutcome::TooLarge;
                    }
                }
            }
        }
    }

    #[inline]
    fn push(&mut self, data: Bytes) {
        match (&mut self.more, &self.first) {
            (None, None) => self.first = Some(data),
            (Some(more), _) => more.push(data),
            (None, Some(_)) => {
                let mut more = Pieces::default();
                self.first.take().into_iter().for_each(|first| more.push(first));
                more.push(data);
                self.more = Some(Box::new(more));
            }
        }
    }
}

/// A complete body, once for the client and once for the store.
pub(crate) struct ExactLength {
    pub(super) sent: Bytes,
    pub(super) kept: Bytes,
}

/// The stored body keeps little more memory alive than its length: a small slice of a large buffer is copied. Larger bodies are stored as they
/// arrived. The sent body is never a copy.
pub(crate) fn exact(data: Bytes) -> ExactLength {
    const SMALL: usize = 64 << 10;
    let same = |data: Bytes| ExactLength { sent: data.clone(), kept: data };
    if data.is_empty() {
        return same(Bytes::new());
    }
    let len = data.len();
    match data.try_into_mut() {
        Ok(sole) if sole.capacity() <= len + len / 8 + 64 => same(sole.freeze()),
        Ok(sole) => same(Bytes::copy_from_slice(&sole)),
        Err(shared) if len <= SMALL => ExactLength { kept: Bytes::copy_from_slice(&shared), sent: shared },
        Err(shared) => same(shared),
    }
}
