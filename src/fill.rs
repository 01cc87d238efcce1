//! The whole road of a fill: from the inner service's answer to the client and into the store.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, response};
use http_body::Body;
use tracing::Instrument;

use crate::{
    answer::{self, Asked},
    body::{BoxError, CacheBody, Rest},
    clock::{MS, Nanos, nanos},
    drive::{Awaited, unless_left},
    flight::{Arriving, Landing, Leader, Shareable},
    groups::Origin,
    hints::Caching,
    key::{Key, MAX_KEY_LEN},
    layer::Shared,
    namespace::{MAX_NAMESPACES, Namespaces},
    parts,
    rules::HttpOptions,
    semantics::{self, CacheControl, ETag, Exchange, Exchanged, Failure, Freshness, HeadSays, SharedRules, Vary},
    service::Sought,
    stats::Count,
    status::{CACHE_STATUS, CacheStatus, NoStore, Outcome, Stale, Storing},
    store::{Content, Draft, Entry, Http, Lock, Put, Stamp, Store, StoreError, Times, finished},
    tape::{End, Reader, Tape, join},
};

/// How long it is remembered that responses for a key are not fit to be shared.
const PASS: Nanos = 5_000_000_000;

/// How many request fields variants may differ by.
const MOST_VARYING: usize = 8;

/// A call of the inner service, and what becomes of its answer.
pub(crate) struct Fill<St: Store> {
    pub(crate) shared: Arc<Shared<St>>,
    /// What was asked for and not found.
    pub(crate) of: Box<Sought<St>>,
    /// When the inner service was called.
    began: Nanos,
    /// When it had answered; until then the same.
    answered: Nanos,
    /// None if nobody waits for this fill.
    leader: Option<Leader>,
}

/// The lock of a fill, given back whatever becomes of the fill.
pub(crate) struct Held<St: Store> {
    store: St,
    lock: Option<Lock>,
}

impl<St: Store> Held<St> {
    pub(crate) fn new(store: St, lock: Lock) -> Self {
        Self { store, lock: Some(lock) }
    }

    /// The lock, to be given back with an entry.
    fn with_entry(mut self) -> Option<Lock> {
        self.lock.take()
    }

    /// Gives it back without an entry, for nobody to wait for the next if that is of no use.
    fn without_entry(mut self, unfit: bool) {
        if let Some(lock) = self.lock.take() {
            self.store.release(lock, unfit);
        }
    }
}

impl<St: Store> Drop for Held<St> {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.store.release(lock, false);
        }
    }
}

/// What is learned from the head of a response that may be stored.
struct Fit {
    key: Key,
    /// The key of its language, for those who prefer that to all others.
    language: Option<Key>,
    status: StatusCode,
    /// `Content-Length`, which the body must keep to.
    announced: Option<u64>,
    /// The fields as hits will have them.
    headers: HeaderMap,
    vary: Vary,
    /// All namespaces, where the response named some; those among them that were known before it came are not in `added`.
    names: Option<Namespaces>,
    added: Namespaces,
    times: Times,
    http: Option<Box<Http>>,
}

/// A fit response that is complete, with all that is needed to store it.
struct Whole<St: Store> {
    fill: Fill<St>,
    fit: Box<Fit>,
    body: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

/// An entry, and what is told of it once it is stored.
struct Made {
    entry: Arc<Entry>,
    /// The key that it is stored under besides.
    language: Option<Key>,
    vary: Vary,
    added: Namespaces,
    never_fresh: bool,
    is_part: bool,
}

impl<St: Store> Fill<St> {
    pub(crate) fn new(shared: &Arc<Shared<St>>, of: Box<Sought<St>>, leader: Option<Leader>, began: Nanos) -> Self {
        Self { shared: shared.clone(), of, began, answered: began, leader }
    }

    /// Awaits the inner service, and makes of its answer the client's and, if it is fit, an entry.
    pub(crate) async fn run<F, B, E>(self, inner: F) -> Result<Response<CacheBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        self.shared.store.context().counters.add(Count::InnerCalls, 1);
        match self.of.quest.rule.soft_timeout().filter(|_| self.of.missed.spare.is_some()) {
            None => {
                let answer = inner.await;
                self.answered(answer).await
            }
            Some(limit) => Box::pin(self.run_softly(inner, limit)).await,
        }
    }

