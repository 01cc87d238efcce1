//! A rule: lifetime, key, namespaces and invalidations of a route.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, StatusCode, response};

use super::{
    audit_options::AuditOptions, content_options::ContentOptions, http::HttpOptions, message_options::MessageOptions,
    responses::ResponseRule, write_options::WriteOptions,
};
use crate::{
    key::{And, Identity, KeyExtractor, RequestView, RouteAndQuery, header_name::header_name},
    namespace::Namespace,
    semantics::Normalise,
};

/// The caching rule of a route.
///
/// With [`Rule::ttl`] the server sets the lifetime, and a client's `Cache-Control` has no effect. The response's `no-store`, `private`, `no-cache`,
/// `Set-Cookie` and `Vary` still count. With [`Rule::http`] requests and responses decide, as RFC 9111 defines.
///
/// Responses to GET requests are stored if their status is 200, 203, 204, 300, 301, 308, 404 or 410, or has a lifetime of its own (see
/// [`status`](Self::status)). HEAD requests and requests with `Range` are answered from them. A request with [credentials](crate::key::CredentialFields)
/// (`Authorization`, `Cookie` and others) bypasses the cache unless its key holds an [identity](Self::identity). Any other field that distinguishes
/// users must be in the key.
///
/// ```
/// use std::time::Duration;
/// use http::{Method, StatusCode};
/// use tower_response_cache::{Rule, Rules};
///
/// let rule = Rule::ttl(Duration::from_secs(300))
///     .status(StatusCode::NOT_FOUND, Duration::from_secs(5))
///     .stale_if_error(Duration::from_secs(3600))
///     .jitter(0.1)
///     .namespace("db_query:{table}")
///     .invalidates_on([Method::PATCH, Method::DELETE], "db_query:{table}");
/// Rules::new().try_route("/tables/{table}", rule.clone())?;
///
/// let error = Rules::new().try_route("/rows/{id}", rule).unwrap_err();
/// assert!(error.to_string().contains("the route has no parameter `{table}`: expected one of `{id}`, `{identity}` if the rule has an identity"), "{error}");
/// # Ok::<(), tower_response_cache::RulesError>(())
/// ```
#[derive(Clone)]
pub struct Rule {
    pub(super) lifetime: Lifetime,
    pub(super) statuses: Vec<(StatusCode, Duration)>,
    pub(super) stale_while_revalidate: Duration,
    pub(super) stale_if_error: Duration,
    pub(super) refresh_ahead: f64,
    pub(super) jitter: f64,
    pub(super) max_body: usize,
    pub(super) key: Arc<dyn KeyExtractor>,
    /// A description of the key, if it is made of data alone. Keys with equal descriptions are equal.
    pub(super) key_words: Option<String>,
    /// The identity at the end of the key, if all parts before it depend on the target alone.
    pub(super) identity_beside_target: Option<Identity>,
    pub(super) ignore_credentials: bool,
    pub(super) ignore_cookies: bool,
    pub(super) path_as_text: bool,
    pub(super) ignore_forwarded: bool,
    pub(super) namespaces: Vec<String>,
    pub(super) namespaces_by: Vec<Arc<NamespacesBy>>,
    /// The conditions over responses, in their order.
    pub(super) responses: Vec<ResponseRule>,
    pub(super) normalise: Normalise,
    pub(super) etag: bool,
    pub(super) groups: bool,
    /// The field of responses that lists namespaces.
    pub(super) namespaces_field: Option<HeaderName>,
    pub(super) soft_timeout: Option<Duration>,
    pub(super) distributed_lock: Option<Duration>,
    /// The options for the content of requests.
    pub(super) content: ContentOptions,
    /// The closures over messages.
    pub(super) messages: MessageOptions,
    /// The options for audits.
    pub(super) audit: AuditOptions,
    /// The options for writes on the route.
    pub(super) writes: WriteOptions,
    /// An option that was set on a rule of another kind: its name, and the expected kind.
    pub(super) misplaced: Option<(&'static str, &'static str)>,
}

/// The source of a lifetime.
#[derive(Clone)]
pub(crate) enum Lifetime {
    Fixed(Duration),
    ByRequest(Arc<TtlByRequest>),
    ByResponse(Arc<TtlByResponse>),
    /// Requests and responses (RFC 9111).
    Http(Box<HttpOptions>),
    Uncached,
}

