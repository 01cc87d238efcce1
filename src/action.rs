//! The action for a request: the common result of the fast path, the full path and the slow path.

use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::{
    Store,
    clock::Nanos,
    entry::Entry,
    lookup::{
        Lookup,
        decision::Decision,
        partial,
        request::{CacheRequest, LookupMiss, LookupTime, MissedRequest, Served},
    },
    state::LayerState,
    status::{Bypass, Miss, Outcome, Stale},
    target_cache::hot::HotResponse,
};

/// The action for a request. No response is made before the action is known, so that the type stays small.
pub(crate) enum Action<St: Store> {
    /// The request needs no further lookup.
    Finish(Finish<St>),
    /// The inner service is called, for a response that may be stored.
    Fetch(Box<MissedRequest<St>>),
    /// The inner service is called for a request with one `Range`, which a stored part may answer.
    FetchPart(Box<MissedRequest<St>>),
    /// The store has to be queried first.
    Wait(Box<CacheRequest>),
    /// The request is a call by RPC, whose deadline has to be awaited beside the response of this action.
    Call(Box<Action<St>>),
    /// The inner service answers, and the cache works beside it.
    Shadow,
}

/// The last step for a request that needs no further lookup.
pub(crate) enum Finish<St: Store> {
    /// No rule covers the request: the inner service answers.
    Pass,
    /// The inner service answers, and the response is marked with this outcome. The rule stands at this place.
    Forward(Outcome, usize),
    /// A complete response from an entry: a hit.
    Complete(Arc<Entry>, Served),
    /// A complete response from an entry without an `Age`: a hit.
    Replay(Arc<Entry>, Served),
    /// A complete response that this thread holds: a hit.
    Hot(Arc<HotResponse>, Served),
    /// A complete response that this thread holds, without an `Age`: a hit.
    HotReplay(Arc<HotResponse>, Served),
    /// A response that this thread holds, reduced to the request: its head, a 304, or complete. A hit.
    HotReduced(Arc<HotResponse>, Served),
    /// The entry, reduced to the request: complete, a part of it, its head, or a 304.
    Respond(Arc<Entry>, Outcome, Served),
    /// The entry, and it is refreshed in the background.
    RespondAndRefresh(Arc<Entry>, Outcome, Box<MissedRequest<St>>),
    /// The entry, and it is compared with a fresh response in the background.
    RespondAndAudit(Arc<Entry>, Box<MissedRequest<St>>),
    /// The response is 504 (RFC 9111, section 5.2.1.7). The rule stands at this place.
    OnlyIfCached(usize),
    /// The inner service answers a HEAD, and its response updates the stored one.
    Head(Box<MissedRequest<St>>),
}

impl<St: Store> Finish<St> {
    /// Returns true if the step calls the inner service before it returns.
    pub(crate) fn calls_inner(&self) -> bool {
        matches!(self, Self::Pass | Self::Forward(..) | Self::Head(_))
    }
}

/// The parts of a request that decide about the action, beside its entry.
pub(crate) struct Wanted<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) has_range: bool,
    pub(crate) is_conditional_or_range: bool,
    /// HTTP decides: a part of a response may be stored.
    pub(crate) by_http: bool,
}

/// The call of the inner service for a request that no stored response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// For the complete response.
    Whole,
    /// For the part that one `Range` selects.
    Part,
    /// For ranges whose response is not stored.
    Range,
    /// For the head of the response.
    Head,
}

impl Wanted<'_> {
    /// Returns the kind of call if no stored response answers.
    #[inline(always)]
    pub(crate) fn call(&self) -> Call {
        let is_get_of_range = self.has_range && *self.method == Method::GET;
        if is_get_of_range && !(self.by_http && partial::asks_for_one(self.method, self.headers)) {
            Call::Range
        } else if *self.method == Method::HEAD {
            Call::Head
        } else if is_get_of_range {
            Call::Part
        } else {
            Call::Whole
        }
    }
}

/// Returns the action that follows a decision. `missed` joins the request with its lookup; it is called only if both are needed.
#[inline(always)]
pub(crate) fn after<St: Store>(
    decision: Decision,
    lookup: Lookup,
    time: LookupTime,
    wanted: &Wanted<'_>,
    place: usize,
    missed: impl FnOnce(LookupMiss<St>) -> Box<MissedRequest<St>>,
) -> Action<St> {
    let Lookup { found, stamp, varying } = lookup;
    let found = found.map(|(entry, _)| entry);
    let is_head = *wanted.method == Method::HEAD;
    let served = Served { at: time.at, place, has_queried: time.has_queried };
    let finish = match (decision, found) {
        (Decision::Fresh, Some(entry)) if !wanted.is_conditional_or_range && !is_head => Finish::Complete(entry, served),
        (Decision::Fresh, Some(entry)) => Finish::Respond(entry, Outcome::Hit, served),
        (Decision::Audit, Some(entry)) => {
            let mut miss = LookupMiss::refreshing(entry.clone(), stamp, varying, time);
            miss.revalidatable = None;
            Finish::RespondAndAudit(entry, missed(miss))
        }
        (Decision::RefreshAhead | Decision::Stale, Some(entry)) => {
            let refresh_ahead = decision == Decision::RefreshAhead;
            let outcome = if refresh_ahead { Outcome::Hit } else { Outcome::Stale(Stale::WhileRevalidate) };
            match is_head {
                true => Finish::Respond(entry, outcome, served),
                false => {
                    let mut miss = LookupMiss::refreshing(entry.clone(), stamp, varying, time);
                    miss.refresh_ahead = refresh_ahead.then(|| entry.clone());
                    Finish::RespondAndRefresh(entry, outcome, missed(miss))
                }
            }
        }
        (Decision::AcceptedStale, Some(entry)) => Finish::Respond(entry, Outcome::Stale(Stale::MaxStale), served),
        (Decision::OnlyIfCached, _) => Finish::OnlyIfCached(place),
        (Decision::Fetch { reason, fallback }, found) => {
            let found = found.filter(|_| fallback);
            match wanted.call() {
                Call::Range => Finish::Forward(Outcome::Bypass(Bypass::Range), place),
                // Only the response to a GET is stored. A HEAD can update it.
                Call::Head => match found.filter(|entry| entry.http().is_some()) {
                    Some(entry) => Finish::Head(missed(LookupMiss::new(Miss::Head, Some(entry), stamp, varying, time))),
                    None => Finish::Forward(Outcome::Miss(Miss::Head), place),
                },
                Call::Part => return Action::FetchPart(missed(LookupMiss::new(reason, found, stamp, varying, time))),
                Call::Whole => return Action::Fetch(missed(LookupMiss::new(reason, found, stamp, varying, time))),
            }
        }
        (Decision::Fresh | Decision::RefreshAhead | Decision::Audit | Decision::Stale | Decision::AcceptedStale, None) => {
            unreachable!("an entry is decided about only if there is one")
        }
    };
    Action::Finish(finish)
}

/// Returns true if the request does not share the response of a fill, because it requires a response of its own.
pub(crate) fn requires_own_response<St: Store>(missed: &MissedRequest<St>) -> bool {
    let MissedRequest { request, miss } = missed;
    miss.reason == Miss::Request || request.info.directives.as_ref().is_some_and(|request| request.requires_own_response())
}

/// Returns true if responses for the key were found a moment ago not to be shareable (hit-for-miss).
pub(crate) fn is_hit_for_miss<St: Store>(shared: &LayerState<St>, missed: &MissedRequest<St>, now: Nanos) -> bool {
    shared.flights.passes(missed.miss.key(&missed.request), now)
}
