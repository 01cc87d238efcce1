//! One rule: what may be cached on a route, for how long, under which key and namespaces, and what clears it.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode, response};

use super::{
    failure::{OnDeliveryTimeout, OnFenceError},
    http::HttpOptions,
};
use crate::{
    key::{And, Identity, KeyExtractor, RequestView, RouteAndQuery},
    namespace::Namespace,
    semantics::Normalise,
};

/// What a route allows.
///
/// [`Rule::ttl`] begins one: the server decides how long a response lives, a client's `Cache-Control` is not asked, and
/// what a response says about `no-store`, `private`, `no-cache`, `Set-Cookie` and `Vary` still counts. [`Rule::http`] begins one
/// under which requests and responses themselves decide, as RFC 9111 has it.
///
/// Responses of GET requests are stored if their status is 200, 203, 204, 300, 301, 308, 404 or 410 (or has a lifetime of
/// its own, see [`status`](Self::status)), and HEAD requests, and those for a `Range`, are answered from them. A request with
/// [credentials](crate::CredentialFields) (`Authorization`, `Cookie` and others) bypasses the cache unless its key holds an
/// [identity](Self::identity); what else tells users apart, such as a field that a proxy sets, must be in the key.
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
/// assert!(error.to_string().contains("the route has no parameter `{table}`; it knows `{id}`, `{identity}`"), "{error}");
/// # Ok::<(), tower_response_cache::RulesError>(())
/// ```
#[derive(Clone)]
pub struct Rule {
    pub(super) lifetime: Lifetime,
    pub(super) statuses: Vec<(StatusCode, Duration)>,
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    pub(super) early: f64,
    pub(super) jitter: f64,
    pub(super) max_body: usize,
    pub(super) key: Arc<dyn KeyExtractor>,
    pub(super) shared: bool,
    pub(super) cookies_ignored: bool,
    pub(super) path_as_text: bool,
    pub(super) forwarded_ignored: bool,
    pub(super) namespaces: Vec<String>,
    pub(super) namespaces_by: Vec<Arc<NamespacesBy>>,
    pub(super) clears: InvalidationRule,
    pub(super) clears_by: Vec<(Methods, Arc<InvalidationsBy>)>,
    pub(super) soft: bool,
    pub(super) skip_on_client_error: bool,
    pub(super) spare_server_errors: bool,
    pub(super) normalise: Normalise,
    pub(super) etag: bool,
    pub(super) groups: bool,
    pub(super) soft_timeout: Option<Duration>,
    pub(super) lock: Option<Duration>,
    pub(super) delivery_timeout: Option<(Duration, OnDeliveryTimeout)>,
    pub(super) on_fence_error: Option<OnFenceError>,
    /// An option of HTTP rules that another rule was given.
    pub(super) misplaced: Option<&'static str>,
}

/// Where a lifetime comes from.
#[derive(Clone)]
pub(crate) enum Lifetime {
    Fixed(Duration),
    ByRequest(Arc<TtlByRequest>),
    ByResponse(Arc<TtlByResponse>),
    /// What requests and responses say (RFC 9111).
    Http(Box<HttpOptions>),
    Uncached,
}

