//! Parts (206): stored under the range that asked for them, and put together to the whole where they are parts of one thing
//! (RFC 9111, section 3.3 and section 3.4).

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::{
    answer::{self, Decision},
    body::CacheBody,
    clock::{MS, Nanos},
    fill::Fill,
    key::{self, Key, KeyRef, MAX_KEY_LEN},
    layer::LayerState,
    namespace::Namespaces,
    semantics::{self, ETag, Part, Ranges, Selected},
    service::{CacheRequest, LookupMiss, hit},
    status::{CacheStatus, Outcome},
    store::{Content, Draft, Entry, Stamp, Store, Validity},
};

/// What stands behind the key of the whole in those of its parts. The number of varying fields, which stands there in variants, begins
/// with 0; the tag of a secret is another.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    AsAsked = 1,
    Join = 2,
}

/// The key of what a request with this `Range` and `If-Range` was answered; `None` if it would be too long.
pub(crate) fn as_asked(whole: KeyRef<'_>, request: &HeaderMap) -> Option<Key> {
    let mut selecting = vec![Kind::AsAsked as u8];
    for name in [header::RANGE, header::IF_RANGE] {
        for line in request.get_all(&name) {
            selecting.push(1);
            selecting.extend_from_slice(&(line.len() as u32).to_be_bytes());
            selecting.extend_from_slice(line.as_bytes());
        }
        selecting.push(0);
    }
    Some(key::variant(whole, &selecting)).filter(|key| key.canonical().len() <= MAX_KEY_LEN)
}

/// The key of the longest part that could be put together.
fn joined(whole: KeyRef<'_>) -> Key {
    key::variant(whole, &[Kind::Join as u8])
}

/// The answer to a request for a part of something that is not stored as a whole, if what is stored of it has it.
pub(crate) async fn stored<St: Store, B>(
    shared: &LayerState<St>,
    quest: &CacheRequest,
    missed: &LookupMiss<St>,
) -> Option<Response<CacheBody<B>>> {
    let whole = missed.key(quest).as_ref();
    let same = as_asked(whole, quest.asked.conditions())?;
    if let Some((entry, now)) = fresh(shared, quest, &same).await {
        let asked = &quest.asked;
        hit(shared, now);
        return Some(answer::from_entry(shared, &entry, &asked.method, asked.conditions(), Outcome::Hit, now));
    }
    let (entry, now) = fresh(shared, quest, &joined(whole)).await?;
    let cut = cut(&entry, quest.asked.conditions(), now)?;
    hit(shared, now);
    Some(shared.marked(cut, CacheStatus::new(Outcome::Hit).until(entry.times().fresh_until, now)))
}

/// What is stored under a key, if it may answer as it is.
async fn fresh<St: Store>(shared: &LayerState<St>, quest: &CacheRequest, key: &Key) -> Option<(Arc<Entry>, Nanos)> {
    let found = shared.store.get(key.as_ref(), &quest.plan.names).await.ok()?.found;
    let now = shared.store.context().clock.nanos();
    match quest.decide(found, now) {
        Decision::Fresh(entry) | Decision::Early(entry) => Some((entry, now)),
        _ => None,
    }
}

/// A smaller part of a stored one, as if the whole were stored; `None` if it is not all there.
fn cut<B>(entry: &Entry, request: &HeaderMap, now: Nanos) -> Option<Response<CacheBody<B>>> {
    let Content::Response { headers, body, .. } = entry.content() else { return None };
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
    answer::set_age(response.headers_mut(), now.saturating_sub(entry.times().born));
    Some(response)
}

/// The one part that a 206 brings, and how long its whole is: if its content is what its `Content-Range` says.
fn whole_of(headers: &HeaderMap, body: &Bytes) -> Option<(Part, u64)> {
    let part = Part::of(headers)?;
    let length = part.length?;
    (part.range.end - part.range.start == body.len() as u64).then_some((part, length))
}

