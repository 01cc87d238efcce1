//! States of the model: the database, Redis, one process, readers and writers.

pub(crate) use crate::laws::{law, seen};

/// Largest number of namespaces.
pub(crate) const NAMES: usize = 2;
/// The namespace known only from the response, when there is one.
pub(crate) const ADDED: usize = 1;
pub(crate) const READERS: usize = 3;
pub(crate) const WRITERS: usize = 2;
/// The lease of a configuration with a clock, in ticks: Δ = 2·heartbeat + round trip with a heartbeat of one tick.
pub(crate) const DELTA: u8 = 2;
/// A time that has not occurred.
pub(crate) const NEVER: u8 = u8::MAX;

/// A generation. Random 128-bit values never repeat, so each creation takes a new identifier.
pub(crate) type Generation = u8;
/// A missing generation.
pub(crate) const MISSING: Generation = 0;
/// A generation that can no longer match: all of these are equivalent.
pub(crate) const UNMATCHABLE: Generation = u8::MAX;

/// A stored response, with its stamp.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Entry {
    pub(crate) version: u8,
    pub(crate) key: u8,
    pub(crate) generations: [Generation; NAMES],
    pub(crate) store: [u8; NAMES],
    /// Ghost: a part of the stamp was read after the inner call had begun.
    pub(crate) late: bool,
    /// Ghost: the stamp once differed from the generations in Redis.
    pub(crate) differed: bool,
}

/// The number of a creation. Only numbers with equal random parts are comparable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Created {
    pub(crate) random: u8,
    pub(crate) number: u8,
}

/// Data of the master, or the last data that a replica received.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Redis {
    /// The store id of the master of each namespace. The entry is stored with the first.
    pub(crate) store: [u8; NAMES],
    pub(crate) entry: Option<Entry>,
    pub(crate) generations: [Generation; NAMES],
    /// One bit for each writer's token.
    pub(crate) fences: [u8; NAMES],
    pub(crate) counter: Created,
    /// Creation number of the generation of the added namespace.
    pub(crate) created: Created,
    /// The reader that holds the fill lock, plus one.
    pub(crate) lock: u8,
}

/// The tracking connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Tracking {
    Lost,
    Connected,
    /// TRACKING ON was answered.
    On,
    /// The epochs were stepped: the lease may be held again.
    Ready,
}

/// Facts at the sending of a PING.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Sent {
    pub(crate) acked: u8,
    pub(crate) returned: u8,
    pub(crate) at: u8,
}

