//! The state of an Inspector.

use super::{access::Access, samples::Samples, shown::Shown};
use crate::handle::ResponseCache;

/// The state that clones share.
pub(super) struct Shared {
    pub(super) cache: ResponseCache,
    pub(super) access: Access,
    pub(super) shown: Shown,
    pub(super) samples: Samples,
}
