//! Commit: a response and its body become an entry, and the followers are told.

use std::{future::Future, mem, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{Fill, PASS, admission::Admission};
use crate::{
    clock::MS,
    entry::{Content, Draft, Entry, Response, stamp::Stamp, times::Http},
    key::Key,
    namespace::set::Namespaces,
    rules::policy::Policy,
    semantics::{CacheControl, Decision, Vary},
    single_flight::{
        Leader,
        outcome::{FlightOutcome, SharedResponse},
    },
    state::LayerState,
    status::{NoStore, Storing},
    store::{
        Store,
        backend::{Admitted, Put},
        error::StoreError,
        lock::Lock,
    },
};

/// The result of storing a response.
pub(crate) enum Commit {
    Now(Storing),
    /// The store has to be awaited.
    Later(Pin<Box<dyn Future<Output = (Storing, Arc<Entry>)> + Send>>),
}

/// The reason for which a response was not stored.
pub(crate) enum NotStored {
    Because(NoStore),
    Failed(StoreError),
}

/// An entry, and the data for its followers.
struct Made {
    entry: Arc<Entry>,
    /// The second key, if there is one.
    language: Option<Key>,
    vary: Vary,
    added: Namespaces,
    never_fresh: bool,
    /// For a part, the namespaces known from its request.
    part_known: Option<Namespaces>,
}

impl<St: Store> Fill<St> {
    /// Makes the entry, stores it, and tells the followers, if that needs no waiting.
    pub(super) fn store_now(mut self, fit: Admission, body: Bytes, trailers: Option<Box<HeaderMap>>) -> Commit {
        let alone = fit.vary.is_empty() && fit.status != StatusCode::PARTIAL_CONTENT;
        if !alone || fit.added().is_some() || self.shared.store.is_shared() {
            return Commit::Later(Box::pin(self.store(fit, body, trailers)));
        }
        let leader = self.leader.take();
        let never_fresh = self.is_never_fresh(&fit);
        let Admission { key, status, headers, named, times, http, .. } = fit;
        let names = named.map_or_else(|| mem::take(&mut self.request.plan.names), |named| named.all);
        let stamp = mem::take(&mut self.miss.stamp);
        let entry = Entry::of_response(key, stamp, Response { names, times, status, headers, body, trailers, http });
        match put_now(&self.shared, &self.request.rule, &entry) {
            Some(put) => {
                Commit::Now(self.stored(&entry, Ok(put), never_fresh, leader, false, || SharedResponse::alone(entry.clone())))
            }
            None => Commit::Later(Box::pin(async move {
                let put = self.shared.store.put(entry.clone(), None).await.map_err(NotStored::Failed);
                (self.stored(&entry, put, never_fresh, leader, false, || SharedResponse::alone(entry.clone())), entry)
            })),
        }
    }

    /// Makes the entry, stores it, and tells the followers.
    pub(super) async fn store(
        mut self,
        fit: Admission,
        body: Bytes,
        trailers: Option<Box<HeaderMap>>,
    ) -> (Storing, Arc<Entry>) {
        let leader = self.leader.take();
        let lock = self.miss.lock.take().and_then(|mut lock| lock.with_entry());
        let admitted = match fit.added() {
            None => Ok(self.miss.stamp.clone()),
            // Boxed, since only a shared store has to be awaited: in memory, a fill is small.
            Some(added) => Box::pin(self.admitted(&self.miss.stamp, added, leader.as_ref())).await,
        };
        let stamp = admitted.as_ref().unwrap_or(&self.miss.stamp).clone();
        let (mut made, marker) = self.made(fit, stamp, body, trailers);
        if self.is_read
            && (marker.is_some() || !made.added.is_empty())
            && let Some(tracker) = self.shared.store.context().counters.hottest.get()
        {
            tracker.filled(self.key(), made.entry.key(), made.entry.namespaces(), &made.added);
        }
        let put = match admitted {
            Ok(_) => {
                if let Some(marker) = marker {
                    let _ = self.keep(marker, None).await;
                }
                self.keep(made.entry.clone(), lock).await.map_err(NotStored::Failed)
            }
            Err(why) => {
                if let Some(lock) = lock {
                    self.shared.store.release(lock, false);
                }
                Err(why)
            }
        };
        if let (Ok(Put::Stored), Some(known)) = (&put, &made.part_known) {
            Box::pin(self.assemble(&made.entry, known)).await;
        }
        if let (Ok(Put::Stored), Some(key)) = (&put, made.language.take()) {
            let copy = made.entry.like(key, made.entry.content().clone());
            let _ = self.keep(Arc::new(copy), None).await;
        }
        let Made { entry, vary, added, never_fresh, .. } = made;
        // The followers may not have the response if the store could not verify its namespaces.
        let unknown = self.shared.store.is_shared() && !added.is_empty();
        let share = || SharedResponse { entry: entry.clone(), vary, added };
        (self.stored(&entry, put, never_fresh, leader, unknown, share), entry)
    }

    /// Returns true if each request has to revalidate the response, so that no request gains by following. A response that may be served while
    /// it is refreshed is worth waiting for, also if it is stale.
    fn is_never_fresh(&self, fit: &Admission) -> bool {
        let asks = |http: &Http| http.freshness.decide(&CacheControl::default(), self.now() / MS) >= Decision::Revalidate;
        fit.http.as_deref().is_some_and(asks)
    }

    /// Makes the entry of a response and, if responses of its key vary, the list of the fields by which they do.
    fn made(
        &mut self,
        fit: Admission,
        stamp: Stamp,
        body: Bytes,
        trailers: Option<Box<HeaderMap>>,
    ) -> (Made, Option<Arc<Entry>>) {
        let never_fresh = self.is_never_fresh(&fit);
        let Admission { key, language, status, headers, vary, named, times, http, .. } = fit;
        let part_known = (status == StatusCode::PARTIAL_CONTENT).then(|| self.request.plan.names.clone());
        let (names, added) = match named {
            None => (mem::take(&mut self.request.plan.names), Namespaces::default()),
            Some(named) => (named.all, named.added),
        };
        let marker = (!vary.is_empty()).then(|| {
            self.request.rule.learned().variants().record(self.request.primary.hash(), key.hash());
            let draft = Draft { names: names.clone(), times, content: Content::Variants(vary.clone()), http: None };
            Arc::new(Entry::new(self.request.primary.clone(), stamp.clone(), draft))
        });
        let entry = Entry::of_response(key, stamp, Response { names, times, status, headers, body, trailers, http });
        (Made { entry, language, vary, added, never_fresh, part_known }, marker)
    }

    async fn keep(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        match put_now(&self.shared, &self.request.rule, &entry) {
            Some(put) => Ok(put),
            None => Box::pin(self.shared.store.put(entry, lock)).await,
        }
    }

    /// Counts the result of a fill and tells the followers. An `unknown` response that was not stored could not be verified.
    fn stored(
        &self,
        entry: &Entry,
        put: Result<Put, NotStored>,
        never_fresh: bool,
        leader: Option<Leader>,
        unknown: bool,
        share: impl FnOnce() -> SharedResponse,
    ) -> Storing {
        told(&self.shared, (&self.request.rule, self.key(), entry), put, never_fresh, leader, unknown, share)
    }

    /// Returns the stamp, completed for namespaces that were not known before the call, or the reason for which nothing is stored under it.
    pub(crate) async fn admitted(
        &self,
        stamp: &Stamp,
        added: &Namespaces,
        leader: Option<&Leader>,
    ) -> Result<Stamp, NotStored> {
        if added.is_empty() {
            return Ok(stamp.clone());
        }
        self.request.rule.learned().record_namespaces();
        let store = &self.shared.store;
        if let Some(leader) = leader.filter(|_| store.is_shared()) {
            leader.closes();
        }
        match store.admit(stamp, added).await.map_err(NotStored::Failed)? {
            Admitted::Stamp(stamp) => Ok(stamp),
            Admitted::Invalidated => Err(NotStored::Because(NoStore::Invalidated)),
            Admitted::New => Err(NotStored::Because(NoStore::NewNamespace)),
        }
    }

    /// Adds `Content-Length` to the stored response, if the layer adds it and HTTP allows it (RFC 9110, section 8.6).
    pub(super) fn state_length(&self, fit: &mut Admission, length: usize, trailers: bool) {
        if self.shared.options.content_length
            && !trailers
            && fit.status != StatusCode::NO_CONTENT
            && !fit.headers.map().contains_key(header::CONTENT_LENGTH)
        {
            fit.headers.insert(header::CONTENT_LENGTH, length.into());
        }
    }

    /// Adds a strong `ETag` to a response without one, if the rule does that. The tag depends on the content and on its coding (RFC 9110,
    /// section 8.8.1 and section 8.8.3.3).
    pub(super) fn tag(&self, fit: &mut Admission, data: &[u8]) -> Option<HeaderValue> {
        if !self.request.rule.tags() || fit.status != StatusCode::OK {
            return None;
        }
        let headers = fit.headers.map();
        if headers.contains_key(header::ETAG) {
            return None;
        }
        let mut hash = blake3::Hasher::new();
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
            for value in headers.get_all(name) {
                hash.update(&(value.len() as u64).to_le_bytes()).update(value.as_bytes());
            }
            hash.update(&u64::MAX.to_le_bytes());
        }
        drop(headers);
        let hash = hash.update(data).finalize().to_hex();
        let tag = HeaderValue::try_from(format!("\"{}\"", &hash[..32])).expect("hexadecimal digits in quotes");
        fit.headers.insert(header::ETAG, tag.clone());
        if let Some(http) = &mut fit.http {
            http.own_tag = true;
        }
        Some(tag)
    }
}

