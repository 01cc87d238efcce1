//! Clearing what a write has changed, before its response is sent.
//!
//! [`InvalidateLayer`] wraps the handlers of mutating requests. When one has answered, the namespaces that its rule, or the
//! handler itself, names are cleared, and only then does the response leave: whoever has seen the response sees the change.
//!
//! # Which outcomes clear
//!
//! Every outcome that may have committed something:
//!
//! | outcome | cleared |
//! |---|---|
//! | 1xx, 2xx, 3xx | yes |
//! | 4xx | yes, unless the rule says [`skip_on_client_error`](crate::Rule::skip_on_client_error) |
//! | 5xx | yes |
//! | the inner service fails (`Err`) | yes |
//! | the handler panics | yes; then the panic goes on its way |
//! | the client leaves, a timeout outside of the layer drops the request | the handler goes on in a task of its own, and what it names is cleared when it is done |
//! | the runtime is shut down under the handler | at once, in this process |
//!
//! Safe methods (GET, HEAD, OPTIONS, TRACE, QUERY, and WebDAV's PROPFIND, REPORT and SEARCH) clear nothing, unless a
//! method-override header asks for another method; all others, known or not, count as writes (RFC 9111, section 4.4).
//!
//! Under a [`Rule::http`](crate::Rule::http) the stored responses to GET of the request's own URI are cleared besides, whoever they
//! were stored for, with every outcome but a 4xx; and those that `Location` and `Content-Location` name with a 2xx or 3xx, if they are
//! of the same origin.
//!
//! # Equivalent targets
//!
//! A key holds the bytes of the target, so that two spellings of one URI have two entries. A write, and
//! [`Store::invalidate_key`], reach the entries of all spellings (RFC 9110, section 4.2.3; RFC 3986, section
//! 6.2.2 and 6.2.3; RFC 9111, section 4.4). The target is the one that the client has sent: under axum's `Router::nest` and
//! `nest_service` it is the whole path (feature `axum`), so that layers on both sides of a nested router mean the same by it.
//!
//! | part | these are the same |
//! |---|---|
//! | scheme | all, and none |
//! | userinfo | all, and none |
//! | host | without case, percent-encoded or not |
//! | port | none, an empty one, 80 and 443, also with zeros before them |
//! | path | percent-encoded or not, also `%2F`; without dot segments, with `//` for `/`, with and without a slash at its end |
//! | query | percent-encoded or not, its parameters in any order, an empty one and none |
//! | forwarding fields (`X-Forwarded-Host` and others) | all, and none |
//!
//! Not normalised: a dot at the end of a host, internationalised names, the case of paths and queries, `+` for a space in a query,
//! `;` as a separator, path parameters, and what an extractor of your own writes. Two targets that are taken for the same although a
//! handler tells them apart are invalidated together, and nothing worse.
//!
//! The rules that say what a write invalidates are those that a reader of any of these spellings has, and those of the target as this
//! layer sees it and as the client has sent it. Where none of these has a pattern, the path is tried with a slash at its end, and then
//! without its first segments, so that the patterns of a nested router's table are found from outside (but not `/` alone).
//!
//! A layer between two of ours that changes the target in another way than these hides it: give both layers the same view, or name
//! namespaces.
//!
//! In a store that is shared with other processes, the response of a write waits until that store knows of it, for so long as
//! [`InvalidateLayer::delivery_timeout`] says. In one that is strict, a fence stands from before the handler until after the clearing: while it
//! does, nothing of what it concerns is served or stored anywhere. It stands to its deadline where the outcome is not known: with 5xx
//! and 408, an error, a panic, or the end of the process.
//!
//! What a handler says with [`Invalidations`] counts on every route, also on those that no rule covers, with every status and with every
//! method, GET included. A safe request is not continued without its client, though, and no fence stands for it: what changes state belongs
//! into an unsafe one. A GET that a cache inside answers from its store, or refreshes in the background, says nothing here.
//! What [`Rule::invalidates_by`](crate::Rule::invalidates_by) computes needs a response: it is not asked if there is none.

