//! What a request costs, in instructions: counted by callgrind, the same on every machine of a kind, and quiet where a clock is
//! not. Each case runs n times and then 2 n times in a process of its own; what lies between is n requests, and the
//! beginning of the process is not in it.

pub mod bounds;
pub mod cases;
pub mod measure;
pub mod ours;
pub mod parsers;
pub mod work;

pub use measure::{Case, Counted, Limit};
