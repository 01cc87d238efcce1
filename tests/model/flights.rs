//! Flights: joining, the end of a flight, requests without a generation, and the responses of all.

use crate::protocol::Effects;
use crate::scope::{Coherence, Mutation, Scope};
use crate::state::*;

impl Scope {
    /// Returns whether a reader may join the fill of `leader`: the test of an entry.
    pub(crate) fn may_join(&self, state: &State, key: u8, known: Option<&Reader>, leader: usize) -> bool {
        let fill = &state.readers[leader];
        let under_way = match self.coherence {
            Coherence::Validated => matches!(fill.step, Step::Stamped | Step::Called),
            _ => matches!(fill.step, Step::BeginFill | Step::Read | Step::Create | Step::Stamped | Step::Called),
        };
        if !under_way || fill.key != key {
            return false;
        }
        if self.is(Mutation::JoinWithoutLiveness) {
            return true;
        }
        match known {
            // A call that has not begun is new enough for every reader. For a running call, the generations decide.
            None if self.coherence == Coherence::Leased => {
                let known = state.process.generations;
                !matches!(fill.step, Step::Stamped | Step::Called)
                    || self
                        .names()
                        .filter(|name| self.requested() >> name & 1 == 1)
                        .all(|name| self.confirms(fill.generations[name], known[name]))
            }
            None => fill.stepped & self.requested() == 0,
            Some(reader) => {
                self.same_store(fill.store, reader.store)
                    && self.names().all(|name| self.confirms(fill.generations[name], reader.generations[name]))
            }
        }
    }

    /// Delivers a response to all followers.
    pub(crate) fn land(&self, state: &mut State, effects: &mut Effects, leader: usize, version: u8) {
        let fill = state.readers[leader];
        for index in 0..self.readers.len() {
            let follower = state.readers[index];
            if follower.step != Step::Follow || follower.leader as usize != leader {
                continue;
            }
            if self.added {
                let bumped = fill.stepped >> ADDED & 1 == 1;
                let since_joining = follower.stepped >> ADDED & 1 == 1;
                if bumped && !(since_joining && self.is(Mutation::LandingAgainstJoin)) {
                    effects.seen |= seen::TURNED_AWAY;
                    state.readers[index] = Reader {
                        step: Step::BeginFill,
                        key: follower.key,
                        floor: follower.floor,
                        floor_returned: follower.floor_returned,
                        ..IDLE
                    };
                    continue;
                }
            }
            effects.seen |= seen::JOINED;
            if follower.key != fill.key {
                effects.violated |= law::IDENTITY;
            }
            self.hit(state, effects, version, (follower.floor, follower.floor_returned));
            state.readers[index] = IDLE;
        }
    }

    /// Restarts the followers of a flight that ends without a response. They keep their version floors.
    pub(crate) fn dismiss(&self, state: &mut State, leader: usize) {
        for reader in &mut state.readers {
            if reader.step == Step::Follow && reader.leader as usize == leader {
                *reader = Reader {
                    step: Step::BeginFill,
                    key: reader.key,
                    floor: reader.floor,
                    floor_returned: reader.floor_returned,
                    ..IDLE
                };
            }
        }
    }

    /// Continues without a generation, because Redis does not answer or there is a fence: calls the inner service, stores
    /// nothing, and\n/// releases the followers.
    pub(crate) fn go_without_generation(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        self.dismiss(state, index);
        if !self.unanswered {
            // No reader shares the call: an immediate response is the earliest, and the next request may come later.
            self.respond(state, effects, state.db, (reader.floor, reader.floor_returned));
            state.readers[index] = IDLE;
            return;
        }
        state.readers[index] =
            Reader { step: Step::Forming, key: reader.key, floor: reader.floor, floor_returned: reader.floor_returned, ..IDLE };
    }

    pub(crate) fn hit(&self, state: &mut State, effects: &mut Effects, version: u8, floor: (u8, u8)) {
        self.respond(state, effects, version, floor);
        if version < state.db {
            effects.seen |= seen::STALE_ALLOWED;
        }
        if state.acked as usize == self.writers.len() && version == state.db {
            effects.seen |= seen::HIT_AT_THE_END;
        }
    }

    pub(crate) fn respond(&self, state: &mut State, effects: &mut Effects, version: u8, floor: (u8, u8)) {
        if version < floor.0 {
            effects.violated |= law::ACK_FRESH;
        }
        if self.strict {
            if version < floor.1 {
                effects.violated |= law::MONOTONE;
            }
            state.returned = state.returned.max(version);
        }
    }

    /// Remembers the generations that RT1 or RT2 read (leased), unless a push came after the capture.
    pub(crate) fn learn_generations(&self, state: &mut State, reader: &Reader, index: usize) {
        if self.coherence == Coherence::Leased && self.is_near(index) {
            for name in self.names() {
                if reader.stepped >> name & 1 == 0 && reader.generations[name] != MISSING {
                    state.process.generations[name] = reader.generations[name];
                }
            }
        }
    }
}
