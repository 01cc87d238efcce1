//! The identity of the client: the part of a key that separates users.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, header};

use super::{Extracted, KeyExtractor, KeyWriter, RequestView, header_name::header_name, write::Tag};
use crate::{secret::IdentityHash, status::Bypass};

/// The place in a request that identifies the client.
///
/// In the key the identity is a keyed hash, so neither keys nor logs contain a token. `{identity}` in the namespaces of a rule becomes that
/// hash in hexadecimal, or `anonymous`. All requests without an identity share one entry. If such a request carries other credentials, it
/// bypasses the cache. [Cookies that the rule ignores](crate::Rule::ignore_cookies) do not count as credentials.
///
/// A request that states its identity twice, or with white space around the `=` of its cookie, bypasses the cache, because handlers may
/// read it differently. Such a write invalidates the entries of the first and of the last stated identity. It also invalidates those of
/// `anonymous` if a handler may see none.
///
/// A request with this identity does not bypass the cache for its other credentials, and these are not part of its key. If handlers read
/// them as well, join them in [`Identity::by`].
///
/// Keys compare an identity byte by byte. In namespaces all its spellings have one name: with white space or double quotes around it, and
/// percent-encoded. A write therefore invalidates the entries of other spellings of its identity.
///
/// ```
/// use http::Request;
/// use tower_response_cache::{Identity, Memory, Rule, Rules};
///
/// let store = Memory::default();
/// let rules = Rules::new().route("/me", Rule::ttl(std::time::Duration::from_secs(60)).identity(Identity::bearer()));
/// let key = |token: &str| {
///     let request = Request::get("/me").header("authorization", format!("Bearer {token}")).body(()).unwrap();
///     rules.key(&store, &request).unwrap()
/// };
/// assert_eq!(key("ada"), key("ada"));
/// assert_ne!(key("ada"), key("bob"));
/// assert!(!key("ada").canonical().windows(3).any(|part| part == b"ada"));
/// ```
#[derive(Clone)]
pub struct Identity {
    source: Source,
    required: bool,
}

#[derive(Clone)]
enum Source {
    Bearer,
    Header(HeaderName),
    Cookie(Box<str>),
    By(Arc<By>),
}

