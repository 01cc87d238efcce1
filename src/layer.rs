//! `CacheLayer`: every option and its default.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower::Layer;

use crate::{
    rules::{Rules, error::RulesError, rule::Rule},
    service::CacheService,
    single_flight::flights::{Flights, Limits},
    state::{LayerState, Options},
    status::StatusField,
    store::{backend::Store, memory::Memory},
    switch::Switch,
};

/// Caches the responses of the services it wraps, as its rules allow.
///
/// The layer owns what its services share, so it can be applied to any number of routes: axum applies one that is given to
/// `Router::layer` to each of them. Give several layers the same store if they belong together.
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
/// assert!(matches!(miss.extensions().get::<CacheStatus>().unwrap().outcome(), Outcome::Miss(_)));
///
/// let hit = service.clone().oneshot(get()).await.unwrap();
/// assert_eq!(hit.extensions().get::<CacheStatus>().unwrap().outcome(), Outcome::Hit);
/// assert_eq!(hit.into_body().collect().await.unwrap().to_bytes(), "rows");
///
/// store.invalidate(["db_query:orders"]).await.unwrap();
/// let miss = service.clone().oneshot(get()).await.unwrap();
/// assert!(matches!(miss.extensions().get::<CacheStatus>().unwrap().outcome(), Outcome::Miss(_)));
/// # });
/// ```
///
/// See the [crate's documentation](crate) for what a rule covers and what is never stored. It must run within a Tokio
/// runtime with its timer enabled.
#[must_use]
pub struct CacheLayer<St = Memory> {
    store: St,
    rules: Rules,
    options: Options,
    limits: Limits,
    shared: Arc<std::sync::OnceLock<Arc<LayerState<St>>>>,
}

impl<St: Store> CacheLayer<St> {
    /// Returns a layer over a store. Without rules every request passes untouched. [`InvalidateLayer`](crate::InvalidateLayer) takes a clone
    /// of the same store: writes through a layer with another store invalidate nothing here.
    pub fn new(store: St) -> Self {
        Self {
            store,
            rules: Rules::new(),
            options: Options {
                cache_status: None,
                extension: true,
                content_length: false,
                fill_limit: Duration::from_secs(60),
                max_buffered_bytes: 64 << 20,
                enabled: Switch::default(),
            },
            limits: Limits { flights: 4096, blind: 1024, waiters: 16 << 10, wait: Duration::from_secs(30) },
            shared: Arc::default(),
        }
    }