type TtlByRequest = dyn Fn(&RequestView<'_>) -> Duration + Send + Sync;
type TtlByResponse = dyn Fn(&response::Parts) -> Option<Duration> + Send + Sync;
type NamespacesBy = dyn Fn(&RequestView<'_>) -> Vec<Namespace> + Send + Sync;

impl Rule {
    /// Returns a rule with this lifetime.
    pub fn ttl(ttl: Duration) -> Self {
        Self::new(Lifetime::Fixed(ttl))
    }

    /// Returns a rule whose lifetime is computed from the request. A response with lifetime zero is not stored.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Rule;
    ///
    /// let rule = Rule::ttl_by(|request| match request.param("table") {
    ///     "orders" => Duration::from_secs(60),
    ///     _ => Duration::from_secs(300),
    /// });
    /// # drop(rule);
    /// ```
    pub fn ttl_by<F>(ttl: F) -> Self
    where
        F: Fn(&RequestView<'_>) -> Duration + Send + Sync + 'static,
    {
        Self::new(Lifetime::ByRequest(Arc::new(ttl)))
    }

    /// Returns a rule whose lifetime is computed from the head of the response. A response with `None` or zero is not stored.
    pub fn ttl_by_response<F>(ttl: F) -> Self
    where
        F: Fn(&response::Parts) -> Option<Duration> + Send + Sync + 'static,
    {
        Self::new(Lifetime::ByResponse(Arc::new(ttl)))
    }

    /// Returns a rule under which HTTP decides, for a shared cache as RFC 9111 defines it.
    ///
    /// - The response decides about storing and freshness (section 3, section 4.2): `s-maxage`, `max-age`, `Expires`, `Age`, `no-store`, `private`,
    ///   `must-understand` and others. Without a stated lifetime it is not fresh, unless [`default_ttl`](Self::default_ttl) or
    ///   [`heuristics`](Self::heuristics) is set.
    /// - The client's directives count (section 5.2.1): `no-cache`, `max-age`, `min-fresh`, `max-stale`, `no-store`, `stale-if-error` and
    ///   `only-if-cached`. The last one gets a 504 if no stored response fits, also if the request would bypass the cache. A write always goes to the
    ///   inner service (section 4).
    /// - A stale response with `ETag` or `Last-Modified` is validated (section 4.3): the inner service gets `If-None-Match` and `If-Modified-Since`
    ///   of the cache, and its 304 updates the stored response. One validation serves all waiting requests. A weak tag in the 304 does not replace a
    ///   matching strong tag.
    /// - The response to a HEAD updates the stored response if a validator matches, and makes it stale if a validator or the length differs (section
    ///   4.3.5). A response that varies by more fields than the stored one changes nothing.
    /// - A part (206) is stored, and joined to others of the same strong tag (section 3.4). The result belongs to the namespaces of all of them.
    /// - [`stale_while_revalidate`](Self::stale_while_revalidate) and [`stale_if_error`](Self::stale_if_error) apply if the response does not state
    ///   them. `must-revalidate` overrides both.
    /// - A request with `Authorization` or `Cookie` gets, and leaves, only responses with `public`, `must-revalidate` or
    ///   `s-maxage` (section 3.5; for cookies this is more careful than the RFC), unless its key holds an
    ///   [identity](Self::identity) or the rule ignores [credentials](Self::ignore_credentials) or [cookies](Self::ignore_cookies).
    /// - `Set-Cookie` is never stored.
    ///
    /// Unsafe methods invalidate the responses of their URI (section 4.4), and those of `Location` and `Content-Location`, through
    /// [`InvalidateLayer`](crate::InvalidateLayer): give it the same rules.
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, InvalidateLayer, Memory, Rule, Rules};
    ///
    /// let store = Memory::new(16 << 20);
    /// let rules = Rules::new().fallback(Rule::http());
    /// let layers = (InvalidateLayer::new(store.clone()).rules(rules.clone()), CacheLayer::new(store).rules(rules));
    /// # drop(layers);
    /// ```
    pub fn http() -> Self {
        Self::new(Lifetime::Http(Box::default()))
    }

    /// Returns a rule that caches nothing, for a route that only invalidates, such as a logout. Give it a [namespace](Self::namespace) or
    /// an [invalidation](Self::invalidates). Without either, its writes invalidate nothing, without a warning.
    pub fn uncached() -> Self {
        Self::new(Lifetime::Uncached)
    }

    fn new(lifetime: Lifetime) -> Self {
        Self {
            lifetime,
            statuses: Vec::new(),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            refresh_ahead: 0.0,
            jitter: 0.0,
            max_body: 1 << 20,
            key: Arc::new(RouteAndQuery),
            key_words: Some(String::new()),
            identity_beside_target: None,
            ignore_credentials: false,
            ignore_cookies: false,
            path_as_text: false,
            ignore_forwarded: false,
            namespaces: Vec::new(),
            namespaces_by: Vec::new(),
            responses: Vec::new(),
            normalise: Normalise::rfc(),
            etag: false,
            groups: false,
            namespaces_field: None,
            soft_timeout: None,
            distributed_lock: None,
            content: ContentOptions::default(),
            messages: MessageOptions::default(),
            audit: AuditOptions::default(),
            writes: WriteOptions::default(),
            misplaced: None,
        }
    }

    /// Sets the lifetime of responses with a status, such as a short one for errors. With zero they are not stored. Under [`http`](Self::http) it
    /// applies if the response states no lifetime.
    ///
    /// The lifetime counts from the arrival of the response, without its `Age`, as for [`ttl`](Self::ttl). A [`default_ttl`](Self::default_ttl)
    /// counts from the time at which the response was generated.
    ///
    /// 1xx, 206 and 304 are not responses that can be stored.
    #[must_use]
    pub fn status(mut self, status: StatusCode, ttl: Duration) -> Self {
        self.statuses.retain(|(known, _)| *known != status);
        self.statuses.push((status, ttl));
        self
    }

    /// Sets the time after the lifetime in which a stale response is served while one request refreshes it in the background (RFC 5861, section 3).
    /// Defaults to zero. Each request that is served stale starts a refresh unless one is in progress. A HEAD starts none.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// Sets the time after the lifetime in which a stale response is served if the inner service answers with 500, 502, 503 or 504, or fails (RFC
    /// 5861, section 4). Defaults to zero. With zero, a softly invalidated response is not served either.
    #[must_use]
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// Refreshes a response in the background shortly before it expires (XFetch): when `-cost · beta · ln(random)` reaches the remaining lifetime.
    /// Expensive responses are refreshed earlier. A good `beta` is 1. Defaults to 0, which is off.
    #[must_use]
    pub fn refresh_ahead(mut self, beta: f64) -> Self {
        self.refresh_ahead = beta;
        self
    }

    /// Shortens each lifetime by a random share of at most this fraction, from 0 to 1, so that responses stored together do not expire together.
    /// Defaults to 0.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Limits stored bodies, in bytes. Larger bodies pass through. Defaults to 1 MiB.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets the key extractor. Defaults to [`RouteAndQuery`](struct@crate::RouteAndQuery).
    #[must_use]
    pub fn key(mut self, key: impl KeyExtractor) -> Self {
        self.key = Arc::new(key);
        self.key_words = None;
        self.identity_beside_target = None;
        self
    }

    /// Adds an identity to the key, and makes `{identity}` available in templates.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity_beside_target = self.key.depends_only_on_target().then(|| identity.clone());
        self.key_words = self.key_words.zip(identity.words()).map(|(key, identity)| format!("{key}{identity}"));
        let key: And<Arc<dyn KeyExtractor>, Identity> = self.key.and(identity);
        self.key = Arc::new(key);
        self
    }

    /// Serves the same response to all requests, also to those with credentials. **Only for a route that ignores credentials.**
    #[must_use]
    pub fn ignore_credentials(mut self) -> Self {
        self.ignore_credentials = true;
        self
    }

    /// Ignores cookies as credentials, as RFC 9111 does. `Authorization` still counts. **Only for a route whose responses depend on no cookie, or state
    /// that with `private` or `Vary: Cookie`.** Defaults to off.
    ///
    /// ```
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// // Pictures are requested with the cookies of the pages around them.
    /// let rules = Rules::new().route("/pictures/{*path}", Rule::http().ignore_cookies());
    /// # drop(rules);
    /// ```
    #[must_use]
    pub fn ignore_cookies(mut self) -> Self {
        self.ignore_cookies = true;
        self
    }

    /// States that handlers read route parameters as text, without resolving dot segments, encoded slashes and backslashes. **Not for a route whose
    /// handler opens files by its path, or forwards it.** Defaults to off.
    ///
    /// Without it a request bypasses the cache ([`Bypass::AmbiguousPath`](crate::status::Bypass::AmbiguousPath)) if a wildcard such as `{*path}`
    /// holds a dot segment, an encoded slash (`%2F`), or a backslash, encoded or not; or if another parameter holds a dot segment. Dots may be
    /// encoded, and path parameters (`..;x`) may follow them. `/static/..%2Faccount` has the pattern `/static/{*path}`, and a handler that
    /// resolves it answers for `/account`.
    ///
    /// ```
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// // Object keys are text.
    /// let rules = Rules::new().route("/objects/{*key}", Rule::http().path_as_text());
    /// # drop(rules);
    /// ```
    #[must_use]
    pub fn path_as_text(mut self) -> Self {
        self.path_as_text = true;
        self
    }

    /// Leaves forwarding fields out of the key: `X-Forwarded-Host`, `X-Forwarded-Proto`, `X-Forwarded-Port`, `X-Forwarded-Prefix`,
    /// `X-Forwarded-Scheme`, `X-Forwarded-Ssl`, `X-Forwarded-Server`, `X-Scheme`, `X-Original-URL`, `X-Original-Host`, `X-Rewrite-URL`,
    /// `X-Host`, `X-HTTP-Host-Override`, and the parameters `host` and `proto` of `Forwarded` (RFC 7239). **Only where the
    /// outermost proxy sets or removes all of them, or no handler reads them.**
    ///
    /// By default each request that has these fields has them in its key, as they were sent. Without that, a handler that builds links from
    /// them would give one client a page made from another client's fields. `X-Forwarded-For` and the parameter `for` identify the client
    /// and are never in the key. An invalidation of a key or a URI applies to all entries that differ only in these fields.
    ///
    /// ```
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// // Behind a load balancer that sets `X-Forwarded-Host` itself, for one public host.
    /// let rule = Rule::ttl(std::time::Duration::from_secs(60)).ignore_forwarded();
    /// # drop(Rules::new().fallback(rule));
    /// ```
    #[must_use]
    pub fn ignore_forwarded(mut self) -> Self {
        self.ignore_forwarded = true;
        self
    }

    /// Adds a namespace: a template such as `db_query:{table}` over the parameters of the route and `{identity}`.
    ///
    /// Ancestors (`db_query`, and the root `*`) are added automatically. A rule and its handler may name
    /// [`MAX_NAMESPACES`](crate::namespace::MAX_NAMESPACES) for an entry, ancestors not counted.
    #[must_use]
    pub fn namespace(mut self, template: &str) -> Self {
        self.namespaces.push(template.to_owned());
        self
    }

    /// Adds namespaces computed from the request.
    #[must_use]
    pub fn namespaces_by<F>(mut self, names: F) -> Self
    where
        F: Fn(&RequestView<'_>) -> Vec<Namespace> + Send + Sync + 'static,
    {
        self.namespaces_by.push(Arc::new(names));
        self
    }

    /// Sets the lifetime of a response that states none (RFC 9111, section 4.2.2), for [`http`](Self::http) rules. Defaults to zero. It counts from the
    /// time at which the response was generated, so that its `Age` is part of it (section 4.2.3).
    #[must_use]
    pub fn default_ttl(self, ttl: Duration) -> Self {
        self.http_option("default_ttl", |options| options.default_ttl = ttl)
    }

    /// Uses a tenth of the time since `Last-Modified`, at most one day, as the lifetime of a response that states none (RFC 9111, section 4.2.2), for
    /// [`http`](Self::http) rules. It takes precedence over [`default_ttl`](Self::default_ttl). Defaults to off.
    #[must_use]
    pub fn heuristics(self, on: bool) -> Self {
        self.http_option("heuristics", |options| options.heuristics = on)
    }

    /// Sets the fields that replace `Cache-Control` and `Expires` for this cache, in order of precedence (RFC 9213, section 2.2), such as
    /// `cdn-cache-control`. For [`http`](Self::http) rules. Defaults to none.
    ///
    /// # Panics
    ///
    /// If one of them is not a header name.
    #[must_use]
    #[track_caller]
    pub fn targeted<I>(self, fields: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let fields = fields.into_iter().map(|field| header_name(field.as_ref())).collect();
        self.http_option("targeted", |options| options.targets = fields)
    }

    /// Sets the time after the lifetime in which a stale response is served if the inner service fails without a response (RFC 9111, section 4.2.4),
    /// for [`http`](Self::http) rules. It is at least `stale_if_error`. Defaults to one hour. A `stale-if-error` in the response takes precedence,
    /// also if it is 0.
    #[must_use]
    pub fn stale_if_unreachable(self, window: Duration) -> Self {
        self.http_option("stale_if_unreachable", |options| options.if_unreachable = window)
    }

    /// Sets the time after the lifetime in which a response with a validator is kept for validation (RFC 9111, section 4.3), for
    /// [`http`](Self::http) rules. Defaults to one day.
    #[must_use]
    pub fn keep_for_validation(self, window: Duration) -> Self {
        self.http_option("keep_for_validation", |options| options.keep = window)
    }

    /// Sets the normalisation of the request fields named by `Vary` before they are compared (RFC 9111, section 4.1). Defaults to
    /// [`Normalise::rfc`].
    ///
    /// ```
    /// use tower_response_cache::{Rule, semantics::{Normalise, Weights}};
    ///
    /// let mut normalise = Normalise::rfc();
    /// normalise.accept_encoding = Weights::Unordered;
    /// let rule = Rule::http().normalise(normalise);
    /// # drop(rule);
    /// ```
    #[must_use]
    pub fn normalise(mut self, normalise: Normalise) -> Self {
        self.normalise = normalise;
        self
    }

    /// Adds a strong `ETag`, computed from the content, to a stored 200 without one (RFC 9110, section 8.8.3), so that clients can get a 304. Defaults
    /// to off.
    #[must_use]
    pub fn etag(mut self) -> Self {
        self.etag = true;
        self
    }

    /// Enables cache groups (RFC 9875). A response belongs to the groups in its `Cache-Groups`. All responses of a group are invalidated when the
    /// response to an unsafe request on a route with this option names the group in `Cache-Group-Invalidation`.
    ///
    /// Groups are namespaces ([`Namespace::of_cache_group`]). A response of more than 32 groups is invalidated with any group of its
    /// origin. A response with a malformed field is not stored, because no group would invalidate it. Defaults to off.
    ///
    /// ```
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().fallback(Rule::http().cache_groups());
    /// # drop(rules);
    /// ```
    #[must_use]
    pub fn cache_groups(mut self) -> Self {
        self.groups = true;
        self
    }

    /// Sets the time after which a stale response is served while the call continues in the background, if
    /// [`stale_if_error`](Self::stale_if_error) or [`stale_if_unreachable`](Self::stale_if_unreachable) allows it. Defaults to off.
    #[must_use]
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.soft_timeout = Some(limit);
        self
    }

    /// Lets one process of all that share a store fill a key, while the others wait for its entry. The lock is held for at most this time, from 100
    /// milliseconds to 5 minutes. It should be longer than a call of the inner service. If the process dies, another one takes over after this time.
    /// No effect with [`Memory`](crate::Memory). Defaults to off: each process makes one call.
    #[must_use]
    pub fn distributed_lock(mut self, lease: Duration) -> Self {
        self.distributed_lock = Some(lease);
        self
    }

    fn http_option(mut self, name: &'static str, set: impl FnOnce(&mut HttpOptions)) -> Self {
        match &mut self.lifetime {
            Lifetime::Http(options) => set(options),
            _ => self.misplaced = Some((name, "a rule under which HTTP decides (Rule::http(), or `http = true` in a file)")),
        }
        self
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}
