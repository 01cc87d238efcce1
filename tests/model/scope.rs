//! Configurations: the participants, the faults that may occur, and the rule of the protocol that is broken on purpose.

/// Justification of a hit, as in the table of guarantees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coherence {
    /// No Redis: one process, its memory and its epochs.
    Alone,
    /// Every hit reads the generations from Redis.
    Validated,
    /// Memory and the locally known generations count while the lease is held.
    Leased,
}

/// Place of a participant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the process whose memory, epochs and flights are modelled.
    Near,
    /// In another process, which uses Redis without memory.
    Far,
}

/// Behaviour of a replaced master toward the modelled process, until the process learns of the replacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replaced {
    /// The connection to it is lost at once.
    Gone,
    /// It refuses every command: it is a replica, or a cluster node that is cut off from the others.
    Refuses,
    /// It accepts invalidations: no sentinel has named the new master yet.
    Accepts,
}

/// One configuration. Start from [`Scope::SMALL`] and set the differences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) coherence: Coherence,
    /// Up to three readers. Each sends one request after the other, for ever.
    pub(crate) readers: &'static [Place],
    /// Up to two writers. Each writes once: the first write creates version 1 in the database, the second version 2.
    pub(crate) writers: &'static [Place],
    /// Number of namespaces of the entry, one or two.
    pub(crate) namespaces: u8,
    /// Namespaces that each writer invalidates, one bit each.
    pub(crate) bumps: [u8; 2],
    /// The namespaces are stored on different masters: they are read, created and checked in separate steps, in any order.
    pub(crate) split: bool,
    /// Generations are not tracked. A bump touches its name after it has deleted the generation, and only that is pushed.
    pub(crate) touches: bool,
    /// The second namespace is known only from the response.
    pub(crate) added: bool,
    /// `Validated` keeps bodies in memory and reads only generations from Redis.
    pub(crate) memory: bool,
    /// Writers fence before they write.
    pub(crate) strict: bool,
    /// A writer may die at any point, or lose the outcome of its statement.
    pub(crate) crash: bool,
    /// Redis may evict (or expire) the entry.
    pub(crate) evict_entry: bool,
    /// Redis may evict (or expire) a generation, at any time and any number of times.
    pub(crate) evict_generation: bool,
    /// Redis may evict a fence, which is outside of the guarantee of strict.
    pub(crate) evict_fence: bool,
    /// Redis may evict the counter of creations.
    pub(crate) evict_counter: bool,
    /// A replica that missed any number of the last writes may be promoted, once.
    pub(crate) failover: bool,
    /// Behaviour of the replaced master.
    pub(crate) replaced: Replaced,
    /// The tracking connection may be lost and reconnected at any time.
    pub(crate) disconnect: bool,
    /// An epoch may be stepped for another reason: another name in the same slot, or a repeated push.
    pub(crate) collide: bool,
    /// Near readers join a running fill.
    pub(crate) flights: bool,
    /// A fill takes the lock in RT2, the other readers poll.
    pub(crate) lock: bool,
    /// Any command of a reader may remain unanswered.
    pub(crate) unanswered: bool,
    /// Redis never answers again: I8 is checked for the readers, and must hold without any later answer.
    pub(crate) absent: bool,
    /// Readers request two different keys with equal hashes.
    pub(crate) two_keys: bool,
    /// Number of ticks of the clock. With 0 there is no clock, and a lease is as good as its PING.
    pub(crate) ticks: u8,
    /// Readers and writers keep their numbers, and dead entries their bodies: more states, but a trace can be replayed.
    pub(crate) exact: bool,
    pub(crate) mutation: Mutation,
}

impl Scope {
    /// One reader, one writer, one namespace and no fault.
    pub(crate) const SMALL: Self = Self {
        coherence: Coherence::Validated,
        readers: &[Place::Far],
        writers: &[Place::Far],
        namespaces: 1,
        bumps: [0b11; 2],
        split: false,
        touches: false,
        added: false,
        memory: false,
        strict: false,
        crash: false,
        evict_entry: false,
        evict_generation: false,
        evict_fence: false,
        evict_counter: false,
        failover: false,
        replaced: Replaced::Gone,
        disconnect: false,
        collide: false,
        flights: false,
        lock: false,
        unanswered: false,
        absent: false,
        two_keys: false,
        ticks: 0,
        exact: false,
        mutation: Mutation::None,
    };

