//! Responses from entries.

pub(crate) mod age;
pub(crate) mod call;
pub(crate) mod partial;
pub(crate) mod range;

use std::{mem, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};

use self::{age::set_age, range::part};
use crate::{
    body::CacheBody,
    clock::{MS, Nanos},
    entry::{Content, Entry},
    hottest::SAMPLED,
    key::Key,
    lookup::{info::RequestInfo, request::Served},
    namespace::set::Namespaces,
    semantics::{self, Precondition, Role, Selected},
    single_flight::outcome::ArrivingResponse,
    state::LayerState,
    status::{CacheStatus, Outcome},
    store::Store,
    target_cache::hot::{HotResponse, head_fields},
};

/// Returns the 504 for a request that accepts a stored response only (RFC 9111, section 5.2.1.7).
pub(crate) fn only_if_cached<St: Store, B>(shared: &LayerState<St>) -> Response<CacheBody<B>> {
    let mut response = Response::new(CacheBody::empty());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    shared.marked(response, CacheStatus::new(Outcome::OnlyIfCached))
}

/// Returns the response to a request from an entry: complete, a part, its head, or a 304.
#[inline]
pub(crate) fn from_entry<St: Store, B>(
    shared: &LayerState<St>,
    entry: &Entry,
    method: &Method,
    fields: &HeaderMap,
    outcome: Outcome,
    now: Nanos,
) -> Response<CacheBody<B>> {
    from_entry_as(shared, entry, method, fields, CacheStatus::new(outcome), now)
}

/// Returns the response to a request from an entry, with a given status.
#[inline]
pub(crate) fn from_entry_as<St: Store, B>(
    shared: &LayerState<St>,
    entry: &Entry,
    method: &Method,
    fields: &HeaderMap,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let Content::Response { status, headers, body, trailers } = entry.content() else {
        unreachable!("a list of variants is never served")
    };
    let times = entry.times();
    let validated = is_conditional(fields).then(|| headers.map());
    let validated = validated.filter(|stored| wants_not_modified(method, fields, *status, stored, times.born, now));
    let mut response = if let Some(stored) = validated {
        not_modified(semantics::not_modified_headers(&stored), http::Extensions::new())
    } else if let Some(part) = part(method, fields, entry, now) {
        part
    } else if *method == Method::HEAD {
        let fields = head_fields(*status, headers.to_map(), trailers.is_none().then_some(body.len()));
        with_body(*status, fields, CacheBody::empty())
    } else {
        with_body(*status, headers.to_map(), CacheBody::whole(body.clone(), trailers.clone()))
    };
    finish(shared, &mut response, entry, status_of, now);
    response
}

/// Returns the complete response from an entry.
#[inline]
pub(crate) fn from_whole<St: Store, B>(
    shared: &LayerState<St>,
    entry: &Entry,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let Content::Response { status, headers, body, trailers } = entry.content() else {
        unreachable!("a list of variants is never served")
    };
    whole_of(shared, (*status, headers.to_map(), body), trailers.clone(), entry, status_of, now)
}

/// Returns the complete response from the parts of an entry.
#[inline(always)]
pub(crate) fn whole_of<St: Store, B>(
    shared: &LayerState<St>,
    (status, headers, body): (StatusCode, HeaderMap, &Bytes),
    trailers: Option<Box<HeaderMap>>,
    entry: &Entry,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let mut response = with_body(status, headers, CacheBody::whole(body.clone(), trailers));
    finish(shared, &mut response, entry, status_of, now);
    response
}

/// Returns the complete response from an entry that is given up. If nobody else holds the entry, nothing is copied.
pub(crate) fn from_last<St: Store, B>(
    shared: &LayerState<St>,
    mut entry: Arc<Entry>,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let Some((status, headers, body, trailers)) = Arc::get_mut(&mut entry).and_then(Entry::take_response) else {
        return from_whole(shared, &entry, status_of, now);
    };
    let mut response = with_body(status, headers, CacheBody::whole(body, trailers));
    finish(shared, &mut response, &entry, status_of, now);
    response
}

#[inline(always)]
fn with_body<B>(status: StatusCode, headers: HeaderMap, body: CacheBody<B>) -> Response<CacheBody<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    // The new response has an empty map without an allocation. Its drop would cost each hit some instructions.
    mem::forget(mem::replace(response.headers_mut(), headers));
    response
}