    /// The same, where something stale is served if the inner service takes longer than this.
    async fn run_softly<F, B, E>(mut self, inner: F, limit: Duration) -> Result<Response<CacheBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        let mut inner = Box::pin(inner);
        let answer = match tokio::time::timeout(limit, &mut inner).await {
            Ok(answer) => answer,
            Err(_) => {
                if let Some(response) = self.stale_instead(Failure::Unreachable, Stale::SoftTimeout) {
                    self.of.missed.spare = None;
                    let limit = self.shared.options.fill_limit;
                    let rest = async move { self.answered(inner.await).await };
                    tokio::spawn(async move { drop(tokio::time::timeout(limit, rest).await) }.in_current_span());
                    return Ok(response);
                }
                inner.await
            }
        };
        self.answered(answer).await
    }

    /// Makes of the inner service's answer the client's and, if it is fit, an entry.
    async fn answered<B, E>(mut self, answer: Result<Response<B>, E>) -> Result<Response<CacheBody<B>>, E>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        self.of.missed.permit = None;
        self.answered = self.now();
        let took = self.answered.saturating_sub(self.began);
        self.shared.store.context().counters.add(Count::InnerNanos, took);
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let stale = self.stale_instead(Failure::Unreachable, Stale::IfError);
                self.not_shared(NoStore::Failed, false);
                return stale.ok_or(error);
            }
        };
        if let Some(failure) = Failure::of_status(response.status())
            && let Some(response) = self.stale_instead(failure, Stale::IfError)
        {
            self.not_shared(NoStore::Failed, false);
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let hints = parts.extensions.remove::<Caching>();
        if self.of.quest.rule.http().is_some() && !parts.headers.contains_key(header::DATE) {
            // RFC 9110, section 6.6.1: what comes without a date is given that of its arrival.
            parts.headers.insert(header::DATE, semantics::print_date(self.answered / MS));
        }
        if parts.status == StatusCode::NOT_MODIFIED
            && let Some(ours) = self.of.missed.ours.take()
        {
            return Ok(Box::pin(self.freshen(&ours, &parts, hints.as_ref(), took)).await);
        }
        let fit = match self.fit(&parts, &body, hints.as_ref(), took) {
            Ok(fit) => fit,
            Err(why) => return Ok(self.unfit(why, parts, body)),
        };
        // A response to GET without content need not be polled to be known as complete.
        let mut body = Box::pin(body);
        let max = self.of.quest.rule.max_body();
        let (got, reading) = poll_fn(|cx| Poll::Ready(Got::read(body.as_mut(), cx, max))).await;
        let (mut response, whole) = self.kept(fit, parts, body, got, reading);
        if let Some(Whole { fill, fit, body, trailers }) = whole {
            let (shared, miss) = (fill.shared.clone(), fill.of.missed.why);
            let (storing, _) = fill.store(fit, body, trailers).await;
            shared.mark(&mut response, CacheStatus::new(Outcome::Miss(miss)).storing(storing));
        }
        Ok(response)
    }

    /// The end of a fill whose response is not for the store.
    fn unfit<B>(self, why: NoStore, parts: response::Parts, body: B) -> Response<CacheBody<B>> {
        // A 304 to the client's own conditions says nothing of what the whole would be.
        let pass = Failure::of_status(parts.status).is_none()
            && parts.status != StatusCode::NOT_MODIFIED
            && !about_the_request(why)
            && !parts::asks_for_one(&self.of.quest.asked.method, &self.of.quest.asked.headers);
        let shared = self.shared.clone();
        let status = CacheStatus::new(Outcome::Miss(self.of.missed.why)).storing(Storing::Not(why));
        self.not_shared(why, pass);
        shared.marked(Response::from_parts(parts, CacheBody::inner(body)), status)
    }

    fn now(&self) -> Nanos {
        self.shared.store.context().clock.nanos()
    }

    /// The stale response, where the rule allows it because the inner service has failed (RFC 5861, section 4).
    fn stale_instead<B>(&self, failure: Failure, why: Stale) -> Option<Response<CacheBody<B>>> {
        let now = self.now();
        let entry = self.of.missed.spare.as_ref()?;
        // It may have been cleared while the inner service was failing.
        let life = self.shared.store.life(entry.stamp(), entry.namespaces());
        if life == crate::store::Life::Dead {
            return None;
        }
        if !self.of.quest.asked.may_have_instead(entry, life, failure, now) {
            return None;
        }
        self.shared.store.context().counters.add(Count::Stale, 1);
        let Asked { method, headers, .. } = &self.of.quest.asked;
        Some(answer::from_entry(&self.shared, entry, method, headers, Outcome::Stale(why), now))
    }

    /// The end of a fill whose response is not for the store: those who wait go alone, at once.
    fn not_shared(mut self, why: NoStore, pass: bool) {
        self.shared.store.context().counters.no_store(why);
        tracing::debug!(reason = why.as_str(), "response not stored");
        if pass {
            self.shared.flights.pass(self.key(), self.now() + PASS);
        }
        if let Some(lock) = self.of.missed.lock.take() {
            lock.without_entry(pass);
        }
        if let Some(leader) = self.leader.take() {
            leader.land(Landing::NotShared);
        }
    }

    /// The key that was looked up and not found.
    pub(crate) fn key(&self) -> &Key {
        self.of.missed.key(&self.of.quest)
    }

    /// Whether a response may be stored, and as what; or why not.
    fn fit<B: Body>(
        &self,
        parts: &response::Parts,
        body: &B,
        hints: Option<&Caching>,
        took: Nanos,
    ) -> Result<Box<Fit>, NoStore> {
        if hints.is_some_and(Caching::forbids) {
            return Err(NoStore::NoStore);
        }
        let (control, times, http) = match self.of.quest.rule.http() {
            None => self.by_rule(parts, hints, took)?,
            Some(options) => self.by_http(options, parts, hints, took)?,
        };
        let max = self.of.quest.rule.max_body();
        let announced = content_length(&parts.headers);
        if body.size_hint().lower().max(announced.unwrap_or(0)) > max as u64 {
            return Err(NoStore::TooLarge);
        }
        let (vary, key) = match parts.status {
            StatusCode::PARTIAL_CONTENT => (Vary::default(), self.part_key(&parts.headers)?),
            _ => self.variant(Vary::of(&parts.headers))?,
        };
        let language = self.language_key(&vary, &parts.headers);
        let names = self.named(&parts.headers, hints)?;
        let added = names.as_ref().map_or_else(Namespaces::default, |names| names.since(self.of.quest.plan.names.count()));
        let options = &self.shared.options;
        let mut headers = finished(&parts.headers, options.cache_status.is_some(), usize::from(options.content_length));
        if names_hops(&parts.headers) || control.private.is_some() || control.no_cache.is_some() {
            semantics::strip_for_storing(&mut headers, &control);
        }
        Ok(Box::new(Fit { key, language, status: parts.status, announced, headers, vary, names, added, times, http }))
    }

    /// The namespaces of a response that names some itself, with those that are known from its request.
    fn named(&self, response: &HeaderMap, hints: Option<&Caching>) -> Result<Option<Namespaces>, NoStore> {
        let hinted = hints.map_or(&[][..], Caching::namespaces);
        // RFC 9875, section 2: groups that cannot be read are groups by which it could not be cleared.
        let joined = |origin: &Origin| origin.joined(response).map_err(|_| NoStore::Namespaces);
        let groups = self.of.quest.plan.groups_of.as_ref().map(joined).transpose()?.unwrap_or_default();
        let known = &self.of.quest.plan.names;
        let mut names = None;
        for name in hinted.iter().chain(&groups) {
            let names = names.get_or_insert_with(|| known.clone());
            names.push(name.as_str());
            if names.len() > MAX_NAMESPACES {
                break;
            }
        }
        if names.as_ref().unwrap_or(known).len() > MAX_NAMESPACES {
            tracing::warn!(names = ?names.as_ref().unwrap_or(known), "not stored: more than 8 namespaces, ancestors included");
            return Err(NoStore::Namespaces);
        }
        Ok(names)
    }

    /// Whether and how long a response is kept where the rule decides.
    fn by_rule(&self, parts: &response::Parts, hints: Option<&Caching>, took: Nanos) -> Result<Terms, NoStore> {
        let control = CacheControl::of(&parts.headers);
        semantics::safe_to_store(parts.status, &parts.headers, &control).map_err(no_store)?;
        if is_event_stream(&parts.headers) {
            return Err(NoStore::EventStream);
        }
        let ttl = self.of.quest.rule.lifetime(&self.of.quest.plan, parts).ok_or(NoStore::Status)?;
        let ttl = hints.and_then(Caching::lifetime).map_or(ttl, |ttl| self.of.quest.rule.jittered(ttl));
        if ttl.is_zero() {
            return Err(NoStore::Lifetime);
        }
        Ok((control, self.times(ttl, &parts.headers, took), None))
    }

    /// The same where HTTP decides (RFC 9111, section 3 and section 4.2).
    fn by_http(
        &self,
        options: &HttpOptions,
        parts: &response::Parts,
        hints: Option<&Caching>,
        took: Nanos,
    ) -> Result<Terms, NoStore> {
        let (status, response) = (parts.status, &parts.headers);
        let control = semantics::response_directives(response, &options.targets);
        let stated = control.s_maxage.is_some()
            || control.max_age.is_some()
            || !control.targeted && response.contains_key(header::EXPIRES);
        let by_status = || self.of.quest.rule.status_lifetime(status).filter(|_| !stated);
        let own = hints.and_then(Caching::lifetime).or_else(by_status);
        if own.is_some_and(|own| own.is_zero()) {
            return Err(NoStore::Lifetime);
        }
        let rules = SharedRules {
            silent_is_fresh: options.fills_silence(),
            // That is asked below, of cookies as well.
            identity_in_key: true,
            keep_partial: parts::asks_for_one(&self.of.quest.asked.method, &self.of.quest.asked.headers),
            ..SharedRules::default()
        };
        let exchange = Exchange { method: &Method::GET, request: &self.of.quest.asked.headers, status, response };
        match semantics::shared_storable(&exchange, &control, rules) {
            Err(semantics::NoStore::NotAllowed | semantics::NoStore::NothingToReuse) if own.is_some() => {}
            other => other.map_err(no_store)?,
        }
        let open = control.public || control.must_revalidate || control.s_maxage.is_some();
        if !open && self.of.quest.asked.http.as_ref().is_some_and(|asked| asked.guarded) {
            return Err(NoStore::Authorization);
        }
        if is_event_stream(response) {
            return Err(NoStore::EventStream);
        }
        let now = self.answered;
        let at = Exchanged { requested: self.began / MS, received: now / MS };
        let (while_revalidate, if_error) = self.of.quest.rule.windows();
        let rules = options.freshness(response, while_revalidate, if_error);
        let mut freshness = Freshness::shared(status, response, &control, at, &rules);
        if let Some(own) = own {
            freshness.lifetime = freshness.initial_age.saturating_add(own);
        }
        freshness.lifetime = self.of.quest.rule.jittered(freshness.lifetime);
        let asks = ETag::of(response).is_some() || response.contains_key(header::LAST_MODIFIED);
        let useful_until = freshness.useful_until().saturating_mul(MS);
        if !asks && useful_until <= now {
            return Err(NoStore::Lifetime);
        }
        let fresh_until = match freshness.validate_always {
            true => now,
            false => freshness.fresh_until().saturating_mul(MS),
        };
        // A part is not asked about again.
        let asks = asks && status != StatusCode::PARTIAL_CONTENT;
        if status == StatusCode::PARTIAL_CONTENT && fresh_until <= now {
            return Err(NoStore::Lifetime);
        }
        let times = Times {
            born: now.saturating_sub(nanos(freshness.initial_age)),
            fresh_until,
            while_revalidate_until: fresh_until.saturating_add(nanos(freshness.stale_while_revalidate)),
            if_error_until: useful_until,
            kept_until: if asks { fresh_until.saturating_add(nanos(options.keep)) } else { useful_until },
            cost: took,
        };
        Ok((control, times, Some(Box::new(Http { freshness, open, asks, own_tag: false }))))
    }

    /// The key that a part is stored under. One that varies by more than is known of the whole would not be found again.
    fn part_key(&self, response: &HeaderMap) -> Result<Key, NoStore> {
        let known = self.of.missed.varying.as_ref().map(|(vary, _)| vary.clone()).unwrap_or_default();
        let key = parts::as_asked(self.key().as_ref(), &self.of.quest.asked.headers);
        key.filter(|_| known.union(&Vary::of(response)) == known).ok_or(NoStore::Partial)
    }

    /// The key that a response is stored under: that of the request, or of its variant.
    fn variant(&self, vary: Vary) -> Result<(Vary, Key), NoStore> {
        // A response without the field may come from a handler that forgets it where it answers by default (RFC 9111,
        // section 4.1): it must not take the place of those that are known to vary.
        let vary = match &self.of.missed.varying {
            Some((known, _)) => known.union(&vary),
            None => vary,
        };
        if vary.is_empty() {
            return Ok((vary, self.of.quest.primary.clone()));
        }
        if vary.names().len() > MOST_VARYING {
            return Err(NoStore::Vary);
        }
        let secret = &self.shared.store.context().secret;
        let key = answer::variant_key(
            &self.of.quest.rule,
            secret,
            self.of.quest.primary.as_ref(),
            &vary,
            &self.of.quest.asked.headers,
        );
        match key.canonical().len() > MAX_KEY_LEN {
            true => Err(NoStore::Vary),
            false => Ok((vary, key)),
        }
    }

    /// The key of a variant's language, if the rule wants that.
    fn language_key(&self, vary: &Vary, response: &HeaderMap) -> Option<Key> {
        let (secret, language) = (&self.shared.store.context().secret, || semantics::language_of(response));
        let key = answer::language_key(
            &self.of.quest.rule,
            secret,
            self.of.quest.primary.as_ref(),
            vary,
            &self.of.quest.asked.headers,
            language,
        );
        key.filter(|key| key.canonical().len() <= MAX_KEY_LEN)
    }

    fn times(&self, ttl: Duration, headers: &HeaderMap, took: Nanos) -> Times {
        let now = self.answered;
        // RFC 9111, section 4.2.3: an age that a cache below us states goes on from there; so does the time of the call.
        let age = answer::stated_age(headers).map_or(0, nanos);
        let fresh_until = now.saturating_add(nanos(ttl));
        Times {
            born: now.saturating_sub(age),
            fresh_until,
            while_revalidate_until: fresh_until.saturating_add(self.of.quest.rule.while_revalidate()),
            if_error_until: fresh_until.saturating_add(self.of.quest.rule.if_error()),
            kept_until: fresh_until,
            cost: took,
        }
    }

    /// The client's response where the inner service's is fit. If its body is complete, what is to be stored at once as well, and the
    /// response is still to be marked; else it is read on, and stored, while it passes.
    fn kept<B>(
        self,
        mut fit: Box<Fit>,
        mut parts: response::Parts,
        body: Pin<Box<B>>,
        mut got: Got,
        reading: Reading,
    ) -> (Response<CacheBody<B>>, Option<Whole<St>>)
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        if matches!(reading, Reading::Whole) && fit.announced.is_none_or(|n| n == got.len as u64) {
            let trailers = got.trailers.take().map(Box::new);
            let data = exact(got.whole());
            self.state_length(&mut fit, data.len(), trailers.is_some());
            if let Some(tag) = self.tag(&mut fit, &data) {
                parts.headers.insert(header::ETAG, tag);
            }
            let response = Response::from_parts(parts, CacheBody::whole(data.clone(), trailers.clone()));
            let response = self.of.quest.asked.conditional(response, self.answered);
            return (response, Some(Whole { fill: self, fit, body: data, trailers }));
        }
        let length = got.exact.or(fit.announced);
        let mut taken = Taken { shared: self.shared.clone(), bytes: 0, used: 0 };
        let reading = match reading {
            // Who shares a body that is still coming is promised all of it, so there must be room for all of it.
            Reading::Pending if length.is_some_and(|length| !taken.reserve(length as usize)) => Reading::TooLarge,
            other => other,
        };
        let (rest, trailers) = (Rest::new(), got.trailers.take());
        let tape = Arc::new(Tape::new(got.chunks()));
        let leading = CacheBody::leading(Reader::new(tape.clone()), rest.clone(), length);
        let response = Response::from_parts(parts, leading);
        let (shared, status) = (self.shared.clone(), CacheStatus::new(Outcome::Miss(self.of.missed.why)));
        let why = reading.why();
        match reading {
            Reading::Pending => {
                // Names that came with the response are asked about at the end, in a store that has to be asked.
                let known = fit.added.is_empty() || !self.shared.store.is_shared();
                if let (Some(leader), Some(length), true) = (&self.leader, length, known) {
                    leader.arrives(Arriving {
                        key: fit.key.clone(),
                        status: fit.status,
                        headers: fit.headers.clone(),
                        born: fit.times.born,
                        length,
                        tape: tape.clone(),
                        vary: fit.vary.clone(),
                        added: fit.added.clone(),
                        http: fit.http.clone(),
                    });
                }
                let response = self.of.quest.asked.conditional(response, self.answered);
                tokio::spawn(Box::pin(self.read_on(fit, body, tape, rest, taken)).in_current_span());
                return (shared.marked(response, status.storing(Storing::Pending)), None);
            }
            // Grown too large, broken, or not as long as it was announced: the client gets it as it comes.
            Reading::TooLarge => {
                rest.leave_body(body);
                tape.end(End::Rest);
            }
            Reading::Broken(error) => {
                rest.leave_error(error);
                tape.end(End::Broken(CUT_OFF.into()));
            }
            Reading::Whole => tape.end(End::Whole(trailers)),
        }
        self.not_shared(why, true);
        (shared.marked(response, status.storing(Storing::Not(why))), None)
    }

    /// Reads a body to its end, whoever is still there to hear it, and stores it then.
    async fn read_on<B>(self, mut fit: Box<Fit>, body: Pin<Box<B>>, tape: Arc<Tape>, rest: Rest<B>, taken: Taken<St>)
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let _end = tape.ends_with(CUT_OFF);
        let limit = Some(shared.options.fill_limit);
        let max = self.of.quest.rule.max_body();
        let reading = read_to_end(body, &tape, &rest, max, taken);
        let flight = self.leader.as_ref().map(Leader::flight);
        let awaited = || flight.as_ref().is_some_and(|flight| flight.is_awaited());
        let end = unless_left(reading, limit, || !tape.is_heard() && !awaited()).await;
        let why = match end {
            Some(Ok(trailers)) if fit.announced.is_none_or(|n| n == tape.len() as u64) => {
                // Stored before its end is told: who has read it to the end finds it in the store.
                let data = exact(tape.whole());
                self.state_length(&mut fit, data.len(), trailers.is_some());
                self.tag(&mut fit, &data);
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
    async fn store(mut self, fit: Box<Fit>, body: Bytes, trailers: Option<Box<HeaderMap>>) -> (Storing, Arc<Entry>) {
        let leader = self.leader.take();
        let lock = self.of.missed.lock.take().and_then(Held::with_entry);
        let admitted = match fit.added.is_empty() {
            true => Ok(self.of.missed.stamp.clone()),
            // Boxed as all that only a shared store has to wait for: in memory a fill is small.
            false => Box::pin(self.admitted(&fit.added, leader.as_ref())).await,
        };
        let stamp = admitted.as_ref().unwrap_or(&self.of.missed.stamp).clone();
        let (mut made, marker) = self.made(*fit, stamp, body, trailers);
        let put = match admitted {
            Ok(_) => {
                if let Some(marker) = marker {
                    let _ = self.keep(marker, None).await;
                }
                self.keep(made.entry.clone(), lock).await
            }
            Err(why) => {
                if let Some(lock) = lock {
                    self.shared.store.release(lock, false);
                }
                why
            }
        };
        if made.is_part && matches!(put, Ok(Put::Stored)) {
            Box::pin(self.assemble(&made.entry)).await;
        }
        if let (Ok(Put::Stored), Some(key)) = (&put, made.language.take()) {
            Box::pin(self.keep_as(key, &made.entry)).await;
        }
        let entry = made.entry.clone();
        (self.stored(made, put, leader), entry)
    }

    /// The entry of a response; and, where responses of its key differ by fields of the request, what says so under that key.
    fn made(&mut self, fit: Fit, stamp: Stamp, body: Bytes, trailers: Option<Box<HeaderMap>>) -> (Made, Option<Arc<Entry>>) {
        let Fit { key, language, status, headers, vary, names, added, times, http, .. } = fit;
        let never_fresh =
            http.as_ref().is_some_and(|http| !http.freshness.is_fresh(self.now() / MS) || http.freshness.validate_always);
        let names = names.unwrap_or_else(|| mem::take(&mut self.of.quest.plan.names));
        let marker = (!vary.is_empty()).then(|| {
            let draft = Draft { names: names.clone(), times, content: Content::Variants(vary.clone()), http: None };
            Arc::new(Entry::new(self.of.quest.primary.clone(), stamp.clone(), draft))
        });
        let content = Content::Response { status, headers, body, trailers };
        let entry = Arc::new(Entry::new(key, stamp, Draft { names, times, content, http }));
        (Made { entry, language, vary, added, never_fresh, is_part: status == StatusCode::PARTIAL_CONTENT }, marker)
    }

    async fn keep(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        match self.shared.store.put_now(&entry) {
            Some(put) => Ok(put),
            None => Box::pin(self.shared.store.put(entry, lock)).await,
        }
    }

    /// The end of a fill that was to be stored: it is counted, and those who wait are told.
    fn stored(&self, made: Made, put: Result<Put, StoreError>, leader: Option<Leader>) -> Storing {
        let Made { entry, vary, added, never_fresh, .. } = made;
        let store = &self.shared.store;
        let storing = match put {
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
                match never_fresh {
                    // Everybody has to ask: nobody gains by waiting for another's answer.
                    true => self.shared.flights.pass(self.key(), self.now() + PASS),
                    false => self.shared.flights.forget_pass(self.key()),
                }
            }
        }
        if let Some(leader) = leader {
            // Nobody knows whether those who wait may have it if its names could not be vouched for.
            let unknown = store.is_shared() && !added.is_empty() && storing != Storing::Stored;
            leader.land_with(|| match unknown {
                true => Landing::Lost,
                false => Landing::Stored(Arc::new(Shareable { entry, vary, added })),
            });
        }
        storing
    }

    /// Stores the same once more, under another key.
    async fn keep_as(&self, key: Key, entry: &Entry) {
        let Content::Response { status, headers, body, trailers } = entry.content() else { return };
        let (status, headers, body, trailers) = (*status, headers.clone(), body.clone(), trailers.clone());
        let content = Content::Response { status, headers, body, trailers };
        let http = entry.http().copied().map(Box::new);
        let draft = Draft { names: entry.namespaces().clone(), times: *entry.times(), content, http };
        let _ = self.shared.store.put(Arc::new(Entry::new(key, entry.stamp().clone(), draft)), None).await;
    }

    /// The stamp for a response that named namespaces itself; or what became of storing it.
    async fn admitted(&self, added: &Namespaces, leader: Option<&Leader>) -> Result<Stamp, Result<Put, StoreError>> {
        if added.is_empty() {
            return Ok(self.of.missed.stamp.clone());
        }
        self.of.quest.rule.has_added_namespaces();
        let store = &self.shared.store;
        if let Some(leader) = leader.filter(|_| store.is_shared()) {
            leader.closes();
        }
        store.admit(&self.of.missed.stamp, added).await.map_err(Err)?.ok_or(Ok(Put::Dead))
    }

    /// Has the stored response say how long it is, where that is wished and possible (RFC 9110, section 8.6).
    fn state_length(&self, fit: &mut Fit, length: usize, trailers: bool) {
        let may = !trailers && fit.status != StatusCode::NO_CONTENT && !fit.headers.contains_key(header::CONTENT_LENGTH);
        if may && self.shared.options.content_length {
            fit.headers.insert(header::CONTENT_LENGTH, length.into());
        }
    }

    /// Gives a response without `ETag` a strong one, if the rule wants that: it differs wherever the content does, or how it is
    /// to be read (RFC 9110, section 8.8.1 and section 8.8.3.3).
    fn tag(&self, fit: &mut Fit, data: &[u8]) -> Option<HeaderValue> {
        if !self.of.quest.rule.tags() || fit.status != StatusCode::OK || fit.headers.contains_key(header::ETAG) {
            return None;
        }
        let mut hash = blake3::Hasher::new();
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
            for value in fit.headers.get_all(name) {
                hash.update(&(value.len() as u64).to_le_bytes()).update(value.as_bytes());
            }
            hash.update(&u64::MAX.to_le_bytes());
        }
        let hash = hash.update(data).finalize().to_hex();
        let tag = HeaderValue::try_from(format!("\"{}\"", &hash[..32])).expect("hexadecimal digits in quotes");
        fit.headers.insert(header::ETAG, tag.clone());
        if let Some(http) = &mut fit.http {
            http.own_tag = true;
        }
        Some(tag)
    }

    /// The inner service says that what is stored is still good: it is brought up to date, and serves (RFC 9111, section 4.3.4).
    async fn freshen<B>(
        self,
        ours: &Entry,
        parts: &response::Parts,
        hints: Option<&Caching>,
        took: Nanos,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let Content::Response { body, trailers, .. } = ours.content() else { unreachable!("only responses are asked about") };
        if semantics::validated(&[&as_inner_service_knows(ours)], &parts.headers).is_none() {
            return self.not_ours(ours).await;
        }
        let (head, fit) = self.renewed::<B>(ours, &parts.headers, hints, took);
        let validated = CacheStatus::validated(self.of.missed.why);
        let (shared, asked, now) = (self.shared.clone(), self.of.quest.asked.clone(), self.now());
        match fit {
            Ok(fit) => {
                let (storing, entry) = self.store(fit, body.clone(), trailers.clone()).await;
                tracing::debug!("validated");
                let status = validated.storing(storing);
                answer::from_entry_as(&shared, &entry, &asked.method, &asked.headers, status, now)
            }
            Err(why) => {
                let response = Response::from_parts(head, CacheBody::whole(body.clone(), trailers.clone()));
                // Kept it may not be any more, but it has been validated for this request.
                let status = validated.storing(Storing::Not(why));
                self.not_shared(why, false);
                shared.marked(asked.conditional(response, now), status)
            }
        }
    }

    /// The head of a stored response with what a 304, or the answer to a HEAD, says anew (RFC 9111, section 3.2); and whether, and
    /// as what, it may still be stored.
    fn renewed<B>(
        &self,
        ours: &Entry,
        update: &HeaderMap,
        hints: Option<&Caching>,
        took: Nanos,
    ) -> (response::Parts, Result<Box<Fit>, NoStore>)
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let Content::Response { status, body, .. } = ours.content() else { unreachable!("only responses are asked about") };
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (*status, as_inner_service_knows(ours).into_owned());
        semantics::merge(&mut head.headers, update, self.answered / MS);
        let fit = self.fit(&head, &CacheBody::<B>::whole(body.clone(), None), hints, took).map(|mut fit| {
            let names = fit.names.get_or_insert_with(|| self.of.quest.plan.names.clone());
            for name in ours.namespaces().iter() {
                // What the handler named when it sent the whole is not named again.
                names.push(name);
            }
            fit.added = names.since(self.of.quest.plan.names.count());
            self.tag(&mut fit, body);
            fit
        });
        (head, fit)
    }

    /// Passes on the answer to a HEAD, and learns from it what has become of the stored response to GET (RFC 9111, section 4.3.5).
    pub(crate) async fn head<F, B, E>(mut self, inner: F) -> Result<Response<CacheBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        self.shared.store.context().counters.add(Count::InnerCalls, 1);
        let answer = inner.await;
        self.answered = self.now();
        let took = self.answered.saturating_sub(self.began);
        self.shared.store.context().counters.add(Count::InnerNanos, took);
        let response = match answer {
            Ok(response) => response,
            Err(error) => return self.stale_instead(Failure::Unreachable, Stale::IfError).ok_or(error),
        };
        if let Some(failure) = Failure::of_status(response.status())
            && let Some(response) = self.stale_instead(failure, Stale::IfError)
        {
            return Ok(response);
        }
        if let Some(ours) = &self.of.missed.spare
            && let Content::Response { body, .. } = ours.content()
        {
            let known = as_inner_service_knows(ours);
            match semantics::head_says(&known, body.len() as u64, response.status(), response.headers()) {
                HeadSays::Freshen => {
                    if let (_, Ok(fit)) = self.renewed::<B>(ours, response.headers(), None, took) {
                        self.replace(ours, fit.headers, fit.times, fit.http).await;
                    }
                }
                HeadSays::Changed => {
                    let (now, mut times, mut http) = (self.now(), *ours.times(), ours.http().copied());
                    times.fresh_until = times.fresh_until.min(now);
                    if let Some(http) = &mut http {
                        http.freshness.lifetime = http.freshness.lifetime.min(http.freshness.age(now / MS));
                        http.freshness.stale_while_revalidate = Duration::ZERO;
                    }
                    if let Content::Response { headers, .. } = ours.content() {
                        self.replace(ours, headers.clone(), times, http.map(Box::new)).await;
                    }
                }
                HeadSays::Nothing => {}
            }
        }
        Ok(self.shared.marked(response.map(CacheBody::inner), CacheStatus::new(Outcome::Miss(self.of.missed.why))))
    }

    /// Puts the same response with something else said about it in its place, if it is still there: under its own stamp, since
    /// its content has not come anew.
    async fn replace(&self, ours: &Entry, headers: HeaderMap, times: Times, http: Option<Box<Http>>) {
        let Content::Response { status, body, trailers, .. } = ours.content() else { return };
        let Ok(found) = self.shared.store.get(ours.key().as_ref(), ours.namespaces()).await else { return };
        let same = |times: &Times| (times.born, times.fresh_until) == (ours.times().born, ours.times().fresh_until);
        if !found.found.is_some_and(|(found, _)| same(found.times())) {
            return;
        }
        let content = Content::Response { status: *status, headers, body: body.clone(), trailers: trailers.clone() };
        let draft = Draft { names: ours.namespaces().clone(), times, content, http };
        let entry = Entry::new(ours.key().clone(), ours.stamp().clone(), draft);
        let _ = self.shared.store.put(Arc::new(entry), None).await;
    }

    /// A 304 that is about something we do not have: it freshens nothing, and what it was asked about is not asked about again
    /// (RFC 9111, section 4.3.4). The request cannot be repeated here.
    async fn not_ours<B>(mut self, ours: &Entry) -> Response<CacheBody<B>> {
        if let (Content::Response { headers, .. }, Some(http)) = (ours.content(), ours.http()) {
            let http = Some(Box::new(Http { asks: false, ..*http }));
            self.replace(ours, headers.clone(), *ours.times(), http).await;
        }
        let response = self.stale_instead(Failure::ServerError, Stale::IfError);
        let shared = self.shared.clone();
        let status = CacheStatus::new(Outcome::Miss(self.of.missed.why)).storing(Storing::Not(NoStore::Failed));
        if let Some(leader) = self.leader.take() {
            leader.land(Landing::Lost);
        }
        self.shared.store.context().counters.no_store(NoStore::Failed);
        response.unwrap_or_else(|| {
            let mut response = Response::new(CacheBody::empty());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            shared.marked(response, status)
        })
    }
}

