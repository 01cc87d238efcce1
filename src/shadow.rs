//! Shadow mode: the inner service answers every request, and the cache looks up, compares and stores beside it.

use std::{
    convert::Infallible,
    future::{Future, poll_fn, ready},
    mem,
    sync::Arc,
    task::{Context as TaskContext, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, header::CONTENT_LENGTH, response};
use http_body::Body;
use tokio::{runtime::Handle, time::Instant};
use tracing::{Instrument, Span};

use crate::{
    Store,
    action::{self, Action, Finish},
    body::CacheBody,
    clock::Nanos,
    compare::{self, Difference, Head},
    entry::{Content, Entry},
    error::BoxError,
    fill::{
        Answer, Fill,
        begin::begin,
        body::BufferReservation,
        forwarded::Forwarded,
        ongoing::{OngoingCall, OngoingFill},
        upstream::InnerService,
    },
    lookup::{decision::Decision, request::MissedRequest},
    single_flight::{Join, Leader},
    slow_path,
    state::LayerState,
    stats::shadow::{ShadowAnswer, ShadowComparison},
    status::{Bypass, NoStore, Outcome},
    watched::Watcher,
};

/// The use of the response of the inner service, beside sending it to the client.
enum Use<St: Store> {
    /// It is neither compared nor stored.
    Nothing,
    /// It is compared with the entry that would have answered.
    Compare(Arc<Entry>, Box<MissedRequest<St>>),
    /// It is stored.
    Store(Box<MissedRequest<St>>, Option<Leader>),
}

/// A request whose lookup is done.
struct Shadowed<St: Store> {
    /// The outcome, and the place of the rule. `None` if no rule covers the request.
    outcome: Option<(Outcome, usize)>,
    response: Use<St>,
}

impl<St: Store> Shadowed<St> {
    fn at(place: usize, response: Use<St>) -> Self {
        Self { outcome: Some((Outcome::Bypass(Bypass::Shadow), place)), response }
    }
}

/// Answers a request by the inner service. `action` is the action that the cache would have taken, whose fresh hits are chosen for a comparison.
pub(crate) async fn respond<S, St, ReqB, ResB>(
    shared: Arc<LayerState<St>>,
    mut service: S,
    action: Action<St>,
    request: Request<ReqB>,
) -> Answer<ResB, S::Error>
where
    S: InnerService<ReqB, ResB>,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let Shadowed { outcome, response: used } = look_up(&shared, action, request.headers()).await;
    poll_fn(|cx| service.poll_ready(cx)).await?;
    let Some((outcome, place)) = outcome else { return Ok(service.call(request).await?.map(CacheBody::inner)) };
    let began = shared.store.context().clock.nanos();
    let forwarded = Forwarded::begin(&shared, outcome, place);
    let response = match &used {
        Use::Nothing => service.call(request).await?,
        Use::Compare(_, missed) | Use::Store(missed, _) => {
            let ongoing = OngoingFill::of(shared.store.context(), missed.request.primary.as_ref());
            let call = {
                let _guard = ongoing.enter();
                service.call(request)
            };
            OngoingCall::new(ongoing, Span::none(), call).await?
        }
    };
    let (head, body) = response.into_parts();
    let watcher: Option<Box<dyn Watcher>> = match used {
        Use::Nothing => None,
        Use::Compare(entry, missed) => Comparing::of(&shared, entry, missed, &head).map(|watcher| Box::new(watcher) as _),
        Use::Store(missed, leader) => {
            let head = head.clone();
            let times = (began, shared.store.context().clock.nanos());
            let taken = BufferReservation::new(shared.clone());
            let storing = Storing { shared: shared.clone(), missed, leader, times, head, data: BytesMut::new(), taken };
            Some(Box::new(Filling(Some(storing))))
        }
    };
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let body = match watcher {
        None => CacheBody::inner(body),
        Some(watcher) => CacheBody::watched(body, announced, watcher),
    };
    Ok(forwarded.answered(Response::from_parts(head, body)))
}

