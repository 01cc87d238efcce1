//! A lookup: in memory, by the generations in Redis, and in Redis.
//!
//! Futures are moved byte by byte, and each is as large as the largest one that it may await. Those that a hit from one master does not
//! need are boxed.

use std::sync::Arc;

use bytes::Bytes;

use super::{command::bulk, error::CommandError, inner::RedisInner, keys::id, options::Coherence, shared_reads::Read};
use crate::{
    clock::{Nanos, monotonic},
    entry::{
        Entry,
        stamp::{Generation, Stamp},
        validity::Validity,
    },
    key::KeyRef,
    namespace::set::{Name, Namespaces},
    stats::counters::Count,
    store::{backend::StoreLookup, error::StoreError},
};

/// The number of names that most requests have at most.
pub(super) const TYPICAL_NAMES: usize = 10;

/// The arguments of a lookup: a key, the namespaces of its request, and the longest body that its rule allows.
#[derive(Clone, Copy)]
pub(crate) struct ReadRequest<'k, 'n> {
    pub(super) key: KeyRef<'k>,
    pub(super) names: &'n Namespaces,
    pub(super) max_body: usize,
}

impl RedisInner {
    #[inline]
    pub(super) fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        // The lease is checked before the table is read: a push between the two is then in the table.
        if !self.may_answer_now() {
            return None;
        }
        let lookup = self.memory.look(key);
        let (entry, life) = lookup.found.as_ref()?;
        self.may_serve(entry, *life).then_some(lookup)
    }

    #[inline]
    pub(super) fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        if !self.may_answer_now() {
            return None;
        }
        self.memory.still_has(entry).filter(|life| self.may_serve(entry, *life))
    }

    /// Returns `true` if memory may answer without asking Redis.
    #[inline]
    pub(super) fn may_answer_now(&self) -> bool {
        self.has_memory
            && match self.coherence {
                Coherence::Leased => self.is_leased(),
                Coherence::Ttl(_) => true,
                Coherence::Validated => false,
            }
    }

    /// Returns `true` if this entry in memory may answer without asking Redis.
    #[inline]
    pub(super) fn may_serve(&self, entry: &Entry, life: Validity) -> bool {
        let now = self.context().clock.nanos();
        life == Validity::Valid
            && now < entry.times().fresh_until
            && self.is_recent(entry, now)
            && !self.outbox.is_undelivered(entry.namespaces())
    }

    /// Returns `true` if the entry is recent enough under [`Coherence::Ttl`]. The other modes have no such limit.
    fn is_recent(&self, entry: &Entry, now: Nanos) -> bool {
        !matches!(self.coherence, Coherence::Ttl(_)) || now.saturating_sub(entry.stamp().taken()) < self.memory_ttl
    }

    pub(super) async fn get(&self, request: ReadRequest<'_, '_>) -> Result<StoreLookup, StoreError> {
        if self.outbox.is_undelivered(request.names) {
            return Ok(self.empty());
        }
        if self.has_memory
            && let Some(lookup) = self.get_now(request.key)
            && let Some(known) = self.known(request.names)
        {
            return Ok(StoreLookup { stamp: self.stamp(known.0, known.1), ..lookup });
        }
        // Requests that miss in memory share a read. Without memory, the first read leaves nothing for the next.
        if !self.has_memory || !self.is_leased() {
            return self.count_failure(self.read(&request).await);
        }
        let shared_key = request.names.hashes().fold(request.key.hash(), |all, hash| all.rotate_left(5) ^ u128::from(hash));
        loop {
            match self.reads.join(shared_key) {
                Ok(reader) => {
                    let found = self.count_failure(self.read(&request).await)?;
                    reader.finish(found.clone());
                    return Ok(found);
                }
                Err(read) => {
                    let Some(found) = Box::pin(self.wait_for_shared(shared_key, &read)).await else {
                        return self.count_failure(self.read(&request).await);
                    };
                    if let Some(found) = found.filter(|found| self.is_current(found, &request.key, request.names)) {
                        return Ok(found);
                    }
                    if !self.is_leased() {
                        return self.count_failure(self.read(&request).await);
                    }
                }
            }
        }
    }

    /// Waits for the shared read of another request. `None` if it takes longer than the command timeout, since nothing may be polling the
    /// future of its reader. Later requests then read again.
    async fn wait_for_shared(&self, shared_key: u128, read: &Arc<Read>) -> Option<Option<StoreLookup>> {
        match tokio::time::timeout(self.command_timeout, read.wait()).await {
            Ok(found) => Some(found.cloned()),
            Err(_) => {
                self.reads.remove(shared_key, read);
                None
            }
        }
    }

    fn count_failure(&self, found: Result<StoreLookup, CommandError>) -> Result<StoreLookup, StoreError> {
        if found.is_err() {
            self.context().counters.add(Count::Away, 1);
        }
        Ok(found?)
    }

    /// Returns `true` if the result of an earlier read equals that of a read that begins now: it has the same key, and nothing was pushed
    /// since, also for names that only the entry has.
    fn is_current(&self, found: &StoreLookup, key: &KeyRef<'_>, names: &Namespaces) -> bool {
        let lives = |names: &Namespaces| self.memory.life_of(found.stamp.epoch(), names.hashes()) == Validity::Valid;
        let same = |(entry, _): &(Arc<Entry>, Validity)| entry.key().as_ref() == *key && lives(entry.namespaces());
        self.is_leased() && lives(names) && found.found.as_ref().is_none_or(same)
    }

    /// Returns a lookup without an entry, whose stamp allows no storing.
    pub(super) fn empty(&self) -> StoreLookup {
        StoreLookup { found: None, stamp: Stamp::local(self.memory.epoch()) }
    }

    /// Creates a stamp from generations that are known without asking.
    fn stamp(&self, generations: Arc<[Option<Generation>]>, epoch: u64) -> Stamp {
        Stamp::local(epoch).at(self.taken()).with_generations(generations)
    }

    /// Returns the present time for a stamp, or zero where it does not matter.
    pub(super) fn taken(&self) -> Nanos {
        if matches!(self.coherence, Coherence::Ttl(_)) { self.context().clock.nanos() } else { 0 }
    }

    /// Returns the generations of all these names and the current epoch, if a lease vouches for them.
    pub(super) fn known(&self, names: &Namespaces) -> Option<(Arc<[Option<Generation>]>, u64)> {
        let now = monotonic();
        if self.coherence != Coherence::Leased || !self.lease.is_held(now) {
            return None;
        }
        let (epoch, root) = (self.memory.epoch(), Namespaces::root_hash());
        let known = |name: Name<'_>| {
            let (generation, since) = self.known.get(id(name), now)?;
            // An invalidation of everything steps only the root, which is not in all of these sets.
            (self.memory.life_of(since, [root, name.hash()].into_iter()) == Validity::Valid).then_some(generation)
        };
        let mut generations = [None; TYPICAL_NAMES];
        let count = names.count();
        if count > generations.len() {
            let generations = names.names().map(|name| known(name).map(Some)).collect::<Option<_>>()?;
            return Some((generations, epoch));
        }
        for (name, generation) in names.names().zip(&mut generations) {
            *generation = Some(known(name)?);
        }
        Some((generations[..count].into(), epoch))
    }

    async fn read(&self, request: &ReadRequest<'_, '_>) -> Result<StoreLookup, CommandError> {
        if let Some((generations, epoch)) = self.known(request.names)
            && let Some(lookup) = self.fetch_entry(request, generations, epoch).await?
        {
            return Ok(lookup);
        }
        Box::pin(self.validated(request)).await
    }

    /// Fetches only the entry, since all generations are known under a lease. `None` if the lease has ended in the meantime.
    async fn fetch_entry(
        &self,
        request: &ReadRequest<'_, '_>,
        generations: Arc<[Option<Generation>]>,
        epoch: u64,
    ) -> Result<Option<StoreLookup>, CommandError> {
        let stamp = self.stamp(generations, epoch);
        let bytes = bulk(self.entry(&request.key, request.names).await?.0)?;
        let decoded = self.decode_valid(bytes, request, &stamp).await?;
        let lasted = self.is_leased() && self.memory.life_of(epoch, request.names.hashes()) == Validity::Valid;
        Ok(lasted.then(|| self.to_lookup(decoded, stamp)))
    }

    /// Reads the generations, and the entry if it is not in memory.
    async fn validated(&self, request: &ReadRequest<'_, '_>) -> Result<StoreLookup, CommandError> {
        // Taken before the commands are sent, so that later pushes invalidate the result.
        let taken = Stamp::local(self.memory.epoch()).at(self.taken());
        let epoch = taken.epoch();
        let cached = if self.has_memory {
            self.memory.look(request.key).found.filter(|(_, life)| *life == Validity::Valid)
        } else {
            None
        };
        // Another process may have stored a newer response in place of an expired one.
        let is_fresh = |(entry, _): &(Arc<Entry>, Validity)| self.context().clock.nanos() < entry.times().fresh_until;
        let (fresh_copy, expired) = if cached.as_ref().is_some_and(is_fresh) { (cached, None) } else { (None, cached) };
        let wanted = fresh_copy.is_none().then_some((request.names, request.key.hash()));
        let (bytes, generations) = self.generations(wanted, request.names.names()).await?;
        let Some(generations) = generations else {
            // Fenced: nothing is served or stored.
            return Ok(self.empty());
        };
        if self.coherence == Coherence::Leased {
            for (name, generation) in request.names.names().zip(&generations) {
                if let Some(generation) = generation {
                    self.known.learn(id(name), *generation, epoch);
                }
            }
        }
        let stamp = taken.with_generations(generations);
        let Some((copy, _)) = fresh_copy.or(expired) else {
            let decoded = self.decode_valid(bytes, request, &stamp).await?;
            return Ok(self.to_lookup(decoded, stamp));
        };
        let life = self.validity_under(&copy, request.names, &stamp).await?;
        if life == Some(Validity::Valid) && wanted.is_none() {
            if matches!(self.coherence, Coherence::Ttl(_)) {
                // Valid for another period.
                self.memory.keep(Arc::new(copy.stamped(copy.stamp().again(epoch, stamp.taken()))));
            }
            return Ok(StoreLookup { found: Some((copy, Validity::Valid)), stamp });
        }
        Box::pin(self.newer_of((copy, life), wanted.map(|_| bytes), request, stamp)).await
    }

    /// Compares a stale or invalidated copy in memory with the entry in Redis. Returns the copy if the entry is not newer. `bytes` are
    /// those of the entry, if they were read.
    async fn newer_of(
        &self,
        (copy, life): (Arc<Entry>, Option<Validity>),
        bytes: Option<Option<Bytes>>,
        request: &ReadRequest<'_, '_>,
        stamp: Stamp,
    ) -> Result<StoreLookup, CommandError> {
        if life.is_none() {
            self.memory.forget(&copy);
        }
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => bulk(self.entry(&request.key, request.names).await?.0)?,
        };
        let decoded = self.decode_valid(bytes, request, &stamp).await?;
        let rank = |entry: &Entry, life| (life == Validity::Valid, entry.times().fresh_until);
        Ok(match (life, decoded) {
            (Some(life), None) => StoreLookup { found: Some((copy, life)), stamp },
            (Some(life), Some((entry, of_entry))) if rank(&entry, of_entry) <= rank(&copy, life) => {
                StoreLookup { found: Some((copy, life)), stamp }
            }
            (_, decoded) => self.to_lookup(decoded, stamp),
        })
    }

    fn to_lookup(&self, found: Option<(Arc<Entry>, Validity)>, stamp: Stamp) -> StoreLookup {
        if let Some((entry, Validity::Valid)) = &found
            && self.has_memory
        {
            self.memory.keep(entry.clone());
        }
        StoreLookup { found, stamp }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::{lookup::Lookup, redis::Redis, rules::policy::Policy};

    fn size<A, F>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// The futures of a hit are allocated for each request. Up to 1 KiB, that is fast.
    #[test]
    fn hit_futures_stay_small() {
        type Looked = (&'static Redis, &'static Policy, KeyRef<'static>, &'static HeaderMap, &'static Namespaces);
        let look = size(|(store, rule, key, headers, names): Looked| Lookup::later(store, rule, key, headers, names));
        assert!(look <= 960, "{look}");
        let validated =
            size(|(inner, request): (&'static RedisInner, &'static ReadRequest<'static, 'static>)| inner.validated(request));
        assert!(validated <= 1000, "{validated}");
    }
}
