//! Routes: patterns, and the parameters of a request.

pub(crate) mod overlap;
pub(crate) mod params;
pub(crate) mod pattern;
pub(crate) mod router;
mod starts;

/// The name of rules without a pattern, in metrics, logs and the Inspector.
pub(crate) const ANY_ROUTE: &str = "(any)";
