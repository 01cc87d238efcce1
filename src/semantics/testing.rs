//! What the tests of this module share.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields from names and values; a name that comes twice is on two lines.
pub(super) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().expect("a field name");
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a field value"));
    }
    headers
}
