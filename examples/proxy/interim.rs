//! Interim responses (1xx): the server of hyper has no way to send those of an origin, so they are slipped into the stream of a
//! connection, between the messages that it writes.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::fields::remove_hop_by_hop;

/// A client's connection, and what is to go out on it before the response that is still being waited for.
pub(crate) struct Stream {
    io: TcpStream,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// All that hyper had to write is written: no message is cut in two by one that begins now.
    at_rest: bool,
    /// Which request is being answered.
    turn: u64,
    /// The task of the connection.
    task: Option<Waker>,
}

/// Sends interim responses to one request, until its answer begins.
#[derive(Clone)]
pub(crate) struct Interim {
    queue: Arc<Mutex<Queue>>,
    turn: u64,
}

impl Stream {
    pub(crate) fn new(io: TcpStream) -> (Self, Turns) {
        let queue = Arc::new(Mutex::new(Queue { at_rest: true, ..Queue::default() }));
        (Self { io, queue: queue.clone() }, Turns(queue))
    }

    /// Writes what is queued, and remembers whom to wake for more.
    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = lock(&self.queue);
        if !queue.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            queue.task = Some(cx.waker().clone());
        }
        while !queue.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &queue.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.bytes.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// The requests of a connection, one after the other.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Mutex<Queue>>);

impl Turns {
    /// For the request that has just come.
    pub(crate) fn begin(&self) -> Interim {
        Interim { queue: self.0.clone(), turn: lock(&self.0).turn }
    }

    /// The answer begins: whatever is still said about this request comes too late.
    pub(crate) fn end(&self) {
        lock(&self.0).turn += 1;
    }
}

impl Interim {
    /// Sends one, if that is still possible; an interim response may be lost, but not misplaced.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        remove_hop_by_hop(&mut headers);
        let mut queue = lock(&self.queue);
        if !queue.at_rest || queue.turn != self.turn {
            return;
        }
        let reason = status.canonical_reason().unwrap_or("Interim");
        queue.bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in &headers {
            let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat();
            queue.bytes.extend_from_slice(&line);
        }
        queue.bytes.extend_from_slice(b"\r\n");
        if let Some(task) = queue.task.take() {
            task.wake();
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_queued(cx))?;
        lock(&self.queue).at_rest = false;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_queued(cx))?;
        lock(&self.queue).at_rest = false;
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_queued(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        // hyper flushes when it has nothing left to write.
        lock(&self.queue).at_rest = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