use std::{
    fmt,
    future::{Future, poll_fn},
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, request, response, uri::PathAndQuery};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::InvalidateBody,
    drive::Detachable,
    groups::GroupOrigin,
    hints::Invalidations,
    key::{self, Key, RequestView, overrides_method},
    namespace::{Namespace, Namespaces},
    rules::{Policy, RouteMatch, Rule, Rules, Views},
    semantics::{self, Target},
    stats::Count,
    status,
    store::{self, Fence, InvalidationKind, Memory, Store},
};

/// Clears namespaces when a mutating request has changed something. See the table of outcomes in the
/// [module's documentation](self).
///
/// Where it stands in the stack does not matter to [`CacheLayer`](crate::CacheLayer), which leaves mutating requests alone;
/// it must stand *outside* of whatever may answer before the handler has committed, and *inside* of a layer that sends
/// the response elsewhere.
///
/// The body of its responses is an [`InvalidateBody`]: that of the inner service, or none in a 503, where a shared store and your choice
/// ask for one.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_response_cache::{InvalidateLayer, Memory, Rule, Rules, Store};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = Memory::new(1 << 20);
/// let rules = Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"));
/// let service = InvalidateLayer::new(store.clone()).rules(rules).layer(service_fn(async |_: Request<()>| {
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// }));
///
/// service.oneshot(Request::post("/tables/orders").body(()).unwrap()).await.unwrap();
/// assert_eq!(store.stats().bumps, 1);
/// # });
/// ```
#[must_use]
pub struct InvalidateLayer<St = Memory> {
    store: St,
    rules: Rules,
    options: Options,
}

/// What the owner of a layer has chosen; a rule may choose otherwise.
#[derive(Debug, Clone)]
struct Options {
    delivery_timeout: (Duration, OnDeliveryTimeout),
    on_fence_error: OnFenceError,
    cache_status: Option<Arc<str>>,
}

/// What a write answers whose clearing could not be delivered to a shared store in time.
///
/// Either way it is delivered as soon as the store can be reached, and until then this process serves nothing that it concerns.
/// Other processes that reach the store meanwhile do not know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDeliveryTimeout {
    /// The handler's response, marked with [`Invalidation::Undelivered`]: availability. The default.
    Respond,
    /// 503 in place of the handler's response, although the write was done: consistency.
    Reject,
}

/// What becomes of a write for which no fence can be set, in a store that is strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFenceError {
    /// 503; the handler is not called and nothing is written. The default.
    Reject,
    /// It goes on without a fence: should this process die between its commit and its clearing, others go on serving what was
    /// stored before, for as long as that lives.
    Proceed,
}

/// What became of the clearing of a write: an extension of its response, if there was something to clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invalidation {
    /// All stores concerned know of it.
    Delivered,
    /// A shared store could not be told in time: it will be told as soon as it can be reached.
    Undelivered,
    /// No fence could be set, and nothing was done.
    NotFenced,
}

impl<St: Store> InvalidateLayer<St> {
    /// Returns a layer over a store, which has to be a clone of the store of the cache layers. With another store nothing of theirs is
    /// invalidated, and no warning says so. Without rules the layer invalidates only what handlers name.
    pub fn new(store: St) -> Self {
        let delivery_timeout = (Duration::from_secs(1), OnDeliveryTimeout::Respond);
        let options = Options { delivery_timeout, on_fence_error: OnFenceError::Reject, cache_status: None };
        Self { store, rules: Rules::new(), options }
    }

    /// How long the response of a write waits for a shared store to know of it, and what is answered if that takes longer.
    /// While the store is known to be away, no response waits. Defaults to one second, then [`OnDeliveryTimeout::Respond`]. [`Rule::delivery_timeout`] chooses otherwise for a route.
    pub fn delivery_timeout(mut self, limit: Duration, then: OnDeliveryTimeout) -> Self {
        self.options.delivery_timeout = (limit, then);
        self
    }

    /// What becomes of a write for which no fence can be set, in a store that is strict. Defaults to [`OnFenceError::Reject`].
    /// [`Rule::on_fence_error`] chooses otherwise for a route.
    pub fn on_fence_error(mut self, then: OnFenceError) -> Self {
        self.options.on_fence_error = then;
        self
    }

    /// Says in a `Cache-Status` field (RFC 9211) under this name if a write's clearing could not be delivered, or no fence be set.
    /// Off by default.
    ///
    /// # Panics
    ///
    /// As [`CacheLayer::cache_status`](crate::CacheLayer::cache_status).
    #[track_caller]
    pub fn cache_status(mut self, name: &str) -> Self {
        self.options.cache_status = Some(status::name_of_cache(name));
        self
    }

