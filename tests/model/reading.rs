//! Steps of a request, and the effects of each.

use crate::protocol::Effects;
use crate::scope::{Coherence, Mutation, Scope};
use crate::state::*;

impl Scope {
    pub(crate) fn reader_actions(&self, state: &State, index: usize, out: &mut Vec<Action>) {
        let reader = &state.readers[index];
        let near = self.is_near(index);
        let id = index as u8;
        let count = self.readers.len();
        let needs_redis = matches!(
            reader.step,
            Step::Read | Step::Get | Step::Create | Step::Wait | Step::Named | Step::Count | Step::Number | Step::Store
        );
        if needs_redis && self.is_refused(state, index) && !(reader.step == Step::Read && self.is(Mutation::ReplacedIsRead)) {
            out.push(Action::Unanswered { reader: id });
            return;
        }
        match reader.step {
            Step::Idle => {
                for key in 0..=u8::from(self.two_keys) {
                    out.push(Action::Begin { reader: id, key });
                    if !near || self.coherence == Coherence::Validated {
                        continue;
                    }
                    let counts = self.coherence == Coherence::Alone || self.lease_counts(state);
                    if !counts {
                        continue;
                    }
                    if state.process.memory.is_some_and(|entry| entry.key == key || self.is(Mutation::NoKeyCheck)) {
                        out.push(Action::HitMemory { reader: id, key });
                    }
                    let known = self.names().all(|name| state.process.generations[name] != MISSING);
                    if self.coherence == Coherence::Leased && known {
                        out.push(Action::BeginLeased { reader: id, key });
                    }
                    for leader in 0..count {
                        if self.flights && leader != index && self.is_near(leader) && self.may_join(state, key, None, leader) {
                            out.push(Action::BeginJoined { reader: id, key, leader: leader as u8 });
                        }
                    }
                }
            }
            Step::BeginFill => out.push(Action::Send { reader: id }),
            Step::Read => {
                for name in self.names() {
                    let first = name == 0 || !self.added || reader.todo & (READ | CHECK) == 0;
                    let looks = reader.todo & CHECK << name != 0 && first;
                    if looks && self.is(Mutation::CheckBeforeRead) {
                        out.push(Action::Check { reader: id, name: name as u8 });
                    } else if reader.todo & READ << name != 0 && first {
                        out.push(Action::Read { reader: id, name: name as u8, memory: false });
                        let in_memory = name == 0 && near && self.coherence != Coherence::Alone && self.keeps_memory();
                        if in_memory && state.process.memory.is_some() {
                            out.push(Action::Read { reader: id, name: name as u8, memory: true });
                        }
                    } else if looks {
                        out.push(Action::Check { reader: id, name: name as u8 });
                    }
                }
            }
            Step::Get => out.push(Action::Get { reader: id }),
            Step::Create => {
                let creating = reader.todo & (READ | READ << 1) != 0;
                let locking = reader.todo & LOCK != 0;
                if locking {
                    out.push(Action::TakeLock { reader: id });
                }
                for name in self.names().filter(|_| !locking) {
                    if reader.todo & READ << name != 0 {
                        self.creations(state, near, name, out, |push_lost| Action::Create {
                            reader: id,
                            name: name as u8,
                            push_lost,
                        });
                    } else if reader.todo & CHECK << name != 0 && (self.separate() || !creating) {
                        out.push(Action::Check { reader: id, name: name as u8 });
                    }
                }
            }
            Step::Wait => out.push(Action::Poll { reader: id }),
            Step::Stamped => out.push(Action::CallInner { reader: id }),
            Step::Called => out.push(Action::Arrive { reader: id }),
            Step::Named => self.creations(state, near, ADDED, out, |push_lost| Action::ReadAdded { reader: id, push_lost }),
            Step::Count => out.push(Action::CountAdded { reader: id }),
            Step::Number => out.push(Action::NumberAdded { reader: id }),
            Step::Store => out.push(Action::Store { reader: id }),
            Step::Install => {
                out.push(Action::Install { reader: id });
                if self.coherence == Coherence::Leased && reader.stepped & self.all() != 0 && !self.is_refused(state, index) {
                    out.push(Action::Recheck { reader: id });
                }
            }
            Step::Follow => {}
            Step::Forming if reader.leader == 0 => out.push(Action::Call { reader: id }),
            Step::Forming => {}
            Step::Running => out.push(Action::Return { reader: id }),
        }
        if self.flights && near && self.coherence == Coherence::Validated && reader.step == Step::Stamped {
            for leader in 0..count {
                if leader != index && self.is_near(leader) && self.may_join(state, reader.key, Some(reader), leader) {
                    out.push(Action::Join { reader: id, leader: leader as u8 });
                }
            }
        }
        let shared = state.readers.iter().any(|other| other.step == Step::Forming && other.leader == id + 1);
        if self.unanswered && reader.step == Step::Forming && reader.leader == 0 && !shared {
            for leader in 0..count {
                let call = &state.readers[leader];
                let open = (call.step == Step::Forming && call.leader == 0)
                    || (call.step == Step::Running && self.is(Mutation::JoinRunningCall));
                if leader != index && open && call.key == reader.key {
                    out.push(Action::Share { reader: id, leader: leader as u8 });
                }
            }
        }
        let without_timeout = self.is(Mutation::NoTimeout) && reader.step == Step::Read;
        if self.unanswered && needs_redis && !without_timeout {
            out.push(Action::Unanswered { reader: id });
        }
    }