/// What decides over a response: its directives, its times, and what HTTP rules keep of it.
type Terms = (CacheControl, Times, Option<Box<Http>>);

/// The fields of a stored response without what the inner service does not know of.
pub(crate) fn as_inner_service_knows(entry: &Entry) -> Cow<'_, HeaderMap> {
    let Content::Response { headers, .. } = entry.content() else {
        return Cow::Owned(HeaderMap::new());
    };
    let mut known = Cow::Borrowed(headers);
    if headers.get(CACHE_STATUS).is_some_and(HeaderValue::is_empty) {
        known.to_mut().remove(CACHE_STATUS);
    }
    if entry.http().is_some_and(|http| http.own_tag) {
        known.to_mut().remove(header::ETAG);
    }
    known
}

/// Whether a response is not stored for what its request was, which says nothing of the next.
fn about_the_request(why: NoStore) -> bool {
    matches!(why, NoStore::RequestNoStore | NoStore::Authorization)
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
    /// Most bodies are one chunk.
    first: Option<Bytes>,
    more: Vec<Bytes>,
    len: usize,
    /// The length that the body told of itself before it was read.
    exact: Option<u64>,
    trailers: Option<HeaderMap>,
}

enum Reading {
    Whole,
    Pending,
    TooLarge,
    Broken(BoxError),
}

