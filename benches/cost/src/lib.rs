//! The cost of a request in instructions, counted by callgrind.
//!
//! The count is the same on all machines of one kind and is not disturbed by other processes. Each case runs in a new process, in which only the
//! calls are counted. Allocations are the difference between n and 2 n calls.

pub mod bounds;
pub mod calls;
pub mod cases;
#[cfg(feature = "graphql")]
pub mod graphql;
pub mod grpc;
pub mod measure;
pub mod parsers;
pub mod setup;
pub mod work;

pub use measure::{Case, Limit, Measurement};
