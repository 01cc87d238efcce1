//! The limits that `protocol.md` states, shown to be real: no rule is broken here, and yet a law is.

use super::*;

/// What `Strict` adds.
#[test]
fn a_default_writer_that_dies_before_its_bump_leaves_an_old_entry() {
    breaks(Scope { crash: true, ..VALIDATED }, law::SETTLE_AFTER_DEATH, 9);
}

#[test]
fn a_fence_that_is_evicted_is_no_fence() {
    breaks(Scope { evict_fence: true, ..STRICT }, law::SETTLE, 13);
    breaks(Scope { evict_fence: true, crash: false, ..STRICT }, law::MONOTONE, 21);
}

#[test]
fn fence_and_failover_and_crash_together() {
    breaks(Scope { failover: true, ..STRICT }, law::SETTLE, 14);
}

#[test]
fn a_failover_that_loses_a_fence_is_not_monotone() {
    breaks(Scope { failover: true, crash: false, ..STRICT }, law::MONOTONE, 22);
}
