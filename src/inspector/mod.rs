//! The Inspector: statistics, explanations and invalidation of a cache by HTTP, for operators.
//!
//! [`Inspector`] is a Tower service that any router can mount. [`guide::dashboard`](crate::guide::dashboard) describes the page and the JSON.

mod access;
mod body;
mod builder;
mod chart;
mod curl;
mod explaining;
mod hottest;
mod input;
mod over_time;
mod page;
mod purging;
mod report;
mod route_figures;
mod route_samples;
mod samples;
mod sampling;
mod server;
mod service;
mod shared;
mod shown;
mod table;

pub use self::{
    body::InspectorBody,
    builder::{Inspector, InspectorBuilder, InspectorError},
};
