//! Keys: what makes two requests the same request.

mod extract;
mod fields;
mod header_name;
mod identity;
mod name;
mod query;
mod write;

use std::{cell::Cell, fmt, ptr, sync::Arc};

use http::{Extensions, HeaderMap, HeaderValue, Method, Uri, request};
use xxhash_rust::xxh3::xxh3_128;

use crate::{route::params::Params, secret::Secret};

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
    /// Where keys are written that are only looked up; taken while it is in use.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Does something with a place to write a key in.
#[inline]
pub(crate) fn in_scratch<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let done = write(&mut scratch);
    SCRATCH.set(scratch);
    done
}

/// The longest canonical key, in bytes; a request whose key would be longer bypasses the cache.
pub const MAX_KEY_LEN: usize = 8 << 10;

/// A canonical key: every part of it tagged and preceded by its length, so that no two different requests have the same
/// one, and its 128-bit hash (xxh3) as index. An entry keeps the whole key, and it is compared on every hit.
///
/// Secrets are in it only as keyed hashes.
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

    /// The index.
    #[inline]
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// The canonical bytes.
    #[inline]
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The key, to be looked up.
    #[inline]
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { hash: self.hash, canonical: Canonical::Kept(&self.canonical) }
    }

    pub(crate) fn heap(&self) -> usize {
        self.canonical.len() + 2 * size_of::<usize>()
    }
}

/// A key that is only looked up: borrowed from where it was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyRef<'a> {
    hash: u128,
    canonical: Canonical<'a>,
}

/// Where the canonical bytes are. As small as a slice: it is held wherever a store is waited for.
#[derive(Clone, Copy)]
enum Canonical<'a> {
    Written(&'a [u8]),
    /// They can be shared.
    Kept(&'a Arc<[u8]>),
}

impl PartialEq for Canonical<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        // What is remembered of a target and what is stored are the same bytes most of the time.
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

    /// The index.
    #[inline]
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// The canonical bytes.
    #[inline]
    pub fn canonical(&self) -> &'a [u8] {
        self.canonical.bytes()
    }

    /// Whether it is that of a rule where HTTP decides: each write to its URI clears it.
    pub(crate) fn is_of_http(&self) -> bool {
        self.canonical().first() == Some(&(write::Tag::Http as u8))
    }

    /// The hash by which it is invalidated: that of all spellings of its target.
    pub(crate) fn name(&self) -> u64 {
        name::name_of(*self).unwrap_or((self.hash >> 64) as u64 ^ self.hash as u64)
    }

    /// A key of its own; nothing is copied of one that is there.
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

/// Shows the hash alone: the parts may say what a log should not.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:032x})", self.hash)
    }
}

/// A request as rules and extractors see it: its head, the parameters of the route, never its body.
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
}

/// What a walk over the fields has found of `Host`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum HostLine<'a> {
    /// There was no walk, or no such line.
    #[default]
    Unknown,
    /// One line.
    One(&'a HeaderValue),
    /// More than one.
    More,
}

impl<'a> HostLine<'a> {
    /// With one line more.
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
        Self { method, uri, headers, extensions, params, secret, host: HostLine::Unknown, fields: default_fields() }
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
        }
    }

    /// The same, where a walk over the fields has seen all lines of `Host`.
    #[inline]
    pub(crate) fn with_host(self, host: HostLine<'a>) -> Self {
        Self { host, ..self }
    }

    /// The same under a rule that classifies the fields of its requests by this table.
    #[inline]
    pub(crate) fn with_fields(self, fields: &'a FieldTable) -> Self {
        Self { fields, ..self }
    }

    /// The method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The target as this layer sees it.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The path as the client sent it. With the feature `axum`, a prefix that `Router::nest` has taken off is back on; without it the path
    /// is what nesting has left.
    pub fn path(&self) -> &'a str {
        path_as_sent(self.uri, self.extensions)
    }

    /// The query without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.uri.query()
    }

    /// The header fields.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The extensions that layers outside of this one have left.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// A parameter of the route, percent-decoded; empty if the route has none of this name.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or_default()
    }
}

/// The target as the client sent it, as far as that is known and another layer may have changed it since: with the feature `axum` it is
/// what the outermost router has seen.
#[inline]
#[cfg_attr(not(feature = "axum"), allow(unused_variables))]
fn original(extensions: &Extensions) -> Option<&Uri> {
    #[cfg(feature = "axum")]
    return extensions.get::<axum::extract::OriginalUri>().map(|original| &original.0);
    #[cfg(not(feature = "axum"))]
    None
}

/// The target as the client sent it, as far as that is known.
pub(crate) fn uri_as_sent<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a Uri {
    original(extensions).unwrap_or(uri)
}

/// The path as the client sent it, as far as that is known.
pub(crate) fn path_as_sent<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a str {
    uri_as_sent(uri, extensions).path()
}

/// Whether the path is what the client sent, as far as that is known.
#[inline]
pub(crate) fn is_as_sent(uri: &Uri, extensions: &Extensions) -> bool {
    original(extensions).is_none_or(|original| {
        // Mostly they are one piece of memory.
        let (sent, now) = (original.path(), uri.path());
        ptr::eq(sent, now) || sent == now
    })
}

impl fmt::Debug for RequestView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestView").field("method", self.method).field("path", &self.path()).finish_non_exhaustive()
    }
}
