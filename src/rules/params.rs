//! The parameters of a route, as handlers see them: percent-decoded.

use std::borrow::Cow;

/// The parameters of the route that matched.
#[derive(Clone)]
pub(crate) struct Params<'a> {
    raw: Option<matchit::Params<'a, 'a>>,
    /// Filled only if some value holds a `%`.
    decoded: Vec<(&'a str, String)>,
}

impl<'a> Params<'a> {
    pub(crate) fn none() -> Self {
        Self { raw: None, decoded: Vec::new() }
    }

    #[inline]
    pub(crate) fn new(raw: matchit::Params<'a, 'a>, path: &str) -> Self {
        let decoded = match path.as_bytes().contains(&b'%') {
            true => raw.iter().map(|(name, value)| (name, decode(value).into_owned())).collect(),
            false => Vec::new(),
        };
        Self { raw: Some(raw), decoded }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        if let Some((_, value)) = self.decoded.iter().find(|(key, _)| *key == name) {
            return Some(value);
        }
        self.raw.as_ref()?.get(name)
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
