//! The parameters of a route, as handlers see them: percent-decoded.

use std::{borrow::Cow, sync::OnceLock};

use super::router::Pattern;

/// The parameters of the route that matched. They are looked for when one is asked for.
#[derive(Clone)]
pub(crate) struct Params<'a> {
    path: &'a str,
    route: Route<'a>,
    /// Filled once a value is asked for that holds a `%`.
    decoded: OnceLock<Vec<(String, String)>>,
}

#[derive(Clone)]
enum Route<'a> {
    None,
    Pattern(&'a Pattern),
    Tree(&'a matchit::Router<usize>),
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
    pub(super) fn of_tree(tree: &'a matchit::Router<usize>, path: &'a str) -> Self {
        Self { path, route: Route::Tree(tree), decoded: OnceLock::new() }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut value = None;
        self.each(|known, sent| value = value.or((known == name).then_some(sent)));
        let value = value?;
        if !value.contains('%') {
            return Some(value);
        }
        let decoded = self.decoded.get_or_init(|| {
            let mut decoded = Vec::new();
            self.each(|name, sent| decoded.push((name.to_owned(), decode(sent).into_owned())));
            decoded
        });
        decoded.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Does something with each name and value, as it was sent.
    fn each(&self, mut then: impl FnMut(&'a str, &'a str)) {
        match &self.route {
            Route::None => {}
            Route::Pattern(pattern) => pattern.params(self.path).for_each(|(name, value)| then(name, value)),
            Route::Tree(tree) => {
                if let Ok(at) = tree.at(self.path) {
                    at.params.iter().for_each(|(name, value)| then(name, value));
                }
            }
        }
    }
}

/// Percent-decodes; what would not be UTF-8 stays as it was sent.
fn decode(value: &str) -> Cow<'_, str> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(decoded) => Cow::Owned(decoded),
        Err(_) => Cow::Borrowed(value),
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn decodes_as_handlers_do_and_keeps_what_is_not_text() {
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
