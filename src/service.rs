//! The service: leaves a request alone, answers it at once, or sets out to have it answered.

use std::{
    cell::Cell,
    fmt,
    future::{Future, poll_fn},
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Request, Response, header};
use http_body::Body;
use tokio::runtime::Handle;
use tower_service::Service;
use tracing::Instrument;

use crate::{
    answer::{self, Asked, AskedHttp, Decision, Look, decide, decide_http},
    body::{BoxError, CacheBody},
    clock::Nanos,
    drive::{Drive, unless_left},
    fill::{Fill, as_inner_service_knows},
    flight::{Follower, Joined, Landing, Leader, Progress},
    future::ResponseFuture,
    key::{Extracted, Key, KeyRef, KeyWriter, RequestView, is_secret},
    layer::Shared,
    rules::{Compiled, Params, ReadPlan},
    semantics::{self, CacheControl, Failure, Vary},
    stats::Count,
    status::{Bypass, CacheStatus, Miss, Outcome, Stale},
    store::{Content, Entry, Life, Memory, Stamp, Store},
};

/// The service that [`CacheLayer`](crate::CacheLayer) makes.
///
/// It is ready when the inner service is, and uses the very instance that was made ready; whoever waits for another's
/// response gives it back first. A hit leaves it as it is, ready for the next call: as with every service that may answer
/// by itself, a caller that keeps an idle service keeps what it was promised, a permit of a `ConcurrencyLimit`, say. Servers
/// drop theirs after each request.
pub struct Cache<S, St = Memory> {
    inner: S,
    shared: Arc<Shared<St>>,
}

impl<S, St> Cache<S, St> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<St>>) -> Self {
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

impl<S: Clone, St> Clone for Cache<S, St> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<S: fmt::Debug, St> fmt::Debug for Cache<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, St, ReqB, ResB> Service<Request<ReqB>> for Cache<S, St>
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        match first_step(&self.shared, &request) {
            Step::Pass => ResponseFuture::pass(self.inner.call(request)),
            Step::Mark(status) => ResponseFuture::bypass(self.inner.call(request), self.shared.clone(), status),
            Step::Answer(response) => ResponseFuture::ready(response),
            Step::Refresh(response, quest, missed, seen) => {
                self.refresh(*quest, missed, &seen, request);
                ResponseFuture::ready(response)
            }
            Step::Head(quest, missed) => {
                let fill = quest.fill(&self.shared, missed, None);
                ResponseFuture::work(fill.head(self.inner.call(request)))
            }
            Step::Ask(quest, missed) => self.ask(*quest, missed, request),
            Step::Wait(quest) => self.wait(*quest, request, None),
        }
    }
}

/// What the first look at a request comes to.
enum Step<B> {
    /// No rule covers it.
    Pass,
    /// The inner service is to answer, and the answer to be marked so.
    Mark(CacheStatus),
    Answer(Response<CacheBody<B>>),
    /// Answered, with something that wants refreshing.
    Refresh(Response<CacheBody<B>>, Box<Quest>, Missed, Arc<Entry>),
    /// The inner service is to answer a HEAD, and what it says is compared with what is stored.
    Head(Box<Quest>, Missed),
    /// The inner service is to be asked.
    Ask(Box<Quest>, Missed),
    /// The store has to be asked first.
    Wait(Box<Quest>),
}

/// All that is known of a request before anybody is asked.
pub(crate) struct Quest {
    rule: Arc<Compiled>,
    primary: Key,
    plan: ReadPlan,
    asked: Asked,
}

/// A look that did not answer the request.
struct Missed {
    why: Miss,
    /// What may be served if the inner service fails.
    spare: Option<Arc<Entry>>,
    /// What the inner service can be asked about.
    ours: Option<Arc<Entry>>,
    stamp: Stamp,
    varying: Option<(Vary, Key)>,
}

impl Missed {
    /// What was found may stand in, and be asked about.
    fn asking(why: Miss, spare: Option<Arc<Entry>>, stamp: Stamp, varying: Option<(Vary, Key)>) -> Self {
        let ours = spare.clone().and_then(asked_about);
        Self { why, spare, ours, stamp, varying }
    }

    /// What was found has answered already, and is to be renewed.
    fn renewing(entry: Arc<Entry>, stamp: Stamp, varying: Option<(Vary, Key)>) -> Self {
        Self { why: Miss::Expired, spare: None, ours: asked_about(entry), stamp, varying }
    }

