//! State that the services of one layer share.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::sync::Semaphore;

use crate::{
    body::CacheBody,
    cdn::{CacheTags, response::TaggedBy, tags::TooManyTags},
    namespace::set::Namespaces,
    rules::{Rules, difference::Difference, live::RulesUser, policy::Policy},
    single_flight::flights::Flights,
    stats::routes::RouteCounters,
    status::{
        CacheStatus,
        field::{self, CACHE_STATUS, StatusField},
    },
    store::{Store, backend::Context},
    switch::Switch,
};

/// The options of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The name of the `Cache-Status` field, if it is sent.
    pub(crate) cache_status: Option<StatusField>,
    /// Adds a [`CacheStatus`] to the extensions of responses.
    pub(crate) extension: bool,
    /// Adds `Content-Length` to stored responses.
    pub(crate) content_length: bool,
    pub(crate) fill_limit: Duration,
    pub(crate) max_buffered_bytes: usize,
    /// The form of cache tags, if they are sent.
    pub(crate) tags: Option<CacheTags>,
    pub(crate) enabled: Switch,
    /// The inner service answers every request, and the cache works beside it.
    pub(crate) shadow: Switch,
    /// The number of audits at one time.
    pub(crate) max_audits: usize,
    /// The time that an audit waits after a difference.
    pub(crate) audit_grace: Duration,
    /// Makes the body of a repeated request from its content.
    pub(crate) audit_body: Option<BodyMaker>,
    /// The name of the cache in metrics, if histograms are recorded.
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<metrics::SharedString>,
}

/// Makes the body of a repeated request from its content.
#[derive(Clone)]
pub(crate) struct BodyMaker(pub(crate) Arc<dyn Fn(Bytes) -> Box<dyn Any> + Send + Sync>);

impl fmt::Debug for BodyMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyMaker")
    }
}

/// State that all services of one layer share. A reload of the rules replaces it by another one. A request uses one state for its whole life.
#[derive(Debug)]
pub(crate) struct LayerState<St> {
    /// A number that is unique in the process.
    pub(crate) id: u64,
    /// True once there is a successor.
    is_replaced: AtomicBool,
    /// The newest state of the layer.
    successor: RwLock<Option<Arc<Self>>>,
    /// By the place of the rule: true if responses under it must not be stored any more, because the new rules would use them wrongly.
    outdated: Box<[AtomicBool]>,
    pub(crate) store: St,
    pub(crate) rules: Rules,
    /// The counters of the rules, by their places.
    pub(crate) routes: Box<[Arc<RouteCounters>]>,
    pub(crate) options: Options,
    pub(crate) flights: Arc<Flights>,
    /// The permits of audits.
    pub(crate) audits: Arc<Semaphore>,
    /// The bytes of bodies that are being read into the store.
    pub(crate) taping: Arc<AtomicUsize>,
}

/// What the states of a layer share.
#[derive(Clone)]
pub(crate) struct SharedLimits {
    pub(crate) flights: Arc<Flights>,
    pub(crate) audits: Arc<Semaphore>,
    pub(crate) taping: Arc<AtomicUsize>,
}

impl<St> LayerState<St> {
    /// Returns true if the rules have been replaced since this state was made.
    #[inline(always)]
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    /// Returns the newest state of the layer, if it is not this one.
    #[cold]
    pub(crate) fn successor(&self) -> Option<Arc<Self>> {
        self.successor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns false if responses under a rule must not be stored any more.
    #[inline]
    pub(crate) fn may_store(&self, rule: &Policy) -> bool {
        !self.outdated[rule.place()].load(Ordering::Acquire)
    }
}

impl<St: Store> LayerState<St> {
    /// Returns the first state of a layer, or the state after a reload, which shares some parts with the state before.
    pub(crate) fn new(store: St, rules: Rules, options: Options, shared: SharedLimits) -> Self {
        static STATES: AtomicU64 = AtomicU64::new(0);
        let context = store.context();
        context.counters.watches(&rules.usage());
        if rules.is_empty() {
            context.counters.nothing_cached(context.clock.nanos());
        }
        let routes: Box<[_]> = rules.all().iter().map(|rule| context.counters.route(rule.route())).collect();
        #[cfg(feature = "metrics")]
        if let Some(cache) = &options.metrics {
            crate::metrics::export(cache, &context.counters, &routes);
        }
        Self {
            id: STATES.fetch_add(1, Ordering::Relaxed),
            is_replaced: AtomicBool::new(false),
            successor: RwLock::default(),
            outdated: rules.all().iter().map(|_| AtomicBool::new(false)).collect(),
            routes,
            store,
            rules,
            options,
            flights: shared.flights,
            audits: shared.audits,
            taping: shared.taping,
        }
    }

