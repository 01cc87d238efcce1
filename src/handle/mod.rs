//! The handle of an application: one store, its rules and options, the layers made from them, and invalidation.

pub(crate) mod any_store;
mod hottest;
#[cfg(feature = "redis")]
pub(crate) mod kept;
pub(crate) mod matching;
mod reload;

use std::future::Future;
#[cfg(feature = "dashboard")]
use std::sync::Arc;

use http::{Method, Request, Uri};
use http_body::Body;

use self::{
    any_store::AnyStore,
    matching::{Match, NoMatch},
};
#[cfg(feature = "dashboard")]
use crate::state::LayerState;
use crate::{
    cdn::{CacheTags, PurgeHook, worker::AddedHook},
    explain::{Explanation, RuleSummary, predict},
    invalidate::{layer::InvalidateLayer, uri::invalidate_uri},
    key::Key,
    layer::CacheLayer,
    lint::{Evidence, Finding, Lint},
    namespace::{InvalidNamespace, Namespace},
    request_body::RequestBodyLayer,
    rules::{Rules, live::LiveRules, rule::Rule},
    stats::Stats,
    store::{
        Store,
        backend::{Backend, Context},
        error::StoreError,
    },
    switch::Switch,
};

/// The response cache of an application.
///
/// It is built once from a store, rules and options. It makes the layers, invalidates, and reports. It has no type parameter: an application
/// uses [`Memory`](crate::Memory) in its tests and `Redis` in production, and no handler shows the difference. Clones are cheap and share
/// everything, so that it can be a part of the state of an axum application.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, extract::{Path, State}, http::StatusCode, routing::{get, post}};
/// use tower_response_cache::{Memory, ResponseCache, Rule};
///
/// /// The change arrives by a message queue, and not through `InvalidateLayer`.
/// async fn changed(State(cache): State<ResponseCache>, Path(table): Path<String>) -> StatusCode {
///     match cache.invalidate([format!("db_query:{table}")]).await {
///         Ok(()) => StatusCode::NO_CONTENT,
///         Err(_) => StatusCode::SERVICE_UNAVAILABLE,
///     }
/// }
///
/// let cache = ResponseCache::new(Memory::new(64 << 20))
///     .route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"))
///     .cache_status("my-app");
/// let app: Router = Router::new()
///     .route("/tables/{table}", get(async || "rows").post(async || StatusCode::CREATED))
///     .route("/changed/{table}", post(changed))
///     .layer(cache.layer())
///     .with_state(cache);
/// # drop(app);
/// ```
///
/// [`CacheLayer::new`] and [`InvalidateLayer::new`] build the layers by hand, also with a rule for a single route.
#[derive(Debug, Clone)]
#[must_use]
pub struct ResponseCache {
    cache: CacheLayer<AnyStore>,
    invalidate: InvalidateLayer<AnyStore>,
}

/// Options. Set them before layers are made: a layer keeps the options that it was made with.
impl ResponseCache {
    /// Returns a cache over a store: [`Memory`](crate::Memory), `Redis`, or an [`AnyStore`] that is one of the two. It has no rules.
    pub fn new(store: impl Into<AnyStore>) -> Self {
        let store = store.into();
        Self { cache: CacheLayer::new(store.clone()), invalidate: InvalidateLayer::new(store) }
    }

    /// Sets the rules of both layers. Replaces earlier rules.
    pub fn rules(self, rules: Rules) -> Self {
        let rules = LiveRules::new(rules);
        Self { cache: self.cache.with_rules(rules.clone()), invalidate: self.invalidate.with_rules(rules) }
    }

    /// Adds a route and its rule to both layers.
    ///
    /// # Panics
    ///
    /// If the pattern or the rule is invalid: see [`Rules::route`].
    #[track_caller]
    pub fn route(self, pattern: &str, rule: Rule) -> Self {
        let rules = self.cache.rules.current().route(pattern, rule);
        self.rules(rules)
    }

