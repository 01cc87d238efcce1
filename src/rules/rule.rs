//! One rule: what may be cached on a route, for how long, under which key and namespaces, and what clears it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, Method, StatusCode, response};

use super::{
    HttpOptions, RulesError, RulesErrorKind,
    template::{self, Template},
};
use crate::{
    clock::{Nanos, nanos},
    content,
    groups::Origin,
    invalidate::{AfterHold, OnFenceError},
    key::{self, And, Extracted, Identity, KeyExtractor, KeyRef, KeyWriter, RequestView, RouteAndQuery},
    namespace::{MAX_NAMESPACES, Namespace, Namespaces},
    semantics::Normalise,
    service::overrides_method,
};

/// What a route allows.
///
/// [`Rule::ttl`] begins one: the server decides how long a response lives, a client's `Cache-Control` is not asked, and
/// what a response says about `no-store`, `private`, `no-cache`, `Set-Cookie` and `Vary` still counts. [`Rule::http`] begins one
/// under which requests and responses themselves decide, as RFC 9111 has it.
///
/// Responses of GET requests are stored if their status is 200, 203, 204, 300, 301, 308, 404 or 410 (or has a lifetime of
/// its own, see [`status`](Self::status)), and HEAD requests, and those for a `Range`, are answered from them. A request with
/// credentials (`Authorization`, `Cookie`, `Proxy-Authorization` or `X-Api-Key`) bypasses the cache unless its key holds an
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
    lifetime: Lifetime,
    statuses: Vec<(StatusCode, Duration)>,
    while_revalidate: Duration,
    if_error: Duration,
    early: f64,
    jitter: f64,
    max_body: usize,
    key: Arc<dyn KeyExtractor>,
    shared: bool,
    cookies_ignored: bool,
    namespaces: Vec<String>,
    namespaces_by: Vec<Arc<NamespacesBy>>,
    clears: Clears,
    clears_by: Vec<(Methods, Arc<ClearsBy>)>,
    soft: bool,
    spare_client_errors: bool,
    spare_server_errors: bool,
    normalise: Normalise,
    etag: bool,
    groups: bool,
    soft_timeout: Option<Duration>,
    lock: Option<Duration>,
    hold: Option<(Duration, AfterHold)>,
    on_fence_error: Option<OnFenceError>,
    /// An option of HTTP rules that another rule was given.
    misplaced: Option<&'static str>,
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
type ClearsBy = dyn Fn(&RequestView<'_>, &response::Parts) -> Vec<Namespace> + Send + Sync;

/// What unsafe methods on the route clear.
#[derive(Clone)]
enum Clears {
    /// Nothing was said: the rule's own namespaces.
    Own,
    Listed(Vec<(Methods, String)>),
}

/// `None`: every unsafe method.
type Methods = Option<Vec<Method>>;

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
    ///   `only-if-cached`, which is answered with 504 where nothing fits.
    /// - What is stale and has an `ETag` or `Last-Modified` is validated (section 4.3): the inner service is asked with our own
    ///   `If-None-Match` and `If-Modified-Since`, and its 304 freshens what is stored. One request asks for all.
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

    /// A rule that caches nothing: for a route that only clears, such as a logout.
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
            namespaces: Vec::new(),
            namespaces_by: Vec::new(),
            clears: Clears::Own,
            clears_by: Vec::new(),
            soft: false,
            spare_client_errors: false,
            spare_server_errors: false,
            normalise: Normalise::rfc(),
            etag: false,
            groups: false,
            soft_timeout: None,
            lock: None,
            hold: None,
            on_fence_error: None,
            misplaced: None,
        }
    }

    /// Gives responses of a status a lifetime of their own: short ones to errors, say. Zero: not stored. Under
    /// [`http`](Self::http) it holds where the response states none.
    ///
    /// 1xx, 206 and 304 are not responses that can be stored.
    #[must_use]
    pub fn status(mut self, status: StatusCode, ttl: Duration) -> Self {
        self.statuses.retain(|(known, _)| *known != status);
        self.statuses.push((status, ttl));
        self
    }

    /// For so long after its lifetime a response is still served, while one request refreshes it in the background
    /// (RFC 5861, section 3). Defaults to zero.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.while_revalidate = window;
        self
    }

    /// For so long after its lifetime a response is still served if the inner service answers with 500, 502, 503 or 504,
    /// or fails (RFC 5861, section 4). Defaults to zero.
    #[must_use]
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.if_error = window;
        self
    }

    /// Refreshes a response in the background shortly before its end, the sooner the longer it takes to compute (XFetch):
    /// when `-cost · beta · ln(random)` reaches the time left. 1 is a good `beta`. Defaults to 0, which is off.
    #[must_use]
    pub fn early_refresh(mut self, beta: f64) -> Self {
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

    /// Adds a namespace: a template such as `db_query:{table}` over the parameters of the route and `{identity}`.
    ///
    /// Ancestors (`db_query`, and the root `*`) come by themselves. An entry has at most 8, ancestors included.
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
    /// it is stale from the start.
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
    /// (RFC 9111, section 4.2.4), for [`http`](Self::http) rules; not less than `stale_if_error`. Defaults to one hour.
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
    pub fn fill_across_processes(mut self, lease: Duration) -> Self {
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
        self.clears = Clears::Listed(Vec::new());
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
    pub fn spare_client_errors(mut self) -> Self {
        self.spare_client_errors = true;
        self
    }

    /// Responses of 4xx and 5xx clear nothing: RFC 9111, section 4.4, has only what is no error clear. For handlers that answer with an
    /// error only if they have changed nothing; one that fails after its commit leaves what is stored as it was.
    ///
    /// By default they clear. What ends without a response clears in any case.
    #[must_use]
    pub fn spare_errors(mut self) -> Self {
        (self.spare_client_errors, self.spare_server_errors) = (true, true);
        self
    }

    /// How long the response of a write on this route waits for a shared store to know of it, and what is answered if that takes
    /// longer. Defaults to what [`InvalidateLayer::hold`](crate::InvalidateLayer::hold) says.
    #[must_use]
    pub fn hold(mut self, limit: Duration, then: AfterHold) -> Self {
        self.hold = Some((limit, then));
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
        if matches!(self.clears, Clears::Own) {
            self.clears = Clears::Listed(Vec::new());
        }
        match &mut self.clears {
            Clears::Listed(list) => list,
            Clears::Own => unreachable!("just replaced"),
        }
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}

/// A rule that has been checked against its route.
#[derive(Clone)]
pub(crate) struct Compiled {
    route: Option<Box<str>>,
    rule: Rule,
    /// Its key depends on the target alone.
    of_target: bool,
    namespaces: Vec<Template>,
    clears: Vec<(Methods, Template)>,
    /// Whether a handler was seen to name namespaces in its response.
    adds: Arc<AtomicBool>,
}

/// What has to be known of a request before it is handed to the inner service, for its response to be stored.
#[derive(Debug, Clone)]
pub(crate) struct ReadPlan {
    /// All that are known from the request; the key is one of them.
    pub(crate) names: Namespaces,
    /// The lifetime, where the request decides it.
    pub(crate) ttl: Option<Duration>,
    /// The origin of its cache groups, if the rule obeys them.
    pub(crate) groups_of: Option<Origin>,
}

/// What a write clears, as known before its response.
#[derive(Debug)]
pub(crate) struct Cleared {
    pub(crate) names: Vec<Namespace>,
    pub(crate) soft: bool,
}

impl Compiled {
    pub(super) fn new(route: Option<&str>, rule: Rule) -> Result<Self, RulesError> {
        let fault = |kind, why: String| Err(RulesError::new(kind, route, why));
        if route.is_some_and(|route| !route.starts_with('/')) {
            return fault(RulesErrorKind::Pattern, "a pattern begins with `/`, as in `/tables/{table}`".into());
        }
        let old = |segment: &&str| segment.starts_with([':', '*']);
        if let Some(segment) = route.and_then(|route| route.split('/').find(old)) {
            let name = segment.trim_start_matches(':');
            let why = format!("{segment:?} is no parameter but text that stands for itself; write `{{{name}}}`");
            return fault(RulesErrorKind::Pattern, why);
        }
        for (status, _) in &rule.statuses {
            if status.is_informational() || [StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED].contains(status) {
                return fault(RulesErrorKind::Setting, format!("a {} response cannot be stored", status.as_u16()));
            }
        }
        if !(0.0..=1.0).contains(&rule.jitter) {
            return fault(RulesErrorKind::Setting, format!("jitter is {}; it is a share from 0 to 1", rule.jitter));
        }
        if !(rule.early >= 0.0 && rule.early.is_finite()) {
            let why = format!("beta of early_refresh is {}; it is 0 (off) or a positive number", rule.early);
            return fault(RulesErrorKind::Setting, why);
        }
        if rule.lock.is_some_and(|lease| lease < Duration::from_millis(100) || lease > Duration::from_secs(300)) {
            let lease = rule.lock.unwrap_or_default();
            let why = format!("fill_across_processes is {lease:?}; it is a time from 100 milliseconds to 5 minutes");
            return fault(RulesErrorKind::Setting, why);
        }
        if let Some(name) = rule.misplaced {
            return fault(
                RulesErrorKind::Setting,
                format!("{name} is an option of HTTP rules alone: of Rule::http(), or with `http = true`"),
            );
        }
        let params = route.map(template::params_of).unwrap_or_default();
        let identified = rule.key.identity().is_some();
        let parse = |source: &str| Template::parse(source, route, &params, identified);
        let namespaces = rule.namespaces.iter().map(|source| parse(source)).collect::<Result<Vec<_>, _>>()?;
        let mut all = Namespaces::root();
        for (i, template) in namespaces.iter().enumerate() {
            all.push(&template.sample(&format!("x{i}")));
        }
        if all.len() > MAX_NAMESPACES {
            let names = all.iter().collect::<Vec<_>>().join(", ");
            let why = format!("its entries would belong to {} namespaces ({names}); at most 8", all.len());
            return fault(RulesErrorKind::Namespace, why);
        }
        let clears = match &rule.clears {
            Clears::Own => namespaces.iter().map(|template| (None, template.clone())).collect(),
            Clears::Listed(list) => {
                list.iter().map(|(methods, source)| Ok((methods.clone(), parse(source)?))).collect::<Result<_, RulesError>>()?
            }
        };
        let of_target = rule.key.is_of_target();
        Ok(Self { route: route.map(Into::into), rule, of_target, namespaces, clears, adds: Arc::default() })
    }

    /// Writes the whole key of a request: its route, then what the extractor says.
    #[inline]
    pub(crate) fn write_key(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        let extracted = self.write_target(request, key);
        if *request.method != Method::GET && content::is_query(request.method) {
            content::write(request, key);
        }
        extracted
    }

    /// The same without the content of a QUERY: the key of a GET.
    #[inline]
    fn write_target(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        key::begin(key, self.http().is_some(), self.route.as_deref(), request);
        self.rule.key.extract(request, key)
    }

    /// Whether the target of a GET says all that its key depends on.
    #[inline]
    pub(crate) fn is_of_target(&self) -> bool {
        self.of_target
    }

    #[inline]
    pub(crate) fn is_uncached(&self) -> bool {
        matches!(self.rule.lifetime, Lifetime::Uncached)
    }

    /// What is particular to an HTTP rule, if this is one.
    #[inline]
    pub(crate) fn http(&self) -> Option<&HttpOptions> {
        match &self.rule.lifetime {
            Lifetime::Http(options) => Some(options),
            _ => None,
        }
    }

    pub(crate) fn normalise(&self) -> Normalise {
        self.rule.normalise
    }

    pub(crate) fn tags(&self) -> bool {
        self.rule.etag
    }

    /// For how long a fill locks other processes out.
    pub(crate) fn lock(&self) -> Option<Duration> {
        self.rule.lock
    }

    /// Whether responses under this rule name namespaces of their own, as far as was seen.
    pub(crate) fn adds_namespaces(&self) -> bool {
        self.adds.load(Ordering::Relaxed)
    }

    /// A response has.
    pub(crate) fn has_added_namespaces(&self) {
        if !self.adds_namespaces() {
            self.adds.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn soft_timeout(&self) -> Option<Duration> {
        self.rule.soft_timeout
    }

    /// Whether it obeys cache groups.
    pub(crate) fn has_groups(&self) -> bool {
        self.rule.groups
    }

    /// The lifetime that responses of a status have by this rule.
    pub(crate) fn status_lifetime(&self, status: StatusCode) -> Option<Duration> {
        self.rule.statuses.iter().find(|(listed, _)| *listed == status).map(|(_, ttl)| *ttl)
    }

    /// The windows past a lifetime: while it is revalidated, and if errors.
    pub(crate) fn windows(&self) -> (Duration, Duration) {
        (self.rule.while_revalidate, self.rule.if_error)
    }

    pub(crate) fn hold(&self) -> Option<(Duration, AfterHold)> {
        self.rule.hold
    }

    pub(crate) fn on_fence_error(&self) -> Option<OnFenceError> {
        self.rule.on_fence_error
    }

    pub(crate) fn ignores_credentials(&self) -> bool {
        self.rule.shared
    }

    #[inline]
    pub(crate) fn ignores_cookies(&self) -> bool {
        self.rule.cookies_ignored
    }

    pub(crate) fn max_body(&self) -> usize {
        self.rule.max_body
    }

    pub(crate) fn while_revalidate(&self) -> Nanos {
        nanos(self.rule.while_revalidate)
    }

    pub(crate) fn if_error(&self) -> Nanos {
        nanos(self.rule.if_error)
    }

    pub(crate) fn plan(&self, request: &RequestView<'_>, key: KeyRef<'_>) -> ReadPlan {
        let mut names = Namespaces::root();
        for template in &self.namespaces {
            names.push(template.render(request, self.rule.key.identity()).as_str());
        }
        for by in &self.rule.namespaces_by {
            by(request).iter().for_each(|name| names.push(name.as_str()));
        }
        // The key itself is a name under which it can be cleared: that of the request, so that all variants go with it.
        names.push_key(key);
        if content::is_query(request.method) {
            // RFC 9111, section 4.4: whatever is stored for a URI goes with a write to it.
            let mut target = Vec::new();
            let _ = self.write_target(request, &mut KeyWriter::new(&mut target, request.secret));
            names.push_key(KeyRef::new(&target));
        }
        let ttl = match &self.rule.lifetime {
            Lifetime::Fixed(ttl) => Some(*ttl),
            Lifetime::ByRequest(ttl) => Some(ttl(request)),
            Lifetime::ByResponse(_) | Lifetime::Http(_) | Lifetime::Uncached => None,
        };
        let groups_of = self.rule.groups.then(|| Origin::of(request.uri(), request.headers()));
        ReadPlan { names, ttl, groups_of }
    }

    /// The lifetime of a response, jitter taken off; `None` if its status is not stored.
    pub(crate) fn lifetime(&self, plan: &ReadPlan, response: &response::Parts) -> Option<Duration> {
        let status = response.status;
        let ttl = match self.status_lifetime(status) {
            Some(ttl) => ttl,
            None if !STORED.contains(&status.as_u16()) => return None,
            None => match &self.rule.lifetime {
                Lifetime::ByResponse(ttl) => ttl(response).unwrap_or_default(),
                _ => plan.ttl.unwrap_or_default(),
            },
        };
        Some(self.jittered(ttl))
    }

    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        let share = 1.0 - self.rule.jitter * fastrand::f64();
        // A `Duration` times 1.0 may be more than a `Duration` holds; a rounded number of nanoseconds may be one too long.
        if self.rule.jitter == 0.0 { ttl } else { ttl.min(Duration::from_nanos((nanos(ttl) as f64 * share) as u64)) }
    }

    /// XFetch: whether this request should refresh an entry that has so much time left and cost so much to compute.
    #[inline]
    pub(crate) fn refresh_early(&self, left: Nanos, cost: Nanos) -> bool {
        if self.rule.early == 0.0 {
            return false;
        }
        // The logarithm of the smallest random number is -37: most hits are decided without drawing one.
        let reach = cost as f64 * self.rule.early;
        left as f64 <= reach * 37.0 && -reach * (1.0 - fastrand::f64()).ln() >= left as f64
    }

    /// What a write clears that is known from its request.
    pub(crate) fn clears(&self, request: &RequestView<'_>) -> Cleared {
        let identity = self.rule.key.identity();
        let mut names: Vec<_> = self
            .clears
            .iter()
            .filter(|(methods, _)| concerns(methods, request))
            .map(|(_, template)| template.render(request, identity))
            .collect();
        if matches!(self.rule.clears, Clears::Own) {
            names.extend(self.rule.namespaces_by.iter().flat_map(|by| by(request)));
        }
        Cleared { names, soft: self.rule.soft }
    }

    /// Whether what a write clears needs the head of the request once its response is there.
    pub(crate) fn clears_by_response(&self) -> bool {
        !self.rule.clears_by.is_empty()
    }

    /// What a write clears that is known only from its response.
    pub(crate) fn cleared_by(&self, request: &RequestView<'_>, response: &response::Parts) -> Vec<Namespace> {
        let concerned = self.rule.clears_by.iter().filter(|(methods, _)| concerns(methods, request));
        concerned.flat_map(|(_, by)| by(request, response)).collect()
    }

    /// Whether a response of this status may have changed something.
    pub(crate) fn may_have_changed(&self, status: StatusCode) -> bool {
        !(self.rule.spare_client_errors && status.is_client_error()
            || self.rule.spare_server_errors && status.is_server_error())
    }
}

/// The statuses that are stored unless a rule says otherwise.
const STORED: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// What a header overrides the method with is not looked into: it may be any of those that are listed.
fn concerns(methods: &Methods, request: &RequestView<'_>) -> bool {
    let overridden = || request.headers().keys().any(|name| overrides_method(name.as_str()));
    methods.as_ref().is_none_or(|methods| methods.contains(request.method()) || overridden())
}