/// The process whose memory is modelled. Its epochs are stored inversely, without sequence numbers: each capture
/// contains the namespaces whose epoch was stepped since. "The slot has a larger number" and "the bit is set" are equivalent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Process {
    /// A valid entry. An invalidated one can never be served, so it is dropped at once.
    pub(crate) memory: Option<Entry>,
    /// The locally known generations (leased).
    pub(crate) generations: [Generation; NAMES],
    pub(crate) tracking: Tracking,
    /// Pushes in transit before the PONG.
    pub(crate) ahead: u8,
    /// Pushes for changes before the last PONG was written: they arrive before the next PONG.
    pub(crate) must: u8,
    /// Pushes for later changes: they may follow the next PONG.
    pub(crate) may: u8,
    pub(crate) pong: bool,
    /// The PING in transit, or the one that the PONG in transit answers.
    pub(crate) ping: Option<Sent>,
    /// The last acknowledged PING, and the trusted one, which is the previous.
    pub(crate) last: Option<Sent>,
    pub(crate) trusted: Option<Sent>,
    /// The process still uses the replaced master, whose data is kept as the replica.
    pub(crate) replaced: bool,
    /// Namespaces whose invalidation the replaced master accepted, and the version of the write.
    pub(crate) lost: u8,
    pub(crate) lost_version: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Step {
    Idle,
    /// The request has begun, and the epochs are captured.
    BeginFill,
    /// RT1 is running.
    Read,
    /// Leased: only the entry is being read.
    Get,
    /// RT2 is running.
    Create,
    /// Another process fills the entry.
    Wait,
    /// The stamp is complete, and the inner service has not been called.
    Stamped,
    /// The inner service has read the database, and its response has not arrived.
    Called,
    /// The response names an added namespace.
    Named,
    /// Its generation has no comparable number: one is taken from the counter.
    Count,
    /// The number is being written into the generation.
    Number,
    /// RT3.
    Store,
    Install,
    /// Waits for the fill of another reader.
    Follow,
    /// Without a generation: an inner call is about to begin.
    Forming,
    /// Without a generation: the inner call has begun.
    Running,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Reader {
    pub(crate) step: Step,
    /// Commands of the round trip that are not executed yet.
    pub(crate) todo: u8,
    pub(crate) key: u8,
    /// Oldest allowed version of the response, for I1 and for I7.
    pub(crate) floor: u8,
    pub(crate) floor_returned: u8,
    /// Namespaces whose epoch was stepped since the capture.
    pub(crate) stepped: u8,
    pub(crate) generations: [Generation; NAMES],
    pub(crate) store: [u8; NAMES],
    pub(crate) counter: Created,
    /// The entry that RT1 found.
    pub(crate) found: Option<Entry>,
    pub(crate) fenced: bool,
    pub(crate) version: u8,
    pub(crate) late: bool,
    pub(crate) differed: bool,
    /// The reader that leads the flight.
    pub(crate) leader: u8,
}

/// Commands of RT1 and RT2 for the first namespace, shifted by one for the second.
pub(crate) const READ: u8 = 0b1;
pub(crate) const CHECK: u8 = 0b100;
pub(crate) const LOCK: u8 = 0b1_0000;

pub(crate) const IDLE: Reader = Reader {
    step: Step::Idle,
    todo: 0,
    key: 0,
    floor: 0,
    floor_returned: 0,
    stepped: 0,
    generations: [MISSING; NAMES],
    store: [0; NAMES],
    counter: Created { random: 0, number: 0 },
    found: None,
    fenced: false,
    version: 0,
    late: false,
    differed: false,
    leader: 0,
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Write {
    Idle,
    Fencing,
    /// The statement is sent; the handler waits for it.
    Running,
    Bumping,
    /// Acknowledged, or dropped.
    Done,
    /// Died, or lost the outcome of its statement: it never unfences.
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Statement {
    None,
    /// The database may commit it at any moment, whether or not the writer is alive.
    Flying,
    Committed,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Writer {
    pub(crate) step: Write,
    pub(crate) statement: Statement,
    /// The namespaces that remain to be fenced or bumped.
    pub(crate) todo: u8,
    pub(crate) version: u8,
    /// The writer bumps without the outcome of its statement, and is never acknowledged.
    pub(crate) unknown: bool,
}

/// The whole system.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) db: u8,
    /// The newest version whose write was acknowledged.
    pub(crate) acked: u8,
    /// The newest version whose write the modelled process acknowledged (leased).
    pub(crate) acked_near: u8,
    /// The newest version that a response returned (strict).
    pub(crate) returned: u8,
    /// A default writer died after its statement was sent and before its bump was done: I2 is not guaranteed.
    pub(crate) owed: bool,
    pub(crate) now: u8,
    /// The time at which each version was first covered by an acknowledgement.
    pub(crate) acked_at: [u8; 3],
    pub(crate) redis: Redis,
    pub(crate) replica: Option<Redis>,
    pub(crate) process: Process,
    pub(crate) readers: [Reader; READERS],
    pub(crate) writers: [Writer; WRITERS],
    /// The number of identifiers assigned so far: for each namespace, and for the random parts of counters.
    pub(crate) given: [u8; NAMES],
    pub(crate) given_randoms: u8,
}

/// One atomic step. The fields are numbers of readers, writers and namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Begin {
        reader: u8,
        key: u8,
    },
    HitMemory {
        reader: u8,
        key: u8,
    },
    BeginLeased {
        reader: u8,
        key: u8,
    },
    BeginJoined {
        reader: u8,
        key: u8,
        leader: u8,
    },
    Send {
        reader: u8,
    },
    Read {
        reader: u8,
        name: u8,
        memory: bool,
    },
    Check {
        reader: u8,
        name: u8,
    },
    Get {
        reader: u8,
    },
    TakeLock {
        reader: u8,
    },
    /// `push_lost`: in the event-loop cycle of the last change, whose push is lost.
    Create {
        reader: u8,
        name: u8,
        push_lost: bool,
    },
    Join {
        reader: u8,
        leader: u8,
    },
    Poll {
        reader: u8,
    },
    CallInner {
        reader: u8,
    },
    Arrive {
        reader: u8,
    },
    ReadAdded {
        reader: u8,
        push_lost: bool,
    },
    CountAdded {
        reader: u8,
    },
    NumberAdded {
        reader: u8,
    },
    Store {
        reader: u8,
    },
    Recheck {
        reader: u8,
    },
    Install {
        reader: u8,
    },
    Unanswered {
        reader: u8,
    },
    Call {
        reader: u8,
    },
    Return {
        reader: u8,
    },
    Share {
        reader: u8,
        leader: u8,
    },
    Start {
        writer: u8,
    },
    Fence {
        writer: u8,
        name: u8,
    },
    Unlink {
        writer: u8,
        name: u8,
    },
    Commit {
        writer: u8,
    },
    Abort {
        writer: u8,
    },
    Bump {
        writer: u8,
        name: u8,
    },
    Unfence {
        writer: u8,
        name: u8,
    },
    Touch {
        writer: u8,
        name: u8,
    },
    TrustLostTouch {
        writer: u8,
        name: u8,
    },
    Crash {
        writer: u8,
    },
    GiveUp {
        writer: u8,
    },
    FenceExpires {
        writer: u8,
        name: u8,
    },
    LockExpires,
    EvictEntry,
    EvictGeneration {
        name: u8,
    },
    EvictFence {
        name: u8,
    },
    EvictCounter,
    ReplicaStops,
    Notice,
    Failover {
        name: u8,
    },
    Lose,
    Reconnect,
    TrackingOn,
    StepAll,
    Ping,
    Pong {
        behind: bool,
    },
    DeliverPush {
        name: u8,
    },
    DeliverPong,
    Collide {
        name: u8,
    },
    Tick,
}
