//! A replacement for the network of a store, for simulations.

use std::{fmt, io, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

/// A stream to a server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Makes the streams of a store instead of TCP, TLS and Unix sockets.
///
/// The worker of such a store is a task of the runtime that builds the store, and has no thread. One thread can therefore run several
/// stores in an order that a test decides.
pub trait Network: Send + Sync + 'static {
    /// Connects to the server at an address.
    fn connect(&self, address: String) -> Connecting;
}

/// A connection that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

impl fmt::Debug for dyn Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a replaced network")
    }
}
