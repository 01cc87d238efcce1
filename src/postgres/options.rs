//! The checked options of a listener.

use std::{sync::Arc, time::Duration};

use super::{mapping::Table, url::Target};

/// The options of a listener.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) target: Target,
    pub(super) publication: String,
    pub(super) slot: String,
    pub(super) tables: Arc<[Table]>,
    /// Create the publication and the slot if they do not exist.
    pub(super) creates: bool,
    /// The slot ends with the connection.
    pub(super) is_temporary: bool,
    /// Wait while another process uses the slot.
    pub(super) stands_by: bool,
    pub(super) invalidates_at_start: bool,
    pub(super) max_lag: Option<u64>,
    pub(super) check_interval: Duration,
}