/// Stores an entry if that needs no waiting. An entry whose rule was replaced meanwhile is not stored.
#[inline]
pub(crate) fn put_now<St: Store>(shared: &LayerState<St>, rule: &Policy, entry: &Arc<Entry>) -> Option<Put> {
    match shared.may_store(rule) {
        true => shared.store.put_now(entry),
        false => Some(Put::Dead),
    }
}

/// Counts the result of a fill of a key, with its entry, and tells the followers. An `unknown` response that was not stored could not be verified.
pub(crate) fn told<St: Store>(
    shared: &LayerState<St>,
    (rule, key, entry): (&Policy, &Key, &Entry),
    put: Result<Put, NotStored>,
    never_fresh: bool,
    leader: Option<Leader>,
    unknown: bool,
    share: impl FnOnce() -> SharedResponse,
) -> Storing {
    let storing = match put {
        Ok(Put::Stored) => Storing::Stored,
        Ok(Put::Dead) => Storing::Not(NoStore::Invalidated),
        Ok(Put::TooLarge) => Storing::Not(NoStore::TooLarge),
        Err(NotStored::Because(why)) => Storing::Not(why),
        Err(NotStored::Failed(error)) => {
            tracing::debug!(%error, "the store did not keep a response");
            Storing::Not(NoStore::Store)
        }
    };
    let counters = &shared.store.context().counters;
    match storing {
        Storing::Not(why) => shared.route(rule).no_store(why),
        _ => {
            shared.route(rule).stored(entry.weight());
            if rule.is_never_invalidated() {
                counters.never_invalidated(rule.route(), shared.store.context().clock.nanos());
            }
            match never_fresh {
                // Each request has to revalidate, so that no request gains by following.
                true => shared.flights.pass(key, shared.store.context().clock.nanos() + PASS),
                false => shared.flights.forget_pass(key),
            }
        }
    }
    if let Some(leader) = leader {
        leader.land_with(|| match unknown && storing != Storing::Stored {
            true => FlightOutcome::Unverified,
            false => FlightOutcome::Stored(Arc::new(share())),
        });
    }
    storing
}
