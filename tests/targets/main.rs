//! Request targets: their spellings, and targets that a thread remembers.
//!
//! A binary of its own: some tests let all threads of the process remember targets at once.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod nested;
mod refreshes;
mod remembered;
mod spellings;
