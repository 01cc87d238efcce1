//! Who is asking: the part of a key that keeps users apart.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, header};

use super::{Extracted, KeyExtractor, KeyWriter, RequestView, header_name::header_name, write::Tag};
use crate::{secret::IdentityHash, status::Bypass};

/// Where a request says who is asking.
///
/// In the key it is a keyed hash, so that neither keys nor logs tell a token, and `{identity}` in the namespaces of a
/// rule is that hash in hexadecimal, or `anonymous`. A request without one is cached for everybody without one, unless
/// it carries other credentials ([cookies that the rule ignores](crate::Rule::ignore_cookies) are none): then it bypasses the
/// cache. So does a request that says twice who is asking, for nobody knows which of the two the handler believes, and one with white
/// space around the `=` of its cookie. A write that does so invalidates what belongs to the first and to the last that it names, and what
/// belongs to nobody where a handler may not see either.
///
/// A request that has this identity does not bypass the cache for its other credentials, and these are not part of its key. If handlers
/// read them as well, join them in [`Identity::by`].
///
/// Keys compare an identity byte by byte. In namespaces it has one name for all its spellings: with white space or double quotes around it,
/// and percent-encoded. A write therefore invalidates what was stored under another spelling of its identity.
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
    /// The token of `Authorization: Bearer …` (RFC 6750).
    pub fn bearer() -> Self {
        Self::from_source(Source::Bearer)
    }

    /// The value of a header field, such as `x-api-key`.
    ///
    /// # Panics
    ///
    /// If that is not the name of a field.
    #[track_caller]
    pub fn header(name: &str) -> Self {
        Self::from_source(Source::Header(header_name(name)))
    }

    /// The value of a cookie.
    pub fn cookie(name: &str) -> Self {
        Self::from_source(Source::Cookie(name.into()))
    }

    /// What a closure finds, such as the user that a layer outside has left in the request's extensions.
    pub fn by<F>(find: F) -> Self
    where
        F: Fn(&RequestView<'_>) -> Option<String> + Send + Sync + 'static,
    {
        Self::from_source(Source::By(Arc::new(find)))
    }

    /// Leaves requests without an identity alone.
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    fn from_source(source: Source) -> Self {
        Self { source, required: false }
    }

    /// The identity of a request that is stored, as namespaces know it.
    pub(crate) fn of(&self, request: &RequestView<'_>) -> Option<IdentityHash> {
        self.with(request, |secret| request.secret.name(secret)).ok().flatten()
    }

    /// The identities that a write may have, as namespaces know them; `None` stands for a request without one. Where it says several times
    /// who is asking, a handler may take the first or the last. Where it says so in a spelling that some handlers do not take, it may have
    /// none.
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

    /// Why a request bypasses the cache by what it says, or does not say, about who is asking; `None` if it does not.
    pub(crate) fn bypass(&self, request: &RequestView<'_>) -> Option<Bypass> {
        match self.with(request, |_| ()) {
            Err(Repeated) => Some(Bypass::IdentityAmbiguous),
            Ok(None) if self.required => Some(Bypass::IdentityMissing),
            Ok(_) => None,
        }
    }

    fn with<T>(&self, request: &RequestView<'_>, then: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Repeated> {
        Ok(match &self.source {
            Source::Bearer => match only(request.headers, &header::AUTHORIZATION)? {
                Some(line) if bearer(line).is_none() && spaced_bearer(line).is_some() => return Err(Repeated),
                line => line.and_then(bearer).map(then),
            },
            Source::Header(name) => only(request.headers, name)?.map(then),
            Source::Cookie(name) => cookie(request.headers, name)?.map(then),
            Source::By(find) => find(request).map(|found| then(found.as_bytes())),
        })
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

/// What should stand once stands several times, or is spelled so that handlers may not agree on it.
pub(super) struct Repeated;

/// The first and the last of the identities that a request names; `false` beside one says that some handlers do not see it.
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

/// The value of a field.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = lines(headers, name);
    let first = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(first) }
}

/// The token behind the scheme, with white space where it should not be.
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

/// The values of all cookies of a name; `false` beside one says that white space surrounds its `=`, so that some handlers see another
/// cookie there.
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

/// The value of a cookie, if every handler sees the same there.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = cookies(headers, name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some((value, true)), None) => Ok(Some(value)),
        _ => Err(Repeated),
    }
}
