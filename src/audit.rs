//! Audits: a hit is computed again in the background and compared with the entry that has answered.

use std::{
    any::Any,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use http::{Method, Request, Response, request};
use http_body::Body;
use tokio::{runtime::Handle, time::timeout};
use tracing::Span;

#[cfg(feature = "axum")]
use crate::request_body::ReadBody;
use crate::{
    Store,
    compare::{Difference, Whole},
    entry::{Content, Entry},
    error::BoxError,
    fill::{
        ongoing::{OngoingCall, OngoingFill},
        upstream::{self, InnerService},
    },
    key::content::RequestContent,
    lookup::request::MissedRequest,
    ready::take_ready,
    rpc::deadline,
    single_flight::detach::start_in,
    state::LayerState,
    stats::AuditResult,
    store::backend::Context,
};

/// Starts the audit of a hit, unless too many are in progress. The client does not wait for it.
#[inline(never)]
pub(crate) fn start<S, St, ReqB, ResB>(
    inner: &mut S,
    shared: &Arc<LayerState<St>>,
    mut missed: Box<MissedRequest<St>>,
    entry: Arc<Entry>,
    mut request: Request<ReqB>,
) where
    S: InnerService<ReqB, ResB> + Clone,
    St: Store,
    ReqB: Send + 'static,
    ResB: Body<Error: Into<BoxError>> + Send + 'static,
{
    let Ok(runtime) = Handle::try_current() else { return };
    let Ok(permit) = shared.audits.clone().try_acquire_owned() else {
        return shared.route(&missed.request.rule).audit(AuditResult::Skipped);
    };
    if missed.request.rule.is_rpc() {
        deadline::remove(request.headers_mut());
    }
    missed.request.info.keep(request.headers());
    let audit = Audit { shared: shared.clone(), missed, entry, service: take_ready(inner), verdict: None };
    let audited = async move {
        audit.run(request).await;
        drop(permit);
    };
    start_in(&runtime, Box::pin(audited));
}

/// An audit in progress. It is counted when it is dropped.
struct Audit<S, St: Store> {
    shared: Arc<LayerState<St>>,
    missed: Box<MissedRequest<St>>,
    entry: Arc<Entry>,
    /// The instance for the next call.
    service: S,
    verdict: Option<Verdict>,
}

/// The result of an audit.
enum Verdict {
    Differed(Vec<Difference>),
    Other(AuditResult),
}

impl<S, St: Store> Audit<S, St> {
    async fn run<ReqB, ResB>(mut self, request: Request<ReqB>)
    where
        S: InnerService<ReqB, ResB> + Clone,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        self.verdict = Some(self.verdict(request).await);
    }

    /// Computes fresh responses and compares them. Each check of the entry comes after the response that differs.
    async fn verdict<ReqB, ResB>(&mut self, request: Request<ReqB>) -> Verdict
    where
        S: InnerService<ReqB, ResB> + Clone,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let (head, body) = request.into_parts();
        let is_head = head.method == Method::HEAD;
        let Some(stored) = stored(&self.entry, is_head) else { return Verdict::Other(AuditResult::Failed) };
        let again = self.service.clone();
        let Some(fresh) = self.fetch(Request::from_parts(head.clone(), body)).await else {
            return Verdict::Other(AuditResult::Failed);
        };
        if self.is_failure(&stored, &fresh) {
            return Verdict::Other(AuditResult::Failed);
        }
        let rule = self.missed.request.rule.clone();
        let differences = rule.differences(&stored, &fresh, is_head);
        if differences.is_empty() {
            return Verdict::Other(AuditResult::Same);
        }
        if !self.is_still_valid().await {
            return Verdict::Other(AuditResult::Changed);
        }
        let Some(body) = self.body_of(&head) else { return Verdict::Other(AuditResult::Unconfirmed) };
        self.service = again;
        match self.fetch(Request::from_parts(head, body)).await {
            None => Verdict::Other(AuditResult::Failed),
            Some(second) if self.is_failure(&stored, &second) => Verdict::Other(AuditResult::Failed),
            Some(second) if rule.differences(&fresh, &second, is_head).is_empty() => Verdict::Differed(differences),
            // A write may have come between the two.
            Some(_) => Verdict::Other(match self.is_still_valid().await {
                true => AuditResult::Unstable,
                false => AuditResult::Changed,
            }),
        }
    }

    /// Calls the inner service, and reads its response up to one more byte than may be stored. Returns `None` if that fails or takes too long.
    async fn fetch<ReqB, ResB>(&mut self, request: Request<ReqB>) -> Option<Whole>
    where
        S: InnerService<ReqB, ResB>,
        ReqB: Send + 'static,
        ResB: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let Self { shared, missed, service, .. } = self;
        let MissedRequest { request: cache_request, miss } = &mut **missed;
        let (limit, max) = (shared.options.fill_limit, cache_request.rule.max_body());
        let ongoing = OngoingFill::of(shared.store.context(), cache_request.primary.as_ref());
        let fetched = async {
            poll_fn(|cx| service.poll_ready(cx)).await.ok()?;
            let call = upstream::call(service, &shared.store, cache_request, miss, request, false);
            let response = OngoingCall::new(ongoing, Span::none(), call).await.ok()?;
            read(response, max).await
        };
        timeout(limit, fetched).await.ok()?
    }

    /// Waits for the writes that may have changed the fresh response, and returns true if the entry is still valid after them.
    async fn is_still_valid(&mut self) -> bool {
        let Self { shared, missed, entry, .. } = self;
        missed.request.still_valid_later(shared, entry).await
    }

    /// Returns true for a response that says nothing about the data: a server error that is not stored.
    fn is_failure(&self, stored: &Whole, fresh: &Whole) -> bool {
        fresh.head().status.is_server_error() && stored.head().status != fresh.head().status
    }

    /// Returns a body with the content of the request.
    fn body_of<ReqB: 'static>(&self, head: &request::Parts) -> Option<ReqB> {
        let content = match RequestContent::of(&head.extensions) {
            Some(content) => content.content.clone().ok()?,
            None => Bytes::new(),
        };
        let by_option = self.shared.options.audit_body.as_ref().map(|make| (make.0)(content.clone()));
        by_option.and_then(known).or_else(|| of_axum(content))
    }
}

