//! The service: leaves a request alone, answers it at once, or sets out to have it answered.

use std::{
    fmt, mem,
    rc::Rc,
    sync::Arc,
    task::{self, Poll},
};

use http::{HeaderMap, Method, Request, Response, header};
use http_body::Body;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tower_service::Service;
use tracing::Instrument;

use crate::{
    answer::{self, Decision, Lookup, RequestDirectives, RequestInfo, Verdict, decide},
    body::{BoxError, CacheBody},
    clock::Nanos,
    content,
    fill::{Fill, LockGuard, as_inner_service_knows},
    flight::{Follower, Join},
    future::ResponseFuture,
    key::{self, Extracted, FieldClass, Forwarding, HostLine, Key, KeyRef, KeyWriter, MAX_KEY_LEN, RequestView, common_field},
    layer::LayerState,
    parts,
    recall::{self, Resolution, TargetId},
    road,
    rules::{Policy, ReadPlan, RouteMatch},
    semantics::{self, CacheControl, Vary},
    stats::Count,
    status::{Bypass, CacheStatus, Miss, Outcome, Stale},
    store::{Context, Entry, Memory, Stamp, Store, StoreError, Validity},
};

/// The service that [`CacheLayer`](crate::CacheLayer) makes.
///
/// It is ready when the inner service is, and uses the very instance that was made ready; whoever waits for another's
/// response gives it back first. A hit leaves it as it is, ready for the next call: as with every service that may answer
/// by itself, a caller that keeps an idle service keeps what it was promised, a permit of a `ConcurrencyLimit`, say. Servers
/// drop theirs after each request.
pub struct CacheService<S, St = Memory> {
    inner: S,
    shared: Arc<LayerState<St>>,
}

impl<S, St> CacheService<S, St> {
    pub(crate) fn new(inner: S, shared: Arc<LayerState<St>>) -> Self {
        Self { inner, shared }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to change it.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: Clone, St> Clone for CacheService<S, St> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<S: fmt::Debug, St> fmt::Debug for CacheService<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, St, ReqB, ResB> Service<Request<ReqB>> for CacheService<S, St>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ReqB: Body + Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<CacheBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, St, ResB, S::Error>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        if !self.shared.rules.may_cover(request.uri(), request.extensions()) {
            return ResponseFuture::pass(self.inner.call(request));
        }
        if !self.shared.options.enabled.is_on() {
            return self.call_disabled(request);
        }
        let early = match recalled(&self.shared, &request) {
            Some(Recalled::Whole(entry, now)) => return ResponseFuture::ready(whole(&self.shared, &entry, now)),
            Some(Recalled::AtHand(response, now)) => return ResponseFuture::ready(at_hand(&self.shared, &response, now)),
            Some(Recalled::Wait(quest)) => return self.wait(quest, request, None),
            Some(Recalled::Early) => true,
            None => false,
        };
        match first_step(&self.shared, &request, early) {
            Step::Pass => ResponseFuture::pass(self.inner.call(request)),
            Step::Mark(status) => ResponseFuture::bypass(self.inner.call(request), self.shared.clone(), status),
            Step::Whole(entry, now) => ResponseFuture::ready(whole(&self.shared, &entry, now)),
            Step::Serve(entry, outcome, now) => ResponseFuture::ready(serve(&self.shared, &request, &entry, outcome, now)),
            Step::Refresh(entry, outcome, now, sought) => {
                let response = serve(&self.shared, &request, &entry, outcome, now);
                self.refresh(sought, &entry, request);
                ResponseFuture::ready(response)
            }
            Step::Refused => ResponseFuture::ready(answer::only_if_cached(&self.shared)),
            Step::Head(sought) => {
                let fill = Fill::new(self.shared.clone(), sought, None, self.shared.store.context().clock.nanos());
                ResponseFuture::work(fill.head(self.inner.call(request)))
            }
            // Where other processes fill and clear as well, the stamp of a look at what is near is not enough.
            Step::Ask(sought, _) if self.shared.store.is_shared() => self.wait(Box::new(sought.quest), request, None),
            Step::Ask(sought, looked) => self.ask(sought, looked, request),
            Step::Wait(quest) => self.wait(quest, request, None),
        }
    }
}

/// What the inner service must be for its calls to go on without the request that they were made for.
pub(crate) trait InnerService<ReqB, ResB>:
    Service<Request<ReqB>, Response = Response<ResB>, Future: Send + 'static, Error: Send + 'static> + Send + 'static
{
}