/// Sets the age, the cache tags and the cache status of a response from the store.
#[inline]
fn finish<St: Store, B>(
    shared: &LayerState<St>,
    response: &mut Response<CacheBody<B>>,
    entry: &Entry,
    status_of: CacheStatus,
    now: Nanos,
) {
    set_age(response.headers_mut(), now.saturating_sub(entry.times().born));
    mark(shared, response, entry, status_of, now);
}

/// Sets the cache tags and the cache status of a response from the store.
#[inline]
fn mark<St: Store, B>(
    shared: &LayerState<St>,
    response: &mut Response<CacheBody<B>>,
    entry: &Entry,
    status_of: CacheStatus,
    now: Nanos,
) {
    if let Some(tags) = &shared.options.tags {
        shared.tag_stored(tags, response.headers_mut(), entry.namespaces());
    }
    shared.set_status(response, status_of.until(entry.times().fresh_until, now));
}

/// Returns a fresh response as the client's own conditions require it. The inner service did not see these conditions.
pub(crate) fn conditional<B>(info: &RequestInfo, response: Response<CacheBody<B>>, now: Nanos) -> Response<CacheBody<B>> {
    if !info.is_conditional_or_range {
        return response;
    }
    match wants_not_modified(&info.method, info.conditions(), response.status(), response.headers(), now, now) {
        true => not_modified(semantics::not_modified_headers(response.headers()), response.extensions().clone()),
        false => response,
    }
}

/// Returns a follower's response whose body is still being read. Returns `None` if the beginning of the body is no longer buffered.
pub(crate) fn from_arriving<St: Store, B>(
    shared: &LayerState<St>,
    arriving: &ArrivingResponse,
    asked: &RequestInfo,
    now: Nanos,
) -> Option<Response<CacheBody<B>>> {
    let mut response = Response::new(CacheBody::coming(arriving.tape.reader()?, arriving.length));
    *response.status_mut() = arriving.status;
    *response.headers_mut() = arriving.headers.clone();
    set_age(response.headers_mut(), now.saturating_sub(arriving.born));
    if let Some(tagged_by) = &arriving.tagged_by {
        response.extensions_mut().insert(tagged_by.clone());
    }
    Some(shared.marked(conditional(asked, response, now), CacheStatus::new(Outcome::Collapsed)))
}

/// Returns true if the request has a condition that a 304 can answer.
#[inline]
fn is_conditional(request: &HeaderMap) -> bool {
    request.contains_key(header::IF_NONE_MATCH) || request.contains_key(header::IF_MODIFIED_SINCE)
}

fn wants_not_modified(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    received: Nanos,
    now: Nanos,
) -> bool {
    let selected = Selected { status, headers: stored, received: received / MS };
    semantics::evaluate(method, request, &selected, Role::Cache, now / MS) == Precondition::NotModified
}

/// Returns a 304 with these fields.
fn not_modified<B>(headers: HeaderMap, extensions: http::Extensions) -> Response<CacheBody<B>> {
    let mut response = with_body(StatusCode::NOT_MODIFIED, headers, CacheBody::empty());
    *response.extensions_mut() = extensions;
    response
}

/// Returns the complete response from an entry, and counts a hit.
#[inline]
pub(crate) fn complete<St: Store, B>(shared: &LayerState<St>, entry: &Entry, served: Served) -> Response<CacheBody<B>> {
    let response = from_whole(shared, entry, CacheStatus::new(Outcome::Hit), served.at);
    hit(shared, served, entry, response.body().cached_length());
    response
}

/// Returns the complete response from an entry without an `Age`, and counts a hit.
#[inline(never)]
pub(crate) fn replay<St: Store, B>(shared: &LayerState<St>, entry: &Entry, served: Served) -> Response<CacheBody<B>> {
    let mut response = complete(shared, entry, served);
    response.headers_mut().remove(header::AGE);
    response
}

/// Returns a response that this thread holds, and counts a hit.
#[inline]
pub(crate) fn hot<St: Store, B>(shared: &LayerState<St>, held: &HotResponse, served: Served) -> Response<CacheBody<B>> {
    let (status, headers, body) = held.parts();
    let (parts, trailers) = ((status, headers.clone(), body), held.trailers().cloned().map(Box::new));
    let response = whole_of(shared, parts, trailers, held.entry(), CacheStatus::new(Outcome::Hit), served.at);
    hit(shared, served, held.entry(), body.len() as u64);
    response
}