    /// Returns the state for other rules.
    fn with_rules(&self, rules: &Rules) -> Self {
        let Self { store, options, flights, audits, taping, .. } = self;
        // No request may follow a fill that has begun under another key or in other namespaces.
        let flights = match Difference::between(&self.rules, rules).is_none() {
            true => flights.clone(),
            false => Arc::new(flights.emptied()),
        };
        let shared = SharedLimits { flights, audits: audits.clone(), taping: taping.clone() };
        Self::new(store.clone(), rules.clone(), options.clone(), shared)
    }

    /// Returns the counters of a rule.
    #[inline]
    pub(crate) fn route(&self, rule: &Policy) -> &Arc<RouteCounters> {
        &self.routes[rule.place()]
    }

    /// Returns true if a response comes from a shared store, which its request `has_queried`.
    #[inline]
    pub(crate) fn is_from_store(&self, has_queried: bool) -> bool {
        has_queried && self.store.is_shared()
    }

    /// Returns the response with its status.
    #[inline]
    pub(crate) fn marked<B>(&self, mut response: Response<CacheBody<B>>, status: CacheStatus) -> Response<CacheBody<B>> {
        self.mark(&mut response, status);
        response
    }

    /// Sets the status of a response of the inner service, and its cache tags.
    #[inline]
    pub(crate) fn mark<B>(&self, response: &mut Response<CacheBody<B>>, status: CacheStatus) {
        if let Some(tags) = &self.options.tags {
            self.tag_by_extension(tags, response);
        }
        self.set_status(response, status);
    }

    /// Adds the cache tags that the extensions of a response name.
    #[cold]
    fn tag_by_extension<B>(&self, tags: &CacheTags, response: &mut Response<CacheBody<B>>) {
        let Some(TaggedBy { names, route }) = response.extensions_mut().remove() else { return };
        match names {
            Some(names) => self.add_tags(tags, response.headers_mut(), &names, route.as_deref()),
            None => tags.forbid_storing(response.headers_mut()),
        }
    }

    /// Adds the cache tags of a response from the store.
    #[cold]
    pub(crate) fn tag_stored(&self, tags: &CacheTags, headers: &mut HeaderMap, names: &Namespaces) {
        self.add_tags(tags, headers, names, None);
    }

    fn add_tags(&self, tags: &CacheTags, headers: &mut HeaderMap, names: &Namespaces, route: Option<&str>) {
        if let Err(TooManyTags { tags, bytes }) = tags.put(headers, names) {
            let Context { counters, clock, .. } = self.store.context();
            counters.too_many_tags(route, (tags, bytes), names.iter().last().unwrap_or_default(), clock.nanos());
        }
    }

    /// Sets the status of a response: in its body, and in the places that the options name.
    #[inline]
    pub(crate) fn set_status<B>(&self, response: &mut Response<CacheBody<B>>, status: CacheStatus) {
        let Options { cache_status, extension, .. } = &self.options;
        response.body_mut().set_status(status);
        if *extension {
            response.extensions_mut().insert(status);
        }
        match cache_status {
            Some(field) => field.put(status, response.headers_mut()),
            None => without_slot(response),
        }
    }
}

impl<St: Store> RulesUser for LayerState<St> {
    fn replace(&self, rules: &Rules) -> Option<Arc<dyn RulesUser>> {
        let outdated = Difference::between(&self.rules, rules).is_outdated;
        for (is_outdated, _) in self.outdated.iter().zip(outdated).filter(|(_, is_outdated)| *is_outdated) {
            is_outdated.store(true, Ordering::Release);
        }
        let mut successor = self.successor.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &mut *successor {
            if let Some(newest) = known.successor() {
                *known = newest;
            }
            return None;
        }
        self.store.context().counters.forgets(&self.rules.usage());
        let state = Arc::new(self.with_rules(rules));
        *successor = Some(state.clone());
        self.is_replaced.store(true, Ordering::Release);
        Some(state)
    }
}

/// Removes the empty `Cache-Status` field that a layer with other options has stored.
#[inline]
fn without_slot<B>(response: &mut Response<B>) {
    if field::slot(response.headers_mut()).is_some() {
        response.headers_mut().remove(CACHE_STATUS);
    }
}
