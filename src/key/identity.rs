//! Who is asking: the part of a key that keeps users apart.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, header};

use super::{Extracted, KeyExtractor, KeyWriter, RequestView, write::Tag};
use crate::store::IdentityHash;

/// Where a request says who is asking.
///
/// In the key it is a keyed hash, so that neither keys nor logs tell a token, and `{identity}` in the namespaces of a
/// rule is that hash in hexadecimal, or `anonymous`. A request without one is cached for everybody without one, unless
/// it carries other credentials ([cookies that the rule ignores](crate::Rule::ignore_cookies) are none): then it bypasses the
/// cache. So does a request that says twice who is asking, for nobody knows which of the two the handler believes; a write that does
/// clears what belongs to the first and to the last that it names.
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
        Self::from_source(Source::Header(super::extract::header_name(name)))
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

    /// Who is asking, as keys and namespaces know it.
    pub(crate) fn of(&self, request: &RequestView<'_>) -> Option<IdentityHash> {
        self.with(request, |secret| request.secret.identity(secret)).ok().flatten()
    }

    /// Who may be asking. Of a request that says it several times, the first and the last that it names: a handler may take either.
    pub(crate) fn either(&self, request: &RequestView<'_>) -> [Option<IdentityHash>; 2] {
        let hash = |secret: &[u8]| request.secret.identity(secret);
        match self.with(request, hash) {
            Ok(one) => [one, one],
            Err(Repeated(first, last)) => [first, last].map(|value| match self.source {
                Source::Bearer => bearer(value).map(hash),
                _ => Some(hash(value)),
            }),
        }
    }

    fn with<'a, T>(&self, request: &RequestView<'a>, then: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Repeated<'a>> {
        Ok(match &self.source {
            Source::Bearer => only(request.headers, &header::AUTHORIZATION)?.and_then(bearer).map(then),
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
            Err(Repeated(..)) => Extracted::Bypass,
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

/// What should stand once stands several times: a handler may take the first or the last of it.
pub(super) struct Repeated<'a>(&'a [u8], &'a [u8]);

/// The value of a field.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Repeated<'a>> {
    one(headers.get_all(name).iter().map(|value| value.as_bytes()))
}

fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, Repeated<'a>> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    one(pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|b| *b == b'=')?;
        (&pair[..at] == name.as_bytes()).then(|| &pair[at + 1..])
    }))
}

fn one<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, Repeated<'a>> {
    let Some(first) = values.next() else { return Ok(None) };
    values.last().map_or(Ok(Some(first)), |last| Err(Repeated(first, last)))
}