/// Returns a response that this thread holds without an `Age`, and counts a hit.
#[inline(never)]
pub(crate) fn hot_replay<St: Store, B>(shared: &LayerState<St>, held: &HotResponse, served: Served) -> Response<CacheBody<B>> {
    let (status, _, body) = held.parts();
    let (headers, trailers) = (held.ageless().clone(), held.trailers().cloned().map(Box::new));
    let mut response = with_body(status, headers, CacheBody::whole(body.clone(), trailers));
    mark(shared, &mut response, held.entry(), CacheStatus::new(Outcome::Hit), served.at);
    hit(shared, served, held.entry(), body.len() as u64);
    response
}

/// Returns a response that this thread holds, reduced to the request, and counts a hit.
pub(crate) fn hot_reduced<St: Store, B, R>(
    shared: &LayerState<St>,
    response: &HotResponse,
    request: &Request<R>,
    served: Served,
) -> Response<CacheBody<B>> {
    let (times, now) = (response.entry().times(), served.at);
    let (method, fields) = (request.method(), request.headers());
    let (status, headers, body) = response.parts();
    let is_not_modified = response.is_named_by(fields) || wants_not_modified(method, fields, status, headers, times.born, now);
    let mut reduced = if is_not_modified {
        not_modified(response.not_modified().clone(), http::Extensions::new())
    } else if *method == Method::HEAD {
        with_body(status, response.head().clone(), CacheBody::empty())
    } else {
        with_body(status, headers.clone(), CacheBody::whole(body.clone(), response.trailers().cloned().map(Box::new)))
    };
    finish(shared, &mut reduced, response.entry(), CacheStatus::new(Outcome::Hit), now);
    hit(shared, served, response.entry(), reduced.body().cached_length());
    reduced
}

/// Returns the response to a request from an entry, and counts a hit or a stale hit.
pub(crate) fn serve<St: Store, B, R>(
    shared: &LayerState<St>,
    request: &Request<R>,
    entry: &Entry,
    outcome: Outcome,
    served: Served,
) -> Response<CacheBody<B>> {
    let response = from_entry(shared, entry, request.method(), request.headers(), outcome, served.at);
    match outcome {
        Outcome::Stale(reason) => {
            let from_store = shared.is_from_store(served.has_queried);
            shared.routes[served.place].stale(reason, from_store, response.body().cached_length());
            shared.store.context().track(entry.key(), entry.namespaces(), 1);
            tracing::debug!("stale hit");
        }
        _ => hit(shared, served, entry, response.body().cached_length()),
    }
    response
}

/// Returns the complete response from an entry that is given up, and counts a hit.
pub(crate) fn complete_owned<St: Store, B>(
    shared: &LayerState<St>,
    entry: Arc<Entry>,
    served: Served,
) -> Response<CacheBody<B>> {
    let born = entry.times().born;
    let bytes = match entry.content() {
        Content::Response { body, .. } => body.len() as u64,
        Content::Variants(_) => 0,
    };
    let tracked = count_hit(shared, served, bytes).then(|| (entry.key().clone(), entry.namespaces().clone()));
    let response = from_last(shared, entry, CacheStatus::new(Outcome::Hit), served.at);
    if let Some((key, names)) = tracked {
        measured(shared, served, born, &key, &names);
    }
    response
}

/// Counts a hit that sends this number of bytes, and measures one hit in 64.
#[inline]
pub(crate) fn hit<St: Store>(shared: &LayerState<St>, served: Served, entry: &Entry, bytes: u64) {
    if count_hit(shared, served, bytes) {
        measured(shared, served, entry.times().born, entry.key(), entry.namespaces());
    }
}

/// Counts a hit that sends this number of bytes. Returns true if it is to be measured.
#[inline]
fn count_hit<St: Store>(shared: &LayerState<St>, served: Served, bytes: u64) -> bool {
    tracing::debug!("hit");
    shared.routes[served.place].hit(shared.is_from_store(served.has_queried), bytes)
}

/// Measures and tracks a hit on an entry that was born at a time.
#[inline]
fn measured<St: Store>(shared: &LayerState<St>, served: Served, born: Nanos, key: &Key, names: &Namespaces) {
    let context = shared.store.context();
    let took = context.clock.nanos().saturating_sub(served.at);
    shared.routes[served.place].measured_hit(took, served.at.saturating_sub(born));
    context.track(key, names, SAMPLED);
}
