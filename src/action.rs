//! The action for a request.

use std::{rc::Rc, sync::Arc};

use http::{Method, Request};
use http_body::Body;

use crate::{
    clock::Nanos,
    entry::Entry,
    key::{self, Extracted, KeyRef, KeyWriter, MAX_KEY_LEN, RequestView},
    lookup::{
        self, Lookup,
        classify::{RequestTraits, asked_http, scan},
        decision::{self, Decision, Verdict, decide},
        info::RequestDirectives,
        partial,
        request::{CacheRequest, LookupMiss, MissedRequest},
    },
    rules::{
        RouteMatch,
        policy::{Policy, ReadPlan},
    },
    semantics::{self, CacheControl},
    state::LayerState,
    status::{Bypass, CacheStatus, Miss, Outcome, Stale},
    store::backend::{Context, Store},
    target_cache::{self, Resolution, hot},
};

/// What the first look at a request comes to. Small: no response is made before all is known of it.
pub(crate) enum Step<St: Store> {
    /// No rule covers it.
    Pass,
    /// The inner service is to answer, and the answer to be marked so.
    Mark(CacheStatus),
    /// The whole of an entry answers: a hit.
    Whole(Arc<Entry>, Nanos),
    /// What of an entry was asked for answers.
    Serve(Arc<Entry>, Outcome, Nanos),
    /// It answers, and wants refreshing.
    Refresh(Arc<Entry>, Outcome, Nanos, Box<MissedRequest<St>>),
    /// Only what is stored was wanted, and nothing is.
    Refused,
    /// The inner service is to answer a HEAD, and what it says is compared with what is stored.
    Head(Box<MissedRequest<St>>),
    /// The inner service is to be asked.
    Ask(Box<MissedRequest<St>>, LookupTime),
    /// The store has to be asked first.
    Wait(Box<CacheRequest>),
}

/// When the store was looked at.
#[derive(Clone, Copy)]
pub(crate) struct LookupTime {
    pub(crate) at: Nanos,
    /// How many fills had landed before.
    pub(crate) landings: u64,
}

/// The whole way: a hit on a target that is not remembered, and the beginning of everything else.
#[inline(never)]
pub(crate) fn first_step<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>, early: bool) -> Step<St> {
    let Some(found) = shared.rules.find(request.uri(), request.extensions()) else {
        return Step::Pass;
    };
    let step = key::in_scratch(|scratch| look_up(shared, request, &found, early, scratch));
    step.unwrap_or_else(|why| bypassed(shared, request, found.rule, why))
}

/// The inner service is to answer a request that the cache cannot answer; unless that wants a stored response or none (RFC 9111,
/// section 5.2.1.7). What is not known to be safe goes to the inner service all the same (section 4).
#[cold]
fn bypassed<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>, rule: &Policy, why: Bypass) -> Step<St> {
    let overridden = || request.headers().keys().any(key::overrides_method);
    let is_safe = semantics::is_safe(request.method()) && !overridden();
    if rule.http().is_some() && is_safe && CacheControl::of_request(request.headers()).only_if_cached {
        return Step::Refused;
    }
    shared.store.context().counters.bypass(why);
    tracing::debug!(reason = why.as_str(), "cache bypassed");
    Step::Mark(CacheStatus::new(Outcome::Bypass(why)))
}

/// A request as far as it is known before the store is asked.
struct Target<'a> {
    rule: &'a Arc<Policy>,
    asks: RequestTraits<'a>,
    key: KeyRef<'a>,
    /// The key without the forwarding fields: the name by which all entries of this target are invalidated.
    base: KeyRef<'a>,
    /// Its key says who is asking.
    identified: bool,
    /// The lot has fallen on it to refresh what it hits.
    early: bool,
}

