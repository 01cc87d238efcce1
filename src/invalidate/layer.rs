//! `InvalidateLayer`: every option and its default.

use std::{fmt, sync::Arc, time::Duration};

use tower::Layer;

use super::{
    service::InvalidateService,
    write::{InvalidateState, Options},
};
use crate::{
    budget::Budget,
    rules::{
        Rules,
        failure::{OnDeliveryTimeout, OnFenceError},
        live::LiveRules,
        rule::Rule,
    },
    status::field,
    store::{Store, memory::Memory},
};

/// Invalidates namespaces after a mutating request. The [module](crate::invalidate) lists the outcomes that invalidate.
///
/// The order of this layer and [`CacheLayer`](crate::CacheLayer) does not matter, since mutating requests bypass the cache. The layer must stand
/// *outside* of layers that may answer before the handler has committed, and *inside* of layers that send the response to another place.
///
/// The body of its responses is an [`InvalidateBody`](super::InvalidateBody): the body of the inner service, or an empty one in a 503 of this layer, which only a shared
/// store can cause.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_response_cache::{InvalidateLayer, Memory, Rule, Rules, Store};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = Memory::new(1 << 20);
/// let rules = Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"));
/// let service = InvalidateLayer::new(store.clone()).rules(rules).layer(service_fn(async |_: Request<()>| {
///     Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
/// }));
///
/// service.oneshot(Request::post("/tables/orders").body(()).unwrap()).await.unwrap();
/// assert_eq!(store.stats().invalidations, 1);
/// # });
/// ```
#[must_use]
pub struct InvalidateLayer<St = Memory> {
    store: St,
    pub(crate) rules: LiveRules,
    options: Options,
    budget: Arc<Budget>,
}

impl<St: Store> InvalidateLayer<St> {
    /// Returns a layer over a store, which must be a clone of the store of the cache layers. With another store their entries are not invalidated,
    /// and there is no warning. Without rules, the layer invalidates only the namespaces that handlers name.
    pub fn new(store: St) -> Self {
        let delivery_timeout = (Duration::from_secs(1), OnDeliveryTimeout::Respond);
        let options = Options { delivery_timeout, on_fence_error: OnFenceError::Reject, cache_status: None };
        Self { store, rules: LiveRules::default(), options, budget: Budget::new(64 << 20) }
    }

    /// Limits the time for which the response of a write waits for the delivery of its invalidation, and sets the reaction to a timeout.
    /// While the store is known to be away, no response waits. Defaults to one second, then [`OnDeliveryTimeout::Respond`]. [`Rule::delivery_timeout`] chooses otherwise for a route.
    pub fn delivery_timeout(mut self, limit: Duration, then: OnDeliveryTimeout) -> Self {
        self.options.delivery_timeout = (limit, then);
        self
    }

    /// Limits the bytes of all responses that are read for the [namespaces in them](Rule::invalidates_from_response), until their clients have taken
    /// them. A response beyond the limit passes as it arrives, and its write invalidates all entries. While a response is read, a copy of it exists as
    /// well. Defaults to 64 MiB.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.budget = Budget::new(bytes);
        self
    }

    /// Sets the reaction to a fence that cannot be set, with a strict store. Defaults to [`OnFenceError::Reject`].
    /// [`Rule::on_fence_error`] chooses otherwise for a route.
    pub fn on_fence_error(mut self, then: OnFenceError) -> Self {
        self.options.on_fence_error = then;
        self
    }

    /// Adds a `Cache-Status` field (RFC 9211) with this name to responses whose invalidation could not be delivered or fenced.
    /// Off by default.
    ///
    /// # Panics
    ///
    /// Panics where [`CacheLayer::cache_status`](crate::CacheLayer::cache_status) does.
    #[track_caller]
    pub fn cache_status(mut self, name: &str) -> Self {
        self.options.cache_status = Some(field::name_of_cache(name));
        self
    }

    /// Sets the table of routes, which should be the table of the cache layers. Replaces earlier rules.
    pub fn rules(self, rules: Rules) -> Self {
        self.with_rules(LiveRules::new(rules))
    }

    /// Separates the rules of the layer from those of other layers: a later reload of either does not change the other.
    pub(crate) fn with_rules(mut self, rules: LiveRules) -> Self {
        self.rules = rules;
        self
    }

    /// One rule for every request that reaches this layer: for use on a single route.
    ///
    /// # Panics
    ///
    /// If the rule cannot be; the message says why.
    #[track_caller]
    pub fn rule(self, rule: Rule) -> Self {
        self.rules(Rules::new().fallback(rule))
    }

    /// Adds a route and its rule.
    ///
    /// # Panics
    ///
    /// Panics where [`Rules::route`] does.
    #[track_caller]
    pub fn route(self, pattern: &str, rule: Rule) -> Self {
        let rules = self.rules.current().route(pattern, rule);
        self.rules(rules)
    }
}

impl<St: Store> Clone for InvalidateLayer<St> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            rules: self.rules.clone(),
            options: self.options.clone(),
            budget: self.budget.clone(),
        }
    }
}

impl<St: Store> fmt::Debug for InvalidateLayer<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidateLayer").field("store", &self.store).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<St: Store, S> Layer<S> for InvalidateLayer<St> {
    type Service = InvalidateService<S, St>;

    fn layer(&self, inner: S) -> Self::Service {
        self.rules.with(|rules| self.store.context().counters.watches(&rules.usage()));
        let Self { store, rules, options, budget } = self.clone();
        InvalidateService { inner, shared: Arc::new(InvalidateState { store, rules, options, budget }) }
    }
}
