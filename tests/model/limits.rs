//! The stated limits of `protocol.md` are real: the protocol is unchanged, and a law is violated.

use super::*;

/// `Strict` removes this limit.
#[test]
fn default_writer_dying_before_its_bump_leaves_old_entries() {
    breaks(Scope { crash: true, ..VALIDATED }, law::SETTLE_AFTER_DEATH, 9);
}

#[test]
fn evicted_fence_gives_no_protection() {
    breaks(Scope { evict_fence: true, ..STRICT }, law::SETTLE, 13);
    breaks(Scope { evict_fence: true, crash: false, ..STRICT }, law::MONOTONE, 21);
}

#[test]
fn fence_with_failover_and_crash() {
    breaks(Scope { failover: true, ..STRICT }, law::SETTLE, 14);
}

#[test]
fn failover_losing_a_fence_is_not_monotone() {
    breaks(Scope { failover: true, crash: false, ..STRICT }, law::MONOTONE, 22);
}
