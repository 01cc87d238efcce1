//! Routes: patterns, and the parameters of a request.

pub(crate) mod overlap;
pub(crate) mod params;
pub(crate) mod pattern;
pub(crate) mod router;
mod starts;
