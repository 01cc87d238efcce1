//! A router on a port, until it is told to stop.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use super::Fault;

/// How long open requests have to finish.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, app: Router) -> Result<Self, Fault> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        // Small answers must not wait in the kernel for more to send.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let task = tokio::spawn(async move {
            let until = async { stopped.await.unwrap_or_default() };
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(until).await {
                eprintln!("the server has failed: {error}");
            }
        });
        Ok(Self { address, stop, task })
    }

    /// Where a client on this machine reaches it.
    pub(crate) fn address(&self) -> SocketAddr {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        address
    }

    /// Takes no more requests, and waits a little for those it has.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = timeout(PATIENCE, self.task).await;
    }
}
