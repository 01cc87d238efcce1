//! Validation: a 304, or the response to a HEAD, updates a stored response.

use std::{borrow::Cow, future::Future, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response};
use http_body::Body;

use super::{
    Fill,
    admission::{Admission, ResponseNamespaces},
};
use crate::{
    body::CacheBody,
    clock::MS,
    entry::{
        Content, Draft, Entry,
        times::{Http, Times},
    },
    error::BoxError,
    extensions::CachePolicy,
    respond,
    semantics::{self, Failure, HeadResult, Vary},
    single_flight::outcome::FlightOutcome,
    status::{CacheStatus, NoStore, Outcome, Stale, Storing, field::CACHE_STATUS},
    store::Store,
};

impl<St: Store> Fill<St> {
    /// Handles a 304: updates the stored response and serves it (RFC 9111, section 4.3.4).
    pub(super) async fn freshen<B>(
        self,
        ours: &Entry,
        parts: &response::Parts,
        hints: Option<&CachePolicy>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let Content::Response { body, trailers, .. } = ours.content() else { unreachable!("only responses are asked about") };
        if semantics::validated(&[&as_inner_service_knows(ours)], &parts.headers).is_none() {
            return self.not_ours(ours).await;
        }
        let (head, fit) = self.renewed(ours, &parts.headers, hints);
        let validated = CacheStatus::validated(self.miss.reason);
        let (shared, asked, now) = (self.shared.clone(), self.request.info.clone(), self.now());
        match fit {
            Ok(fit) => {
                let (storing, entry) = self.store(fit, body.clone(), trailers.clone()).await;
                tracing::debug!("validated");
                let status = validated.storing(storing);
                respond::from_entry_as(&shared, &entry, &asked.method, asked.conditions(), status, now)
            }
            Err(why) => {
                let mut response = Response::from_parts(head, CacheBody::whole(body.clone(), trailers.clone()));
                if shared.options.tags.is_some() {
                    let tagged_by = self.tagged_by((response.status(), &parts.headers), hints, ours.namespaces().iter());
                    response.extensions_mut().insert(tagged_by);
                }
                // The response may not be stored any more, but it is validated for this request.
                let status = validated.storing(Storing::Not(why));
                self.not_shared(why, false);
                shared.marked(respond::conditional(&asked, response, now), status)
            }
        }
    }

    /// Merges the fields of a 304 or of a response to HEAD into the head of a stored response (RFC 9111, section 3.2), and decides if the
    /// result may be stored.
    fn renewed(
        &self,
        ours: &Entry,
        update: &HeaderMap,
        hints: Option<&CachePolicy>,
    ) -> (response::Parts, Result<Admission, NoStore>) {
        let Content::Response { status, body, .. } = ours.content() else { unreachable!("only responses are asked about") };
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (*status, as_inner_service_knows(ours).into_owned());
        semantics::merge(&mut head.headers, update, self.wall_at(self.answered) / MS);
        let fit = self.fit(&head, body.len() as u64, hints).and_then(|mut fit| {
            let known = &self.request.plan.names;
            let mut all = fit.named.take().map_or_else(|| known.clone(), |named| named.all);
            for name in ours.namespaces().iter() {
                // A 304 does not repeat the namespaces of the complete response.
                all.push(name);
            }
            if all.are_too_many() {
                return Err(NoStore::Namespaces);
            }
            fit.named = Some(ResponseNamespaces::new(known, all));
            self.admit_message(&mut fit, body)?;
            self.tag(&mut fit, body);
            Ok(fit)
        });
        (head, fit)
    }