/// Looks the request up, counts the answer that the cache would have given, and returns the plan for the real response. It does not wait for
/// other fills.
async fn look_up<St: Store>(shared: &Arc<LayerState<St>>, mut action: Action<St>, headers: &HeaderMap) -> Shadowed<St> {
    loop {
        let step = match action {
            Action::Call(inner) => {
                action = *inner;
                continue;
            }
            Action::Wait(request) => {
                action = slow_path::look_up(shared, request, headers, true, Some(Decision::Audit)).await;
                continue;
            }
            Action::Fetch(missed) | Action::FetchPart(missed) => return fetched(shared, missed, true).await,
            Action::Shadow => unreachable!("the action is one of a cache that answers"),
            Action::Finish(step) => step,
        };
        let counted = |place: usize, answer, response| {
            shared.routes[place].shadow(answer);
            Shadowed::at(place, response)
        };
        return match step {
            Finish::Pass => Shadowed { outcome: None, response: Use::Nothing },
            Finish::Forward(outcome @ Outcome::Bypass(_), place) => {
                Shadowed { outcome: Some((outcome, place)), response: Use::Nothing }
            }
            Finish::Forward(_, place) => counted(place, ShadowAnswer::Miss, Use::Nothing),
            Finish::Head(missed) => counted(missed.request.rule.place(), ShadowAnswer::Miss, Use::Nothing),
            Finish::OnlyIfCached(place) => Shadowed::at(place, Use::Nothing),
            Finish::RespondAndAudit(entry, mut missed) => {
                missed.request.info.keep(headers);
                counted(missed.request.rule.place(), ShadowAnswer::Hit, Use::Compare(entry, missed))
            }
            Finish::RespondAndRefresh(_, outcome, missed) => {
                let answer = if outcome == Outcome::Hit { ShadowAnswer::Hit } else { ShadowAnswer::Stale };
                let place = missed.request.rule.place();
                shared.routes[place].shadow(answer);
                shared.routes[place].shadow_compared(ShadowComparison::NotCompared, &[]);
                fetched(shared, missed, false).await
            }
            Finish::Respond(_, outcome, served) => {
                let answer = if outcome == Outcome::Hit { ShadowAnswer::Hit } else { ShadowAnswer::Stale };
                shared.routes[served.place].shadow_compared(ShadowComparison::NotCompared, &[]);
                counted(served.place, answer, Use::Nothing)
            }
            Finish::Complete(_, served)
            | Finish::Replay(_, served)
            | Finish::Hot(_, served)
            | Finish::HotReplay(_, served)
            | Finish::HotReduced(_, served) => {
                shared.routes[served.place].shadow_compared(ShadowComparison::NotCompared, &[]);
                counted(served.place, ShadowAnswer::Hit, Use::Nothing)
            }
        };
    }
}

/// Begins a fill by the response of this request, unless the response is not the complete one. `counts` is false if the request is counted.
async fn fetched<St: Store>(shared: &Arc<LayerState<St>>, mut missed: Box<MissedRequest<St>>, counts: bool) -> Shadowed<St> {
    let MissedRequest { request, miss } = &mut *missed;
    (miss.revalidatable, miss.fallback) = (None, None);
    let (place, now) = (request.rule.place(), miss.time.at);
    let count = |answer| {
        if counts {
            shared.routes[place].shadow(answer);
        }
    };
    let stays = request.info.is_conditional_or_range || request.info.method == Method::HEAD;
    let is_alone = stays || action::requires_own_response(&missed) || action::is_hit_for_miss(shared, &missed, now);
    let MissedRequest { request, miss } = &mut *missed;
    let mut leader = None;
    if !is_alone {
        match request.join::<_, ()>(shared, miss) {
            Join::Lead(leads, _) => leader = Some(leads),
            Join::Follow(_) => {
                count(ShadowAnswer::Collapsed);
                return Shadowed::at(place, Use::Nothing);
            }
            Join::Full => {}
        }
    }
    if shared.store.is_shared() && !stays {
        let completions = miss.time.completions;
        let leads = leader.as_mut().map(|leader| (leader, completions));
        if begin(shared, request, miss, leads, Instant::now()).await.is_some() {
            count(ShadowAnswer::Collapsed);
            return Shadowed::at(place, Use::Nothing);
        }
    }
    count(ShadowAnswer::Miss);
    Shadowed::at(place, if stays { Use::Nothing } else { Use::Store(missed, leader) })
}

/// Stores a response that the client reads, when it is complete. If the client leaves before, nothing is stored.
struct Filling<St: Store>(Option<Storing<St>>);

struct Storing<St: Store> {
    shared: Arc<LayerState<St>>,
    missed: Box<MissedRequest<St>>,
    leader: Option<Leader>,
    /// The times of the call and of its response. The client may read much later.
    times: (Nanos, Nanos),
    head: response::Parts,
    data: BytesMut,
    /// The share in the buffered bytes of the layer.
    taken: BufferReservation<St>,
}