    /// Sends a `Cache-Status` field (RFC 9211) under this name with every response that a rule covers, and with every write whose
    /// invalidation was not delivered. Off by default.
    ///
    /// # Panics
    ///
    /// If the name is not a token (RFC 9110, section 5.6.2) that begins with a letter.
    #[track_caller]
    pub fn cache_status(self, name: &str) -> Self {
        Self { cache: self.cache.cache_status(name), invalidate: self.invalidate.cache_status(name) }.separated()
    }

    /// Adds the [`CacheStatus`](crate::CacheStatus) to the extensions of responses that a rule covers. Defaults to `false`:
    /// see [`CacheLayer::status_extension`].
    pub fn status_extension(self, on: bool) -> Self {
        self.map_cache_layer(|layer| layer.status_extension(on))
    }

    /// Sends the namespaces of each response that a rule covers, in the field of a CDN. Off by default: see [`CacheLayer::cache_tags`].
    pub fn cache_tags(self, tags: CacheTags) -> Self {
        self.map_cache_layer(|layer| layer.cache_tags(tags))
    }

    /// Adds a hook that is called with the namespaces after each invalidation, for purging a CDN. It belongs to the store, so that invalidations
    /// through other handles of the store call it, too. Several hooks are called independently of each other.
    pub fn after_invalidation(self, hook: PurgeHook) -> Self {
        self.store().after_invalidation(hook);
        self
    }

    /// Turns caching on or off, by a `bool` or by a [`Switch`] of the application. Defaults to on. [`CacheLayer::enabled`] describes the
    /// effect. [`set_enabled`](Self::set_enabled) changes it at run time.
    pub fn enabled(self, enabled: impl Into<Switch>) -> Self {
        self.map_cache_layer(|layer| layer.enabled(enabled))
    }

    /// Turns shadow mode on or off, by a `bool` or by a [`Switch`] of the application. Defaults to off. [`CacheLayer::shadow`] describes the effect.
    /// [`set_shadow`](Self::set_shadow) changes it at run time.
    pub fn shadow(self, shadow: impl Into<Switch>) -> Self {
        self.map_cache_layer(|layer| layer.shadow(shadow))
    }

    /// Records histograms with this name in the label `cache`: see [`CacheLayer::metrics`].
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn metrics(self, cache: impl Into<metrics::SharedString>) -> Self {
        self.map_cache_layer(|layer| layer.metrics(cache))
    }

    /// Sets other options of the [`CacheLayer`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, ResponseCache, invalidate::OnFenceError};
    ///
    /// let cache = ResponseCache::new(Memory::default())
    ///     .map_cache_layer(|layer| layer.wait_limit(Duration::from_secs(5)))
    ///     .map_invalidate_layer(|layer| layer.on_fence_error(OnFenceError::Proceed));
    /// # drop(cache);
    /// ```
    pub fn map_cache_layer(self, options: impl FnOnce(CacheLayer<AnyStore>) -> CacheLayer<AnyStore>) -> Self {
        Self { cache: options(self.cache), ..self }.separated()
    }

    /// Sets other options of the [`InvalidateLayer`].
    pub fn map_invalidate_layer(self, options: impl FnOnce(InvalidateLayer<AnyStore>) -> InvalidateLayer<AnyStore>) -> Self {
        Self { invalidate: options(self.invalidate), ..self }.separated()
    }

    /// Separates the rules of this handle from those of the handles that it was cloned from: a reload replaces the rules of all layers of a handle.
    fn separated(self) -> Self {
        let Self { cache, invalidate } = self;
        let of_writes = match cache.rules.is(&invalidate.rules) {
            true => None,
            false => Some(LiveRules::new(invalidate.rules.current())),
        };
        let rules = LiveRules::new(cache.rules.current());
        Self { invalidate: invalidate.with_rules(of_writes.unwrap_or_else(|| rules.clone())), cache: cache.with_rules(rules) }
    }
}

