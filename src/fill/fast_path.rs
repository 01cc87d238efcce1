//! The fast path of a fill. Most responses of a rule have the fields of the responses before them, and no directive. They are stored without the
//! full checks of `admission`.

use std::{sync::Arc, task::Poll};

use http::{Response, StatusCode, response};

use super::{
    Answer, Fill, RestFuture,
    admission::Admission,
    body::ExactLength,
    commit::{NotStored, put_now, told},
};
use crate::{
    body::CacheBody,
    entry::{self, Entry, times::Times},
    lookup::request::{CacheRequest, LookupMiss, MissedRequest},
    namespace::MAX_NAMESPACES,
    rules::policy::{Policy, ReadPlan},
    semantics::Vary,
    single_flight::{Leader, outcome::SharedResponse},
    state::LayerState,
    status::{CacheStatus, Outcome, Storing},
    store::{Store, backend::Put, error::StoreError},
};

/// The head of a response on the fast path.
pub(super) struct FastPath {
    times: Times,
    /// `Content-Length`. A body of another length is not stored.
    pub(super) announced: Option<u64>,
}

impl<St: Store> Fill<St> {
    /// Returns the head of a response that takes the fast path. The body has at least `least` bytes.
    #[inline]
    pub(super) fn fast_path(&self, parts: &response::Parts, least: u64) -> Option<FastPath> {
        let MissedRequest { request, miss } = &*self.missed;
        let (rule, options) = (&request.rule, &self.shared.options);
        let may_be = parts.status == StatusCode::OK
            && rule.http().is_none()
            && !rule.tags()
            && !request.info.is_conditional_or_range
            && miss.varying.is_none()
            && request.plan.named_by.is_none()
            && request.plan.names.count() <= MAX_NAMESPACES
            && !options.content_length
            && !self.shared.store.is_shared();
        if !may_be {
            return None;
        }
        let announced = rule.learned().template().announced_length(&parts.headers, options.cache_status.is_some())?;
        if least.max(announced.unwrap_or(0)) > rule.max_body() as u64 {
            return None;
        }
        let ttl = rule.lifetime(&request.plan, parts).filter(|ttl| !ttl.is_zero())?;
        rule.learned().record_response(false);
        Some(FastPath { times: self.times(ttl, None), announced })
    }

    /// Converts to the result of the full checks.
    #[inline(never)]
    pub(super) fn fast_admission(&self, plain: FastPath, parts: &response::Parts) -> Admission {
        let CacheRequest { rule, primary, .. } = &self.request;
        Admission {
            key: primary.clone(),
            language: None,
            status: parts.status,
            announced: plain.announced,
            headers: rule.learned().template().compact_unchecked(&parts.headers),
            vary: Vary::default(),
            named: None,
            times: plain.times,
            http: None,
        }
    }

    /// Makes the entry, stores it, tells the followers and returns the response.
    #[inline]
    pub(super) fn store_fast<B, E>(
        self,
        plain: FastPath,
        parts: response::Parts,
        body: ExactLength,
        rest: &mut Option<RestFuture<B, E>>,
    ) -> Poll<Answer<B, E>>
    where
        B: Send + 'static,
        E: Send + 'static,
    {
        let Self { shared, missed, leader, .. } = self;
        let MissedRequest {
            request: CacheRequest { rule, primary, plan: ReadPlan { names, .. }, .. },
            miss: LookupMiss { reason, stamp, .. },
        } = *missed;
        let headers = rule.learned().template().compact_unchecked(&parts.headers);
        let status = parts.status;
        let ExactLength { sent, kept } = body;
        let mut response = Response::from_parts(parts, CacheBody::whole(sent, None));
        let kept = entry::Response { names, times: plain.times, status, headers, body: kept, trailers: None, http: None };
        let entry = Entry::of_response(primary, stamp, kept);
        match put_now(&shared, &rule, &entry) {
            Some(put) => {
                let storing = landed(&shared, &entry, &rule, leader, Ok(put));
                shared.mark(&mut response, CacheStatus::new(Outcome::Miss(reason)).storing(storing));
                Poll::Ready(Ok(response))
            }
            None => {
                *rest = Some(Box::pin(async move {
                    let put = shared.store.put(entry.clone(), None).await;
                    let storing = landed(&shared, &entry, &rule, leader, put);
                    Ok(shared.marked(response, CacheStatus::new(Outcome::Miss(reason)).storing(storing)))
                }));
                Poll::Pending
            }
        }
    }
}

/// Counts the result and tells the followers.
#[inline]
fn landed<St: Store>(
    shared: &LayerState<St>,
    entry: &Arc<Entry>,
    rule: &Policy,
    leader: Option<Leader>,
    put: Result<Put, StoreError>,
) -> Storing {
    told(shared, (rule, entry.key(), entry), put.map_err(NotStored::Failed), false, leader, false, || {
        SharedResponse::alone(entry.clone())
    })
}
