//! Storing and combining partial responses.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};

use super::Fill;
use crate::{
    entry::{Content, Draft, Entry, stamp::Stamp, validity::Validity},
    key::Key,
    lookup::partial::joined,
    namespace::set::Namespaces,
    respond::partial::whole_of,
    semantics::{self, ETag, Part},
    store::Store,
};

impl<St: Store> Fill<St> {
    /// Combines a 206 with the stored part of the same representation. A complete result is stored as the complete response. `known` are the
    /// namespaces known from the request.
    ///
    /// The result belongs to the namespaces of all its parts. Its stamp is the stamp of the newest part, completed for the namespaces of the
    /// older parts. The older part was valid after that stamp was taken, so that a later invalidation also invalidates the result. If the stamp
    /// cannot be completed, or there are too many namespaces, only the newest part is stored.
    pub(crate) async fn assemble(&self, entry: &Entry, known: &Namespaces) {
        let Content::Response { headers, body, .. } = entry.content() else { return };
        let headers = &*headers.map();
        let Some((part, length)) = whole_of(headers, body) else { return };
        if ETag::of(headers).is_none_or(|tag| tag.is_weak()) || length > self.request.rule.max_body() as u64 {
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

    /// Returns the stamp and the namespaces for the combination of two entries. Returns `None` if there are too many namespaces, or if the store
    /// cannot verify that none of them was invalidated since the stamp was taken.
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

    /// Stores a combined part, or the complete response.
    async fn put(&self, key: Key, like: &Entry, vouched: (Stamp, Namespaces), response: (StatusCode, HeaderMap, Bytes)) {
        let ((stamp, names), (status, headers, body)) = (vouched, response);
        let content = Content::Response { status, headers: headers.into(), body, trailers: None };
        let draft = Draft { names, times: *like.times(), content, http: like.http().copied().map(Box::new) };
        let _ = self.shared.store.put(Arc::new(Entry::new(key, stamp, draft)), None).await;
    }
}

/// Combines two adjacent or overlapping parts of the same representation. The newer bytes count where they overlap.
fn join(before: &Entry, headers: &HeaderMap, part: &Part, body: &Bytes) -> Option<(Part, Bytes)> {
    let Content::Response { headers: known, body: older, .. } = before.content() else { return None };
    let known = &*known.map();
    let (stored, _) = whole_of(known, older)?;
    let all = stored.join(part).filter(|_| semantics::same_representation(known, headers))?;
    let mut bytes = BytesMut::zeroed((all.range.end - all.range.start) as usize);
    for (piece, data) in [(&stored, older), (part, body)] {
        let from = (piece.range.start - all.range.start) as usize;
        bytes[from..from + data.len()].copy_from_slice(data);
    }
    Some((all, bytes.freeze()))
}
