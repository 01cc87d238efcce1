//! Interim responses (1xx) of the origin. The server of hyper cannot send them. They are therefore written to the stream of the
//! connection, between the messages of hyper.

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

use crate::headers::remove_hop_by_hop;

/// The connection of a client, with a queue of interim responses.
pub(crate) struct Stream {
    io: TcpStream,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Whether hyper has written whole messages, so that an interim response may follow.
    idle: bool,
    /// The number of the current request.
    request: u64,
    /// The waker of the connection.
    task: Option<Waker>,
}

/// Sends the interim responses to one request, until its final response begins.
#[derive(Clone)]
pub(crate) struct Interim {
    queue: Arc<Mutex<Queue>>,
    request: u64,
}

impl Stream {
    pub(crate) fn new(io: TcpStream) -> (Self, RequestCounter) {
        let queue = Arc::new(Mutex::new(Queue { idle: true, ..Queue::default() }));
        (Self { io, queue: queue.clone() }, RequestCounter(queue))
    }

    /// Writes the queue, and registers the waker for later interim responses.
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

/// Counts the requests of a connection.
#[derive(Clone)]
pub(crate) struct RequestCounter(Arc<Mutex<Queue>>);

impl RequestCounter {
    /// Makes the sender for the request that has arrived.
    pub(crate) fn begin(&self) -> Interim {
        Interim { queue: self.0.clone(), request: lock(&self.0).request }
    }

    /// Ends the request. Later interim responses to it are dropped.
    pub(crate) fn end(&self) {
        lock(&self.0).request += 1;
    }
}

impl Interim {
    /// Queues an interim response. It is dropped if its request has ended or if hyper is writing a message.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut headers = headers.clone();
        remove_hop_by_hop(&mut headers);
        let mut queue = lock(&self.queue);
        if !queue.idle || queue.request != self.request {
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
        lock(&self.queue).idle = false;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_queued(cx))?;
        lock(&self.queue).idle = false;
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_queued(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        // hyper flushes after its last write.
        lock(&self.queue).idle = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
