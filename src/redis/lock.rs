//! Locks of fills, taken and given back.

use std::{sync::Arc, time::Instant};

use redis::Value;
use tokio::runtime::Handle;

use super::{
    command::{Command, CommandResult},
    inner::RedisInner,
    keys::slot,
    outbox::Release,
    scripts,
};
use crate::store::lock::Lock;

/// The time in milliseconds for which other processes know that the response of a fill cannot be shared.
const UNSHAREABLE_MILLIS: u64 = 5_000;

pub(super) fn take_lock(lock: &str, token: u128, lease: u64) -> Command {
    let mut command = redis::cmd("SET");
    command.arg(lock).arg(scripts::text(token)).arg("NX").arg("GET").arg("PX").arg(lease);
    Command { slot: slot(lock.as_bytes()), command }
}

/// A lock on its way back to Redis. If it is dropped before Redis has confirmed, it is queued in the outbox.
pub(crate) struct LockReturn {
    inner: Arc<RedisInner>,
    release: Option<Release>,
}

/// The number of attempts to give back a lock that may not have been taken.
const RETURN_ATTEMPTS: u8 = 6;

impl LockReturn {
    /// Gives back a lock that is held. Other processes know for `pass` milliseconds that the response cannot be shared.
    pub(super) fn held(inner: &Arc<RedisInner>, lock: &Lock, pass: u64) -> Self {
        Self::of(inner, lock, pass, 0)
    }

    pub(super) fn of(inner: &Arc<RedisInner>, lock: &Lock, pass: u64, again: u8) -> Self {
        let release = Release { lock: lock.place.clone(), token: lock.token, pass, again, tries: 0, at: Instant::now() };
        Self { inner: inner.clone(), release: Some(release) }
    }

    pub(super) fn unfit(inner: &Arc<RedisInner>, lock: &Lock, unfit: bool) -> Self {
        Self::held(inner, lock, if unfit { UNSHAREABLE_MILLIS } else { 0 })
    }

    pub(super) fn mark_unshareable(&mut self) {
        self.release.iter_mut().for_each(|release| release.pass = UNSHAREABLE_MILLIS);
    }

    pub(super) fn command(&self) -> Option<Command> {
        self.release.as_ref().map(|release| scripts::release(&release.lock, release.token, release.pass))
    }

    /// Takes the answer. It confirms that the lock was given back, or that a lock which was certainly held has ended.
    pub(super) fn confirm(mut self, answer: &CommandResult) {
        let again = self.release.as_ref().map_or(0, |release| release.again);
        if matches!(answer, Ok((value, _)) if again == 0 || *value == Value::Int(1)) {
            self.release = None;
        }
    }
}

impl Drop for LockReturn {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            self.inner.outbox.release(release);
        }
    }
}

/// A lock that is being taken. It is given back if the request leaves, if no answer arrives in time, or if there is nothing to fill. The
/// same connection is used first, so that the lock is not given back before it is taken.
pub(crate) struct LockAttempt {
    inner: Arc<RedisInner>,
    lock: Option<Lock>,
}

impl LockAttempt {
    pub(super) fn new(inner: &Arc<RedisInner>, lock: Lock) -> Self {
        Self { inner: inner.clone(), lock: Some(lock) }
    }

    /// Keeps the lock: this fill holds it, or another one does.
    pub(super) fn keep(mut self) -> Option<Lock> {
        self.lock.take()
    }
}

impl Drop for LockAttempt {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        let inner = self.inner.clone();
        let returning = LockReturn::of(&inner, &lock, 0, RETURN_ATTEMPTS);
        // Without a runtime it goes to the outbox.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let commands = returning.command().into_iter().collect();
            let answers = inner.topology.send(commands, inner.creation_route(), inner.command_timeout).await;
            if let Some(answer) = answers.first() {
                returning.confirm(answer);
            }
        });
    }
}
