//! One write: fence, inner service, invalidation.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    thread,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, request, response, uri::PathAndQuery};
use http_body::Body;

use super::{body::InvalidateBody, held::HeldBody, outcome::Invalidation};
use crate::{
    budget::Budget,
    extensions::Invalidations,
    key::{self, Key, RequestView, content::RequestContent},
    namespace::{Namespace, cache_groups::GroupOrigin, set::Namespaces},
    rpc::StatusPlace,
    rules::{
        RouteMatch, Rules,
        failure::{OnDeliveryTimeout, OnFenceError},
        live::LiveRules,
        policy::Policy,
        views::Views,
    },
    semantics::{self, Target},
    stats::counters::Count,
    status::field,
    store::{
        Store,
        backend::{self, Fence, InvalidationCount, RENEWALS},
        epochs::InvalidationKind,
        writes::WriteInProgress,
    },
};

/// Options of the layer. A rule may override them.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) delivery_timeout: (Duration, OnDeliveryTimeout),
    pub(crate) on_fence_error: OnFenceError,
    pub(crate) cache_status: Option<Arc<str>>,
}

/// State that all services of one layer share.
pub(crate) struct InvalidateState<St> {
    pub(crate) store: St,
    pub(crate) rules: LiveRules,
    pub(crate) options: Options,
    /// The bytes of responses that are read.
    pub(crate) budget: Arc<Budget>,
}

impl<St: Store> InvalidateState<St> {
    /// Extends the deadline of a fence each time that this duration has passed, until the future is dropped.
    pub(super) async fn renew_fence<T>(&self, names: &Namespaces, fence: &Fence, after: Duration, rule: Option<&Policy>) -> T {
        let mut times = 0_u32;
        loop {
            tokio::time::sleep(after).await;
            times = times.saturating_add(1);
            if let Some(rule) = rule.filter(|_| times == RENEWALS) {
                rule.learned().record_outrun_fence();
            }
            self.store.renew(names, fence).await;
        }
    }
}

/// A write in progress.
pub(crate) struct Write<St: Store> {
    pub(super) shared: Arc<InvalidateState<St>>,
    /// The rules at the beginning of the write.
    pub(super) rules: Rules,
    /// The number by which the write asks for later changes of the rules.
    begun: u64,
    pub(super) rule: Option<Arc<Policy>>,
    /// The head of the request, if the namespaces to invalidate depend on the response as well.
    pub(super) head: Option<Box<request::Parts>>,
    /// The namespaces to invalidate, without their ancestors.
    pub(crate) names: Namespaces,
    /// Single keys in addition, where HTTP decides.
    keys: Vec<Key>,
    kind: InvalidationKind,
    /// The place of the status in the response.
    pub(super) status_place: StatusPlace,
    /// The fence of a strict store, and its names.
    pub(super) fence: Option<Box<(Namespaces, Fence)>>,
    /// Method and target of a write that no rule covers.
    uncovered: Option<(Method, Option<PathAndQuery>)>,
    /// A message that names namespaces could not be read. The write invalidates all entries.
    pub(super) unread: bool,
    /// The size of the largest response that is read for namespaces, if a rule reads responses.
    response_limit: Option<usize>,
    /// True after the invalidation.
    pub(super) settled: bool,
    /// Counts the write until it has invalidated.
    _counted: WriteInProgress,
}

impl<St: Store> Write<St> {
    /// Returns a write without namespaces.
    pub(crate) fn new(shared: Arc<InvalidateState<St>>) -> Self {
        let (names, keys, kind) = (Namespaces::default(), Vec::new(), InvalidationKind::Hard);
        let counted = shared.store.context().writes.begin();
        // The number first: a reload between the two counts as a later one.
        let (begun, rules) = (shared.rules.begin_write(), shared.rules.current());
        Self {
            shared,
            rules,
            begun,
            rule: None,
            head: None,
            names,
            keys,
            kind,
            status_place: StatusPlace::Head,
            fence: None,
            uncovered: None,
            unread: false,
            response_limit: None,
            settled: false,
            _counted: counted,
        }
    }

