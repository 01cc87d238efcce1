//! What all targets share: an input read as header fields.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Each line of the input is a field `name: value`; what is no field is left out.
pub fn fields(input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// The input in two, at its first NUL.
pub fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

/// Any number there is in the input: its first eight bytes, or fewer.
pub fn number(input: &[u8]) -> u64 {
    input.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