    /// The key that was looked up.
    fn key<'a>(&'a self, quest: &'a Quest) -> &'a Key {
        self.varying.as_ref().map_or(&quest.primary, |(_, key)| key)
    }
}

/// The entry, if there is a validator by which to ask about it.
fn asked_about(entry: Arc<Entry>) -> Option<Arc<Entry>> {
    entry.http().is_some_and(|http| http.asks).then_some(entry)
}

impl Quest {
    fn new<B>(
        rule: &Arc<Compiled>,
        key: KeyRef<'_>,
        view: &RequestView<'_>,
        request: &Request<B>,
        http: Option<AskedHttp>,
    ) -> Box<Self> {
        let (primary, plan) = (key.to_owned(), rule.plan(view, key));
        Box::new(Self { rule: rule.clone(), primary, plan, asked: Asked::of(request, http.map(Box::new)) })
    }

    fn fill<St: Store>(self, shared: &Arc<Shared<St>>, missed: Missed, leader: Option<Leader>) -> Fill<St> {
        let Self { rule, primary, plan, asked } = self;
        let Missed { why, spare, ours, stamp, varying } = missed;
        let began = shared.store.context().clock.nanos();
        let shared = shared.clone();
        Fill { shared, rule, plan, primary, varying, stamp, asked, began, miss: why, stale: spare, ours, leader }
    }

    /// What the store has for this request by now, if it answers at once.
    fn look_again<St: Store>(&self, shared: &Shared<St>) -> Option<Arc<Entry>> {
        Some(Look::now(&shared.store, &self.rule, self.primary.as_ref(), &self.asked.headers)?.found?.0)
    }

    /// The same, if it is fresh.
    fn fresh_by_now<St: Store>(&self, shared: &Shared<St>) -> Option<Arc<Entry>> {
        let found = Look::now(&shared.store, &self.rule, self.primary.as_ref(), &self.asked.headers)?.found;
        let now = shared.store.context().clock.nanos();
        let decision = match &self.asked.http {
            None => decide(found, &self.rule, now),
            Some(asked) => decide_http(found, &self.rule, asked, now),
        };
        match decision {
            Decision::Fresh(entry) | Decision::Early(entry) => Some(entry),
            Decision::Stale(_) | Decision::Accepted(_) | Decision::Refused | Decision::Ask(..) => None,
        }
    }

    fn join<St: Store>(&self, shared: &Shared<St>, missed: &Missed) -> Joined {
        let alive = |stamp: &Stamp| shared.store.life(stamp, &self.plan.names) == Life::Alive;
        shared.flights.join(missed.key(self), &missed.stamp, alive)
    }
}

