//! The whole road of a fill: from the inner service's answer to the client and into the store.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response, StatusCode, header, response};
use http_body::Body;
use tracing::Instrument;

use crate::{
    answer::{self, Asked},
    body::{BoxError, CacheBody, Rest},
    clock::{Nanos, nanos},
    drive::unless_left,
    flight::{Arriving, Landing, Leader, Shareable},
    hints::Caching,
    key::{Key, MAX_KEY_LEN},
    layer::Shared,
    namespace::{MAX_NAMESPACES, Namespaces},
    rules::{Compiled, ReadPlan},
    semantics::{self, CacheControl, Vary},
    stats::Count,
    status::{CacheStatus, Miss, NoStore, Outcome, Stale, Storing},
    store::{Content, Draft, Entry, Put, Stamp, Store, Times, finished},
    tape::{End, Reader, Tape, join},
};

/// How long it is remembered that responses for a key are not fit to be shared.
const PASS: Nanos = 5_000_000_000;

/// How many request fields variants may differ by.
const MOST_VARYING: usize = 8;

/// What a fill knows before the inner service is called.
pub(crate) struct Fill<St> {
    pub(crate) shared: Arc<Shared<St>>,
    pub(crate) rule: Arc<Compiled>,
    pub(crate) plan: ReadPlan,
    /// The key of the request, without variants.
    pub(crate) primary: Key,
    /// The fields by which stored responses of this key are known to vary, and the key with their values.
    pub(crate) varying: Option<(Vary, Key)>,
    /// Taken before the inner service is called.
    pub(crate) stamp: Stamp,
    pub(crate) asked: Asked,
    pub(crate) began: Nanos,
    pub(crate) miss: Miss,
    /// What may be served if the inner service fails.
    pub(crate) stale: Option<Arc<Entry>>,
    /// None if nobody waits for this fill.
    pub(crate) leader: Option<Leader>,
}

/// What is learned from the head of a response that may be stored.
struct Fit {
    key: Key,
    status: StatusCode,
    /// `Content-Length`, which the body must keep to.
    announced: Option<u64>,
    /// The fields as hits will have them.
    headers: HeaderMap,
    vary: Vary,
    names: Namespaces,
    added: Namespaces,
    times: Times,
}

