//! One write: fence, inner service, invalidation.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    thread,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, request, response, uri::PathAndQuery};

use super::outcome::Invalidation;
use crate::{
    body::InvalidateBody,
    extensions::Invalidations,
    key::{self, Key, RequestView},
    namespace::{Namespace, cache_groups::GroupOrigin, set::Namespaces},
    rules::{
        RouteMatch, Rules,
        failure::{OnDeliveryTimeout, OnFenceError},
        policy::Policy,
        views::Views,
    },
    semantics::{self, Target},
    stats::counters::Count,
    status::field,
    store::{
        Store,
        backend::{self, Fence},
        epochs::InvalidationKind,
    },
};

/// Options of the layer. A rule may override them.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) delivery_timeout: (Duration, OnDeliveryTimeout),
    pub(crate) on_fence_error: OnFenceError,
    pub(crate) cache_status: Option<Arc<str>>,
}

/// A write in progress.
pub(crate) struct Write<St: Store> {
    store: St,
    pub(crate) rule: Option<Arc<Policy>>,
    /// The head of the request, if the namespaces to invalidate depend on the response as well.
    pub(crate) head: Option<(request::Parts, Rules)>,
    pub(crate) names: Vec<Namespace>,
    /// Single keys in addition, where HTTP decides.
    pub(crate) keys: Vec<Key>,
    pub(crate) kind: InvalidationKind,
    pub(crate) options: Options,
    /// The fence of a strict store, and its names.
    fence: Option<(Namespaces, Fence)>,
    /// Method and path of a write that no rule covers, and true if the layer has rules.
    pub(crate) uncovered: Option<(Method, Box<str>, bool)>,
    /// True after the invalidation.
    settled: bool,
}

impl<St: Store> Write<St> {
    /// Returns a write without namespaces.
    pub(crate) fn new(store: St, options: Options) -> Self {
        let (names, keys) = (Vec::new(), Vec::new());
        let (rule, head, fence, uncovered) = (None, None, None, None);
        Self { store, rule, head, names, keys, kind: InvalidationKind::Hard, options, fence, uncovered, settled: false }
    }

    /// Returns the response after the invalidations that its handler has named are delivered.
    pub(crate) async fn said<B, E>(mut self, response: Response<B>) -> Result<Response<InvalidateBody<B>>, E> {
        Ok(self.answered(response, true).await)
    }

    /// Invalidates, and turns the handler's response into the client's. `known` is true if the outcome of the write is known.
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

