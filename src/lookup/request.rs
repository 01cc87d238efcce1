//! A request on its way through the cache, and its lookup.

use std::sync::Arc;

use http::{HeaderMap, Request};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Lookup,
    decision::{Decision, decide},
    info::{RequestDirectives, RequestInfo},
};
use crate::{
    clock::Nanos,
    entry::{Entry, stamp::Stamp, validity::Validity},
    key::Key,
    rules::policy::{Policy, ReadPlan},
    semantics::Vary,
    single_flight::{ExpectedJoin, Join, Leader, outcome::CompletionCount},
    state::LayerState,
    status::Miss,
    store::{Store, error::StoreError, lock_guard::LockGuard},
};

/// A request that the cache may answer: its rule, its key, its namespaces and its conditions.
pub(crate) struct CacheRequest {
    pub(crate) rule: Arc<Policy>,
    /// The key, before the request fields named by `Vary` are added.
    pub(crate) primary: Key,
    pub(crate) plan: ReadPlan,
    pub(crate) info: RequestInfo,
}

/// A request, and the lookup that did not answer it. It stays in one box from the lookup to the end of the fill.
pub(crate) struct MissedRequest<St: Store> {
    pub(crate) request: CacheRequest,
    pub(crate) miss: LookupMiss<St>,
}

/// The time of a lookup.
#[derive(Clone, Copy)]
pub(crate) struct LookupTime {
    pub(crate) at: Nanos,
    /// The number of fills that had ended before.
    pub(crate) completions: CompletionCount,
    /// The store itself was queried, and not only its memory.
    pub(crate) has_queried: bool,
}

/// The lookup of a request that an entry answers.
#[derive(Clone, Copy)]
pub(crate) struct Served {
    pub(crate) at: Nanos,
    /// The place of the rule in its table.
    pub(crate) place: usize,
    /// The store itself was queried, and not only its memory.
    pub(crate) has_queried: bool,
}

/// A lookup that did not answer the request, or whose entry is to be refreshed.
pub(crate) struct LookupMiss<St: Store> {
    pub(crate) reason: Miss,
    /// The entry that may be served if the inner service fails.
    pub(crate) fallback: Option<Arc<Entry>>,
    /// The entry that the inner service can revalidate.
    pub(crate) revalidatable: Option<Arc<Entry>>,
    pub(crate) stamp: Stamp,
    pub(crate) time: LookupTime,
    /// The fields by which the responses of the key vary, and the key with their values.
    pub(crate) varying: Option<Box<(Vary, Key)>>,
    /// The fresh entry that is refreshed before it expires.
    pub(crate) refresh_ahead: Option<Arc<Entry>>,
    /// The distributed lock, once the fill has begun.
    pub(crate) lock: Option<Box<LockGuard<St>>>,
    /// The permit of a fill that the shared store does not coordinate.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl<St: Store> LookupMiss<St> {
    /// Returns a miss. `found` may be served as a fallback, and revalidated.
    #[inline(always)]
    pub(crate) fn new(
        reason: Miss,
        found: Option<Arc<Entry>>,
        stamp: Stamp,
        varying: Option<(Vary, Key)>,
        time: LookupTime,
    ) -> Self {
        let revalidatable = found.clone().and_then(with_validator);
        let reason = if reason == Miss::Absent && varying.is_some() { Miss::Variant } else { reason };
        let varying = varying.map(Box::new);
        Self { reason, fallback: found, revalidatable, stamp, time, varying, refresh_ahead: None, lock: None, permit: None }
    }

    /// Returns the state for refreshing an entry that has answered.
    pub(crate) fn refreshing(entry: Arc<Entry>, stamp: Stamp, varying: Option<(Vary, Key)>, time: LookupTime) -> Self {
        let (reason, varying) = (Miss::Expired, varying.map(Box::new));
        let revalidatable = with_validator(entry);
        Self { reason, fallback: None, revalidatable, stamp, time, varying, refresh_ahead: None, lock: None, permit: None }
    }

    /// Replaces the entries by the one of a second lookup. An entry of the first lookup may have been invalidated meanwhile: under the
    /// newer stamp, its revalidated response would count as new.
    pub(crate) fn replace_found(&mut self, found: Option<Arc<Entry>>) {
        self.fallback = self.fallback.take().and(found.clone());
        self.revalidatable = self.revalidatable.take().and(found).and_then(with_validator);
    }

    /// Returns the key that was looked up.
    pub(crate) fn key<'a>(&'a self, request: &'a CacheRequest) -> &'a Key {
        self.varying.as_deref().map_or(&request.primary, |(_, key)| key)
    }
}

/// Returns the entry if it has a validator that the inner service knows.
fn with_validator(entry: Arc<Entry>) -> Option<Arc<Entry>> {
    entry.http().is_some_and(|http| http.asks).then_some(entry)
}

impl CacheRequest {
    #[inline(always)]
    pub(crate) fn new<B>(
        rule: &Arc<Policy>,
        primary: Key,
        plan: ReadPlan,
        request: &Request<B>,
        is_conditional_or_range: bool,
        directives: Option<Box<RequestDirectives>>,
    ) -> Self {
        Self { rule: rule.clone(), primary, plan, info: RequestInfo::new(request, is_conditional_or_range, directives) }
    }

    /// Returns the lookup as it is counted if an entry answers.
    pub(crate) fn served(&self, time: LookupTime) -> Served {
        Served { at: time.at, place: self.rule.place(), has_queried: time.has_queried }
    }

    /// Keeps the fields of the request, for the time after the request was passed on.
    pub(crate) fn keeping(mut self, headers: &HeaderMap) -> Self {
        self.info.keep(headers);
        self
    }

