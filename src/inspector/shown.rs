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

    /// Returns a namespace. Digits that have the form of an identity are hidden.
    pub(super) fn name(self, name: &str) -> String {
        if self.identities {
            return name.into();
        }
        let is_other = |letter: char| !letter.is_ascii_hexdigit();
        let shown = name.split_inclusive(is_other).flat_map(|piece| {
            let digits = piece.trim_end_matches(is_other);
            if digits.len() < 32 { [piece, ""] } else { [HIDDEN, &piece[digits.len()..]] }
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_hidden_wherever_it_stands_in_a_name() {
        let hash = "0123456789abcdef0123456789abcdef";
        let shown = |identities| Shown { bodies: false, identities };
        for (name, hidden) in [
            (format!("user:{hash}"), "user:(hidden)"),
            (format!("user-{hash}:orders"), "user-(hidden):orders"),
            (format!("a{hash}.é{hash}"), "(hidden).é(hidden)"),
            ("db_query:0123456789abcdef".to_owned(), "db_query:0123456789abcdef"),
        ] {
            assert_eq!((shown(false).name(&name), shown(true).name(&name)), (hidden.to_owned(), name));
        }
    }
}
