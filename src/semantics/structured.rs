//! Structured fields (RFC 9651), parsed by the `sfv` crate from all lines of a field.

use http::{HeaderMap, HeaderName};
use sfv::{FieldType, Parser};

/// Parses the lines of a field, joined by commas (RFC 9651 §4.2). Returns `None` if the field is absent or malformed.
pub(super) fn field<T: FieldType>(headers: &HeaderMap, name: &HeaderName) -> Option<T> {
    let mut lines = headers.get_all(name).iter().map(|line| line.as_bytes());
    let (first, second) = (lines.next()?, lines.next());
    match second {
        None => Parser::new(first).parse().ok(),
        Some(second) => {
            let all: Vec<&[u8]> = [first, second].into_iter().chain(lines).collect();
            Parser::new(&all.join(&b", "[..])).parse().ok()
        }
    }
}

/// Appends a quoted String (RFC 9651 §4.1.6). `?` replaces each character that a String cannot contain.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            ' '..='~' => out.push(letter),
            _ => out.push('?'),
        }
    }
    out.push('"');
}
