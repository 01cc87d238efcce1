//! Keys of variants.

use http::{HeaderMap, HeaderValue};

use crate::{
    key::{self, Key, KeyRef, KeyWriter},
    rules::policy::Policy,
    secret::Secret,
    semantics::{self, Vary},
};

/// Returns the key of the variant for these request fields (RFC 9111, section 4.1).
pub(crate) fn variant_key(rule: &Policy, secret: &Secret, primary: KeyRef<'_>, vary: &Vary, headers: &HeaderMap) -> Key {
    with_variant(rule, secret, primary, vary, headers, |key| key.to_owned())
}

/// Calls `then` with the key of the variant.
#[inline]
pub(crate) fn with_variant<T>(
    rule: &Policy,
    secret: &Secret,
    primary: KeyRef<'_>,
    vary: &Vary,
    headers: &HeaderMap,
    then: impl FnOnce(KeyRef<'_>) -> T,
) -> T {
    key::in_scratch(|canonical| {
        key::begin_variant(primary, canonical);
        write_selecting(rule, secret, vary, headers, canonical, |selecting| vary.write(headers, rule.normalise(), selecting));
        then(KeyRef::new(canonical))
    })
}

/// Returns the second key of a variant in this language, if the rule selects variants by language.
pub(crate) fn language_key(
    rule: &Policy,
    secret: &Secret,
    primary: KeyRef<'_>,
    vary: &Vary,
    headers: &HeaderMap,
    language: impl FnOnce() -> Option<Vec<u8>>,
) -> Option<Key> {
    if !vary.selects(rule.normalise()) {
        return None;
    }
    let language = language()?;
    let mut canonical = Vec::with_capacity(primary.canonical().len() + 64);
    key::begin_variant(primary, &mut canonical);
    write_selecting(rule, secret, vary, headers, &mut canonical, |selecting| {
        vary.write_selected(headers, &language, rule.normalise(), selecting);
    });
    Some(Key::new(canonical))
}

/// Returns the second key for the language that a request prefers.
pub(crate) fn preferred_key(
    rule: &Policy,
    secret: &Secret,
    primary: KeyRef<'_>,
    vary: &Vary,
    headers: &HeaderMap,
) -> Option<Key> {
    language_key(rule, secret, primary, vary, headers, || semantics::preferred_language(headers))
}

/// Writes the fields that select a variant. If one of them is secret, writes a keyed hash of all.
#[inline]
fn write_selecting(
    rule: &Policy,
    secret: &Secret,
    vary: &Vary,
    headers: &HeaderMap,
    canonical: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let is_secret = |name| rule.fields().is_secret(name) || headers.get_all(name).iter().any(HeaderValue::is_sensitive);
    if !vary.names().iter().any(is_secret) {
        return write(canonical);
    }
    let mut selecting = Vec::with_capacity(64);
    write(&mut selecting);
    KeyWriter::new(canonical, secret).secret(selecting);
}
