//! The laws that are checked, and the events that an exploration must have seen, one bit each.

/// The laws: the bits of [`Outcome::violated`].
pub(crate) mod law {
    pub(crate) const ACK_FRESH: u32 = 1 << 1;
    pub(crate) const SETTLE: u32 = 1 << 2;
    pub(crate) const NO_RESURRECT: u32 = 1 << 3;
    pub(crate) const STAMP_FIRST: u32 = 1 << 4;
    pub(crate) const IDENTITY: u32 = 1 << 5;
    pub(crate) const MONOTONE: u32 = 1 << 7;
    /// I2 although a default writer died before its bump was done. Only `Strict` guarantees it, as part of I2.
    pub(crate) const SETTLE_AFTER_DEATH: u32 = 1 << 8;
    pub(crate) const ALL: u32 = ACK_FRESH | SETTLE | NO_RESURRECT | STAMP_FIRST | IDENTITY | MONOTONE;

    /// Returns the names of the laws in `bits`, as in `protocol.md`.
    pub(crate) fn names(bits: u32) -> String {
        let all = [
            (ACK_FRESH, "I1 ack-fresh"),
            (SETTLE, "I2 settle"),
            (NO_RESURRECT, "I3 no-resurrect"),
            (STAMP_FIRST, "I4 stamp-first"),
            (IDENTITY, "I5 identity"),
            (MONOTONE, "I7 monotone"),
            (SETTLE_AFTER_DEATH, "I2 settle, after a crash"),
        ];
        let named: Vec<_> = all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
        named.join(", ")
    }
}

/// Coverage of an exploration: the bits of [`Outcome::seen`].
pub(crate) mod seen {
    /// A hit on an entry in Redis, with all generations compared.
    pub(crate) const HIT: u32 = 1 << 0;
    /// A hit without a round trip.
    pub(crate) const HIT_MEMORY: u32 = 1 << 1;
    /// A hit on an entry in Redis, compared with the locally known generations.
    pub(crate) const HIT_LOCAL: u32 = 1 << 2;
    /// A hit older than the database, which the laws allow.
    pub(crate) const STALE_ALLOWED: u32 = 1 << 3;
    /// A hit older than a write that was acknowledged before the request began: `Leased` only.
    pub(crate) const STALE_LEASED: u32 = 1 << 4;
    /// An entry was found whose stamp did not match.
    pub(crate) const INVALIDATED: u32 = 1 << 5;
    /// A request met a fence.
    pub(crate) const FENCED: u32 = 1 << 6;
    /// The second check met a fence that the first had not seen.
    pub(crate) const FENCED_SECOND: u32 = 1 << 7;
    /// A response was not stored because one of its names was new.
    pub(crate) const NEW_NAME: u32 = 1 << 8;
    /// A response with an added name was stored.
    pub(crate) const ADDED_STORED: u32 = 1 << 9;
    /// A request got the response of a flight.
    pub(crate) const JOINED: u32 = 1 << 10;
    /// A follower was rejected at the end of a flight.
    pub(crate) const TURNED_AWAY: u32 = 1 << 11;
    /// An entry did not enter memory because its epochs were stepped since the capture.
    pub(crate) const DEAD_ON_ARRIVAL: u32 = 1 << 12;
    /// Requests without a generation shared one inner call.
    pub(crate) const SHARED: u32 = 1 << 13;
    /// The lease was held again after a lost connection.
    pub(crate) const LEASE_BACK: u32 = 1 << 14;
    /// A replica was promoted.
    pub(crate) const FAILED_OVER: u32 = 1 << 15;
    /// An entry of another store id was found.
    pub(crate) const FOREIGN: u32 = 1 << 16;
    /// A hit of the newest version after all writes were acknowledged.
    pub(crate) const HIT_AT_THE_END: u32 = 1 << 17;
    /// A request waited for the lock.
    pub(crate) const WAITED: u32 = 1 << 18;
    /// A fence reached its deadline.
    pub(crate) const FENCE_EXPIRED: u32 = 1 << 19;
    /// An entry of another key was found under an equal hash.
    pub(crate) const OTHER_KEY: u32 = 1 << 20;
    /// A push was lost because this process created the generation again in the same cycle.
    pub(crate) const LOST_PUSH: u32 = 1 << 23;
    /// An entry entered memory although its epochs were stepped: its generations were read again, and were equal.
    pub(crate) const RECHECKED: u32 = 1 << 24;
    /// RT1 validated a body in memory, so that none had to be transferred.
    pub(crate) const BODY_KEPT: u32 = 1 << 22;
    /// The process noticed that its master was replaced.
    pub(crate) const NOTICED: u32 = 1 << 25;
    /// An invalidation was delivered again.
    pub(crate) const DELIVERED_AGAIN: u32 = 1 << 26;
    /// Redis did not answer a reader.
    pub(crate) const UNANSWERED: u32 = 1 << 21;

    /// Returns the names of `bits`.
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
            (UNANSWERED, "unanswered"),
            (BODY_KEPT, "body kept"),
            (LOST_PUSH, "lost push"),
            (RECHECKED, "vouched"),
            (NOTICED, "noticed"),
            (DELIVERED_AGAIN, "delivered again"),
        ];
        let named: Vec<_> = all.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
        named.join(", ")
    }
}
