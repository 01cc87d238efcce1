//! Fills: from the reply of RT1 to the stored entry and the copy in memory.

use crate::protocol::Effects;
use crate::scope::{Coherence, Mutation, Scope};
use crate::state::*;

impl Scope {
    /// Ends RT1 with a hit, or continues toward the inner service.
    pub(crate) fn decide(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let mut reader = state.readers[index];
        let floor = (reader.floor, reader.floor_returned);
        let found = reader.found.take();
        if let Some(entry) = found {
            let same_key = entry.key == reader.key;
            let same_store = self.same_store(entry.store, reader.store);
            let vouched = self.names().all(|name| self.confirms(entry.generations[name], reader.generations[name]));
            effects.seen |= if same_store { 0 } else { seen::FOREIGN };
            effects.seen |= if same_key { 0 } else { seen::OTHER_KEY };
            effects.seen |= if vouched { 0 } else { seen::INVALIDATED };
            if (same_key || self.is(Mutation::NoKeyCheck)) && same_store && vouched && !reader.fenced {
                if !same_key {
                    effects.violated |= law::IDENTITY;
                }
                // Masters that are read one after the other may confirm an entry that a bump has overtaken since the
                // request began. I1 covers this case; I3 is then a law of the state only.
                if entry.differed && !self.split {
                    effects.violated |= law::NO_RESURRECT;
                }
                effects.seen |= seen::HIT;
                self.hit(state, effects, entry.version, floor);
                self.land(state, effects, index, entry.version);
                self.learn_generations(state, &reader, index);
                state.readers[index] =
                    if self.keeps_memory() && self.is_near(index) { installing(&entry, reader.stepped) } else { IDLE };
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
            // The name was only needed to check the entry. The fill does not know it yet.
            reader.generations[ADDED] = MISSING;
        }
        for name in self.names() {
            let requested = self.requested() >> name & 1 == 1;
            if requested && reader.generations[name] == MISSING && !self.is(Mutation::MissingIsValid) {
                reader.todo |= READ << name;
            }
        }
        if reader.todo != 0 && self.strict && !self.is(Mutation::NoSecondCheck) {
            for name in self.names() {
                if self.requested() >> name & 1 == 1 && (self.separate() || name == 0) {
                    reader.todo |= CHECK << name;
                }
            }
        }
        if self.lock {
            reader.todo |= LOCK;
        }
        reader.step = if reader.todo == 0 { Step::Stamped } else { Step::Create };
        state.readers[index] = reader;
        if reader.todo == 0 {
            self.learn_generations(state, &reader, index);
        }
    }

    /// Ends RT2.
    pub(crate) fn created(&self, state: &mut State, effects: &mut Effects, index: usize) {
        if state.readers[index].fenced {
            effects.seen |= seen::FENCED_SECOND;
            if self.is(Mutation::LearnInsideFence) {
                let reader = state.readers[index];
                self.learn_generations(state, &reader, index);
            }
            self.release_lock(state, index);
            self.go_without_generation(state, effects, index);
            return;
        }
        state.readers[index].step = Step::Stamped;
        let reader = state.readers[index];
        self.learn_generations(state, &reader, index);
    }

    /// Serves a leased hit in Redis: only the entry was read, the generations are known locally.
    pub(crate) fn get(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let known = state.process.generations;
        let entry = state.redis.entry.filter(|entry| {
            let same_key = entry.key == reader.key || self.is(Mutation::NoKeyCheck);
            same_key
                && self.same_store(entry.store, state.redis.store)
                && self.lease_counts(state)
                && self.names().all(|name| self.confirms(entry.generations[name], known[name]))
        });
        let Some(entry) = entry else {
            self.begin_with_known(state, index);
            return;
        };
        if entry.key != reader.key {
            effects.violated |= law::IDENTITY;
        }
        effects.seen |= seen::HIT_LOCAL;
        self.hit(state, effects, entry.version, (reader.floor, reader.floor_returned));
        state.readers[index] = installing(&entry, reader.stepped);
    }

    /// Begins a fill without RT1: the known generations are its stamp, if the lease has lasted until the reply and nothing was pushed.
    fn begin_with_known(&self, state: &mut State, index: usize) {
        let known = state.process.generations;
        let lasts = self.lease_counts(state) && self.names().all(|name| known[name] != MISSING);
        let store = state.redis.store;
        let reader = &mut state.readers[index];
        if !lasts || reader.stepped & self.requested() != 0 {
            reader.step = Step::BeginFill;
            return;
        }
        reader.generations = known;
        reader.store = store;
        if self.added {
            reader.generations[ADDED] = MISSING;
        }
        reader.todo = if self.lock { LOCK } else { 0 };
        reader.step = if self.lock { Step::Create } else { Step::Stamped };
    }

    /// Calls the inner service, which reads the database.
    pub(crate) fn call_inner(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = &mut state.readers[index];
        reader.version = state.db;
        reader.step = Step::Called;
        if !self.flights {
            // No reader can join, so the moment of arrival makes no difference.
            self.arrive(state, effects, index);
        }
    }

    /// Delivers the response to the reader and its followers.
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

    /// Runs one script: it reads fence, generation and number, and creates the generation, without a number, if it and the
    /// fence are missing.
    pub(crate) fn read_added(&self, state: &mut State, effects: &mut Effects, index: usize, push_lost: bool) {
        let fenced = state.redis.fences[ADDED] != 0;
        let missing = state.redis.generations[ADDED] == MISSING;
        if missing && (!fenced || self.is(Mutation::CreateAddedInsideFence)) {
            self.create_for(state, effects, index, ADDED, push_lost);
            if self.is(Mutation::NumberBeforeSeen) {
                state.redis.created = state.redis.counter;
            }
        }
        let created = state.redis.created;
        let reader = &mut state.readers[index];
        let before_capture =
            created != Created::default() && created.random == reader.counter.random && created.number <= reader.counter.number;
        if (before_capture || self.is(Mutation::AnyGenerationForAdded)) && !fenced {
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
        state.readers[index] = match seen == MISSING || (fenced && !self.is(Mutation::CreateAddedInsideFence)) {
            true => IDLE,
            false => Reader { step: Step::Count, generations: [MISSING, seen], ..IDLE },
        };
    }

    /// Takes the next number from the master of the counter. The generation was seen before, so the number is not smaller than
    /// at its creation.
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

    /// Runs one script: it writes the number into the generation if that is unchanged and there is no fence.
    pub(crate) fn number_added(&self, state: &mut State, index: usize) {
        let reader = state.readers[index];
        let same = state.redis.generations[ADDED] == reader.generations[ADDED] || self.is(Mutation::NumberUnconditionally);
        let there = state.redis.generations[ADDED] != MISSING;
        let open = state.redis.fences[ADDED] == 0 || self.is(Mutation::CreateAddedInsideFence);
        let known = state.redis.created.random == reader.counter.random;
        if there && same && open && !known {
            state.redis.created = reader.counter;
            // For the server a script is another client: its changes are pushed to the sender, too.
            if !self.touches {
                self.push(state, ADDED);
            }
        }
        state.readers[index] = IDLE;
    }

    /// Executes RT3, which needs no condition.
    pub(crate) fn store(&self, state: &mut State, effects: &mut Effects, index: usize) {
        if self.is(Mutation::StampAtStore) {
            for name in self.names() {
                self.create_generation(state, name, self.is_near(index));
                state.readers[index].generations[name] = state.redis.generations[name];
            }
            let reader = &mut state.readers[index];
            reader.late = true;
            reader.differed = false;
        }
        if self.is(Mutation::StoreIdAtStore) {
            state.readers[index].store = state.redis.store;
        }
        let reader = state.readers[index];
        if reader.late {
            effects.violated |= law::STAMP_FIRST;
        }
        state.redis.entry = Some(self.entry_of(&reader));
        self.release_lock(state, index);
        state.readers[index] =
            if self.keeps_memory() && self.is_near(index) { Reader { step: Step::Install, ..reader } } else { IDLE };
    }

    /// Executes `SET g random NX` for a reader. The capture of the reader counts for this name from then on. In the process with the tracking
    /// connection, a successful creation of a tracked generation steps the epoch of its name.
    pub(crate) fn create_for(&self, state: &mut State, effects: &mut Effects, index: usize, name: usize, push_lost: bool) {
        let created = state.redis.generations[name] == MISSING;
        let near = self.is_near(index);
        self.create_generation(state, name, near);
        if push_lost {
            state.process.may &= !(1 << name);
            effects.seen |= seen::LOST_PUSH;
        }
        let steps = near && self.coherence == Coherence::Leased && !self.touches;
        if created && steps && !self.is(Mutation::CreationUnstepped) {
            self.step_epochs(state, 1 << name);
            state.readers[index].stepped &= if self.is(Mutation::RestampAllNames) { 0 } else { !(1 << name) };
        }
        if self.touches && near {
            // It was read now, created or found.
            state.readers[index].stepped &= !(1 << name);
        }
    }

    /// Adds a creation, and the creation that loses a push still to come.
    pub(crate) fn creations(
        &self,
        state: &State,
        near: bool,
        name: usize,
        out: &mut Vec<Action>,
        creation: impl Fn(bool) -> Action,
    ) {
        out.push(creation(false));
        let missing = state.redis.generations[name] == MISSING;
        if near && missing && !self.touches && state.process.may >> name & 1 == 1 {
            out.push(creation(true));
        }
    }

    /// Takes a new capture because the epochs were stepped, and reads the generations again. If they are equal, no bump
    /// came in between.
    pub(crate) fn recheck(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let fenced = self.names().any(|name| state.redis.fences[name] != 0);
        if !fenced && self.servable(&self.entry_of(&reader), &state.redis) {
            effects.seen |= seen::RECHECKED;
            state.readers[index].stepped = 0;
        } else {
            effects.seen |= seen::DEAD_ON_ARRIVAL;
            state.readers[index] = IDLE;
        }
    }

    /// Installs the entry in memory, if no epoch was stepped since the capture.
    pub(crate) fn install(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let alive = reader.stepped & self.all() == 0
            || self.coherence == Coherence::Validated
            || self.is(Mutation::InstallWithoutEpochs);
        if alive {
            state.process.memory = Some(self.entry_of(&reader));
        } else {
            effects.seen |= seen::DEAD_ON_ARRIVAL;
        }
        state.readers[index] = IDLE;
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

/// Returns a reader that is about to put a served entry of Redis into the memory of its process.
fn installing(entry: &Entry, stepped: u8) -> Reader {
    Reader {
        step: Step::Install,
        key: entry.key,
        stepped,
        generations: entry.generations,
        store: entry.store,
        version: entry.version,
        late: entry.late,
        differed: entry.differed,
        ..IDLE
    }
}
