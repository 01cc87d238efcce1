//! Extractors: they write the parts of a request that form its key.

use std::{fmt, ptr, sync::Arc};

use http::{HeaderName, Uri, header};

use super::{
    Extracted, HostLine, Identity, KeyWriter, RequestView,
    header_name::header_name,
    identity::cookie,
    query::{Names, Query},
    write::Tag,
};
use crate::semantics::NoVarySearch;

/// Decides which requests of a rule share a key.
///
/// [`RouteAndQuery`](struct@RouteAndQuery) is the default. [`and`](Self::and) adds parts to it. The route of the rule is always in the key
/// as well, so requests of two routes never share a key. GET and HEAD share a key.
///
/// A closure from a request to an `Option<String>` is an extractor. A request with `None` bypasses the cache.
///
/// ```
/// use tower_response_cache::{KeyExtractor, RouteAndQuery, key::{Headers, RequestView}};
///
/// fn assert_extractor(_: impl KeyExtractor) {}
///
/// assert_extractor(RouteAndQuery.and(Headers::new(["accept-language"])));
/// assert_extractor(|request: &RequestView<'_>| Some(request.param("id").to_owned()));
/// ```
pub trait KeyExtractor: Send + Sync + 'static {
    /// Writes the parts of this request's key, or decides that the request bypasses the cache.
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted;

    /// Returns the identity in the key, if there is one. It replaces `{identity}` in templates.
    fn identity(&self) -> Option<&Identity> {
        None
    }

    /// Returns true if the parts depend on nothing but the scheme, the authority, the path (route parameters included) and the query, and
    /// are always equal for equal values of these. The cache remembers such a key by the target and does not write it again for each
    /// request. A scheme in the target counts as well. An authority in the target and the same authority in `Host` count as equal, as in
    /// HTTP.
    ///
    /// Defaults to `false`. [`RouteAndQuery`](struct@RouteAndQuery) with any of its options returns `true`.
    fn depends_only_on_target(&self) -> bool {
        false
    }

    /// Returns true if the extractor writes the [content](RequestView::body) of the request to the key, in a form of its own. The cache then does
    /// not add the content itself.
    ///
    /// Defaults to `false`. [`RequestBody`](crate::key::RequestBody) returns `true`.
    fn writes_body(&self) -> bool {
        false
    }

    /// Adds the parts of another extractor after the parts of this one.
    fn and<K: KeyExtractor>(self, other: K) -> And<Self, K>
    where
        Self: Sized,
    {
        And(self, other)
    }
}

impl<F> KeyExtractor for F
where
    F: Fn(&RequestView<'_>) -> Option<String> + Send + Sync + 'static,
{
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        match self(request) {
            Some(part) => {
                key.part(part);
                Extracted::Key
            }
            None => Extracted::Bypass,
        }
    }
}

impl KeyExtractor for Arc<dyn KeyExtractor> {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        (**self).extract(request, key)
    }

    fn identity(&self) -> Option<&Identity> {
        (**self).identity()
    }

    fn depends_only_on_target(&self) -> bool {
        (**self).depends_only_on_target()
    }

    fn writes_body(&self) -> bool {
        (**self).writes_body()
    }
}

/// The extractor of [`KeyExtractor::and`]: the parts of two extractors, one after the other.
#[derive(Debug, Clone)]
pub struct And<A, B>(A, B);

impl<A: KeyExtractor, B: KeyExtractor> KeyExtractor for And<A, B> {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        match self.0.extract(request, key) {
            Extracted::Key => self.1.extract(request, key),
            Extracted::Bypass => Extracted::Bypass,
        }
    }

    fn identity(&self) -> Option<&Identity> {
        self.0.identity().or(self.1.identity())
    }

    fn depends_only_on_target(&self) -> bool {
        self.0.depends_only_on_target() && self.1.depends_only_on_target()
    }

    fn writes_body(&self) -> bool {
        self.0.writes_body() || self.1.writes_body()
    }
}