type By = dyn Fn(&RequestView<'_>) -> Option<String> + Send + Sync;

impl Identity {
    /// Returns the identity in the token of `Authorization: Bearer …` (RFC 6750).
    pub fn bearer() -> Self {
        Self::from_source(Source::Bearer)
    }

    /// Returns the identity in the value of a header field, such as `x-api-key`.
    ///
    /// # Panics
    ///
    /// If `name` is not a field name.
    #[track_caller]
    pub fn header(name: &str) -> Self {
        Self::from_source(Source::Header(header_name(name)))
    }

    /// Returns the identity in the value of a cookie.
    pub fn cookie(name: &str) -> Self {
        Self::from_source(Source::Cookie(name.into()))
    }

    /// Returns the identity that a closure finds, such as the user that an outer layer has stored in the request's extensions.
    pub fn by<F>(find: F) -> Self
    where
        F: Fn(&RequestView<'_>) -> Option<String> + Send + Sync + 'static,
    {
        Self::from_source(Source::By(Arc::new(find)))
    }

    /// Lets requests without an identity bypass the cache.
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Returns a description. Identities with equal descriptions are equal. A closure has none.
    pub(crate) fn words(&self) -> Option<String> {
        match self.source {
            Source::By(_) => None,
            _ => Some(format!("{self:?}, required: {}", self.required)),
        }
    }

    fn from_source(source: Source) -> Self {
        Self { source, required: false }
    }

    /// Returns the identity of a stored request, as it appears in namespaces.
    pub(crate) fn of(&self, request: &RequestView<'_>) -> Option<IdentityHash> {
        self.with(request, |secret| request.secret.name(secret)).ok().flatten()
    }

    /// Returns the identities that a write may have, as they appear in namespaces. `None` stands for a request without one. If the request
    /// states several, a handler may use the first or the last. If it uses a spelling that some handlers do not accept, it may have none.
    pub(crate) fn candidates(&self, request: &RequestView<'_>) -> Vec<Option<IdentityHash>> {
        let name = |secret: &[u8]| request.secret.name(secret);
        let mut all = match &self.source {
            Source::Bearer => first_and_last(lines(request.headers, &header::AUTHORIZATION).map(|line| match bearer(line) {
                Some(token) => (Some(name(token)), true),
                None => (spaced_bearer(line).map(name), false),
            })),
            Source::Header(field) => first_and_last(lines(request.headers, field).map(|value| (Some(name(value)), true))),
            Source::Cookie(cookie) => {
                first_and_last(cookies(request.headers, cookie).map(|(value, plain)| (Some(name(value)), plain)))
            }
            Source::By(find) => vec![find(request).map(|found| name(found.as_bytes()))],
        };
        all.dedup();
        all
    }

    /// Returns the reason for which the identity of a request, or its absence, makes the request bypass the cache.
    pub(crate) fn bypass(&self, request: &RequestView<'_>) -> Option<Bypass> {
        match self.with(request, |_| ()) {
            Err(Repeated) => Some(Bypass::IdentityAmbiguous),
            Ok(None) if self.required => Some(Bypass::IdentityMissing),
            Ok(_) => None,
        }
    }

    fn with<T>(&self, request: &RequestView<'_>, then: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Repeated> {
        match &self.source {
            Source::By(find) => Ok(find(request).map(|found| then(found.as_bytes()))),
            _ => Ok(self.in_fields(request.headers)?.map(then)),
        }
    }

    /// Returns the one identity that header fields state. Returns `None` if a closure finds it.
    #[inline]
    pub(crate) fn stated<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        self.in_fields(headers).ok().flatten()
    }

    fn in_fields<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a [u8]>, Repeated> {
        match &self.source {
            Source::Bearer => match only(headers, &header::AUTHORIZATION)? {
                Some(line) if bearer(line).is_none() && spaced_bearer(line).is_some() => Err(Repeated),
                line => Ok(line.and_then(bearer)),
            },
            Source::Header(name) => only(headers, name),
            Source::Cookie(name) => cookie(headers, name),
            Source::By(_) => Ok(None),
        }
    }
}

impl KeyExtractor for Identity {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        match self.with(request, |secret| key.identity(secret)) {
            Ok(Some(())) => Extracted::Key,
            Err(Repeated) => Extracted::Bypass,
            Ok(None) if self.required => Extracted::Bypass,
            Ok(None) => {
                key.tagged(Tag::Absent, b"identity");
                Extracted::Key
            }
        }
    }

    fn identity(&self) -> Option<&Identity> {
        Some(self)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Bearer => f.write_str("Identity::bearer()"),
            Source::Header(name) => write!(f, "Identity::header({name:?})"),
            Source::Cookie(name) => write!(f, "Identity::cookie({name:?})"),
            Source::By(_) => f.write_str("Identity::by(…)"),
        }
    }
}

/// The identity occurs several times, or in a spelling that handlers read differently.
pub(super) struct Repeated;

/// Returns the first and the last identity of a request. `false` beside one means that some handlers do not see it.
fn first_and_last(named: impl Iterator<Item = (Option<IdentityHash>, bool)>) -> Vec<Option<IdentityHash>> {
    let (mut first, mut last, mut plain) = (None, None, true);
    for (identity, is_plain) in named {
        (first, last) = (first.or(Some(identity)), Some(identity));
        plain &= is_plain;
    }
    let nobody = (first.is_none() || !plain).then_some(None);
    [first, last, nobody].into_iter().flatten().collect()
}

fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().map(|value| value.as_bytes())
}

/// Returns the only value of a field.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = lines(headers, name);
    let first = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(first) }
}

/// Returns the token after the scheme if there is extra white space.
fn spaced_bearer(credentials: &[u8]) -> Option<&[u8]> {
    let credentials = credentials.trim_ascii();
    let end = credentials.iter().position(u8::is_ascii_whitespace)?;
    let (scheme, token) = (&credentials[..end], credentials[end..].trim_ascii());
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Iterates over the values of all cookies of this name. `false` beside one means that white space surrounds its `=`, so that some handlers
/// see another cookie.
fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = (&'a [u8], bool)> {
    let pairs = lines(headers, &header::COOKIE).flat_map(|line| line.split(|b| *b == b';'));
    pairs.filter_map(move |pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|b| *b == b'=')?;
        let (sent, value) = (&pair[..at], &pair[at + 1..]);
        let plain = sent == name.as_bytes() && value.trim_ascii_start().len() == value.len();
        (sent.trim_ascii_end() == name.as_bytes()).then_some((value, plain))
    })
}

/// Returns the value of a cookie, if every handler sees the same one.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = cookies(headers, name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some((value, true)), None) => Ok(Some(value)),
        _ => Err(Repeated),
    }
}
