//! Steps of a write: fence, statement, bump, response; or its crash at any point between.

use crate::protocol::Effects;
use crate::scope::{Coherence, Mutation, Place, Scope};
use crate::state::*;

/// Bits of the work of a writer: the names, and the names again for the second round.
const ALL: u8 = 0b11;
const SECOND: u8 = 2;

impl Scope {
    pub(crate) fn writer_actions(&self, state: &State, index: usize, out: &mut Vec<Action>) {
        let writer = &state.writers[index];
        let id = index as u8;
        match writer.step {
            Write::Idle => out.push(Action::Start { writer: id }),
            Write::Fencing | Write::Bumping => {
                let reversed = match writer.step {
                    Write::Fencing => self.is(Mutation::UnlinkBeforeFence),
                    _ => self.is(Mutation::TouchBeforeDeletion),
                };
                let first = match reversed {
                    true => writer.todo & ALL << SECOND == 0,
                    false => writer.todo & ALL != 0,
                };
                for name in self.names() {
                    let due = writer.todo >> (if first { 0 } else { SECOND }) >> name & 1 == 1;
                    let name = name as u8;
                    if due && !first && self.is(Mutation::LostTouchTrusted) {
                        out.push(Action::TrustLostTouch { writer: id, name });
                    }
                    if due {
                        out.push(match (writer.step, first) {
                            (Write::Fencing, true) => Action::Fence { writer: id, name },
                            (Write::Fencing, false) => Action::Unlink { writer: id, name },
                            (_, true) => Action::Bump { writer: id, name },
                            (_, false) if self.touches => Action::Touch { writer: id, name },
                            (_, false) => Action::Unfence { writer: id, name },
                        });
                    }
                }
            }
            Write::Running => {
                if self.is(Mutation::UnfenceOnUnknown) || self.is(Mutation::DropGuardBumps) {
                    out.push(Action::GiveUp { writer: id });
                }
            }
            Write::Done | Write::Dead => {
                let flying = writer.statement == Statement::Flying;
                if flying {
                    out.push(Action::Abort { writer: id });
                }
                // The deadline exceeds that of the statement: it cannot pass while the statement may commit.
                let due = !flying || self.is(Mutation::ShortDeadline);
                if due && !self.is(Mutation::FenceWithoutDeadline) {
                    for name in self.names() {
                        if state.redis.fences[name] >> index & 1 == 1 {
                            out.push(Action::FenceExpires { writer: id, name: name as u8 });
                        }
                    }
                }
            }
        }
        if writer.statement == Statement::Flying {
            out.push(Action::Commit { writer: id });
        }
        if self.crash && matches!(writer.step, Write::Fencing | Write::Running | Write::Bumping) {
            out.push(Action::Crash { writer: id });
        }
    }

    pub(crate) fn apply_writer(&self, state: &mut State, effects: &mut Effects, action: Action) {
        match action {
            Action::Start { writer } => {
                let targets = self.targets(writer as usize);
                let writer = &mut state.writers[writer as usize];
                if self.strict {
                    writer.step = Write::Fencing;
                    writer.todo = self.rounds(targets);
                } else {
                    writer.step = Write::Running;
                    writer.statement = Statement::Flying;
                }
            }
            Action::Fence { writer, name } => {
                let (index, name) = (writer as usize, name as usize);
                let token = 1 << index;
                let fences = &mut state.redis.fences[name];
                *fences = if self.is(Mutation::SingleFenceToken) { token } else { *fences | token };
                if !self.split {
                    self.delete_generation(state, name);
                }
                if !self.is(Mutation::FenceUnpushed) {
                    self.touch(state, name);
                }
                self.fenced(state, index, 1 << name);
            }
            Action::Unlink { writer, name } => {
                self.delete_generation(state, name as usize);
                self.fenced(state, writer as usize, 1 << name << SECOND);
            }
            Action::Commit { writer } => {
                let index = writer as usize;
                state.db += 1;
                let targets = self.targets(index);
                let writer = &mut state.writers[index];
                writer.statement = Statement::Committed;
                if writer.step == Write::Running {
                    writer.version = state.db;
                    writer.step = Write::Bumping;
                    writer.todo = self.last_rounds(targets);
                    if self.is(Mutation::LocalBumpFirst) && self.writers[index] == Place::Near {
                        self.step_epochs(state, targets);
                    }
                    if self.is(Mutation::RespondBeforeBump) {
                        self.acknowledge(state, index);
                    }
                    if self.coherence == Coherence::Alone {
                        self.step_epochs(state, targets);
                        self.finish(state, index);
                    }
                }
            }
            Action::Abort { writer } => state.writers[writer as usize].statement = Statement::None,
            Action::Bump { writer, name } => {
                let (index, name) = (writer as usize, name as usize);
                if self.strict && !self.split {
                    self.unfence(state, index, name);
                }
                let skips = self.is(Mutation::TouchOnlyIfDeleted) && state.redis.generations[name] == MISSING;
                if state.process.replaced && self.writers[index] == Place::Near {
                    state.process.lost |= 1 << name;
                } else {
                    self.bump(state, name);
                }
                self.bumped(state, index, if skips { 1 << name | 1 << name << SECOND } else { 1 << name });
            }
            Action::Touch { writer, name } => {
                self.touch(state, name as usize);
                self.bumped(state, writer as usize, 1 << name << SECOND);
            }
            Action::TrustLostTouch { writer, name } => self.bumped(state, writer as usize, 1 << name << SECOND),
            Action::Unfence { writer, name } => {
                self.unfence(state, writer as usize, name as usize);
                self.bumped(state, writer as usize, 1 << name << SECOND);
            }
            Action::Crash { writer } => {
                let writer = &mut state.writers[writer as usize];
                if !self.strict && writer.statement != Statement::None {
                    state.owed = true;
                }
                writer.step = Write::Dead;
                writer.todo = 0;
                writer.version = 0;
            }
            Action::GiveUp { writer } => {
                let index = writer as usize;
                let targets = self.targets(index);
                let writer = &mut state.writers[index];
                writer.step = Write::Bumping;
                writer.todo = self.last_rounds(targets);
                writer.unknown = true;
            }
            Action::FenceExpires { writer, name } => {
                effects.seen |= seen::FENCE_EXPIRED;
                state.redis.fences[name as usize] &= !(1 << writer);
            }
            _ => unreachable!("not an action of a writer"),
        }
    }

