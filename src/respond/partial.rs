//! Responses from stored parts.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};

use super::{age, hit};
use crate::{
    body::CacheBody,
    clock::{MS, Nanos},
    entry::{Content, Entry},
    key::Key,
    lookup::{
        decision::Decision,
        partial::{as_asked, joined},
        request::{CacheRequest, LookupMiss, Served},
    },
    respond,
    semantics::{self, Part, Ranges, Selected},
    state::LayerState,
    status::{CacheStatus, Outcome},
    store::{Store, backend::StoreLookup, error::StoreError},
};

/// Returns the response to a request for a range of a response that is not stored completely, if a stored part has the range.
pub(crate) async fn stored<St: Store, B>(
    shared: &LayerState<St>,
    request: &CacheRequest,
    miss: &LookupMiss<St>,
) -> Option<Response<CacheBody<B>>> {
    let whole = miss.key(request).as_ref();
    let same = as_asked(whole, request.info.conditions())?;
    if let Some((entry, now)) = fresh(shared, request, &same).await {
        let asked = &request.info;
        let response = respond::from_entry(shared, &entry, &asked.method, asked.conditions(), Outcome::Hit, now);
        hit(shared, served(request, now), &entry, response.body().cached_length());
        return Some(response);
    }
    let (entry, now) = fresh(shared, request, &joined(whole)).await?;
    let mut cut = cut(&entry, request.info.conditions(), now)?;
    hit(shared, served(request, now), &entry, cut.body().cached_length());
    if let Some(tags) = &shared.options.tags {
        shared.tag_stored(tags, cut.headers_mut(), entry.namespaces());
    }
    Some(shared.marked(cut, CacheStatus::new(Outcome::Hit).until(entry.times().fresh_until, now)))
}

fn served(request: &CacheRequest, at: Nanos) -> Served {
    Served { at, place: request.rule.place(), has_queried: true }
}

/// Returns true if [`stored`] would answer the request, without a trace in the store.
pub(crate) async fn would_answer<St: Store>(shared: &LayerState<St>, request: &CacheRequest, miss: &LookupMiss<St>) -> bool {
    let (whole, names) = (miss.key(request).as_ref(), &request.plan.names);
    let Some(same) = as_asked(whole, request.info.conditions()) else { return false };
    let found = shared.store.peek(same.as_ref(), names, usize::MAX).await;
    if fresh_of(shared, request, found).is_some() {
        return true;
    }
    let found = shared.store.peek(joined(whole).as_ref(), names, usize::MAX).await;
    let cuts = |(entry, now): (Arc<Entry>, Nanos)| cut::<()>(&entry, request.info.conditions(), now).is_some();
    fresh_of(shared, request, found).is_some_and(cuts)
}

/// Returns the entry of a key if it is fresh.
async fn fresh<St: Store>(shared: &LayerState<St>, request: &CacheRequest, key: &Key) -> Option<(Arc<Entry>, Nanos)> {
    let found = shared.store.get(key.as_ref(), &request.plan.names).await;
    fresh_of(shared, request, found)
}

/// Returns the entry that was found if it is fresh.
fn fresh_of<St: Store>(
    shared: &LayerState<St>,
    request: &CacheRequest,
    found: Result<StoreLookup, StoreError>,
) -> Option<(Arc<Entry>, Nanos)> {
    let found = found.ok()?.found;
    let now = shared.store.context().clock.nanos();
    match request.decide(found.as_ref(), now) {
        Decision::Fresh | Decision::RefreshAhead | Decision::Audit => found.map(|(entry, _)| (entry, now)),
        _ => None,
    }
}

/// Returns a range of a stored part. Returns `None` if a byte of the range is missing.
fn cut<B>(entry: &Entry, request: &HeaderMap, now: Nanos) -> Option<Response<CacheBody<B>>> {
    let Content::Response { headers, body, .. } = entry.content() else { return None };
    let headers = &*headers.map();
    let (part, length) = whole_of(headers, body)?;
    let selected = Selected { status: StatusCode::OK, headers, received: entry.times().born / MS };
    let conditional = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE].iter().any(|name| request.contains_key(name));
    let Ranges::Single(wanted) = semantics::select_ranges(&Method::GET, request, &selected, length, now / MS) else {
        return None;
    };
    let Range { start, end } = part.slice(&wanted).filter(|_| !conditional)?;
    let mut response = Response::new(CacheBody::whole(body.slice(start as usize..end as usize), None));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    *response.headers_mut() = semantics::partial_headers(headers, &wanted, length);
    age::set_age(response.headers_mut(), now.saturating_sub(entry.times().born));
    Some(response)
}

/// Returns the part that a 206 holds and the complete length, if the content agrees with its `Content-Range`.
pub(crate) fn whole_of(headers: &HeaderMap, body: &Bytes) -> Option<(Part, u64)> {
    let part = Part::of(headers)?;
    let length = part.length?;
    (part.range.end - part.range.start == body.len() as u64).then_some((part, length))
}
