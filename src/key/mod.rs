//! Keys. Two requests with the same key get the same response.

mod canonical;
pub(crate) mod content;
pub(crate) mod describe;
mod extract;
mod fields;
#[cfg(feature = "graphql")]
pub(crate) mod graphql;
pub(crate) mod header_name;
mod identity;
mod name;
mod query;
pub(crate) mod replay;
mod write;

use std::{cell::Cell, fmt, ptr, sync::Arc};

use http::{Extensions, HeaderMap, HeaderValue, Method, Uri, request};
use xxhash_rust::xxh3::xxh3_128;

use crate::{route::params::Params, secret::Secret};

pub use content::RequestBody;
pub use extract::{And, Cookie, Headers, KeyExtractor, RouteAndQuery};
pub use fields::CredentialFields;
pub(crate) use fields::{FieldClass, FieldTable, Forwarding, common_field, default_fields, overrides_method};
pub use identity::Identity;
pub(crate) use name::{normal_host, plain_path, plain_target, with_other_end};
#[cfg(feature = "config")]
pub(crate) use query::is_name as is_query_name;
pub use write::{Extracted, KeyWriter};
pub(crate) use write::{Tag, begin, begin_variant, variant};

thread_local! {
    /// A buffer for keys that are only looked up. It is taken out while in use.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `write` with a buffer for a key.
#[inline]
pub(crate) fn in_scratch<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let done = write(&mut scratch);
    SCRATCH.set(scratch);
    done
}

/// The longest canonical key, in bytes: 8 KiB. A request with a longer key bypasses the cache.
pub const MAX_KEY_LEN: usize = 8 << 10;

/// A canonical key and its 128-bit hash (xxh3). Each part is tagged and preceded by its length, so that two different requests never have
/// the same key. An entry keeps the whole key, which is compared on every hit.
///
/// Secrets are in the key only as keyed hashes.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    hash: u128,
    canonical: Arc<[u8]>,
}

impl Key {
    pub(crate) fn new(canonical: impl Into<Arc<[u8]>>) -> Self {
        let canonical = canonical.into();
        Self { hash: xxh3_128(&canonical), canonical }
    }

    /// Returns the 128-bit hash.
    #[inline]
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// Returns the canonical bytes.
    #[inline]
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// Borrows the key for a lookup.
    #[inline]
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { hash: self.hash, canonical: Canonical::Kept(&self.canonical) }
    }

    pub(crate) fn heap(&self) -> usize {
        self.canonical.len() + 2 * size_of::<usize>()
    }
}

/// A borrowed key, for lookups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyRef<'a> {
    hash: u128,
    canonical: Canonical<'a>,
}

/// The canonical bytes, written to a buffer or shared. As small as a slice.
#[derive(Clone, Copy)]
enum Canonical<'a> {
    Written(&'a [u8]),
    /// Shared bytes.
    Kept(&'a Arc<[u8]>),
}

impl PartialEq for Canonical<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        // A remembered key and the key of its entry are mostly the same memory.
        let (one, other) = (self.bytes(), other.bytes());
        ptr::eq(one, other) || one == other
    }
}

impl Eq for Canonical<'_> {}

impl<'a> Canonical<'a> {
    #[inline]
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Written(bytes) => bytes,
            Self::Kept(bytes) => bytes,
        }
    }
}

impl<'a> KeyRef<'a> {
    #[inline]
    pub(crate) fn new(canonical: &'a [u8]) -> Self {
        Self { hash: xxh3_128(canonical), canonical: Canonical::Written(canonical) }
    }

    /// Returns the 128-bit hash.
    #[inline]
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// Returns the canonical bytes.
    #[inline]
    pub fn canonical(&self) -> &'a [u8] {
        self.canonical.bytes()
    }

    /// Returns true for a rule where HTTP decides. A write to the URI invalidates the key.
    pub(crate) fn is_of_http(&self) -> bool {
        self.canonical().first() == Some(&(write::Tag::Http as u8))
    }

    /// Returns the hash of the namespace of the key, which all spellings of the target share.
    pub(crate) fn name(&self) -> u64 {
        name::name_of(*self).unwrap_or((self.hash >> 64) as u64 ^ self.hash as u64)
    }

    /// Returns an owned key. Shared bytes are not copied.
    pub fn to_owned(&self) -> Key {
        let canonical = match self.canonical {
            Canonical::Written(bytes) => bytes.into(),
            Canonical::Kept(bytes) => bytes.clone(),
        };
        Key { hash: self.hash, canonical }
    }
}

impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:032x})", self.hash)
    }
}

/// Shows the hash alone, because the parts may be private.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:032x})", self.hash)
    }
}

/// The view of a request for rules and extractors: its head, its route parameters, and its content if that is part of the key.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
    pub(crate) params: &'a Params<'a>,
    pub(crate) secret: &'a Secret,
    pub(crate) host: HostLine<'a>,
    pub(crate) fields: &'a FieldTable,
    /// The content, if it belongs to the key.
    pub(crate) body: Option<&'a [u8]>,
}

/// The `Host` lines of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum HostLine<'a> {
    /// No line, or the fields were not read.
    #[default]
    Unknown,
    /// One line.
    One(&'a HeaderValue),
    /// More than one.
    More,
}

impl<'a> HostLine<'a> {
    /// Adds a line.
    #[inline]
    pub(crate) fn and(self, line: &'a HeaderValue) -> Self {
        match self {
            Self::Unknown => Self::One(line),
            Self::One(_) | Self::More => Self::More,
        }
    }
}

impl<'a> RequestView<'a> {
    pub(crate) fn of_parts(parts: &'a request::Parts, params: &'a Params<'a>, secret: &'a Secret) -> Self {
        let request::Parts { method, uri, headers, extensions, .. } = parts;
        Self { method, uri, headers, extensions, params, secret, host: HostLine::Unknown, fields: default_fields(), body: None }
    }

    pub(crate) fn of<B>(request: &'a http::Request<B>, params: &'a Params<'a>, secret: &'a Secret) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
            params,
            secret,
            host: HostLine::Unknown,
            fields: default_fields(),
            body: None,
        }
    }

    /// Sets the `Host` lines that were found.
    #[inline]
    pub(crate) fn with_host(self, host: HostLine<'a>) -> Self {
        Self { host, ..self }
    }

    /// Sets the table that classifies request fields.
    #[inline]
    pub(crate) fn with_fields(self, fields: &'a FieldTable) -> Self {
        Self { fields, ..self }
    }

    /// Sets the content that belongs to the key.
    pub(crate) fn with_body(self, body: &'a [u8]) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Returns the method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// Returns the target as this layer sees it.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Returns the path as the client sent it. With the feature `axum` it includes a prefix that `Router::nest` has removed. Without the feature it
    /// does not.
    pub fn path(&self) -> &'a str {
        path_as_sent(self.uri, self.extensions)
    }

    /// Returns the query without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.uri.query()
    }

    /// Returns the header fields.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the whole content of a QUERY, or of a POST under a rule that [reads by POST](crate::Rule::reads_by_post) or that is for
    /// [calls](crate::Rule::rpc), if a [`RequestBodyLayer`](crate::RequestBodyLayer) has read it. A key extractor gets it. A closure for namespaces
    /// or a lifetime of a read gets it, too. It is `None` for a write: `invalidates_by` does not see the content.
    pub fn body(&self) -> Option<&'a [u8]> {
        self.body
    }

    /// Returns the extensions set by outer layers.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// Returns a route parameter, percent-decoded. Returns an empty text if the route has no parameter of this name.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or_default()
    }
}

/// Returns the target as the outermost axum router has seen it, if another layer may have changed it since. Needs the feature `axum`.
#[inline]
#[cfg_attr(not(feature = "axum"), allow(unused_variables))]
fn original(extensions: &Extensions) -> Option<&Uri> {
    #[cfg(feature = "axum")]
    return extensions.get::<axum::extract::OriginalUri>().map(|original| &original.0);
    #[cfg(not(feature = "axum"))]
    None
}

/// Returns the target as the client sent it, as far as known.
pub(crate) fn uri_as_sent<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a Uri {
    original(extensions).unwrap_or(uri)
}

/// Returns the path as the client sent it, as far as known.
pub(crate) fn path_as_sent<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a str {
    uri_as_sent(uri, extensions).path()
}

/// Returns true if the path is the one that the client sent, as far as known.
#[inline]
pub(crate) fn is_as_sent(uri: &Uri, extensions: &Extensions) -> bool {
    original(extensions).is_none_or(|original| {
        // Both are mostly the same memory.
        let (sent, now) = (original.path(), uri.path());
        ptr::eq(sent, now) || sent == now
    })
}

impl fmt::Debug for RequestView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestView").field("method", self.method).field("path", &self.path()).finish_non_exhaustive()
    }
}