    /// Returns the write of a request, with the namespaces that its rules name.
    pub(crate) fn of<B>(shared: &Arc<InvalidateState<St>>, request: Request<B>) -> (Self, Request<B>) {
        let mut write = Self::new(shared.clone());
        let secret = &shared.store.context().secret;
        let views = Views::of(request.uri(), request.extensions());
        if *request.method() == Method::POST {
            write.status_place = StatusPlace::of(request.headers());
        }
        let (mut by_response, mut softly) = (false, true);
        write.rules.clone().each_covering(&views, |RouteMatch { rule, params, .. }| {
            let view = RequestView::of(&request, &params, secret);
            rule.add_invalidations(&mut write.names, &view);
            if rule.is_graphql() && RequestContent::of(request.extensions()).is_none() {
                let context = shared.store.context();
                context.counters.request_body_unread(rule.route(), context.clock.nanos());
            }
            if rule.reads_written_requests() {
                write.add_names_in_request(rule, &view);
            }
            if rule.reads_written_responses() {
                write.response_limit = write.response_limit.max(Some(rule.max_body()));
            }
            by_response |= rule.invalidates_by_response() || rule.http().is_some() || rule.has_groups();
            softly &= rule.invalidates_softly();
            write.rule.get_or_insert_with(|| rule.clone());
        });
        drop(views);
        by_response |= write.response_limit.is_some();
        match write.rule {
            None => write.uncovered = Some((request.method().clone(), request.uri().path_and_query().cloned())),
            // Softly only if all of the rules say so.
            Some(_) if softly => write.kind = InvalidationKind::Soft,
            Some(_) => {}
        }
        if !by_response {
            return (write, request);
        }
        let (head, body) = request.into_parts();
        write.head = Some(Box::new(head.clone()));
        write.keys = write.keys(None);
        (write, Request::from_parts(head, body))
    }

    /// Returns the time to wait for the delivery of the invalidation, and the reaction to a timeout.
    pub(super) fn delivery_timeout(&self) -> (Duration, OnDeliveryTimeout) {
        let of_rule = self.rule.as_ref().and_then(|rule| rule.delivery_timeout());
        of_rule.unwrap_or(self.shared.options.delivery_timeout)
    }

    /// Returns the reaction to a fence that cannot be set.
    fn on_fence_error(&self) -> OnFenceError {
        let of_rule = self.rule.as_ref().and_then(|rule| rule.on_fence_error());
        of_rule.unwrap_or(self.shared.options.on_fence_error)
    }

    /// Returns the response after the invalidations that its handler has named are delivered.
    pub(crate) async fn said<B: Body, E>(mut self, response: Response<B>) -> Result<Response<InvalidateBody<B>>, E> {
        Ok(self.answered(response.map(InvalidateBody::inner), true).await)
    }

    /// Invalidates, and turns the handler's response into the client's. `known` is true if the outcome of the write is known.
    pub(super) async fn answered<B: Body>(
        &mut self,
        response: Response<InvalidateBody<B>>,
        known: bool,
    ) -> Response<InvalidateBody<B>> {
        match self.settle(known).await {
            None => response,
            Some(Invalidation::Undelivered) if self.delivery_timeout().1 == OnDeliveryTimeout::Reject => {
                self.marked(InvalidateBody::unavailable(), Invalidation::Undelivered)
            }
            Some(what) => self.marked(response, what),
        }
    }

    /// Sets the fence of a strict store before the handler is called.
    pub(crate) async fn fenced<F, B, E>(mut self, call: impl FnOnce() -> F + Send) -> Result<Response<InvalidateBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send,
        B: Body,
    {
        let names = self.invalidated();
        if !names.is_empty() {
            match self.shared.store.fence(&names).await {
                Ok(fence) => self.fence = Some(Box::new((names, fence))),
                Err(error) => {
                    self.shared.store.context().counters.add(Count::NotFenced, 1);
                    tracing::warn!(?names, %error, "no fence could be set for a write");
                    if self.on_fence_error() == OnFenceError::Reject {
                        self.settled = true;
                        return Ok(self.marked(InvalidateBody::unavailable(), Invalidation::NotFenced));
                    }
                }
            }
        }
        self.run(call()).await
    }

    /// Awaits the handler and invalidates.
    #[expect(clippy::manual_async_fn, reason = "an async fn would move its arguments once more")]
    pub(crate) fn run<F, B, E>(mut self, inner: F) -> impl Future<Output = Result<Response<InvalidateBody<B>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body,
    {
        async move {
            let outcome = self.outcome(pin!(inner)).await;
            match outcome {
                Ok(Ok(response)) => {
                    let status = self.status_of(&response).filter(|_| self.response_limit.is_none());
                    let Some(status) = status else { return Ok(self.respond_at_end(response).await) };
                    let (response, _) = self.add_names_of(response, status);
                    Ok(self.answered(response.map(InvalidateBody::inner), is_known(status)).await)
                }
                Ok(Err(error)) => {
                    self.settle_without_response().await;
                    Err(error)
                }
                Err(panic) => {
                    self.settle_without_response().await;
                    resume_unwind(panic)
                }
            }
        }
    }