/// What the short way comes to.
pub(crate) enum Recalled {
    /// The whole of an entry answers: a hit.
    Whole(Arc<Entry>, Nanos),
    /// So does the response that the thread has at hand.
    AtHand(Rc<hot::Response>, Nanos),
    /// The lot has fallen on this hit to refresh its entry. It is drawn once.
    Early,
    /// The store has to be asked first.
    Wait(Box<CacheRequest>),
}

/// The short way: a fresh hit on a target that is remembered, asked for as a whole, or the question to a store that has to be asked.
/// All else goes the whole way.
#[inline]
pub(crate) fn recalled<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>) -> Option<Recalled> {
    target_cache::with_known(shared.id, request.uri(), |known, places| {
        let rule = shared.rules.at(known.rule());
        let asks = scan(request, rule).ok().filter(|asks| !asks.query && !asks.less)?;
        if *request.method() != Method::GET || !known.is_of(asks.words(request)?) {
            return None;
        }
        let key = known.key().as_ref();
        let http = asked_http(request, rule, asks.credentials).ok()?;
        if let Some(response) = known.response() {
            let life = shared.store.still_has(response.entry());
            let now = shared.store.context().clock.nanos();
            match life.map(|life| decision::judge(response.entry(), life, rule, http.as_ref(), now)) {
                Some(Verdict::Fresh) => return Some(Recalled::AtHand(response, now)),
                Some(Verdict::Early) => return Some(Recalled::Early),
                _ => known.let_go(),
            }
        }
        let Some(found) = lookup::found_now(&shared.store, rule, key, request.headers()) else {
            let plan = known.plan()?.clone();
            let http = http.map(Box::new);
            return Some(Recalled::Wait(Box::new(CacheRequest::planned(
                rule,
                known.key().clone(),
                plan,
                request,
                false,
                http,
            ))));
        };
        let (entry, life) = found?;
        let now = shared.store.context().clock.nanos();
        match decision::judge(&entry, life, rule, http.as_ref(), now) {
            Verdict::Fresh => {
                places.heard(known, &entry);
                Some(Recalled::Whole(entry, now))
            }
            Verdict::Early => Some(Recalled::Early),
            _ => None,
        }
    })
}

/// The whole way: writes the key.
#[inline]
fn look_up<St: Store, R: Body>(
    shared: &LayerState<St>,
    request: &Request<R>,
    found: &RouteMatch<'_>,
    early: bool,
    scratch: &mut Vec<u8>,
) -> Result<Step<St>, Bypass> {
    let RouteMatch { rule, params, place } = found;
    let asks = scan(request, rule)?;
    if rule.is_ambiguous(params) {
        return Err(Bypass::AmbiguousPath);
    }
    let secret = &shared.store.context().secret;
    let view = RequestView::of(request, params, secret).with_host(asks.host);
    let mut writer = KeyWriter::new(scratch, secret);
    if rule.write_key(&view, &mut writer) == Extracted::Bypass {
        return Err(rule.why_bypassed(&view));
    }
    let (identified, hashed) = (writer.identified(), writer.has_hashed());
    let own = scratch.len();
    asks.forwarding.write(scratch);
    if scratch.len() > MAX_KEY_LEN {
        return Err(Bypass::KeyTooLong);
    }
    let key = KeyRef::new(scratch);
    let base = if scratch.len() > own { KeyRef::new(&scratch[..own]) } else { key };
    let step = step(shared, request, &Target { rule, asks, key, base, identified, early }, &view)?;
    if matches!(step, Step::Whole(..) | Step::Wait(_))
        && rule.depends_only_on_target()
        // Whatever is hashed in the key stands in the target as it is: it is not kept.
        && !hashed
        && !asks.query
        && let Some(words) = asks.words(request)
    {
        match &step {
            // The key of the entry, which is compared faster, unless it is that of a variant.
            Step::Whole(entry, _) => target_cache::remember(shared.id, words, || {
                let of_entry = entry.key();
                let key = if of_entry.as_ref() == key { of_entry.clone() } else { key.to_owned() };
                Resolution { rule: *place, key, base: own, plan: None }
            }),
            Step::Wait(quest) if rule.plans_by_target() => target_cache::remember(shared.id, words, || {
                let plan = quest.plan.clone();
                let plan = ReadPlan { names: plan.names.shared(), ..plan };
                Resolution { rule: *place, key: quest.primary.clone(), base: own, plan: Some(plan) }
            }),
            _ => {}
        }
    }
    Ok(step)
}

