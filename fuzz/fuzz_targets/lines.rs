//! Shared by the targets: reads an input as header fields and numbers.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Reads each line of the input as a field `name: value`. Other lines are skipped.
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

/// Splits the input at its first NUL.
pub fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

/// Reads a number from up to eight bytes at the start of the input.
pub fn number(input: &[u8]) -> u64 {
    input.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
