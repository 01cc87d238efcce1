//! What a state of the model is made of: the database, Redis, one process, readers and writers.

/// Namespaces: arrays have room for two.
pub(crate) const NAMES: usize = 2;
/// The namespace known only from the response, when there is one.
pub(crate) const ADDED: usize = 1;
pub(crate) const READERS: usize = 3;
pub(crate) const WRITERS: usize = 2;
/// The lease of a configuration with a clock, in ticks: Δ = 2·heartbeat + round trip with a heartbeat of one tick.
pub(crate) const DELTA: u8 = 2;
/// No such time yet.
pub(crate) const NEVER: u8 = u8::MAX;

/// A generation. Random 128-bit values never come twice, so each creation takes an identifier of its own.
pub(crate) type Generation = u8;
/// There is no generation.
pub(crate) const MISSING: Generation = 0;
/// A generation that nothing can be compared with any more: all of them are alike.
pub(crate) const GONE: Generation = u8::MAX;

/// Where a law is broken; the bits of [`Outcome::broken`].
pub(crate) mod law {
    pub(crate) const ACK_FRESH: u32 = 1 << 1;
    pub(crate) const SETTLE: u32 = 1 << 2;
    pub(crate) const NO_RESURRECT: u32 = 1 << 3;
    pub(crate) const STAMP_FIRST: u32 = 1 << 4;
    pub(crate) const IDENTITY: u32 = 1 << 5;
    pub(crate) const MONOTONE: u32 = 1 << 7;
    /// I2 even though a default writer died before its bump was done. Only `Strict` promises it, as part of I2.
    pub(crate) const SETTLE_AFTER_DEATH: u32 = 1 << 8;
    pub(crate) const ALL: u32 = ACK_FRESH | SETTLE | NO_RESURRECT | STAMP_FIRST | IDENTITY | MONOTONE;

    /// The laws in `bits`, by their names in `protocol.md`.
    pub(crate) fn names(bits: u32) -> String {
        let all = [
            (ACK_FRESH, "I1 ack-fresh"),
            (SETTLE, "I2 settle"),
            (NO_RESURRECT, "I3 no-resurrect"),
            (STAMP_FIRST, "I4 stamp-first"),
            (IDENTITY, "I5 identity"),
            (MONOTONE, "I7 monotone"),
            (SETTLE_AFTER_DEATH, "I2 settle, after a death"),
        ];
        let named: Vec<_> = all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
        named.join(", ")
    }
}

/// What was seen on the way; the bits of [`Outcome::seen`].
pub(crate) mod seen {
    /// A hit on an entry in Redis, all generations compared.
    pub(crate) const HIT: u32 = 1 << 0;
    /// A hit without a round trip.
    pub(crate) const HIT_MEMORY: u32 = 1 << 1;
    /// A hit on an entry in Redis, compared with the generations known locally.
    pub(crate) const HIT_LOCAL: u32 = 1 << 2;
    /// A hit older than the database, which the promise allows.
    pub(crate) const STALE_ALLOWED: u32 = 1 << 3;
    /// A hit older than a write acknowledged before the request began: `Leased` only.
    pub(crate) const STALE_LEASED: u32 = 1 << 4;
    /// An entry was found and its stamp did not match.
    pub(crate) const INVALIDATED: u32 = 1 << 5;
    /// A request met a fence.
    pub(crate) const FENCED: u32 = 1 << 6;
    /// The second look met a fence that the first had not seen.
    pub(crate) const FENCED_SECOND: u32 = 1 << 7;
    /// A response was not stored, since a name in it was new.
    pub(crate) const NEW_NAME: u32 = 1 << 8;
    /// A response with an added name was stored.
    pub(crate) const ADDED_STORED: u32 = 1 << 9;
    /// A request got what a flight brought.
    pub(crate) const JOINED: u32 = 1 << 10;
    /// A follower was sent away at landing.
    pub(crate) const TURNED_AWAY: u32 = 1 << 11;
    /// An entry did not enter memory, since its capture was overtaken.
    pub(crate) const DEAD_ON_ARRIVAL: u32 = 1 << 12;
    /// Requests without a generation shared one inner call.
    pub(crate) const SHARED: u32 = 1 << 13;
    /// The lease came back after a lost connection.
    pub(crate) const LEASE_BACK: u32 = 1 << 14;
    /// A replica was promoted.
    pub(crate) const FAILED_OVER: u32 = 1 << 15;
    /// An entry of another store id was found.
    pub(crate) const FOREIGN: u32 = 1 << 16;
    /// A hit after both writes were answered, of the newest version.
    pub(crate) const HIT_AT_THE_END: u32 = 1 << 17;
    /// A request waited for the lock.
    pub(crate) const WAITED: u32 = 1 << 18;
    /// A fence ran to its deadline.
    pub(crate) const FENCE_EXPIRED: u32 = 1 << 19;
    /// An entry of another key was found under the same hash.
    pub(crate) const OTHER_KEY: u32 = 1 << 20;
    /// A push was lost, since this process created the generation again in the same moment.
    pub(crate) const LOST_PUSH: u32 = 1 << 23;
    /// An entry entered memory although its epochs were stepped: its generations were read again, and were the same.
    pub(crate) const VOUCHED: u32 = 1 << 24;
    /// RT1 found a body valid that memory had kept, so that none had to be moved.
    pub(crate) const BODY_KEPT: u32 = 1 << 22;
    /// The process learned that its master was replaced.
    pub(crate) const NOTICED: u32 = 1 << 25;
    /// An invalidation was delivered once more.
    pub(crate) const DELIVERED_AGAIN: u32 = 1 << 26;
    /// Redis did not answer a reader.
    pub(crate) const AWAY: u32 = 1 << 21;

