//! Structured fields (RFC 9651), read by the `sfv` crate: all lines of a field as one value.

use http::{HeaderMap, HeaderName};
use sfv::{FieldType, Parser};

/// A field's lines joined by commas (RFC 9651 §4.2) and parsed; `None` if it is absent or malformed.
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

/// Appends text as a quoted String (RFC 9651 §4.1.6); what a String cannot hold becomes `?`.
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
