//! The protocol of `consistency.md` as a transition system: one key, one Redis, one process whose memory is modelled,
//! readers and writers near (in that process) and far (in others), and everything that may go wrong between them.
//!
//! A state is small, plain and `Copy`. What the protocol leaves to chance is a choice between actions; each action is
//! atomic and has one outcome. Where real code does one thing after another, so does the model, unless doing both at
//! once is the harder case for the law in question: then the comment says so.

use crate::checker::{Model, Outcome};
use crate::scope::{Broken, Coherence, Place, Scope};
use crate::state::*;
use crate::{canonical, words};

/// What an action collects besides the state.
struct Effects {
    broken: u32,
    seen: u32,
}

impl Scope {
    pub(crate) fn names(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.namespaces as usize
    }

    pub(crate) fn all(&self) -> u8 {
        (1 << self.namespaces) - 1
    }

    /// The namespaces known from the request.
    pub(crate) fn requested(&self) -> u8 {
        if self.added { 0b1 } else { self.all() }
    }

    /// One command reads, or looks at, one namespace only.
    pub(crate) fn separate(&self) -> bool {
        self.split || self.added
    }

    /// The namespaces that a command addressed to `name` covers.
    fn covers(&self, name: usize) -> u8 {
        if self.separate() {
            1 << name
        } else {
            self.all()
        }
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

    fn is(&self, broken: Broken) -> bool {
        self.broken == broken
    }

    /// Does a generation in a stamp vouch for the one in Redis?
    fn vouches(&self, stamp: Generation, current: Generation) -> bool {
        (current == MISSING && self.is(Broken::MissingIsValid))
            || (current != MISSING && stamp == current)
    }

    fn same_store(&self, stamp: [u8; NAMES], current: [u8; NAMES]) -> bool {
        stamp[0] == current[0] && (self.is(Broken::StoreIdOfOneMaster) || stamp[1] == current[1])
    }

    /// Would this entry be served by Redis as it is now, were there no fence?
    fn servable(&self, entry: &Entry, redis: &Redis) -> bool {
        self.same_store(entry.store, redis.store)
            && self
                .names()
                .all(|name| self.vouches(entry.generations[name], redis.generations[name]))
    }

    fn lease_counts(&self, state: &State) -> bool {
        if self.is(Broken::FlushOnReconnectAlone) {
            return true;
        }
        let process = &state.process;
        let trusted = process
            .trusted
            .filter(|_| process.tracking == Tracking::Ready);
        trusted.is_some_and(|sent| self.ticks == 0 || state.now - sent.at <= DELTA)
    }

    /// What a hit justified by the lease must not be older than. Without a clock: all that was acknowledged when the
    /// trusted PING was sent, which is the stronger statement, since the lease says that this was at most Δ ago. With a
    /// clock, also literally: all that was acknowledged more than Δ ago.
    fn leased_floor(&self, state: &State) -> (u8, u8) {
        let trusted = state.process.trusted;
        let mut floor = trusted.map_or(0, |sent| sent.acked);
        for version in 1..=2 {
            let at = state.acked_at[version as usize];
            if self.ticks > 0 && at != NEVER && at + DELTA < state.now && floor < version {
                floor = version;
            }
        }
        (floor, trusted.map_or(0, |sent| sent.returned))
    }

    fn respond(&self, state: &mut State, effects: &mut Effects, version: u8, floor: (u8, u8)) {
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

    fn hit(&self, state: &mut State, effects: &mut Effects, version: u8, floor: (u8, u8)) {
        self.respond(state, effects, version, floor);
        if version < state.db {
            effects.seen |= seen::STALE_ALLOWED;
        }
        if state.acked as usize == self.writers.len() && version == state.db {
            effects.seen |= seen::HIT_AT_THE_END;
        }
    }

    /// Redis tells the tracking connection that a generation changed.
    fn push(&self, state: &mut State, name: usize) {
        let process = &mut state.process;
        let tells = if self.is(Broken::FlushBeforeTracking) {
            Tracking::Ready
        } else {
            Tracking::On
        };
        if self.coherence == Coherence::Leased && process.tracking >= tells {
            process.may |= 1 << name;
        }
    }

    fn delete_generation(&self, state: &mut State, name: usize) {
        if state.redis.generations[name] != MISSING {
            state.redis.generations[name] = MISSING;
            if name == ADDED {
                state.redis.created = Created::default();
            }
            self.push(state, name);
        }
    }

    /// `SET g random NX`. The creator's own process is told nothing (NOLOOP).
    fn create_generation(&self, state: &mut State, name: usize, near: bool) {
        if state.redis.generations[name] == MISSING {
            state.redis.generations[name] = if self.is(Broken::CounterFromZero) {
                1
            } else {
                state.given[name] += 1;
                state.given[name]
            };
            if !near {
                self.push(state, name);
            }
        }
    }

    /// To invalidate: `UNLINK g`, and nothing more.
    fn bump(&self, state: &mut State, name: usize) {
        match self.broken {
            Broken::DeleteInsteadOfBump => state.redis.entry = None,
            Broken::CounterFromZero => {
                state.redis.generations[name] = state.redis.generations[name].max(1) + 1
            }
            // Whoever takes "missing" for "never invalidated" has to leave a mark that is not missing.
            Broken::MissingIsValid => {
                state.given[name] += 1;
                state.redis.generations[name] = state.given[name];
            }
            _ => self.delete_generation(state, name),
        }
    }

    /// The epochs of `names` take the next sequence number.
    fn step_epochs(&self, state: &mut State, names: u8) {
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

    /// Every entry, and every fill whose stamp is complete, remembers that it once differed.
    fn remember_differences(&self, state: &mut State) {
        let redis = state.redis;
        let mark = |entry: &mut Option<Entry>| {
            if let Some(entry) = entry {
                entry.differed |=
                    entry.generations != redis.generations || entry.store != redis.store;
            }
        };
        mark(&mut state.redis.entry);
        mark(&mut state.process.memory);
        if let Some(replica) = &mut state.replica {
            mark(&mut replica.entry);
        }
        for reader in &mut state.readers {
            if matches!(
                reader.step,
                Step::Ask | Step::Asked | Step::Named | Step::Store | Step::Install
            ) {
                for name in 0..NAMES {
                    let generation = reader.generations[name];
                    reader.differed |=
                        generation != MISSING && generation != redis.generations[name];
                }
                reader.differed |= reader.store != redis.store;
            }
        }
    }

    /// Nobody writes any more, and everything that a write left behind has run out.
    fn settled(&self, state: &State) -> bool {
        state.redis.fences == [0; NAMES]
            && state.writers[..self.writers.len()].iter().all(|writer| {
                matches!(writer.step, Write::Idle | Write::Done | Write::Dead)
                    && writer.statement != Statement::Flying
            })
    }

    /// The laws that speak of a state, not of a response.
    fn check(&self, state: &State) -> u32 {
        let mut broken = 0;
        let settled = self.settled(state);
        let process = &state.process;
        let validated = [
            state.redis.entry,
            process
                .memory
                .filter(|_| self.coherence == Coherence::Validated),
        ];
        for entry in validated.iter().flatten() {
            if self.servable(entry, &state.redis) {
                if settled && entry.version != state.db {
                    broken |= if state.owed {
                        law::SETTLE_AFTER_DEATH
                    } else {
                        law::SETTLE
                    };
                }
                if entry.differed {
                    broken |= law::NO_RESURRECT;
                }
            }
        }
        if let Some(entry) = process.memory {
            let servable = match self.coherence {
                Coherence::Alone => true,
                Coherence::Validated => false,
                Coherence::Leased => {
                    self.lease_counts(state)
                        && process.tracking == Tracking::Ready
                        && process.ahead | process.must | process.may == 0
                }
            };
            if servable && settled && !state.owed && entry.version != state.db {
                broken |= law::SETTLE;
            }
            // A far reader's bump may be followed by the same generation only if generations are not random.
            if servable && self.coherence == Coherence::Leased && entry.differed {
                broken |= law::NO_RESURRECT;
            }
        }
        broken
    }

    fn start_reading(&self, reader: &mut Reader) {
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
    fn decide(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let mut reader = state.readers[index];
        let floor = (reader.floor, reader.floor_returned);
        let found = reader.found.take();
        if let Some(entry) = found {
            let same_key = entry.key == reader.key;
            let same_store = self.same_store(entry.store, reader.store);
            let vouched = self
                .names()
                .all(|name| self.vouches(entry.generations[name], reader.generations[name]));
            effects.seen |= if same_store { 0 } else { seen::FOREIGN };
            effects.seen |= if same_key { 0 } else { seen::OTHER_KEY };
            effects.seen |= if vouched { 0 } else { seen::INVALIDATED };
            if (same_key || self.is(Broken::NoKeyCheck)) && same_store && vouched && !reader.fenced
            {
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
            if requested && reader.generations[name] == MISSING && !self.is(Broken::MissingIsValid)
            {
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
        reader.step = if reader.todo == 0 {
            Step::Ask
        } else {
            Step::Create
        };
        state.readers[index] = reader;
        if reader.todo == 0 {
            self.learn_generations(state, &reader, index);
        }
    }

    /// Leased: what RT1 or RT2 read is known locally from now on, unless a push came after the capture.
    fn learn_generations(&self, state: &mut State, reader: &Reader, index: usize) {
        if self.coherence == Coherence::Leased && self.is_near(index) {
            for name in self.names() {
                if reader.stepped >> name & 1 == 0 && reader.generations[name] != MISSING {
                    state.process.generations[name] = reader.generations[name];
                }
            }
        }
    }

    /// Redis is away, or there is a fence: ask the inner service, store nothing, lead nobody who came for an entry.
    fn go_without_generation(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        self.dismiss(state, index);
        if !self.away {
            // Nobody shares the call: to answer at once is the earliest it can be, and the next request may come later.
            self.respond(
                state,
                effects,
                state.db,
                (reader.floor, reader.floor_returned),
            );
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

    /// Followers of a flight that does not land begin anew; they keep what they were promised.
    fn dismiss(&self, state: &mut State, leader: usize) {
        for reader in &mut state.readers {
            if reader.step == Step::Follow && reader.leader as usize == leader {
                *reader = Reader {
                    step: Step::Begun,
                    key: reader.key,
                    floor: reader.floor,
                    floor_returned: reader.floor_returned,
                    ..NOBODY
                };
            }
        }
    }

    /// A response has come for everybody who follows.
    fn land(&self, state: &mut State, effects: &mut Effects, leader: usize, version: u8) {
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
                        step: Step::Begun,
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
            self.hit(
                state,
                effects,
                version,
                (follower.floor, follower.floor_returned),
            );
            state.readers[index] = NOBODY;
        }
    }

    /// May `reader`, which knows `generations`, join the fill of `leader`? The same test as for an entry.
    fn may_join(&self, state: &State, key: u8, known: Option<&Reader>, leader: usize) -> bool {
        let fill = &state.readers[leader];
        let under_way = match self.coherence {
            Coherence::Validated => matches!(fill.step, Step::Ask | Step::Asked),
            _ => matches!(
                fill.step,
                Step::Begun | Step::Read | Step::Create | Step::Ask | Step::Asked
            ),
        };
        if !under_way || fill.key != key {
            return false;
        }
        if self.is(Broken::JoinWithoutLiveness) {
            return true;
        }
        match known {
            None => fill.stepped & self.requested() == 0,
            Some(reader) => {
                self.same_store(fill.store, reader.store)
                    && self
                        .names()
                        .all(|name| self.vouches(fill.generations[name], reader.generations[name]))
            }
        }
    }

    fn reader_actions(&self, state: &State, index: usize, out: &mut Vec<Action>) {
        let reader = &state.readers[index];
        let near = self.is_near(index);
        let id = index as u8;
        let count = self.readers.len();
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
                    if state
                        .process
                        .memory
                        .is_some_and(|entry| entry.key == key || self.is(Broken::NoKeyCheck))
                    {
                        out.push(Action::HitMemory { reader: id, key });
                    }
                    let known = self
                        .names()
                        .all(|name| state.process.generations[name] != MISSING);
                    if self.coherence == Coherence::Leased && known {
                        out.push(Action::BeginLeased { reader: id, key });
                    }
                    for leader in 0..count {
                        if self.flights
                            && leader != index
                            && self.is_near(leader)
                            && self.may_join(state, key, None, leader)
                        {
                            out.push(Action::BeginJoined {
                                reader: id,
                                key,
                                leader: leader as u8,
                            });
                        }
                    }
                }
            }
            Step::Begun => out.push(Action::Send { reader: id }),
            Step::Read => {
                for name in self.names() {
                    let first = name == 0 || !self.added || reader.todo & (READ | LOOK) == 0;
                    let looks = reader.todo & LOOK << name != 0 && first;
                    if looks && self.is(Broken::LookBeforeRead) {
                        out.push(Action::Look {
                            reader: id,
                            name: name as u8,
                        });
                    } else if reader.todo & READ << name != 0 && first {
                        out.push(Action::Read {
                            reader: id,
                            name: name as u8,
                            memory: false,
                        });
                        let in_memory = name == 0
                            && near
                            && self.coherence != Coherence::Alone
                            && self.keeps_memory();
                        if in_memory && state.process.memory.is_some() {
                            out.push(Action::Read {
                                reader: id,
                                name: name as u8,
                                memory: true,
                            });
                        }
                    } else if looks {
                        out.push(Action::Look {
                            reader: id,
                            name: name as u8,
                        });
                    }
                }
            }
            Step::Get => out.push(Action::Get { reader: id }),
            Step::Create => {
                let creating = reader.todo & (READ | READ << 1) != 0;
                if reader.todo & LOCK != 0 {
                    out.push(Action::TakeLock { reader: id });
                    return;
                }
                for name in self.names() {
                    if reader.todo & READ << name != 0 {
                        out.push(Action::Create {
                            reader: id,
                            name: name as u8,
                        });
                    } else if reader.todo & LOOK << name != 0 && (self.separate() || !creating) {
                        out.push(Action::Look {
                            reader: id,
                            name: name as u8,
                        });
                    }
                }
            }
            Step::Wait => out.push(Action::Poll { reader: id }),
            Step::Ask => out.push(Action::Ask { reader: id }),
            Step::Asked => out.push(Action::Arrive { reader: id }),
            Step::Named => out.push(Action::ReadAdded { reader: id }),
            Step::Store => out.push(Action::Store { reader: id }),
            Step::Install => out.push(Action::Install { reader: id }),
            Step::Follow => {}
            Step::Forming if reader.leader == 0 => out.push(Action::Call { reader: id }),
            Step::Forming => {}
            Step::Running => out.push(Action::Return { reader: id }),
        }
        if self.flights
            && near
            && self.coherence == Coherence::Validated
            && reader.step == Step::Ask
        {
            for leader in 0..count {
                if leader != index
                    && self.is_near(leader)
                    && self.may_join(state, reader.key, Some(reader), leader)
                {
                    out.push(Action::Join {
                        reader: id,
                        leader: leader as u8,
                    });
                }
            }
        }
        let shared = state
            .readers
            .iter()
            .any(|other| other.step == Step::Forming && other.leader == id + 1);
        if self.away && reader.step == Step::Forming && reader.leader == 0 && !shared {
            for leader in 0..count {
                let call = &state.readers[leader];
                let open = (call.step == Step::Forming && call.leader == 0)
                    || (call.step == Step::Running && self.is(Broken::JoinRunningCall));
                if leader != index && open && call.key == reader.key {
                    out.push(Action::Share {
                        reader: id,
                        leader: leader as u8,
                    });
                }
            }
        }
        let asks_redis = matches!(
            reader.step,
            Step::Read | Step::Get | Step::Create | Step::Wait | Step::Named | Step::Store
        );
        if self.away && asks_redis {
            out.push(Action::Unanswered { reader: id });
        }
    }

    fn writer_actions(&self, state: &State, index: usize, out: &mut Vec<Action>) {
        let writer = &state.writers[index];
        let id = index as u8;
        match writer.step {
            Write::Idle => out.push(Action::Start { writer: id }),
            Write::Fencing | Write::Bumping => {
                for name in self.names() {
                    if writer.todo >> name & 1 == 1 {
                        let name = name as u8;
                        out.push(match writer.step {
                            Write::Fencing => Action::Fence { writer: id, name },
                            _ => Action::Bump { writer: id, name },
                        });
                    }
                }
            }
            Write::Running => {
                if self.is(Broken::UnfenceOnUnknown) || self.is(Broken::DropGuardBumps) {
                    out.push(Action::GiveUp { writer: id });
                }
            }
            Write::Done | Write::Dead => {
                let flying = writer.statement == Statement::Flying;
                if flying {
                    out.push(Action::Abort { writer: id });
                }
                // The deadline exceeds the statement's: it cannot come while the statement may commit.
                let due = !flying || self.is(Broken::ShortDeadline);
                if due && !self.is(Broken::FenceWithoutDeadline) {
                    for name in self.names() {
                        if state.redis.fences[name] >> index & 1 == 1 {
                            out.push(Action::FenceExpires {
                                writer: id,
                                name: name as u8,
                            });
                        }
                    }
                }
            }
        }
        if writer.statement == Statement::Flying {
            out.push(Action::Commit { writer: id });
        }
        if self.crash
            && matches!(
                writer.step,
                Write::Fencing | Write::Running | Write::Bumping
            )
        {
            out.push(Action::Crash { writer: id });
        }
    }

    fn environment_actions(&self, state: &State, out: &mut Vec<Action>) {
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
        if redis.lock != 0 && !self.is(Broken::LockWithoutLease) {
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
        if self.coherence == Coherence::Leased {
            self.tracking_actions(state, out);
        }
        if state.now < self.ticks {
            out.push(Action::Tick);
        }
    }

    fn tracking_actions(&self, state: &State, out: &mut Vec<Action>) {
        let process = &state.process;
        let early = self.is(Broken::FlushBeforeTracking);
        match process.tracking {
            Tracking::Lost => out.push(Action::Reconnect),
            Tracking::Connected => out.push(if early {
                Action::StepAll
            } else {
                Action::TrackingOn
            }),
            Tracking::On => out.push(if early {
                Action::TrackingOn
            } else {
                Action::StepAll
            }),
            Tracking::Ready => match process.ping {
                None => out.push(Action::Ping),
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
        let deliverable = if process.pong {
            process.ahead
        } else {
            process.must | process.may
        };
        for name in self.names() {
            if deliverable >> name & 1 == 1 {
                out.push(Action::DeliverPush { name: name as u8 });
            }
        }
        if self.disconnect && process.tracking != Tracking::Lost {
            out.push(Action::Lose);
        }
    }

    fn apply_reader(&self, state: &mut State, effects: &mut Effects, action: Action) {
        match action {
            Action::Begin { reader, key } => {
                state.readers[reader as usize] = Reader {
                    step: Step::Begun,
                    key,
                    floor: state.acked,
                    floor_returned: state.returned,
                    ..NOBODY
                };
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
                state.readers[reader as usize] = Reader {
                    step: Step::Get,
                    key,
                    floor,
                    floor_returned,
                    ..NOBODY
                };
            }
            Action::BeginJoined {
                reader,
                key,
                leader,
            } => {
                let (floor, floor_returned) = match self.coherence {
                    Coherence::Leased => self.leased_floor(state),
                    _ => (state.acked, state.returned),
                };
                let follower = Reader {
                    step: Step::Follow,
                    key,
                    floor,
                    floor_returned,
                    leader,
                    ..NOBODY
                };
                state.readers[reader as usize] = follower;
            }
            Action::Join { reader, leader } => {
                let index = reader as usize;
                let Reader {
                    key,
                    floor,
                    floor_returned,
                    ..
                } = state.readers[index];
                self.dismiss(state, index);
                let follower = Reader {
                    step: Step::Follow,
                    key,
                    floor,
                    floor_returned,
                    leader,
                    ..NOBODY
                };
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
            Action::Read {
                reader,
                name,
                memory,
            } => {
                let (index, name) = (reader as usize, name as usize);
                let redis = state.redis;
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
                let fenced = self.names().any(|other| {
                    self.covers(name) >> other & 1 == 1 && state.redis.fences[other] != 0
                });
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
            Action::Create { reader, name } => {
                let (index, name) = (reader as usize, name as usize);
                self.create_generation(state, name, self.is_near(index));
                let current = state.redis.generations[name];
                let reader = &mut state.readers[index];
                reader.todo &= !(READ << name);
                reader.generations[name] = current;
                if reader.todo == 0 {
                    self.created(state, effects, index);
                }
            }
            Action::Poll { reader } => state.readers[reader as usize].step = Step::Begun,
            Action::Ask { reader } => self.ask(state, effects, reader as usize),
            Action::Arrive { reader } => self.arrive(state, effects, reader as usize),
            Action::ReadAdded { reader } => self.read_added(state, effects, reader as usize),
            Action::Store { reader } => self.store(state, effects, reader as usize),
            Action::Install { reader } => self.install(state, effects, reader as usize),
            Action::Unanswered { reader } => {
                effects.seen |= seen::AWAY;
                let reader = reader as usize;
                match state.readers[reader].step {
                    // The response is there already; only storing it fails.
                    Step::Named | Step::Store => {
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
                self.respond(
                    state,
                    effects,
                    done.version,
                    (done.floor, done.floor_returned),
                );
                state.readers[reader as usize] = NOBODY;
            }
            _ => unreachable!("not a reader's action"),
        }
    }

    /// RT2 has been answered.
    fn created(&self, state: &mut State, effects: &mut Effects, index: usize) {
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
    fn get(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let known = state.process.generations;
        let entry = state.redis.entry.filter(|entry| {
            let same_key = entry.key == reader.key || self.is(Broken::NoKeyCheck);
            same_key
                && self.same_store(entry.store, state.redis.store)
                && self.lease_counts(state)
                && self
                    .names()
                    .all(|name| self.vouches(entry.generations[name], known[name]))
        });
        let Some(entry) = entry else {
            state.readers[index].step = Step::Begun;
            return;
        };
        if entry.key != reader.key {
            effects.broken |= law::IDENTITY;
        }
        effects.seen |= seen::HIT_LOCAL;
        self.hit(
            state,
            effects,
            entry.version,
            (reader.floor, reader.floor_returned),
        );
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
    fn ask(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = &mut state.readers[index];
        reader.version = state.db;
        reader.step = Step::Asked;
        if !self.flights {
            // Nobody can join: when the response arrives makes no difference.
            self.arrive(state, effects, index);
        }
    }

    /// The response is there, for the reader and for those who follow it.
    fn arrive(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let version = state.readers[index].version;
        let floor = (
            state.readers[index].floor,
            state.readers[index].floor_returned,
        );
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

    /// One script: is there a fence, is there a generation, when was it created; create it if there is none.
    fn read_added(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let near = self.is_near(index);
        let fenced = state.redis.fences[ADDED] != 0;
        let missing = state.redis.generations[ADDED] == MISSING;
        if missing && (!fenced || self.is(Broken::CreateAddedInsideFence)) {
            if state.redis.counter == Created::default() {
                state.given_randoms += 1;
                state.redis.counter.random = state.given_randoms;
            }
            state.redis.counter.number += 1;
            self.create_generation(state, ADDED, near);
            state.redis.created = state.redis.counter;
        }
        let created = state.redis.created;
        let reader = &mut state.readers[index];
        let before_capture = created != Created::default()
            && created.random == reader.counter.random
            && created.number <= reader.counter.number;
        if (before_capture || self.is(Broken::AnyGenerationForAdded)) && !fenced {
            effects.seen |= seen::ADDED_STORED;
            reader.generations[ADDED] = state.redis.generations[ADDED];
            reader.late |= !before_capture;
            reader.counter = Created::default();
            reader.step = Step::Store;
        } else {
            effects.seen |= seen::NEW_NAME;
            self.dismiss(state, index);
            state.readers[index] = NOBODY;
        }
    }

    /// RT3. It needs no condition.
    fn store(&self, state: &mut State, effects: &mut Effects, index: usize) {
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
        state.readers[index] = if self.keeps_memory() && self.is_near(index) {
            Reader {
                step: Step::Install,
                ..reader
            }
        } else {
            NOBODY
        };
    }

    fn entry_of(&self, reader: &Reader) -> Entry {
        Entry {
            version: reader.version,
            key: reader.key,
            generations: reader.generations,
            store: reader.store,
            late: reader.late,
            differed: reader.differed,
        }
    }

    fn release_lock(&self, state: &mut State, index: usize) {
        if state.redis.lock as usize == index + 1 {
            state.redis.lock = 0;
        }
    }

    /// Into memory, if no epoch was stepped since the capture.
    fn install(&self, state: &mut State, effects: &mut Effects, index: usize) {
        let reader = state.readers[index];
        let alive = reader.stepped & self.all() == 0
            || self.coherence == Coherence::Validated
            || self.is(Broken::InstallWithoutEpochs);
        if alive {
            state.process.memory = Some(self.entry_of(&reader));
        } else {
            effects.seen |= seen::DEAD_ON_ARRIVAL;
        }
        state.readers[index] = NOBODY;
    }

    fn apply_writer(&self, state: &mut State, effects: &mut Effects, action: Action) {
        match action {
            Action::Start { writer } => {
                let targets = self.targets(writer as usize);
                let writer = &mut state.writers[writer as usize];
                if self.strict {
                    writer.step = Write::Fencing;
                    writer.todo = targets;
                } else {
                    writer.step = Write::Running;
                    writer.statement = Statement::Flying;
                }
            }
            Action::Fence { writer, name } => {
                let (index, name) = (writer as usize, name as usize);
                let token = 1 << index;
                let fences = &mut state.redis.fences[name];
                *fences = if self.is(Broken::SingleFenceToken) {
                    token
                } else {
                    *fences | token
                };
                self.delete_generation(state, name);
                let writer = &mut state.writers[index];
                writer.todo &= !(1 << name);
                if writer.todo == 0 {
                    writer.step = Write::Running;
                    writer.statement = Statement::Flying;
                }
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
                    writer.todo = targets;
                    if self.is(Broken::AnswerBeforeBump) {
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
                if self.strict {
                    let fences = &mut state.redis.fences[name];
                    *fences = if self.is(Broken::SingleFenceToken) {
                        0
                    } else {
                        *fences & !(1 << index)
                    };
                }
                self.bump(state, name);
                state.writers[index].todo &= !(1 << name);
                if state.writers[index].todo == 0 {
                    // The writer's own process bumps locally too, after Redis and before the response.
                    if self.writers[index] == Place::Near {
                        self.step_epochs(state, self.targets(index));
                    }
                    self.finish(state, index);
                }
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
                writer.todo = targets;
                writer.unknown = true;
            }
            Action::FenceExpires { writer, name } => {
                effects.seen |= seen::FENCE_EXPIRED;
                state.redis.fences[name as usize] &= !(1 << writer);
            }
            _ => unreachable!("not a writer's action"),
        }
    }

    /// The write is answered as soon as its bump is done: the earlier, the more is promised.
    fn finish(&self, state: &mut State, index: usize) {
        if !state.writers[index].unknown {
            self.acknowledge(state, index);
        }
        let writer = &mut state.writers[index];
        writer.step = Write::Done;
        writer.todo = 0;
        writer.version = 0;
        writer.unknown = false;
    }

    fn acknowledge(&self, state: &mut State, index: usize) {
        state.acked = state.acked.max(state.writers[index].version);
        if self.ticks > 0 {
            for version in 1..=state.acked as usize {
                if state.acked_at[version] == NEVER {
                    state.acked_at[version] = state.now;
                }
            }
        }
    }

    fn apply_environment(&self, state: &mut State, effects: &mut Effects, action: Action) {
        match action {
            Action::LockExpires => state.redis.lock = 0,
            Action::EvictEntry => state.redis.entry = None,
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
            Action::Lose => self.lose_connection(state),
            Action::Reconnect => state.process.tracking = Tracking::Connected,
            Action::TrackingOn => {
                let early = self.is(Broken::FlushBeforeTracking);
                state.process.tracking = if early { Tracking::Ready } else { Tracking::On };
            }
            Action::StepAll => {
                let early = self.is(Broken::FlushBeforeTracking);
                self.step_epochs(state, self.all());
                state.process.tracking = if early { Tracking::On } else { Tracking::Ready };
            }
            Action::Ping => {
                state.process.ping = Some(Sent {
                    acked: state.acked,
                    returned: state.returned,
                    at: state.now,
                });
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
                process.trusted = if self.is(Broken::TrustLatestPing) {
                    process.ping
                } else {
                    process.last
                };
                process.last = process.ping.take();
                process.pong = false;
            }
            Action::Collide { name } => self.step_epochs(state, 1 << name),
            Action::Tick => state.now += 1,
            _ => unreachable!("not an action of the environment"),
        }
    }

    /// The replica takes over with what it last heard, and with a store id of its own.
    fn promote(&self, state: &mut State, replica: Redis, name: usize) {
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
        if self.coherence == Coherence::Leased {
            self.lose_connection(state);
        }
    }

    fn lose_connection(&self, state: &mut State) {
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
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        let sent = Some(Sent {
            acked: 0,
            returned: 0,
            at: 0,
        })
        .filter(|_| self.coherence == Coherence::Leased);
        State {
            db: 0,
            acked: 0,
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
            },
            readers: [NOBODY; READERS],
            writers: [Writer {
                step: Write::Idle,
                statement: Statement::None,
                todo: 0,
                version: 0,
                unknown: false,
            }; WRITERS],
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
        let mut effects = Effects { broken: 0, seen: 0 };
        match action {
            Action::Start { .. }
            | Action::Fence { .. }
            | Action::Commit { .. }
            | Action::Abort { .. }
            | Action::Bump { .. }
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
        effects.broken |= self.check(&next);
        Outcome {
            state: next,
            broken: effects.broken,
            seen: effects.seen,
        }
    }

    fn canonical(&self, state: State) -> State {
        canonical::form(self, state)
    }

    fn quiet(&self, state: &State) -> bool {
        state.readers.iter().all(|reader| reader.step == Step::Idle)
            && state.redis.lock == 0
            && state.redis.fences == [0; NAMES]
            && state.writers.iter().all(|writer| {
                matches!(writer.step, Write::Idle | Write::Done | Write::Dead)
                    && writer.statement != Statement::Flying
            })
    }

    fn describe(&self, before: &State, action: Action, after: &State) -> String {
        words::line(self, before, action, after)
    }
}
