//! The cost of a request in instructions, counted by callgrind.
//!
//! The count is the same on all machines of one kind and is not disturbed by other processes. Each case runs n and then 2 n calls, each time in
//! a new process. The difference is the cost of n calls without the start of the process.

pub mod bounds;
pub mod cases;
pub mod measure;
pub mod parsers;
pub mod setup;
pub mod work;

pub use measure::{Case, Limit, Measurement};