    /// A table of routes. Replaces what was given before.
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self.changed()
    }

    /// One rule for every request that reaches this layer: for use on a single route.
    ///
    /// The route is not known here, so a template can name `{identity}` and no parameter; [`route`](Self::route) knows it.
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
    /// If the rule cannot be; the message says why. [`try_rule`](Self::try_rule) returns it.
    #[track_caller]
    pub fn rule(self, rule: Rule) -> Self {
        let rules = Rules::new().fallback(rule);
        self.rules(rules)
    }

    /// As [`rule`](Self::rule), with an error in place of the panic.
    ///
    /// # Errors
    ///
    /// As [`Rules::try_route`].
    pub fn try_rule(self, rule: Rule) -> Result<Self, RulesError> {
        let rules = Rules::new().try_fallback(rule)?;
        Ok(self.rules(rules))
    }

    /// Adds a route and its rule.
    ///
    /// # Panics
    ///
    /// As [`Rules::route`].
    #[track_caller]
    pub fn route(mut self, pattern: &str, rule: Rule) -> Self {
        self.rules = self.rules.route(pattern, rule);
        self.changed()
    }

    /// Turns caching on or off: by a `bool` for good, by a [`Switch`] at run time as well. Defaults to on.
    ///
    /// While it is off, every request goes to the inner service and its response is not stored. Fills that were under way when it was turned
    /// off are completed. Invalidations go on, so nothing that a write has invalidated meanwhile is served when caching is on again.
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

    /// Whether responses that a rule covers carry a [`CacheStatus`] in their extensions. Defaults to yes; without it a hit
    /// takes two allocations, those of its header map, and with it five, and about 750 instructions more.
    pub fn status_extension(mut self, on: bool) -> Self {
        self.options.extension = on;
        self.changed()
    }

    /// Whether responses from the store have a `Content-Length`, also where the inner service has left it to the server to say how long
    /// they are. A server that finds none writes one for each response; over axum that is a twentieth of all that a hit costs.
    ///
    /// The field is stored with the response, so that layers over one store must agree.
    ///
    /// Defaults to no: a layer outside of this one that changes bodies, and does not take off the field, would work with the inner
    /// service's responses and not with stored ones. Responses with trailers get none, as they could not be sent over HTTP/1.1 then.
    pub fn content_length(mut self, on: bool) -> Self {
        self.options.content_length = on;
        self.changed()
    }

    /// How many fills may be under way at once; requests beyond that go to the inner service alone. Defaults to 4,096.
    pub fn max_concurrent_fills(mut self, flights: usize) -> Self {
        self.limits.flights = flights;
        self.changed()
    }

    /// How many calls of the inner service may be under way at once that nothing in a shared store stands behind, because it
    /// cannot be reached or a write is fenced; requests beyond that wait for one to end. Defaults to 1,024. No effect with a
    /// store of this process alone.
    ///
    /// A cached handler may itself call a cached route. Such a call is made in the place of the outer one, if it is polled with it.
    /// One that is made in a task of its own waits for a place like any other. No request waits for a place beyond the
    /// [`wait_limit`](Self::wait_limit): it then goes to the inner service without one.
    pub fn max_uncoordinated_fills(mut self, calls: usize) -> Self {
        self.limits.blind = calls.max(1);
        self.changed()
    }

    /// How many requests may wait for one fill; those beyond go alone. Defaults to 16,384.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.limits.waiters = waiters;
        self.changed()
    }

    /// How long a request waits for another's fill, or for a place among the
    /// [unshared calls](Self::max_uncoordinated_fills), before it goes alone. Nobody joins that fill after that. Defaults to 30 seconds.
    ///
    /// It waits for the head of the response. The body is shared while it runs, also one without an end. Only where the handler has named
    /// namespaces and a shared store has to be asked about them, it waits for the end of the body, of up to three responses that cannot be shared; once it has waited in vain, requests for
    /// this key go alone for a minute.
    ///
    /// If a shared body grows too large to be stored, all who read it go on at the pace of the slowest; a client that takes nothing for this
    /// long while another waits is cut off.
    pub fn wait_limit(mut self, limit: Duration) -> Self {
        self.limits.wait = limit;
        self.changed()
    }

    /// How long a fill may go on once nobody is left who wants it; up to twice as long if somebody wanted it at first.
    /// Defaults to 60 seconds.
    pub fn fill_limit(mut self, limit: Duration) -> Self {
        self.options.fill_limit = limit;
        self.changed()
    }

    /// How many bytes of bodies may be on their way into the store at once, besides what the store holds; a body beyond that
    /// passes unstored. Defaults to 64 MiB. A body that grows too large to be stored holds its last 64 KiB and a chunk, once its readers
    /// have what came before.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.options.max_buffered_bytes = bytes;
        self.changed()
    }

    /// A layer that differs from what it was made from shares no flights with it.
    fn changed(mut self) -> Self {
        self.shared = Arc::default();
        self
    }

    fn shared(&self) -> Arc<LayerState<St>> {
        static LAYERS: AtomicU64 = AtomicU64::new(0);
        let make = || {
            self.store.context().counters.watches(&self.rules.usage());
            Arc::new(LayerState {
                id: LAYERS.fetch_add(1, Ordering::Relaxed),
                store: self.store.clone(),
                rules: self.rules.clone(),
                options: self.options.clone(),
                flights: Arc::new(Flights::new(self.limits, self.store.context().counters.flying.clone())),
                taping: AtomicUsize::new(0),
            })
        };
        self.shared.get_or_init(make).clone()
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