/// Layers. They can be applied any number of times. All of them share entries and fills.
impl ResponseCache {
    /// Returns both layers in the right order: the [`InvalidateLayer`] outside, the [`CacheLayer`] inside.
    ///
    /// The pair is a layer itself, whose first part is the outer one. It goes into axum's `Router::layer` and `MethodRouter::layer` and
    /// into tower's `ServiceBuilder::layer`.
    pub fn layer(&self) -> (InvalidateLayer<AnyStore>, CacheLayer<AnyStore>) {
        (self.invalidate_layer(), self.cache_layer())
    }

    /// Returns the layers of [`layer`](Self::layer) with a [`RequestBodyLayer`] outside of them, for rules that [read by
    /// POST](Rule::reads_by_post) or that [name namespaces by messages](crate::message), and for QUERY. The inner service gets a
    /// [`ReadBody`](crate::request_body::ReadBody) as the body of its requests.
    pub fn layer_with_request_bodies(&self) -> (RequestBodyLayer, InvalidateLayer<AnyStore>, CacheLayer<AnyStore>) {
        (self.request_body_layer(), self.invalidate_layer(), self.cache_layer())
    }

    /// Returns a [`RequestBodyLayer`] alone, with the rules of this cache. Each call returns a layer with a limit of its own for the bodies that
    /// are being read.
    pub fn request_body_layer(&self) -> RequestBodyLayer {
        RequestBodyLayer::of(self.cache.rules.clone())
    }

    /// Returns the [`CacheLayer`] alone.
    pub fn cache_layer(&self) -> CacheLayer<AnyStore> {
        self.cache.clone()
    }

    /// Returns the [`InvalidateLayer`] alone.
    pub fn invalidate_layer(&self) -> InvalidateLayer<AnyStore> {
        self.invalidate.clone()
    }
}

/// Use at run time.
impl ResponseCache {
    /// Invalidates namespaces: see [`Store::invalidate`].
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use tower_response_cache::{Memory, ResponseCache};
    ///
    /// let cache = ResponseCache::new(Memory::default());
    /// cache.invalidate(["db_query:orders", "db_query:customers"]).await?;
    /// # Ok::<(), tower_response_cache::StoreError>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// If a name is not valid, or if the store cannot be reached.
    pub async fn invalidate<I>(&self, names: I) -> Result<(), StoreError>
    where
        I: IntoIterator + Send,
        I::Item: TryInto<Namespace, Error: Into<InvalidNamespace>>,
    {
        self.store().invalidate(names).await
    }

    /// Makes the entries of namespaces stale: see [`Store::invalidate_softly`].
    ///
    /// # Errors
    ///
    /// The errors of [`invalidate`](Self::invalidate).
    pub async fn invalidate_softly<I>(&self, names: I) -> Result<(), StoreError>
    where
        I: IntoIterator + Send,
        I::Item: TryInto<Namespace, Error: Into<InvalidNamespace>>,
    {
        self.store().invalidate_softly(names).await
    }

    /// Invalidates the entries of one key: see [`Store::invalidate_key`]. [`matches`](Self::matches) and [`Rules::key`] return the key of a
    /// request.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached: see [`invalidate`](Self::invalidate).
    pub async fn invalidate_key(&self, key: &Key) -> Result<(), StoreError> {
        self.store().invalidate_key(key).await
    }

    /// Invalidates the stored responses of a URI, for a change that arrives in another way than by a request through [`layer`](Self::layer).
    ///
    /// The rules are found as for a successful unsafe request to the URI. Each of them invalidates
    ///
    /// - the namespaces that it names for writes to the route, with any method. `{identity}` stands for clients without an identity.
    ///   Closures that need a response or a message ([`Rule::invalidates_by`], [`Rule::invalidates_from_request`]) are not called.
    /// - the response to GET of the URI, in [all spellings](crate::invalidate#equivalent-targets). Where HTTP decides ([`Rule::http`]), it
    ///   is invalidated for all clients (RFC 9111, section 4.4). Other rules invalidate the response to a request without header fields.
    ///   Their entries by an identity, or by a field in the key, are invalidated by namespaces alone.
    ///
    /// A key holds the authority of its request unless the rule says [`without_host`](crate::key::RouteAndQuery::without_host). A URI
    /// without an authority, such as `/orders?page=1`, therefore reaches such an entry only by its namespaces. To reach the entry by its
    /// key, give the authority that clients send in `Host`: `http://api.example/orders?page=1`.
    ///
    /// It is a soft invalidation if all rules of the URI [invalidate softly](Rule::invalidates_softly). A URI that no rule covers
    /// invalidates nothing.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, ResponseCache, Rule};
    ///
    /// let rule = Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}");
    /// let cache = ResponseCache::new(Memory::default()).route("/tables/{table}", rule);
    /// cache.invalidate_uri(&"/tables/orders?page=1".parse().unwrap()).await?;
    /// # Ok::<(), tower_response_cache::StoreError>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// If the store cannot be reached: see [`Store::invalidate`].
    pub async fn invalidate_uri(&self, uri: &Uri) -> Result<(), StoreError> {
        invalidate_uri(self.store(), &self.invalidate.rules, uri).await
    }

