//! Flags that several examples have.

use lexopt::{Parser, ValueExt};

pub(crate) const SIZE: &str = "`--memory` takes a whole number of bytes, or of KiB, MiB, GiB, KB, MB or GB, such as 64MiB";
pub(crate) const COHERENCE: &str = "`--coherence` takes `ttl`, `leased` or `validated`";
pub(crate) const PREFIX: &str = "`--prefix` takes a text";

/// Values of `--coherence`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Coherence {
    Ttl,
    Leased,
    Validated,
}

/// Parses the value of the flag that was just read. `expected` is the error message.
pub(crate) fn value<T>(parser: &mut Parser, expected: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    let text = parser.value().and_then(|value| value.string()).map_err(|_| expected.to_owned())?;
    read(&text).ok_or_else(|| format!("{expected}, not `{text}`"))
}

pub(crate) fn coherence(text: &str) -> Option<Coherence> {
    match text {
        "ttl" => Some(Coherence::Ttl),
        "leased" => Some(Coherence::Leased),
        "validated" => Some(Coherence::Validated),
        _ => None,
    }
}

/// Parses `65536`, `64KiB` or `64 MB`, in any case.
pub(crate) fn bytes(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    digits.trim_end().parse::<usize>().ok()?.checked_mul(unit)
}
