//! The hottest requests and namespaces of a cache.

use http::{Request, Uri, uri::PathAndQuery};

use super::{ResponseCache, matching};
use crate::{
    hottest::{
        ListedRequest, Tracker,
        listed::{HotNamespace, HotRequest},
    },
    key::{
        Key,
        replay::{Replay, primary_len, replay},
    },
    store::backend::Backend,
};

/// The hottest requests and namespaces, with [`track_hottest`](Self::track_hottest). All lists are empty without it.
impl ResponseCache {
    /// Tracks the hottest requests and namespaces: see [`CacheLayer::track_hottest`](crate::CacheLayer::track_hottest).
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use tower::ServiceExt;
    /// use tower_response_cache::{Memory, ResponseCache, Rule};
    ///
    /// let cache = ResponseCache::new(Memory::new(64 << 20))
    ///     .route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"))
    ///     .track_hottest(100);
    /// let app: Router = Router::new().route("/tables/{table}", get(async || "rows")).layer(cache.layer());
    /// app.oneshot(Request::get("/tables/orders").body(Body::empty()).unwrap()).await.unwrap();
    ///
    /// let hottest = cache.hottest_requests();
    /// assert_eq!(hottest[0].request().unwrap().uri(), "/tables/orders");
    /// assert_eq!(hottest[0].route(), Some("/tables/{table}"));
    /// # });
    /// ```
    pub fn track_hottest(self, requests: usize) -> Self {
        self.map_cache_layer(|layer| layer.track_hottest(requests))
    }

    /// Returns the hottest requests, the most frequent first. Each request whose share of all requests exceeds 1 / n is listed, with the n of
    /// [`track_hottest`](Self::track_hottest), except for the errors of the [estimate](HotRequest::count).
    pub fn hottest_requests(&self) -> Vec<HotRequest> {
        self.hottest_requests_up_to(usize::MAX)
    }

    /// Returns the hottest requests, up to `most`.
    pub(crate) fn hottest_requests_up_to(&self, most: usize) -> Vec<HotRequest> {
        self.hot(|tracker| tracker.requests(most))
    }

    /// Returns the hottest requests of a namespace and its descendants, up to 16, the most frequent first.
    pub fn hottest_requests_of(&self, namespace: &str) -> Vec<HotRequest> {
        self.hot(|tracker| tracker.requests_of(namespace))
    }

    /// Returns the namespaces that are read most, the most frequent first.
    pub fn hottest_namespaces(&self) -> Vec<HotNamespace> {
        self.tracker().map(Tracker::namespaces).unwrap_or_default()
    }

    /// Returns the namespaces that this process has invalidated more often than read, the most frequently invalidated first. For their
    /// entries, the cache costs more than it saves. A namespace is listed if its invalidations minus their error exceed its reads plus 64.
    pub fn overinvalidated_namespaces(&self) -> Vec<HotNamespace> {
        self.tracker().map(Tracker::overinvalidated).unwrap_or_default()
    }

    /// Returns true if the hottest requests are tracked.
    pub fn tracks_hottest(&self) -> bool {
        self.tracker().is_some()
    }

    fn tracker(&self) -> Option<&Tracker> {
        self.store().context().counters.hottest.get()
    }

    fn hot(&self, list: impl FnOnce(&Tracker) -> Vec<ListedRequest>) -> Vec<HotRequest> {
        let listed = self.tracker().map(list).unwrap_or_default();
        listed.into_iter().map(|listed| self.replayed(listed)).collect()
    }

    /// Returns a listed request with the request that has its key under the rules of now.
    fn replayed(&self, listed: ListedRequest) -> HotRequest {
        let ListedRequest { key, route, count, error } = listed;
        let replay = key.as_ref().and_then(|key| {
            let replay = replay(key.canonical())?;
            self.has_key(&replay, key).then_some(replay)
        });
        HotRequest { key, replay, route, count, error }
    }

    /// Returns true if a request has a key, apart from its variant.
    fn has_key(&self, replay: &Replay, key: &Key) -> bool {
        let canonical = key.canonical();
        self.key_and_route(replay).is_some_and(|(found, _)| *found.canonical() == canonical[..primary_len(canonical)])
    }

    /// Returns the key and the route of a request under the rules of now.
    pub(super) fn key_and_route(&self, replay: &Replay) -> Option<(Key, Option<String>)> {
        let request = received(replay)?;
        let found = self.cache.rules.with(|rules| matching::find_request(self.store(), rules, &request)).ok()?;
        Some((found.key().clone(), found.route().map(str::to_owned)))
    }
}

/// Returns a request as the cache gets it.
fn received(replay: &Replay) -> Option<Request<String>> {
    let mut request = replay.request.clone().map(|()| String::new());
    if let Some(path) = &replay.changed_path {
        let uri = with_path(request.uri(), path)?;
        #[cfg(feature = "axum")]
        {
            let sent = axum::extract::OriginalUri(request.uri().clone());
            request.extensions_mut().insert(sent);
        }
        *request.uri_mut() = uri;
    }
    Some(request)
}

/// Returns a target with another path.
fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok()?,
        None => PathAndQuery::try_from(path).ok()?,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).ok()
}