    /// A table of routes: the same as that of the cache layers. Replaces what was given before.
    pub fn rules(mut self, rules: Rules) -> Self {
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
    /// As [`Rules::route`].
    #[track_caller]
    pub fn route(mut self, pattern: &str, rule: Rule) -> Self {
        self.rules = self.rules.route(pattern, rule);
        self
    }
}

impl<St: Store> Clone for InvalidateLayer<St> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), rules: self.rules.clone(), options: self.options.clone() }
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
        self.store.context().counters.watches(&self.rules);
        InvalidateService { inner, store: self.store.clone(), rules: self.rules.clone(), options: self.options.clone() }
    }
}

/// The service that [`InvalidateLayer`] makes. Requests and responses pass through it as they are; the type of their body is
/// [`InvalidateBody`].
#[derive(Clone)]
pub struct InvalidateService<S, St = Memory> {
    inner: S,
    store: St,
    rules: Rules,
    options: Options,
}

impl<S: fmt::Debug, St> fmt::Debug for InvalidateService<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidateService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, St, ReqB, ResB> Service<Request<ReqB>> for InvalidateService<S, St>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ReqB: Send + 'static,
    ResB: Send + 'static,
{
    type Response = Response<InvalidateBody<ResB>>;
    type Error = S::Error;
    type Future = InvalidateFuture<S::Future, St, ResB, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        if is_safe(&request) {
            let said = Some((self.store.clone(), self.options.clone()));
            return InvalidateFuture { state: State::Pass { inner: self.inner.call(request), said } };
        }
        let secret = &self.store.context().secret;
        let mut write = Write::new(self.store.clone(), self.options.clone());
        let views = Views::of(request.uri(), request.extensions());
        let mut by_response = false;
        let covering = self.rules.covering(&views);
        // Softly only if all of them say so.
        let soft = !covering.is_empty() && covering.iter().all(|found| found.rule.clears_softly());
        write.kind = if soft { InvalidationKind::Soft } else { InvalidationKind::Hard };
        for RouteMatch { rule, params, .. } in covering {
            write.names.extend(rule.clears(&RequestView::of(&request, &params, secret)));
            by_response |= rule.clears_by_response() || rule.http().is_some() || rule.has_groups();
            if write.rule.is_none() {
                write.options.delivery_timeout = rule.delivery_timeout().unwrap_or(write.options.delivery_timeout);
                write.options.on_fence_error = rule.on_fence_error().unwrap_or(write.options.on_fence_error);
                write.rule = Some(rule.clone());
            }
        }
        drop(views);
        if write.rule.is_none() {
            write.uncovered = Some((request.method().clone(), request.uri().path().into(), !self.rules.are_none()));
        }
        let request = if by_response {
            let (head, body) = request.into_parts();
            write.head = Some((head.clone(), self.rules.clone()));
            write.keys = write.keys(None);
            Request::from_parts(head, body)
        } else {
            request
        };
        // In the task of its request while that lasts; it then goes on without it, however long it takes.
        let drive = if self.store.is_strict() {
            let next = self.inner.clone();
            let mut ready = mem::replace(&mut self.inner, next);
            Detachable::to_the_end(write.fenced(move || ready.call(request)))
        } else {
            Detachable::to_the_end(write.run(self.inner.call(request)))
        };
        InvalidateFuture { state: State::Write { drive } }
    }
}

/// A write under way.
struct Write<St: Store> {
    store: St,
    rule: Option<Arc<Policy>>,
    /// The head of the request, if what is cleared depends on the response as well.
    head: Option<(request::Parts, Rules)>,
    names: Vec<Namespace>,
    /// Single keys besides, where HTTP decides.
    keys: Vec<Key>,
    kind: InvalidationKind,
    options: Options,
    /// The fence of a strict store, and the names behind it.
    fence: Option<(Namespaces, Fence)>,
    /// Method and path, where no rule covers it; and whether the layer has any.
    uncovered: Option<(Method, Box<str>, bool)>,
    /// Whether what it may have changed is cleared.
    settled: bool,
}

