//! The `Age` field.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderValue, header};

use crate::{clock::Nanos, status::field};

/// Sets `Age` (RFC 9111, section 5.1). Stored header maps have it as their first field.
#[inline]
pub(crate) fn set_age(headers: &mut HeaderMap, age: Nanos) {
    let age = age_value(age / 1_000_000_000);
    match headers.iter_mut().next() {
        Some((name, slot)) if *name == header::AGE => *slot = age,
        _ => {
            headers.insert(header::AGE, age);
        }
    }
}

fn age_value(seconds: u64) -> HeaderValue {
    const MINUTE: usize = 60;
    static FIRST: OnceLock<Box<[HeaderValue]>> = OnceLock::new();
    let first = FIRST.get_or_init(|| field::static_values((0..60 * MINUTE).map(|seconds| seconds.to_string())));
    first.get(seconds as usize).cloned().unwrap_or_else(|| HeaderValue::from(seconds))
}
