//! A server for a router.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use super::BoxError;

/// The time for open requests to finish at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, app: Router) -> Result<Self, BoxError> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        // Nagle's algorithm would delay small responses.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let task = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap_or_default() };
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(shutdown).await {
                eprintln!("server failed: {error}");
            }
        });
        Ok(Self { address, stop, task })
    }

    /// Returns the address for clients on this machine.
    pub(crate) fn address(&self) -> SocketAddr {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        address
    }

    /// Stops accepting requests, and waits a short time for open requests.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = timeout(SHUTDOWN_TIMEOUT, self.task).await;
    }
}