    /// Passes on the response to a HEAD, and updates the stored response to GET by it (RFC 9111, section 4.3.5).
    pub(crate) async fn head<F, B, E>(mut self, inner: F) -> Result<Response<CacheBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        self.route().call();
        let answer = self.call(inner).await;
        self.has_answered();
        let mut response = match answer {
            Ok(response) => response,
            Err(error) => return self.stale_instead(Failure::Unreachable, Stale::IfError).ok_or(error),
        };
        if let Some(failure) = Failure::of_status(response.status())
            && let Some(response) = self.stale_instead(failure, Stale::IfError)
        {
            return Ok(response);
        }
        if let Some(ours) = &self.miss.fallback {
            self.compare(ours, response.status(), response.headers()).await;
        }
        if self.shared.options.tags.is_some() {
            let head = (response.status(), response.headers());
            let tagged_by = self.tagged_by(head, response.extensions().get(), std::iter::empty());
            response.extensions_mut().insert(tagged_by);
        }
        Ok(self.shared.marked(response.map(CacheBody::inner), CacheStatus::new(Outcome::Miss(self.miss.reason))))
    }

    /// Compares the response to a HEAD with the stored response, and makes that fresh or stale. A response that varies by other fields than the
    /// stored one is about another response, and changes nothing (RFC 9111, section 4.1).
    async fn compare(&self, ours: &Entry, status: StatusCode, head: &HeaderMap) {
        let Content::Response { headers, body, .. } = ours.content() else { return };
        let known = self.miss.varying.as_deref().map(|(vary, _)| vary.clone()).unwrap_or_default();
        let selects_ours = |vary: &Vary| known.union(vary) == known;
        let says = semantics::compare_head(&as_inner_service_knows(ours), body.len() as u64, status, head);
        if says == HeadResult::Ignored || !selects_ours(&self.vary_of(head)) {
            return;
        }
        if says == HeadResult::Freshen {
            if let (_, Ok(fit)) = self.renewed(ours, head, None)
                && selects_ours(&fit.vary)
            {
                self.replace(ours, fit.headers.into_map(), fit.times, fit.http).await;
            }
            return;
        }
        let (now, mut times, mut http) = (self.now(), *ours.times(), ours.http().copied());
        times.fresh_until = times.fresh_until.min(now);
        if let Some(http) = &mut http {
            http.freshness.lifetime = http.freshness.lifetime.min(http.freshness.age(now / MS));
            http.freshness.stale_while_revalidate = Duration::ZERO;
        }
        self.replace(ours, headers.to_map(), times, http.map(Box::new)).await;
    }

    /// Replaces the stored response by one with other fields and times. A response that was stored meanwhile is never overwritten. The stamp stays,
    /// since the content is not new. The copy under the key of its language is replaced as well.
    async fn replace(&self, ours: &Entry, headers: HeaderMap, times: Times, http: Option<Box<Http>>) {
        let Content::Response { status, body, trailers, .. } = ours.content() else { return };
        let vary = self.miss.varying.as_deref().map(|(vary, _)| vary);
        let copy = vary.and_then(|vary| self.language_key(vary, &headers));
        for key in std::iter::once(ours.key().clone()).chain(copy) {
            let content = Content::Response {
                status: *status,
                headers: headers.clone().into(),
                body: body.clone(),
                trailers: trailers.clone(),
            };
            let draft = Draft { names: ours.namespaces().clone(), times, content, http: http.clone() };
            let _ = self.shared.store.replace(ours, Arc::new(Entry::new(key, ours.stamp().clone(), draft))).await;
        }
    }

    /// Handles a 304 about a response that is not stored. It updates nothing, and the stored response is not revalidated again (RFC 9111,
    /// section 4.3.4). A layer cannot repeat the request.
    async fn not_ours<B>(mut self, ours: &Entry) -> Response<CacheBody<B>> {
        if let (Content::Response { headers, .. }, Some(http)) = (ours.content(), ours.http()) {
            let http = Some(Box::new(Http { asks: false, ..*http }));
            self.replace(ours, headers.to_map(), *ours.times(), http).await;
        }
        let response = self.stale_instead(Failure::ServerError, Stale::IfError);
        let shared = self.shared.clone();
        let status = CacheStatus::new(Outcome::Miss(self.miss.reason)).storing(Storing::Not(NoStore::Failed));
        if let Some(leader) = self.leader.take() {
            leader.land(FlightOutcome::LeaderLost);
        }
        self.route().no_store(NoStore::Failed);
        response.unwrap_or_else(|| {
            let mut response = Response::new(CacheBody::empty());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            shared.marked(response, status)
        })
    }
}

/// Returns the fields of a stored response as the inner service knows them: without an `ETag` made by the cache.
pub(crate) fn as_inner_service_knows(entry: &Entry) -> Cow<'_, HeaderMap> {
    let Content::Response { headers, .. } = entry.content() else {
        return Cow::Owned(HeaderMap::new());
    };
    let mut known = headers.map();
    if known.get(CACHE_STATUS).is_some_and(HeaderValue::is_empty) {
        known.to_mut().remove(CACHE_STATUS);
    }
    if entry.http().is_some_and(|http| http.own_tag) {
        known.to_mut().remove(header::ETAG);
    }
    known
}