thread_local! {
    /// Where keys are written; taken while it is in use.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The whole of a hit, and the beginning of everything else.
#[inline]
fn first_step<St, B, R>(shared: &Arc<Shared<St>>, request: &Request<R>) -> Step<B>
where
    St: Store,
    R: Body,
{
    let Some((rule, params)) = shared.rules.find(request.uri(), request.extensions()) else {
        return Step::Pass;
    };
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let step = match look_up(shared, request, rule, &params, &mut scratch) {
        Ok(step) => step,
        Err(why) => {
            shared.store.context().counters.bypass(why);
            tracing::debug!(reason = why.as_str(), "cache bypassed");
            Step::Mark(CacheStatus::new(Outcome::Bypass(why)))
        }
    };
    SCRATCH.set(scratch);
    step
}

#[inline]
fn look_up<St, B, R>(
    shared: &Arc<Shared<St>>,
    request: &Request<R>,
    rule: &Arc<Compiled>,
    params: &Params<'_>,
    scratch: &mut Vec<u8>,
) -> Result<Step<B>, Bypass>
where
    St: Store,
    R: Body,
{
    let asks = scan(request, rule)?;
    let context = shared.store.context();
    let view = RequestView::of(request, params, &context.secret);
    let mut writer = KeyWriter::new(scratch, &context.secret);
    if rule.write_key(&view, &mut writer) == Extracted::Bypass {
        return Err(Bypass::Extractor);
    }
    if writer.too_long() {
        return Err(Bypass::KeyTooLong);
    }
    let guarded = asks.credentials && !writer.identified() && !rule.ignores_credentials();
    // RFC 9111, section 3.5: where HTTP decides, the response says whether it is for others, too.
    let http = rule.http().map(|_| AskedHttp { directives: CacheControl::of_request(request.headers()), guarded });
    if guarded && http.is_none() {
        return Err(Bypass::Credentials);
    }
    let key = KeyRef::new(scratch);
    let (method, headers) = (request.method(), request.headers());
    let quest = |http| Quest::new(rule, key, &view, request, http);
    let Some(look) = Look::now(&shared.store, rule, key, headers) else {
        return Ok(Step::Wait(quest(http)));
    };
    let now = context.clock.nanos();
    let Look { found, stamp, varying } = look;
    let decision = match &http {
        None => decide(found, rule, now),
        Some(asked) => decide_http(found, rule, asked, now),
    };
    Ok(match decision {
        Decision::Fresh(entry) => {
            let response = answer::from_entry(shared, &entry, method, headers, Outcome::Hit, now);
            hit(shared, now);
            Step::Answer(response)
        }
        Decision::Early(entry) => {
            let response = answer::from_entry(shared, &entry, method, headers, Outcome::Hit, now);
            hit(shared, now);
            if *method == Method::HEAD {
                return Ok(Step::Answer(response));
            }
            Step::Refresh(response, quest(http), Missed::renewing(entry.clone(), stamp, varying), entry)
        }
        Decision::Stale(entry) => {
            let outcome = Outcome::Stale(Stale::WhileRevalidate);
            let response = answer::from_entry(shared, &entry, method, headers, outcome, now);
            context.counters.add(Count::Stale, 1);
            tracing::debug!("stale hit");
            if *method == Method::HEAD {
                return Ok(Step::Answer(response));
            }
            Step::Refresh(response, quest(http), Missed::renewing(entry.clone(), stamp, varying), entry)
        }
        Decision::Accepted(entry) => {
            context.counters.add(Count::Stale, 1);
            Step::Answer(answer::from_entry(shared, &entry, method, headers, Outcome::Stale(Stale::MaxStale), now))
        }
        Decision::Refused => Step::Answer(answer::only_if_cached(shared)),
        // A part is not stored, and the whole was not asked for.
        Decision::Ask(..) if asks.range && *method == Method::GET => return Err(Bypass::Range),
        Decision::Ask(_, Some(entry)) if *method == Method::HEAD && entry.http().is_some() => {
            context.counters.miss(Miss::Head);
            Step::Head(quest(http), Missed::asking(Miss::Head, Some(entry), stamp, varying))
        }
        // Only a response to GET is stored: a HEAD goes its way.
        Decision::Ask(..) if *method == Method::HEAD => {
            context.counters.miss(Miss::Head);
            Step::Mark(CacheStatus::new(Outcome::Miss(Miss::Head)))
        }
        Decision::Ask(why, spare) => Step::Ask(quest(http), Missed::asking(why, spare, stamp, varying)),
    })
}

/// Counts a hit, and on one in 64 the time it took.
#[inline]
fn hit<St: Store>(shared: &Shared<St>, began: Nanos) {
    let context = shared.store.context();
    if context.counters.add(Count::Hit, 1).is_multiple_of(64) {
        context.counters.add(Count::Timed, 1);
        context.counters.add(Count::TimedNanos, context.clock.nanos().saturating_sub(began));
    }
    tracing::debug!("hit");
}

/// What a walk over the fields of a request has found.
#[derive(Debug, Clone, Copy, Default)]
struct Asks {
    /// `Authorization` or `Cookie`.
    credentials: bool,
    /// A part of the whole: a stored whole can answer, and nothing else of ours.
    range: bool,
}

/// What a request carries; or why it is to be left alone. One walk over its fields.
#[inline]
fn scan<R: Body>(request: &Request<R>, rule: &Compiled) -> Result<Asks, Bypass> {
    if rule.is_uncached() {
        return Err(Bypass::Uncached);
    }
    if *request.method() != Method::GET && *request.method() != Method::HEAD {
        return Err(Bypass::Method);
    }
    if !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0) {
        return Err(Bypass::RequestBody);
    }
    let mut asks = Asks::default();
    for name in request.headers().keys() {
        match *name {
            header::RANGE => asks.range = true,
            header::IF_MATCH | header::IF_UNMODIFIED_SINCE => return Err(Bypass::Precondition),
            header::UPGRADE => return Err(Bypass::Upgrade),
            _ if is_secret(name) => asks.credentials = true,
            _ if overrides_method(name.as_str()) => return Err(Bypass::MethodOverride),
            _ => {}
        }
    }
    Ok(asks)
}

#[inline]
pub(crate) fn overrides_method(name: &str) -> bool {
    name.starts_with("x-") && matches!(name, "x-http-method-override" | "x-http-method" | "x-method-override")
}