/// What is to be done for a request whose key is known.
#[inline]
fn step<St: Store, R>(
    shared: &LayerState<St>,
    request: &Request<R>,
    target: &Target<'_>,
    view: &RequestView<'_>,
) -> Result<Step<St>, Bypass> {
    let Target { rule, asks, key, base, .. } = *target;
    let mut http = asked_http(request, rule, asks.credentials && !target.identified)?;
    let (method, headers) = (request.method(), request.headers());
    let quest = |http: &mut Option<RequestDirectives>| {
        // Taken only where there is something: it is large.
        let http = if http.is_some() { http.take().map(Box::new) } else { None };
        CacheRequest::planned(rule, key.to_owned(), rule.plan(view, base), request, asks.less, http)
    };
    // Put where it stays, and with it the fields of the request if anything can depend on them.
    let sought = |http: &mut Option<RequestDirectives>, missed: LookupMiss<St>| {
        let keeps = asks.less || http.is_some() || missed.varying.is_some() || rule.may_vary();
        let mut sought = quest(http).but(missed);
        if keeps {
            sought.quest.asked.keep(request);
        }
        sought
    };
    let landings = shared.flights.landings();
    let Some(Lookup { found, stamp, varying }) = Lookup::now(&shared.store, rule, key, headers) else {
        return Ok(Step::Wait(Box::new(quest(&mut http))));
    };
    let Context { clock, counters, .. } = shared.store.context();
    let now = clock.nanos();
    let decision = match decide(found, rule, http.as_ref(), now) {
        Decision::Fresh(entry) if target.early => Decision::Early(entry),
        decision => decision,
    };
    let outcome = match &decision {
        Decision::Stale(_) => Outcome::Stale(Stale::WhileRevalidate),
        _ => Outcome::Hit,
    };
    Ok(match decision {
        Decision::Fresh(entry) if !asks.less && *method != Method::HEAD => Step::Whole(entry, now),
        Decision::Fresh(entry) => Step::Serve(entry, outcome, now),
        Decision::Early(entry) | Decision::Stale(entry) if *method == Method::HEAD => Step::Serve(entry, outcome, now),
        Decision::Early(entry) | Decision::Stale(entry) => {
            let missed = LookupMiss::renewing(entry.clone(), stamp, varying);
            Step::Refresh(entry, outcome, now, sought(&mut http, missed))
        }
        Decision::Accepted(entry) => Step::Serve(entry, Outcome::Stale(Stale::MaxStale), now),
        Decision::Refused => Step::Refused,
        // The whole was not asked for: where HTTP decides, a part may be stored; elsewhere none is.
        Decision::Ask(..) if http.is_some() && asks.range && partial::asks_for_one(method, headers) => {
            Step::Wait(Box::new(quest(&mut http)))
        }
        Decision::Ask(..) if asks.range && *method == Method::GET => return Err(Bypass::Range),
        Decision::Ask(_, Some(entry)) if *method == Method::HEAD && entry.http().is_some() => {
            counters.miss(Miss::Head);
            Step::Head(sought(&mut http, LookupMiss::asking(Miss::Head, Some(entry), stamp, varying)))
        }
        // Only a response to GET is stored: a HEAD goes its way.
        Decision::Ask(..) if *method == Method::HEAD => {
            counters.miss(Miss::Head);
            Step::Mark(CacheStatus::new(Outcome::Miss(Miss::Head)))
        }
        Decision::Ask(why, spare) => {
            Step::Ask(sought(&mut http, LookupMiss::asking(why, spare, stamp, varying)), LookupTime { at: now, landings })
        }
    })
}
