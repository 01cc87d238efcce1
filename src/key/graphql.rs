//! The operation of a request by GraphQL, as a part of its key.

use super::canonical;
use crate::graphql::params::Params;

/// Returns the hash of everything that a request states about its operation: the document by its hash, and the parameters. White space and the
/// order of members in the variables and in the extensions do not count.
pub(crate) fn operation_hash(document: &[u8; 32], params: &Params) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(document);
    write(&mut hasher, params.operation_name.as_deref().map(str::as_bytes));
    write_json(&mut hasher, params.variables.as_deref());
    for (name, value) in &params.extensions {
        write(&mut hasher, Some(name.as_bytes()));
        write_json(&mut hasher, Some(value));
    }
    *hasher.finalize().as_bytes()
}

/// Adds a text with its length, so that two lists of texts never have the same bytes.
fn write(hasher: &mut blake3::Hasher, text: Option<&[u8]>) {
    match text {
        None => hasher.update(&[0]),
        Some(text) => hasher.update(&[1]).update(&(text.len() as u64).to_le_bytes()).update(text),
    };
}

/// Adds JSON in its canonical form, or as it is written if it has none.
fn write_json(hasher: &mut blake3::Hasher, text: Option<&str>) {
    let canonical = text.and_then(|text| canonical::json(text.as_bytes()));
    hasher.update(&[u8::from(canonical.is_some())]);
    write(hasher, canonical.as_deref().or(text.map(str::as_bytes)));
}