    /// Invalidates after a call that has ended without a response.
    async fn settle_without_response(&mut self) {
        if self.response_limit.is_some() {
            self.has_unread_response("the call has ended without a response".into());
        }
        self.settle(false).await;
    }

    /// Returns the response whose status or whose message decides about the invalidation.
    #[cold]
    #[inline(never)]
    fn respond_at_end<B: Body>(self, response: Response<B>) -> Pin<Box<impl Future<Output = Response<InvalidateBody<B>>>>> {
        Box::pin(async move {
            match self.response_limit {
                Some(max) => self.respond_with_message(response, max).await,
                None => self.respond_to_call(response.map(HeldBody::untouched)).await,
            }
        })
    }

    /// Invalidates, and returns the response, whose status stands in its head or at its end.
    pub(super) async fn respond<B: Body>(mut self, response: Response<HeldBody<B>>) -> Response<InvalidateBody<B>> {
        let Some(status) = self.status_of(&response) else { return self.respond_to_call(response).await };
        let (response, _) = self.add_names_of(response, status);
        self.answered(response.map(InvalidateBody::held), is_known(status)).await
    }

    /// Adds the namespaces that the response names, and removes those of the rule if the response says that nothing has changed. Returns true if
    /// the rule names namespaces for this response.
    pub(super) fn add_names_of<B>(&mut self, mut response: Response<B>, status: StatusCode) -> (Response<B>, bool) {
        let said = response.extensions_mut().remove::<Invalidations>();
        if said.is_none() {
            self.report_uncovered(status);
        }
        let (said, only) = said.map(Invalidations::into_parts).unwrap_or_default();
        let by_rule = !only && self.may_have_changed(status);
        if !by_rule {
            self.names = Namespaces::default();
        }
        self.unread &= by_rule && !status.is_client_error();
        // Before any step that may panic.
        self.names.extend_exactly(&said);
        if self.head.is_none() {
            return (response, by_rule);
        }
        let (parts, body) = response.into_parts();
        let groups = self.groups(&parts);
        self.names.extend_exactly(&groups);
        self.keys = self.keys(Some(&parts));
        if by_rule {
            self.add_names_by_response(&parts);
        }
        (Response::from_parts(parts, body), by_rule)
    }

    /// Returns true if the write may have changed data, by the status of its response.
    fn may_have_changed(&self, status: StatusCode) -> bool {
        self.rule.as_ref().is_none_or(|rule| rule.may_have_changed(status))
    }

    /// Counts a successful write that no rule covers.
    fn report_uncovered(&self, status: StatusCode) {
        let Some((method, target)) = self.uncovered.as_ref().filter(|_| status.is_success() || status.is_redirection()) else {
            return;
        };
        let (path, has_rules) = (target.as_ref().map_or("/", PathAndQuery::path), !self.rules.is_empty());
        let context = self.shared.store.context();
        context.counters.uncovered_write(method.as_str(), path, has_rules, context.clock.nanos());
    }

