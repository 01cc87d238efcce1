//! Names of header fields that the application gives as text.

use http::HeaderName;

/// Returns the header name.
///
/// # Panics
///
/// If the text is not a header name.
#[track_caller]
pub(crate) fn header_name(name: &str) -> HeaderName {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("{name:?} is not a header name: expected letters, digits and `-`, such as accept-language"),
    }
}
