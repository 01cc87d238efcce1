//! A body that is read once, and sent to several clients while it is read.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;

use crate::error::BoxError;

/// The data of a body that have arrived so far. One task writes them. Each reader reads at its own pace, and may leave.
///
/// While the body may still be stored, all data are kept and the writer waits for no reader. After [`close`](Self::close), chunks that all readers
/// have read are dropped, and the writer waits for the slowest reader.
pub(crate) struct SharedBody {
    state: Mutex<State>,
}

struct State {
    pieces: Pieces,
    end: Option<BodyEnd>,
    /// The error of the inner body, for the leader's reader.
    error: Option<BoxError>,
    readers: HashMap<u64, ReaderPosition>,
    /// The number of readers so far. The first is the leader's.
    numbered: u64,
    closed: bool,
    /// The writer, while it waits for readers before this position.
    writer: Option<(u64, Waker)>,
}

/// The position of a reader.
#[derive(Default)]
struct ReaderPosition {
    at: u64,
    /// Present while the reader waits.
    waker: Option<Waker>,
}

/// The end of a body.
#[derive(Clone)]
pub(crate) enum BodyEnd {
    /// The body is complete. It may have trailers.
    Complete(Option<HeaderMap>),
    /// The body failed. The text is the error for followers.
    Failed(&'static str),
}

/// The next event for a reader.
pub(crate) enum BodyEvent {
    Chunk(Bytes),
    End(BodyEnd),
    /// The error of the inner body.
    Failed(BoxError),
}

/// The maximum lead of the writer over the slowest reader after the body was closed, in bytes.
const AHEAD: u64 = 64 << 10;
const TOO_SLOW: &str = "this client was too slow for the others that share its response";

impl SharedBody {
    /// Returns a shared body with the data that have arrived, and the leader's reader.
    pub(crate) fn new(pieces: Pieces) -> (Arc<Self>, BodyReader) {
        let state = State {
            pieces: pieces.into_own(),
            end: None,
            error: None,
            readers: HashMap::new(),
            numbered: 0,
            closed: false,
            writer: None,
        };
        let tape = Arc::new(Self { state: Mutex::new(state) });
        let reader = tape.reader().expect("it is not closed");
        (tape, reader)
    }

    /// Adds a reader from the beginning. Returns `None` if the beginning was dropped.
    pub(crate) fn reader(self: &Arc<Self>) -> Option<BodyReader> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let number = state.numbered;
        state.numbered += 1;
        state.readers.insert(number, ReaderPosition::default());
        drop(state);
        Some(BodyReader { tape: self.clone(), number })
    }

    pub(crate) fn push(&self, chunk: Bytes) {
        self.change(|state| state.pieces.push(own(chunk)));
    }

    /// Ends the body, unless it has ended.
    pub(crate) fn end(&self, end: BodyEnd) {
        self.change(|state| _ = state.end.get_or_insert(end));
    }

    /// Ends the body by an error. The leader's reader gets the error, all others get a text.
    pub(crate) fn fail(&self, error: BoxError, text: &'static str) {
        self.change(|state| {
            state.error = Some(error);
            state.end.get_or_insert(BodyEnd::Failed(text));
        });
    }

    /// Returns a guard that ends the body as failed when dropped, unless it has ended. No reader waits for a writer that has panicked.
    pub(crate) fn ends_with(&self, how: &'static str) -> impl Drop {
        EndsWith(self, how)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers: Vec<_> = state.readers.values_mut().filter_map(|place| place.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn len(&self) -> u64 {
        self.lock().pieces.len
    }

    /// Returns all data as one chunk. A single chunk is not copied.
    pub(crate) fn whole(&self) -> Bytes {
        self.lock().pieces.whole()
    }

    /// Returns true if there is a reader.
    pub(crate) fn is_heard(&self) -> bool {
        !self.lock().readers.is_empty()
    }

    /// Closes the body: no reader joins, and chunks that all readers have read are dropped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    /// Is ready when the slowest reader of a closed body has read nearly everything. Returns `false` if no reader is left.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        let Some(slowest) = state.readers.values().map(|place| place.at).min() else { return Poll::Ready(false) };
        state.pieces.forget(slowest);
        let least = state.pieces.len.saturating_sub(AHEAD);
        if slowest >= least {
            return Poll::Ready(true);
        }
        state.writer = Some((least, cx.waker().clone()));
        Poll::Pending
    }

    /// Is ready when no reader is left.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.readers.is_empty() {
            return Poll::Ready(());
        }
        state.writer = Some((0, cx.waker().clone()));
        Poll::Pending
    }

    /// Disconnects the readers that the writer waits for, if another reader has read everything and waits for more.
    pub(crate) fn cut_off_the_slow(&self) {
        let mut state = self.lock();
        let (len, least) = (state.pieces.len, state.pieces.len.saturating_sub(AHEAD));
        if !state.readers.values().any(|place| place.at == len) {
            return;
        }
        let slow = state.readers.extract_if(|_, place| place.at < least);
        let wakers: Vec<_> = slow.filter_map(|(_, place)| place.waker).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EndsWith<'a>(&'a SharedBody, &'static str);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.end(BodyEnd::Failed(self.1));
    }
}

