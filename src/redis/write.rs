//! Writes: entries stored, fences set, namespaces invalidated.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    change::{By, Change, ChangeAnswers},
    command::{Command, unlink},
    error::CommandError,
    generation::{compare, parse_counter, parse_number, random_generation, random_u128},
    inner::{RedisInner, millis, millis_of},
    keys::slot,
    lock::LockReturn,
    node::Route,
    scripts,
    waiting::DeliveryResult,
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
        let (mut commands, mut changes) = (Vec::new(), Vec::new());
        for (at, name) in added.names().enumerate() {
            let (key, fresh) = (self.keys.generation(name), random_generation());
            let life = self.generation_times.of_named(name);
            commands.push(scripts::admit(&key, &self.keys.fence(name), &fresh, millis(life)));
            changes.push(Change::new(at, name, key, fresh, By::Script).with_life(life));
        }
        let (ChangeAnswers { answers, changed, .. }, _) = self.change(commands, changes, None).await?;
        let mut generations = known.to_vec();
        let mut young = Vec::new();
        for ((name, answer), changed) in added.names().zip(answers).zip(changed) {
            let (value, server) = answer?;
            let Some(generation) = changed.generation else {
                // Fenced.
                return Ok(Admitted::Invalidated);
            };
            let number = parse_number(&value);
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
        let answer = self.send_one(scripts::count(&self.keys.counter(), random_u128() as u64)).await;
        let Some(counter) = parse_counter(answer) else { return Err(CommandError::Protocol("the number of a creation")) };
        let text = format!("{:016x}:{}", counter.random, counter.number);
        let write =
            |name, hard: u128| scripts::number(&self.keys.generation(name), &self.keys.fence(name), &hard.to_be_bytes(), &text);
        let unnumbered = young.iter().filter(|(_, _, number)| number.is_none_or(|number| number.random != counter.random));
        let commands = unnumbered.map(|(name, hard, _)| write(*name, *hard)).collect();
        // This connection receives pushes of its own changes. A push that the number hides therefore arrives with the push of the number.
        for answer in self.topology.send(commands, Route::Pool, self.command_timeout).await {
            answer?;
        }
        Ok(())
    }

    /// Returns the entry with a current stamp, if none of its generations has changed.
    ///
    /// Its epochs may have been stepped for another reason: a generation that another process creates is pushed as well.
    async fn revalidated(&self, entry: &Arc<Entry>) -> Result<Option<Arc<Entry>>, CommandError> {
        let epoch = self.memory.epoch();
        let Some(then) = entry.stamp().generations() else { return Ok(None) };
        let Some(now) = self.generations(None, entry.namespaces().names()).await?.1 else { return Ok(None) };
        let same = compare(then, &now) == Some(Validity::Valid);
        Ok(same.then(|| Arc::new(entry.stamped(entry.stamp().again(epoch, entry.stamp().taken())))))
    }

    /// Stores an entry with its time to live. The same pipeline gives the lock back.
    pub(super) async fn put(self: &Arc<Self>, mut entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        let returning = lock.map(|lock| LockReturn::held(self, &lock, 0));
        if !entry.stamp().is_whole() || self.outbox.is_undelivered(entry.namespaces()) {
            if let Some(returning) = returning {
                self.return_lock(returning).await;
            }
            return Err(StoreError::new("response not stored: redis was unreachable when the fill started"));
        }
        let now = self.context().clock.nanos();
        let left = entry.times().expires().saturating_sub(now);
        let mut dead = left == 0;
        if !dead && self.memory.life(entry.stamp(), entry.namespaces()) == Validity::Invalidated {
            match Box::pin(self.revalidated(&entry)).await {
                Ok(Some(current)) => entry = current,
                Ok(None) | Err(_) => dead = true,
            }
        }
        let mut commands = Vec::with_capacity(2);
        if !dead {
            let place = self.keys.entry(entry.namespaces(), entry.key().hash());
            let bytes = match self.codec.encode_at(&place, &entry, Some(self.moment(entry.key().as_ref(), entry.namespaces())))
            {
                Ok(bytes) => bytes,
                Err(why) => {
                    if let Some(mut returning) = returning {
                        returning.mark_unshareable();
                        self.return_lock(returning).await;
                    }
                    return match why {
                        Unstored::TooLarge => Ok(Put::TooLarge),
                        why => Err(StoreError::new(format!("entry not stored: {why}"))),
                    };
                }
            };
            let mut set = redis::cmd("SET");
            set.arg(&place).arg(&bytes[..]).arg("PX").arg(millis(left));
            commands.push(Command { slot: slot(place.as_bytes()), command: set });
        }
        commands.extend(returning.iter().filter_map(LockReturn::command));
        if dead {
            let answers = self.topology.send(commands, Route::Pool, self.command_timeout).await;
            returning.into_iter().zip(answers).for_each(|(returning, answer)| returning.confirm(&answer));
            return Ok(Put::Dead);
        }
        // Memory comes first. A caller that learns of the storing finds the entry there, even if the rest fails.
        if self.has_memory {
            self.memory.keep(entry.clone());
        }
        let (places, lives) = self.life_commands(&entry, left);
        let more = commands.len() - 1;
        commands.extend(lives);
        let mut answers = self.topology.send(commands, Route::Pool, self.command_timeout).await.into_iter();
        let stored = answers.next();
        returning.into_iter().zip(answers.by_ref().take(more)).for_each(|(returning, answer)| returning.confirm(&answer));
        let lives = places.into_iter().zip(answers);
        if let Some(extended) = Box::pin(self.extend_generations(&entry, left, lives)).await
            && self.has_memory
        {
            self.memory.keep(extended);
        }
        match stored {
            Some(Err(error)) => Err(error.into()),
            Some(Ok(_)) | None => Ok(Put::Stored),
        }
    }

    /// Gives back a lock without an entry. If that fails, the outbox continues.
    pub(super) async fn return_lock(&self, returning: LockReturn) {
        let Some(command) = returning.command() else { return };
        let answer = self.send_one(command).await;
        returning.confirm(&answer);
    }

    /// Sets a fence on each name. If one cannot be set, all are removed soon.
    pub(super) async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        let Some(stands) = self.fence else { return Ok(Fence::none()) };
        let token = random_u128();
        // Entries in memory must not be served from now on either.
        self.memory.bump_hashes(names.hashes());
        let error = self.set_fences(names, token).await.err();
        self.memory.bump_hashes(names.hashes());
        match error {
            None => Ok(Fence::with_token(token).standing_for(stands)),
            // No command was sent, so there is nothing to remove.
            Some(CommandError::Unavailable) => Err(CommandError::Unavailable.into()),
            Some(error) => {
                drop(self.outbox.send(&self.keys, names, InvalidationKind::Hard, Some((token, stands))));
                Err(error.into())
            }
        }
    }

    /// Extends the deadline of a fence.
    pub(super) async fn renew(&self, names: &Namespaces, fence: &Fence) {
        if let Err(error) = self.fences_alone(names, fence.token()).await {
            tracing::warn!(?names, %error, "deadline of a fence not extended");
        }
    }

    /// Sets a fence on each name and deletes the generations. Returns [`CommandError::Unavailable`] only if no command was sent.
    async fn set_fences(&self, names: &Namespaces, token: u128) -> Result<(), CommandError> {
        if self.topology.single().is_none() {
            self.fences_alone(names, token).await?;
            let gone = self.send_all(names.names().map(|name| unlink(&self.keys.generation(name))).collect()).await;
            // The fences stand.
            return gone
                .map_err(|error| if matches!(error, CommandError::Unavailable) { CommandError::Timeout } else { error });
        }
        let stands = millis_of(self.fence.unwrap_or_default());
        let fence = |name| scripts::fence(&self.keys.fence(name), Some(&self.keys.generation(name)), token, stands);
        self.send_all(names.names().map(fence).collect()).await
    }

    async fn fences_alone(&self, names: &Namespaces, token: u128) -> Result<(), CommandError> {
        let stands = millis_of(self.fence.unwrap_or_default());
        self.send_all(names.names().map(|name| scripts::fence(&self.keys.fence(name), None, token, stands)).collect()).await
    }

    /// Sends all commands. Returns [`CommandError::Unavailable`] only if none was sent.
    async fn send_all(&self, commands: Vec<Command>) -> Result<(), CommandError> {
        let answers = self.topology.send(commands, Route::Pool, self.command_timeout).await;
        let asked = answers.iter().any(|answer| !matches!(answer, Err(CommandError::Unavailable)));
        for answer in answers {
            answer.map(drop).map_err(|error| {
                if asked && matches!(error, CommandError::Unavailable) { CommandError::Timeout } else { error }
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
        self.memory.bump_hashes(names.hashes());
        self.outbox.send(&self.keys, names, kind, token.map(|token| (token, self.fence.unwrap_or_default())))
    }
}