/// The client's own conditions and its range: we answer them ourselves, and the inner service is to send the whole.
fn without_conditions<B>(mut request: Request<B>) -> Request<B> {
    let headers: &mut HeaderMap = request.headers_mut();
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::RANGE, header::IF_RANGE] {
        if headers.remove(&name).is_some() {
            tracing::trace!(%name, "taken off");
        }
    }
    request
}

/// The request as the inner service is to see it: with our own conditions where we have something to ask about, else without
/// any; alone, it goes as it came.
fn question<B>(mut request: Request<B>, missed: &mut Missed, alone: bool) -> Request<B> {
    if let Some(ours) = &missed.ours {
        // RFC 9111, section 4.3.1: ours and not the client's, so that a 304 is about what is stored here.
        if !semantics::condition(request.headers_mut(), &[&as_inner_service_knows(ours)]) {
            missed.ours = None;
        }
        return request;
    }
    if alone { request } else { without_conditions(request) }
}

impl<S, St> Cache<S, St> {
    /// The ready instance, for a call that comes now or in the background.
    fn take_ready(&mut self) -> S
    where
        S: Clone,
    {
        let next = self.inner.clone();
        mem::replace(&mut self.inner, next)
    }

    /// Asks the inner service, or waits for who is asking already.
    fn ask<ReqB, ResB>(
        &mut self,
        quest: Quest,
        mut missed: Missed,
        request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let counters = &shared.store.context().counters;
        let now = shared.store.context().clock.nanos();
        let by_itself = missed.why == Miss::Request || quest.asked.http.as_ref().is_some_and(|asked| asked.goes_alone());
        if by_itself || shared.flights.passes(missed.key(&quest), now) {
            if !by_itself && missed.ours.is_none() {
                missed.why = Miss::HitForMiss;
            }
            counters.miss(missed.why);
            let inner = self.take_ready().call(question(request, &mut missed, true));
            return ResponseFuture::work(quest.fill(&shared, missed, None).run(inner));
        }
        match quest.join(&shared, &missed) {
            Joined::Leads(leader) => {
                // Another fill may have landed between our look and our joining.
                if let Some(entry) = quest.fresh_by_now(&shared) {
                    drop(leader);
                    let Asked { method, headers, .. } = &quest.asked;
                    let response = answer::from_entry(&shared, &entry, method, headers, Outcome::Hit, now);
                    hit(&shared, now);
                    return ResponseFuture::ready(response);
                }
                counters.miss(missed.why);
                tracing::debug!(reason = missed.why.as_str(), "miss");
                let inner = self.take_ready().call(question(request, &mut missed, false));
                ResponseFuture::lead(lead(&shared, quest, missed, leader, inner))
            }
            Joined::Follows(follower) => self.wait(quest, request, Some(follower)),
            Joined::Full => {
                missed.why = Miss::FlightLimit;
                counters.miss(missed.why);
                let inner = self.take_ready().call(question(request, &mut missed, true));
                ResponseFuture::work(quest.fill(&shared, missed, None).run(inner))
            }
        }
    }

    /// Waits: for a store that has to be asked, or for another's response. The ready instance is given back first, so that
    /// it starves nobody meanwhile.
    fn wait<ReqB, ResB>(
        &mut self,
        quest: Quest,
        request: Request<ReqB>,
        follower: Option<Follower>,
    ) -> ResponseFuture<S::Future, St, ResB, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        drop(self.take_ready());
        ResponseFuture::work(wait(self.shared.clone(), self.inner.clone(), quest, request, follower))
    }

    /// Has an entry refreshed behind its back, unless somebody is at it.
    fn refresh<ReqB, ResB>(&mut self, quest: Quest, mut missed: Missed, seen: &Arc<Entry>, request: Request<ReqB>)
    where
        S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        St: Store,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        let shared = self.shared.clone();
        if shared.flights.passes(missed.key(&quest), shared.store.context().clock.nanos()) {
            return;
        }
        if let Joined::Leads(leader) = quest.join(&shared, &missed) {
            // Whoever was at it may have landed between our look and our joining.
            if quest.look_again(&shared).is_some_and(|found| !Arc::ptr_eq(&found, seen)) {
                return;
            }
            shared.store.context().counters.add(Count::Refreshes, 1);
            let inner = self.take_ready().call(question(request, &mut missed, false));
            runtime.spawn(refreshing(&shared, quest, missed, leader, inner).in_current_span());
        }
    }
}