/// The default key: scheme, authority, path and query.
///
/// The scheme is the one of the request target, if it has one. The authority is the one of the request target, or else the `Host` field. If
/// they differ, the key contains both. The path is the one that the client sent. If an outer layer has changed it, the key contains the
/// current path as well. The parameters of the query are sorted by name: `?b=1&a=2` and `?a=2&b=1` share a key, `?a=1&a=2` and `?a=2&a=1`
/// do not. A query whose names contain `%`, `+` or brackets, or that contains a `;` anywhere, is written as it was sent, with any option.
/// Some handlers split at `;`.
///
/// Names of parameters are case-sensitive. A handler that ignores case may distinguish `?A=1&a=2` from `?a=2&A=1`, which share a key, and
/// may read `?A=1` where [`only_query`](Self::only_query) names `a`. Such a handler needs [`query_as_sent`](Self::query_as_sent).
///
/// With every extractor, fields in which a proxy reports the client's request are in the key if a request has them: see
/// [`Rule::ignore_forwarded`](crate::Rule::ignore_forwarded).
///
/// ```
/// use http::Request;
/// use tower_response_cache::{Memory, Rule, Rules, RouteAndQuery};
///
/// let store = Memory::default();
/// let key = |rules: &Rules, target: &str| rules.key(&store, &Request::get(target).body(()).unwrap()).unwrap();
/// let minute = std::time::Duration::from_secs(60);
///
/// let rules = Rules::new().route("/rows", Rule::ttl(minute));
/// assert_eq!(key(&rules, "/rows?b=1&a=2"), key(&rules, "/rows?a=2&b=1"));
/// assert_ne!(key(&rules, "/rows?a=1&a=2"), key(&rules, "/rows?a=2&a=1"));
///
/// let rules = Rules::new().route("/rows", Rule::ttl(minute).key(RouteAndQuery.without_query(["utm_*"])));
/// assert_eq!(key(&rules, "/rows?a=1&utm_source=mail"), key(&rules, "/rows?a=1"));
/// ```
#[derive(Debug, Clone)]
pub struct RouteAndQuery {
    host: bool,
    query: Query,
}

/// The default value of [`struct@RouteAndQuery`], so that a rule can say `RouteAndQuery.without_host()`.
#[allow(non_upper_case_globals)]
pub const RouteAndQuery: RouteAndQuery = RouteAndQuery { host: true, query: Query::Sorted };

impl Default for RouteAndQuery {
    fn default() -> Self {
        RouteAndQuery
    }
}

impl RouteAndQuery {
    /// Leaves the authority out of the key, for a service that answers the same under every host name.
    pub fn without_host(mut self) -> Self {
        self.host = false;
        self
    }

    /// Keeps only these query parameters. `utm_*` names all parameters that begin with `utm_`.
    ///
    /// # Panics
    ///
    /// If a name is empty, percent-encoded, or has a `*` anywhere but at its end.
    #[track_caller]
    pub fn only_query<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.query = Query::Only(Names::new(names));
        self
    }

    /// Leaves these query parameters out of the key. `utm_*` names all parameters that begin with `utm_`.
    ///
    /// # Panics
    ///
    /// If a name is empty, percent-encoded, or has a `*` anywhere but at its end.
    #[track_caller]
    pub fn without_query<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.query = Query::Without(Names::new(names));
        self
    }

    /// Reduces the query as `No-Vary-Search` describes. Names and values are compared decoded. Their order counts unless the variance says
    /// that it does not. The rule states the variance for all its responses; the field in a response is not read.
    ///
    /// ```
    /// use tower_response_cache::{RouteAndQuery, Rule, semantics::NoVarySearch};
    ///
    /// let same = NoVarySearch::ignoring(["utm_source"]).in_any_order();
    /// let rule = Rule::http().key(RouteAndQuery.no_vary_search(same));
    /// # drop(rule);
    /// ```
    pub fn no_vary_search(mut self, variance: NoVarySearch) -> Self {
        self.query = Query::By(variance);
        self
    }

    /// Keeps the query as it was sent, unsorted, for a handler that reads it raw.
    pub fn query_as_sent(mut self) -> Self {
        self.query = Query::AsSent;
        self
    }
}

impl KeyExtractor for RouteAndQuery {
    #[inline]
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        write_scheme(request, key);
        if self.host {
            write_host(request, key);
        }
        write_path(request, key);
        self.query.write(request.query(), key);
        Extracted::Key
    }

    fn depends_only_on_target(&self) -> bool {
        true
    }
}

/// Header fields in the key: every line of each field, in the order of arrival.
///
/// [Credentials](crate::key::CredentialFields), and every value that is marked [sensitive](http::HeaderValue::is_sensitive), enter the key as
/// keyed hashes.
///
/// ```
/// use http::Request;
/// use tower_response_cache::{KeyExtractor, Memory, RouteAndQuery, Rule, Rules, key::Headers};
///
/// let store = Memory::default();
/// let rule = Rule::ttl(std::time::Duration::from_secs(60)).key(RouteAndQuery.and(Headers::new(["accept-language"])));
/// let rules = Rules::new().route("/", rule);
/// let key = |language: &str| {
///     rules.key(&store, &Request::get("/").header("accept-language", language).body(()).unwrap()).unwrap()
/// };
/// assert_ne!(key("de"), key("en"));
/// ```
#[derive(Debug, Clone)]
pub struct Headers(Box<[HeaderName]>);

impl Headers {
    /// Returns an extractor of the fields with these names.
    ///
    /// # Panics
    ///
    /// If one of them is not a field name.
    #[track_caller]
    pub fn new<I>(names: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        Self(names.into_iter().map(|name| header_name(name.as_ref())).collect())
    }
}

impl KeyExtractor for Headers {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        for name in &self.0 {
            key.tagged(Tag::Header, name.as_str().as_bytes());
            for value in request.headers.get_all(name) {
                if value.is_sensitive() || request.fields.is_secret(name) {
                    key.secret(value);
                } else {
                    key.tagged(Tag::HeaderValue, value.as_bytes());
                }
            }
        }
        Extracted::Key
    }
}

