//! The Inspector: statistics, explanations and invalidation of a cache by HTTP, for operators.
//!
//! [`Inspector`] is a Tower service that any router can mount. [`guide::dashboard`](crate::guide::dashboard) describes the page and the JSON.

mod access;
mod body;
mod builder;
mod chart;
mod curl;
mod explaining;
mod input;
mod page;
mod purging;
mod report;
mod samples;
mod sampling;
mod service;
mod shared;
mod shown;

pub use self::{
    body::InspectorBody,
    builder::{Inspector, InspectorBuilder, InspectorError},
};
