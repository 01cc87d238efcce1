//! A body on its way, read once and heard by many.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;

/// What has arrived of a body so far. One task writes it at the pace of the inner service; each reader reads at its own, so
/// a slow one holds up nobody and one that leaves ends nothing.
#[derive(Default)]
pub(crate) struct Tape {
    state: Mutex<State>,
    readers: AtomicUsize,
}

#[derive(Default)]
struct State {
    chunks: Vec<Bytes>,
    len: usize,
    end: Option<End>,
    wakers: Vec<Waker>,
}

/// How a body ended.
#[derive(Clone)]
pub(crate) enum End {
    /// Whole, with its trailers.
    Whole(Option<HeaderMap>),
    /// It grew too large to keep: whoever holds the rest of the inner body reads on there.
    Rest,
    /// It broke off; the text says how.
    Broken(Arc<str>),
}

/// What a reader hears next.
pub(crate) enum Heard {
    Chunk(Bytes),
    End(End),
}

impl Tape {
    /// A tape with what had arrived before anybody had to wait.
    pub(crate) fn new(chunks: Vec<Bytes>) -> Self {
        let len = chunks.iter().map(Bytes::len).sum();
        Self { state: Mutex::new(State { chunks, len, ..State::default() }), readers: AtomicUsize::new(0) }
    }

    pub(crate) fn push(&self, chunk: Bytes) {
        self.change(|state| {
            state.len += chunk.len();
            state.chunks.push(chunk);
        });
    }

    pub(crate) fn end(&self, end: End) {
        self.change(|state| state.end = Some(end));
    }

    /// Ends the tape as broken off, unless it has ended, once what this returns is dropped: no reader waits for a writer that
    /// is gone, be it by a panic.
    pub(crate) fn ends_with(&self, how: &'static str) -> impl Drop {
        EndsWith(self, how)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len
    }

    /// All of it in one piece. Only what came in one piece is not copied.
    pub(crate) fn whole(&self) -> Bytes {
        join(self.lock().chunks.clone())
    }

    /// Whether somebody is reading.
    pub(crate) fn is_heard(&self) -> bool {
        self.readers.load(Ordering::SeqCst) > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EndsWith<'a>(&'a Tape, &'static str);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.end.get_or_insert_with(|| End::Broken(self.1.into()));
        });
    }
}

/// Chunks in one piece.
pub(crate) fn join(mut chunks: Vec<Bytes>) -> Bytes {
    match chunks.len() {
        0 | 1 => chunks.pop().unwrap_or_default(),
        _ => chunks.concat().into(),
    }
}

/// A place on a tape.
pub(crate) struct Reader {
    tape: Arc<Tape>,
    next: usize,
}

impl Reader {
    pub(crate) fn new(tape: Arc<Tape>) -> Self {
        tape.readers.fetch_add(1, Ordering::SeqCst);
        Self { tape, next: 0 }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let mut state = self.tape.lock();
        if let Some(chunk) = state.chunks.get(self.next) {
            self.next += 1;
            return Poll::Ready(Heard::Chunk(chunk.clone()));
        }
        if let Some(end) = &state.end {
            return Poll::Ready(Heard::End(end.clone()));
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tape.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("next", &self.next).finish_non_exhaustive()
    }
}