fn known<B: 'static>(body: Box<dyn Any>) -> Option<B> {
    body.downcast().ok().map(|body| *body)
}

#[cfg(feature = "axum")]
fn of_axum<B: 'static>(content: Bytes) -> Option<B> {
    let read = ReadBody::<axum::body::Body>::from(content.clone());
    known(Box::new(axum::body::Body::from(content))).or_else(|| known(Box::new(read)))
}

#[cfg(not(feature = "axum"))]
fn of_axum<B: 'static>(_: Bytes) -> Option<B> {
    None
}

/// Returns the stored response. To a HEAD it is compared by its length, so that it keeps its body.
fn stored(entry: &Entry, is_head: bool) -> Option<Whole> {
    let Content::Response { status, headers, body, trailers } = entry.content() else { return None };
    let mut response = Response::new(body.clone());
    *response.status_mut() = *status;
    *response.headers_mut() = headers.to_map();
    Some(Whole { response, trailers: trailers.clone().filter(|_| !is_head), is_cut: false })
}

/// Reads a response up to `max` bytes of its body. Returns `None` if its body fails.
async fn read<B: Body>(response: Response<B>, max: usize) -> Option<Whole> {
    let (parts, body) = response.into_parts();
    let mut body: Pin<&mut B> = pin!(body);
    let (mut data, mut trailers, mut is_cut) = (Vec::new(), None, false);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.ok()?.into_data() {
            Ok(mut chunk) => {
                if data.len() + chunk.remaining() > max {
                    is_cut = true;
                    break;
                }
                data.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
            }
            Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
    Some(Whole { response: Response::from_parts(parts, data.into()), trailers, is_cut })
}

/// Counts the audit, and warns of a difference. An audit that has panicked, or whose runtime ends, has failed.
impl<S, St: Store> Drop for Audit<S, St> {
    fn drop(&mut self) {
        let rule = &self.missed.request.rule;
        let route = self.shared.route(rule);
        match self.verdict.take() {
            None => route.audit(AuditResult::Failed),
            Some(Verdict::Other(result)) => route.audit(result),
            Some(Verdict::Differed(differences)) => {
                let Context { counters, clock, .. } = self.shared.store.context();
                if route.audit_differed(&differences, clock.nanos()) {
                    counters.served_outdated(rule.route(), &differences);
                }
            }
        }
    }
}
