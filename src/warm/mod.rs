//! Warming: requests that the application sends through its own stack, so that their responses are stored before clients ask for them.
//!
//! A [`Warmer`] has a list of requests. It sends them at the start of the application, after invalidations of their namespaces, or both.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower_response_cache::{Memory, ResponseCache, Rule, warm::Warmer};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let cache = ResponseCache::new(Memory::new(64 << 20))
//!     .route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"));
//! let app: Router = Router::new().route("/tables/{table}", get(async || "rows")).layer(cache.layer());
//!
//! let warmer = Warmer::new(&cache, app).host("api.example").targets(["/tables/orders", "/tables/customers"])?;
//! let _warmed_again = warmer.clone().after_invalidations();
//! let summary = warmer.start().await;
//! assert_eq!((summary.succeeded, summary.failed), (2, 0));
//! # Ok::<_, tower_response_cache::warm::InvalidTarget>(()) }).unwrap();
//! ```

mod hot;
mod run;
#[cfg(feature = "sitemap")]
mod sitemap;
mod target;

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tower::Service;

#[cfg(feature = "sitemap")]
#[cfg_attr(docsrs, doc(cfg(feature = "sitemap")))]
pub use self::sitemap::InvalidSitemap;
use self::{
    hot::{CommonFields, HotAgain, HotList, is_within},
    run::{Options, Work},
};
pub use self::{
    run::{Progress, Summary, Warming},
    target::InvalidTarget,
};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use crate::handle::kept::KeepingHottest;
use crate::{
    cdn::{Purge, PurgeHook, worker::AddedHook},
    error::BoxError,
    handle::ResponseCache,
    namespace::Namespace,
};

/// Sends a list of requests through a service, so that the cache in it stores their responses.
///
/// The service is the whole stack of the application, as a server gets it. The requests pass it as those of clients do: they join fills in
/// progress, and requests of clients join theirs. At most [`concurrency`](Self::concurrency) of them are in progress, and no request of a client
/// waits for them. A response that is stored already is a hit and costs no call of the inner service.
///
/// `B` is the type of the body of requests, which is empty: see [`body`](Self::body).
pub struct Warmer<S, B = NoContent> {
    cache: ResponseCache,
    service: S,
    requests: Vec<Request<()>>,
    hottest: Vec<HotList>,
    fields: CommonFields,
    options: Options,
    body: PhantomData<fn() -> B>,
}

impl<S> Warmer<S> {
    /// Returns a warmer without requests, for the cache in a service.
    pub fn new(cache: &ResponseCache, service: S) -> Self {
        let options = Options { concurrency: 4, per_second: None, timeout: Duration::from_secs(60) };
        let (cache, fields) = (cache.clone(), CommonFields::default());
        Self { cache, service, requests: Vec::new(), hottest: Vec::new(), fields, options, body: PhantomData }
    }
}

