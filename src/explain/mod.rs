//! Explanations: the outcome that a request would get now, and its reason.
//!
//! [`ResponseCache::explain`](crate::ResponseCache::explain) makes them with the functions of the real lookup.

pub(crate) mod explanation;
mod names;
pub(crate) mod predict;
mod stored;

pub(crate) use self::names::most_specific;
pub use self::{explanation::Explanation, stored::StoredResponse};
pub use crate::{key::describe::KeyPart, rules::summary::RuleSummary};