    /// Returns the work of one or two rounds. With one master, one script writes a fence and its generation. A script with two
    /// keys cannot run while their slot migrates. In a cluster, therefore, all fences are set before any generation is deleted,
    /// and the other way round when they are removed.
    fn rounds(&self, targets: u8) -> u8 {
        if self.split { targets | targets << SECOND } else { targets }
    }

    /// Returns the work after the statement. One script deletes the generation and touches the name. Here these are two steps,
    /// because more can come between them.
    fn last_rounds(&self, targets: u8) -> u8 {
        match self.strict {
            _ if self.touches => targets | targets << SECOND,
            true => self.rounds(targets),
            false => targets,
        }
    }

    fn fenced(&self, state: &mut State, index: usize, done: u8) {
        let writer = &mut state.writers[index];
        writer.todo &= !done;
        if writer.todo == 0 {
            writer.step = Write::Running;
            writer.statement = Statement::Flying;
        }
    }

    fn unfence(&self, state: &mut State, index: usize, name: usize) {
        let fences = &mut state.redis.fences[name];
        *fences = if self.is(Mutation::SingleFenceToken) { 0 } else { *fences & !(1 << index) };
    }

    fn bumped(&self, state: &mut State, index: usize, done: u8) {
        state.writers[index].todo &= !done;
        if state.writers[index].todo == 0 {
            // The process of the writer bumps locally, too, after Redis and before the response.
            if self.writers[index] == Place::Near && !self.is(Mutation::LocalBumpFirst) {
                self.step_epochs(state, self.targets(index));
            }
            self.finish(state, index);
        }
    }

    /// Acknowledges the write as soon as its bump is done: an earlier acknowledgement makes the laws stronger.
    pub(crate) fn finish(&self, state: &mut State, index: usize) {
        if state.process.lost != 0 && self.writers[index] == Place::Near {
            state.process.lost_version = state.process.lost_version.max(state.writers[index].version);
        } else if !state.writers[index].unknown {
            self.acknowledge(state, index);
        }
        let writer = &mut state.writers[index];
        writer.step = Write::Done;
        writer.todo = 0;
        writer.version = 0;
        writer.unknown = false;
    }

    pub(crate) fn acknowledge(&self, state: &mut State, index: usize) {
        state.acked = state.acked.max(state.writers[index].version);
        if self.coherence == Coherence::Leased && self.writers[index] == Place::Near {
            state.acked_near = state.acked_near.max(state.writers[index].version);
        }
        if self.ticks > 0 {
            for version in 1..=state.acked as usize {
                if state.acked_at[version] == NEVER {
                    state.acked_at[version] = state.now;
                }
            }
        }
    }

    /// Deletes the generation of a name.
    pub(crate) fn bump(&self, state: &mut State, name: usize) {
        match self.mutation {
            Mutation::DeleteInsteadOfBump => state.redis.entry = None,
            Mutation::CounterFromZero => state.redis.generations[name] = state.redis.generations[name].max(1) + 1,
            // A protocol that treats "missing" as "never invalidated" has to leave a mark that is not missing.
            Mutation::MissingIsValid => {
                state.given[name] += 1;
                state.redis.generations[name] = state.given[name];
            }
            _ => self.delete_generation(state, name),
        }
    }
}
