//! The options of a rule for audits, as data.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Response};

/// Decides if a fresh response counts as equal to the stored one.
pub(super) type EqualBy = dyn Fn(&Response<Bytes>, &Response<Bytes>) -> bool + Send + Sync;

/// The options of a rule for audits.
#[derive(Clone, Default)]
pub(super) struct AuditOptions {
    /// The share of the hits that are audited.
    pub(super) share: Option<f64>,
    /// The header fields and trailers that are not compared.
    pub(super) ignored: Vec<HeaderName>,
    /// The inner service answers all requests of the rule.
    pub(super) shadow: bool,
    /// Decides about equality in place of the comparison.
    pub(super) by: Option<Arc<EqualBy>>,
}