impl<St: Store> Write<St> {
    /// A write of which nothing is known yet.
    fn new(store: St, options: Options) -> Self {
        let (names, keys) = (Vec::new(), Vec::new());
        let (rule, head, fence, uncovered) = (None, None, None, None);
        Self { store, rule, head, names, keys, kind: InvalidationKind::Hard, options, fence, uncovered, settled: false }
    }

    /// Sends a response once the invalidations that its handler has named are delivered.
    async fn said<B, E>(mut self, response: Response<B>) -> Result<Response<InvalidateBody<B>>, E> {
        Ok(self.answered(response, true).await)
    }

    /// Invalidates, and makes of the handler's response the client's.
    async fn answered<B>(&mut self, response: Response<B>, known: bool) -> Response<InvalidateBody<B>> {
        let response = response.map(InvalidateBody::inner);
        match self.settle(known).await {
            None => response,
            Some(Invalidation::Undelivered) if self.options.delivery_timeout.1 == OnDeliveryTimeout::Reject => {
                self.marked(unavailable(), Invalidation::Undelivered)
            }
            Some(what) => self.marked(response, what),
        }
    }

    /// Sets the fence of a strict store before the handler begins.
    async fn fenced<F, B, E>(mut self, call: impl FnOnce() -> F + Send) -> Result<Response<InvalidateBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send,
    {
        let names = self.cleared();
        if !names.is_empty() {
            match self.store.fence(&names).await {
                Ok(fence) => self.fence = Some((names, fence)),
                Err(error) => {
                    self.store.context().counters.add(Count::NotFenced, 1);
                    tracing::warn!(?names, %error, "no fence could be set for a write");
                    if self.options.on_fence_error == OnFenceError::Reject {
                        self.settled = true;
                        return Ok(self.marked(unavailable(), Invalidation::NotFenced));
                    }
                }
            }
        }
        self.run(call()).await
    }

    async fn run<F, B, E>(mut self, inner: F) -> Result<Response<InvalidateBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>>,
    {
        let outcome = self.outcome(inner).await;
        // Strict: as long as nobody knows whether a statement is still under way, the fence stands, to its deadline.
        let is_known =
            |response: &Response<B>| !response.status().is_server_error() && response.status() != StatusCode::REQUEST_TIMEOUT;
        let known = matches!(&outcome, Ok(Ok(response)) if is_known(response));
        match outcome {
            Ok(Ok(mut response)) => {
                let said = response.extensions_mut().remove::<Invalidations>();
                if said.is_none() {
                    self.tells_of_uncovered(response.status());
                }
                let (said, only) = said.map(Invalidations::into_parts).unwrap_or_default();
                let by_rule = !only && self.rule.as_ref().is_none_or(|rule| rule.may_have_changed(response.status()));
                if !by_rule {
                    self.names.clear();
                }
                // Before anything that may panic.
                self.names.extend(said);
                let (parts, body) = response.into_parts();
                self.names.extend(self.groups(&parts));
                self.keys = self.keys(Some(&parts));
                response = Response::from_parts(parts, body);
                if by_rule {
                    response = self.clear_by_response(response);
                }
                Ok(self.answered(response, known).await)
            }
            Ok(Err(error)) => {
                self.settle(known).await;
                Err(error)
            }
            Err(panic) => {
                self.settle(known).await;
                resume_unwind(panic)
            }
        }
    }

    /// Counts a write that no rule covers, if it has succeeded.
    fn tells_of_uncovered(&self, status: StatusCode) {
        let Some((method, path, has_rules)) =
            self.uncovered.as_ref().filter(|_| status.is_success() || status.is_redirection())
        else {
            return;
        };
        let context = self.store.context();
        context.counters.uncovered_write(method.as_str(), path, *has_rules, context.clock.nanos());
    }

