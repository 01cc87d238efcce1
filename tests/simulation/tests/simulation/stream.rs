//! The streams of a simulated process to the simulated server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_response_cache::__private::{Connecting, Network, Stream};
use tower_response_cache_simulation::server::ClientId;

use super::world::World;

/// The network as one process sees it.
pub struct Wire {
    pub world: World,
    pub process: usize,
}

impl Network for Wire {
    fn connect(&self, _address: String) -> Connecting {
        let (world, process) = (self.world.clone(), self.process);
        Box::pin(async move {
            loop {
                let (way, gone) = {
                    let mut inner = world.lock();
                    let way = inner.plan.way;
                    (inner.random.u64(1..2 * way + 2), inner.lines.get(&process).is_some_and(|line| line.gone))
                };
                if gone {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                tokio::time::sleep(Duration::from_millis(way)).await;
                if let Some(id) = world.act(|inner| inner.connect(process)) {
                    return Ok(Box::new(Wired { world, id }) as Box<dyn Stream>);
                }
            }
        })
    }
}

struct Wired {
    world: World,
    id: ClientId,
}

impl AsyncRead for Wired {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.world.lock();
        let Some(link) = inner.links.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        if link.inbox.is_empty() && !link.ended {
            link.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (bytes, _) = link.inbox.as_slices();
        let count = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..count]);
        link.inbox.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wired {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.world.act(|inner| match inner.links.get(&self.id) {
            Some(link) if !link.ended => {
                inner.send(self.id, bytes);
                Ok(bytes.len())
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        self.world.act(|inner| inner.close(self.id));
    }
}