    /// Sets the fence of a strict store before the handler is called.
    pub(crate) async fn fenced<F, B, E>(mut self, call: impl FnOnce() -> F + Send) -> Result<Response<InvalidateBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send,
    {
        let names = self.invalidated();
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

    pub(crate) async fn run<F, B, E>(mut self, inner: F) -> Result<Response<InvalidateBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>>,
    {
        let outcome = self.outcome(inner).await;
        // Strict: while a statement may still be running, the fence stays until its deadline.
        let is_known =
            |response: &Response<B>| !response.status().is_server_error() && response.status() != StatusCode::REQUEST_TIMEOUT;
        let known = matches!(&outcome, Ok(Ok(response)) if is_known(response));
        match outcome {
            Ok(Ok(mut response)) => {
                let said = response.extensions_mut().remove::<Invalidations>();
                if said.is_none() {
                    self.report_uncovered(response.status());
                }
                let (said, only) = said.map(Invalidations::into_parts).unwrap_or_default();
                let by_rule = !only && self.rule.as_ref().is_none_or(|rule| rule.may_have_changed(response.status()));
                if !by_rule {
                    self.names.clear();
                }
                // Before any step that may panic.
                self.names.extend(said);
                let (parts, body) = response.into_parts();
                self.names.extend(self.groups(&parts));
                self.keys = self.keys(Some(&parts));
                response = Response::from_parts(parts, body);
                if by_rule {
                    response = self.add_names_by_response(response);
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

    /// Counts a successful write that no rule covers.
    fn report_uncovered(&self, status: StatusCode) {
        let Some((method, path, has_rules)) =
            self.uncovered.as_ref().filter(|_| status.is_success() || status.is_redirection())
        else {
            return;
        };
        let context = self.store.context();
        context.counters.uncovered_write(method.as_str(), path, *has_rules, context.clock.nanos());
    }

    /// Awaits the handler, catches its panic, and extends the deadline of the fence meanwhile.
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

    /// Adds the namespaces that the rule computes from the response.
    fn add_names_by_response<B>(&mut self, response: Response<B>) -> Response<B> {
        let Some((head, rules)) = &self.head else { return response };
        let (parts, body) = response.into_parts();
        for RouteMatch { rule, params, .. } in rules.covering(&Views::of(&head.uri, &head.extensions)) {
            let view = RequestView::of_parts(head, &params, &self.store.context().secret);
            self.names.extend(rule.invalidations_by_response(&view, &parts));
        }
        Response::from_parts(parts, body)
    }

    /// Returns the cache groups that the response names, if a rule enables them (RFC 9875, section 3).
    fn groups(&self, response: &response::Parts) -> Vec<Namespace> {
        let Some((head, _)) = self.head.as_ref().filter(|_| self.covered_by(Policy::has_groups)) else {
            return Vec::new();
        };
        // With a method-override header, the request's method does not count.
        let method = if semantics::is_safe(&head.method) { &Method::POST } else { &head.method };
        GroupOrigin::of(&head.uri, &head.headers).invalidated(method, &response.headers).unwrap_or_else(|error| {
            tracing::warn!(%error, "a response clears groups that cannot be read");
            Vec::new()
        })
    }

    /// Returns the keys of the stored responses that a write makes outdated, where HTTP decides (RFC 9111, section 4.4): the key of its own
    /// URI, unless the response states that nothing was done, and after a success the keys of the URIs that the response names.
    pub(crate) fn keys(&self, response: Option<&response::Parts>) -> Vec<Key> {
        let Some((head, rules)) = self.head.as_ref().filter(|_| self.covered_by(|rule| rule.http().is_some())) else {
            return Vec::new();
        };
        // References in the response are relative to the target as the client sent it.
        let sent = key::uri_as_sent(&head.uri, &head.extensions);
        let own = sent.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let may_have_changed = |status| self.rule.as_ref().is_none_or(|rule| rule.may_have_changed(status));
        let paths = match response {
            Some(parts) if !parts.status.is_server_error() || !may_have_changed(parts.status) => {
                let host = || head.headers.get(header::HOST)?.to_str().ok()?.parse().ok();
                let authority = head.uri.authority().cloned().or_else(host);
                // With a method-override header, the request's method does not count.
                let method = if semantics::is_safe(&head.method) { &Method::POST } else { &head.method };
                // An outer layer may have changed the slash at the end, on which a relative reference depends.
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

    /// Returns true if a rule by which a reader may have found the target satisfies `is`.
    fn covered_by(&self, is: impl Fn(&Policy) -> bool) -> bool {
        let Some((head, rules)) = &self.head else { return false };
        rules.covering(&Views::of(&head.uri, &head.extensions)).iter().any(|found| is(found.rule))
    }

    /// Returns all names to invalidate that are known so far, and the names of the fence.
    fn invalidated(&self) -> Namespaces {
        let mut all = Namespaces::exactly(&self.names);
        self.keys.iter().for_each(|key| all.push_key(key.as_ref()));
        if let Some((fenced, _)) = &self.fence {
            all.extend(fenced);
        }
        all
    }

    /// Invalidates, and waits for delivery within the limit. The fence is removed if the outcome is `known`.
    async fn settle(&mut self, known: bool) -> Option<Invalidation> {
        let names = self.invalidated();
        let mut what = None;
        if !names.is_empty() {
            let counters = &self.store.context().counters;
            counters.add(Count::Invalidations, 1);
            let fence = self.fence.take().map(|(_, fence)| fence).filter(|_| known);
            what =
                Some(match backend::within(self.options.delivery_timeout.0, self.store.bump(&names, self.kind, fence)).await {
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

    /// Adds the result of the invalidation to the response.
    fn marked<B>(&self, mut response: Response<B>, what: Invalidation) -> Response<B> {
        response.extensions_mut().insert(what);
        let detail = match what {
            Invalidation::Delivered => return response,
            Invalidation::Undelivered => "undelivered",
            Invalidation::NotFenced => "not-fenced",
        };
        if let Some(name) = &self.options.cache_status {
            let value = HeaderValue::from_str(&format!("{name}; detail={detail}")).expect("the name was checked");
            response.headers_mut().append(field::CACHE_STATUS, value);
        }
        response
    }
}

/// Returns a 503 without content.
fn unavailable<B>() -> Response<InvalidateBody<B>> {
    let mut response = Response::new(InvalidateBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// Invalidates as far as possible without waiting if a write is dropped before its end: by a panic of the inner service's `call`, or with
/// its runtime.
impl<St: Store> Drop for Write<St> {
    fn drop(&mut self) {
        let names = self.invalidated();
        if !self.settled && !names.is_empty() {
            self.store.bump_now(&names);
        }
    }
}
