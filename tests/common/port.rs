//! Ports for servers of tests.
#![allow(unreachable_pub)]

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Returns a port of the loopback interface that nothing listens on. Each call in this process returns another one.
///
/// The port is below the range that the kernel gives to connections and to listeners on port 0. Nothing else therefore takes it
/// before a server listens on it, or while a server restarts.
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static OFFSET: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at once begin at different ports.
    let start = process::id().wrapping_mul(7919);
    let next = || FIRST + start.wrapping_add(OFFSET.fetch_add(1, Ordering::Relaxed)) % COUNT;
    let mut ports = (0..COUNT).map(|_| next() as u16);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}
