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

/// For how long others are told that what a lock was for is not to be shared.
const PASS: u64 = 5_000;

pub(super) fn take_lock(lock: &str, token: u128, lease: u64) -> Command {
    let mut command = redis::cmd("SET");
    command.arg(lock).arg(scripts::text(token)).arg("NX").arg("GET").arg("PX").arg(lease);
    Command { slot: slot(lock.as_bytes()), command }
}

/// A lock on its way back to Redis. Dropped before Redis has confirmed, whatever the cause, it goes to the delivery queue.
pub(crate) struct Returning {
    core: Arc<RedisInner>,
    release: Option<Release>,
}

/// The number of times that a lock is given back of which nobody knows whether it was taken.
const TIMES: u8 = 6;

impl Returning {
    /// A lock that is held. Others are told for `pass` milliseconds that the response is not to be shared.
    pub(super) fn known(core: &Arc<RedisInner>, lock: &Lock, pass: u64) -> Self {
        Self::of(core, lock, pass, 0)
    }

    pub(super) fn of(core: &Arc<RedisInner>, lock: &Lock, pass: u64, again: u8) -> Self {
        let release = Release { lock: lock.place.clone(), token: lock.token, pass, again, tries: 0, at: Instant::now() };
        Self { core: core.clone(), release: Some(release) }
    }

    pub(super) fn unfit(core: &Arc<RedisInner>, lock: &Lock, unfit: bool) -> Self {
        Self::known(core, lock, if unfit { PASS } else { 0 })
    }

    pub(super) fn tells_of_no_use(&mut self) {
        self.release.iter_mut().for_each(|release| release.pass = PASS);
    }

    pub(super) fn ask(&self) -> Option<Command> {
        self.release.as_ref().map(|release| scripts::release(&release.lock, release.token, release.pass))
    }

    /// Confirmed if the lock was given back; or if it was not held any more, where it is known that it was.
    pub(super) fn answered(mut self, answer: &CommandResult) {
        let again = self.release.as_ref().map_or(0, |release| release.again);
        if matches!(answer, Ok((value, _)) if again == 0 || *value == Value::Int(1)) {
            self.release = None;
        }
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            self.core.deliveries.release(release);
        }
    }
}

/// A lock that is being taken, given back if nobody comes to have it: because the request has left, there was no answer in time, or
/// there is nothing to fill. By the same connection first, so that it is not given back before it is taken.
pub(crate) struct Taking {
    core: Arc<RedisInner>,
    lock: Option<Lock>,
}

impl Taking {
    pub(super) fn new(core: &Arc<RedisInner>, lock: Lock) -> Self {
        Self { core: core.clone(), lock: Some(lock) }
    }

    /// Somebody has it now: who began, or, if it was not free, another.
    pub(super) fn taken(mut self) -> Option<Lock> {
        self.lock.take()
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        let core = self.core.clone();
        let returning = Returning::of(&core, &lock, 0, TIMES);
        // Without a runtime it goes to the queue.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let asks = returning.ask().into_iter().collect();
            let answers = core.nodes.ask(asks, core.creates_by(), core.command_timeout).await;
            if let Some(answer) = answers.first() {
                returning.answered(answer);
            }
        });
    }
}