/// Fills as the leader: in the task of its own request for as long as nobody else depends on it.
fn lead<St, F, B, E>(
    shared: &Arc<Shared<St>>,
    quest: Quest,
    missed: Missed,
    leader: Leader,
    inner: F,
) -> Drive<Result<Response<CacheBody<B>>, E>>
where
    St: Store,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    let flight = leader.flight();
    let limit = shared.options.fill_limit;
    let awaited = {
        // Not held: the flight knows its work.
        let flight = Arc::downgrade(&flight);
        move || flight.upgrade().is_some_and(|flight| flight.is_awaited())
    };
    let drive = Drive::limited(quest.fill(shared, missed, Some(leader)).run(inner), limit, awaited);
    flight.is_worked_by(drive.handle());
    drive
}

/// What may be served while the inner service is slow, to one who waits for another's response.
async fn instead<St: Store, B>(shared: &Shared<St>, quest: &Quest) -> Option<Response<CacheBody<B>>> {
    let Asked { method, headers, .. } = &quest.asked;
    let look = Look::later(&shared.store, &quest.rule, quest.primary.as_ref(), headers, &quest.plan.names).await.ok()?;
    let (entry, life) = look.found.filter(|(entry, _)| matches!(entry.content(), Content::Response { .. }))?;
    let now = shared.store.context().clock.nanos();
    if !quest.asked.may_have_instead(&entry, life, Failure::Unreachable, now) {
        return None;
    }
    shared.store.context().counters.add(Count::Stale, 1);
    Some(answer::from_entry(shared, &entry, method, headers, Outcome::Stale(Stale::SoftTimeout), now))
}

/// Fills as the leader, in the background: what is answered is for nobody, what is stored is for all. It ends when it
/// takes too long, unless somebody waits for it by then.
fn refreshing<St, F, B, E>(
    shared: &Arc<Shared<St>>,
    quest: Quest,
    missed: Missed,
    leader: Leader,
    inner: F,
) -> impl Future<Output = ()> + Send + 'static
where
    St: Store,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    E: Send + 'static,
{
    let flight = leader.flight();
    let limit = Some(shared.options.fill_limit);
    let fill = quest.fill(shared, missed, Some(leader)).run(inner);
    async move { drop(unless_left(fill, limit, || !flight.is_awaited()).await) }
}

