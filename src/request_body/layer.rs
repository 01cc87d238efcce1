//! `RequestBodyLayer`: every option and its default.

use std::{sync::Arc, time::Duration};

use tower::Layer;

use super::service::RequestBodyService;
use crate::{
    budget::Budget,
    rules::{Rules, live::LiveRules},
};

/// Reads the content of requests that belongs to their keys, so that a [`CacheLayer`](crate::CacheLayer) inside this layer can answer them:
///
/// - POST, under a rule that [reads by POST](crate::Rule::reads_by_post),
/// - QUERY (RFC 10008), under every rule that caches.
///
/// Two such requests share a response if their method, their content and the fields `Content-Type`, `Content-Encoding` and
/// `Content-Language` are equal, and two GETs with the same heads would share one. [`RequestBody`](crate::key::RequestBody) makes spellings
/// of one document equal. An unsafe request to the same URI invalidates the responses to all of them.
///
/// Content is read up to the limit of its rule ([`Rule::max_request_body`](crate::Rule::max_request_body)) and then passed on. Content beyond
/// the limit passes on as it arrives, and the request bypasses the cache. All other requests pass untouched. The inner service gets a
/// [`ReadBody`](super::ReadBody) and must accept it as the body of its requests, as axum's `Router` and tonic's `Server` do.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_response_cache::{CacheStatus, Memory, Outcome, ResponseCache, Rule, request_body::ReadBody};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let rule = Rule::ttl(Duration::from_secs(60)).reads_by_post();
/// let cache = ResponseCache::new(Memory::new(1 << 20)).route("/search", rule);
/// let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(service_fn(
///     async |request: Request<ReadBody<Full<Bytes>>>| {
///         let content = request.into_body().collect().await.unwrap().to_bytes();
///         Ok::<_, Infallible>(Response::new(Full::new(content)))
///     },
/// ));
///
/// for (content, is_hit) in [("a > 1", false), ("a > 1", true), ("a > 2", false)] {
///     let request = Request::post("/search").body(Full::<Bytes>::from(content)).unwrap();
///     let response = service.clone().oneshot(request).await.unwrap();
///     assert_eq!(CacheStatus::of(&response).unwrap().outcome() == Outcome::Hit, is_hit);
///     assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), content);
/// }
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RequestBodyLayer {
    rules: LiveRules,
    /// The time for reading one body.
    read_timeout: Duration,
    budget: Arc<Budget>,
}

impl RequestBodyLayer {
    /// Returns a layer for the rules of a [`CacheLayer`](crate::CacheLayer).
    /// [`ResponseCache::layer_with_request_bodies`](crate::ResponseCache::layer_with_request_bodies) makes both.
    pub fn new(rules: Rules) -> Self {
        Self::of(LiveRules::new(rules))
    }

    /// Returns a layer for rules that may be replaced.
    pub(crate) fn of(rules: LiveRules) -> Self {
        Self { rules, read_timeout: Duration::from_secs(10), budget: Budget::new(64 << 20) }
    }

    /// Limits the bytes of all bodies that are being read or wait for the cache. A request beyond the limit bypasses the cache, and its body
    /// passes on as it arrives. Defaults to 64 MiB.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.budget = Budget::new(bytes);
        self
    }

    /// Limits the time for reading a body. A request whose body takes longer bypasses the cache, and its body passes on as it arrives.
    /// Defaults to 10 seconds.
    pub fn read_timeout(mut self, limit: Duration) -> Self {
        self.read_timeout = limit;
        self
    }
}

impl<S> Layer<S> for RequestBodyLayer {
    type Service = RequestBodyService<S>;

    fn layer(&self, inner: S) -> RequestBodyService<S> {
        RequestBodyService::new(inner, self.rules.clone(), self.read_timeout, self.budget.clone())
    }
}