impl<St: Store> Fill<St> {
    /// Awaits the inner service, and makes of its answer the client's and, if it is fit, an entry.
    pub(crate) async fn run<F, B, E>(self, inner: F) -> Result<Response<CacheBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let counters = &self.shared.store.context().counters;
        counters.add(Count::InnerCalls, 1);
        let answer = inner.await;
        let took = self.now().saturating_sub(self.began);
        counters.add(Count::InnerNanos, took);
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let stale = self.stale_instead();
                self.not_shared(NoStore::Failed, false);
                return stale.ok_or(error);
            }
        };
        if answers_badly(response.status())
            && let Some(response) = self.stale_instead()
        {
            self.not_shared(NoStore::Failed, false);
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let hints = parts.extensions.remove::<Caching>();
        match self.fit(&parts, &body, hints.as_ref(), took) {
            Ok(fit) => Ok(self.keep(fit, parts, body).await),
            Err(why) => {
                // A 304 to the client's own conditions says nothing of what the whole would be.
                let pass = !answers_badly(parts.status) && parts.status != StatusCode::NOT_MODIFIED;
                let shared = self.shared.clone();
                let status = CacheStatus::new(Outcome::Miss(self.miss)).storing(Storing::Not(why));
                self.not_shared(why, pass);
                Ok(shared.marked(Response::from_parts(parts, CacheBody::inner(body)), status))
            }
        }
    }

    fn now(&self) -> Nanos {
        self.shared.store.context().clock.nanos()
    }

    /// The stale response, where the rule allows it because the inner service has failed (RFC 5861, section 4).
    fn stale_instead<B>(&self) -> Option<Response<CacheBody<B>>> {
        let now = self.now();
        let entry = self.stale.as_ref().filter(|entry| now < entry.times().if_error_until)?;
        // It may have been cleared while the inner service was failing.
        let life = self.shared.store.life(entry.stamp(), entry.namespaces());
        if life == crate::store::Life::Dead {
            return None;
        }
        self.shared.store.context().counters.add(Count::Stale, 1);
        let Asked { method, headers } = &self.asked;
        Some(answer::from_entry(&self.shared, entry, method, headers, Outcome::Stale(Stale::IfError), now))
    }

    /// The end of a fill whose response is not for the store: those who wait go alone, at once.
    fn not_shared(mut self, why: NoStore, pass: bool) {
        self.shared.store.context().counters.no_store(why);
        tracing::debug!(reason = why.as_str(), "response not stored");
        if pass {
            self.shared.flights.pass(self.key(), self.now() + PASS);
        }
        if let Some(leader) = self.leader.take() {
            leader.land(Landing::NotShared);
        }
    }

    /// The key that was looked up and not found.
    fn key(&self) -> &Key {
        self.varying.as_ref().map_or(&self.primary, |(_, key)| key)
    }

    /// Whether a response may be stored, and as what; or why not.
    fn fit<B: Body>(&self, parts: &response::Parts, body: &B, hints: Option<&Caching>, took: Nanos) -> Result<Fit, NoStore> {
        if hints.is_some_and(Caching::forbids) {
            return Err(NoStore::NoStore);
        }
        let control = CacheControl::of(&parts.headers);
        semantics::safe_to_store(parts.status, &parts.headers, &control).map_err(no_store)?;
        if is_event_stream(&parts.headers) {
            return Err(NoStore::EventStream);
        }
        let ttl = self.rule.lifetime(&self.plan, parts).ok_or(NoStore::Status)?;
        let ttl = hints.and_then(Caching::lifetime).map_or(ttl, |ttl| self.rule.jittered(ttl));
        if ttl.is_zero() {
            return Err(NoStore::Lifetime);
        }
        let max = self.rule.max_body();
        let announced = content_length(&parts.headers);
        if body.size_hint().lower().max(announced.unwrap_or(0)) > max as u64 {
            return Err(NoStore::TooLarge);
        }
        let (vary, key) = self.variant(Vary::of(&parts.headers))?;
        let mut added = Namespaces::default();
        let mut names = self.plan.names.clone();
        for name in hints.map_or(&[][..], Caching::namespaces) {
            names.push(name.as_str());
            added.push(name.as_str());
            if names.len() > MAX_NAMESPACES {
                break;
            }
        }
        if names.len() > MAX_NAMESPACES {
            tracing::warn!(names = ?names, "not stored: more than 8 namespaces, ancestors included");
            return Err(NoStore::Namespaces);
        }
        // The key itself is a name under which it can be cleared: that of the request, so that all variants go with it.
        names.push_key(self.primary.hash());
        let mut headers = finished(&parts.headers);
        if names_hops(&parts.headers) || control.private.is_some() || control.no_cache.is_some() {
            semantics::strip_for_storing(&mut headers, &control);
        }
        let times = self.times(ttl, &parts.headers, took);
        Ok(Fit { key, status: parts.status, announced, headers, vary, names, added, times })
    }

    /// The key that a response is stored under: that of the request, or of its variant.
    fn variant(&self, vary: Vary) -> Result<(Vary, Key), NoStore> {
        // A response without the field may come from a handler that forgets it where it answers by default (RFC 9111,
        // section 4.1): it must not take the place of those that are known to vary.
        let vary = match &self.varying {
            Some((known, _)) => known.union(&vary),
            None => vary,
        };
        if vary.is_empty() {
            return Ok((vary, self.primary.clone()));
        }
        if vary.names().len() > MOST_VARYING {
            return Err(NoStore::Vary);
        }
        let secret = &self.shared.store.context().secret;
        let key = answer::variant_key(secret, self.primary.as_ref(), &vary, &self.asked.headers);
        match key.canonical().len() > MAX_KEY_LEN {
            true => Err(NoStore::Vary),
            false => Ok((vary, key)),
        }
    }

    fn times(&self, ttl: Duration, headers: &HeaderMap, took: Nanos) -> Times {
        let now = self.now();
        // RFC 9111, section 4.2.3: an age that a cache below us states goes on from there; so does the time of the call.
        let age = answer::stated_age(headers).map_or(0, nanos);
        let fresh_until = now.saturating_add(nanos(ttl));
        Times {
            born: now.saturating_sub(age),
            fresh_until,
            while_revalidate_until: fresh_until.saturating_add(self.rule.while_revalidate()),
            if_error_until: fresh_until.saturating_add(self.rule.if_error()),
            cost: took,
        }
    }

    /// Stores a fit response: at once if its body is complete, else while it passes.
    async fn keep<B>(self, fit: Fit, parts: response::Parts, body: B) -> Response<CacheBody<B>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        // A response to GET without content need not be polled to be known as complete.
        let mut body = Box::pin(body);
        let length = body.size_hint().exact().or(fit.announced);
        let max = self.rule.max_body();
        let mut got = Got::default();
        let reading = poll_fn(|cx| Poll::Ready(got.read(body.as_mut(), cx, max))).await;
        let mut taken = Taken { shared: self.shared.clone(), bytes: 0, used: 0 };
        let reading = match reading {
            // Who shares a body that is still coming is promised all of it, so there must be room for all of it.
            Reading::Pending if length.is_some_and(|length| !taken.reserve(length as usize)) => Reading::TooLarge,
            other => other,
        };
        match reading {
            Reading::Whole if fit.announced.is_none_or(|n| n == got.len as u64) => {
                let data = exact(join(got.chunks));
                let trailers = got.trailers.take().map(Box::new);
                let (shared, asked, miss, now) = (self.shared.clone(), self.asked.clone(), self.miss, self.now());
                let storing = self.store(fit, data.clone(), trailers.clone()).await;
                let status = CacheStatus::new(Outcome::Miss(miss)).storing(storing);
                let response = Response::from_parts(parts, CacheBody::whole(data, trailers));
                shared.marked(asked.conditional(response, now), status)
            }
            Reading::Pending => {
                let tape = Arc::new(Tape::new(got.chunks));
                let rest = Rest::new();
                let leading = CacheBody::leading(Reader::new(tape.clone()), rest.clone(), length);
                let status = CacheStatus::new(Outcome::Miss(self.miss)).storing(Storing::Pending);
                let (shared, asked, now) = (self.shared.clone(), self.asked.clone(), self.now());
                if let (Some(leader), Some(length)) = (&self.leader, length) {
                    leader.arrives(Arriving {
                        key: fit.key.clone(),
                        status: fit.status,
                        headers: fit.headers.clone(),
                        born: fit.times.born,
                        length,
                        tape: tape.clone(),
                        vary: fit.vary.clone(),
                        added: fit.added.clone(),
                    });
                }
                tokio::spawn(self.read_on(fit, body, tape, rest, taken).in_current_span());
                shared.marked(asked.conditional(Response::from_parts(parts, leading), now), status)
            }
            other => {
                // Grown too large, broken, or not as long as it was announced: the client gets it as it comes.
                let (why, rest) = (other.why(), Rest::new());
                let tape = Arc::new(Tape::new(got.chunks));
                let leading = CacheBody::leading(Reader::new(tape.clone()), rest.clone(), length);
                match other {
                    Reading::TooLarge => {
                        rest.leave_body(body);
                        tape.end(End::Rest);
                    }
                    Reading::Broken(error) => {
                        rest.leave_error(error);
                        tape.end(End::Broken(CUT_OFF.into()));
                    }
                    Reading::Whole | Reading::Pending => tape.end(End::Whole(got.trailers)),
                }
                let status = CacheStatus::new(Outcome::Miss(self.miss)).storing(Storing::Not(why));
                let shared = self.shared.clone();
                self.not_shared(why, true);
                shared.marked(Response::from_parts(parts, leading), status)
            }
        }
    }

    /// Reads a body to its end, whoever is still there to hear it, and stores it then.
    async fn read_on<B>(self, fit: Fit, body: Pin<Box<B>>, tape: Arc<Tape>, rest: Rest<B>, taken: Taken<St>)
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let _end = tape.ends_with(CUT_OFF);
        let limit = Some(shared.options.fill_limit);
        let max = self.rule.max_body();
        let reading = read_to_end(body, &tape, &rest, max, taken);
        let flight = self.leader.as_ref().map(Leader::flight);
        let awaited = || flight.as_ref().is_some_and(|flight| flight.is_awaited());
        let end = unless_left(reading, limit, || !tape.is_heard() && !awaited()).await;
        let why = match end {
            Some(Ok(trailers)) if fit.announced.is_none_or(|n| n == tape.len() as u64) => {
                // Stored before its end is told: who has read it to the end finds it in the store.
                let data = exact(tape.whole());
                let _ = self.store(fit, data, trailers.clone().map(Box::new)).await;
                tape.end(End::Whole(trailers));
                return;
            }
            Some(Ok(trailers)) => {
                tape.end(End::Whole(trailers));
                NoStore::Truncated
            }
            Some(Err(why)) => why,
            None => {
                tape.end(End::Broken(CUT_OFF.into()));
                NoStore::Truncated
            }
        };
        self.not_shared(why, true);
    }

    /// Makes the entry, stores it, and lands.
    async fn store(mut self, fit: Fit, body: Bytes, trailers: Option<Box<HeaderMap>>) -> Storing {
        let Fit { key, status, headers, vary, names, added, times, .. } = fit;
        let leader = self.leader.take();
        let store = &self.shared.store;
        if !vary.is_empty() {
            let fields = Content::Variants(vary.clone());
            let marker = Draft { names: names.clone(), times, content: fields };
            let _ = store.put(Arc::new(Entry::new(self.primary.clone(), self.stamp.clone(), marker))).await;
        }
        let content = Content::Response { status, headers, body, trailers };
        let draft = Draft { names, times, content };
        let entry = Arc::new(Entry::new(key, self.stamp.clone(), draft));
        let storing = match store.put(entry.clone()).await {
            Ok(Put::Stored) => Storing::Stored,
            Ok(Put::Dead) => Storing::Not(NoStore::Cleared),
            Ok(Put::TooLarge) => Storing::Not(NoStore::TooLarge),
            Err(error) => {
                tracing::debug!(%error, "the store did not keep a response");
                Storing::Not(NoStore::Store)
            }
        };
        let counters = &store.context().counters;
        match storing {
            Storing::Not(why) => counters.no_store(why),
            _ => {
                counters.add(Count::Stored, 1);
                self.shared.flights.forget_pass(self.key());
            }
        }
        if let Some(leader) = leader {
            leader.land(Landing::Stored(Arc::new(Shareable { entry, vary, added })));
        }
        storing
    }
}