    /// Awaits the handler, catches its panic, and extends the deadline of the fence meanwhile.
    async fn outcome<F: Future>(&self, mut inner: Pin<&mut F>) -> thread::Result<F::Output> {
        let guarded = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome)),
            Err(panic) => Poll::Ready(Err(panic)),
        });
        let Some((names, fence)) = self.fence.as_deref() else { return guarded.await };
        let Some(after) = fence.renew_after() else { return guarded.await };
        // Boxed, to keep other writes small.
        let mut renewing = Box::pin(self.shared.renew_fence(names, fence, after, self.rule.as_deref()));
        let mut guarded = pin!(guarded);
        poll_fn(|cx| match guarded.as_mut().poll(cx) {
            Poll::Pending => renewing.as_mut().poll(cx),
            ready => ready,
        })
        .await
    }

    /// Adds the namespaces that the rules compute from the response.
    fn add_names_by_response(&mut self, response: &response::Parts) {
        let Some(head) = &self.head else { return };
        let mut unread = None;
        self.rules.each_covering(&Views::of(&head.uri, &head.extensions), |RouteMatch { rule, params, .. }| {
            let view = RequestView::of_parts(head, &params, &self.shared.store.context().secret);
            match rule.invalidations_by_response(&view, response) {
                Ok(names) => self.names.extend_exactly(&names),
                Err(error) => unread = Some(error),
            }
        });
        if let Some(unread) = unread {
            self.has_unread_response(unread.error);
        }
    }

    /// Returns the cache groups that the response names, if a rule enables them (RFC 9875, section 3).
    fn groups(&self, response: &response::Parts) -> Vec<Namespace> {
        let Some(head) = self.head.as_ref().filter(|_| self.covered_by(Policy::has_groups)) else {
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
        let Some(head) = self.head.as_ref().filter(|_| self.covered_by(|rule| rule.http().is_some())) else {
            return Vec::new();
        };
        let Self { shared, rules, .. } = self;
        // References in the response are relative to the target as the client sent it.
        let sent = key::uri_as_sent(&head.uri, &head.extensions);
        let own = sent.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let paths = match response {
            Some(parts) if !parts.status.is_server_error() || !self.may_have_changed(parts.status) => {
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
        let secret = &shared.store.context().secret;
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
        let Some(head) = &self.head else { return false };
        let mut covered = false;
        self.rules.each_covering(&Views::of(&head.uri, &head.extensions), |found| covered |= is(found.rule));
        covered
    }

    /// Returns all names to invalidate that are known so far, and the names of the fence.
    pub(super) fn invalidated(&self) -> Namespaces {
        let mut all = self.names.clone();
        self.keys.iter().for_each(|key| all.push_key(key.as_ref()));
        if self.unread {
            all.extend(&Namespaces::root());
        }
        if let Some((fenced, _)) = self.fence.as_deref() {
            all.extend(fenced);
        }
        self.shared.rules.add_changed_since(self.begun, &mut all);
        all
    }

    /// Invalidates, and waits for delivery within the limit. The fence is removed if the outcome is `known`.
    pub(super) async fn settle(&mut self, known: bool) -> Option<Invalidation> {
        let names = self.invalidated();
        let mut what = None;
        if !names.is_empty() {
            let store = &self.shared.store;
            let counters = &store.context().counters;
            let counted = InvalidationCount::begin(store, self.kind);
            let fence = self.fence.take().map(|fence| fence.1);
            let stands = fence.as_ref().filter(|_| !known).and_then(Fence::stands);
            let fence = fence.filter(|_| known);
            let limit = self.delivery_timeout().0;
            let outcome = match backend::within(limit, store.bump(&names, self.kind, fence)).await {
                Some(Ok(())) => {
                    counted.delivered();
                    tracing::debug!(?names, "invalidated");
                    Invalidation::Delivered
                }
                late => {
                    counters.add(Count::Undelivered, 1);
                    let error = late.and_then(Result::err);
                    tracing::error!(?names, ?error, "a write could not be followed by its invalidation in time");
                    Invalidation::Undelivered
                }
            };
            store.context().invalidated(&names, outcome == Invalidation::Delivered);
            if let Some(stands) = stands {
                store.context().hooks.fenced(&names, stands);
            }
            what = Some(outcome);
        }
        self.settled = true;
        what
    }

    /// Adds the result of the invalidation to the response.
    pub(super) fn marked<B>(&self, mut response: Response<B>, what: Invalidation) -> Response<B> {
        response.extensions_mut().insert(what);
        let detail = match what {
            Invalidation::Delivered => return response,
            Invalidation::Undelivered => "undelivered",
            Invalidation::NotFenced => "not-fenced",
        };
        if let Some(name) = &self.shared.options.cache_status {
            let value = HeaderValue::from_str(&format!("{name}; detail={detail}")).expect("the name was checked");
            response.headers_mut().append(field::CACHE_STATUS, value);
        }
        response
    }
}

/// Returns true if a write with this status has ended. While a statement may still be running, a fence stays until its deadline.
pub(super) fn is_known(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::REQUEST_TIMEOUT
}

/// Invalidates as far as possible without waiting if a write is dropped before its end: by a panic of the inner service's `call`, or with
/// its runtime.
impl<St: Store> Drop for Write<St> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let names = self.invalidated();
        if !names.is_empty() {
            let store = &self.shared.store;
            store.bump_now(&names);
            store.context().invalidated(&names, !store.is_shared());
            if let Some(stands) = self.fence.as_deref().and_then(|(_, fence)| fence.stands()) {
                store.context().hooks.fenced(&names, stands);
            }
        }
    }
}