impl<S, ReqB, ResB> InnerService<ReqB, ResB> for S where
    S: Service<Request<ReqB>, Response = Response<ResB>, Future: Send + 'static, Error: Send + 'static> + Send + 'static
{
}

/// What the first look at a request comes to. Small: no response is made before all is known of it.
enum Step<St: Store> {
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
struct LookupTime {
    at: Nanos,
    /// How many fills had landed before.
    landings: u64,
}

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
    fn planned<B>(
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
    fn look_again<St: Store>(&self, shared: &LayerState<St>, headers: &HeaderMap) -> Option<Arc<Entry>> {
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

/// The whole way: a hit on a target that is not remembered, and the beginning of everything else.
#[inline(never)]
fn first_step<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>, early: bool) -> Step<St> {
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
enum Recalled {
    /// The whole of an entry answers: a hit.
    Whole(Arc<Entry>, Nanos),
    /// So does the response that the thread has at hand.
    AtHand(Rc<recall::Response>, Nanos),
    /// The lot has fallen on this hit to refresh its entry. It is drawn once.
    Early,
    /// The store has to be asked first.
    Wait(Box<CacheRequest>),
}

/// The short way: a fresh hit on a target that is remembered, asked for as a whole, or the question to a store that has to be asked.
/// All else goes the whole way.
#[inline]
fn recalled<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>) -> Option<Recalled> {
    recall::with_known(shared.id, request.uri(), |known, places| {
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
            match life.map(|life| answer::judge(response.entry(), life, rule, http.as_ref(), now)) {
                Some(Verdict::Fresh) => return Some(Recalled::AtHand(response, now)),
                Some(Verdict::Early) => return Some(Recalled::Early),
                _ => known.let_go(),
            }
        }
        let Some(found) = answer::found_now(&shared.store, rule, key, request.headers()) else {
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
        match answer::judge(&entry, life, rule, http.as_ref(), now) {
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
            Step::Whole(entry, _) => recall::remember(shared.id, words, || {
                let of_entry = entry.key();
                let key = if of_entry.as_ref() == key { of_entry.clone() } else { key.to_owned() };
                Resolution { rule: *place, key, base: own, plan: None }
            }),
            Step::Wait(quest) if rule.plans_by_target() => recall::remember(shared.id, words, || {
                let plan = quest.plan.clone();
                let plan = ReadPlan { names: plan.names.shared(), ..plan };
                Resolution { rule: *place, key: quest.primary.clone(), base: own, plan: Some(plan) }
            }),
            _ => {}
        }
    }
    Ok(step)
}

/// What is asked under a rule where HTTP decides; elsewhere, credentials that the key does not tell apart are left alone.
#[inline]
fn asked_http<R>(request: &Request<R>, rule: &Policy, unkeyed_credentials: bool) -> Result<Option<RequestDirectives>, Bypass> {
    let guarded = unkeyed_credentials && !rule.ignores_credentials();
    match rule.http() {
        // RFC 9111, section 3.5: the response says whether it is for others, too.
        Some(_) => Ok(Some(RequestDirectives { directives: CacheControl::of_request(request.headers()), guarded })),
        None if guarded => Err(Bypass::Credentials),
        None => Ok(None),
    }
}

/// The whole of a fresh entry: a hit.
#[inline]
fn whole<St: Store, B>(shared: &LayerState<St>, entry: &Entry, now: Nanos) -> Response<CacheBody<B>> {
    let response = answer::from_whole(shared, entry, CacheStatus::new(Outcome::Hit), now);
    hit(shared, now);
    response
}

/// The response that the thread has at hand: a hit.
#[inline]
fn at_hand<St: Store, B>(shared: &LayerState<St>, response: &recall::Response, now: Nanos) -> Response<CacheBody<B>> {
    let times = response.entry().times();
    let response = answer::whole_of(shared, response.parts(), None, times, CacheStatus::new(Outcome::Hit), now);
    hit(shared, now);
    response
}

/// What of an entry a request asks for: a hit, or a stale one.
fn serve<St: Store, B, R>(
    shared: &LayerState<St>,
    request: &Request<R>,
    entry: &Entry,
    outcome: Outcome,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let response = answer::from_entry(shared, entry, request.method(), request.headers(), outcome, now);
    match outcome {
        Outcome::Hit => hit(shared, now),
        _ => {
            shared.store.context().counters.add(Count::Stale, 1);
            tracing::debug!("stale hit");
        }
    }
    response
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
        Decision::Ask(..) if http.is_some() && asks.range && parts::asks_for_one(method, headers) => {
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

/// Counts a hit, and on one in 64 the time it took.
#[inline]
pub(crate) fn hit<St: Store>(shared: &LayerState<St>, began: Nanos) {
    let context = shared.store.context();
    if context.counters.add(Count::Hit, 1).is_multiple_of(64) {
        context.counters.add(Count::Timed, 1);
        context.counters.add(Count::TimedNanos, context.clock.nanos().saturating_sub(began));
    }
    tracing::debug!("hit");
}

/// What a walk over the fields of a request has found.
#[derive(Debug, Clone, Copy, Default)]
struct RequestTraits<'a> {
    host: HostLine<'a>,
    /// A field that says who the client is, other than a `Cookie` that the rule ignores.
    credentials: bool,
    /// Those that the rule does not ignore.
    forwarding: Forwarding<'a>,
    /// A part of the whole: a stored whole can answer, and nothing else of ours.
    range: bool,
    /// Less than the whole, perhaps: a part of it, or nothing if it is still the same.
    less: bool,
    /// It is a QUERY: its content is part of its key.
    query: bool,
}

impl<'a> RequestTraits<'a> {
    /// The target of a request in the words it was sent in, if these are all that its key depends on.
    #[inline]
    fn words<R>(&'a self, request: &'a Request<R>) -> Option<TargetId<'a>> {
        TargetId::of(request.uri(), request.extensions(), self.host, &self.forwarding)
    }
}

/// What a request carries; or why it is to be left alone. One walk over its fields.
#[inline]
fn scan<'a, R: Body>(request: &'a Request<R>, rule: &Policy) -> Result<RequestTraits<'a>, Bypass> {
    if rule.is_uncached() {
        return Err(Bypass::Uncached);
    }
    let query = *request.method() != Method::GET && content::is_known(request.extensions());
    if *request.method() != Method::GET && *request.method() != Method::HEAD && !query {
        return Err(Bypass::Method);
    }
    if !query && !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0) {
        return Err(Bypass::RequestBody);
    }
    let fields = rule.fields();
    let lists_common = fields.lists_common();
    let mut asks = RequestTraits { query, ..RequestTraits::default() };
    for (name, value) in request.headers() {
        match *name {
            header::HOST => asks.host = asks.host.and(value),
            header::RANGE => (asks.range, asks.less) = (true, true),
            header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE | header::IF_RANGE => asks.less = true,
            header::IF_MATCH | header::IF_UNMODIFIED_SINCE => return Err(Bypass::Precondition),
            header::UPGRADE => return Err(Bypass::Upgrade),
            header::COOKIE if rule.ignores_cookies() => {}
            common_field!() if !lists_common => {}
            _ => match fields.class(name) {
                None => {}
                Some(FieldClass::Credential) => asks.credentials = true,
                Some(FieldClass::Forwarding(_)) if rule.ignores_forwarded() => {}
                Some(FieldClass::Forwarding(number)) if !asks.forwarding.push(number, value) => return Err(Bypass::Forwarding),
                Some(FieldClass::Forwarding(_)) => {}
                Some(FieldClass::MethodOverride) => return Err(Bypass::MethodOverride),
            },
        }
    }
    Ok(asks)
}

