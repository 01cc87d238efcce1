//! Writes: entries stored, fences set, namespaces invalidated.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    change::{Answered, By, Change},
    command::{Command, unlink},
    error::CommandError,
    generation::{compare, counter, numbered, random_generation, random_u128},
    inner::{RedisInner, millis, millis_of},
    keys::slot,
    lock::Returning,
    node::Route,
    outbox::DeliveryResult,
    scripts,
};
use crate::{
    codec::frame::Unstored,
    entry::{
        Entry,
        stamp::{Counter, Stamp},
        validity::Validity,
    },
    namespace::set::{Name, Namespaces},
    store::{
        backend::{Admitted, Backend, Fence, Put},
        epochs::InvalidationKind,
        error::StoreError,
        lock::Lock,
    },
};

impl RedisInner {
    /// Checks the generations of names that came with the response.
    ///
    /// Each must have been created at or before the counter of creations that was read before the inner service was called: it has then not
    /// been invalidated since. A generation without a comparable number gets one, for the next fill.
    pub(super) async fn admit(self: &Arc<Self>, stamp: &Stamp, added: &Namespaces) -> Result<Admitted, StoreError> {
        let Some(known) = stamp.generations().filter(|_| stamp.is_whole()) else { return Ok(Admitted::Invalidated) };
        let (mut asks, mut changes) = (Vec::new(), Vec::new());
        for (at, name) in added.names().enumerate() {
            let (key, fresh) = (self.names.generation(name), random_generation());
            let life = self.lives.of_named(name);
            asks.push(scripts::admit(&key, &self.names.fence(name), &fresh, millis(life)));
            changes.push(Change::new(at, name, key, fresh, By::Script).lives(life));
        }
        let (Answered { answers, changed, .. }, _) = self.change(asks, changes, None).await?;
        let mut generations = known.to_vec();
        let mut young = Vec::new();
        for ((name, answer), changed) in added.names().zip(answers).zip(changed) {
            let (value, server) = answer?;
            let Some(generation) = changed.generation else {
                // Fenced.
                return Ok(Admitted::Invalidated);
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
            return Ok(Admitted::Stamp(stamp.clone().with_generations(generations)));
        }
        // A larger number of the same counter shows an invalidation. Without a number, the name is new.
        let bumped = |number: Option<Counter>| {
            stamp.counter().zip(number).is_some_and(|(counter, at)| at.random == counter.random && at.number > counter.number)
        };
        let invalidated = young.iter().any(|(_, _, number)| bumped(*number));
        self.number(&young).await?;
        Ok(if invalidated { Admitted::Invalidated } else { Admitted::New })
    }

    /// Writes a number into the generations that have none of this counter.
    async fn number(&self, young: &[(Name<'_>, u128, Option<Counter>)]) -> Result<(), CommandError> {
        let answer = self.one(scripts::count(&self.names.counter(), random_u128() as u64)).await;
        let Some(counter) = counter(answer) else { return Err(CommandError::Protocol("the number of a creation")) };
        let text = format!("{:016x}:{}", counter.random, counter.number);
        let write = |name, hard: u128| {
            scripts::number(&self.names.generation(name), &self.names.fence(name), &hard.to_be_bytes(), &text)
        };
        let unnumbered = young.iter().filter(|(_, _, number)| number.is_none_or(|number| number.random != counter.random));
        let asks = unnumbered.map(|(name, hard, _)| write(*name, *hard)).collect();
        // This connection receives pushes of its own changes. A push that the number hides therefore arrives with the push of the number.
        for answer in self.nodes.ask(asks, Route::Pool, self.command_timeout).await {
            answer?;
        }
        Ok(())
    }

    /// Returns the entry with a current stamp, if none of its generations has changed.
    ///
    /// Its epochs may have been stepped for another reason: a generation that another process creates is pushed as well.
    async fn vouched(&self, entry: &Arc<Entry>) -> Result<Option<Arc<Entry>>, CommandError> {
        let epoch = self.near.epoch();
        let Some(then) = entry.stamp().generations() else { return Ok(None) };
        let Some(now) = self.generations(None, entry.namespaces().names()).await?.1 else { return Ok(None) };
        let same = compare(then, &now) == Some(Validity::Valid);
        Ok(same.then(|| Arc::new(entry.stamped(entry.stamp().again(epoch, entry.stamp().taken())))))
    }

    /// Stores an entry with its time to live. The same pipeline gives the lock back.
    pub(super) async fn put(self: &Arc<Self>, mut entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        let returning = lock.map(|lock| Returning::known(self, &lock, 0));
        if !entry.stamp().is_whole() || self.deliveries.suspects(entry.namespaces()) {
            if let Some(returning) = returning {
                self.returns(returning).await;
            }
            return Err(StoreError::new("response not stored: redis was unreachable when the fill started"));
        }
        let now = self.context().clock.nanos();
        let left = entry.times().expires().saturating_sub(now);
        let mut dead = left == 0;
        if !dead && self.near.life(entry.stamp(), entry.namespaces()) == Validity::Invalidated {
            match Box::pin(self.vouched(&entry)).await {
                Ok(Some(vouched)) => entry = vouched,
                Ok(None) | Err(_) => dead = true,
            }
        }
        let mut asks = Vec::with_capacity(2);
        if !dead {
            let place = self.names.entry(entry.namespaces(), entry.key().hash());
            let bytes = match self.codec.encode_at(&place, &entry, Some(self.moment(entry.key().as_ref(), entry.namespaces())))
            {
                Ok(bytes) => bytes,
                Err(why) => {
                    if let Some(mut returning) = returning {
                        returning.tells_of_no_use();
                        self.returns(returning).await;
                    }
                    return match why {
                        Unstored::TooLarge => Ok(Put::TooLarge),
                        why => Err(StoreError::new(format!("entry not stored: {why}"))),
                    };
                }
            };
            let mut set = redis::cmd("SET");
            set.arg(&place).arg(&bytes[..]).arg("PX").arg(millis(left));
            asks.push(Command { slot: slot(place.as_bytes()), command: set });
        }
        asks.extend(returning.iter().filter_map(Returning::ask));
        if dead {
            let answers = self.nodes.ask(asks, Route::Pool, self.command_timeout).await;
            returning.into_iter().zip(answers).for_each(|(returning, answer)| returning.answered(&answer));
            return Ok(Put::Dead);
        }
        // Memory comes first. A caller that learns of the storing finds the entry there, even if the rest fails.
        if self.keeps {
            self.near.keep(entry.clone());
        }
        let (places, lives) = self.asks_for_lives(&entry, left);
        let more = asks.len() - 1;
        asks.extend(lives);
        let mut answers = self.nodes.ask(asks, Route::Pool, self.command_timeout).await.into_iter();
        let stored = answers.next();
        returning.into_iter().zip(answers.by_ref().take(more)).for_each(|(returning, answer)| returning.answered(&answer));
        let lives = places.into_iter().zip(answers);
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

    /// Gives back a lock without an entry. If that fails, the outbox continues.
    pub(super) async fn returns(&self, returning: Returning) {
        let Some(ask) = returning.ask() else { return };
        let answer = self.one(ask).await;
        returning.answered(&answer);
    }

    /// Sets a fence on each name. If one cannot be set, all are removed soon.
    pub(super) async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        let Some(stands) = self.fence else { return Ok(Fence::none()) };
        let token = random_u128();
        // Entries in memory must not be served from now on either.
        self.near.bump_hashes(names.hashes());
        let fault = self.set_fences(names, token).await.err();
        self.near.bump_hashes(names.hashes());
        match fault {
            None => Ok(Fence::with_token(token).renewed_every(stands / 3)),
            // No command was sent, so there is nothing to remove.
            Some(CommandError::Unavailable) => Err(CommandError::Unavailable.into()),
            Some(fault) => {
                drop(self.deliveries.send(&self.names, names, InvalidationKind::Hard, Some((token, stands))));
                Err(fault.into())
            }
        }
    }

    /// Extends the deadline of a fence.
    pub(super) async fn renew(&self, names: &Namespaces, fence: &Fence) {
        if let Err(fault) = self.fences_alone(names, fence.token()).await {
            tracing::warn!(?names, error = %fault, "deadline of a fence not extended");
        }
    }

    /// Sets a fence on each name and deletes the generations. Returns [`CommandError::Unavailable`] only if no command was sent.
    async fn set_fences(&self, names: &Namespaces, token: u128) -> Result<(), CommandError> {
        if self.nodes.one().is_none() {
            self.fences_alone(names, token).await?;
            let gone = self.all(names.names().map(|name| unlink(&self.names.generation(name))).collect()).await;
            // The fences stand.
            return gone
                .map_err(|fault| if matches!(fault, CommandError::Unavailable) { CommandError::Timeout } else { fault });
        }
        let stands = millis_of(self.fence.unwrap_or_default());
        let fence = |name| scripts::fence(&self.names.fence(name), Some(&self.names.generation(name)), token, stands);
        self.all(names.names().map(fence).collect()).await
    }

    async fn fences_alone(&self, names: &Namespaces, token: u128) -> Result<(), CommandError> {
        let stands = millis_of(self.fence.unwrap_or_default());
        self.all(names.names().map(|name| scripts::fence(&self.names.fence(name), None, token, stands)).collect()).await
    }

    /// Sends all commands. Returns [`CommandError::Unavailable`] only if none was sent.
    async fn all(&self, asks: Vec<Command>) -> Result<(), CommandError> {
        let answers = self.nodes.ask(asks, Route::Pool, self.command_timeout).await;
        let asked = answers.iter().any(|answer| !matches!(answer, Err(CommandError::Unavailable)));
        for answer in answers {
            answer.map(drop).map_err(|fault| {
                if asked && matches!(fault, CommandError::Unavailable) { CommandError::Timeout } else { fault }
            })?;
        }
        Ok(())
    }

    /// Invalidates names: here at once, in Redis as soon as it is delivered.
    pub(super) fn bump(
        &self,
        names: &Namespaces,
        kind: InvalidationKind,
        fence: Option<Fence>,
    ) -> oneshot::Receiver<DeliveryResult> {
        let token = fence.map(|fence| fence.token()).filter(|token| *token != 0);
        self.near.bump_hashes(names.hashes());
        self.deliveries.send(&self.names, names, kind, token.map(|token| (token, self.fence.unwrap_or_default())))
    }
}
