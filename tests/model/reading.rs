//! What a request does: RT1, a hit or a fill, RT2, the inner service, RT3, memory, and the flights between them.

use crate::protocol::Effects;
use crate::scope::{Broken, Coherence, Scope};
use crate::state::*;

impl Scope {
    pub(crate) fn reader_actions(&self, state: &State, index: usize, out: &mut Vec<Action>) {
        let reader = &state.readers[index];
        let near = self.is_near(index);
        let id = index as u8;
        let count = self.readers.len();
        let asks_redis = matches!(
            reader.step,
            Step::Read | Step::Get | Step::Create | Step::Wait | Step::Named | Step::Count | Step::Number | Step::Store
        );
        if asks_redis && self.is_refused(state, index) && !(reader.step == Step::Read && self.is(Broken::ReplacedIsRead)) {
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
                    if state.process.memory.is_some_and(|entry| entry.key == key || self.is(Broken::NoKeyCheck)) {
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
                    let first = name == 0 || !self.added || reader.todo & (READ | LOOK) == 0;
                    let looks = reader.todo & LOOK << name != 0 && first;
                    if looks && self.is(Broken::LookBeforeRead) {
                        out.push(Action::Look { reader: id, name: name as u8 });
                    } else if reader.todo & READ << name != 0 && first {
                        out.push(Action::Read { reader: id, name: name as u8, memory: false });
                        let in_memory = name == 0 && near && self.coherence != Coherence::Alone && self.keeps_memory();
                        if in_memory && state.process.memory.is_some() {
                            out.push(Action::Read { reader: id, name: name as u8, memory: true });
                        }
                    } else if looks {
                        out.push(Action::Look { reader: id, name: name as u8 });
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
                        self.creations(state, near, name, out, |unheard| Action::Create {
                            reader: id,
                            name: name as u8,
                            unheard,
                        });
                    } else if reader.todo & LOOK << name != 0 && (self.separate() || !creating) {
                        out.push(Action::Look { reader: id, name: name as u8 });
                    }
                }
            }
            Step::Wait => out.push(Action::Poll { reader: id }),
            Step::Ask => out.push(Action::Ask { reader: id }),
            Step::Asked => out.push(Action::Arrive { reader: id }),
            Step::Named => self.creations(state, near, ADDED, out, |unheard| Action::ReadAdded { reader: id, unheard }),
            Step::Count => out.push(Action::CountAdded { reader: id }),
            Step::Number => out.push(Action::NumberAdded { reader: id }),
            Step::Store => out.push(Action::Store { reader: id }),
            Step::Install => {
                out.push(Action::Install { reader: id });
                if self.coherence == Coherence::Leased && reader.stepped & self.all() != 0 && !self.is_refused(state, index) {
                    out.push(Action::Vouch { reader: id });
                }
            }
            Step::Follow => {}
            Step::Forming if reader.leader == 0 => out.push(Action::Call { reader: id }),
            Step::Forming => {}
            Step::Running => out.push(Action::Return { reader: id }),
        }
        if self.flights && near && self.coherence == Coherence::Validated && reader.step == Step::Ask {
            for leader in 0..count {
                if leader != index && self.is_near(leader) && self.may_join(state, reader.key, Some(reader), leader) {
                    out.push(Action::Join { reader: id, leader: leader as u8 });
                }
            }
        }
        let shared = state.readers.iter().any(|other| other.step == Step::Forming && other.leader == id + 1);
        if self.away && reader.step == Step::Forming && reader.leader == 0 && !shared {
            for leader in 0..count {
                let call = &state.readers[leader];
                let open = (call.step == Step::Forming && call.leader == 0)
                    || (call.step == Step::Running && self.is(Broken::JoinRunningCall));
                if leader != index && open && call.key == reader.key {
                    out.push(Action::Share { reader: id, leader: leader as u8 });
                }
            }
        }
        let patient = self.is(Broken::NoBudget) && reader.step == Step::Read;
        if self.away && asks_redis && !patient {
            out.push(Action::Unanswered { reader: id });
        }
    }

    pub(crate) fn apply_reader(&self, state: &mut State, effects: &mut Effects, action: Action) {
        match action {
            Action::Begin { reader, key } => {
                state.readers[reader as usize] =
                    Reader { step: Step::BeginFill, key, floor: state.acked, floor_returned: state.returned, ..NOBODY };
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
                        effects.broken |= law::IDENTITY;
                    }
                    self.hit(state, effects, entry.version, floor);
                }
            }
            Action::BeginLeased { reader, key } => {
                let (floor, floor_returned) = self.leased_floor(state);
                state.readers[reader as usize] = Reader { step: Step::Get, key, floor, floor_returned, ..NOBODY };
            }
            Action::BeginJoined { reader, key, leader } => {
                let (floor, floor_returned) = match self.coherence {
                    Coherence::Leased => self.leased_floor(state),
                    _ => (state.acked, state.returned),
                };
                let follower = Reader { step: Step::Follow, key, floor, floor_returned, leader, ..NOBODY };
                state.readers[reader as usize] = follower;
            }
            Action::Join { reader, leader } => {
                let index = reader as usize;
                let Reader { key, floor, floor_returned, .. } = state.readers[index];
                self.dismiss(state, index);
                let follower = Reader { step: Step::Follow, key, floor, floor_returned, leader, ..NOBODY };
                state.readers[index] = follower;
            }
            Action::Send { reader } => {
                let reader = &mut state.readers[reader as usize];
                if self.coherence == Coherence::Alone {
                    reader.step = Step::Ask;
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
                            reader.todo &= !((READ | LOOK) << ADDED);
                        }
                    }
                }
                if reader.todo == 0 {
                    self.decide(state, effects, index);
                }
            }
            Action::Look { reader, name } => {
                let (index, name) = (reader as usize, name as usize);
                let fenced = self.names().any(|other| self.covers(name) >> other & 1 == 1 && state.redis.fences[other] != 0);
                let reader = &mut state.readers[index];
                reader.todo &= !(LOOK << name);
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
                        ..NOBODY
                    };
                } else if reader.todo == 0 {
                    self.created(state, effects, index);
                }
            }
            Action::Create { reader, name, unheard } => {
                let (index, name) = (reader as usize, name as usize);
                self.create_for(state, effects, index, name, unheard);
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
            Action::Ask { reader } => self.ask(state, effects, reader as usize),
            Action::Arrive { reader } => self.arrive(state, effects, reader as usize),
            Action::ReadAdded { reader, unheard } => self.read_added(state, effects, reader as usize, unheard),
            Action::CountAdded { reader } => self.count_added(state, reader as usize),
            Action::NumberAdded { reader } => self.number_added(state, reader as usize),
            Action::Store { reader } => self.store(state, effects, reader as usize),
            Action::Vouch { reader } => self.vouch(state, effects, reader as usize),
            Action::Install { reader } => self.install(state, effects, reader as usize),
            Action::Unanswered { reader } => {
                effects.seen |= seen::AWAY;
                let reader = reader as usize;
                match state.readers[reader].step {
                    // The response is there already; only storing it fails.
                    Step::Named | Step::Count | Step::Number | Step::Store => {
                        self.dismiss(state, reader);
                        state.readers[reader] = NOBODY;
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
                state.readers[reader as usize] = NOBODY;
            }
            _ => unreachable!("not a reader's action"),
        }
    }

    pub(crate) fn start_reading(&self, reader: &mut Reader) {
        reader.step = Step::Read;
        for name in self.names() {
            if self.separate() || name == 0 {
                reader.todo |= READ << name;
                if self.strict {
                    reader.todo |= LOOK << name;
                }
            }
        }
    }

    /// After the last command of RT1: a hit, or the road to the inner service.
    pub(crate) fn decide(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let mut reader = state.readers[index];
        let floor = (reader.floor, reader.floor_returned);
        let found = reader.found.take();
        if let Some(entry) = found {
            let same_key = entry.key == reader.key;
            let same_store = self.same_store(entry.store, reader.store);
            let vouched = self.names().all(|name| self.vouches(entry.generations[name], reader.generations[name]));
            effects.seen |= if same_store { 0 } else { seen::FOREIGN };
            effects.seen |= if same_key { 0 } else { seen::OTHER_KEY };
            effects.seen |= if vouched { 0 } else { seen::INVALIDATED };
            if (same_key || self.is(Broken::NoKeyCheck)) && same_store && vouched && !reader.fenced {
                if !same_key {
                    effects.broken |= law::IDENTITY;
                }
                // Masters that are asked one after the other may vouch for an entry that a bump has overtaken since the
                // request began. That is I1's business; I3 is then a law of the state alone.
                if entry.differed && !self.split {
                    effects.broken |= law::NO_RESURRECT;
                }
                effects.seen |= seen::HIT;
                self.hit(state, effects, entry.version, floor);
                self.land(state, effects, index, entry.version);
                self.learn_generations(state, &reader, index);
                state.readers[index] = if self.keeps_memory() && self.is_near(index) {
                    Reader {
                        step: Step::Install,
                        key: entry.key,
                        stepped: reader.stepped,
                        generations: entry.generations,
                        store: entry.store,
                        version: entry.version,
                        late: entry.late,
                        differed: entry.differed,
                        ..NOBODY
                    }
                } else {
                    NOBODY
                };
                return;
            }
        }
        if reader.fenced {
            effects.seen |= seen::FENCED;
            state.readers[index] = reader;
            self.go_without_generation(state, effects, index);
            return;
        }
        if self.added {
            // The name was only needed to check the entry; the fill does not know it yet.
            reader.generations[ADDED] = MISSING;
        }
        for name in self.names() {
            let requested = self.requested() >> name & 1 == 1;
            if requested && reader.generations[name] == MISSING && !self.is(Broken::MissingIsValid) {
                reader.todo |= READ << name;
            }
        }
        if reader.todo != 0 && self.strict && !self.is(Broken::NoSecondLook) {
            for name in self.names() {
                if self.requested() >> name & 1 == 1 && (self.separate() || name == 0) {
                    reader.todo |= LOOK << name;
                }
            }
        }
        if self.lock {
            reader.todo |= LOCK;
        }
        reader.step = if reader.todo == 0 { Step::Ask } else { Step::Create };
        state.readers[index] = reader;
        if reader.todo == 0 {
            self.learn_generations(state, &reader, index);
        }
    }

    /// RT2 has been answered.
    pub(crate) fn created(&self, state: &mut State, effects: &mut Effects, index: usize) {
        if state.readers[index].fenced {
            effects.seen |= seen::FENCED_SECOND;
            self.release_lock(state, index);
            self.go_without_generation(state, effects, index);
            return;
        }
        state.readers[index].step = Step::Ask;
        let reader = state.readers[index];
        self.learn_generations(state, &reader, index);
    }

    /// A leased hit in Redis: only the entry was fetched, the generations are known locally.
    pub(crate) fn get(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let known = state.process.generations;
        let entry = state.redis.entry.filter(|entry| {
            let same_key = entry.key == reader.key || self.is(Broken::NoKeyCheck);
            same_key
                && self.same_store(entry.store, state.redis.store)
                && self.lease_counts(state)
                && self.names().all(|name| self.vouches(entry.generations[name], known[name]))
        });
        let Some(entry) = entry else {
            state.readers[index].step = Step::BeginFill;
            return;
        };
        if entry.key != reader.key {
            effects.broken |= law::IDENTITY;
        }
        effects.seen |= seen::HIT_LOCAL;
        self.hit(state, effects, entry.version, (reader.floor, reader.floor_returned));
        state.readers[index] = Reader {
            step: Step::Install,
            key: entry.key,
            stepped: reader.stepped,
            generations: entry.generations,
            store: entry.store,
            version: entry.version,
            late: entry.late,
            differed: entry.differed,
            ..NOBODY
        };
    }

    /// The inner service is called and reads the database.
    pub(crate) fn ask(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = &mut state.readers[index];
        reader.version = state.db;
        reader.step = Step::Asked;
        if !self.flights {
            // Nobody can join: when the response arrives makes no difference.
            self.arrive(state, effects, index);
        }
    }

    /// The response is there, for the reader and for those who follow it.
    pub(crate) fn arrive(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let version = state.readers[index].version;
        let floor = (state.readers[index].floor, state.readers[index].floor_returned);
        self.respond(state, effects, version, floor);
        self.land(state, effects, index, version);
        let reader = &mut state.readers[index];
        reader.floor = 0;
        reader.floor_returned = 0;
        reader.step = match self.coherence {
            Coherence::Alone => Step::Install,
            _ if self.added => Step::Named,
            _ => Step::Store,
        };
    }

    /// One script: is there a fence, is there a generation, and its number; create it, without one, if there is neither.
    pub(crate) fn read_added(&self, state: &mut State, effects: &mut Effects, index: usize, unheard: bool) {
        let fenced = state.redis.fences[ADDED] != 0;
        let missing = state.redis.generations[ADDED] == MISSING;
        if missing && (!fenced || self.is(Broken::CreateAddedInsideFence)) {
            self.create_for(state, effects, index, ADDED, unheard);
            if self.is(Broken::NumberBeforeSeen) {
                state.redis.created = state.redis.counter;
            }
        }
        let created = state.redis.created;
        let reader = &mut state.readers[index];
        let before_capture =
            created != Created::default() && created.random == reader.counter.random && created.number <= reader.counter.number;
        if (before_capture || self.is(Broken::AnyGenerationForAdded)) && !fenced {
            effects.seen |= seen::ADDED_STORED;
            reader.generations[ADDED] = state.redis.generations[ADDED];
            reader.late |= !before_capture;
            reader.counter = Created::default();
            reader.step = Step::Store;
            return;
        }
        effects.seen |= seen::NEW_NAME;
        self.dismiss(state, index);
        let seen = state.redis.generations[ADDED];
        state.readers[index] = match seen == MISSING || (fenced && !self.is(Broken::CreateAddedInsideFence)) {
            true => NOBODY,
            false => Reader { step: Step::Count, generations: [MISSING, seen], ..NOBODY },
        };
    }

    /// The counter's own master: the next number. It is taken after the generation was seen, so it says no less than when that was
    /// created.
    pub(crate) fn count_added(&self, state: &mut State, index: usize) {
        if state.redis.counter == Created::default() {
            state.given_randoms += 1;
            state.redis.counter.random = state.given_randoms;
        }
        state.redis.counter.number += 1;
        let reader = &mut state.readers[index];
        reader.counter = state.redis.counter;
        reader.step = Step::Number;
    }

    /// One script: if the generation is still the one that was seen, and there is no fence, the number is written into it.
    pub(crate) fn number_added(&self, state: &mut State, index: usize) {
        let reader = state.readers[index];
        let same = state.redis.generations[ADDED] == reader.generations[ADDED] || self.is(Broken::NumberWhatever);
        let there = state.redis.generations[ADDED] != MISSING;
        let open = state.redis.fences[ADDED] == 0 || self.is(Broken::CreateAddedInsideFence);
        let known = state.redis.created.random == reader.counter.random;
        if there && same && open && !known {
            state.redis.created = reader.counter;
            // To the server a script is another client: it is pushed to whoever has sent it, too.
            self.push(state, ADDED);
        }
        state.readers[index] = NOBODY;
    }

    /// RT3. It needs no condition.
    pub(crate) fn store(&self, state: &mut State, effects: &mut Effects, index: usize) {
        if self.is(Broken::StampAtStore) {
            for name in self.names() {
                self.create_generation(state, name, self.is_near(index));
                state.readers[index].generations[name] = state.redis.generations[name];
            }
            let reader = &mut state.readers[index];
            reader.late = true;
            reader.differed = false;
        }
        if self.is(Broken::StoreIdAtStore) {
            state.readers[index].store = state.redis.store;
        }
        let reader = state.readers[index];
        if reader.late {
            effects.broken |= law::STAMP_FIRST;
        }
        state.redis.entry = Some(self.entry_of(&reader));
        self.release_lock(state, index);
        state.readers[index] =
            if self.keeps_memory() && self.is_near(index) { Reader { step: Step::Install, ..reader } } else { NOBODY };
    }

    /// `SET g random NX` by a reader. In the process that is told of changes a creation that succeeded steps the epoch of its name, and
    /// the reader's capture counts for this name from then on.
    fn create_for(&self, state: &mut State, effects: &mut Effects, index: usize, name: usize, unheard: bool) {
        let created = state.redis.generations[name] == MISSING;
        let near = self.is_near(index);
        self.create_generation(state, name, near);
        if unheard {
            state.process.may &= !(1 << name);
            effects.seen |= seen::LOST_PUSH;
        }
        if created && near && self.coherence == Coherence::Leased && !self.is(Broken::CreationUnstepped) {
            self.step_epochs(state, 1 << name);
            state.readers[index].stepped &= if self.is(Broken::RestampAllNames) { 0 } else { !(1 << name) };
        }
    }

    /// A creation, and the same with the loss of a push that is still to come.
    fn creations(&self, state: &State, near: bool, name: usize, out: &mut Vec<Action>, creation: impl Fn(bool) -> Action) {
        out.push(creation(false));
        let missing = state.redis.generations[name] == MISSING;
        if near && missing && state.process.may >> name & 1 == 1 {
            out.push(creation(true));
        }
    }

    /// The epochs were stepped since the capture: a new one is taken, and the generations are read again. If they are the same, nothing
    /// was bumped in between.
    fn vouch(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let fenced = self.names().any(|name| state.redis.fences[name] != 0);
        if !fenced && self.servable(&self.entry_of(&reader), &state.redis) {
            effects.seen |= seen::VOUCHED;
            state.readers[index].stepped = 0;
        } else {
            effects.seen |= seen::DEAD_ON_ARRIVAL;
            state.readers[index] = NOBODY;
        }
    }

    /// Into memory, if no epoch was stepped since the capture.
    pub(crate) fn install(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let alive =
            reader.stepped & self.all() == 0 || self.coherence == Coherence::Validated || self.is(Broken::InstallWithoutEpochs);
        if alive {
            state.process.memory = Some(self.entry_of(&reader));
        } else {
            effects.seen |= seen::DEAD_ON_ARRIVAL;
        }
        state.readers[index] = NOBODY;
    }

    /// May `reader`, which knows `generations`, join the fill of `leader`? The same test as for an entry.
    pub(crate) fn may_join(&self, state: &State, key: u8, known: Option<&Reader>, leader: usize) -> bool {
        let fill = &state.readers[leader];
        let under_way = match self.coherence {
            Coherence::Validated => matches!(fill.step, Step::Ask | Step::Asked),
            _ => matches!(fill.step, Step::BeginFill | Step::Read | Step::Create | Step::Ask | Step::Asked),
        };
        if !under_way || fill.key != key {
            return false;
        }
        if self.is(Broken::JoinWithoutLiveness) {
            return true;
        }
        match known {
            // What is called only now is new enough for everybody. Of what has been called, the generations tell.
            None if self.coherence == Coherence::Leased => {
                let known = state.process.generations;
                !matches!(fill.step, Step::Ask | Step::Asked)
                    || self
                        .names()
                        .filter(|name| self.requested() >> name & 1 == 1)
                        .all(|name| self.vouches(fill.generations[name], known[name]))
            }
            None => fill.stepped & self.requested() == 0,
            Some(reader) => {
                self.same_store(fill.store, reader.store)
                    && self.names().all(|name| self.vouches(fill.generations[name], reader.generations[name]))
            }
        }
    }

    /// A response has come for everybody who follows.
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
                if bumped && !(since_joining && self.is(Broken::LandingAgainstJoin)) {
                    effects.seen |= seen::TURNED_AWAY;
                    state.readers[index] = Reader {
                        step: Step::BeginFill,
                        key: follower.key,
                        floor: follower.floor,
                        floor_returned: follower.floor_returned,
                        ..NOBODY
                    };
                    continue;
                }
            }
            effects.seen |= seen::JOINED;
            if follower.key != fill.key {
                effects.broken |= law::IDENTITY;
            }
            self.hit(state, effects, version, (follower.floor, follower.floor_returned));
            state.readers[index] = NOBODY;
        }
    }

    /// Followers of a flight that does not land begin anew; they keep what they were promised.
    pub(crate) fn dismiss(&self, state: &mut State, leader: usize) {
        for reader in &mut state.readers {
            if reader.step == Step::Follow && reader.leader as usize == leader {
                *reader = Reader {
                    step: Step::BeginFill,
                    key: reader.key,
                    floor: reader.floor,
                    floor_returned: reader.floor_returned,
                    ..NOBODY
                };
            }
        }
    }

    /// Redis is away, or there is a fence: ask the inner service, store nothing, lead nobody who came for an entry.
    pub(crate) fn go_without_generation(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        self.dismiss(state, index);
        if !self.away {
            // Nobody shares the call: to answer at once is the earliest it can be, and the next request may come later.
            self.respond(state, effects, state.db, (reader.floor, reader.floor_returned));
            state.readers[index] = NOBODY;
            return;
        }
        state.readers[index] = Reader {
            step: Step::Forming,
            key: reader.key,
            floor: reader.floor,
            floor_returned: reader.floor_returned,
            ..NOBODY
        };
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
            effects.broken |= law::ACK_FRESH;
        }
        if self.strict {
            if version < floor.1 {
                effects.broken |= law::MONOTONE;
            }
            state.returned = state.returned.max(version);
        }
    }

    /// Leased: what RT1 or RT2 read is known locally from now on, unless a push came after the capture.
    pub(crate) fn learn_generations(&self, state: &mut State, reader: &Reader, index: usize) {
        if self.coherence == Coherence::Leased && self.is_near(index) {
            for name in self.names() {
                if reader.stepped >> name & 1 == 0 && reader.generations[name] != MISSING {
                    state.process.generations[name] = reader.generations[name];
                }
            }
        }
    }

    pub(crate) fn entry_of(&self, reader: &Reader) -> Entry {
        Entry {
            version: reader.version,
            key: reader.key,
            generations: reader.generations,
            store: reader.store,
            late: reader.late,
            differed: reader.differed,
        }
    }

    pub(crate) fn release_lock(&self, state: &mut State, index: usize) {
        if state.redis.lock as usize == index + 1 {
            state.redis.lock = 0;
        }
    }
}
