//! The beginning of a fill: missing generations are created and the lock is taken, in one pipeline.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use super::{
    change::{By, Change, ChangeAnswers, Changed},
    command::{Command, CommandResult, bulk, exists, get},
    error::CommandError,
    generation::{parse_counter, random_generation, random_u128},
    inner::{RedisInner, millis, millis_of},
    keys::slot,
    lock::{LockAttempt, take_lock},
    read::ReadRequest,
};
use crate::{
    clock::Nanos,
    entry::{
        stamp::{Counter, Generation, Stamp},
        validity::Validity,
    },
    key::KeyRef,
    namespace::set::{Name, Namespaces},
    store::{
        backend::{BeginFill, FillOptions},
        error::StoreError,
        lock::Lock,
    },
};

impl RedisInner {
    /// Begins a fill: takes the lock if one is wanted, creates missing generations and reads the counter of creations.
    ///
    /// The fences are read again in the same pipeline. A generation that was created while a fence stands would otherwise outlive the crash
    /// of its writer.
    pub(super) async fn begin(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        options: FillOptions,
    ) -> Result<BeginFill, StoreError> {
        let Some(known) = stamp.generations().filter(|known| known.len() == names.count()) else {
            return Ok(BeginFill::Proceed { stamp: Stamp::local(stamp.epoch()), lock: None });
        };
        let missing: Missing<'_> = names.names().enumerate().filter(|(index, _)| known[*index].is_none()).collect();
        if missing.is_empty() && options.lock.is_none() && !options.counts {
            return Ok(BeginFill::Proceed { stamp, lock: None });
        }
        let BeginCommands { commands, changes, taking } = self.begin_commands(key, names, &missing, options);
        let (ChangeAnswers { answers, changed, taking }, changes) = self.change(commands, changes, taking).await?;
        let mut generations = known.to_vec();
        let answers = BeginAnswers::read(answers, options, &missing, &changed, &mut generations)?;
        if answers.is_fenced {
            return Ok(BeginFill::Proceed { stamp: Stamp::local(stamp.epoch()), lock: None });
        }
        changes.iter().zip(&changed).for_each(|(change, changed)| change.learn(self, changed));
        let stamp = match self.renewed_epoch(&stamp, names, &missing, changes.iter().zip(&changed)) {
            Some(epoch) => stamp.again(epoch, stamp.taken()),
            None => stamp,
        };
        let stamp = stamp.with_generations(generations).counted(answers.counter);
        if answers.lock == Some(Value::Nil) && answers.entry.is_some() && options.looks {
            let now = self.context().clock.nanos();
            let request = ReadRequest { key, names, max_body: options.max_body.unwrap_or(usize::MAX) };
            let found = self.decode_valid(answers.entry, &request, &stamp).await?;
            if found.is_some_and(|(entry, life)| life == Validity::Valid && now < entry.times().fresh_until) {
                return Ok(BeginFill::AlreadyStored);
            }
        }
        let lock = taking.and_then(LockAttempt::keep);
        Ok(match answers.lock {
            None | Some(Value::Nil) => BeginFill::Proceed { stamp, lock },
            Some(Value::BulkString(text)) if text == b"pass" => BeginFill::Uncacheable { stamp },
            Some(_) => BeginFill::Locked,
        })
    }

    fn begin_commands(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        names: &Namespaces,
        missing: &Missing<'_>,
        options: FillOptions,
    ) -> BeginCommands {
        let mut commands = Vec::with_capacity(missing.len() + 2);
        let mut taking = None;
        if let Some(lease) = options.lock {
            let entry = self.keys.entry(names, key.hash());
            let (token, place) = (random_u128(), self.keys.lock(&entry));
            // The owner of a lock stores the entry before it gives the lock back. A process that gets the lock therefore sees the entry.
            commands.extend([take_lock(&place, token, millis_of(lease)), get(&entry)]);
            taking = Some(LockAttempt::new(self, Lock { key: key.hash(), token, place: place.into() }));
        }
        let mut changes = Vec::with_capacity(missing.len());
        for (_, name) in missing {
            let (key, fresh) = (self.keys.generation(*name), random_generation());
            let life = self.generation_times.of_new(*name);
            let command = create(&key, &fresh, life);
            changes.push(Change::new(commands.len(), *name, key, fresh, By::Set).with_life(life));
            commands.push(command);
        }
        if options.counts {
            commands.push(get(&self.keys.counter()));
        }
        // If nothing is missing, no generation is created here, and the fences were read together with the entry.
        if self.fence.is_some() && !missing.is_empty() {
            commands.extend(names.names().map(|name| exists(&self.keys.fence(name))));
        }
        BeginCommands { commands, changes, taking }
    }

    /// Returns the current epoch if it can stand for a stamp and the generations that were created since.
    ///
    /// `None` if nothing was created, or if a push arrived in the meantime.
    fn renewed_epoch<'a>(
        &self,
        stamp: &Stamp,
        names: &Namespaces,
        missing: &Missing<'_>,
        changed: impl Iterator<Item = (&'a Change, &'a Changed)>,
    ) -> Option<u64> {
        if missing.is_empty() {
            return None;
        }
        let is_known = |(index, _): &(usize, Name<'_>)| !missing.iter().any(|(other, _)| other == index);
        let known = names.names().enumerate().filter(is_known).map(|(_, name)| (name.hash(), stamp.epoch()));
        self.memory.renew(known.chain(changed.map(|(change, changed)| change.part(changed))))
    }
}

/// Names without a generation, with their positions among the names of the request.
type Missing<'a> = Vec<(usize, Name<'a>)>;

/// The commands that begin a fill, in this order: the lock and the entry, the missing generations, the counter, the fences.
struct BeginCommands {
    commands: Vec<Command>,
    changes: Vec<Change>,
    taking: Option<LockAttempt>,
}

/// The answers to [`BeginCommands`], apart from the generations.
struct BeginAnswers {
    /// The previous content of the lock: nil if it was free.
    lock: Option<Value>,
    entry: Option<Bytes>,
    counter: Option<Counter>,
    is_fenced: bool,
}

impl BeginAnswers {
    /// Reads the answers, and writes the generations that were missing into `generations`.
    fn read(
        answers: Vec<CommandResult>,
        options: FillOptions,
        missing: &Missing<'_>,
        changed: &[Changed],
        generations: &mut [Option<Generation>],
    ) -> Result<Self, StoreError> {
        let mut answers = answers.into_iter();
        let locks = usize::from(options.lock.is_some());
        let lock = answers.by_ref().take(locks).next().transpose()?.map(|(value, _)| value);
        let entry = answers.by_ref().take(locks).next().transpose()?.map(|(value, _)| bulk(value)).transpose()?.flatten();
        for (((index, _), changed), answer) in missing.iter().zip(changed).zip(answers.by_ref().take(missing.len())) {
            match answer {
                Ok(_) | Err(CommandError::Server(_)) => generations[*index] = changed.generation,
                Err(error) => return Err(error.into()),
            }
        }
        let counter = answers.by_ref().take(usize::from(options.counts)).next().and_then(parse_counter);
        let mut is_fenced = false;
        for answer in answers {
            is_fenced |= !matches!(answer?.0, Value::Int(0));
        }
        Ok(Self { lock, entry, counter, is_fenced })
    }
}

/// Returns the command that creates a generation if it is missing, and returns the existing one otherwise.
fn create(key: &str, fresh: &[u8; 24], life: Nanos) -> Command {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(&fresh[..]).arg("NX").arg("GET").arg("PX").arg(millis(life));
    Command { slot: slot(key.as_bytes()), command }
}
