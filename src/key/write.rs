//! The canonical form of a key: tagged, length-prefixed parts.

use crate::{
    key::{Key, KeyRef, MAX_KEY_LEN, RequestView},
    secret::Secret,
};

/// The decision of an extractor about a request. The enum is complete: a request has a key or it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Extracted {
    /// The parts are written. The request is cached under them.
    Key,
    /// The request bypasses the cache.
    Bypass,
}

/// Receives the parts of a key. Each part is written with a tag of its kind and its length.
///
/// ```
/// use http::Request;
/// use tower_response_cache::{KeyExtractor, Memory, Rule, Rules, key::{Extracted, KeyWriter, RequestView}};
///
/// /// One key for each page below a hundred. Other requests bypass the cache.
/// struct Page;
///
/// impl KeyExtractor for Page {
///     fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
///         match request.param("page").parse::<u8>() {
///             Ok(page) if page < 100 => {
///                 key.part([page]);
///                 Extracted::Key
///             }
///             _ => Extracted::Bypass,
///         }
///     }
/// }
///
/// let store = Memory::default();
/// let rules = Rules::new().route("/pages/{page}", Rule::ttl(std::time::Duration::from_secs(60)).key(Page));
/// let key = |target: &str| rules.key(&store, &Request::get(target).body(()).unwrap());
/// assert_eq!(key("/pages/7"), key("/pages/07"));
/// assert_eq!(key("/pages/100"), None);
/// ```
#[derive(Debug)]
pub struct KeyWriter<'a> {
    canonical: &'a mut Vec<u8>,
    secret: &'a Secret,
    identified: bool,
    /// The number of hashed parts.
    hashed: usize,
    /// The length of the parts of the target, if others follow.
    target_len: Option<usize>,
}

/// The kinds of parts. Their numbers are part of the stored form: never reuse one.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Tag {
    Route = 1,
    Path = 2,
    Host = 3,
    NoQuery = 4,
    RawQuery = 5,
    // 6 and 15 were the tags of a sorted query written in pieces.
    Header = 7,
    HeaderValue = 8,
    Secret = 9,
    Absent = 10,
    Cookie = 11,
    Identity = 12,
    Custom = 13,
    Variant = 14,
    Http = 16,
    ReducedQuery = 17,
    Content = 18,
    SortedQuery = 19,
    NoneCounts = 20,
    Scheme = 21,
    Forwarded = 24,
    Method = 25,
    ContentForm = 26,
    Operation = 27,
}

impl<'a> KeyWriter<'a> {
    pub(crate) fn new(canonical: &'a mut Vec<u8>, secret: &'a Secret) -> Self {
        Self { canonical, secret, identified: false, hashed: 0, target_len: None }
    }

    /// Adds a part defined by the extractor.
    pub fn part(&mut self, part: impl AsRef<[u8]>) {
        self.tagged(Tag::Custom, part.as_ref());
    }

    /// Adds a secret: only its keyed hash enters the key.
    pub fn secret(&mut self, secret: impl AsRef<[u8]>) {
        let hash = self.secret.identity(secret.as_ref());
        self.tagged(Tag::Secret, &hash.0);
        self.hashed += 1;
    }

    /// Adds the identity of the client as a keyed hash. Requests with [credentials](crate::key::CredentialFields) are cached only if their
    /// key contains an identity.
    pub fn identity(&mut self, secret: impl AsRef<[u8]>) {
        let hash = self.secret.identity(secret.as_ref());
        self.tagged(Tag::Identity, &hash.0);
        (self.identified, self.hashed) = (true, self.hashed + 1);
    }

    #[inline]
    pub(crate) fn tagged(&mut self, tag: Tag, part: &[u8]) {
        write_part(self.canonical, tag as u8, part);
    }

    /// Adds a part that consists of several, separated by a byte that occurs in none of them.
    pub(crate) fn joined<'p>(&mut self, tag: Tag, by: u8, parts: impl Iterator<Item = &'p [u8]> + Clone) {
        let len = parts.clone().map(|part| part.len() + 1).sum::<usize>().saturating_sub(1);
        begin_part(self.canonical, tag as u8, len);
        for (n, part) in parts.enumerate() {
            if n > 0 {
                self.canonical.push(by);
            }
            self.canonical.extend_from_slice(part);
        }
    }

    pub(crate) fn identified(&self) -> bool {
        self.identified
    }

    /// Returns the number of hashes of secrets in the key, identities included.
    pub(crate) fn hashed(&self) -> usize {
        self.hashed
    }

    /// Ends the parts of the target. Those of the content follow.
    pub(crate) fn end_target(&mut self) {
        self.target_len = Some(self.canonical.len());
    }

    /// Returns the length of the parts of the target, if others follow.
    pub(crate) fn target_len(&self) -> Option<usize> {
        self.target_len
    }

    pub(crate) fn too_long(&self) -> bool {
        self.canonical.len() > MAX_KEY_LEN
    }
}

/// Writes a part that begins with a number in the place of a name.
pub(super) fn numbered(canonical: &mut Vec<u8>, tag: Tag, number: u8, part: &[u8]) {
    begin_part(canonical, tag as u8, part.len() + 1);
    canonical.push(number);
    canonical.extend_from_slice(part);
}

/// Writes a part: its tag, its length, and its bytes.
#[inline]
pub(super) fn write_part(canonical: &mut Vec<u8>, tag: u8, part: &[u8]) {
    begin_part(canonical, tag, part.len());
    canonical.extend_from_slice(part);
}

/// Writes the tag of a part, and its length: one byte for a length below 255, otherwise 255 and eight bytes.
#[inline]
fn begin_part(canonical: &mut Vec<u8>, tag: u8, len: usize) {
    match u8::try_from(len) {
        Ok(len) if len < u8::MAX => canonical.extend_from_slice(&[tag, len]),
        _ => {
            canonical.extend_from_slice(&[tag, u8::MAX]);
            canonical.extend_from_slice(&(len as u64).to_le_bytes());
        }
    }
}

/// Returns the key of a variant, for responses that differ by these request fields (RFC 9111, section 4.1).
pub(crate) fn variant(primary: KeyRef<'_>, selecting: &[u8]) -> Key {
    let mut canonical = Vec::with_capacity(primary.canonical().len() + selecting.len() + 1);
    begin_variant(primary, &mut canonical);
    canonical.extend_from_slice(selecting);
    Key::new(canonical)
}

/// Writes the beginning of a variant's key. The number of the selecting fields and the fields follow. If some of them are secrets, a
/// [hash](KeyWriter::secret) of all follows instead. Its tag distinguishes the two, because the first byte of the number is 0.
pub(crate) fn begin_variant(primary: KeyRef<'_>, canonical: &mut Vec<u8>) {
    canonical.extend_from_slice(primary.canonical());
    canonical.push(Tag::Variant as u8);
}

/// Writes the beginning of a key. It separates the requests of each route from those of all others, with any extractor, and the rules where
/// HTTP decides from all others.
pub(crate) fn begin(key: &mut KeyWriter<'_>, http: bool, route: Option<&str>, request: &RequestView<'_>) {
    if http {
        key.tagged(Tag::Http, b"");
    }
    match route {
        Some(route) => key.tagged(Tag::Route, route.as_bytes()),
        None => key.tagged(Tag::Path, request.path().as_bytes()),
    }
}
