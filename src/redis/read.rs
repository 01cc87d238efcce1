//! A look-up: what is in memory, what Redis says of it, and what Redis has.
//!
//! Futures are moved to where they are kept, byte by byte, and each is as large as the largest of those that it may wait for: those
//! that a hit from one master does not need are in boxes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::sync::Notify;

use super::{
    builder::Coherence,
    cluster::{Answer, Command},
    error::CommandError,
    inner::RedisInner,
    keys::{id, slot},
    node::Route,
    pipeline::{BulkStrings, FastReply},
    write::unlink,
};
use crate::{
    clock::Nanos,
    codec::{Wanted, frame::Damaged},
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

/// As many names as most requests have.
const FEW: usize = 10;

/// The reads under way, so that many who look for the same under a lease share one.
///
/// A read that began before one came may bring what was cleared in between: only a lease can vouch for it. Without one, each reads
/// for itself.
#[derive(Default)]
pub(crate) struct Reads(Mutex<HashMap<u128, Arc<Read>>>);

#[derive(Default)]
struct Read {
    /// What it has brought; nothing, if its reader was lost.
    found: OnceLock<Option<StoreLookup>>,
    ended: Notify,
}

impl Read {
    async fn ends(&self) -> Option<&StoreLookup> {
        loop {
            let ended = self.ended.notified();
            if let Some(found) = self.found.get() {
                return found.as_ref();
            }
            ended.await;
        }
    }
}

impl Reads {
    /// Joins the read of a key, or leads it.
    fn join(&self, key: u128) -> Result<Reader<'_>, Arc<Read>> {
        let mut reads = self.lock();
        if let Some(read) = reads.get(&key) {
            return Err(read.clone());
        }
        let read = Arc::<Read>::default();
        reads.insert(key, read.clone());
        Ok(Reader { reads: self, key, read })
    }

    /// Removes a read, if it is still the one under this key.
    fn ends(&self, key: u128, read: &Arc<Read>) {
        let mut reads = self.lock();
        if reads.get(&key).is_some_and(|other| Arc::ptr_eq(other, read)) {
            reads.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Arc<Read>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object of a look-up: a key, the namespaces of its request, and the longest body that its rule allows.
#[derive(Clone, Copy)]
pub(crate) struct ReadRequest<'k, 'n> {
    pub(super) key: KeyRef<'k>,
    pub(super) names: &'n Namespaces,
    pub(super) max_body: usize,
}

/// Whoever reads for all. Dropped without having found anything, it leaves them to look again.
struct Reader<'a> {
    reads: &'a Reads,
    key: u128,
    read: Arc<Read>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.reads.ends(self.key, &self.read);
        let _ = self.read.found.set(None);
        self.read.ended.notify_waiters();
    }
}

impl RedisInner {
    #[inline]
    pub(super) fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        // The lease before the table: what is pushed between the two is then in the table.
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

    /// Whether what is in memory may answer without Redis being asked.
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

    /// Whether an entry of the memory may answer so.
    #[inline]
    fn is_good(&self, entry: &Entry, life: Validity) -> bool {
        let now = self.context().clock.nanos();
        life == Validity::Valid && now < entry.times().fresh_until && self.is_recent(entry, now)
    }

    /// Whether an entry is recent enough where its time alone counts.
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
        // Those who miss in memory share a read; without memory there is nothing that the first could leave for the next.
        if !self.keeps || !self.is_leased() {
            return self.counted(self.read(&of).await);
        }
        let of_all = of.names.hashes().fold(of.key.hash(), |all, hash| all.rotate_left(5) ^ u128::from(hash));
        loop {
            match self.reads.join(of_all) {
                Ok(reader) => {
                    let found = self.counted(self.read(&of).await)?;
                    let _ = reader.read.found.set(Some(found.clone()));
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

    /// What another's read brings. `None` if that takes longer than the budget: the future of its reader may be polled by nobody. Whoever
    /// comes next then reads anew.
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

    /// Whether what a read brought that began before we came is as good as what one would bring that begins now: it is for this very
    /// key, and nothing was pushed since, of those names neither that only the entry knows.
    fn vouches(&self, found: &StoreLookup, key: &KeyRef<'_>, names: &Namespaces) -> bool {
        let lives = |names: &Namespaces| self.near.life_of(found.stamp.epoch(), names.hashes()) == Validity::Valid;
        let same = |(entry, _): &(Arc<Entry>, Validity)| entry.key().as_ref() == *key && lives(entry.namespaces());
        self.is_leased() && lives(names) && found.found.as_ref().is_none_or(same)
    }

    /// Nothing is known, and nothing can be stored.
    pub(super) fn nothing(&self) -> StoreLookup {
        StoreLookup { found: None, stamp: Stamp::local(self.near.epoch()) }
    }

    /// The stamp of now, with generations that are known without asking.
    fn stamp(&self, generations: Arc<[Option<Generation>]>, epoch: u64) -> Stamp {
        Stamp::local(epoch).at(self.taken()).with_generations(generations)
    }

    /// The time of now for a stamp, where that counts.
    fn taken(&self) -> Nanos {
        if matches!(self.coherence, Coherence::Ttl(_)) { self.context().clock.nanos() } else { 0 }
    }

    /// The generations of all these names, if a lease vouches for them, and the epoch of now.
    fn known(&self, names: &Namespaces) -> Option<(Arc<[Option<Generation>]>, u64)> {
        if !self.is_leased() {
            return None;
        }
        let (epoch, root) = (self.near.epoch(), Namespaces::root_hash());
        let known = |name: Name<'_>| {
            let (generation, since) = self.known.get(id(name))?;
            // When everything is cleared at once, only the root is stepped; and not all of these sets hold it.
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

    /// Under a lease all generations are known: only the entry is fetched. `None` if the lease did not last.
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

    /// Asks for the generations, and for the entry if it is not in memory.
    async fn validated(&self, of: &ReadRequest<'_, '_>) -> Result<StoreLookup, CommandError> {
        // Before anything is asked: what is pushed from here on kills what is made of the answers.
        let taken = Stamp::local(self.near.epoch()).at(self.taken());
        let epoch = taken.epoch();
        let near = if self.keeps { self.near.look(of.key).found.filter(|(_, life)| *life == Validity::Valid) } else { None };
        // Another process may have stored a newer response in the place of one whose lifetime has passed.
        let is_fresh = |(entry, _): &(Arc<Entry>, Validity)| self.context().clock.nanos() < entry.times().fresh_until;
        let (at_hand, expired) = if near.as_ref().is_some_and(is_fresh) { (near, None) } else { (None, near) };
        let wanted = at_hand.is_none().then_some((of.names, of.key.hash()));
        let (bytes, generations) = self.generations(wanted, of.names.names()).await?;
        let Some(generations) = generations else {
            // Fenced: nothing is served, and nothing is stored.
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
                // Good for another while.
                self.near.keep(Arc::new(copy.stamped(copy.stamp().again(epoch, stamp.taken()))));
            }
            return Ok(StoreLookup { found: Some((copy, Validity::Valid)), stamp });
        }
        Box::pin(self.beside((copy, life), wanted.map(|_| bytes), of, stamp)).await
    }

    /// What Redis has in place of a copy in memory that is stale or dead; the copy if that is nothing newer. `bytes` are those of the entry,
    /// if it was asked for.
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

    /// What the bytes of an entry come to under the generations of now.
    pub(super) async fn judge(
        &self,
        bytes: Option<Bytes>,
        of: &ReadRequest<'_, '_>,
        stamp: &Stamp,
    ) -> Result<Option<(Arc<Entry>, Validity)>, CommandError> {
        let Some(bytes) = bytes else { return Ok(None) };
        let place = || self.names.entry(of.names, of.key.hash());
        let wanted = Wanted { moment: Some(self.moment(of.key, of.names)), max_body: of.max_body, place };
        match self.codec.decode_seeing(bytes, of.key, of.names, stamp, wanted) {
            Ok(entry) => Ok(self.life_under(&entry, of.names, stamp).await?.map(|life| (entry, life))),
            Err(damage) => {
                Box::pin(self.finds_damage(damage, &of.key, of.names)).await;
                Ok(None)
            }
        }
    }

    /// Counts what is no entry any more, and removes it.
    async fn finds_damage(&self, damage: Damaged, key: &KeyRef<'_>, names: &Namespaces) {
        let place = self.names.entry(names, key.hash());
        self.context().counters.add(Count::Damaged, 1);
        tracing::debug!(reason = damage.as_str(), place, "an entry in redis is of no use");
        // What another process has sealed with a key that is not known here, or has stored under another rule, is not for this one to remove.
        if !matches!(damage, Damaged::Sealed | Damaged::TooLong) {
            let _ = self.one(unlink(&place)).await;
        }
    }

    /// What has become of an entry under the generations of now; `None` if it is dead. It must carry each name of the request, and
    /// each name that it carries must have the generation that it carries.
    async fn life_under(&self, entry: &Entry, names: &Namespaces, now: &Stamp) -> Result<Option<Validity>, CommandError> {
        let (Some(of_entry), Some(of_now)) = (entry.stamp().generations(), now.generations()) else { return Ok(None) };
        let count = names.count();
        let own = entry.namespaces();
        let same = own.count() >= count && own.hashes().take(count).eq(names.hashes()) && of_entry.len() == own.count();
        if !same || of_now.len() < count {
            return Ok(None);
        }
        let Some(mut life) = compared(&of_entry[..count], &of_now[..count]) else { return Ok(None) };
        if own.count() > count {
            // What this process has cleared and has not delivered yet is still there for whoever asks.
            if self.deliveries.suspects(own) {
                return Ok(None);
            }
            // Names that only the response knew.
            let more: Vec<Name<'_>> = own.names().skip(count).collect();
            let leased = self.known(&own.since(count)).map(|(generations, _)| generations);
            let generations = match leased {
                Some(generations) => Some(generations),
                None => {
                    let epoch = self.near.epoch();
                    let read = Box::pin(self.generations(None, more.iter().copied())).await?.1;
                    for (name, generation) in more.iter().zip(read.iter().flatten()) {
                        if let Some(generation) = generation {
                            self.known.learn(id(*name), *generation, epoch);
                        }
                    }
                    read.map(Into::into)
                }
            };
            let Some(more) = generations.and_then(|now| compared(&of_entry[count..], &now)) else { return Ok(None) };
            if more == Validity::Stale {
                life = Validity::Stale;
            }
        }
        Ok(Some(life))
    }

    /// Asks for an entry, if one is wanted, and for generations, in one round trip. No generations if one of the names is fenced.
    pub(super) async fn generations<'a>(
        &self,
        entry: Option<(&Namespaces, u128)>,
        names: impl Iterator<Item = Name<'a>> + Clone,
    ) -> Result<(Option<Bytes>, Option<Vec<Option<Generation>>>), CommandError> {
        match self.nodes.one() {
            Some(_) => self.generations_of_one(entry, names).await,
            None => Box::pin(self.generations_of_many(entry, names)).await,
        }
    }

    /// `MGET`, and where writes set fences `EXISTS` besides.
    async fn generations_of_one<'a>(
        &self,
        entry: Option<(&Namespaces, u128)>,
        names: impl Iterator<Item = Name<'a>> + Clone,
    ) -> Result<(Option<Bytes>, Option<Vec<Option<Generation>>>), CommandError> {
        let node = self.nodes.one().expect("asked for");
        let mget = self.names.mget(entry, names.clone());
        let (values, server, fenced) = if self.fence.is_some() {
            let mut exists = redis::cmd("EXISTS");
            names.for_each(|name| _ = exists.arg(self.names.fence(name)));
            let mut pipeline = redis::Pipeline::with_capacity(2);
            pipeline.add_command(mget.unpacked()).add_command(exists);
            let (mut answers, server) = Box::pin(node.all(&pipeline, Route::Pool, self.command_timeout)).await?;
            let fenced = answers.pop().ok_or(CommandError::Protocol("a number of fences"))?;
            (FastReply::Value(answers.pop().unwrap_or(Value::Nil)), server, !matches!(fenced, Value::Int(0)))
        } else {
            let (values, server) = node.packed(mget, self.command_timeout).await?;
            (values, server, false)
        };
        let (bytes, generations) = match values {
            FastReply::Many(reply) => strings(reply.into(), entry.is_some(), self.keeps, server)?,
            FastReply::Value(Value::Array(values)) => {
                let mut values = values.into_iter();
                let bytes = match entry {
                    Some(_) => bulk(values.next().unwrap_or_default())?,
                    None => None,
                };
                (bytes, values.map(|value| generation(&value, server)).collect())
            }
            FastReply::Value(Value::ServerError(error)) => return Err(CommandError::Server(error)),
            FastReply::Value(_) => return Err(CommandError::Protocol("values")),
        };
        Ok((bytes, (!fenced).then_some(generations)))
    }

    /// The same from many masters: a command for each key, so that each can follow its slot.
    async fn generations_of_many<'a>(
        &self,
        entry: Option<(&Namespaces, u128)>,
        names: impl Iterator<Item = Name<'a>> + Clone,
    ) -> Result<(Option<Bytes>, Option<Vec<Option<Generation>>>), CommandError> {
        let mut asks: Vec<Command> = entry.iter().map(|(names, hash)| get(&self.names.entry(names, *hash))).collect();
        asks.extend(names.clone().map(|name| get(&self.names.generation(name))));
        let count = names.clone().count();
        if self.fence.is_some() {
            asks.extend(names.map(|name| exists(&self.names.fence(name))));
        }
        let mut answers = self.nodes.ask(asks, Route::Pool, self.command_timeout).await.into_iter();
        let bytes = match entry {
            Some(_) => bulk(answers.next().ok_or(CommandError::Protocol("an entry"))??.0)?,
            None => None,
        };
        let mut generations = Vec::with_capacity(count);
        for answer in answers.by_ref().take(count) {
            let (value, server) = answer?;
            generations.push(generation(&value, server));
        }
        let mut fenced = false;
        for answer in answers {
            fenced |= !matches!(answer?.0, Value::Int(0));
        }
        Ok((bytes, (!fenced).then_some(generations)))
    }

    /// The entry of a key, within the budget.
    async fn entry(&self, key: &KeyRef<'_>, names: &Namespaces) -> Answer {
        match self.nodes.one() {
            Some(node) => match node.packed(self.names.get(names, key.hash()), self.command_timeout).await? {
                (FastReply::Value(value), server) => Ok((value, server)),
                (FastReply::Many(_), _) => Err(CommandError::Protocol("an entry")),
            },
            None => Box::pin(self.one(get(&self.names.entry(names, key.hash())))).await,
        }
    }

    /// The answer to one command, within the budget.
    pub(super) async fn one(&self, ask: Command) -> Answer {
        match self.nodes.one() {
            Some(node) => node.one(&ask.command, Route::Pool, self.command_timeout).await,
            None => Box::pin(self.nodes.ask(vec![ask], Route::Pool, self.command_timeout))
                .await
                .pop()
                .unwrap_or(Err(CommandError::Unavailable)),
        }
    }
}

/// What is left of what was computed under `then`, if `now` holds: dead if one generation is missing or another one.
pub(crate) fn compared(then: &[Option<Generation>], now: &[Option<Generation>]) -> Option<Validity> {
    let mut life = Validity::Valid;
    for (then, now) in then.iter().zip(now) {
        match (then, now) {
            (Some(then), Some(now)) if then.hard == now.hard => {
                if then.soft != now.soft {
                    life = Validity::Stale;
                }
            }
            _ => return None,
        }
    }
    (then.len() == now.len()).then_some(life)
}

/// A generation as Redis has it: 16 bytes, 8 bytes, and perhaps the number of its creation. The server that told it takes part.
pub(crate) fn generation(value: &Value, server: u128) -> Option<Generation> {
    let Value::BulkString(bytes) = value else { return None };
    generation_of(bytes, server)
}

fn generation_of(bytes: &[u8], server: u128) -> Option<Generation> {
    let (hard, rest) = bytes.split_first_chunk::<16>()?;
    let (soft, _) = rest.split_first_chunk::<8>()?;
    Some(Generation { hard: u128::from_be_bytes(*hard) ^ server, soft: u64::from_be_bytes(*soft) })
}

/// An entry, if one was asked for, and generations, as they are in one reply. The entry is a slice of it, unless it may be kept, and would
/// keep the others alive.
fn strings(
    reply: Bytes,
    entry: bool,
    kept: bool,
    server: u128,
) -> Result<(Option<Bytes>, Vec<Option<Generation>>), CommandError> {
    let mut strings = BulkStrings::of(&reply).ok_or(CommandError::Protocol("values"))?;
    let bytes = if entry { strings.next().flatten() } else { None };
    let bytes = bytes.map(|span| if kept { Bytes::copy_from_slice(&reply[span]) } else { reply.slice(span) });
    let mut generations = Vec::with_capacity(FEW);
    generations.extend(strings.by_ref().map(|span| generation_of(&reply[span?], server)));
    if strings.are_all() { Ok((bytes, generations)) } else { Err(CommandError::Protocol("values")) }
}

pub(crate) fn get(key: &str) -> Command {
    Command { slot: slot(key.as_bytes()), command: Cmd::new().arg("GET").arg(key).take() }
}

pub(crate) fn exists(key: &str) -> Command {
    Command { slot: slot(key.as_bytes()), command: Cmd::new().arg("EXISTS").arg(key).take() }
}

pub(crate) fn bulk(value: Value) -> Result<Option<Bytes>, CommandError> {
    match value {
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        Value::Nil => Ok(None),
        _ => Err(CommandError::Protocol("an entry")),
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
    #[test]
    fn kept_entry_releases_its_reply_buffer() {
        let reply = Bytes::from_static(b"*3\r\n$2\r\nan\r\n$24\r\n0123456789abcdef01234567\r\n$-1\r\n");
        let whole = reply.as_ptr_range();
        for kept in [false, true] {
            let (bytes, generations) = strings(reply.clone(), true, kept, 0).expect("strings");
            let bytes = bytes.expect("an entry");
            assert_eq!((&bytes[..], whole.contains(&bytes.as_ptr())), (&b"an"[..], !kept));
            assert!(matches!(generations[..], [Some(_), None]), "{generations:?}");
        }
        let (bytes, generations) = strings(reply, false, false, 0).expect("strings");
        assert_eq!((bytes, generations.len()), (None, 3));
    }
    #[test]
    fn reply_without_strings_has_no_entry_or_generations() {
        for reply in [&b"*2\r\n$1\r\na\r\n:1\r\n"[..], b"*1\r\n*0\r\n", b"*-1\r\n", b"*1\r\n-ERR\r\n"] {
            assert!(strings(Bytes::from_static(reply), true, false, 0).is_err(), "{}", reply.escape_ascii());
        }
        assert_eq!(strings(Bytes::from_static(b"*0\r\n"), true, false, 0).expect("none").0, None);
    }

    /// What a hit waits in is allocated for each: up to 1 KiB, that is quick.
    #[test]
    fn hit_futures_stay_small() {
        type Looked = (&'static Redis, &'static Policy, KeyRef<'static>, &'static HeaderMap, &'static Namespaces);
        let look = size(|(store, rule, key, headers, names): Looked| Lookup::later(store, rule, key, headers, names));
        assert!(look <= 960, "{look}");
        let validated = size(|(core, of): (&'static RedisInner, &'static ReadRequest<'static, 'static>)| core.validated(of));
        assert!(validated <= 1000, "{validated}");
    }
}
