//! What a configuration contains: who takes part, what may go wrong, and which rule of the protocol is broken on purpose.

/// How a hit is justified, as in the table of promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coherence {
    /// No Redis: one process, its memory and its epochs.
    Alone,
    /// Every hit asks Redis for the generations.
    Validated,
    /// Memory and the generations known locally count while the lease does.
    Leased,
}

/// Where a participant runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the process whose memory, epochs and flights are modelled.
    Near,
    /// In some other process, that uses Redis without memory.
    Far,
}

/// A master whose replica was promoted, as the modelled process sees it until it learns of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replaced {
    /// It is gone: the connection to it is lost at once.
    Gone,
    /// It refuses whatever it is asked: it is a replica, or a cluster node that is cut off from the others.
    Refuses,
    /// It accepts invalidations: no sentinel has said yet that it is the master no more.
    Accepts,
}

/// One configuration. Start from [`Scope::SMALL`] and say what differs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) coherence: Coherence,
    /// Up to three. Each makes one request after the other, for ever.
    pub(crate) readers: &'static [Place],
    /// Up to two. Each writes once: the first write makes the database's version 1, the second 2.
    pub(crate) writers: &'static [Place],
    /// How many namespaces the entry belongs to, one or two.
    pub(crate) namespaces: u8,
    /// The namespaces each writer invalidates, one bit each.
    pub(crate) bumps: [u8; 2],
    /// The namespaces live on different masters: they are read, created and looked up in separate steps, in any order.
    pub(crate) split: bool,
    /// The second namespace is known only from the response.
    pub(crate) added: bool,
    /// `Validated` keeps bodies in memory and asks Redis for generations only.
    pub(crate) memory: bool,
    /// Writers fence before they write.
    pub(crate) strict: bool,
    /// A writer may die at any point, or lose sight of its statement.
    pub(crate) crash: bool,
    /// Redis may evict (or expire) the entry.
    pub(crate) evict_entry: bool,
    /// Redis may evict (or expire) a generation, at any time and as often as it likes.
    pub(crate) evict_generation: bool,
    /// Redis may evict a fence: outside the promise of strict.
    pub(crate) evict_fence: bool,
    /// Redis may evict the counter of creations.
    pub(crate) evict_counter: bool,
    /// A replica that missed any number of the last writes may be promoted, once.
    pub(crate) failover: bool,
    /// What the master before does then.
    pub(crate) replaced: Replaced,
    /// The tracking connection may be lost and made again, at any time.
    pub(crate) disconnect: bool,
    /// An epoch may be stepped for a reason of its own: another name in the same slot, a push that comes twice.
    pub(crate) collide: bool,
    /// Near readers join a fill that is under way.
    pub(crate) flights: bool,
    /// A fill takes the lock of RT2; the others poll.
    pub(crate) lock: bool,
    /// Any command of a reader may go unanswered: Redis is away for it.
    pub(crate) away: bool,
    /// Redis never answers again: I8 is asked of the readers, and may not count on any answer to come.
    pub(crate) absent: bool,
    /// Readers ask for two different keys that share one hash.
    pub(crate) two_keys: bool,
    /// How many ticks the clock may make. With 0 there is no clock: a lease is then only as good as the PING behind it.
    pub(crate) ticks: u8,
    /// Readers and writers keep their numbers and dead entries their bodies: more states, but a trace can be replayed.
    pub(crate) exact: bool,
    pub(crate) broken: Broken,
}

impl Scope {
    /// One reader, one writer, one namespace, nothing goes wrong.
    pub(crate) const SMALL: Self = Self {
        coherence: Coherence::Validated,
        readers: &[Place::Far],
        writers: &[Place::Far],
        namespaces: 1,
        bumps: [0b11; 2],
        split: false,
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
        away: false,
        absent: false,
        two_keys: false,
        ticks: 0,
        exact: false,
        broken: Broken::Nothing,
    };

    /// The same, with one rule broken.
    pub(crate) const fn but(self, broken: Broken) -> Self {
        Self { broken, ..self }
    }
}

/// The rule that a configuration breaks on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// The protocol as it stands.
    Nothing,
    /// The generations are read when the entry is stored, not before the inner service is called.
    StampAtStore,
    /// A generation is a number: a bump increments it, and a missing one starts again from 0.
    CounterFromZero,
    /// A generation that is missing counts as "never invalidated".
    MissingIsValid,
    /// A write deletes the entry instead of bumping its namespaces.
    DeleteInsteadOfBump,
    /// A write is answered first and bumps afterwards.
    AnswerBeforeBump,
    /// A writer bumps in its own process before it bumps in Redis, not after.
    LocalBumpFirst,
    /// A fence is one token: the next writer overwrites it, and whoever unfences deletes it.
    SingleFenceToken,
    /// In a cluster, the generations go before the fences stand.
    UnlinkBeforeFence,
    /// RT2 creates missing generations without looking at the fence once more.
    NoSecondLook,
    /// A strict writer that lost sight of its statement unfences all the same.
    UnfenceOnUnknown,
    /// The pipeline of RT1 looks at the fence before it reads the generations.
    LookBeforeRead,
    /// The deadline of a fence may come while the statement behind it may still commit.
    ShortDeadline,
    /// A fence has no deadline.
    FenceWithoutDeadline,
    /// A lock has no lease.
    LockWithoutLease,
    /// The store id is taken when the entry is stored.
    StoreIdAtStore,
    /// With several masters, the stamp holds the store id of the entry's own master only.
    StoreIdOfOneMaster,
    /// An entry enters memory although its namespaces were bumped since the capture.
    InstallWithoutEpochs,
    /// Memory is trusted with or without a lease, and emptied when the connection is back.
    FlushOnReconnectAlone,
    /// A heartbeat is a PING, which a replaced master answers like any other.
    ReplacedExtendsLease,
    /// A replaced master is asked for entries and generations for as long as it answers.
    ReplacedIsRead,
    /// An invalidation that a replaced master has accepted is not delivered to the new one.
    NotDeliveredAgain,
    /// After a reconnect the epochs are stepped before TRACKING ON is answered.
    FlushBeforeTracking,
    /// The lease counts from the sending of the latest acknowledged PING, not of the one before.
    TrustLatestPing,
    /// A process clears one key of a set, whose generation is deleted by the connection that tells of all deletions but its own, and
    /// does not step the epochs of the other keys of the set.
    OwnDeletionUnheard,
    /// A generation that a process has created does not step the epochs of its name there, although `NOLOOP` may have hidden from it that
    /// another process had deleted it.
    CreationUnstepped,
    /// A reader that has created one generation takes its capture anew for all names of its stamp.
    RestampAllNames,
    /// Any generation will do for a namespace known only from the response.
    AnyGenerationForAdded,
    /// The generation of a namespace known only from the response may be created and numbered inside a fence; the fence is looked
    /// at before anything is stored.
    CreateAddedInsideFence,
    /// The number of a generation is what the counter was when it was created, not one taken after it was seen.
    NumberBeforeSeen,
    /// A number is written into whatever generation there is by then.
    NumberWhatever,
    /// A request joins whatever fill is under way.
    JoinWithoutLiveness,
    /// At landing, a follower is content when the last bump of an added namespace came after it had joined.
    LandingAgainstJoin,
    /// A dropped write bumps at once, while its statement may still commit.
    DropGuardBumps,
    /// A request without a generation joins an inner call that is already running.
    JoinRunningCall,
    /// A reader waits for RT1 however long it takes.
    NoBudget,
    /// The canonical key stored in the entry is not compared.
    NoKeyCheck,
}
