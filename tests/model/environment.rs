//! Steps of the environment: eviction, deadlines, failover, the tracking connection, epochs, the clock.

use crate::protocol::Effects;
use crate::scope::{Coherence, Mutation, Replaced, Scope};
use crate::state::*;

impl Scope {
    pub(crate) fn environment_actions(&self, state: &State, out: &mut Vec<Action>) {
        let redis = &state.redis;
        if self.evict_entry && redis.entry.is_some() {
            out.push(Action::EvictEntry);
        }
        for name in self.names() {
            if self.evict_generation && redis.generations[name] != MISSING {
                out.push(Action::EvictGeneration { name: name as u8 });
            }
            if self.evict_fence && redis.fences[name] != 0 {
                out.push(Action::EvictFence { name: name as u8 });
            }
            if self.collide {
                out.push(Action::Collide { name: name as u8 });
            }
        }
        if self.evict_counter && redis.counter != Created::default() {
            out.push(Action::EvictCounter);
        }
        if redis.lock != 0 && !self.is(Mutation::LockWithoutLease) {
            out.push(Action::LockExpires);
        }
        if self.failover && redis.store == [0; NAMES] {
            if state.replica.is_none() {
                out.push(Action::ReplicaStops);
            } else {
                out.push(Action::Failover { name: 0 });
                if self.split {
                    out.push(Action::Failover { name: 1 });
                }
            }
        }
        if state.process.replaced {
            out.push(Action::Notice);
        }
        if self.coherence == Coherence::Leased {
            self.tracking_actions(state, out);
        }
        if state.now < self.ticks {
            out.push(Action::Tick);
        }
    }

    pub(crate) fn tracking_actions(&self, state: &State, out: &mut Vec<Action>) {
        let process = &state.process;
        let flush_first = self.is(Mutation::FlushBeforeTracking);
        match process.tracking {
            Tracking::Lost => out.push(Action::Reconnect),
            Tracking::Connected => out.push(if flush_first { Action::StepAll } else { Action::TrackingOn }),
            Tracking::On => out.push(if flush_first { Action::TrackingOn } else { Action::StepAll }),
            Tracking::Ready => match process.ping {
                None => out.push(Action::Ping),
                // A replaced master does not answer the heartbeat.
                Some(_) if !process.pong && process.replaced && !self.is(Mutation::ReplacedExtendsLease) => {}
                Some(_) if !process.pong => {
                    out.push(Action::Pong { behind: false });
                    if process.may != 0 {
                        out.push(Action::Pong { behind: true });
                    }
                }
                Some(_) if process.ahead == 0 => out.push(Action::DeliverPong),
                Some(_) => {}
            },
        }
        let deliverable = if process.pong { process.ahead } else { process.must | process.may };
        for name in self.names() {
            if deliverable >> name & 1 == 1 {
                out.push(Action::DeliverPush { name: name as u8 });
            }
        }
        if self.disconnect && process.tracking != Tracking::Lost && !process.replaced {
            out.push(Action::Lose);
        }
    }

    pub(crate) fn apply_environment(&self, state: &mut State, effects: &mut Effects, action: Action) {
        match action {
            Action::LockExpires => state.redis.lock = 0,
            Action::EvictEntry => state.redis.entry = None,
            Action::EvictGeneration { name } if self.touches || self.is(Mutation::OwnDeletionUnstepped) => {
                self.lose_generation(state, name as usize)
            }
            Action::EvictGeneration { name } => self.delete_generation(state, name as usize),
            Action::EvictFence { name } => state.redis.fences[name as usize] = 0,
            Action::EvictCounter => state.redis.counter = Created::default(),
            Action::ReplicaStops => state.replica = Some(state.redis),
            Action::Failover { name } => {
                effects.seen |= seen::FAILED_OVER;
                if let Some(replica) = state.replica.take() {
                    self.promote(state, replica, name as usize);
                }
            }
            Action::Notice => self.notice(state, effects),
            Action::Lose => self.lose_connection(state),
            Action::Reconnect => state.process.tracking = Tracking::Connected,
            Action::TrackingOn => {
                let flush_first = self.is(Mutation::FlushBeforeTracking);
                state.process.tracking = if flush_first { Tracking::Ready } else { Tracking::On };
            }
            Action::StepAll => {
                let flush_first = self.is(Mutation::FlushBeforeTracking);
                self.step_epochs(state, self.all());
                state.process.tracking = if flush_first { Tracking::On } else { Tracking::Ready };
            }
            Action::Ping => {
                state.process.ping = Some(Sent { acked: state.acked, returned: state.returned, at: state.now });
            }
            Action::Pong { behind } => {
                let process = &mut state.process;
                process.pong = true;
                process.ahead = process.must | if behind { 0 } else { process.may };
                process.must = if behind { process.may } else { 0 };
                process.may = 0;
            }
            Action::DeliverPush { name } => {
                let process = &mut state.process;
                let bit = 1 << name;
                if process.pong {
                    process.ahead &= !bit;
                } else {
                    process.must &= !bit;
                    process.may &= !bit;
                }
                self.step_epochs(state, bit);
            }
            Action::DeliverPong => {
                let process = &mut state.process;
                if process.trusted.is_none() && process.last.is_some() {
                    effects.seen |= seen::LEASE_BACK;
                }
                process.trusted = if self.is(Mutation::TrustLatestPing) { process.ping } else { process.last };
                process.last = process.ping.take();
                process.pong = false;
            }
            Action::Collide { name } => self.step_epochs(state, 1 << name),
            Action::Tick => state.now += 1,
            _ => unreachable!("not an action of the environment"),
        }
    }