impl<St: Store> Watcher for Filling<St> {
    fn data(&mut self, chunk: &Bytes) {
        let Some(storing) = &mut self.0 else { return };
        if storing.data.len() + chunk.len() > storing.missed.request.rule.max_body() || !storing.taken.take(chunk.len()) {
            storing.shared.route(&storing.missed.request.rule).no_store(NoStore::TooLarge);
            self.0 = None;
        } else {
            storing.data.extend_from_slice(chunk);
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        let Some(Storing { shared, missed, leader, times: (began, answered), head, data, taken: _taken }) = self.0.take()
        else {
            return;
        };
        let body: CacheBody<String> = CacheBody::whole(data.freeze(), trailers.map(Box::new));
        let response = Ok::<_, Infallible>(Response::from_parts(head, body));
        let fill = Fill { answered, is_late: true, ..Fill::new(shared, missed, leader, began, None) };
        let mut fill = Box::pin(fill.run(ready(response)));
        // Memory stores at once, so that the next request of the client finds the entry.
        if fill.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())).is_pending()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { drop(fill.await) }.in_current_span());
        }
    }
}

/// Compares a response that the client reads with the entry that would have answered.
struct Comparing<St: Store> {
    shared: Arc<LayerState<St>>,
    missed: Option<Box<MissedRequest<St>>>,
    entry: Arc<Entry>,
    differences: Vec<Difference>,
    /// The number of bytes that were compared.
    read: usize,
    is_same_body: bool,
}

impl<St: Store> Comparing<St> {
    /// Compares the heads. Returns `None`, and counts that, if the response cannot be compared: a part, a head, a 304, or a failure.
    fn of(
        shared: &Arc<LayerState<St>>,
        entry: Arc<Entry>,
        missed: Box<MissedRequest<St>>,
        fresh: &response::Parts,
    ) -> Option<Self> {
        let rule = &missed.request.rule;
        let Content::Response { status, headers, .. } = entry.content() else { return None };
        let info = &missed.request.info;
        let is_failure = fresh.status.is_server_error() && *status != fresh.status;
        if info.is_conditional_or_range || info.method == Method::HEAD || is_failure {
            shared.route(rule).shadow_compared(ShadowComparison::NotCompared, &[]);
            return None;
        }
        let (stored, fresh) = (headers.map(), Head { status: fresh.status, headers: &fresh.headers });
        let stored = Head { status: *status, headers: &stored };
        let differences = compare::heads(stored, fresh, rule.uncompared());
        let shared = shared.clone();
        Some(Self { shared, entry: entry.clone(), differences, missed: Some(missed), read: 0, is_same_body: true })
    }
}

impl<St: Store> Watcher for Comparing<St> {
    fn data(&mut self, chunk: &Bytes) {
        if self.is_same_body
            && let Content::Response { body, .. } = self.entry.content()
        {
            self.is_same_body = body.get(self.read..).is_some_and(|rest| rest.starts_with(chunk));
            self.read += chunk.len();
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        let Some(missed) = self.missed.take() else { return };
        let rule = missed.request.rule.clone();
        if let Content::Response { body, trailers: stored, .. } = self.entry.content() {
            if !self.is_same_body || self.read != body.len() {
                self.differences.push(Difference::Body);
            }
            if compare::are_other_trailers(stored.as_deref(), trailers.as_ref(), rule.uncompared()) {
                self.differences.push(Difference::Trailers);
            }
        }
        let differences = mem::take(&mut self.differences);
        let (shared, entry) = (self.shared.clone(), self.entry.clone());
        if differences.is_empty() {
            return shared.route(&rule).shadow_compared(ShadowComparison::Same, &[]);
        }
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            match missed.request.still_valid_later(&shared, &entry).await {
                true => shared.route(&rule).shadow_compared(ShadowComparison::Differed, &differences),
                false => shared.route(&rule).shadow_compared(ShadowComparison::Changed, &[]),
            }
        });
    }
}

/// A client that has left early leaves the response uncompared.
impl<St: Store> Drop for Comparing<St> {
    fn drop(&mut self) {
        if let Some(missed) = &self.missed {
            self.shared.route(&missed.request.rule).shadow_compared(ShadowComparison::NotCompared, &[]);
        }
    }
}
