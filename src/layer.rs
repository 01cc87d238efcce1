//! `CacheLayer`: every option and its default.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tower::Layer;

use crate::{
    cdn::CacheTags,
    hottest::Tracker,
    rules::{Rules, error::RulesError, live::LiveRules, rule::Rule},
    service::CacheService,
    single_flight::flights::{Flights, Limits},
    state::{BodyMaker, LayerState, Options, SharedLimits},
    status::field::StatusField,
    store::{Store, memory::Memory},
    switch::Switch,
};

/// Caches the responses of the services it wraps, as its rules allow.
///
/// All services of one layer share its state, so the layer can be applied to any number of routes. axum applies a layer given to
/// `Router::layer` to each route. Give several layers the same store if they belong together.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_response_cache::{CacheLayer, CacheStatus, Memory, Outcome, Rule, Rules, Store};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = Memory::new(16 << 20);
/// let rules = Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"));
/// let service = CacheLayer::new(store.clone()).rules(rules).layer(service_fn(async |_: Request<Full<_>>| {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<bytes::Bytes>::from("rows")))
/// }));
///
/// let get = || Request::get("/tables/orders?page=1").body(Full::<bytes::Bytes>::default()).unwrap();
/// let miss = service.clone().oneshot(get()).await.unwrap();
/// assert!(matches!(CacheStatus::of(&miss).unwrap().outcome(), Outcome::Miss(_)));
///
/// let hit = service.clone().oneshot(get()).await.unwrap();
/// assert_eq!(CacheStatus::of(&hit).unwrap().outcome(), Outcome::Hit);
/// assert_eq!(hit.into_body().collect().await.unwrap().to_bytes(), "rows");
///
/// store.invalidate(["db_query:orders"]).await.unwrap();
/// let miss = service.clone().oneshot(get()).await.unwrap();
/// assert!(matches!(CacheStatus::of(&miss).unwrap().outcome(), Outcome::Miss(_)));
/// # });
/// ```
///
/// See [http](crate::guide::http) for the requests that a rule covers and the responses that are never stored. The layer must run
/// within a Tokio runtime with its timer enabled.
#[must_use]
pub struct CacheLayer<St = Memory> {
    pub(crate) store: St,
    pub(crate) rules: LiveRules,
    pub(crate) options: Options,
    limits: Limits,
    shared: Arc<std::sync::OnceLock<Arc<LayerState<St>>>>,
}

impl<St: Store> CacheLayer<St> {
    /// Returns a layer over a store. Without rules every request passes untouched. [`InvalidateLayer`](crate::InvalidateLayer) takes a clone
    /// of the same store: writes through a layer with another store invalidate nothing here.
    pub fn new(store: St) -> Self {
        Self {
            store,
            rules: LiveRules::default(),
            options: Options {
                cache_status: None,
                extension: false,
                content_length: false,
                fill_limit: Duration::from_secs(60),
                max_buffered_bytes: 64 << 20,
                tags: None,
                enabled: Switch::default(),
                shadow: Switch::new(false),
                max_audits: 2,
                audit_grace: Duration::from_secs(1),
                audit_body: None,
                #[cfg(feature = "metrics")]
                metrics: None,
            },
            limits: Limits { flights: 4096, blind: 1024, waiters: 16 << 10, wait: Duration::from_secs(30) },
            shared: Arc::default(),
        }
    }

    /// Sets the table of routes. Replaces earlier rules.
    pub fn rules(self, rules: Rules) -> Self {
        self.with_rules(LiveRules::new(rules))
    }

    /// Sets one rule for all requests of this layer, for use on a single route.
    ///
    /// The route pattern is not known here. A template can therefore name `{identity}` but no parameter. Use [`route`](Self::route) for that.
    ///
    /// axum's `MethodRouter::layer` cannot infer the error type between two calls. Give it both layers in one call, as a tuple whose first
    /// layer is the outer one:
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::{Router, routing::get};
    /// use tower_response_cache::{CacheLayer, InvalidateLayer, Memory, Rule};
    ///
    /// let store = Memory::new(16 << 20);
    /// let rule = Rule::ttl(Duration::from_secs(60)).namespace("orders");
    /// let layers = (InvalidateLayer::new(store.clone()).rule(rule.clone()), CacheLayer::new(store).rule(rule));
    /// let app: Router = Router::new().route("/orders", get(async || "rows").post(async || ()).layer(layers));
    /// # drop(app);
    /// ```
    ///
    /// # Panics
    ///
    /// If the rule is invalid. [`try_rule`](Self::try_rule) returns the error.
    #[track_caller]
    pub fn rule(self, rule: Rule) -> Self {
        let rules = Rules::new().fallback(rule);
        self.rules(rules)
    }