    /// Breaks one rule of the protocol.
    pub(crate) const fn with(self, mutation: Mutation) -> Self {
        Self { mutation, ..self }
    }
}

/// The rule of the protocol that a configuration breaks on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    /// The protocol unchanged.
    None,
    /// The generations are read when the entry is stored, not before the inner service is called.
    StampAtStore,
    /// A generation is a number: a bump increments it, and a missing generation starts again from 0.
    CounterFromZero,
    /// A missing generation counts as "never invalidated".
    MissingIsValid,
    /// A write deletes the entry instead of bumping its namespaces.
    DeleteInsteadOfBump,
    /// A write responds first and bumps afterwards.
    RespondBeforeBump,
    /// A writer bumps in its own process before it bumps in Redis, not after.
    LocalBumpFirst,
    /// A fence is one token: the next writer overwrites it, and every unfence deletes it.
    SingleFenceToken,
    /// In a cluster, the generations are deleted before the fences are set.
    UnlinkBeforeFence,
    /// RT2 creates missing generations without a second check of the fence.
    NoSecondCheck,
    /// A strict writer unfences although it has lost the outcome of its statement.
    UnfenceOnUnknown,
    /// The pipeline of RT1 checks the fence before it reads the generations.
    CheckBeforeRead,
    /// The deadline of a fence may pass while its statement may still commit.
    ShortDeadline,
    /// A fence has no deadline.
    FenceWithoutDeadline,
    /// A lock has no lease.
    LockWithoutLease,
    /// The store id is read when the entry is stored.
    StoreIdAtStore,
    /// With several masters, the stamp contains only the store id of the master of the entry.
    StoreIdOfOneMaster,
    /// An entry enters memory although its namespaces were bumped since the capture.
    InstallWithoutEpochs,
    /// Memory is trusted with or without a lease, and flushed on reconnect.
    FlushOnReconnectAlone,
    /// The heartbeat is a PING, which a replaced master answers.
    ReplacedExtendsLease,
    /// Entries and generations are read from a replaced master as long as it answers.
    ReplacedIsRead,
    /// An invalidation that a replaced master accepted is not delivered to the new master.
    NotDeliveredAgain,
    /// After a reconnect the epochs are stepped before TRACKING ON is answered.
    FlushBeforeTracking,
    /// The lease counts from the sending of the latest acknowledged PING, not of the previous one.
    TrustLatestPing,
    /// A process invalidates one key of a set. Its tracking connection does not report the deletion of the generation, and the
    /// process does not step the epochs of the other keys of the set.
    OwnDeletionUnstepped,
    /// A created generation does not step the epochs of its name in its process, although `NOLOOP` may have hidden that another
    /// process had deleted it.
    CreationUnstepped,
    /// A reader that has created one generation renews its capture for all names of its stamp.
    RestampAllNames,
    /// A bump touches its name before it deletes the generation, not after.
    TouchBeforeDeletion,
    /// A bump that finds no generation does not touch its name.
    TouchOnlyIfDeleted,
    /// A bump that gathers takes the loss of the keys that wait for a common push for their push.
    LostTouchTrusted,
    /// A fence is not pushed, and the deletion of the generation behind it is not either.
    FenceUnpushed,
    /// A generation that was created inside a fence is known under the lease from then on.
    LearnInsideFence,
    /// Any generation is accepted for a namespace known only from the response.
    AnyGenerationForAdded,
    /// The generation of a namespace known only from the response may be created and numbered inside a fence. The fence is
    /// checked before an entry is stored.
    CreateAddedInsideFence,
    /// The number of a generation is read from the counter at its creation, not after the generation was seen.
    NumberBeforeSeen,
    /// A number is written into any generation that exists at that moment.
    NumberUnconditionally,
    /// A request joins any running fill.
    JoinWithoutLiveness,
    /// At the end of a flight, a follower accepts the response if the last bump of an added namespace came after it had joined.
    LandingAgainstJoin,
    /// A dropped write bumps at once, while its statement may still commit.
    DropGuardBumps,
    /// A request without a generation joins an inner call that is already running.
    JoinRunningCall,
    /// A reader waits for RT1 without a limit.
    NoTimeout,
    /// The canonical key stored in the entry is not compared.
    NoKeyCheck,
}