    /// Awaits the handler, also its panic, and moves the deadline of the fence on meanwhile.
    async fn outcome<F: Future>(&self, inner: F) -> thread::Result<F::Output> {
        let mut inner = pin!(inner);
        let guarded = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome)),
            Err(panic) => Poll::Ready(Err(panic)),
        });
        let Some((names, fence)) = &self.fence else { return guarded.await };
        let Some(after) = fence.renew_after() else { return guarded.await };
        let renewing = async {
            loop {
                tokio::time::sleep(after).await;
                self.store.renew(names, fence).await;
            }
        };
        let (mut guarded, mut renewing) = (pin!(guarded), pin!(renewing));
        poll_fn(|cx| match guarded.as_mut().poll(cx) {
            Poll::Pending => renewing.as_mut().poll(cx),
            ready => ready,
        })
        .await
    }

    /// Adds what the rule names once it sees the response.
    fn clear_by_response<B>(&mut self, response: Response<B>) -> Response<B> {
        let Some((head, rules)) = &self.head else { return response };
        let (parts, body) = response.into_parts();
        for RouteMatch { rule, params, .. } in rules.covering(&Views::of(&head.uri, &head.extensions)) {
            let view = RequestView::of_parts(head, &params, &self.store.context().secret);
            self.names.extend(rule.cleared_by(&view, &parts));
        }
        Response::from_parts(parts, body)
    }

    /// The cache groups that the response names, where the rule obeys them (RFC 9875, section 3).
    fn groups(&self, response: &response::Parts) -> Vec<Namespace> {
        let Some((head, _)) = self.head.as_ref().filter(|_| self.covered_by(Policy::has_groups)) else {
            return Vec::new();
        };
        // With a method-override header, the method is not the one that counts.
        let method = if semantics::is_safe(&head.method) { &Method::POST } else { &head.method };
        GroupOrigin::of(&head.uri, &head.headers).cleared(method, &response.headers).unwrap_or_else(|error| {
            tracing::warn!(%error, "a response clears groups that cannot be read");
            Vec::new()
        })
    }

    /// The keys of the stored responses that a write makes out of date, where HTTP decides (RFC 9111, section 4.4): that of its
    /// own URI, unless the response says that nothing was done, and with a success those that the response names.
    fn keys(&self, response: Option<&response::Parts>) -> Vec<Key> {
        let Some((head, rules)) = self.head.as_ref().filter(|_| self.covered_by(|rule| rule.http().is_some())) else {
            return Vec::new();
        };
        // The target as the client sent it: that is what it means by a reference, too.
        let sent = key::uri_as_sent(&head.uri, &head.extensions);
        let own = sent.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let may_have_changed = |status| self.rule.as_ref().is_none_or(|rule| rule.may_have_changed(status));
        let paths = match response {
            Some(parts) if !parts.status.is_server_error() || !may_have_changed(parts.status) => {
                let host = || head.headers.get(header::HOST)?.to_str().ok()?.parse().ok();
                let authority = head.uri.authority().cloned().or_else(host);
                // With a method-override header, the method is not the one that counts.
                let method = if semantics::is_safe(&head.method) { &Method::POST } else { &head.method };
                // A layer outside may have changed the slash at the end, on which a relative reference depends.
                let bases = [Some(own.clone()), key::with_other_end(&own)];
                let named = bases.iter().flatten().flat_map(|base| {
                    let target = Target { scheme: head.uri.scheme(), authority: authority.as_ref(), path_and_query: base };
                    semantics::invalidated(method, target, parts.status, &parts.headers)
                });
                let mut paths: Vec<PathAndQuery> = Vec::new();
                named.for_each(|path| {
                    if !paths.contains(&path) {
                        paths.push(path)
                    }
                });
                paths
            }
            _ => vec![own.clone()],
        };
        let secret = &self.store.context().secret;
        let keys = |path: PathAndQuery| {
            let mut get = Request::new(());
            let mut uri = head.uri.clone().into_parts();
            uri.path_and_query = Some(key::plain_target(&path)?);
            *get.uri_mut() = Uri::from_parts(uri).ok()?;
            *get.headers_mut() = head.headers.clone();
            if path != own {
                let views = Views::of(get.uri(), get.extensions());
                return Some(rules.keys_of_uri(secret, &get, &views));
            }
            *get.extensions_mut() = head.extensions.clone();
            Some(rules.keys_of_uri(secret, &get, &Views::of(&head.uri, &head.extensions)))
        };
        paths.into_iter().filter_map(keys).flatten().collect()
    }

    /// Whether a rule by which a reader may have found the target is such a one.
    fn covered_by(&self, is: impl Fn(&Policy) -> bool) -> bool {
        let Some((head, rules)) = &self.head else { return false };
        rules.covering(&Views::of(&head.uri, &head.extensions)).iter().any(|found| is(found.rule))
    }

    /// All that is to be cleared, as far as is known, and what is behind the fence in any case.
    fn cleared(&self) -> Namespaces {
        let mut cleared = Namespaces::exactly(&self.names);
        self.keys.iter().for_each(|key| cleared.push_key(key.as_ref()));
        if let Some((fenced, _)) = &self.fence {
            cleared.extend(fenced);
        }
        cleared
    }

    /// Clears, and waits for as long as it may until all know of it. `known`: the outcome is, so that the fence can be taken back.
    async fn settle(&mut self, known: bool) -> Option<Invalidation> {
        let names = self.cleared();
        let mut what = None;
        if !names.is_empty() {
            let counters = &self.store.context().counters;
            counters.add(Count::Bumps, 1);
            let fence = self.fence.take().map(|(_, fence)| fence).filter(|_| known);
            what =
                Some(match store::within(self.options.delivery_timeout.0, self.store.bump(&names, self.kind, fence)).await {
                    Some(Ok(())) => {
                        tracing::debug!(?names, "invalidated");
                        Invalidation::Delivered
                    }
                    late => {
                        counters.add(Count::Undelivered, 1);
                        let error = late.and_then(Result::err);
                        tracing::error!(?names, ?error, "a write could not be followed by its invalidation in time");
                        Invalidation::Undelivered
                    }
                });
        }
        self.settled = true;
        what
    }

    /// The response with what became of its clearing.
    fn marked<B>(&self, mut response: Response<B>, what: Invalidation) -> Response<B> {
        response.extensions_mut().insert(what);
        let detail = match what {
            Invalidation::Delivered => return response,
            Invalidation::Undelivered => "undelivered",
            Invalidation::NotFenced => "not-fenced",
        };
        if let Some(name) = &self.options.cache_status {
            let value = HeaderValue::from_str(&format!("{name}; detail={detail}")).expect("the name was checked");
            response.headers_mut().append(status::CACHE_STATUS, value);
        }
        response
    }
}