/// One cookie in the key, as a keyed hash. It distinguishes variants, not users. [`Identity::cookie`] distinguishes users.
///
/// ```
/// use http::Request;
/// use tower_response_cache::{KeyExtractor, Memory, RouteAndQuery, Rule, Rules, key::Cookie};
///
/// let store = Memory::default();
/// let rule = Rule::ttl(std::time::Duration::from_secs(60)).key(RouteAndQuery.and(Cookie::new("theme"))).ignore_credentials();
/// let rules = Rules::new().route("/", rule);
/// let key = |cookies: &str| rules.key(&store, &Request::get("/").header("cookie", cookies).body(()).unwrap()).unwrap();
/// assert_eq!(key("theme=dark; visit=1"), key("visit=2; theme=dark"));
/// assert_ne!(key("theme=dark"), key("theme=light"));
/// ```
#[derive(Debug, Clone)]
pub struct Cookie(Box<str>);

impl Cookie {
    /// Returns an extractor of the cookie with this name. A request with several such cookies bypasses the cache.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl KeyExtractor for Cookie {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        key.tagged(Tag::Cookie, self.0.as_bytes());
        match cookie(request.headers, &self.0) {
            Ok(Some(value)) => key.secret(value),
            Ok(None) => key.tagged(Tag::Absent, &[]),
            Err(_) => return Extracted::Bypass,
        }
        Extracted::Key
    }
}

/// Writes the scheme, if the target has one. A redirect from http to https must not be served as the page itself.
#[inline]
fn write_scheme(request: &RequestView<'_>, key: &mut KeyWriter<'_>) {
    if let Some(scheme) = request.uri.scheme_str() {
        key.tagged(Tag::Scheme, scheme.as_bytes());
    }
}

/// Writes the path as the client sent it, and the current path if a layer has changed it. The handler may use either.
#[inline]
fn write_path(request: &RequestView<'_>, key: &mut KeyWriter<'_>) {
    let now = request.uri.path();
    let sent = super::original(request.extensions).map_or(now, Uri::path);
    key.tagged(Tag::Path, sent.as_bytes());
    if !ptr::eq(now, sent) && now != sent {
        key.tagged(Tag::Path, now.as_bytes());
    }
}

/// Writes the authority of the target, or else `Host`, in lower case (RFC 9110, section 4.2.3).
///
/// If `Host` differs from the authority of the target, all of its lines follow, because the handler may use any of them. RFC 9112, section
/// 3.2.2, forbids this, but servers accept it.
#[inline]
fn write_host(request: &RequestView<'_>, key: &mut KeyWriter<'_>) {
    if let (HostLine::One(line), None) = (request.host, request.uri.authority()) {
        return write_name(Tag::Host, line.as_bytes(), key);
    }
    let lines = request.headers.get_all(header::HOST);
    let mut rest = lines.iter();
    let first = rest.next();
    let (host, same) = match (request.uri.authority(), first) {
        (None, Some(line)) => (line.as_bytes(), true),
        (None, None) => (&[] as &[u8], true),
        (Some(authority), None) => (authority.as_str().as_bytes(), true),
        (Some(authority), Some(line)) => {
            let host = authority.as_str().as_bytes();
            (host, line.as_bytes().eq_ignore_ascii_case(host))
        }
    };
    write_name(Tag::Host, host, key);
    if !same || rest.next().is_some() {
        key.tagged(Tag::Header, header::HOST.as_str().as_bytes());
        lines.iter().for_each(|line| write_name(Tag::HeaderValue, line.as_bytes(), key));
    }
}

#[inline]
fn write_name(tag: Tag, host: &[u8], key: &mut KeyWriter<'_>) {
    // Most names need no conversion.
    match is_plain_name(host) {
        true => key.tagged(tag, host),
        false => write_odd_name(tag, host, key),
    }
}

/// Returns true only if a name has no `@` and no capital letter. Checks eight bytes at a time.
#[inline]
fn is_plain_name(host: &[u8]) -> bool {
    // Bytes from `@` to the last one before the lower-case letters have the first of these bits and not the second.
    let odd = |eight: [u8; 8]| {
        let eight = u64::from_le_bytes(eight);
        eight & !(eight << 1) & 0x4040_4040_4040_4040
    };
    let (eights, rest) = host.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    eights.iter().fold(odd(last), |found, eight| found | odd(*eight)) == 0
}

#[cold]
fn write_odd_name(tag: Tag, host: &[u8], key: &mut KeyWriter<'_>) {
    let host = match host.iter().rposition(|b| *b == b'@') {
        None => host,
        Some(at) => {
            // Userinfo is a secret and case-sensitive.
            key.secret(&host[..at]);
            &host[at + 1..]
        }
    };
    key.tagged(tag, &host.to_ascii_lowercase());
}

impl fmt::Debug for dyn KeyExtractor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyExtractor")
    }
}
