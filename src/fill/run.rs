//! The course of a fill: from the answer of the inner service to the client and into the store.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Response, StatusCode, header, response};
use http_body::Body;
use tracing::Instrument;

use crate::{
    body::CacheBody,
    clock::{MS, Nanos},
    entry::validity::Validity,
    error::BoxError,
    extensions::CachePolicy,
    fill::{
        Answer, Fill, PASS, RestFuture,
        body::{BodyPrefix, exact},
        future::FillFuture,
    },
    key::Key,
    lookup::{partial::asks_for_one, request::MissedRequest},
    respond,
    semantics::{self, Failure},
    single_flight::{Leader, outcome::FlightOutcome},
    state::LayerState,
    stats::routes::MissCount,
    status::{CacheStatus, Miss, NoStore, Outcome, Stale, Storing},
    store::Store,
};

impl<St: Store> Fill<St> {
    #[inline]
    pub(crate) fn new(
        shared: Arc<LayerState<St>>,
        missed: Box<MissedRequest<St>>,
        leader: Option<Leader>,
        began: Nanos,
        count: Option<MissCount>,
    ) -> Self {
        Self { shared, missed, began, answered: began, is_late: false, is_read: count.is_some(), leader, count }
    }

    /// Awaits the call, and stores its response if that is allowed.
    #[inline]
    pub(crate) fn run<F, B, E>(self, inner: F) -> FillFuture<F, St, B, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        FillFuture::new(self, inner)
    }

    /// Awaits the call as [`run`](Self::run) does, but serves a stale entry if the call takes longer than `limit`.
    pub(crate) async fn run_softly<F, B, E>(mut self, inner: F, limit: Duration) -> Answer<B, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        let mut inner = Box::pin(self.call(inner));
        let answer = match tokio::time::timeout(limit, &mut inner).await {
            Ok(answer) => {
                drop(inner);
                answer
            }
            Err(_) => {
                if let Some(response) = self.stale_instead(Failure::Unreachable, Stale::SoftTimeout) {
                    self.miss.fallback = None;
                    let limit = self.shared.options.fill_limit;
                    let rest = async move { self.answered_so(inner.await).await };
                    tokio::spawn(async move { drop(tokio::time::timeout(limit, rest).await) }.in_current_span());
                    return Ok(response);
                }
                inner.await
            }
        };
        self.answered_so(answer).await
    }

    /// Handles the result of the call to its end.
    pub(crate) async fn answered_so<B, E>(self, answer: Result<Response<B>, E>) -> Answer<B, E>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        let mut answered = Some((self, answer));
        let mut rest = None;
        poll_fn(|cx| {
            if let Some((fill, answer)) = answered.take()
                && let Poll::Ready(answer) = fill.answered(answer, cx, &mut rest)
            {
                return Poll::Ready(answer);
            }
            rest.as_mut().expect("something is left").as_mut().poll(cx)
        })
        .await
    }

    /// Handles the result of the call. Returns the client's response, or puts the work that has to await something into `rest`.
    pub(crate) fn answered<B, E>(
        mut self,
        answer: Result<Response<B>, E>,
        cx: &mut Context<'_>,
        rest: &mut Option<RestFuture<B, E>>,
    ) -> Poll<Answer<B, E>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        self.miss.permit = None;
        self.has_answered();
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let stale = self.stale_instead(Failure::Unreachable, Stale::IfError);
                self.failed(NoStore::Failed, Failure::Unreachable);
                return Poll::Ready(stale.ok_or(error));
            }
        };
        if let Some(failure) = self.failure_of(&response)
            && let Some(response) = self.stale_instead(failure, Stale::IfError)
        {
            self.failed(NoStore::Failed, failure);
            return Poll::Ready(Ok(response));
        }
        self.route().inner_bytes(response.body().size_hint().exact().unwrap_or(0));
        if response.status() != StatusCode::NOT_MODIFIED {
            self.count = None;
        }
        let (mut parts, body) = response.into_parts();
        let hints = parts.extensions.remove::<CachePolicy>();
        if self.shared.options.tags.is_some() {
            self.note_tags(&mut parts, hints.as_ref());
        }
        let least = body.size_hint().lower();
        let plain = if hints.is_none() && self.request.plan.end.is_none() { self.fast_path(&parts, least) } else { None };
        let Some(plain) = plain else {
            return self.answered_otherwise(parts, body, hints, cx, rest);
        };
        // A body that ends at once is read here, since nobody may poll it.
        let mut body = Box::pin(body);
        let mut got = BodyPrefix::of(&*body);
        let reading = got.read(body.as_mut(), cx, self.request.rule.max_body());
        match got.only(&reading, plain.announced) {
            Some(data) => self.store_fast(plain, parts, exact(data), rest),
            None => {
                let fit = self.fast_admission(plain, &parts);
                self.kept(fit, parts, body, got, reading, rest)
            }
        }
    }

    /// Handles a response that the fast path does not store.
    #[inline(never)]
    pub(crate) fn answered_otherwise<B, E>(
        mut self,
        mut parts: response::Parts,
        body: B,
        hints: Option<CachePolicy>,
        cx: &mut Context<'_>,
        rest: &mut Option<RestFuture<B, E>>,
    ) -> Poll<Answer<B, E>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        if self.request.rule.http().is_some() && !parts.headers.contains_key(header::DATE) {
            // RFC 9110, section 6.6.1: a response without a date gets the date of its arrival.
            parts.headers.insert(header::DATE, semantics::format_date(self.wall_at(self.answered) / MS));
        }
        if parts.status == StatusCode::NOT_MODIFIED
            && let Some(ours) = self.miss.revalidatable.take()
        {
            *rest = Some(Box::pin(async move { Ok(self.freshen(&ours, &parts, hints.as_ref()).await) }));
            return Poll::Pending;
        }
        let fit = match self.fit(&parts, body.size_hint().lower(), hints.as_ref()) {
            Ok(fit) => fit,
            Err(why) => return Poll::Ready(Ok(self.unfit(why, parts, body))),
        };
        let mut body = Box::pin(body);
        let mut got = BodyPrefix::of(&*body);
        let reading = got.read(body.as_mut(), cx, self.request.rule.max_body());
        self.kept(fit, parts, body, got, reading, rest)
    }

    /// Ends a fill whose response must not be stored, and returns the response.
    pub(crate) fn unfit<B>(self, why: NoStore, parts: response::Parts, body: B) -> Response<CacheBody<B>> {
        let failure = Failure::of_status(parts.status);
        // A 304 to the client's own conditions says nothing about the complete response.
        let pass = parts.status != StatusCode::NOT_MODIFIED
            && !about_the_request(why)
            && !self.varies_unawares(why)
            && !asks_for_one(&self.request.info.method, self.request.info.conditions());
        let shared = self.shared.clone();
        let status = CacheStatus::new(Outcome::Miss(self.miss.reason)).storing(Storing::Not(why));
        match failure {
            None => self.not_shared(why, pass),
            Some(failure) => self.failed(why, failure),
        }
        shared.marked(Response::from_parts(parts, CacheBody::inner(body)), status)
    }

    /// Records the time of the response.
    pub(crate) fn has_answered(&mut self) {
        if !self.is_late {
            self.answered = self.now();
        }
        self.route().time_of_fill(self.took());
        if self.count.is_some() {
            self.route().time_of_miss(self.answered.saturating_sub(self.miss.time.at));
        }
    }

    /// Returns the duration of the call.
    pub(crate) fn took(&self) -> Nanos {
        self.answered.saturating_sub(self.began)
    }

    pub(crate) fn now(&self) -> Nanos {
        self.shared.store.context().clock.nanos()
    }

    /// Returns the wall clock at a moment of the store's clock. HTTP dates count by the wall clock.
    pub(crate) fn wall_at(&self, moment: Nanos) -> Nanos {
        self.shared.store.context().clock.wall_at(moment)
    }

    /// Returns the stale entry as the response if the inner service has failed and the rule allows it (RFC 5861, section 4).
    pub(crate) fn stale_instead<B>(&mut self, failure: Failure, why: Stale) -> Option<Response<CacheBody<B>>> {
        let now = self.now();
        let entry = self.miss.fallback.as_ref()?;
        // The entry may have been invalidated during the call.
        let life = self.shared.store.life(entry.stamp(), entry.namespaces());
        if life == Validity::Invalidated {
            return None;
        }
        // A shared store knows here only the invalidations of this process, not the soft ones before the lookup. The entry was fresh at the
        // lookup if the request alone did not allow its use.
        let was_fresh = !self.shared.store.is_shared() || self.miss.reason == Miss::Request;
        let life = if was_fresh { life } else { Validity::Stale };
        if !self.request.info.allows_stale_if_error(entry, life, failure, now) {
            return None;
        }
        let asked = &self.request.info;
        let response = respond::from_entry(&self.shared, entry, &asked.method, asked.conditions(), Outcome::Stale(why), now);
        let from_store = self.shared.is_from_store(self.miss.time.has_queried);
        if let Some(count) = self.count.take() {
            count.served_stale(why, from_store, response.body().cached_length());
        }
        Some(response)
    }

    /// Ends a fill whose response is not stored. Its followers fetch alone, at once.
    pub(crate) fn not_shared(self, why: NoStore, pass: bool) {
        // If the response varies by fields that were not kept, the next leader keeps them, and the others can follow it.
        let landing = if self.varies_unawares(why) { FlightOutcome::LeaderLost } else { FlightOutcome::NotShareable };
        self.ends(why, pass, landing);
    }

    /// Ends a fill whose call has failed. Its followers may be served a stale entry.
    pub(crate) fn failed(self, why: NoStore, failure: Failure) {
        self.ends(why, false, FlightOutcome::Failed(failure));
    }

    pub(crate) fn ends(mut self, why: NoStore, pass: bool, landing: FlightOutcome) {
        self.route().no_store(why);
        tracing::debug!(reason = why.as_str(), "response not stored");
        if pass {
            self.shared.flights.pass(self.key(), self.now() + PASS);
        }
        if let Some(lock) = self.miss.lock.take() {
            lock.without_entry(pass);
        }
        if let Some(leader) = self.leader.take() {
            leader.land(landing);
        }
    }

    /// Returns true if the response is not stored because the fields of its request were not kept.
    pub(crate) fn varies_unawares(&self, why: NoStore) -> bool {
        why == NoStore::Vary && self.request.info.headers().is_none()
    }

    /// Returns the key that was looked up.
    pub(crate) fn key(&self) -> &Key {
        self.miss.key(&self.request)
    }
}

/// Returns true if the response is not stored because of its request. The next request may be different.
fn about_the_request(why: NoStore) -> bool {
    matches!(why, NoStore::RequestNoStore | NoStore::Authorization)
}
