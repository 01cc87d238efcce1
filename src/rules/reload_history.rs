//! The reloads of rules, for operators.

use std::time::SystemTime;

/// The numbers of reloads and of refused contents, and the last of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReloadHistory {
    pub(crate) replaced: u64,
    pub(crate) refused: u64,
    pub(crate) last_replaced: Option<SystemTime>,
    /// The time, and the error.
    pub(crate) last_refused: Option<(SystemTime, String)>,
    /// The last content of the file is not in force.
    is_refused: bool,
}

impl ReloadHistory {
    pub(super) fn replaced(&mut self, at: SystemTime) {
        (self.replaced, self.last_replaced, self.is_refused) = (self.replaced + 1, Some(at), false);
    }

    #[cfg(feature = "config")]
    pub(super) fn refused(&mut self, at: SystemTime, message: String) {
        (self.refused, self.last_refused, self.is_refused) = (self.refused + 1, Some((at, message)), true);
    }

    /// Returns true if the last content of the file was refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused
    }
}