/// Requests and options.
impl<S, B> Warmer<S, B> {
    /// Adds a GET for each target: a path with an optional query, or a URI. The authority of a URI becomes the `Host` of the request.
    ///
    /// # Errors
    ///
    /// If a text is not a valid target.
    pub fn targets<I>(self, targets: I) -> Result<Self, InvalidTarget>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let parsed: Result<Vec<_>, _> = targets.into_iter().map(|target| target::get(target.as_ref())).collect();
        Ok(self.requests(parsed?))
    }

    /// Adds a GET for each URL of a sitemap (`<urlset>`). Needs the feature `sitemap`. The host of a URL becomes the `Host` of its request. No
    /// request leaves the process: all of them go to the service.
    ///
    /// # Errors
    ///
    /// If the text is not a sitemap, or if a URL in it is invalid. An index of sitemaps is an error that says so: its sitemaps are elsewhere.
    #[cfg(feature = "sitemap")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sitemap")))]
    pub fn sitemap(self, xml: &str) -> Result<Self, InvalidSitemap> {
        Ok(self.targets(sitemap::urls(xml)?)?)
    }

    /// Adds requests without content. Their method is usually GET.
    #[must_use]
    pub fn requests(mut self, requests: impl IntoIterator<Item = Request<()>>) -> Self {
        self.requests.extend(requests);
        self
    }

    /// Adds the hottest requests of the cache, up to `requests`. Needs [`track_hottest`](crate::CacheLayer::track_hottest).
    ///
    /// [`start`](Self::start) sends those that are the hottest at that moment. After an invalidation, those of the invalidated namespaces are
    /// sent, up to `requests` of each and at most 16. After an invalidation of everything, up to `requests` are sent. A request whose key holds an identity, a secret, the content of a request or a part of an
    /// application's extractor is left out. [`requests`](Self::requests) takes those that another process has
    /// kept: see `ResponseCache::kept_hottest`.
    ///
    /// ```
    /// use tower_response_cache::{Memory, ResponseCache, warm::Warmer};
    /// # async fn example(app: axum::Router) {
    /// let cache = ResponseCache::new(Memory::new(64 << 20)).track_hottest(100);
    /// // With the layer of `cache` in `app`, and after requests of clients:
    /// let again = Warmer::new(&cache, app).hottest(20).after_invalidations();
    /// # drop(again); }
    /// ```
    #[must_use]
    pub fn hottest(mut self, requests: usize) -> Self {
        self.hottest.push(HotList { namespace: None, most: requests });
        self
    }

    /// Adds the hottest requests of a namespace and its descendants, up to `requests` and at most 16. They are sent at the
    /// [start](Self::start), and after an invalidation of the namespace, of an ancestor or of a descendant.
    /// [`hottest`](Self::hottest) describes the rest.
    #[must_use]
    pub fn hottest_of(mut self, namespace: &str, requests: usize) -> Self {
        self.hottest.push(HotList { namespace: Some(namespace.into()), most: requests });
        self
    }

    /// Sets the `Host` of requests that have none. Keys hold the host that clients send, unless the rule says
    /// [`without_host`](crate::key::RouteAndQuery::without_host): without the right host, no client is served the warmed response.
    ///
    /// # Panics
    ///
    /// If the text is not a valid field value.
    #[must_use]
    #[track_caller]
    pub fn host(mut self, host: &str) -> Self {
        self.fields.host = Some(host.parse().unwrap_or_else(|_| panic!("invalid host {host:?}: expected a field value")));
        self
    }

    /// Adds a field to each request, such as the `Accept-Encoding` that clients send. A request keeps its own value.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.headers.append(name, value);
        self
    }

    /// Limits the requests that are in progress at once. Defaults to 4. Keep it below
    /// [`max_concurrent_fills`](crate::CacheLayer::max_concurrent_fills).
    #[must_use]
    pub fn concurrency(mut self, requests: usize) -> Self {
        self.options.concurrency = requests.max(1);
        self
    }

    /// Limits the requests that begin in a second, spread evenly. Defaults to no limit. Zero stands for no limit.
    #[must_use]
    pub fn rate(mut self, per_second: u32) -> Self {
        self.options.per_second = Some(per_second).filter(|rate| *rate > 0);
        self
    }

    /// Limits the time of one request with its response. Defaults to 60 seconds.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = limit;
        self
    }

    /// Sets the type of the body of requests, whose default must be an empty body. Needed for a service that accepts one type of body only.
    pub fn body<B2: Default>(self) -> Warmer<S, B2> {
        let Self { cache, service, requests, hottest, fields, options, .. } = self;
        Warmer { cache, service, requests, hottest, fields, options, body: PhantomData }
    }

    /// Returns the requests with the fields that all of them have.
    fn completed(&self) -> Vec<Request<()>> {
        self.requests.iter().map(|request| self.fields.complete(request.clone())).collect()
    }

    /// Warns once about requests whose responses no client is served from the cache.
    fn warn_about(&self, requests: &[Request<()>]) {
        let uncovered = |request: &&Request<()>| self.cache.matches(request.method(), request.uri()).is_err();
        if let Some(request) = requests.iter().find(uncovered) {
            let reason = self.cache.matches(request.method(), request.uri()).err().map(|reason| reason.to_string());
            tracing::warn!(
                target = %request.uri(),
                reason,
                "a warming request is not cached: remove it, or add a rule that covers it"
            );
        }
        if let Some(request) = requests.iter().find(|request| self.lacks_host(request)) {
            tracing::warn!(
                target = %request.uri(),
                "a warming request has no host, and its key holds one: call `Warmer::host` with the host that clients send"
            );
        }
    }

    /// Returns true if the key of a request depends on the host, and the request has none.
    fn lacks_host(&self, request: &Request<()>) -> bool {
        if request.headers().contains_key(header::HOST) || request.uri().authority().is_some() {
            return false;
        }
        let Some(target) = request.uri().path_and_query() else { return false };
        let hosted = Uri::builder().scheme("http").authority("host.example").path_and_query(target.clone()).build();
        let key = |uri: &Uri| self.cache.matches(request.method(), uri).ok().map(|found| found.key().clone());
        hosted.is_ok_and(|hosted| key(&hosted) != key(request.uri()))
    }
}