    /// Joins the request with the lookup that did not answer it.
    #[inline(always)]
    pub(crate) fn missed<St: Store>(self, miss: LookupMiss<St>) -> Box<MissedRequest<St>> {
        Box::new(MissedRequest { request: self, miss })
    }

    /// Looks the request up. Requires that the fields of the request were kept; without them, nothing is found.
    pub(crate) async fn look_up<St: Store>(&self, shared: &LayerState<St>) -> Result<Lookup, StoreError> {
        match self.info.headers() {
            Some(headers) => self.look_up_with(shared, headers).await,
            None => Ok(Lookup::nothing()),
        }
    }

    /// Looks the request up with the fields of the request.
    pub(crate) async fn look_up_with<St: Store>(
        &self,
        shared: &LayerState<St>,
        headers: &HeaderMap,
    ) -> Result<Lookup, StoreError> {
        Lookup::later(&shared.store, &self.rule, self.primary.as_ref(), headers, &self.plan.names).await
    }

    /// Decides about the result of a lookup.
    pub(crate) fn decide(&self, found: Option<&(Arc<Entry>, Validity)>, now: Nanos) -> Decision {
        decide(found, &self.rule, self.info.directives.as_deref(), now)
    }

    /// Returns the entry that the store has now, if the store answers at once.
    pub(crate) fn current_entry<St: Store>(&self, shared: &LayerState<St>, headers: &HeaderMap) -> Option<Arc<Entry>> {
        Some(Lookup::now(&shared.store, &self.rule, self.primary.as_ref(), headers)?.found?.0)
    }

    /// Returns the entry that the store has now if it is fresh and the store answers at once.
    pub(crate) fn fresh_entry<St: Store>(&self, shared: &LayerState<St>, headers: &HeaderMap) -> Option<Arc<Entry>> {
        let found = Lookup::now(&shared.store, &self.rule, self.primary.as_ref(), headers)?.found;
        match self.decide(found.as_ref(), shared.store.context().clock.nanos()) {
            Decision::Fresh | Decision::RefreshAhead | Decision::Audit => found.map(|(entry, _)| entry),
            _ => None,
        }
    }

    /// Returns the result of [`join`](Self::join), without joining.
    pub(crate) fn expected_join<St: Store>(&self, shared: &LayerState<St>, miss: &LookupMiss<St>) -> ExpectedJoin {
        let may_join = |stamp: &Stamp| shared.store.may_join(stamp, &miss.stamp, &self.plan.names);
        shared.flights.peek(miss.key(self), may_join)
    }

    /// Looks the request up without a trace in the store.
    pub(crate) async fn peek<St: Store>(&self, shared: &LayerState<St>) -> Result<Lookup, StoreError> {
        Lookup::peek(&shared.store, &self.rule, self.primary.as_ref(), self.info.conditions(), &self.plan.names).await
    }

    /// Returns true if the store still has `entry` as a fresh response to the request. A shared store is queried.
    pub(crate) async fn still_answered_by<St: Store>(&self, shared: &LayerState<St>, entry: &Entry) -> bool {
        let (names, headers) = (&self.plan.names, self.info.conditions());
        let lookup = Lookup::verify(&shared.store, &self.rule, self.primary.as_ref(), headers, names).await;
        let Ok(Lookup { found, .. }) = lookup else { return false };
        let decision = self.decide(found.as_ref(), shared.store.context().clock.nanos());
        let is_fresh = matches!(decision, Decision::Fresh | Decision::RefreshAhead | Decision::Audit);
        is_fresh && found.is_some_and(|(found, _)| found.is_same_response(entry))
    }

    /// Waits for the writes that a fresh response may have seen, and returns true if the store [still has](Self::still_answered_by) `entry` after
    /// them.
    pub(crate) async fn still_valid_later<St: Store>(&self, shared: &LayerState<St>, entry: &Entry) -> bool {
        if !shared.store.context().writes.ended(shared.options.fill_limit).await {
            return false;
        }
        if !shared.options.audit_grace.is_zero() {
            tokio::time::sleep(shared.options.audit_grace).await;
        }
        self.still_answered_by(shared, entry).await
    }

    /// Joins the fill of the key, or leads one: under the stamp of the lookup, or, with a shared store, under a stamp that is still to
    /// come.
    pub(crate) fn join<St: Store, T: Send + 'static>(&self, shared: &LayerState<St>, miss: &LookupMiss<St>) -> Join<T> {
        let may_join = |stamp: &Stamp| shared.store.may_join(stamp, &miss.stamp, &self.plan.names);
        self.join_if(shared, miss, may_join)
    }

    /// Leads a refresh. Returns `None` if a fill of the key is in progress, even if it began before the last invalidation: otherwise each of
    /// many soft invalidations would start a refresh.
    pub(crate) fn lead_refresh<St: Store>(&self, shared: &LayerState<St>, miss: &LookupMiss<St>) -> Option<Leader> {
        match self.join_if::<_, ()>(shared, miss, |_| true) {
            Join::Lead(leader, _) => Some(leader),
            Join::Follow(_) | Join::Full => None,
        }
    }

    fn join_if<St: Store, T: Send + 'static>(
        &self,
        shared: &LayerState<St>,
        miss: &LookupMiss<St>,
        may_join: impl Fn(&Stamp) -> bool,
    ) -> Join<T> {
        let stamp = (!shared.store.is_shared()).then_some(&miss.stamp);
        shared.flights.join(miss.key(self), stamp, shared.options.fill_limit, may_join)
    }
}