/// The client's own conditions and its range: we answer them ourselves, and the inner service is to send the whole.
fn without_conditions(headers: &mut HeaderMap) {
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::RANGE, header::IF_RANGE] {
        if headers.remove(&name).is_some() {
            tracing::trace!(%name, "taken off");
        }
    }
}

/// Makes of a request what the inner service is to see: one with our own conditions where we have something to ask about, else one
/// without any; alone, it goes as it came.
#[inline]
pub(crate) fn question<B, St: Store>(request: &mut Request<B>, quest: &CacheRequest, missed: &mut LookupMiss<St>, alone: bool) {
    if let Some(ours) = &missed.ours {
        // RFC 9111, section 4.3.1: ours and not the client's, so that a 304 is about what is stored here.
        if !semantics::condition(request.headers_mut(), &[&as_inner_service_knows(ours)]) {
            missed.ours = None;
        }
    } else if !alone && quest.asked.less {
        without_conditions(request.headers_mut());
    }
}

impl<S, St> CacheService<S, St> {
    /// The ready instance, for a call that comes now or in the background.
    fn take_ready(&mut self) -> S
    where
        S: Clone,
    {
        let next = self.inner.clone();
        mem::replace(&mut self.inner, next)
    }

    /// Calls the inner service while caching is turned off.
    #[cold]
    fn call_disabled<ReqB, ResB>(&mut self, request: Request<ReqB>) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB>,
        St: Store,
        ResB: Send + 'static,
    {
        if self.shared.rules.find(request.uri(), request.extensions()).is_none() {
            return ResponseFuture::pass(self.inner.call(request));
        }
        self.shared.store.context().counters.bypass(Bypass::Disabled);
        let status = CacheStatus::new(Outcome::Bypass(Bypass::Disabled));
        ResponseFuture::bypass(self.inner.call(request), self.shared.clone(), status)
    }

