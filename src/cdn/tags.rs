//! `CacheTags`: the field of a CDN, its limits, and the form of a namespace in it.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::namespace::Namespace;

/// The bytes that a tag holds only percent-encoded: all but letters, digits and `- . _ ~ :`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The start of a digest. No encoded name contains `%` without two hexadecimal digits behind it.
const DIGEST: &str = "%~";

/// The length of a digest with its start, in bytes.
const DIGEST_LEN: usize = 34;

/// The form in which a CDN reads the namespaces of a response: the name of the field, the separator and the limits.
///
/// A tag is the name of a namespace. Every byte except ASCII letters, digits and `- . _ ~ :` is percent-encoded (RFC 3986, section 2.1), `%`
/// included, so that no tag holds a separator and different namespaces have different tags. The root `*` becomes `%2A`. A tag that would be longer
/// than the CDN allows becomes `%~` and 32 hexadecimal digits of its hash. [`tag`](Self::tag) returns the tag of a namespace for a purge.
///
/// An entry of `db_query:orders` has the tags `%2A`, `db_query` and `db_query:orders`, so that a purge of one tag reaches what an invalidation of
/// its namespace reaches. The internal names of keys are not sent.
///
/// If the tags of a response exceed a limit, the field is not sent. In its place the response gets `Cache-Control: private, no-store` and `no-store` in
/// `CDN-Cache-Control`, `Cloudflare-CDN-Cache-Control` and `Surrogate-Control`, so that no cache outside of the application keeps a response that it
/// could not purge. A warning names the route.
///
/// ```
/// use tower_response_cache::{CacheTags, Namespace};
///
/// let tags = CacheTags::cloudflare();
/// assert_eq!(tags.tag(&Namespace::new("db_query:orders").unwrap()), "db_query:orders");
/// assert_eq!(tags.tag(&Namespace::root()), "%2A");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct CacheTags {
    field: HeaderName,
    separator: u8,
    max_tag_len: usize,
    max_tags: usize,
    max_field_len: usize,
}

/// The tags of a response exceed a limit of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyTags {
    pub(crate) tags: usize,
    pub(crate) bytes: usize,
}

impl CacheTags {
    /// Returns the form of Fastly: `Surrogate-Key`, separated by spaces, with at most 16,384 bytes and 1,024 bytes a key.
    pub fn surrogate_key() -> Self {
        Self::limited("surrogate-key", b' ', (1024, usize::MAX, 16_384))
    }

    /// Returns the form of Cloudflare: `Cache-Tag`, separated by commas, with at most 16,384 bytes, 1,000 tags, and 1,024 characters a tag.
    /// Cloudflare does not distinguish upper and lower case, so that a purge may reach more than its namespace.
    pub fn cloudflare() -> Self {
        Self::limited("cache-tag", b',', (1024, 1000, 16_384))
    }

    /// Returns the form of Google Cloud CDN and Media CDN: `Cache-Tag`, separated by commas, with at most 50 tags of 120 bytes. These
    /// limits are chosen low.
    pub fn google() -> Self {
        Self::limited("cache-tag", b',', (120, 50, 8192))
    }

    /// Returns the form of Amazon CloudFront: `Cache-Tag` (the name in its `CacheTagConfig`), separated by commas, with at most 50 tags of 256
    /// characters. CloudFront does not distinguish upper and lower case. In an invalidation, `#` precedes each tag.
    pub fn cloudfront() -> Self {
        Self::limited("cache-tag", b',', (256, 50, 16_384))
    }

    /// Returns a form with a field name and a separator: a space, `,`, `;` or `|`. It has at most 8,192 bytes, 1,024 bytes a tag, and any number of
    /// tags.
    ///
    /// # Panics
    ///
    /// If the name is not a field name (RFC 9110, section 5.1), or if the separator is another character.
    #[track_caller]
    pub fn custom(field: &str, separator: char) -> Self {
        let Ok(name) = HeaderName::from_bytes(field.as_bytes()) else { panic!("invalid field name {field:?} of cache tags") };
        let separator = match separator {
            ' ' | ',' | ';' | '|' => separator as u8,
            _ => panic!("invalid separator {separator:?} of cache tags: expected a space, `,`, `;` or `|`"),
        };
        Self { field: name, separator, max_tag_len: 1024, max_tags: usize::MAX, max_field_len: 8192 }
    }

    fn limited(field: &'static str, separator: u8, (max_tag_len, max_tags, max_field_len): (usize, usize, usize)) -> Self {
        Self { field: HeaderName::from_static(field), separator, max_tag_len, max_tags, max_field_len }
    }

    /// Limits the bytes of a tag. A longer tag is sent as its digest. The least limit is 34 bytes, the length of a digest.
    pub fn max_tag_len(mut self, bytes: usize) -> Self {
        self.max_tag_len = bytes.max(DIGEST_LEN);
        self
    }

    /// Limits the number of tags of a response.
    pub fn max_tags(mut self, tags: usize) -> Self {
        self.max_tags = tags;
        self
    }

    /// Limits the bytes of the field's value.
    pub fn max_field_len(mut self, bytes: usize) -> Self {
        self.max_field_len = bytes;
        self
    }

    /// Returns the name of the field.
    pub fn field(&self) -> &HeaderName {
        &self.field
    }

    /// Returns the tag of a namespace, as it is sent with the responses of the namespace and of all namespaces below it.
    pub fn tag(&self, namespace: &Namespace) -> String {
        self.tag_of(namespace.as_str())
    }

    pub(crate) fn tag_of(&self, name: &str) -> String {
        let tag = utf8_percent_encode(name, ENCODED).to_string();
        if tag.len() <= self.max_tag_len {
            return tag;
        }
        format!("{DIGEST}{}", &blake3::hash(name.as_bytes()).to_hex()[..DIGEST_LEN - DIGEST.len()])
    }

    /// Adds the tags of these names to the field. Tags that the field already has stay, and no tag is repeated. If a limit is exceeded, the field is
    /// left as it was.
    pub(crate) fn add<'a>(&self, headers: &mut HeaderMap, names: impl Iterator<Item = &'a str>) -> Result<(), TooManyTags> {
        let mut value = Vec::new();
        let mut seen = HashSet::new();
        let lines = headers.get_all(&self.field).iter();
        let known = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == self.separator)).map(<[u8]>::trim_ascii);
        let added: Vec<String> = names.map(|name| self.tag_of(name)).collect();
        for tag in known.chain(added.iter().map(String::as_bytes)).filter(|tag| !tag.is_empty()) {
            if seen.insert(tag) {
                if !value.is_empty() {
                    value.push(self.separator);
                }
                value.extend_from_slice(tag);
            }
        }
        let tags = seen.len();
        match HeaderValue::from_bytes(&value) {
            Ok(line) if tags <= self.max_tags && value.len() <= self.max_field_len => {
                if tags > 0 {
                    headers.insert(&self.field, line);
                }
                Ok(())
            }
            _ => Err(TooManyTags { tags, bytes: value.len() }),
        }
    }
}

#[cfg(test)]
#[path = "tests/tags.rs"]
mod tests;