    /// Waits until no hook of [`after_invalidation`](Self::after_invalidation) has anything left to do: see [`Store::wait_for_purges`].
    pub async fn wait_for_purges(&self) {
        self.store().wait_for_purges().await;
    }

    /// Returns the keyed hash that stands for a token in `{identity}`: see [`Store::identity`].
    pub fn identity(&self, secret: impl AsRef<[u8]>) -> String {
        self.store().identity(secret)
    }

    /// Returns the counters since the store was made, and its size.
    pub fn stats(&self) -> Stats {
        self.store().stats()
    }

    /// Returns the patterns of the rules that have matched no request yet: see [`Rules::unmatched`].
    pub fn unmatched(&self) -> impl Iterator<Item = String> {
        self.cache.rules.with(|rules| rules.unmatched().map(str::to_owned).collect::<Vec<_>>()).into_iter()
    }

    /// Tells if caching is on.
    pub fn is_enabled(&self) -> bool {
        self.cache.options.enabled.is_on()
    }

    /// Turns caching on or off for all clones and for all layers made from them. [`CacheLayer::enabled`] describes the effect.
    pub fn set_enabled(&self, on: bool) {
        self.cache.options.enabled.set(on);
    }

    /// Tells if shadow mode is on for all rules. A rule with [`Rule::shadow`] does not count.
    pub fn is_shadow(&self) -> bool {
        self.cache.options.shadow.is_on()
    }

    /// Turns shadow mode on or off for all clones and for all layers made from them. [`CacheLayer::shadow`] describes the effect. A rule with
    /// [`Rule::shadow`] stays in shadow mode.
    pub fn set_shadow(&self, on: bool) {
        self.cache.options.shadow.set(on);
    }

    /// Returns the rule that covers a read, with its key and its namespaces, or the reason for which none does.
    ///
    /// The request has this method and target, no header fields and no content. A target with an authority stands for a request with that
    /// `Host`. The path is the one that the layer sees: inside a nested router, it has no prefix. The switch of
    /// [`enabled`](Self::enabled) does not count. Nothing is looked up, and no counter changes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Method;
    /// use tower_response_cache::{Memory, NoMatch, ResponseCache, Rule, status::Bypass};
    ///
    /// let rule = Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}");
    /// let cache = ResponseCache::new(Memory::default()).route("/tables/{table}", rule);
    ///
    /// let found = cache.matches(&Method::GET, &"/tables/orders?page=1".parse().unwrap()).unwrap();
    /// assert_eq!(found.route(), Some("/tables/{table}"));
    /// assert_eq!(found.namespaces()[0].as_str(), "db_query:orders");
    ///
    /// let write = cache.matches(&Method::POST, &"/tables/orders".parse().unwrap());
    /// assert_eq!(write.unwrap_err(), NoMatch::Bypass(Bypass::Method));
    /// let other = cache.matches(&Method::GET, &"/health".parse().unwrap());
    /// assert_eq!(other.unwrap_err().to_string(), "no rule covers the path");
    /// ```
    ///
    /// # Errors
    ///
    /// If no rule covers the path, if the rule caches nothing, or if the request bypasses the cache.
    pub fn matches(&self, method: &Method, uri: &Uri) -> Result<Match, NoMatch> {
        self.cache.rules.with(|rules| matching::find(self.store(), rules, method, uri))
    }