const CUT_OFF: &str = "the response that was being fetched broke off";

/// Reads into the tape until the end of the body. What is left when it grows too large, and the error it ends with, go to
/// whoever fetched it.
async fn read_to_end<B, St>(
    mut body: Pin<Box<B>>,
    tape: &Tape,
    rest: &Rest<B>,
    max: usize,
    mut taken: Taken<St>,
) -> Result<Option<HeaderMap>, NoStore>
where
    B: Body<Error: Into<BoxError>>,
{
    let mut trailers = None;
    loop {
        if body.is_end_stream() {
            return Ok(trailers);
        }
        let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => return Ok(trailers),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                rest.leave_error(error.into());
                tape.end(End::Broken(CUT_OFF.into()));
                return Err(NoStore::BodyError);
            }
        };
        match frame.into_data() {
            Ok(mut data) => {
                let data = data.copy_to_bytes(data.remaining());
                let fits = taken.take(data.len());
                tape.push(data);
                if tape.len() > max || !fits {
                    rest.leave_body(body);
                    tape.end(End::Rest);
                    return Err(NoStore::TooLarge);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
}

/// A fill's part of the bytes that may be on tapes, of all fills of a layer: reserved, or taken as they come.
struct Taken<St> {
    shared: Arc<Shared<St>>,
    bytes: usize,
    used: usize,
}

impl<St> Taken<St> {
    /// Whether there is room for so many more.
    fn reserve(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let all = self.shared.taping.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        all <= self.shared.options.max_in_flight
    }

    /// Whether there is room for so many that have come; what was reserved has it.
    fn take(&mut self, bytes: usize) -> bool {
        self.used += bytes;
        let more = self.used.saturating_sub(self.bytes);
        more == 0 || self.reserve(more)
    }
}

impl<St> Drop for Taken<St> {
    fn drop(&mut self) {
        self.shared.taping.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What came of a body without waiting.
#[derive(Default)]
struct Got {
    chunks: Vec<Bytes>,
    len: usize,
    trailers: Option<HeaderMap>,
}

enum Reading {
    Whole,
    Pending,
    TooLarge,
    Broken(BoxError),
}

impl Got {
    fn read<B>(&mut self, mut body: Pin<&mut B>, cx: &mut std::task::Context<'_>, max: usize) -> Reading
    where
        B: Body<Error: Into<BoxError>>,
    {
        loop {
            if body.is_end_stream() {
                return Reading::Whole;
            }
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Reading::Pending,
                Poll::Ready(None) => return Reading::Whole,
                Poll::Ready(Some(Err(error))) => return Reading::Broken(error.into()),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(mut data) => {
                        self.len += data.remaining();
                        self.chunks.push(data.copy_to_bytes(data.remaining()));
                        if self.len > max {
                            return Reading::TooLarge;
                        }
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok().or(self.trailers.take()),
                },
            }
        }
    }
}

impl Reading {
    fn why(&self) -> NoStore {
        match self {
            Self::TooLarge => NoStore::TooLarge,
            Self::Broken(_) => NoStore::BodyError,
            Self::Whole | Self::Pending => NoStore::Truncated,
        }
    }
}

/// Bytes that hold on to little more memory than they show: a small slice of a large buffer is copied out of it. Large ones
/// are kept as they are.
fn exact(data: Bytes) -> Bytes {
    const SMALL: usize = 64 << 10;
    if data.is_empty() {
        return Bytes::new();
    }
    let len = data.len();
    match data.try_into_mut() {
        Ok(sole) if sole.capacity() <= len + len / 8 + 64 => sole.freeze(),
        Ok(sole) => Bytes::copy_from_slice(&sole),
        Err(shared) if len <= SMALL => Bytes::copy_from_slice(&shared),
        Err(shared) => shared,
    }
}

/// RFC 5861, section 4: what counts as an error.
fn answers_badly(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Whether there are fields that are meant for one connection (RFC 9110, section 7.6.1).
fn names_hops(headers: &HeaderMap) -> bool {
    const HOPS: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    headers.keys().any(|name| HOPS.contains(&name.as_str()))
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..EVENTS.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
}

/// The announced length; none if it is absent, repeated or no number.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let value = values.next()?.to_str().ok()?.parse().ok();
    values.next().map_or(value, |_| None)
}

fn no_store(why: semantics::NoStore) -> NoStore {
    match why {
        semantics::NoStore::Private => NoStore::Private,
        semantics::NoStore::NoCache => NoStore::NoCache,
        semantics::NoStore::SetCookie => NoStore::SetCookie,
        semantics::NoStore::VaryStar => NoStore::Vary,
        semantics::NoStore::Partial => NoStore::Partial,
        semantics::NoStore::Status => NoStore::Status,
        _ => NoStore::NoStore,
    }
}