/// Sending.
impl<S, B, ResB> Warmer<S, B>
where
    S: Service<Request<B>, Response = Response<ResB>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    B: Default + Send + 'static,
    ResB: Body<Error: Into<BoxError>, Data: Send> + Send + 'static,
{
    /// Begins to send all requests, in a task of its own.
    ///
    /// # Panics
    ///
    /// If no Tokio runtime runs here.
    pub fn start(self) -> Warming {
        let mut requests = self.completed();
        self.warn_about(&requests);
        let hottest = self.hottest.iter().flat_map(|list| list.requests(&self.cache));
        requests.extend(hottest.map(|request| self.fields.complete(request)));
        Warming::start(self.work(), requests)
    }

    /// Sends the requests of a namespace again whenever it or one of its ancestors is invalidated in this process, until the result is dropped.
    ///
    /// The namespaces of a request are those that its rule names. A namespace that only the handler names does not send it again. Invalidations
    /// that arrive while requests are being sent are merged for the next round. With a shared store, the process that invalidates sends.
    pub fn after_invalidations(self) -> WarmAfterInvalidations {
        let requests = self.completed();
        self.warn_about(&requests);
        let requests = requests.into_iter().map(|request| (self.namespaces(&request), request)).collect();
        let (handle, dropped) = watch::channel(());
        let hottest = HotAgain { lists: self.hottest.clone(), cache: self.cache.clone(), fields: self.fields.clone() };
        let state: Arc<dyn Again> = Arc::new(Rewarmer { work: self.work(), requests, hottest, dropped });
        let again = Arc::downgrade(&state);
        let hook = PurgeHook::new(move |purge| {
            let again = again.upgrade();
            async move {
                if let Some(again) = again {
                    again.send(purge).await;
                }
                Ok::<_, Infallible>(())
            }
        });
        const DAY: Duration = Duration::from_secs(86_400);
        let hook = self.cache.add_warmer(hook.attempts(1).attempt_timeout(DAY));
        WarmAfterInvalidations { cache: self.cache.clone(), hook, _state: state, _handle: handle }
    }

    fn namespaces(&self, request: &Request<()>) -> Vec<Namespace> {
        let found = self.cache.matches(request.method(), request.uri());
        found.map(|found| found.namespaces().to_vec()).unwrap_or_default()
    }

    fn work(&self) -> Work<S, B> {
        Work::new(self.service.clone(), self.options)
    }
}

/// Sends requests again after invalidations. Dropping this ends it: requests in progress are given up, and their fills go on.
#[must_use = "requests are sent again until this is dropped"]
pub struct WarmAfterInvalidations {
    cache: ResponseCache,
    hook: AddedHook,
    _state: Arc<dyn Again>,
    _handle: watch::Sender<()>,
}

/// A [`Rewarmer`] without its type parameters.
trait Again: Send + Sync {
    fn send(self: Arc<Self>, purge: Purge) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Requests with the namespaces that their rules name.
struct Rewarmer<S, B> {
    work: Work<S, B>,
    requests: Vec<(Vec<Namespace>, Request<()>)>,
    hottest: HotAgain,
    /// An error if the [`WarmAfterInvalidations`] was dropped.
    dropped: watch::Receiver<()>,
}

impl<S, B, ResB> Again for Rewarmer<S, B>
where
    S: Service<Request<B>, Response = Response<ResB>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    B: Default + Send + 'static,
    ResB: Body<Error: Into<BoxError>, Data: Send> + Send + 'static,
{
    fn send(self: Arc<Self>, purge: Purge) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let concerned = |names: &[Namespace]| names.iter().any(|name| is_invalidated(name, &purge));
            let requests = self.requests.iter().filter(|(names, _)| purge.is_everything() || concerned(names));
            let requests: Vec<_> = requests.map(|(_, request)| request.clone()).chain(self.hottest.after(&purge)).collect();
            if !requests.is_empty() {
                let mut dropped = self.dropped.clone();
                let cancelled = async { while dropped.changed().await.is_ok() {} };
                self.work.send_all(requests, cancelled, |_| {}).await;
            }
        })
    }
}

/// Returns true if an invalidation names a namespace or one of its ancestors.
fn is_invalidated(name: &Namespace, purge: &Purge) -> bool {
    purge.namespaces().iter().any(|bumped| is_within(name.as_str(), bumped.as_str()))
}

impl<S: Clone, B> Clone for Warmer<S, B> {
    fn clone(&self) -> Self {
        let Self { cache, service, requests, hottest, fields, options, .. } = self;
        let (cache, service, requests) = (cache.clone(), service.clone(), requests.clone());
        let (hottest, fields, options) = (hottest.clone(), fields.clone(), *options);
        Self { cache, service, requests, hottest, fields, options, body: PhantomData }
    }
}

impl<S, B> fmt::Debug for Warmer<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, options) = (self.requests.len(), &self.options);
        f.debug_struct("Warmer").field("requests", &requests).field("options", options).finish_non_exhaustive()
    }
}

impl Drop for WarmAfterInvalidations {
    fn drop(&mut self) {
        self.cache.remove_warmer(&self.hook);
    }
}

impl fmt::Debug for WarmAfterInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WarmAfterInvalidations")
    }
}

/// The empty body of a warming request.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoContent;

impl Body for NoContent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}