impl<St: Store> Fill<St> {
    /// Puts a 206 together with what is stored of the same thing: with the whole, if nothing is missing then, as the response to later
    /// requests for all of it. `known` are the namespaces that were known from the request.
    ///
    /// The result belongs to the namespaces of all its parts. Its stamp is that of the newest part, admitted for the names of the older
    /// ones: what was stored before lives at this moment, later than that stamp was taken, so that whatever is invalidated from then on
    /// outdates the result. If the stamp cannot be admitted, or there would be too many names, only the newest part is kept.
    pub(crate) async fn assemble(&self, entry: &Entry, known: &Namespaces) {
        let Content::Response { headers, body, .. } = entry.content() else { return };
        let Some((part, length)) = whole_of(headers, body) else { return };
        if ETag::of(headers).is_none_or(|tag| tag.is_weak()) || length > self.of.quest.rule.max_body() as u64 {
            return;
        }
        let whole = self.key().as_ref();
        let at = joined(whole);
        let before = self.shared.store.get(at.as_ref(), known).await.ok().and_then(|look| look.found);
        let before = before.filter(|(_, life)| *life == Validity::Valid).map(|(before, _)| before);
        let grown = before.and_then(|before| join(&before, headers, &part, body).map(|grown| (grown, before)));
        let grown = match grown {
            Some((grown, before)) => self.vouched(entry, &before).await.map(|vouched| (grown, vouched)),
            None => None,
        };
        let ((part, body), vouched) =
            grown.unwrap_or_else(|| ((part, body.clone()), (entry.stamp().clone(), entry.namespaces().clone())));
        let mut headers = headers.clone();
        headers.insert(header::CONTENT_LENGTH, (body.len() as u64).into());
        if part.is_complete() {
            headers.remove(header::CONTENT_RANGE);
            self.put(self.key().clone(), entry, vouched, (StatusCode::OK, headers, body)).await;
        } else {
            headers = semantics::partial_headers(&headers, &part.range, length);
            self.put(at, entry, vouched, (StatusCode::PARTIAL_CONTENT, headers, body)).await;
        }
    }

    /// The stamp and the namespaces of what is made of two entries: those of the newer one, with the names of the older one. `None` if
    /// that would be too many, or if nobody can say that none of them was invalidated since the stamp was taken.
    async fn vouched(&self, newer: &Entry, older: &Entry) -> Option<(Stamp, Namespaces)> {
        let mut names = newer.namespaces().clone();
        names.extend(older.namespaces());
        let added = names.since(newer.namespaces().count());
        let stamp = match names.are_too_many() {
            true => return None,
            false => self.admitted(newer.stamp(), &added, None).await.ok()?,
        };
        Some((stamp, names))
    }

    /// Stores a part of what two entries were put together to, or all of it.
    async fn put(&self, key: Key, like: &Entry, vouched: (Stamp, Namespaces), response: (StatusCode, HeaderMap, Bytes)) {
        let ((stamp, names), (status, headers, body)) = (vouched, response);
        let content = Content::Response { status, headers, body, trailers: None };
        let draft = Draft { names, times: *like.times(), content, http: like.http().copied().map(Box::new) };
        let _ = self.shared.store.put(Arc::new(Entry::new(key, stamp, draft)), None).await;
    }
}

/// Two parts as one, if they are of the same representation and touch: the newer bytes where both have some.
fn join(before: &Entry, headers: &HeaderMap, part: &Part, body: &Bytes) -> Option<(Part, Bytes)> {
    let Content::Response { headers: known, body: older, .. } = before.content() else { return None };
    let (stored, _) = whole_of(known, older)?;
    let all = stored.join(part).filter(|_| semantics::same_representation(known, headers))?;
    let mut bytes = BytesMut::zeroed((all.range.end - all.range.start) as usize);
    for (piece, data) in [(&stored, older), (part, body)] {
        let from = (piece.range.start - all.range.start) as usize;
        bytes[from..from + data.len()].copy_from_slice(data);
    }
    Some((all, bytes.freeze()))
}

/// Whether a request asks for a part in a way that what answers it can be kept: with one `Range`.
pub(crate) fn asks_for_one(method: &Method, request: &HeaderMap) -> bool {
    let lines: Vec<&HeaderValue> = request.get_all(header::RANGE).iter().collect();
    *method == Method::GET && lines.len() == 1
}
