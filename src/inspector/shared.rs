//! The state of an Inspector.

use super::{access::Access, samples::Samples, shown::Shown};
use crate::handle::ResponseCache;

/// The state that clones share.
pub(super) struct Shared {
    pub(super) cache: ResponseCache,
    pub(super) access: Access,
    pub(super) shown: Shown,
    pub(super) samples: Samples,
    /// The last sample of the keys in Redis or its error, and its time.
    #[cfg(feature = "redis")]
    pub(super) key_sample: tokio::sync::Mutex<Option<(std::time::Instant, Result<crate::redis::KeySample, String>)>>,
}
