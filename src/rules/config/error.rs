//! The error of a file of rules.

use std::{error, fmt};

use super::place::PlaceInFile;

/// An error in a file of rules. Its text is one line that names the line of the file and the allowed values. [`column`](Self::column) completes
/// the place.
#[derive(Debug, Clone)]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub struct RulesFileError {
    /// The line and the column.
    place: Option<(usize, usize)>,
    toml: toml::de::Error,
}

impl RulesFileError {
    pub(super) fn new(text: &str, toml: toml::de::Error, part: Option<PlaceInFile>) -> Self {
        let span = part.and_then(|part| part.find(text)).or_else(|| toml.span());
        let place = span.and_then(|span| {
            let before = text.get(..span.start)?;
            let start = before.rfind('\n').map_or(0, |at| at + 1);
            Some((1 + before.matches('\n').count(), 1 + before[start..].chars().count()))
        });
        Self { place, toml }
    }

    /// Returns the line, counted from 1, if the error has a place.
    pub fn line(&self) -> Option<usize> {
        self.place.map(|(line, _)| line)
    }

    /// Returns the column, counted in characters from 1, if the error has a place. It is that of the value at fault. If an option is missing, it is
    /// that of the beginning of the rule.
    pub fn column(&self) -> Option<usize> {
        self.place.map(|(_, column)| column)
    }

    /// Returns the fault without its place.
    pub(super) fn message(&self) -> &str {
        self.toml.message()
    }
}

impl fmt::Display for RulesFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line() {
            write!(f, "line {line}: ")?;
        }
        f.write_str(self.toml.message())
    }
}

impl error::Error for RulesFileError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.toml)
    }
}