impl Got {
    fn whole(self) -> Bytes {
        match self.more.is_empty() {
            true => self.first.unwrap_or_default(),
            false => join(self.chunks()),
        }
    }

    fn chunks(self) -> Vec<Bytes> {
        self.first.into_iter().chain(self.more).collect()
    }

    /// Reads what is there.
    fn read<B>(body: Pin<&mut B>, cx: &mut std::task::Context<'_>, max: usize) -> (Self, Reading)
    where
        B: Body<Error: Into<BoxError>>,
    {
        let mut got = Self { exact: body.size_hint().exact(), ..Self::default() };
        let reading = got.read_on(body, cx, max);
        (got, reading)
    }

    fn read_on<B>(&mut self, mut body: Pin<&mut B>, cx: &mut std::task::Context<'_>, max: usize) -> Reading
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
                        let data = data.copy_to_bytes(data.remaining());
                        match self.first {
                            None => self.first = Some(data),
                            Some(_) => self.more.push(data),
                        }
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
        semantics::NoStore::RequestNoStore => NoStore::RequestNoStore,
        semantics::NoStore::Authorization => NoStore::Authorization,
        semantics::NoStore::NotAllowed | semantics::NoStore::NothingToReuse => NoStore::NotAllowed,
        _ => NoStore::NoStore,
    }
}
