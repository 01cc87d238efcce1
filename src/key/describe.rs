//! The parts of a key in readable form.

use super::{
    name::{Part, Parts},
    write::Tag,
};

/// A part of a key in readable form.
///
/// Secrets and identities are in a key only as keyed hashes, and content only as a hash. All other parts are shown as they were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPart {
    kind: &'static str,
    value: String,
    is_hash: bool,
}

impl KeyPart {
    /// Returns the kind of the part: `route`, `path`, `host`, `query`, `identity`, `secret` and others.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Returns the value. Bytes that are not printable text are written in hexadecimal.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns true if the value is the hash of a secret, of an identity or of content.
    pub fn is_hash(&self) -> bool {
        self.is_hash
    }
}

/// Returns the parts of a key, without those of a variant.
pub(crate) fn parts_of(canonical: &[u8]) -> Vec<KeyPart> {
    Parts(canonical).map_while(|part| part).map(describe).collect()
}

fn describe(part: Part<'_>) -> KeyPart {
    let kinds: [(Tag, &'static str); 22] = [
        (Tag::Route, "route"),
        (Tag::Path, "path"),
        (Tag::Host, "host"),
        (Tag::NoQuery, "query"),
        (Tag::RawQuery, "query"),
        (Tag::SortedQuery, "query"),
        (Tag::ReducedQuery, "query"),
        (Tag::NoneCounts, "query"),
        (Tag::Header, "field"),
        (Tag::HeaderValue, "field value"),
        (Tag::Secret, "secret"),
        (Tag::Identity, "identity"),
        (Tag::Absent, "absent"),
        (Tag::Cookie, "cookie"),
        (Tag::Custom, "custom"),
        (Tag::Http, "decided by"),
        (Tag::Content, "content"),
        (Tag::ContentForm, "form of content"),
        (Tag::Scheme, "scheme"),
        (Tag::Forwarded, "forwarding"),
        (Tag::Method, "method"),
        (Tag::Operation, "operation"),
    ];
    let kind = kinds.iter().find(|(tag, _)| part.is(*tag)).map_or("other", |(_, kind)| kind);
    let is_hash = [Tag::Secret, Tag::Identity, Tag::Content, Tag::Operation].iter().any(|tag| part.is(*tag));
    let value = match part.bytes {
        _ if part.is(Tag::Http) => "HTTP".into(),
        _ if part.is(Tag::NoQuery) => "(none)".into(),
        _ if part.is(Tag::NoneCounts) => "(no parameter counts)".into(),
        bytes if is_hash || part.is(Tag::ContentForm) => hex(bytes),
        // The number of the field comes first.
        [_, value @ ..] if part.is(Tag::Forwarded) => text(value),
        bytes => text(bytes),
    };
    KeyPart { kind, value, is_hash }
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