    /// Sets one rule as [`rule`](Self::rule) does, and returns an error if the rule is invalid.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Rules::try_route`].
    pub fn try_rule(self, rule: Rule) -> Result<Self, RulesError> {
        let rules = Rules::new().try_fallback(rule)?;
        Ok(self.rules(rules))
    }

    /// Adds a route and its rule.
    ///
    /// # Panics
    ///
    /// If [`Rules::route`] panics.
    #[track_caller]
    pub fn route(self, pattern: &str, rule: Rule) -> Self {
        let rules = self.rules.current().route(pattern, rule);
        self.rules(rules)
    }

    /// Turns caching on or off: with a `bool` for good, with a [`Switch`] also at run time. Defaults to on.
    ///
    /// While caching is off, every request goes to the inner service, and no response is stored. Fills that were in progress are completed.
    /// Invalidations go on, so that no entry invalidated meanwhile is served when caching is on again.
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, Memory};
    ///
    /// let layer = CacheLayer::new(Memory::new(1 << 20)).enabled(!cfg!(test));
    /// # let _ = layer;
    /// ```
    pub fn enabled(mut self, enabled: impl Into<Switch>) -> Self {
        self.options.enabled = enabled.into();
        self.changed()
    }

    /// Turns shadow mode on or off: with a `bool` for good, with a [`Switch`] also at run time. Defaults to off.
    /// [The guide](crate::guide::audit#shadow-mode) shows how to introduce the cache with it.
    ///
    /// In shadow mode the cache does everything except serving. It computes keys, looks up, stores and invalidates, and the inner service answers
    /// every request. The cache adds only the fields of [`cache_status`](Self::cache_status) and [`cache_tags`](Self::cache_tags), if they are set. [`RouteStats::shadow`](crate::stats::RouteStats::shadow) counts the answers that
    /// the cache would have given, and compares each stored response that would have been served with the real one. Responses that a rule covers
    /// are marked with [`Bypass::Shadow`](crate::status::Bypass::Shadow). A request waits for the lookup in a shared store, and for no other
    /// request. [`Rule::shadow`] sets the mode for one rule. This option does not change such a rule.
    ///
    /// ```
    /// use tower_response_cache::{CacheLayer, Memory, Switch};
    ///
    /// let shadow = Switch::new(true);
    /// let layer = CacheLayer::new(Memory::new(1 << 20)).shadow(&shadow);
    /// # let _ = layer;
    ///
    /// // After a look at the figures:
    /// shadow.set(false);
    /// ```
    pub fn shadow(mut self, shadow: impl Into<Switch>) -> Self {
        self.options.shadow = shadow.into();
        self.changed()
    }

    /// Sends a `Cache-Status` field (RFC 9211) under this name with every response that a rule covers. Off by default.
    ///
    /// # Panics
    ///
    /// If the name is not a token (RFC 9110, section 5.6.2) that begins with a letter.
    #[track_caller]
    pub fn cache_status(mut self, name: &str) -> Self {
        self.options.cache_status = Some(StatusField::named(name));
        self.changed()
    }

    /// Adds the [`CacheStatus`](crate::CacheStatus) to the extensions of responses that a rule covers. Defaults to `false`, because the extension takes
    /// three allocations and about 700 instructions for each hit.
    ///
    /// Turn it on if a service or a test behind axum's `Router` reads the status. The router boxes bodies, so that
    /// [`CacheStatus::of`](crate::CacheStatus::of) cannot be called there.
    pub fn status_extension(mut self, on: bool) -> Self {
        self.options.extension = on;
        self.changed()
    }

    /// Sends the namespaces of each response that a rule covers, in the field of a CDN. Off by default. [`guide::cdn`](crate::guide::cdn) shows
    /// how the CDN is purged.
    ///
    /// The field is sent with responses from the store, complete or not (304, HEAD, 206), and with those of the inner service, stored or not. Tags
    /// that the inner service has written to the field stay. A layer in front of the CDN's network must not remove the field.
    pub fn cache_tags(mut self, tags: CacheTags) -> Self {
        self.options.tags = Some(tags);
        self.changed()
    }

    /// Adds `Content-Length` to stored responses that have none. Without the field, the server writes it for each response. Over axum that is a
    /// twentieth of the cost of a hit.
    ///
    /// The field is stored with the response, so that all layers over one store must use the same setting.
    ///
    /// Defaults to `false`, because a layer outside of this one that changes bodies must then remove the field. Responses with trailers never get
    /// the field: HTTP/1.1 could not send them.
    pub fn content_length(mut self, on: bool) -> Self {
        self.options.content_length = on;
        self.changed()
    }

    /// Limits the fills in progress. Requests beyond the limit are fetched alone. Defaults to 4,096.
    pub fn max_concurrent_fills(mut self, flights: usize) -> Self {
        self.limits.flights = flights;
        self.changed()
    }

    /// Limits the calls of the inner service that a shared store does not coordinate, because the store cannot be reached or a write is fenced.
    /// Requests beyond the limit wait for a call to end. Defaults to 1,024. The limit has no effect with [`Memory`].
    ///
    /// A cached handler may call a cached route. Such a call counts with the outer call if it is polled with it. A call in a task of its own waits
    /// like any other. No request waits longer than the [`wait_limit`](Self::wait_limit): it is then fetched without a permit.
    pub fn max_uncoordinated_fills(mut self, calls: usize) -> Self {
        self.limits.blind = calls.max(1);
        self.changed()
    }

    /// Limits the followers of one fill. Requests beyond the limit are fetched alone. Defaults to 16,384.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.limits.waiters = waiters;
        self.changed()
    }

    /// Limits the time for which a request follows fills, or waits for a permit of an [uncoordinated fill](Self::max_uncoordinated_fills). The
    /// request is then fetched alone, and no request joins that fill any more. Defaults to 30 seconds.
    ///
    /// A request waits for the head of the response. The body is shared while it is read, also if it has no end. If the handler has named namespaces
    /// that a shared store must verify, the request waits for the complete body, of up to three responses. If it waits in vain, requests for the
    /// key are fetched alone for one minute.
    ///
    /// A shared body that grows too large to be stored is read at the pace of its slowest client. A client that takes no data for this time while
    /// another client waits is disconnected.
    pub fn wait_limit(mut self, limit: Duration) -> Self {
        self.limits.wait = limit;
        self.changed()
    }

    /// Tracks the hottest requests and namespaces, up to `requests` of each (at most 4,096), for all layers over the store. Off by default. Later
    /// calls for one store are ignored.
    ///
    /// One fresh hit in 64 is counted, with a weight of 64. A miss, a stale hit and a request that waited for another one's response count 1
    /// each. All counts are halved every hour. Requests of a [`Warmer`](crate::warm::Warmer) are not counted. A request whose key holds an
    /// identity or a secret is counted for its route alone.
    ///
    /// The lists have up to 17 keys of up to 1 KiB for each of the `requests`, at about 300 bytes for a short target: about 0.5 MB in total for
    /// 100 requests. [`ResponseCache::hottest_requests`](crate::ResponseCache::hottest_requests) returns them, and a warmer
    /// [sends them](crate::warm::Warmer::hottest).
    pub fn track_hottest(self, requests: usize) -> Self {
        let context = self.store.context();
        context.counters.hottest.get_or_init(|| Tracker::new(requests, context.clock.clone()));
        self
    }

    /// Records the histograms of [observability](crate::guide::observability#metrics), with the name of this cache in the label `cache`: durations of
    /// requests, fills, waits, invalidations and round trips, sizes and ages of entries. Off by default. Install the recorder of the [`metrics`] facade
    /// before the layer is applied. All other metrics are reported by [`Stats::record`](crate::Stats::record).
    ///
    /// The histograms belong to the store. If several layers over one store have names, those of a route have the name of the first layer.
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn metrics(mut self, cache: impl Into<metrics::SharedString>) -> Self {
        self.options.metrics = Some(cache.into());
        self.changed()
    }

    /// Limits the time for which a fill continues after its last interested request has left. The real time may be up to twice as long.
    /// Defaults to 60 seconds.
    pub fn fill_limit(mut self, limit: Duration) -> Self {
        self.options.fill_limit = limit;
        self.changed()
    }

    /// Limits the bytes of bodies that are being read into the store, in addition to the store's own capacity. A body beyond the limit is not
    /// stored. Defaults to 64 MiB. A body that grows too large to be stored keeps at most its last 64 KiB and one chunk that its clients have not
    /// read.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.options.max_buffered_bytes = bytes;
        self.changed()
    }

    /// Limits the [audits](Rule::audit) in progress. Hits that are chosen beyond the limit are not audited, and counted as
    /// [skipped](crate::stats::AuditResult::Skipped). An audit holds up to two responses of [`max_body`](Rule::max_body) bytes. Defaults to 2. With 0, no
    /// hit is audited.
    pub fn max_audits(mut self, audits: usize) -> Self {
        self.options.max_audits = audits;
        self.changed()
    }

    /// Sets the time from a difference to the check of the entry, in an [audit](Rule::audit) and in [shadow mode](Self::shadow). Defaults to 1 second.
    ///
    /// Between the commit of a write and its invalidation, a fresh response differs although nothing is wrong. Writes through an
    /// [`InvalidateLayer`](crate::InvalidateLayer) over the same store in this process are awaited, and need no such time. Other processes
    /// over a store that is not strict, and calls of [`Store::invalidate`], do: choose a time that is longer than theirs.
    pub fn audit_grace(mut self, grace: Duration) -> Self {
        self.options.audit_grace = grace;
        self.changed()
    }

    /// Sets the function that makes the body of a repeated request from its content, which is empty for GET and HEAD. An [audit](Rule::audit)
    /// that differs repeats the request once more, to see if the handler repeats itself.
    ///
    /// Bodies of axum need no function, with or without a [`RequestBodyLayer`](crate::RequestBodyLayer) over them. With the body of any other
    /// type, a difference counts as [unconfirmed](crate::stats::AuditResult::Unconfirmed) without this function.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use tower_response_cache::{CacheLayer, Memory};
    ///
    /// let layer = CacheLayer::new(Memory::default()).audit_body(|content| Full::<Bytes>::new(content));
    /// # drop(layer);
    /// ```
    pub fn audit_body<B: 'static>(mut self, body: impl Fn(Bytes) -> B + Send + Sync + 'static) -> Self {
        self.options.audit_body = Some(BodyMaker(Arc::new(move |content| Box::new(body(content)))));
        self.changed()
    }

    /// Gives a changed layer its own state.
    fn changed(mut self) -> Self {
        self.shared = Arc::default();
        self
    }

    /// Returns the state that all services of the layer share.
    pub(crate) fn shared(&self) -> Arc<LayerState<St>> {
        let make = |rules| {
            let flights = Flights::new(self.limits, self.store.context().counters.flying.clone());
            let (store, options) = (self.store.clone(), self.options.clone());
            let audits = Arc::new(Semaphore::new(self.options.max_audits.min(Semaphore::MAX_PERMITS)));
            let limits = SharedLimits { flights: Arc::new(flights), audits, taping: Arc::default() };
            Arc::new(LayerState::new(store, rules, options, limits))
        };
        let first = self.shared.get_or_init(|| self.rules.used_by(make));
        first.successor().unwrap_or_else(|| first.clone())
    }

    /// Separates the rules of the layer from those of other layers: a later reload of either does not change the other.
    pub(crate) fn with_rules(mut self, rules: LiveRules) -> Self {
        self.rules = rules;
        self.changed()
    }
}

impl<St: Store, S> Layer<S> for CacheLayer<St> {
    type Service = CacheService<S, St>;

    fn layer(&self, inner: S) -> Self::Service {
        CacheService::new(inner, self.shared())
    }
}

impl<St: Store> Clone for CacheLayer<St> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            rules: self.rules.clone(),
            options: self.options.clone(),
            limits: self.limits,
            shared: self.shared.clone(),
        }
    }
}

impl<St: Store> fmt::Debug for CacheLayer<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer")
            .field("store", &self.store)
            .field("rules", &self.rules)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
