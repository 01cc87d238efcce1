//! The kinds of case that the Connect conformance suite documents, as a table: calls, and a service that answers them.
//!
//! This is not the suite itself. Its runner is a program in Go, and neither it nor its modules are on crates.io, PyPI, npm or in Debian. The
//! calls here are written by hand after the suite's names, and `connectrpc` answers them. Not among them: certificates of clients (no connection
//! is made), streams in both directions at once, and the suites for clients.

pub mod cases;
pub mod service;
pub mod wire;