    /// Asks the inner service, or waits for who is asking already.
    #[inline(always)]
    fn ask<ReqB, ResB>(
        &mut self,
        mut sought: Box<MissedRequest<St>>,
        looked: LookupTime,
        mut request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let counters = &shared.store.context().counters;
        let now = looked.at;
        let MissedRequest { quest, missed } = &mut *sought;
        let by_itself = missed.why == Miss::Request || quest.asked.http.as_ref().is_some_and(|asked| asked.goes_alone());
        if by_itself || shared.flights.passes(missed.key(quest), now) {
            if !by_itself && missed.ours.is_none() {
                missed.why = Miss::HitForMiss;
            }
            return self.ask_alone(sought, now, request);
        }
        match quest.join(&shared, missed) {
            Join::Lead(leader, drive) => {
                // Another fill may have landed between our look and our joining.
                if shared.flights.landings() != looked.landings
                    && let Some(entry) = quest.fresh_by_now(&shared, request.headers())
                {
                    drop(leader);
                    let (method, headers) = (request.method(), request.headers());
                    let response = answer::from_entry(&shared, &entry, method, headers, Outcome::Hit, now);
                    hit(&shared, now);
                    return ResponseFuture::ready(response);
                }
                counters.miss(missed.why);
                tracing::debug!(reason = missed.why.as_str(), "miss");
                question(&mut request, quest, missed, false);
                let inner = self.take_ready().call(request);
                ResponseFuture::lead(road::lead(shared, sought, (leader, drive), now, inner))
            }
            Join::Follow(follower) => self.wait(Box::new(sought.quest), request, Some(follower)),
            Join::Full => {
                missed.why = Miss::FlightLimit;
                self.ask_alone(sought, now, request)
            }
        }
    }

    /// Asks the inner service for this request alone.
    fn ask_alone<ReqB, ResB>(
        &mut self,
        mut sought: Box<MissedRequest<St>>,
        now: Nanos,
        mut request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let MissedRequest { quest, missed } = &mut *sought;
        self.shared.store.context().counters.miss(missed.why);
        question(&mut request, quest, missed, true);
        let inner = self.take_ready().call(request);
        ResponseFuture::work(Fill::new(self.shared.clone(), sought, None, now).run(inner))
    }

    /// Waits: for a store that has to be asked, or for another's response. The ready instance is given back first, so that
    /// it starves nobody meanwhile.
    fn wait<ReqB, ResB>(
        &mut self,
        quest: Box<CacheRequest>,
        request: Request<ReqB>,
        follower: Option<Follower>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        drop(self.take_ready());
        ResponseFuture::work(road::wait(self.shared.clone(), self.inner.clone(), quest, request, follower))
    }

    /// Has an entry refreshed behind its back, unless somebody is at it.
    fn refresh<ReqB, ResB>(&mut self, mut sought: Box<MissedRequest<St>>, seen: &Arc<Entry>, mut request: Request<ReqB>)
    where
        S: InnerService<ReqB, ResB> + Clone,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        let shared = self.shared.clone();
        let MissedRequest { quest, missed } = &mut *sought;
        // Also where nobody waits for the next response of this key: not to wait for it is not a reason not to fetch it.
        if shared.store.is_shared() {
            drop(self.take_ready());
            runtime.spawn(Box::pin(road::renew(shared, self.inner.clone(), sought.quest, request)).in_current_span());
            return;
        }
        if let Join::Lead(leader, _) = quest.join::<_, ()>(&shared, missed) {
            // Whoever was at it may have landed between our look and our joining.
            if quest.look_again(&shared, request.headers()).is_some_and(|found| !Arc::ptr_eq(&found, seen)) {
                return;
            }
            let Context { clock, counters, .. } = shared.store.context();
            counters.add(Count::Refreshes, 1);
            let began = clock.nanos();
            question(&mut request, quest, missed, false);
            let inner = self.take_ready().call(request);
            runtime.spawn(road::refreshing(&shared, sought, leader, began, inner).in_current_span());
        }
    }
}
