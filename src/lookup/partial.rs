//! Keys of partial responses.

use http::{HeaderMap, HeaderValue, Method, header};

use crate::key::{self, Key, KeyRef, MAX_KEY_LEN};

/// The first byte behind the complete response's key in the key of a part. Keys of variants have a 0 or the tag of a secret there.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    AsAsked = 1,
    Join = 2,
}

/// Returns the key of the response to a request with this `Range` and `If-Range`. Returns `None` if it would be too long.
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

/// Returns the key of the combined part.
pub(crate) fn joined(whole: KeyRef<'_>) -> Key {
    key::variant(whole, &[Kind::Join as u8])
}

/// Returns true for a GET with exactly one `Range`, whose response can be stored.
pub(crate) fn asks_for_one(method: &Method, request: &HeaderMap) -> bool {
    let lines: Vec<&HeaderValue> = request.get_all(header::RANGE).iter().collect();
    *method == Method::GET && lines.len() == 1
}