    /// The things in `bits`, by name.
    pub(crate) fn names(bits: u32) -> String {
        let all = [
            (HIT, "hit"),
            (HIT_MEMORY, "hit memory"),
            (HIT_LOCAL, "hit local"),
            (STALE_ALLOWED, "stale allowed"),
            (STALE_LEASED, "stale leased"),
            (INVALIDATED, "invalidated"),
            (FENCED, "fenced"),
            (FENCED_SECOND, "fenced second"),
            (NEW_NAME, "new name"),
            (ADDED_STORED, "added stored"),
            (JOINED, "joined"),
            (TURNED_AWAY, "turned away"),
            (DEAD_ON_ARRIVAL, "dead on arrival"),
            (SHARED, "shared"),
            (LEASE_BACK, "lease back"),
            (FAILED_OVER, "failed over"),
            (FOREIGN, "foreign"),
            (HIT_AT_THE_END, "hit at the end"),
            (WAITED, "waited"),
            (FENCE_EXPIRED, "fence expired"),
            (OTHER_KEY, "other key"),
            (AWAY, "away"),
            (BODY_KEPT, "body kept"),
            (LOST_PUSH, "lost push"),
            (VOUCHED, "vouched"),
            (NOTICED, "noticed"),
            (DELIVERED_AGAIN, "delivered again"),
        ];
        let named: Vec<_> = all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
        named.join(", ")
    }
}

/// A response in a store, with its stamp.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Entry {
    pub(crate) version: u8,
    pub(crate) key: u8,
    pub(crate) generations: [Generation; NAMES],
    pub(crate) store: [u8; NAMES],
    /// Ghost: some part of the stamp was read after the inner call had begun.
    pub(crate) late: bool,
    /// Ghost: the stamp once differed from the generations in Redis.
    pub(crate) differed: bool,
}

/// The number of a creation: comparable only with numbers of the same random part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Created {
    pub(crate) random: u8,
    pub(crate) number: u8,
}

/// What the master knows, or what a replica last heard of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Redis {
    /// The store id of the master of each namespace; the entry lives with the first.
    pub(crate) store: [u8; NAMES],
    pub(crate) entry: Option<Entry>,
    pub(crate) generations: [Generation; NAMES],
    /// One bit for each writer's token.
    pub(crate) fences: [u8; NAMES],
    pub(crate) counter: Created,
    /// When the generation of the added namespace was created.
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
    /// The epochs were stepped: the lease may count again.
    Ready,
}

/// What was true when a PING was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Sent {
    pub(crate) acked: u8,
    pub(crate) returned: u8,
    pub(crate) at: u8,
}

