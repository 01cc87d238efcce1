//! A fill and a write: generations made, the lock taken, an entry stored; fences set, namespaces bumped.

use std::sync::Arc;

use redis::Value;
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    Core,
    change::{Answered, By, Change, Changed},
    fault::Fault,
    millis, millis_of,
    names::slot,
    node::Via,
    nodes::{Answer, Ask},
    read::{bulk, compared, exists, get},
    scripts,
};
use crate::{
    clock::{Nanos, nanos},
    key::KeyRef,
    namespace::{Name, Namespaces},
    store::{Begun, Bump, Counter, Entry, Fence, Life, Lock, Put, Stamp, Store, StoreError, Wish, codec::Unstored},
};

/// For how long others are told that what a lock was for is not to be shared.
const PASS: u64 = 5_000;

impl Core {
    /// One pipeline: the lock, each generation that is missing, the counter; and a second look at the fences. Without that look, a
    /// generation that was made inside of a fence would outlive the crash of its writer.
    pub(super) async fn begin(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        wish: Wish,
    ) -> Result<Begun, StoreError> {
        let Some(known) = stamp.generations().filter(|known| known.len() == names.count()) else {
            return Ok(Begun::Go { stamp: Stamp::local(stamp.epoch()), lock: None });
        };
        let missing: Vec<(usize, Name<'_>)> = names.names().enumerate().filter(|(index, _)| known[*index].is_none()).collect();
        if missing.is_empty() && wish.lock.is_none() && !wish.counts {
            return Ok(Begun::Go { stamp, lock: None });
        }
        let place = self.names.entry(names, key.hash());
        let mut asks = Vec::with_capacity(missing.len() + 2);
        let mut taking = None;
        if let Some(lease) = wish.lock {
            let token = fresh_random();
            let lock = Lock { key: key.hash(), token, place: self.names.lock(&place).into() };
            taking = Some(Taking { core: self.clone(), lock: Some(lock) });
            // The entry once more: its owner stores before he gives the lock back, so whoever gets it sees what was stored.
            asks.extend([take_lock(&self.names.lock(&place), token, millis_of(lease)), get(&place)]);
        }
        let locks = asks.len() / 2;
        let mut changes = Vec::with_capacity(missing.len());
        for (_, name) in &missing {
            let (key, fresh) = (self.names.generation(*name), fresh());
            let life = self.lives.of_new(*name);
            let ask = self.create(&key, &fresh, life);
            changes.push(Change::new(asks.len(), *name, key, fresh, By::Set).lives(life));
            asks.push(ask);
        }
        let counters = usize::from(wish.counts);
        if wish.counts {
            asks.push(get(&self.names.counter()));
        }
        // With a lock wanted and nothing missing, the fences were looked at with the entry, after which no generation was made.
        if self.fence.is_some() && !missing.is_empty() {
            asks.extend(names.names().map(|name| exists(&self.names.fence(name))));
        }
        let (Answered { answers, changed, taking }, changes) = self.change(asks, changes, taking).await?;
        let mut answers = answers.into_iter();

        let held = answers.by_ref().take(locks).next().transpose()?.map(|(value, _)| value);
        let appeared = answers.by_ref().take(locks).next().transpose()?.map(|(value, _)| bulk(value)).transpose()?.flatten();
        let mut generations = known.to_vec();
        for (((index, _), changed), answer) in missing.iter().zip(&changed).zip(answers.by_ref().take(missing.len())) {
            match answer {
                Ok(_) | Err(Fault::Said(_)) => generations[*index] = changed.generation,
                Err(fault) => return Err(fault.into()),
            }
        }
        let counter = answers.by_ref().take(counters).next().and_then(counter);
        let mut fenced = false;
        for answer in answers {
            fenced |= !matches!(answer?.0, Value::Int(0));
        }
        if fenced {
            return Ok(Begun::Go { stamp: Stamp::local(stamp.epoch()), lock: None });
        }
        let stamp = match self.renewed(&stamp, names, &missing, changes.iter().zip(&changed)) {
            // Everything that was known before the change is as it was, and what was missing is there since.
            Some(epoch) => stamp.again(epoch, stamp.taken()),
            None => stamp,
        };
        let stamp = stamp.with_generations(generations).counted(counter);
        if held == Some(Value::Nil) && appeared.is_some() && wish.looks {
            let now = self.context().clock.nanos();
            let found = self.judge(appeared, &key, names, &stamp).await?;
            if found.is_some_and(|(entry, life)| life == Life::Alive && now < entry.times().fresh_until) {
                return Ok(Begun::Appeared);
            }
        }
        let lock = taking.and_then(Taking::taken);
        Ok(match held {
            None | Some(Value::Nil) => Begun::Go { stamp, lock },
            Some(Value::BulkString(text)) if text == b"pass" => Begun::Unfit { stamp },
            Some(_) => Begun::Held,
        })
    }

    /// The current epoch, if it can stand for a stamp and the generations that it has got since; None if nothing has changed, or if
    /// something was pushed meanwhile.
    fn renewed<'a>(
        &self,
        stamp: &Stamp,
        names: &Namespaces,
        missing: &[(usize, Name<'_>)],
        changed: impl Iterator<Item = (&'a Change, &'a Changed)>,
    ) -> Option<u64> {
        if missing.is_empty() {
            return None;
        }
        let is_known = |(index, _): &(usize, Name<'_>)| !missing.iter().any(|(other, _)| other == index);
        let known = names.names().enumerate().filter(is_known).map(|(_, name)| (name.hash(), stamp.epoch()));
        self.near.renew(known.chain(changed.map(|(change, changed)| change.part(changed))))
    }

    /// Makes a generation if it is missing.
    fn create(&self, key: &str, fresh: &[u8; 24], life: Nanos) -> Ask {
        let mut command = redis::cmd("SET");
        command.arg(key).arg(&fresh[..]).arg("NX").arg("GET").arg("PX").arg(millis(life));
        Ask { slot: slot(key.as_bytes()), command }
    }

    /// The names that came with the response are vouched for if each has a generation that is no younger than the counter was
    /// before the inner service was called: it has not been bumped since. Of those that have no number to compare with, one is
    /// written, for the next fill.
    pub(super) async fn admit(self: &Arc<Self>, stamp: &Stamp, added: &Namespaces) -> Result<Option<Stamp>, StoreError> {
        let Some(known) = stamp.generations().filter(|_| stamp.is_whole()) else { return Ok(None) };
        let (mut asks, mut changes) = (Vec::new(), Vec::new());
        for (at, name) in added.names().enumerate() {
            let (key, fresh) = (self.names.generation(name), fresh());
            asks.push(scripts::admit(&key, &self.names.fence(name), &fresh, millis_of(self.generation_ttl)));
            changes.push(Change::new(at, name, key, fresh, By::Script).lives(nanos(self.generation_ttl)));
        }
        let (Answered { answers, changed, .. }, _) = self.change(asks, changes, None).await?;
        let mut generations = known.to_vec();
        let mut young = Vec::new();
        for ((name, answer), changed) in added.names().zip(answers).zip(changed) {
            let (value, server) = answer?;
            let Some(generation) = changed.generation else {
                // Fenced.
                return Ok(None);
            };
            let number = numbered(&value);
            let is_older =
                |counter: Counter| number.is_some_and(|at| at.random == counter.random && at.number <= counter.number);
            if !stamp.counter().is_some_and(is_older) {
                young.push((name, generation.hard ^ server, number));
            }
            generations.push(Some(generation));
        }
        if young.is_empty() {
            return Ok(Some(stamp.clone().with_generations(generations)));
        }
        self.number(&young).await?;
        Ok(None)
    }

    /// Writes a number into those generations that have none of this counter.
    async fn number(&self, young: &[(Name<'_>, u128, Option<Counter>)]) -> Result<(), Fault> {
        let answer = self.one(scripts::count(&self.names.counter(), fresh_random() as u64)).await;
        let Some(counter) = counter(answer) else { return Err(Fault::Nonsense("a number")) };
        let text = format!("{:016x}:{}", counter.random, counter.number);
        let write = |name, hard: u128| {
            scripts::number(&self.names.generation(name), &self.names.fence(name), &hard.to_be_bytes(), &text)
        };
        let unnumbered = young.iter().filter(|(_, _, number)| number.is_none_or(|number| number.random != counter.random));
        let asks = unnumbered.map(|(name, hard, _)| write(*name, *hard)).collect();
        // By a connection whose changes are pushed to this process as well: what the number hides from it, it is told with the number.
        for answer in self.nodes.ask(asks, Via::Pool, self.budget).await {
            answer?;
        }
        Ok(())
    }

    /// The entry under a stamp of now, if no generation that it was computed under has changed since. What steps the epochs of its names
    /// need not have been a bump: a generation that another process creates is pushed as well.
    async fn vouched(&self, entry: &Arc<Entry>) -> Result<Option<Arc<Entry>>, Fault> {
        let epoch = self.near.epoch();
        let Some(then) = entry.stamp().generations() else { return Ok(None) };
        let Some(now) = self.generations(None, entry.namespaces().names()).await?.1 else { return Ok(None) };
        let same = compared(then, &now) == Some(Life::Alive);
        Ok(same.then(|| Arc::new(entry.stamped(entry.stamp().again(epoch, entry.stamp().taken())))))
    }

    /// One command with the time to live; with a lock, the same pipeline gives it back.
    pub(super) async fn put(self: &Arc<Self>, mut entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        if !entry.stamp().is_whole() || self.deliveries.suspects.touch(entry.namespaces()) {
            if let Some(lock) = lock {
                self.release(&lock, false).await;
            }
            return Err(StoreError::new("nothing vouches for a response that was computed while redis could not be asked"));
        }
        let now = self.context().clock.nanos();
        let left = entry.times().expires().saturating_sub(now);
        let mut dead = left == 0;
        if !dead && self.near.life(entry.stamp(), entry.namespaces()) == Life::Dead {
            match Box::pin(self.vouched(&entry)).await {
                Ok(Some(vouched)) => entry = vouched,
                Ok(None) | Err(_) => dead = true,
            }
        }
        let mut asks = Vec::with_capacity(2);
        if !dead {
            let bytes = match self.codec.encode(&entry, Some(self.moment(entry.key().as_ref(), entry.namespaces()))) {
                Ok(bytes) => bytes,
                Err(why) => {
                    if let Some(lock) = lock {
                        self.release(&lock, true).await;
                    }
                    return match why {
                        Unstored::TooLarge => Ok(Put::TooLarge),
                        why => Err(StoreError::new(format!("an entry has no stored form: {why}"))),
                    };
                }
            };
            let place = self.names.entry(entry.namespaces(), entry.key().hash());
            let mut set = redis::cmd("SET");
            set.arg(&place).arg(&bytes[..]).arg("PX").arg(millis(left));
            asks.push(Ask { slot: slot(place.as_bytes()), command: set });
        }
        if let Some(lock) = &lock {
            asks.push(scripts::release(&lock.place, lock.token, 0));
        }
        if dead {
            self.nodes.ask(asks, Via::Pool, self.budget).await;
            return Ok(Put::Dead);
        }
        // In memory first: who is told that it is stored finds it there, whatever becomes of the rest.
        if self.keeps {
            self.near.keep(entry.clone());
        }
        let (places, lives) = self.asks_for_lives(&entry, left);
        let more = asks.len() - 1;
        asks.extend(lives);
        let mut answers = self.nodes.ask(asks, Via::Pool, self.budget).await.into_iter();
        let stored = answers.next();
        let lives = places.into_iter().zip(answers.skip(more));
        if let Some(extended) = Box::pin(self.extends(&entry, left, lives)).await
            && self.keeps
        {
            self.near.keep(extended);
        }
        match stored {
            Some(Err(fault)) => Err(fault.into()),
            Some(Ok(_)) | None => Ok(Put::Stored),
        }
    }

    /// Gives back a lock without an entry.
    pub(super) async fn release(&self, lock: &Lock, unfit: bool) {
        let pass = if unfit { PASS } else { 0 };
        // If it does not arrive, the lock ends by itself.
        let _ = self.one(scripts::release(&lock.place, lock.token, pass)).await;
    }

    /// A fence on each name; or on none of them for long, if one cannot be set.
    pub(super) async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        let Some(stands) = self.fence else { return Ok(Fence::none()) };
        let token = fresh_random();
        // What this process has in memory is not to be served from now on either.
        self.near.bump_hashes(names.hashes());
        let fault = self.set_fences(names, token).await.err();
        self.near.bump_hashes(names.hashes());
        match fault {
            None => Ok(Fence::with_token(token).renewed_every(stands / 3)),
            // Nothing was sent, and nothing is to be taken back.
            Some(Fault::Away) => Err(Fault::Away.into()),
            Some(fault) => {
                drop(self.deliveries.send(names.clone(), Bump::Hard, Some(token)));
                Err(fault.into())
            }
        }
    }

    /// Moves the deadline of a fence on.
    pub(super) async fn renew(&self, names: &Namespaces, fence: &Fence) {
        if let Err(fault) = self.fences_alone(names, fence.token()).await {
            tracing::warn!(?names, error = %fault, "the deadline of a fence could not be moved on");
        }
    }

    /// A fence on each name, and then no generation. [`Fault::Away`] if no fence was set, nor asked for.
    async fn set_fences(&self, names: &Namespaces, token: u128) -> Result<(), Fault> {
        if self.nodes.one().is_none() {
            self.fences_alone(names, token).await?;
            let gone = self.all(names.names().map(|name| unlink(&self.names.generation(name))).collect()).await;
            // The fences stand.
            return gone.map_err(|fault| if matches!(fault, Fault::Away) { Fault::Late } else { fault });
        }
        let stands = millis_of(self.fence.unwrap_or_default());
        let fence = |name| scripts::fence(&self.names.fence(name), Some(&self.names.generation(name)), token, stands);
        self.all(names.names().map(fence).collect()).await
    }

    async fn fences_alone(&self, names: &Namespaces, token: u128) -> Result<(), Fault> {
        let stands = millis_of(self.fence.unwrap_or_default());
        self.all(names.names().map(|name| scripts::fence(&self.names.fence(name), None, token, stands)).collect()).await
    }

    /// All of these, or a fault: [`Fault::Away`] only if none was asked for.
    async fn all(&self, asks: Vec<Ask>) -> Result<(), Fault> {
        let answers = self.nodes.ask(asks, Via::Pool, self.budget).await;
        let asked = answers.iter().any(|answer| !matches!(answer, Err(Fault::Away)));
        for answer in answers {
            answer.map(drop).map_err(|fault| if asked && matches!(fault, Fault::Away) { Fault::Late } else { fault })?;
        }
        Ok(())
    }

    /// Here at once, there as soon as it arrives.
    pub(super) fn bump(&self, names: &Namespaces, kind: Bump, fence: Option<Fence>) -> oneshot::Receiver<()> {
        let token = fence.map(|fence| fence.token()).filter(|token| *token != 0);
        self.near.bump_hashes(names.hashes());
        self.deliveries.send(names.clone(), kind, token)
    }
}

/// A lock that is being taken, given back if nobody comes to have it: because the request has left, there was no answer in time, or
/// there is nothing to fill. By the same connection, so that it is not given back before it is taken.
pub(super) struct Taking {
    core: Arc<Core>,
    lock: Option<Lock>,
}

impl Taking {
    /// Somebody has it now: who began, or, if it was not free, another.
    fn taken(mut self) -> Option<Lock> {
        self.lock.take()
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let (Some(lock), Ok(runtime)) = (self.lock.take(), Handle::try_current()) else { return };
        let core = self.core.clone();
        let ask = scripts::release(&lock.place, lock.token, 0);
        runtime.spawn(async move { core.nodes.ask(vec![ask], core.creates_by(), core.budget).await });
    }
}

/// The counter as it was answered. The server that has it takes part in its random: after a failover it is another one.
fn counter(answer: Answer) -> Option<Counter> {
    let (value, server) = answer.ok()?;
    let Value::BulkString(text) = value else { return None };
    let (random, number) = read_number(&text)?;
    Some(Counter { random: random ^ server as u64 ^ (server >> 64) as u64, number })
}

/// The number in the text of a generation.
fn numbered(generation: &Value) -> Option<Counter> {
    let Value::BulkString(text) = generation else { return None };
    let (random, number) = read_number(text.get(24..)?)?;
    Some(Counter { random, number })
}

fn read_number(text: &[u8]) -> Option<(u64, u64)> {
    let (random, number) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((u64::from_str_radix(random, 16).ok()?, number.parse().ok()?))
}

fn take_lock(lock: &str, token: u128, lease: u64) -> Ask {
    let mut command = redis::cmd("SET");
    command.arg(lock).arg(scripts::text(token)).arg("NX").arg("GET").arg("PX").arg(lease);
    Ask { slot: slot(lock.as_bytes()), command }
}

pub(super) fn unlink(key: &str) -> Ask {
    Ask { slot: slot(key.as_bytes()), command: redis::cmd("UNLINK").arg(key).take() }
}

/// A generation that never was: 16 bytes for life and death, 8 for freshness.
fn fresh() -> [u8; 24] {
    let mut fresh = [0; 24];
    getrandom::fill(&mut fresh).expect("the operating system gives random bytes");
    fresh
}

fn fresh_random() -> u128 {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    u128::from_be_bytes(random) | 1
}
