//! The parameters of a route, percent-decoded as handlers see them.

use std::{borrow::Cow, sync::OnceLock};

use percent_encoding::percent_decode_str;

use super::pattern::Pattern;
use crate::percent;

/// The parameters of the matched route. They are extracted when one is requested.
#[derive(Clone)]
pub(crate) struct Params<'a> {
    path: &'a str,
    route: Route<'a>,
    /// The decoded values, computed when a value with a `%` is requested.
    decoded: OnceLock<Vec<(String, String)>>,
}

#[derive(Clone)]
enum Route<'a> {
    None,
    Pattern(&'a Pattern),
    Tree(&'a matchit::Router<usize>, &'a [bool]),
}

impl<'a> Params<'a> {
    pub(crate) fn none() -> Self {
        Self { path: "", route: Route::None, decoded: OnceLock::new() }
    }

    #[inline]
    pub(super) fn of_pattern(pattern: &'a Pattern, path: &'a str) -> Self {
        Self { path, route: Route::Pattern(pattern), decoded: OnceLock::new() }
    }

    #[inline]
    pub(super) fn of_tree(tree: &'a matchit::Router<usize>, wildcards: &'a [bool], path: &'a str) -> Self {
        Self { path, route: Route::Tree(tree, wildcards), decoded: OnceLock::new() }
    }

    /// Returns true if a handler may read the path as one of another route: a parameter contains a dot segment, or a wildcard an encoded
    /// slash or a backslash.
    #[inline]
    pub(crate) fn are_ambiguous(&self) -> bool {
        // Most paths contain none of these bytes.
        let odd = percent::has_any(self.path.as_bytes(), [b'%', b'.', b'\\']);
        odd && self.resolve_elsewhere()
    }

    #[cold]
    fn resolve_elsewhere(&self) -> bool {
        let mut found = false;
        self.each(|_, sent, rest| {
            let decoded = percent::decoded(sent.as_bytes());
            let mut segments = decoded.split(|byte| b"/\\".contains(byte));
            let text = |segment: &[u8]| {
                segment.split(|byte| *byte == b';').next().is_some_and(|text| [b"." as &[u8], b".."].contains(&text))
            };
            let slashes = |text: &[u8]| text.iter().filter(|byte| **byte == b'/').count();
            found |= segments.any(text) || rest && (decoded.contains(&b'\\') || slashes(&decoded) > slashes(sent.as_bytes()));
        });
        found
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut value = None;
        self.each(|known, sent, _| value = value.or((known == name).then_some(sent)));
        let value = value?;
        if !value.contains('%') {
            return Some(value);
        }
        let decoded = self.decoded.get_or_init(|| self.all());
        decoded.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Returns all parameters, decoded.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        let mut decoded = Vec::new();
        self.each(|name, sent, _| decoded.push((name.to_owned(), decode(sent).into_owned())));
        decoded
    }

    /// Calls `then` with each name, each value as it was sent, and true if a wildcard matched the value.
    fn each(&self, mut then: impl FnMut(&'a str, &'a str, bool)) {
        match &self.route {
            Route::None => {}
            Route::Pattern(pattern) => pattern.params(self.path).for_each(|(name, value, rest)| then(name, value, rest)),
            Route::Tree(tree, wildcards) => {
                if let Ok(at) = tree.at(self.path) {
                    let wildcard = wildcards.get(*at.value).copied().unwrap_or_default();
                    let last = at.params.len().checked_sub(1);
                    at.params.iter().enumerate().for_each(|(n, (name, value))| then(name, value, wildcard && Some(n) == last));
                }
            }
        }
    }
}

/// Percent-decodes a value. A value that would not be UTF-8 stays as it was sent.
fn decode(value: &str) -> Cow<'_, str> {
    percent_decode_str(value).decode_utf8().unwrap_or(Cow::Borrowed(value))
}

#[cfg(test)]
mod tests {
    use crate::route::params::decode;

    #[test]
    fn decodes_like_handlers_and_keeps_invalid_text() {
        for (sent, seen) in [
            ("orders", "orders"),
            ("caf%C3%A9", "café"),
            ("a%3Ab", "a:b"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%FF", "%FF"),
            ("%25", "%"),
        ] {
            assert_eq!(decode(sent), seen, "{sent}");
        }
    }
}