    /// Explains a request: its rule, its key, its namespaces, the stored response, the outcome that it would get now, and the remedy if that is no
    /// hit.
    ///
    /// The explanation is made with the functions of the real lookup. It counts nothing, fills nothing and refreshes nothing, and no entry counts as
    /// used. A shared store is read once. For a rule that reads the content of requests, call it inside of a
    /// [`request_body_layer`](Self::request_body_layer).
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use http::Request;
    /// use tower_response_cache::{Memory, Outcome, ResponseCache, Rule, status::{Bypass, Miss}};
    ///
    /// let rule = Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}");
    /// let cache = ResponseCache::new(Memory::default()).route("/tables/{table}", rule);
    ///
    /// let explanation = cache.explain(&Request::get("/tables/orders").body(String::new()).unwrap()).await;
    /// assert_eq!(explanation.outcome(), Some(Outcome::Miss(Miss::Absent)));
    /// assert_eq!(explanation.namespaces()[0].as_str(), "db_query:orders");
    ///
    /// let with_cookie = Request::get("/tables/orders").header("cookie", "id=1").body(String::new()).unwrap();
    /// let explanation = cache.explain(&with_cookie).await;
    /// assert_eq!(explanation.outcome(), Some(Outcome::Bypass(Bypass::Credentials)));
    /// assert!(explanation.remedy().unwrap().contains("identity"));
    /// # });
    /// ```
    pub fn explain<B: Body>(&self, request: &Request<B>) -> impl Future<Output = Explanation> + Send + use<B> {
        let shared = self.cache.shared();
        let found = predict::begin(&shared, request);
        async move { found.explanation(&shared).await }
    }

    /// Returns the summaries of all rules, in the order in which they were added.
    pub fn rule_summaries(&self) -> Vec<RuleSummary> {
        self.cache.rules.with(Rules::summaries)
    }

    /// Returns the state that the cache layers share.
    #[cfg(feature = "dashboard")]
    pub(crate) fn state(&self) -> Arc<LayerState<AnyStore>> {
        self.cache.shared()
    }

    /// Returns the mistakes in the configuration that show so far, with the default options of a [`Lint`].
    ///
    /// At the start, it finds mistakes in the rules. Others show in the traffic: call it again after a while.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, ResponseCache, Rule, lint::FindingKind};
    ///
    /// let minute = Duration::from_secs(60);
    /// let cache = ResponseCache::new(Memory::default())
    ///     .route("/tables/{table}", Rule::ttl(minute).namespace("rows:{table}").invalidates("row"))
    ///     .route("/rows/{id}", Rule::ttl(minute).namespace("row"));
    /// let findings = cache.lint();
    /// assert_eq!((findings.len(), findings[0].kind()), (1, FindingKind::NamespaceNotInvalidated));
    /// for finding in &findings {
    ///     println!("{finding}");
    /// }
    /// ```
    pub fn lint(&self) -> Vec<Finding> {
        self.lint_with(&Lint::new())
    }

    /// Returns the mistakes in the configuration that show so far.
    pub fn lint_with(&self, lint: &Lint) -> Vec<Finding> {
        let stats = self.stats();
        lint.findings(&Evidence {
            reads: &self.cache.rules.current(),
            writes: &self.invalidate.rules.current(),
            evicts_fences: self.store().context().counters.may_evict_fences(),
            stats: &stats,
        })
    }

    /// Adds a hook that warms. It does not count as a purge.
    pub(crate) fn add_warmer(&self, hook: PurgeHook) -> AddedHook {
        let Context { hooks, counters, .. } = self.store().context();
        hooks.add_uncounted(hook, counters)
    }

    /// Removes a hook that warms.
    pub(crate) fn remove_warmer(&self, hook: &AddedHook) {
        self.store().context().hooks.remove(hook);
    }

    fn store(&self) -> &AnyStore {
        &self.cache.store
    }
}
