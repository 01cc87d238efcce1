//! Helpers for the tests of this module.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Builds header fields from names and values. A repeated name gives several lines.
pub(super) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().expect("a field name");
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a field value"));
    }
    headers
}