/// 503, without content.
fn unavailable<B>() -> Response<InvalidateBody<B>> {
    let mut response = Response::new(InvalidateBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// Should a write be dropped before its end, by a panic of the inner service's `call` or with its runtime, polled or not,
/// what can be done at once is done.
impl<St: Store> Drop for Write<St> {
    fn drop(&mut self) {
        let names = self.cleared();
        if !self.settled && !names.is_empty() {
            self.store.bump_now(&names);
        }
    }
}

fn is_safe<B>(request: &Request<B>) -> bool {
    const SAFE: [&str; 8] = ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"];
    let safe = |method: &Method| SAFE.contains(&method.as_str());
    safe(request.method()) && !request.headers().keys().any(overrides_method)
}

pin_project! {
    /// The response of an [`InvalidateService`].
    pub struct InvalidateFuture<F, St, B, E>
    where
        B: Send,
        B: 'static,
        E: Send,
        E: 'static,
    {
        #[pin]
        state: State<F, St, B, E>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, St, B, E>
    where
        B: Send,
        B: 'static,
        E: Send,
        E: 'static,
    {
        // Safe: only what its handler names is invalidated.
        Pass { #[pin] inner: F, said: Option<(St, Options)> },
        Write { drive: Detachable<Result<Response<InvalidateBody<B>>, E>> },
    }
}

impl<F, St, B, E> Future for InvalidateFuture<F, St, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    St: Store,
    B: Send + 'static,
    E: Send + 'static,
{
    type Output = Result<Response<InvalidateBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let drive = match state.as_mut().project() {
                StateProj::Write { drive } => return Pin::new(drive).poll(cx),
                StateProj::Pass { inner, said } => {
                    let mut response = ready!(inner.poll(cx))?;
                    let Some(named) = response.extensions_mut().remove::<Invalidations>() else {
                        return Poll::Ready(Ok(response.map(InvalidateBody::inner)));
                    };
                    let (store, options) = said.take().expect("polled after its end");
                    let mut write = Write::new(store, options);
                    write.names = named.into_parts().0;
                    Detachable::to_the_end(write.said(response))
                }
            };
            state.set(State::Write { drive });
        }
    }
}

impl<F, St, B: Send + 'static, E: Send + 'static> fmt::Debug for InvalidateFuture<F, St, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvalidateFuture")
    }
}