    /// Promotes the replica with the last data that it received, and with a new store id.
    pub(crate) fn promote(&self, state: &mut State, replica: Redis, name: usize) {
        let before = state.redis;
        if self.split {
            state.redis.generations[name] = replica.generations[name];
            state.redis.fences[name] = replica.fences[name];
            state.redis.store[name] += 1;
            if name == 0 {
                state.redis.entry = replica.entry;
                state.redis.lock = replica.lock;
            }
        } else {
            state.redis = replica;
            state.redis.store = [1; NAMES];
        }
        if self.replaced != Replaced::Gone {
            state.process.replaced = true;
            state.replica = Some(before).filter(|_| self.is(Mutation::ReplacedIsRead));
        } else if self.coherence == Coherence::Leased {
            self.lose_connection(state);
        }
    }

    /// The process notices that its master was replaced, and connects to the new one. Invalidations that the replaced master
    /// accepted are delivered again; only then does their write count as acknowledged.
    fn notice(&self, state: &mut State, effects: &mut Effects) {
        effects.seen |= seen::NOTICED;
        state.process.replaced = false;
        state.replica = None;
        if self.coherence == Coherence::Leased {
            self.lose_connection(state);
        }
        let (lost, version) = (state.process.lost, state.process.lost_version);
        (state.process.lost, state.process.lost_version) = (0, 0);
        for name in self.names().filter(|name| lost >> name & 1 == 1) {
            effects.seen |= seen::DELIVERED_AGAIN;
            if !self.is(Mutation::NotDeliveredAgain) {
                self.delete_generation(state, name);
                self.touch(state, name);
            }
        }
        self.step_epochs(state, lost);
        state.acked = state.acked.max(version);
    }

    pub(crate) fn lose_connection(&self, state: &mut State) {
        let process = &mut state.process;
        process.tracking = Tracking::Lost;
        process.ahead = 0;
        process.must = 0;
        process.may = 0;
        process.pong = false;
        process.ping = None;
        process.last = None;
        process.trusted = None;
    }

    /// Executes `SET g random NX`. The process of the creator receives no push (NOLOOP), neither for this change nor for an
    /// earlier one in the same event-loop cycle.
    pub(crate) fn create_generation(&self, state: &mut State, name: usize, near: bool) {
        if state.redis.generations[name] == MISSING {
            state.redis.generations[name] = if self.is(Mutation::CounterFromZero) {
                1
            } else {
                state.given[name] += 1;
                state.given[name]
            };
            if !near && !self.touches {
                self.push(state, name);
            }
        }
    }

    pub(crate) fn delete_generation(&self, state: &mut State, name: usize) {
        if state.redis.generations[name] != MISSING {
            self.lose_generation(state, name);
            if !self.touches {
                self.push(state, name);
            }
        }
    }

    /// Pushes a name whose generation is not tracked.
    pub(crate) fn touch(&self, state: &mut State, name: usize) {
        if self.touches {
            self.push(state, name);
        }
    }

    /// Deletes a generation without a push.
    fn lose_generation(&self, state: &mut State, name: usize) {
        state.redis.generations[name] = MISSING;
        if name == ADDED {
            state.redis.created = Created::default();
        }
    }

    /// Pushes a changed generation to the tracking connection.
    pub(crate) fn push(&self, state: &mut State, name: usize) {
        let process = &mut state.process;
        let tracked_from = if self.is(Mutation::FlushBeforeTracking) { Tracking::Ready } else { Tracking::On };
        if self.coherence == Coherence::Leased && process.tracking >= tracked_from && !process.replaced {
            process.may |= 1 << name;
        }
    }

    /// Gives the epochs of `names` the next sequence number.
    pub(crate) fn step_epochs(&self, state: &mut State, names: u8) {
        for reader in 0..self.readers.len() {
            if self.is_near(reader) && state.readers[reader].step != Step::Idle {
                state.readers[reader].stepped |= names;
            }
        }
        for name in self.names() {
            if names >> name & 1 == 1 {
                state.process.generations[name] = MISSING;
            }
        }
        state.process.memory = None;
    }
}