/// A reader of a shared body.
pub(crate) struct BodyReader {
    tape: Arc<SharedBody>,
    number: u64,
}

impl BodyReader {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyEvent> {
        let mut state = self.tape.lock();
        let State { pieces, end, error, readers, writer, .. } = &mut *state;
        let Some(place) = readers.get_mut(&self.number) else {
            return Poll::Ready(BodyEvent::End(BodyEnd::Failed(TOO_SLOW)));
        };
        if let Some(piece) = pieces.after(place.at) {
            let waits = writer.take_if(|(least, _)| place.at < *least);
            place.at += piece.len() as u64;
            drop(state);
            if let Some((_, writer)) = waits {
                writer.wake();
            }
            return Poll::Ready(BodyEvent::Chunk(piece));
        }
        if let Some(end) = end {
            return Poll::Ready(match error.take_if(|_| self.number == 0) {
                Some(error) => BodyEvent::Failed(error),
                None => BodyEvent::End(end.clone()),
            });
        }
        if !place.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            place.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut state = self.tape.lock();
        // The waker is dropped with it.
        let place = state.readers.remove(&self.number);
        let writer = state.writer.take();
        drop(state);
        drop(place);
        if let Some((_, writer)) = writer {
            writer.wake();
        }
    }
}

impl fmt::Debug for BodyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The chunks of a body as they arrived. Adjacent small chunks are joined, so that they take little more memory than their bytes.
#[derive(Default)]
pub(crate) struct Pieces {
    /// Each chunk with the position of its end.
    pieces: VecDeque<(u64, Bytes)>,
    len: u64,
    /// The number of small chunks at the end.
    small: usize,
}

/// A chunk is small below this number of bytes. The same number of small chunks is joined.
const SMALL: usize = 256;
const JOINED: usize = 32;

/// A chunk below this number of bytes is copied out of its buffer, which may be much larger and is not counted.
const COPIED: usize = 64 << 10;