/// The road of a request that has to wait.
async fn wait<S, St, ReqB, ResB>(
    shared: Arc<Shared<St>>,
    mut service: S,
    quest: Quest,
    request: Request<ReqB>,
    mut follower: Option<Follower>,
) -> Result<Response<CacheBody<ResB>>, S::Error>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let until = shared.flights.patience();
    let context = shared.store.context();
    let Asked { method, headers, http } = &quest.asked;
    loop {
        let mut alone = None;
        if let Some(follower) = follower.take() {
            let progress = match quest.rule.soft_timeout() {
                None => follower.wait(until).await,
                Some(limit) => match tokio::time::timeout(limit, follower.wait(until)).await {
                    Ok(progress) => progress,
                    Err(_) => match instead(&shared, &quest).await {
                        Some(response) => return Ok(response),
                        None => follower.wait(until).await,
                    },
                },
            };
            match progress {
                None => alone = Some(Miss::WaitLimit),
                Some(Progress::Landed(Landing::NotShared)) => alone = Some(Miss::NotShared),
                Some(Progress::Landed(Landing::Stored(found))) => {
                    let stamp = found.entry.stamp();
                    let now = context.clock.nanos();
                    if !quest.asked.may_have(found.entry.http(), now) {
                        alone = Some(Miss::NotShared);
                    } else if answer::may_share(
                        &shared.store,
                        stamp,
                        &quest.rule,
                        found.terms(),
                        quest.primary.as_ref(),
                        headers,
                    ) {
                        context.counters.add(Count::Collapsed, 1);
                        return Ok(answer::from_entry(&shared, &found.entry, method, headers, Outcome::Collapsed, now));
                    }
                }
                Some(Progress::Arriving(found)) => {
                    let stamp = follower.stamp();
                    let now = context.clock.nanos();
                    let may_share = quest.asked.may_have(found.http.as_deref(), now)
                        && answer::may_share(&shared.store, stamp, &quest.rule, found.terms(), quest.primary.as_ref(), headers);
                    if may_share {
                        context.counters.add(Count::Collapsed, 1);
                        return Ok(answer::from_arriving(&shared, &found, &quest.asked, now));
                    }
                    // On its way, but not for us.
                    alone = Some(Miss::NotShared);
                }
                Some(Progress::Landed(Landing::Lost) | Progress::Calling) => {}
            }
        }
        let look = Look::later(&shared.store, &quest.rule, quest.primary.as_ref(), headers, &quest.plan.names).await;
        let now = context.clock.nanos();
        let look = look.unwrap_or_else(|error| {
            tracing::debug!(%error, "the store did not answer");
            Look::nothing()
        });
        let Look { found, stamp, varying } = look;
        let decision = match http {
            None => decide(found, &quest.rule, now),
            Some(asked) => decide_http(found, &quest.rule, asked, now),
        };
        let early = matches!(decision, Decision::Early(_));
        let mut missed = match decision {
            Decision::Fresh(entry) => {
                hit(&shared, now);
                return Ok(answer::from_entry(&shared, &entry, method, headers, Outcome::Hit, now));
            }
            Decision::Early(entry) | Decision::Stale(entry) if early || alone.is_none() => {
                let outcome = if early { Outcome::Hit } else { Outcome::Stale(Stale::WhileRevalidate) };
                match early {
                    true => hit(&shared, now),
                    false => _ = context.counters.add(Count::Stale, 1),
                }
                let response = answer::from_entry(&shared, &entry, method, headers, outcome, now);
                let mut missed = Missed::renewing(entry, stamp, varying);
                if *method == Method::GET
                    && let Joined::Leads(leader) = quest.join(&shared, &missed)
                {
                    context.counters.add(Count::Refreshes, 1);
                    let shared = shared.clone();
                    let refresh = async move {
                        // Not awaited by the stale answer, which is to leave at once.
                        if poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
                            let inner = service.call(question(request, &mut missed, false));
                            refreshing(&shared, quest, missed, leader, inner).await;
                        }
                    };
                    tokio::spawn(refresh.in_current_span());
                }
                return Ok(response);
            }
            Decision::Accepted(entry) => {
                context.counters.add(Count::Stale, 1);
                let outcome = Outcome::Stale(Stale::MaxStale);
                return Ok(answer::from_entry(&shared, &entry, method, headers, outcome, now));
            }
            Decision::Refused => return Ok(answer::only_if_cached(&shared)),
            Decision::Early(entry) | Decision::Stale(entry) => Missed::asking(Miss::Expired, Some(entry), stamp, varying),
            // As at the first look: a response without its content is no answer for the GETs of this key.
            Decision::Ask(..) if *method == Method::HEAD => {
                context.counters.miss(Miss::Head);
                poll_fn(|cx| service.poll_ready(cx)).await?;
                let response = service.call(request).await?.map(CacheBody::inner);
                return Ok(shared.marked(response, CacheStatus::new(Outcome::Miss(Miss::Head))));
            }
            Decision::Ask(why, spare) => Missed::asking(why, spare, stamp, varying),
        };
        if alone.is_none() && (missed.why == Miss::Request || http.as_ref().is_some_and(|asked| asked.goes_alone())) {
            alone = Some(missed.why);
        }
        if *method == Method::GET && headers.contains_key(header::RANGE) {
            context.counters.bypass(Bypass::Range);
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let response = service.call(request).await?.map(CacheBody::inner);
            return Ok(shared.marked(response, CacheStatus::new(Outcome::Bypass(Bypass::Range))));
        }
        if alone.is_none() {
            match quest.join(&shared, &missed) {
                Joined::Leads(leader) => {
                    if let Some(entry) = quest.fresh_by_now(&shared) {
                        drop(leader);
                        hit(&shared, now);
                        return Ok(answer::from_entry(&shared, &entry, method, headers, Outcome::Hit, now));
                    }
                    context.counters.miss(missed.why);
                    poll_fn(|cx| service.poll_ready(cx)).await?;
                    let inner = service.call(question(request, &mut missed, false));
                    return lead(&shared, quest, missed, leader, inner).await;
                }
                Joined::Follows(another) => {
                    follower = Some(another);
                    continue;
                }
                Joined::Full => alone = Some(Miss::FlightLimit),
            }
        }
        if let Some(alone) = alone.filter(|_| missed.ours.is_none()) {
            missed.why = alone;
        }
        context.counters.miss(missed.why);
        poll_fn(|cx| service.poll_ready(cx)).await?;
        let inner = service.call(question(request, &mut missed, true));
        return quest.fill(&shared, missed, None).run(inner).await;
    }
}
