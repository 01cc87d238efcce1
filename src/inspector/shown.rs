//! Private data in responses of the Inspector.

use crate::explain::KeyPart;

/// The private data that the Inspector shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) bodies: bool,
    pub(super) identities: bool,
}

const HIDDEN: &str = "(hidden)";

impl Shown {
    /// Returns the value of a part of a key.
    pub(super) fn part(self, part: &KeyPart) -> String {
        match part.is_hash() && !self.identities {
            true => HIDDEN.into(),
            false => part.value().into(),
        }
    }

    /// Returns a namespace. Levels that have the form of an identity are hidden.
    pub(super) fn name(self, name: &str) -> String {
        let is_identity = |level: &str| level.len() == 32 && level.bytes().all(|byte| byte.is_ascii_hexdigit());
        let level = |level| if is_identity(level) && !self.identities { HIDDEN } else { level };
        name.split(':').map(level).collect::<Vec<_>>().join(":")
    }
}
