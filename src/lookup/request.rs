//! A request, and its lookup.

use std::sync::Arc;

use http::{HeaderMap, Request};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Lookup,
    decision::{Decision, decide},
};
use crate::{
    clock::Nanos,
    entry::{Entry, stamp::Stamp, validity::Validity},
    key::Key,
    lookup::info::{RequestDirectives, RequestInfo},
    rules::policy::{Policy, ReadPlan},
    semantics::Vary,
    single_flight::Join,
    state::LayerState,
    status::Miss,
    store::{backend::Store, error::StoreError, lock_guard::LockGuard},
};

/// All that is known of a request before anybody is asked.
pub(crate) struct CacheRequest {
    pub(crate) rule: Arc<Policy>,
    pub(crate) primary: Key,
    pub(crate) plan: ReadPlan,
    pub(crate) asked: RequestInfo,
}

/// What was asked for and not found. In one place: what moves along the road of a fill is a pointer to it.
pub(crate) struct MissedRequest<St: Store> {
    pub(crate) quest: CacheRequest,
    pub(crate) missed: LookupMiss<St>,
}

/// A look that did not answer the request.
pub(crate) struct LookupMiss<St: Store> {
    pub(crate) why: Miss,
    /// What may be served if the inner service fails.
    pub(crate) spare: Option<Arc<Entry>>,
    /// What the inner service can be asked about.
    pub(crate) ours: Option<Arc<Entry>>,
    pub(crate) stamp: Stamp,
    pub(crate) varying: Option<Box<(Vary, Key)>>,
    /// What was found is fresh, and is renewed all the same.
    pub(crate) early: bool,
    /// The lock across processes, once the fill begins.
    pub(crate) lock: Option<Box<LockGuard<St>>>,
    /// A place among the calls that nothing in a shared store stands behind.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl<St: Store> LookupMiss<St> {
    /// What was found may stand in, and be asked about.
    #[inline(always)]
    pub(crate) fn asking(why: Miss, spare: Option<Arc<Entry>>, stamp: Stamp, varying: Option<(Vary, Key)>) -> Self {
        let ours = spare.clone().and_then(asked_about);
        let why = if why == Miss::Absent && varying.is_some() { Miss::Variant } else { why };
        Self { why, spare, ours, stamp, varying: varying.map(Box::new), early: false, lock: None, permit: None }
    }

    /// What was found has answered already, and is to be renewed.
    pub(crate) fn renewing(entry: Arc<Entry>, stamp: Stamp, varying: Option<(Vary, Key)>) -> Self {
        let ours = asked_about(entry);
        let varying = varying.map(Box::new);
        Self { why: Miss::Expired, spare: None, ours, stamp, varying, early: false, lock: None, permit: None }
    }

    /// Another look has found this, or nothing that may be used any more: what was found before was cleared, perhaps, and under the
    /// stamp of this look a response about that would pass for a new one.
    pub(crate) fn finds(&mut self, left: Option<Arc<Entry>>) {
        self.spare = self.spare.take().and(left.clone());
        self.ours = self.ours.take().and(left).and_then(asked_about);
    }

    /// The key that was looked up.
    pub(crate) fn key<'a>(&'a self, quest: &'a CacheRequest) -> &'a Key {
        self.varying.as_deref().map_or(&quest.primary, |(_, key)| key)
    }
}

/// The entry, if there is a validator by which to ask about it.
fn asked_about(entry: Arc<Entry>) -> Option<Arc<Entry>> {
    entry.http().is_some_and(|http| http.asks).then_some(entry)
}

impl CacheRequest {
    #[inline(always)]
    pub(crate) fn planned<B>(
        rule: &Arc<Policy>,
        primary: Key,
        plan: ReadPlan,
        request: &Request<B>,
        less: bool,
        http: Option<Box<RequestDirectives>>,
    ) -> Self {
        Self { rule: rule.clone(), primary, plan, asked: RequestInfo::of(request, less, http) }
    }

    /// The same, which needs the fields of the request no longer.
    pub(crate) fn keeping<B>(mut self, request: &Request<B>) -> Self {
        self.asked.keep(request);
        self
    }

    /// With the look that has not answered it.
    #[inline(always)]
    pub(crate) fn but<St: Store>(self, missed: LookupMiss<St>) -> Box<MissedRequest<St>> {
        Box::new(MissedRequest { quest: self, missed })
    }

    /// What the store has for this request, waiting for one that has to be asked.
    pub(crate) async fn look<St: Store>(&self, shared: &LayerState<St>) -> Result<Lookup, StoreError> {
        match self.asked.headers() {
            Some(headers) => self.look_for(shared, headers).await,
            None => Ok(Lookup::nothing()),
        }
    }

    /// The same, where the fields of the request are still with the request.
    pub(crate) async fn look_for<St: Store>(&self, shared: &LayerState<St>, headers: &HeaderMap) -> Result<Lookup, StoreError> {
        Lookup::later(&shared.store, &self.rule, self.primary.as_ref(), headers, &self.plan.names).await
    }

    /// What to do with what was found.
    pub(crate) fn decide(&self, found: Option<(Arc<Entry>, Validity)>, now: Nanos) -> Decision {
        decide(found, &self.rule, self.asked.http.as_deref(), now)
    }

    /// What the store has for this request by now, if it answers at once.
    pub(crate) fn look_again<St: Store>(&self, shared: &LayerState<St>, headers: &HeaderMap) -> Option<Arc<Entry>> {
        Some(Lookup::now(&shared.store, &self.rule, self.primary.as_ref(), headers)?.found?.0)
    }

    /// The same, if it is fresh.
    pub(crate) fn fresh_by_now<St: Store>(&self, shared: &LayerState<St>, headers: &HeaderMap) -> Option<Arc<Entry>> {
        let found = Lookup::now(&shared.store, &self.rule, self.primary.as_ref(), headers)?.found;
        match self.decide(found, shared.store.context().clock.nanos()) {
            Decision::Fresh(entry) | Decision::Early(entry) => Some(entry),
            Decision::Stale(_) | Decision::Accepted(_) | Decision::Refused | Decision::Ask(..) => None,
        }
    }

    /// Joins the fill of this key, or leads one: under the stamp of the look, or, in a shared store, under one still to come.
    pub(crate) fn join<St: Store, T: Send + 'static>(&self, shared: &LayerState<St>, missed: &LookupMiss<St>) -> Join<T> {
        let store = &shared.store;
        let alive = |stamp: &Stamp| store.may_join(stamp, &missed.stamp, &self.plan.names);
        let stamp = (!store.is_shared()).then_some(&missed.stamp);
        shared.flights.join(missed.key(self), stamp, shared.options.fill_limit, alive)
    }
}
