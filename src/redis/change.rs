//! Writes of generations.
//!
//! With one master, generations are not tracked, and their creation is pushed to nobody. In a cluster they are, and the connection that
//! receives pushes writes them, because it receives no push of its own changes.
//!
//! Redis remembers only the last modifier of a key in each cycle of its event loop. With `NOLOOP`, a generation that this process creates
//! right after another client has deleted it is therefore not pushed to this process at all. A write that succeeded steps the epochs of its
//! name, as the push would have done. The answer is awaited even if the request has left. Until it arrives, the lease does not extend past
//! the moment of sending.

use std::{sync::Arc, time::Duration};

use redis::Value;
use tokio::{sync::oneshot, time::sleep};

use super::{
    command::{Command, CommandResult},
    error::CommandError,
    generation::parse_generation,
    inner::RedisInner,
    keys::{Pushed, id},
    lock::LockAttempt,
    node::Route,
};
use crate::{
    clock::{Nanos, monotonic},
    entry::stamp::Generation,
    namespace::set::Name,
};

/// The longest wait for the answer to a change. After it, the connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A command that may write a generation, sent together with others.
pub(crate) struct Change {
    /// Its position among the commands.
    at: usize,
    /// The key of the generation.
    key: String,
    id: u64,
    hash: u64,
    /// The bytes of a generation that is created if there is none.
    fresh: [u8; 24],
    by: By,
    /// The epoch before the generation was read, if it was read before the change.
    read: Option<u64>,
    /// The life of a generation that the command creates.
    life: Nanos,
}

/// The command that changes a generation. It decides the meaning of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// `SET … NX GET`: nil if the generation was created, else the existing generation.
    Set,
    /// A script that returns the generation, or nil if the name is fenced.
    Script,
    /// `PEXPIRE … GT`: 1 if the life was extended. A `GET` follows it.
    Extend,
}

/// A generation after a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed {
    /// `None` if the server did not create it.
    pub(super) generation: Option<Generation>,
    /// The epoch since which it can be trusted.
    pub(super) since: u64,
}

/// The answers to commands that were sent together with changes.
pub(crate) struct ChangeAnswers {
    pub(super) answers: Vec<CommandResult>,
    pub(super) changed: Vec<Changed>,
    pub(super) taking: Option<LockAttempt>,
}

impl Change {
    pub(super) fn new(at: usize, name: Name<'_>, key: String, fresh: [u8; 24], by: By) -> Self {
        Self { at, key, id: id(name), hash: name.hash(), fresh, by, read: None, life: 0 }
    }

    /// Sets the life of a generation that is created.
    pub(super) fn with_life(self, life: Nanos) -> Self {
        Self { life, ..self }
    }

    /// Sets the epoch before the generation was read.
    pub(super) fn read_at(self, epoch: u64) -> Self {
        Self { read: Some(epoch), ..self }
    }

    /// Remembers its generation, if there is one. No fence may have stood when it was read.
    pub(super) fn learn(&self, inner: &RedisInner, changed: &Changed) {
        if let Some(generation) = changed.generation {
            inner.known.learn(self.id, generation, changed.since);
        }
    }

    /// Returns the hash of the name, and the epoch since which its generation can be trusted.
    pub(super) fn part(&self, changed: &Changed) -> (u64, u64) {
        (self.hash, changed.since)
    }

    /// Steps the epochs of the name if the generation is tracked and was written or may have been. `sent` is the epoch before the command was sent.
    fn settle(&self, inner: &RedisInner, answers: &[CommandResult], sent: u64) -> Changed {
        let (answer, sent) = (&answers[self.at], self.read.unwrap_or(sent));
        // The hashes that a push of this key would step.
        let pushed = inner.keys.parse(self.key.as_bytes());
        let hashes: Vec<u64> = pushed.iter().flat_map(Pushed::hashes).collect();
        let hashes = hashes.iter().copied();
        let steps = inner.creation_route() == Route::Control;
        let (value, server) = match answer {
            Ok((value, server)) => (value, *server),
            Err(CommandError::Server(error)) => {
                tracing::debug!(%error, "generation not created: redis refused the command");
                return Changed { generation: None, since: sent };
            }
            Err(CommandError::Unavailable) => return Changed { generation: None, since: sent },
            Err(_) => {
                if steps {
                    inner.memory.bump_hashes(hashes);
                }
                return Changed { generation: None, since: sent };
            }
        };
        let fresh = Value::BulkString(self.fresh.to_vec());
        let (changed, now) = match self.by {
            By::Set if *value == Value::Nil => (true, Some(&fresh)),
            By::Set => (false, Some(value)),
            By::Script => (*value == fresh, Some(value)),
            By::Extend => (*value == Value::Int(1), answers.get(self.at + 1).and_then(|answer| Some(&answer.as_ref().ok()?.0))),
        };
        let generation = now.and_then(|now| parse_generation(now, server));
        let mut since = if changed && steps { inner.memory.step_own(hashes, sent) } else { sent };
        if let Some(generation) = generation {
            // A later read or creation of an equal generation by this process vouches for this one.
            if let Some((known, at)) = inner.known.get(self.id, monotonic())
                && known == generation
            {
                since = since.max(at);
            }
            if changed && self.by != By::Extend {
                inner.generation_times.record(self.id, generation, self.life);
            }
        }
        let settled = Changed { generation, since };
        // A generation that was created inside a fence must not be known: it would vouch for responses that were computed before the write.
        // The script checks the fences. `begin` reads them together with the generations that it creates.
        if self.by == By::Script || self.by == By::Extend && inner.fence.is_none() {
            self.learn(inner, &settled);
        }
        settled
    }
}

impl RedisInner {
    /// Sends commands, some of which may write generations. A lock that one of them takes is given back if the caller has left.
    pub(super) async fn change(
        self: &Arc<Self>,
        commands: Vec<Command>,
        changes: Vec<Change>,
        taking: Option<LockAttempt>,
    ) -> Result<(ChangeAnswers, Vec<Change>), CommandError> {
        let by = self.creation_route();
        if by == Route::Pool || changes.is_empty() {
            let sent = self.memory.epoch();
            let answers = self.topology.send(commands, by, self.command_timeout).await;
            let changed = changes.iter().map(|change| change.settle(self, &answers, sent)).collect();
            return Ok((ChangeAnswers { answers, changed, taking }, changes));
        }
        let (tell, told) = oneshot::channel();
        let inner = self.clone();
        let unsettled = self.lease.unsettled(monotonic());
        let work = async move {
            let sent = inner.memory.epoch();
            let answers = inner.topology.send(commands, by, ANSWER_TIMEOUT).await;
            let changed = changes.iter().map(|change| change.settle(&inner, &answers, sent)).collect();
            let is_late = answers.iter().any(|answer| matches!(answer, Err(CommandError::Timeout)));
            let _ = tell.send((ChangeAnswers { answers, changed, taking }, changes));
            if is_late {
                // The server may still carry it out, and no push would tell this process. Without this connection there is no lease.
                inner.topology.all().iter().filter_map(|node| node.control()).for_each(|connection| connection.mark_broken());
                sleep(2 * ANSWER_TIMEOUT).await;
            }
            drop(unsettled);
        };
        if let Some(runtime) = self.runtime.get() {
            runtime.spawn(work);
        }
        match tokio::time::timeout(self.command_timeout, told).await {
            Ok(answered) => answered.map_err(|_| CommandError::Unavailable),
            Err(_) => Err(CommandError::Timeout),
        }
    }
}
