//! The protocol of `protocol.md` as a transition system: one key, one Redis, one process whose memory is modelled,
//! readers and writers near (in that process) and far (in others), and the faults between them.
//!
//! A state is small, plain and `Copy`. Nondeterminism of the protocol is a choice between actions. Each action is
//! atomic and has one outcome. If real code executes two steps one after the other, so does the model, unless executing both at
//! once is the harder case for a law: then a comment says so.

use crate::checker::{Model, Outcome};
use crate::scope::{Coherence, Mutation, Place, Replaced, Scope};
use crate::state::*;
use crate::{canonical, describe};

/// Effects of an action in addition to the state.
pub(crate) struct Effects {
    pub(crate) violated: u32,
    pub(crate) seen: u32,
}

impl Scope {
    pub(crate) fn names(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.namespaces as usize
    }

    pub(crate) fn all(&self) -> u8 {
        (1 << self.namespaces) - 1
    }

    /// Returns the namespaces known from the request.
    pub(crate) fn requested(&self) -> u8 {
        if self.added { 0b1 } else { self.all() }
    }

    /// Returns whether each command reads or checks one namespace only.
    pub(crate) fn separate(&self) -> bool {
        self.split || self.added
    }

    /// Returns the namespaces that a command for `name` covers.
    pub(crate) fn covers(&self, name: usize) -> u8 {
        if self.separate() { 1 << name } else { self.all() }
    }

    /// Returns whether a reader uses a replaced master that refuses every command.
    pub(crate) fn is_refused(&self, state: &State, reader: usize) -> bool {
        self.is_near(reader) && state.process.replaced && self.replaced == Replaced::Refuses
    }

    pub(crate) fn is_near(&self, reader: usize) -> bool {
        self.readers[reader] == Place::Near
    }

    pub(crate) fn keeps_memory(&self) -> bool {
        self.memory || self.coherence != Coherence::Validated
    }