    pub(crate) fn apply_reader(&self, state: &mut State, effects: &mut Effects, action: Action) {
        match action {
            Action::Begin { reader, key } => {
                state.readers[reader as usize] =
                    Reader { step: Step::BeginFill, key, floor: state.acked, floor_returned: state.returned, ..IDLE };
            }
            Action::HitMemory { key, .. } => {
                let floor = match self.coherence {
                    Coherence::Leased => self.leased_floor(state),
                    _ => (state.acked, state.returned),
                };
                if let Some(entry) = state.process.memory {
                    effects.seen |= seen::HIT_MEMORY;
                    if entry.version < state.acked {
                        effects.seen |= seen::STALE_LEASED;
                    }
                    if entry.key != key {
                        effects.violated |= law::IDENTITY;
                    }
                    self.hit(state, effects, entry.version, floor);
                }
            }
            Action::BeginLeased { reader, key } => {
                let (floor, floor_returned) = self.leased_floor(state);
                state.readers[reader as usize] = Reader { step: Step::Get, key, floor, floor_returned, ..IDLE };
            }
            Action::BeginJoined { reader, key, leader } => {
                let (floor, floor_returned) = match self.coherence {
                    Coherence::Leased => self.leased_floor(state),
                    _ => (state.acked, state.returned),
                };
                let follower = Reader { step: Step::Follow, key, floor, floor_returned, leader, ..IDLE };
                state.readers[reader as usize] = follower;
            }
            Action::Join { reader, leader } => {
                let index = reader as usize;
                let Reader { key, floor, floor_returned, .. } = state.readers[index];
                self.dismiss(state, index);
                let follower = Reader { step: Step::Follow, key, floor, floor_returned, leader, ..IDLE };
                state.readers[index] = follower;
            }
            Action::Send { reader } => {
                let reader = &mut state.readers[reader as usize];
                if self.coherence == Coherence::Alone {
                    reader.step = Step::Stamped;
                } else {
                    self.start_reading(reader);
                }
            }
            Action::Read { reader, name, memory } => {
                let (index, name) = (reader as usize, name as usize);
                let refused = self.is_refused(state, index);
                let redis = state.replica.filter(|_| refused).unwrap_or(state.redis);
                let reader = &mut state.readers[index];
                reader.todo &= !(READ << name);
                for covered in self.names() {
                    if self.covers(name) >> covered & 1 == 1 {
                        reader.generations[covered] = redis.generations[covered];
                        reader.store[covered] = redis.store[covered];
                    }
                }
                if name == 0 {
                    if !self.separate() {
                        reader.store = redis.store;
                    }
                    reader.found = if memory {
                        effects.seen |= state
                            .process
                            .memory
                            .map_or(0, |entry| if self.servable(&entry, &redis) { seen::BODY_KEPT } else { 0 });
                        state.process.memory
                    } else {
                        redis.entry
                    };
                    if self.added {
                        reader.store = redis.store;
                        reader.counter = redis.counter;
                        if reader.found.is_none() {
                            reader.todo &= !((READ | CHECK) << ADDED);
                        }
                    }
                }
                if reader.todo == 0 {
                    self.decide(state, effects, index);
                }
            }
            Action::Check { reader, name } => {
                let (index, name) = (reader as usize, name as usize);
                let fenced = self.names().any(|other| self.covers(name) >> other & 1 == 1 && state.redis.fences[other] != 0);
                let reader = &mut state.readers[index];
                reader.todo &= !(CHECK << name);
                reader.fenced |= fenced;
                if reader.todo == 0 && reader.step == Step::Read {
                    self.decide(state, effects, index);
                } else if reader.todo == 0 {
                    self.created(state, effects, index);
                }
            }
            Action::Get { reader } => self.get(state, effects, reader as usize),
            Action::TakeLock { reader } => {
                let held = state.redis.lock != 0;
                if !held {
                    state.redis.lock = reader + 1;
                }
                let index = reader as usize;
                let reader = &mut state.readers[index];
                reader.todo &= !LOCK;
                if held {
                    effects.seen |= seen::WAITED;
                    *reader = Reader {
                        step: Step::Wait,
                        key: reader.key,
                        floor: reader.floor,
                        floor_returned: reader.floor_returned,
                        ..IDLE
                    };
                } else if reader.todo == 0 {
                    self.created(state, effects, index);
                }
            }
            Action::Create { reader, name, push_lost } => {
                let (index, name) = (reader as usize, name as usize);
                self.create_for(state, effects, index, name, push_lost);
                let (current, store) = (state.redis.generations[name], state.redis.store);
                let reader = &mut state.readers[index];
                reader.todo &= !(READ << name);
                reader.generations[name] = current;
                // The server that has answered takes part in the generation.
                reader.store[name] = store[name];
                if self.namespaces == 1 {
                    reader.store = store;
                }
                if reader.todo == 0 {
                    self.created(state, effects, index);
                }
            }
            Action::Poll { reader } => state.readers[reader as usize].step = Step::BeginFill,
            Action::CallInner { reader } => self.call_inner(state, effects, reader as usize),
            Action::Arrive { reader } => self.arrive(state, effects, reader as usize),
            Action::ReadAdded { reader, push_lost } => self.read_added(state, effects, reader as usize, push_lost),
            Action::CountAdded { reader } => self.count_added(state, reader as usize),
            Action::NumberAdded { reader } => self.number_added(state, reader as usize),
            Action::Store { reader } => self.store(state, effects, reader as usize),
            Action::Recheck { reader } => self.recheck(state, effects, reader as usize),
            Action::Install { reader } => self.install(state, effects, reader as usize),
            Action::Unanswered { reader } => {
                effects.seen |= seen::UNANSWERED;
                let reader = reader as usize;
                match state.readers[reader].step {
                    // The response has arrived already; only storing it fails.
                    Step::Named | Step::Count | Step::Number | Step::Store => {
                        self.dismiss(state, reader);
                        state.readers[reader] = IDLE;
                    }
                    _ => self.go_without_generation(state, effects, reader),
                }
            }
            Action::Call { reader } => {
                for (index, other) in state.readers.iter_mut().enumerate() {
                    let shares = other.step == Step::Forming && other.leader == reader + 1;
                    if index == reader as usize || shares {
                        other.step = Step::Running;
                        other.version = state.db;
                        other.leader = 0;
                    }
                }
            }
            Action::Share { reader, leader } => {
                effects.seen |= seen::SHARED;
                let call = state.readers[leader as usize];
                let reader = &mut state.readers[reader as usize];
                if call.step == Step::Forming {
                    reader.leader = leader + 1;
                } else {
                    reader.step = Step::Running;
                    reader.version = call.version;
                }
            }
            Action::Return { reader } => {
                let done = state.readers[reader as usize];
                self.respond(state, effects, done.version, (done.floor, done.floor_returned));
                state.readers[reader as usize] = IDLE;
            }
            _ => unreachable!("not an action of a reader"),
        }
    }

    pub(crate) fn start_reading(&self, reader: &mut Reader) {
        reader.step = Step::Read;
        for name in self.names() {
            if self.separate() || name == 0 {
                reader.todo |= READ << name;
                if self.strict {
                    reader.todo |= CHECK << name;
                }
            }
        }
    }
}