/// The process whose memory is modelled. The sequence numbers of its epochs are kept the other way round: each capture
/// holds the namespaces whose epoch was stepped since. `a slot holds a larger number` and `the bit is set` are the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Process {
    /// An entry that is alive; a dead one can never be served, so it is dropped at once.
    pub(crate) memory: Option<Entry>,
    /// The generations known locally (leased).
    pub(crate) generations: [Generation; NAMES],
    pub(crate) tracking: Tracking,
    /// Pushes that come before the PONG on its way.
    pub(crate) ahead: u8,
    /// Pushes for changes made before the last PONG was written: they come before the next one.
    pub(crate) must: u8,
    /// Pushes for changes made since: they may follow the next PONG.
    pub(crate) may: u8,
    pub(crate) pong: bool,
    /// The PING on its way, or answered by the PONG on its way.
    pub(crate) ping: Option<Sent>,
    /// The last acknowledged PING, and the one that is trusted: the one before.
    pub(crate) last: Option<Sent>,
    pub(crate) trusted: Option<Sent>,
    /// It still talks to the master that was replaced; what that one holds is kept as the replica.
    pub(crate) replaced: bool,
    /// Namespaces whose invalidation that one has accepted, and the version of the write.
    pub(crate) lost: u8,
    pub(crate) lost_version: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Step {
    Idle,
    /// The request has come, the epochs are captured.
    BeginFill,
    /// RT1 is under way.
    Read,
    /// Leased: the entry alone is on its way.
    Get,
    /// RT2 is under way.
    Create,
    /// Another process fills.
    Wait,
    /// The stamp is complete, the inner service not yet asked.
    Ask,
    /// The inner service has read the database; its response is on its way.
    Asked,
    /// The response names a further namespace.
    Named,
    /// Its generation has no number to compare with: one is taken from the counter.
    Count,
    /// The number is on its way into the generation.
    Number,
    /// RT3.
    Store,
    Install,
    /// Waits for another reader's fill.
    Follow,
    /// No generation: an inner call is about to begin.
    Forming,
    /// The same call, begun.
    Running,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Reader {
    pub(crate) step: Step,
    /// Commands of a round trip not yet executed.
    pub(crate) todo: u8,
    pub(crate) key: u8,
    /// What the response must not be older than: for I1 and for I7.
    pub(crate) floor: u8,
    pub(crate) floor_returned: u8,
    /// Namespaces whose epoch was stepped since the capture.
    pub(crate) stepped: u8,
    pub(crate) generations: [Generation; NAMES],
    pub(crate) store: [u8; NAMES],
    pub(crate) counter: Created,
    /// The entry RT1 found.
    pub(crate) found: Option<Entry>,
    pub(crate) fenced: bool,
    pub(crate) version: u8,
    pub(crate) late: bool,
    pub(crate) differed: bool,
    /// The reader that is followed.
    pub(crate) leader: u8,
}

/// Commands of RT1 and RT2, for the first namespace; shifted by one for the second.
pub(crate) const READ: u8 = 0b1;
pub(crate) const LOOK: u8 = 0b100;
pub(crate) const LOCK: u8 = 0b1_0000;

pub(crate) const NOBODY: Reader = Reader {
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
    /// Answered, or given up.
    Done,
    /// Died, or lost sight of its statement: it never unfences.
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Statement {
    None,
    /// The database may commit it at any moment, whatever has become of the writer.
    Flying,
    Committed,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Writer {
    pub(crate) step: Write,
    pub(crate) statement: Statement,
    /// The namespaces still to be fenced or bumped.
    pub(crate) todo: u8,
    pub(crate) version: u8,
    /// It bumps without knowing how its statement ended, and is never acknowledged.
    pub(crate) unknown: bool,
}

/// The whole system.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) db: u8,
    /// The newest version whose write was acknowledged.
    pub(crate) acked: u8,
    /// The same for writes of the modelled process alone (leased).
    pub(crate) acked_near: u8,
    /// The newest version that a response returned (strict).
    pub(crate) returned: u8,
    /// A default writer died after its statement was sent and before its bump was done: I2 is not promised.
    pub(crate) owed: bool,
    pub(crate) now: u8,
    /// When each version was first covered by an acknowledgement.
    pub(crate) acked_at: [u8; 3],
    pub(crate) redis: Redis,
    pub(crate) replica: Option<Redis>,
    pub(crate) process: Process,
    pub(crate) readers: [Reader; READERS],
    pub(crate) writers: [Writer; WRITERS],
    /// The identifiers given out so far, for each namespace, for counters' random parts.
    pub(crate) given: [u8; NAMES],
    pub(crate) given_randoms: u8,
}

/// One atomic step. The numbers are those of readers, writers and namespaces.
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
    Look {
        reader: u8,
        name: u8,
    },
    Get {
        reader: u8,
    },
    TakeLock {
        reader: u8,
    },
    /// `unheard`: in the event-loop cycle of the last change, whose push is lost with it.
    Create {
        reader: u8,
        name: u8,
        unheard: bool,
    },
    Join {
        reader: u8,
        leader: u8,
    },
    Poll {
        reader: u8,
    },
    Ask {
        reader: u8,
    },
    Arrive {
        reader: u8,
    },
    ReadAdded {
        reader: u8,
        unheard: bool,
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
    Vouch {
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