    pub(crate) fn targets(&self, writer: usize) -> u8 {
        self.bumps[writer] & self.all()
    }

    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == mutation
    }

    /// Returns whether a generation in Redis confirms the one of a stamp.
    pub(crate) fn confirms(&self, stamp: Generation, current: Generation) -> bool {
        (current == MISSING && self.is(Mutation::MissingIsValid)) || (current != MISSING && stamp == current)
    }

    pub(crate) fn same_store(&self, stamp: [u8; NAMES], current: [u8; NAMES]) -> bool {
        stamp[0] == current[0] && (self.is(Mutation::StoreIdOfOneMaster) || stamp[1] == current[1])
    }

    /// Returns whether an entry would be served with the present data of Redis, ignoring fences.
    pub(crate) fn servable(&self, entry: &Entry, redis: &Redis) -> bool {
        self.same_store(entry.store, redis.store)
            && self.names().all(|name| self.confirms(entry.generations[name], redis.generations[name]))
    }

    pub(crate) fn lease_counts(&self, state: &State) -> bool {
        if self.is(Mutation::FlushOnReconnectAlone) {
            return true;
        }
        let process = &state.process;
        let trusted = process.trusted.filter(|_| process.tracking == Tracking::Ready);
        trusted.is_some_and(|sent| self.ticks == 0 || state.now - sent.at <= DELTA)
    }

    /// Returns the oldest allowed version of a leased hit. Without a clock: everything acknowledged when the
    /// trusted PING was sent. This is the stronger statement, because the lease guarantees that this was at most Δ ago. With a
    /// clock, in addition: everything acknowledged more than Δ ago. A process sees its own writes at once, because
    /// it bumps locally, too, before the response.
    pub(crate) fn leased_floor(&self, state: &State) -> (u8, u8) {
        let trusted = state.process.trusted;
        let mut floor = trusted.map_or(0, |sent| sent.acked).max(state.acked_near);
        for version in 1..=2 {
            let at = state.acked_at[version as usize];
            if self.ticks > 0 && at != NEVER && at + DELTA < state.now && floor < version {
                floor = version;
            }
        }
        (floor, trusted.map_or(0, |sent| sent.returned))
    }

    /// Marks every entry, and every fill with a complete stamp, that differs from Redis.
    pub(crate) fn remember_differences(&self, state: &mut State) {
        let redis = state.redis;
        let mark = |entry: &mut Option<Entry>| {
            if let Some(entry) = entry {
                entry.differed |= entry.generations != redis.generations || entry.store != redis.store;
            }
        };
        mark(&mut state.redis.entry);
        mark(&mut state.process.memory);
        if let Some(replica) = &mut state.replica {
            mark(&mut replica.entry);
        }
        for reader in &mut state.readers {
            if matches!(reader.step, Step::Stamped | Step::Called | Step::Named | Step::Store | Step::Install) {
                for name in 0..NAMES {
                    let generation = reader.generations[name];
                    reader.differed |= generation != MISSING && generation != redis.generations[name];
                }
                reader.differed |= reader.store != redis.store;
            }
        }
    }

    /// Returns whether no write is running and nothing of a write remains.
    pub(crate) fn settled(&self, state: &State) -> bool {
        state.redis.fences == [0; NAMES]
            && state.process.lost == 0
            && state.writers[..self.writers.len()].iter().all(|writer| {
                matches!(writer.step, Write::Idle | Write::Done | Write::Dead) && writer.statement != Statement::Flying
            })
    }

    /// Checks the laws about states, not responses.
    pub(crate) fn check(&self, state: &State) -> u32 {
        let mut violated = 0;
        let settled = self.settled(state);
        let process = &state.process;
        let validated = [state.redis.entry, process.memory.filter(|_| self.coherence == Coherence::Validated)];
        for entry in validated.iter().flatten() {
            if self.servable(entry, &state.redis) {
                if settled && entry.version != state.db {
                    violated |= if state.owed { law::SETTLE_AFTER_DEATH } else { law::SETTLE };
                }
                if entry.differed {
                    violated |= law::NO_RESURRECT;
                }
            }
        }
        if let Some(entry) = process.memory {
            let servable = match self.coherence {
                Coherence::Alone => true,
                Coherence::Validated => false,
                Coherence::Leased => {
                    // A replaced master sends nothing: the lease ends.
                    self.lease_counts(state)
                        && !process.replaced
                        && process.tracking == Tracking::Ready
                        && process.ahead | process.must | process.may == 0
                }
            };
            if servable && settled && !state.owed && entry.version != state.db {
                violated |= law::SETTLE;
            }
            // After a bump, an equal generation is possible only if generations are not random. The loss of a generation that is
            // not tracked ends no entry in memory, because nothing was invalidated.
            if servable && self.coherence == Coherence::Leased && !self.touches && entry.differed {
                violated |= law::NO_RESURRECT;
            }
        }
        violated
    }
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let sent = Some(Sent { acked: 0, returned: 0, at: 0 }).filter(|_| self.coherence == Coherence::Leased);
        State {
            db: 0,
            acked: 0,
            acked_near: 0,
            returned: 0,
            owed: false,
            now: 0,
            acked_at: [0, NEVER, NEVER],
            redis: Redis {
                store: [0; NAMES],
                entry: None,
                generations: [MISSING; NAMES],
                fences: [0; NAMES],
                counter: Created::default(),
                created: Created::default(),
                lock: 0,
            },
            replica: None,
            process: Process {
                memory: None,
                generations: [MISSING; NAMES],
                tracking: Tracking::Ready,
                ahead: 0,
                must: 0,
                may: 0,
                pong: false,
                ping: None,
                last: sent,
                trusted: sent,
                replaced: false,
                lost: 0,
                lost_version: 0,
            },
            readers: [IDLE; READERS],
            writers: [Writer { step: Write::Idle, statement: Statement::None, todo: 0, version: 0, unknown: false }; WRITERS],
            given: [0; NAMES],
            given_randoms: 0,
        }
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        for reader in 0..self.readers.len() {
            self.reader_actions(state, reader, out);
        }
        for writer in 0..self.writers.len() {
            self.writer_actions(state, writer, out);
        }
        self.environment_actions(state, out);
    }

    fn apply(&self, state: &State, action: Action) -> Outcome<State> {
        let mut next = *state;
        let mut effects = Effects { violated: 0, seen: 0 };
        match action {
            Action::Start { .. }
            | Action::Fence { .. }
            | Action::Unlink { .. }
            | Action::Commit { .. }
            | Action::Abort { .. }
            | Action::Bump { .. }
            | Action::Unfence { .. }
            | Action::Touch { .. }
            | Action::TrustLostTouch { .. }
            | Action::Crash { .. }
            | Action::GiveUp { .. }
            | Action::FenceExpires { .. } => self.apply_writer(&mut next, &mut effects, action),
            Action::LockExpires
            | Action::EvictEntry
            | Action::EvictGeneration { .. }
            | Action::EvictFence { .. }
            | Action::EvictCounter
            | Action::ReplicaStops
            | Action::Failover { .. }
            | Action::Notice
            | Action::Lose
            | Action::Reconnect
            | Action::TrackingOn
            | Action::StepAll
            | Action::Ping
            | Action::Pong { .. }
            | Action::DeliverPush { .. }
            | Action::DeliverPong
            | Action::Collide { .. }
            | Action::Tick => self.apply_environment(&mut next, &mut effects, action),
            _ => self.apply_reader(&mut next, &mut effects, action),
        }
        self.remember_differences(&mut next);
        effects.violated |= self.check(&next);
        Outcome { state: next, violated: effects.violated, seen: effects.seen }
    }

    fn canonical(&self, state: State) -> State {
        canonical::form(self, state)
    }

    fn counts(&self, action: Action) -> bool {
        // With Redis absent, only steps that need neither Redis nor a new request.
        !self.absent
            || matches!(
                action,
                Action::Send { .. }
                    | Action::Unanswered { .. }
                    | Action::Poll { .. }
                    | Action::CallInner { .. }
                    | Action::Arrive { .. }
                    | Action::Install { .. }
                    | Action::Call { .. }
                    | Action::Return { .. }
            )
    }

    fn quiet(&self, state: &State) -> bool {
        let idle = state.readers.iter().all(|reader| reader.step == Step::Idle);
        if self.absent {
            return idle;
        }
        idle && state.redis.lock == 0
            && state.redis.fences == [0; NAMES]
            && state.writers.iter().all(|writer| {
                matches!(writer.step, Write::Idle | Write::Done | Write::Dead) && writer.statement != Statement::Flying
            })
    }

    fn describe(&self, before: &State, action: Action, after: &State) -> String {
        describe::line(self, before, action, after)
    }
}
