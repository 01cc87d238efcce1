//! A lookup: in memory, by the generations in Redis, and in Redis.
//!
//! Futures are moved byte by byte, and each is as large as the largest one that it may await. Those that a hit from one master does not
//! need are boxed.

use std::sync::Arc;

use bytes::Bytes;

use super::{command::bulk, error::CommandError, inner::RedisInner, keys::id, options::Coherence, shared_reads::Read};
use crate::{
    clock::Nanos,
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
pub(super) const FEW: usize = 10;

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
        if !self.answers_now() {
            return None;
        }
        let lookup = self.near.look(key);
        let (entry, life) = lookup.found.as_ref()?;
        self.is_good(entry, *life).then_some(lookup)
    }

    #[inline]
    pub(super) fn still_has(&self, entry: &Arc<Entry>) -> Option<Validity> {
        if !self.answers_now() {
            return None;
        }
        self.near.still_has(entry).filter(|life| self.is_good(entry, *life))
    }

    /// Returns `true` if memory may answer without asking Redis.
    #[inline]
    fn answers_now(&self) -> bool {
        self.keeps
            && self.deliveries.are_none_suspect()
            && match self.coherence {
                Coherence::Leased => self.is_leased(),
                Coherence::Ttl(_) => true,
                Coherence::Validated => false,
            }
    }

    /// Returns `true` if this entry in memory may answer without asking Redis.
    #[inline]
    fn is_good(&self, entry: &Entry, life: Validity) -> bool {
        let now = self.context().clock.nanos();
        life == Validity::Valid && now < entry.times().fresh_until && self.is_recent(entry, now)
    }

    /// Returns `true` if the entry is recent enough under [`Coherence::Ttl`]. The other modes have no such limit.
    fn is_recent(&self, entry: &Entry, now: Nanos) -> bool {
        !matches!(self.coherence, Coherence::Ttl(_)) || now.saturating_sub(entry.stamp().taken()) < self.memory_ttl
    }

    pub(super) async fn get(&self, of: ReadRequest<'_, '_>) -> Result<StoreLookup, StoreError> {
        if self.deliveries.suspects(of.names) {
            return Ok(self.nothing());
        }
        if self.keeps
            && let Some(lookup) = self.get_now(of.key)
            && let Some(known) = self.known(of.names)
        {
            return Ok(StoreLookup { stamp: self.stamp(known.0, known.1), ..lookup });
        }
        // Requests that miss in memory share a read. Without memory, the first read leaves nothing for the next.
        if !self.keeps || !self.is_leased() {
            return self.counted(self.read(&of).await);
        }
        let of_all = of.names.hashes().fold(of.key.hash(), |all, hash| all.rotate_left(5) ^ u128::from(hash));
        loop {
            match self.reads.join(of_all) {
                Ok(reader) => {
                    let found = self.counted(self.read(&of).await)?;
                    reader.finish(found.clone());
                    return Ok(found);
                }
                Err(read) => {
                    let Some(found) = Box::pin(self.joined(of_all, &read)).await else {
                        return self.counted(self.read(&of).await);
                    };
                    if let Some(found) = found.filter(|found| self.vouches(found, &of.key, of.names)) {
                        return Ok(found);
                    }
                    if !self.is_leased() {
                        return self.counted(self.read(&of).await);
                    }
                }
            }
        }
    }

    /// Waits for the shared read of another request. `None` if it takes longer than the command timeout, since nothing may be polling the
    /// future of its reader. Later requests then read again.
    async fn joined(&self, of_all: u128, read: &Arc<Read>) -> Option<Option<StoreLookup>> {
        match tokio::time::timeout(self.command_timeout, read.ends()).await {
            Ok(found) => Some(found.cloned()),
            Err(_) => {
                self.reads.ends(of_all, read);
                None
            }
        }
    }

    fn counted(&self, found: Result<StoreLookup, CommandError>) -> Result<StoreLookup, StoreError> {
        if found.is_err() {
            self.context().counters.add(Count::Away, 1);
        }
        Ok(found?)
    }

    /// Returns `true` if the result of an earlier read equals that of a read that begins now: it has the same key, and nothing was pushed
    /// since, also for names that only the entry has.
    fn vouches(&self, found: &StoreLookup, key: &KeyRef<'_>, names: &Namespaces) -> bool {
        let lives = |names: &Namespaces| self.near.life_of(found.stamp.epoch(), names.hashes()) == Validity::Valid;
        let same = |(entry, _): &(Arc<Entry>, Validity)| entry.key().as_ref() == *key && lives(entry.namespaces());
        self.is_leased() && lives(names) && found.found.as_ref().is_none_or(same)
    }

    /// Returns a lookup without an entry, whose stamp allows no storing.
    pub(super) fn nothing(&self) -> StoreLookup {
        StoreLookup { found: None, stamp: Stamp::local(self.near.epoch()) }
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
        if !self.is_leased() {
            return None;
        }
        let (epoch, root) = (self.near.epoch(), Namespaces::root_hash());
        let known = |name: Name<'_>| {
            let (generation, since) = self.known.get(id(name))?;
            // An invalidation of everything steps only the root, which is not in all of these sets.
            (self.near.life_of(since, [root, name.hash()].into_iter()) == Validity::Valid).then_some(generation)
        };
        let mut generations = [None; FEW];
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

    async fn read(&self, of: &ReadRequest<'_, '_>) -> Result<StoreLookup, CommandError> {
        if let Some((generations, epoch)) = self.known(of.names)
            && let Some(lookup) = self.entry_alone(of, generations, epoch).await?
        {
            return Ok(lookup);
        }
        Box::pin(self.validated(of)).await
    }

    /// Fetches only the entry, since all generations are known under a lease. `None` if the lease has ended in the meantime.
    async fn entry_alone(
        &self,
        of: &ReadRequest<'_, '_>,
        generations: Arc<[Option<Generation>]>,
        epoch: u64,
    ) -> Result<Option<StoreLookup>, CommandError> {
        let stamp = self.stamp(generations, epoch);
        let bytes = bulk(self.entry(&of.key, of.names).await?.0)?;
        let judged = self.judge(bytes, of, &stamp).await?;
        let lasted = self.is_leased() && self.near.life_of(epoch, of.names.hashes()) == Validity::Valid;
        Ok(lasted.then(|| self.looked(judged, stamp)))
    }

    /// Reads the generations, and the entry if it is not in memory.
    async fn validated(&self, of: &ReadRequest<'_, '_>) -> Result<StoreLookup, CommandError> {
        // Taken before the commands are sent, so that later pushes invalidate the result.
        let taken = Stamp::local(self.near.epoch()).at(self.taken());
        let epoch = taken.epoch();
        let near = if self.keeps { self.near.look(of.key).found.filter(|(_, life)| *life == Validity::Valid) } else { None };
        // Another process may have stored a newer response in place of an expired one.
        let is_fresh = |(entry, _): &(Arc<Entry>, Validity)| self.context().clock.nanos() < entry.times().fresh_until;
        let (at_hand, expired) = if near.as_ref().is_some_and(is_fresh) { (near, None) } else { (None, near) };
        let wanted = at_hand.is_none().then_some((of.names, of.key.hash()));
        let (bytes, generations) = self.generations(wanted, of.names.names()).await?;
        let Some(generations) = generations else {
            // Fenced: nothing is served or stored.
            return Ok(self.nothing());
        };
        if self.coherence == Coherence::Leased {
            for (name, generation) in of.names.names().zip(&generations) {
                if let Some(generation) = generation {
                    self.known.learn(id(name), *generation, epoch);
                }
            }
        }
        let stamp = taken.with_generations(generations);
        let Some((copy, _)) = at_hand.or(expired) else {
            let judged = self.judge(bytes, of, &stamp).await?;
            return Ok(self.looked(judged, stamp));
        };
        let life = self.life_under(&copy, of.names, &stamp).await?;
        if life == Some(Validity::Valid) && wanted.is_none() {
            if matches!(self.coherence, Coherence::Ttl(_)) {
                // Valid for another period.
                self.near.keep(Arc::new(copy.stamped(copy.stamp().again(epoch, stamp.taken()))));
            }
            return Ok(StoreLookup { found: Some((copy, Validity::Valid)), stamp });
        }
        Box::pin(self.beside((copy, life), wanted.map(|_| bytes), of, stamp)).await
    }

    /// Compares a stale or invalidated copy in memory with the entry in Redis. Returns the copy if the entry is not newer. `bytes` are
    /// those of the entry, if they were read.
    async fn beside(
        &self,
        (copy, life): (Arc<Entry>, Option<Validity>),
        bytes: Option<Option<Bytes>>,
        of: &ReadRequest<'_, '_>,
        stamp: Stamp,
    ) -> Result<StoreLookup, CommandError> {
        if life.is_none() {
            self.near.forget(&copy);
        }
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => bulk(self.entry(&of.key, of.names).await?.0)?,
        };
        let judged = self.judge(bytes, of, &stamp).await?;
        let rank = |entry: &Entry, life| (life == Validity::Valid, entry.times().fresh_until);
        Ok(match (life, judged) {
            (Some(life), None) => StoreLookup { found: Some((copy, life)), stamp },
            (Some(life), Some((entry, of_entry))) if rank(&entry, of_entry) <= rank(&copy, life) => {
                StoreLookup { found: Some((copy, life)), stamp }
            }
            (_, judged) => self.looked(judged, stamp),
        })
    }

    fn looked(&self, found: Option<(Arc<Entry>, Validity)>, stamp: Stamp) -> StoreLookup {
        if let Some((entry, Validity::Valid)) = &found
            && self.keeps
        {
            self.near.keep(entry.clone());
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
        let validated = size(|(core, of): (&'static RedisInner, &'static ReadRequest<'static, 'static>)| core.validated(of));
        assert!(validated <= 1000, "{validated}");
    }
}
