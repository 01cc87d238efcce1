//! Keys of partial responses.

use http::{HeaderMap, HeaderValue, Method, header};

use crate::key::{self, Key, KeyRef, MAX_KEY_LEN};

/// What stands behind the key of the whole in those of its parts. The number of varying fields, which stands there in variants, begins
/// with 0; the tag of a secret is another.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    AsAsked = 1,
    Join = 2,
}

/// The key of what a request with this `Range` and `If-Range` was answered; `None` if it would be too long.
pub(crate) fn as_asked(whole: KeyRef<'_>, request: &HeaderMap) -> Option<Key> {
    let mut selecting = vec![Kind::AsAsked as u8];
    for name in [header::RANGE, header::IF_RANGE] {
        for line in request.get_all(&name) {
            selecting.push(1);
            selecting.extend_from_slice(&(line.len() as u32).to_be_bytes());
            selecting.extend_from_slice(line.as_bytes());
        }
        selecting.push(0);
    }
    Some(key::variant(whole, &selecting)).filter(|key| key.canonical().len() <= MAX_KEY_LEN)
}

/// The key of the longest part that could be put together.
pub(crate) fn joined(whole: KeyRef<'_>) -> Key {
    key::variant(whole, &[Kind::Join as u8])
}

/// Whether a request asks for a part in a way that what answers it can be kept: with one `Range`.
pub(crate) fn asks_for_one(method: &Method, request: &HeaderMap) -> bool {
    let lines: Vec<&HeaderValue> = request.get_all(header::RANGE).iter().collect();
    *method == Method::GET && lines.len() == 1
}