fn own(piece: Bytes) -> Bytes {
    if piece.len() < COPIED { Bytes::copy_from_slice(&piece) } else { piece }
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.small = if piece.len() < SMALL { self.small + 1 } else { 0 };
        self.len += piece.len() as u64;
        self.pieces.push_back((self.len, piece));
        if self.small == JOINED {
            self.small = 0;
            let small = self.pieces.drain(self.pieces.len() - JOINED..);
            let joined: Vec<u8> = small.flat_map(|(_, piece)| piece).collect();
            self.pieces.push_back((self.len, joined.into()));
        }
    }

    /// Iterates over the chunks.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter().map(|(_, chunk)| chunk)
    }

    /// Returns the rest of a chunk from this position.
    fn after(&self, at: u64) -> Option<Bytes> {
        let next = self.pieces.partition_point(|(end, _)| *end <= at);
        let (end, piece) = self.pieces.get(next)?;
        Some(piece.slice(piece.len() - (end - at) as usize..))
    }

    /// Drops the chunks before this position.
    fn forget(&mut self, at: u64) {
        while self.pieces.pop_front_if(|(end, _)| *end <= at).is_some() {}
        self.small = self.small.min(self.pieces.len());
    }

    /// Returns the same bytes in buffers of their own.
    fn into_own(mut self) -> Self {
        self.pieces.iter_mut().for_each(|(_, piece)| *piece = own(std::mem::take(piece)));
        self
    }

    /// Returns all data as one chunk.
    pub(crate) fn whole(&self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces[0].1.clone(),
            _ => {
                let mut whole = Vec::with_capacity(self.len as usize);
                self.pieces.iter().for_each(|(_, piece)| whole.extend_from_slice(piece));
                whole.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn heard(reader: &mut BodyReader) -> Vec<u8> {
        let mut all = Vec::new();
        while let Poll::Ready(BodyEvent::Chunk(chunk)) = reader.poll(&mut Context::from_waker(Waker::noop())) {
            all.extend_from_slice(&chunk);
        }
        all
    }
    #[test]
    fn pieces_of_all_sizes_are_read_unchanged() {
        let (tape, mut first) = SharedBody::new(Pieces::default());
        let (mut written, mut read, mut second) = (Vec::new(), Vec::new(), Vec::new());
        let mut late = None;
        for n in 0..2_000_usize {
            let chunk = vec![n as u8; [0, 1, 1, 1, 300, 2, 7][n % 7] * usize::from(n % 1_000 > 100) + usize::from(n < 100)];
            written.extend_from_slice(&chunk);
            tape.push(chunk.into());
            if n % 13 == 0 {
                read.extend(heard(&mut first));
            }
            if n == 55 {
                late = tape.reader();
            }
        }
        read.extend(heard(&mut first));
        second.extend(heard(&mut late.expect("it is not closed")));
        assert_eq!(written, read);
        assert_eq!(written, second);
        assert_eq!(tape.whole(), written);
    }
    #[test]
    fn tiny_pieces_take_little_extra_memory() {
        let mut pieces = Pieces::default();
        for _ in 0..100_000 {
            pieces.push(Bytes::new());
        }
        assert_eq!(pieces.pieces.capacity(), 0);
        for _ in 0..32_000 {
            pieces.push(Bytes::from_static(b"x"));
        }
        assert!(pieces.pieces.len() <= 32_000 / JOINED, "{}", pieces.pieces.len());
    }
    #[test]
    fn piece_keeps_only_its_own_buffer() {
        let buffer = Bytes::from(vec![7; 400 << 10]);
        let inside = |piece: &Bytes| buffer.as_ptr_range().contains(&piece.as_ptr());
        let mut pieces = Pieces::default();
        pieces.push(buffer.slice(..100));
        let (tape, mut reader) = SharedBody::new(pieces);
        tape.push(buffer.slice(200..300));
        for _ in 0..2 {
            let Poll::Ready(BodyEvent::Chunk(chunk)) = reader.poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("a chunk")
            };
            assert!(!inside(&chunk));
        }
    }
    #[test]
    fn dropped_reader_removes_its_waker() {
        struct Counted(AtomicUsize);
        impl std::task::Wake for Counted {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (tape, _leader) = SharedBody::new(Pieces::default());
        for _ in 0..100 {
            let counted = Arc::new(Counted(AtomicUsize::new(0)));
            let waker = Waker::from(counted.clone());
            let mut reader = tape.reader().expect("it is not closed");
            assert!(reader.poll(&mut Context::from_waker(&waker)).is_pending());
            drop((waker, reader));
            assert_eq!(Arc::strong_count(&counted), 1, "the tape keeps no waker");
        }
    }
    #[test]
    fn closed_body_waits_for_its_slowest_reader() {
        let (tape, mut fast) = SharedBody::new(Pieces::default());
        let mut slow = tape.reader().expect("it is not closed");
        let cx = &mut Context::from_waker(Waker::noop());
        tape.close();
        assert!(tape.reader().is_none());
        for _ in 0..3 {
            tape.push(vec![0; 60 << 10].into());
        }
        heard(&mut fast);
        assert!(tape.poll_room(cx).is_pending());
        heard(&mut slow);
        assert_eq!(tape.poll_room(cx), Poll::Ready(true));
        assert!(tape.lock().pieces.pieces.is_empty());
        drop((fast, slow));
        assert_eq!(tape.poll_room(cx), Poll::Ready(false));
        assert!(tape.poll_left(cx).is_ready());
    }
    #[test]
    fn reader_is_cut_off_only_if_others_wait() {
        let (tape, mut fast) = SharedBody::new(Pieces::default());
        let mut slow = tape.reader().expect("it is not closed");
        tape.close();
        for _ in 0..3 {
            tape.push(vec![0; 60 << 10].into());
        }
        tape.cut_off_the_slow();
        assert_eq!(tape.lock().readers.len(), 2, "neither waits for the other");
        heard(&mut fast);
        tape.cut_off_the_slow();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(matches!(slow.poll(cx), Poll::Ready(BodyEvent::End(BodyEnd::Failed(TOO_SLOW)))));
        assert!(fast.poll(cx).is_pending());
    }
}
