//! Percent-encoding (RFC 3986, section 2.1).

use std::borrow::Cow;

/// Returns the text with every valid percent-encoded byte decoded. Anything else is left as it is.
pub(crate) fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode(text).into()
}

/// Returns true if any of the bytes is one of `of`. No branch depends on the bytes.
#[inline]
pub(crate) fn has_any<const N: usize>(bytes: &[u8], of: [u8; N]) -> bool {
    bytes.iter().fold(false, |found, byte| found | of.contains(byte))
}