type TtlByRequest = dyn Fn(&RequestView<'_>) -> Duration + Send + Sync;
type TtlByResponse = dyn Fn(&response::Parts) -> Option<Duration> + Send + Sync;
type NamespacesBy = dyn Fn(&RequestView<'_>) -> Vec<Namespace> + Send + Sync;
type InvalidationsBy = dyn Fn(&RequestView<'_>, &response::Parts) -> Vec<Namespace> + Send + Sync;

/// What unsafe methods on the route clear.
#[derive(Clone)]
pub(crate) enum InvalidationRule {
    /// Nothing was said: the rule's own namespaces.
    Own,
    Listed(Vec<(Methods, String)>),
}

/// `None`: every unsafe method.
pub(crate) type Methods = Option<Vec<Method>>;

impl Rule {
    /// A rule under which responses live for so long.
    pub fn ttl(ttl: Duration) -> Self {
        Self::new(Lifetime::Fixed(ttl))
    }

    /// A rule whose lifetime is computed from the request, by the table it asks for, say. Zero: not stored.
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

    /// A rule whose lifetime is computed from the head of the response. `None` or zero: not stored.
    pub fn ttl_by_response<F>(ttl: F) -> Self
    where
        F: Fn(&response::Parts) -> Option<Duration> + Send + Sync + 'static,
    {
        Self::new(Lifetime::ByResponse(Arc::new(ttl)))
    }

    /// A rule under which HTTP itself decides: a shared cache as RFC 9111 has it.
    ///
    /// - What may be stored, and how long it is fresh, is what the response says (section 3, section 4.2): `s-maxage`, `max-age`,
    ///   `Expires`, `Age`, `no-store`, `private`, `must-understand` and their kin. Where it says nothing it is not fresh, unless
    ///   [`default_ttl`](Self::default_ttl) or [`heuristics`](Self::heuristics) says otherwise.
    /// - What a client says counts (section 5.2.1): `no-cache`, `max-age`, `min-fresh`, `max-stale`, `no-store`, `stale-if-error`, and
    ///   `only-if-cached`, which is answered with 504 where nothing fits, also if the request would bypass the cache. A write goes to the
    ///   inner service all the same (section 4).
    /// - What is stale and has an `ETag` or `Last-Modified` is validated (section 4.3): the inner service is asked with our own
    ///   `If-None-Match` and `If-Modified-Since`, and its 304 freshens what is stored. One request asks for all. A weak tag in the 304
    ///   does not replace the strong one that it matches, which names the stored bytes.
    /// - The answer to a HEAD freshens the stored response if it has a validator that matches, and makes it stale if a validator or the
    ///   length differs (section 4.3.5). If it varies by more fields than the stored response it changes nothing.
    /// - A part (206) is stored, and joined to others of the same strong tag (section 3.4). The result belongs to the namespaces of all of them.
    /// - [`stale_while_revalidate`](Self::stale_while_revalidate) and [`stale_if_error`](Self::stale_if_error) hold where the response does
    ///   not state them itself, and nothing holds against `must-revalidate`.
    /// - A request with `Authorization` or `Cookie` gets, and leaves, only responses with `public`, `must-revalidate` or
    ///   `s-maxage` (section 3.5; for cookies this is more careful than the RFC), unless its key holds an
    ///   [identity](Self::identity) or the rule ignores [credentials](Self::ignore_credentials) or [cookies](Self::ignore_cookies).
    /// - `Set-Cookie` is never stored.
    ///
    /// Unsafe methods clear the responses of their URI (section 4.4), and those of `Location` and `Content-Location`, through
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

    /// Returns a rule that caches nothing: for a route that only invalidates, such as a logout. Give it a [namespace](Self::namespace), or say
    /// what it [invalidates](Self::invalidates). Without either its writes invalidate nothing, and no warning says so.
    pub fn uncached() -> Self {
        Self::new(Lifetime::Uncached)
    }

    fn new(lifetime: Lifetime) -> Self {
        Self {
            lifetime,
            statuses: Vec::new(),
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            early: 0.0,
            jitter: 0.0,
            max_body: 1 << 20,
            key: Arc::new(RouteAndQuery),
            shared: false,
            cookies_ignored: false,
            path_as_text: false,
            forwarded_ignored: false,
            namespaces: Vec::new(),
            namespaces_by: Vec::new(),
            clears: InvalidationRule::Own,
            clears_by: Vec::new(),
            soft: false,
            skip_on_client_error: false,
            spare_server_errors: false,
            normalise: Normalise::rfc(),
            etag: false,
            groups: false,
            soft_timeout: None,
            lock: None,
            delivery_timeout: None,
            on_fence_error: None,
            misplaced: None,
        }
    }

    /// Gives responses of a status a lifetime of their own: short ones to errors, say. Zero: not stored. Under
    /// [`http`](Self::http) it holds where the response states none.
    ///
    /// The lifetime counts from the arrival of the response, whatever `Age` that has: the rule sets it, as [`ttl`](Self::ttl) does. A
    /// [`default_ttl`](Self::default_ttl) counts from when the response was made.
    ///
    /// 1xx, 206 and 304 are not responses that can be stored.
    #[must_use]
    pub fn status(mut self, status: StatusCode, ttl: Duration) -> Self {
        self.statuses.retain(|(known, _)| *known != status);
        self.statuses.push((status, ttl));
        self
    }

    /// For so long after its lifetime a response is still served, while one request refreshes it in the background
    /// (RFC 5861, section 3). Defaults to zero. Each request that is served so begins a refresh unless one is under way; a HEAD, which
    /// brings no content, does not.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.while_revalidate = window;
        self
    }

    /// For so long after its lifetime a response is still served if the inner service answers with 500, 502, 503 or 504,
    /// or fails (RFC 5861, section 4). Defaults to zero: then a response that was invalidated softly does not stand in either.
    #[must_use]
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.if_error = window;
        self
    }

    /// Refreshes a response in the background shortly before its end, the sooner the longer it takes to compute (XFetch):
    /// when `-cost · beta · ln(random)` reaches the time left. 1 is a good `beta`. Defaults to 0, which is off.
    #[must_use]
    pub fn refresh_ahead(mut self, beta: f64) -> Self {
        self.early = beta;
        self
    }

    /// Shortens each lifetime by a random part of at most this share, from 0 to 1, so that what was stored together does
    /// not expire together. Defaults to 0.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// The largest body that is stored, in bytes; larger ones pass through. Defaults to 1 MiB.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// What makes two requests the same. Defaults to [`RouteAndQuery`].
    #[must_use]
    pub fn key(mut self, key: impl KeyExtractor) -> Self {
        self.key = Arc::new(key);
        self
    }

    /// Adds who is asking to the key, and so makes `{identity}` known to the templates.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        let key: And<Arc<dyn KeyExtractor>, Identity> = self.key.and(identity);
        self.key = Arc::new(key);
        self
    }

    /// Serves the same response to everybody, also to requests with credentials whose key holds no identity. **Only for a route that ignores them.**
    #[must_use]
    pub fn ignore_credentials(mut self) -> Self {
        self.shared = true;
        self
    }

    /// A `Cookie` is no credential under this rule: whatever cookies a request carries, it gets and leaves what others do, as RFC 9111 has it;
    /// `Authorization` still counts. **Only for a route whose responses depend on no cookie, or say so with `private` or `Vary: Cookie`.**
    /// Defaults to no.
    ///
    /// ```
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// // Pictures, asked for with whatever cookies the pages around them have set.
    /// let rules = Rules::new().route("/pictures/{*path}", Rule::http().ignore_cookies());
    /// # drop(rules);
    /// ```
    #[must_use]
    pub fn ignore_cookies(mut self) -> Self {
        self.cookies_ignored = true;
        self
    }

    /// States that handlers take the parameters of the route as text: dot segments, encoded slashes and backslashes in them mean nothing.
    /// **Not for a route whose handler opens files by its path, or forwards it.** Defaults to no.
    ///
    /// Without it a request bypasses the cache ([`Bypass::AmbiguousPath`](crate::Bypass::AmbiguousPath)) if a wildcard such as `{*path}`
    /// holds a dot segment, an encoded slash (`%2F`), or a backslash, encoded or not; or if another parameter holds a dot segment. Dots may be
    /// encoded, and path parameters (`..;x`) may follow them. `/static/..%2Faccount` has the pattern `/static/{*path}`, and a handler that
    /// resolves it answers for `/account`.
    ///
    /// ```
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// // Keys of objects, which may hold anything.
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
    /// By default they are in the key of each request that has them, as they were sent: a handler that builds links from them would
    /// otherwise answer one client with a page made for another's fields. `X-Forwarded-For` and the parameter `for` identify the client and
    /// are never in the key. An invalidation of a key or a URI applies to all entries that differ only in these fields.
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
        self.forwarded_ignored = true;
        self
    }

    /// Adds a namespace: a template such as `db_query:{table}` over the parameters of the route and `{identity}`.
    ///
    /// Ancestors (`db_query`, and the root `*`) come by themselves. A rule and its handler may
    /// name [`MAX_NAMESPACES`](crate::MAX_NAMESPACES) for an entry, ancestors not counted.
    #[must_use]
    pub fn namespace(mut self, template: &str) -> Self {
        self.namespaces.push(template.to_owned());
        self
    }

    /// Adds namespaces that a closure computes from the request.
    #[must_use]
    pub fn namespaces_by<F>(mut self, names: F) -> Self
    where
        F: Fn(&RequestView<'_>) -> Vec<Namespace> + Send + Sync + 'static,
    {
        self.namespaces_by.push(Arc::new(names));
        self
    }

    /// The lifetime of a response that states none (RFC 9111, section 4.2.2), for [`http`](Self::http) rules. Defaults to zero:
    /// it is stale from the start. It takes the place of a stated lifetime, and counts as one does: from when the response was made, so
    /// that its `Age` is part of it (section 4.2.3).
    #[must_use]
    pub fn default_ttl(self, ttl: Duration) -> Self {
        self.http_option("default_ttl", |options| options.default_ttl = ttl)
    }

    /// Whether a response that states no lifetime is fresh for a tenth of the time since its `Last-Modified`, a day at most
    /// (RFC 9111, section 4.2.2), for [`http`](Self::http) rules; it goes before [`default_ttl`](Self::default_ttl). Defaults to no.
    #[must_use]
    pub fn heuristics(self, on: bool) -> Self {
        self.http_option("heuristics", |options| options.heuristics = on)
    }

    /// Fields that take the place of `Cache-Control` and `Expires` for this cache, the first that is there
    /// (RFC 9213, section 2.2): `cdn-cache-control`, or one of your own. For [`http`](Self::http) rules. Defaults to none.
    ///
    /// # Panics
    ///
    /// If one is no field name.
    #[must_use]
    #[track_caller]
    pub fn targeted<I>(self, fields: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let name = |field: I::Item| match HeaderName::from_bytes(field.as_ref().as_bytes()) {
            Ok(name) => name,
            Err(_) => panic!("{:?} is no field name", field.as_ref()),
        };
        let fields = fields.into_iter().map(name).collect();
        self.http_option("targeted", |options| options.targets = fields)
    }

    /// For so long after its lifetime a response is still served if the inner service fails without any answer
    /// (RFC 9111, section 4.2.4), for [`http`](Self::http) rules; not less than `stale_if_error`. Defaults to one hour. A response that
    /// states `stale-if-error` is served for that long and no longer, also if it states 0.
    #[must_use]
    pub fn stale_if_unreachable(self, window: Duration) -> Self {
        self.http_option("stale_if_unreachable", |options| options.if_unreachable = window)
    }

    /// For so long after its lifetime a response with a validator is kept, to be asked about rather than fetched again
    /// (RFC 9111, section 4.3), for [`http`](Self::http) rules. Defaults to one day.
    #[must_use]
    pub fn keep_for_validation(self, window: Duration) -> Self {
        self.http_option("keep_for_validation", |options| options.keep = window)
    }

    /// How far the request fields that a response varies by are reduced before they are compared (RFC 9111, section 4.1).
    /// Defaults to [`Normalise::rfc`].
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

    /// Gives a stored 200 without `ETag` a strong one (RFC 9110, section 8.8.3), computed once from its content, so that clients
    /// get a 304 for what they have. Defaults to no.
    #[must_use]
    pub fn etag(mut self) -> Self {
        self.etag = true;
        self
    }

    /// Obeys cache groups (RFC 9875): a response belongs to the groups of its origin that its `Cache-Groups` names, and all that belong
    /// to a group are cleared when the response to an unsafe request on a route with this option names it in `Cache-Group-Invalidation`.
    ///
    /// Groups are namespaces ([`Namespace::of_cache_group`]). A response of more than four groups is cleared with any group of its
    /// origin. One whose field is malformed is not stored, since nobody knows what would clear it. Defaults to no.
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

    /// If the inner service has not answered after so long, and a stale response may stand in
    /// ([`stale_if_error`](Self::stale_if_error), [`stale_if_unreachable`](Self::stale_if_unreachable)), it is served, and the
    /// fill goes on in the background. Defaults to never.
    #[must_use]
    pub fn soft_timeout(mut self, limit: Duration) -> Self {
        self.soft_timeout = Some(limit);
        self
    }

    /// Has one process of all that share a store fill, while the others wait for what it stores: for so long at most, from 100
    /// milliseconds to 5 minutes, which should be more than the inner service takes. If that process dies, another takes over after
    /// this time. No effect with a store of this process alone. Defaults to off: each process makes one call.
    #[must_use]
    pub fn distributed_lock(mut self, lease: Duration) -> Self {
        self.lock = Some(lease);
        self
    }

    fn http_option(mut self, name: &'static str, set: impl FnOnce(&mut HttpOptions)) -> Self {
        match &mut self.lifetime {
            Lifetime::Http(options) => set(options),
            _ => self.misplaced = Some(name),
        }
        self
    }

    /// Says what unsafe methods on this route clear, as a template.
    ///
    /// Without this and its kin, they clear the rule's own [namespaces](Self::namespace).
    #[must_use]
    pub fn invalidates(self, template: &str) -> Self {
        self.clears(None, template)
    }

    /// Says what these methods on this route clear. Methods for which nothing is said then clear nothing.
    #[must_use]
    pub fn invalidates_on(self, methods: impl IntoIterator<Item = Method>, template: &str) -> Self {
        self.clears(Some(methods.into_iter().collect()), template)
    }

    /// Says what unsafe methods on this route clear, computed from the request and the head of the response.
    #[must_use]
    pub fn invalidates_by<F>(mut self, names: F) -> Self
    where
        F: Fn(&RequestView<'_>, &response::Parts) -> Vec<Namespace> + Send + Sync + 'static,
    {
        self.clears_listed();
        self.clears_by.push((None, Arc::new(names)));
        self
    }

    /// Unsafe methods on this route clear nothing but what the handler's response names.
    #[must_use]
    pub fn invalidates_nothing(mut self) -> Self {
        self.clears = InvalidationRule::Listed(Vec::new());
        self.clears_by.clear();
        self
    }

    /// What this route clears becomes stale rather than dead. Not for writes that must show at once.
    #[must_use]
    pub fn invalidates_softly(mut self) -> Self {
        self.soft = true;
        self
    }

    /// Responses of 4xx clear nothing: for handlers that answer so only if they have changed nothing.
    ///
    /// By default they clear, as every outcome does that may have committed something.
    #[must_use]
    pub fn skip_on_client_error(mut self) -> Self {
        self.skip_on_client_error = true;
        self
    }

    /// Responses of 4xx and 5xx clear nothing: RFC 9111, section 4.4, has only what is no error clear. For handlers that answer with an
    /// error only if they have changed nothing; one that fails after its commit leaves what is stored as it was.
    ///
    /// By default they clear. What ends without a response clears in any case.
    #[must_use]
    pub fn skip_on_error(mut self) -> Self {
        (self.skip_on_client_error, self.spare_server_errors) = (true, true);
        self
    }

    /// How long the response of a write on this route waits for a shared store to know of it, and what is answered if that takes
    /// longer. Defaults to what [`InvalidateLayer::delivery_timeout`](crate::InvalidateLayer::delivery_timeout) says.
    #[must_use]
    pub fn delivery_timeout(mut self, limit: Duration, then: OnDeliveryTimeout) -> Self {
        self.delivery_timeout = Some((limit, then));
        self
    }

    /// What becomes of a write on this route for which a strict store can set no fence. Defaults to what
    /// [`InvalidateLayer::on_fence_error`](crate::InvalidateLayer::on_fence_error) says.
    #[must_use]
    pub fn on_fence_error(mut self, then: OnFenceError) -> Self {
        self.on_fence_error = Some(then);
        self
    }

    fn clears(mut self, methods: Methods, template: &str) -> Self {
        self.clears_listed().push((methods, template.to_owned()));
        self
    }

    fn clears_listed(&mut self) -> &mut Vec<(Methods, String)> {
        if matches!(self.clears, InvalidationRule::Own) {
            self.clears = InvalidationRule::Listed(Vec::new());
        }
        match &mut self.clears {
            InvalidationRule::Listed(list) => list,
            InvalidationRule::Own => unreachable!("just replaced"),
        }
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}
