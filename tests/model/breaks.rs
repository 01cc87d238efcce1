//! One rule broken at a time. The number is the length of the shortest counterexample.

use super::*;

#[test]
fn stamp_at_store_time() {
    let scope = VALIDATED.with(Mutation::StampAtStore);
    breaks(scope, law::ACK_FRESH, 12);
    breaks(scope, law::SETTLE, 9);
    breaks(scope, law::STAMP_FIRST, 6);
}

#[test]
fn generation_as_a_counter_from_zero() {
    let scope = VALIDATED.with(Mutation::CounterFromZero);
    breaks(scope, law::ACK_FRESH, 15);
    breaks(scope, law::NO_RESURRECT, 11);
}

#[test]
fn missing_generation_means_never_invalidated() {
    let scope = VALIDATED.with(Mutation::MissingIsValid);
    breaks(scope, law::ACK_FRESH, 12);
    breaks(scope, law::NO_RESURRECT, 9);
}

#[test]
fn entry_deleted_instead_of_a_bump() {
    breaks(VALIDATED.with(Mutation::DeleteInsteadOfBump), law::ACK_FRESH, 12);
}

#[test]
fn response_before_the_bump() {
    breaks(VALIDATED.with(Mutation::RespondBeforeBump), law::ACK_FRESH, 11);
}

#[test]
fn drop_guard_bumps_before_the_statement_commits() {
    breaks(VALIDATED.with(Mutation::DropGuardBumps), law::SETTLE, 10);
}

#[test]
fn single_fence_token() {
    let scope = STRICT.with(Mutation::SingleFenceToken);
    breaks(scope, law::SETTLE, 16);
    breaks(scope, law::MONOTONE, 24);
}

#[test]
fn no_second_check_of_the_fence() {
    let scope = STRICT.with(Mutation::NoSecondCheck);
    breaks(scope, law::SETTLE, 12);
    breaks(scope, law::MONOTONE, 19);
}

#[test]
fn unfence_on_an_unknown_outcome() {
    breaks(STRICT.with(Mutation::UnfenceOnUnknown), law::SETTLE, 13);
}

#[test]
fn fence_checked_before_the_generations_are_read() {
    breaks(STRICT.with(Mutation::CheckBeforeRead), law::SETTLE, 16);
}

#[test]
fn fence_deadline_before_that_of_the_statement() {
    breaks(STRICT.with(Mutation::ShortDeadline), law::SETTLE, 13);
}

#[test]
fn fence_without_a_deadline() {
    gets_stuck(STRICT.with(Mutation::FenceWithoutDeadline), 3);
}

#[test]
fn no_timeout_for_redis() {
    let scope = Scope { unanswered: true, absent: true, ..VALIDATED };
    gets_stuck(scope.with(Mutation::NoTimeout), 1);
}

#[test]
fn lock_without_a_lease() {
    gets_stuck(Scope { lock: true, unanswered: true, ..VALIDATED }.with(Mutation::LockWithoutLease), 5);
}

#[test]
fn store_id_at_store_time() {
    let scope = Scope { failover: true, writers: &[Far], ..VALIDATED }.with(Mutation::StoreIdAtStore);
    breaks(scope, law::ACK_FRESH, 14);
    breaks(scope, law::NO_RESURRECT, 8);
}

#[test]
fn store_id_of_one_master_only() {
    let scope = Scope { failover: true, writers: &[Far], bumps: [0b10, 0], ..CLUSTER };
    breaks(scope.with(Mutation::StoreIdOfOneMaster), law::ACK_FRESH, 17);
}

#[test]
fn install_without_epochs() {
    breaks(ALONE.with(Mutation::InstallWithoutEpochs), law::ACK_FRESH, 8);
    let scope = LEASED.with(Mutation::InstallWithoutEpochs);
    breaks(scope, law::ACK_FRESH, 18);
    breaks(scope, law::SETTLE, 11);
}

#[test]
fn local_bump_before_that_of_redis() {
    let scope = Scope { readers: &[Near], writers: &[Near], ..LEASED };
    breaks(scope.with(Mutation::LocalBumpFirst), law::ACK_FRESH, 12);
}

#[test]
fn flush_on_reconnect_alone() {
    breaks(Scope { ticks: 3, ..LEASED }.with(Mutation::FlushOnReconnectAlone), law::ACK_FRESH, 14);
}

#[test]
fn flush_before_tracking_is_on() {
    let scope = LEASED.with(Mutation::FlushBeforeTracking);
    breaks(scope, law::ACK_FRESH, 21);
    breaks(scope, law::SETTLE, 20);
}

#[test]
fn lease_from_the_latest_ping() {
    let scope = LEASED.with(Mutation::TrustLatestPing);
    breaks(scope, law::ACK_FRESH, 14);
}

#[test]
fn replaced_master_extends_the_lease() {
    breaks(REFUSED.with(Mutation::ReplacedExtendsLease), law::ACK_FRESH, 19);
}

#[test]
fn generations_read_from_a_replaced_master() {
    let scope = Scope { coherence: scope::Coherence::Validated, readers: &[Near, Far], ..REFUSED };
    breaks(scope.with(Mutation::ReplacedIsRead), law::ACK_FRESH, 14);
}

#[test]
fn invalidation_of_a_replaced_master_is_not_redelivered() {
    let scope = ACCEPTED.with(Mutation::NotDeliveredAgain);
    breaks(scope, law::ACK_FRESH, 15);
    breaks(scope, law::SETTLE, 12);
}

#[test]
fn own_deletion_of_a_shared_generation_is_unnoticed() {
    breaks(LEASED.with(Mutation::OwnDeletionUnstepped), law::ACK_FRESH, 18);
}

#[test]
fn push_lost_to_noloop() {
    let scope = Scope { readers: &[Near, Near], ..LEASED }.with(Mutation::CreationUnstepped);
    breaks(scope, law::ACK_FRESH, 21);
    breaks(scope, law::SETTLE, 14);
}

#[test]
fn capture_renewed_for_other_names_too() {
    breaks(TWO_NAMES.with(Mutation::RestampAllNames), law::SETTLE, 13);
}

#[test]
fn name_touched_before_its_generation_is_deleted() {
    let scope = TOUCHED.with(Mutation::TouchBeforeDeletion);
    breaks(scope, law::ACK_FRESH, 20);
    breaks(scope, law::SETTLE, 13);
}

#[test]
fn name_without_a_generation_is_not_touched() {
    let scope = TOUCHED.with(Mutation::TouchOnlyIfDeleted);
    breaks(scope, law::ACK_FRESH, 18);
    breaks(scope, law::SETTLE, 11);
}

#[test]
fn lost_touch_is_trusted() {
    let scope = TOUCHED.with(Mutation::LostTouchTrusted);
    breaks(scope, law::ACK_FRESH, 18);
    breaks(scope, law::SETTLE, 11);
}

#[test]
fn fence_without_a_push() {
    let scope = Scope { strict: true, crash: true, ..TOUCHED };
    breaks(scope.with(Mutation::FenceUnpushed), law::SETTLE, 14);
}

#[test]
fn generation_created_inside_a_fence_is_known() {
    let scope = Scope { strict: true, crash: true, ..TOUCHED };
    breaks(scope.with(Mutation::LearnInsideFence), law::SETTLE, 15);
}

#[test]
fn any_generation_for_an_added_name() {
    let scope = ADDED.with(Mutation::AnyGenerationForAdded);
    breaks(scope, law::ACK_FRESH, 14);
    breaks(scope, law::STAMP_FIRST, 7);
}

#[test]
fn added_generation_created_inside_a_fence() {
    let scope = Scope { strict: true, crash: true, ..ADDED };
    breaks(scope.with(Mutation::CreateAddedInsideFence), law::SETTLE, 22);
}

#[test]
fn generations_deleted_before_the_fences_are_set() {
    let scope =
        Scope { readers: &[Far, Far], writers: &[Far], strict: true, crash: true, split: true, namespaces: 2, ..VALIDATED };
    breaks(scope.with(Mutation::UnlinkBeforeFence), law::SETTLE, 21);
}

#[test]
fn creation_number_taken_before_the_generation_was_seen() {
    breaks(ADDED.with(Mutation::NumberBeforeSeen), law::ACK_FRESH, 20);
}

#[test]
fn creation_number_written_into_another_generation() {
    let scope = Scope { readers: &[Far, Far, Far], writers: &[Far], bumps: [0b10, 0b10], evict_counter: false, ..ADDED };
    breaks(scope.with(Mutation::NumberUnconditionally), law::ACK_FRESH, 26);
}

#[test]
fn join_without_the_validity_test() {
    breaks(ALONE.with(Mutation::JoinWithoutLiveness), law::ACK_FRESH, 7);
    let scope = Scope { readers: &[Near, Near], flights: true, ..VALIDATED };
    breaks(scope.with(Mutation::JoinWithoutLiveness), law::ACK_FRESH, 14);
}

#[test]
fn flight_end_tests_only_the_last_bump() {
    let scope = Scope { added: true, namespaces: 2, bumps: [0b10, 0b10], collide: false, ..ALONE };
    breaks(scope.with(Mutation::LandingAgainstJoin), law::ACK_FRESH, 9);
}

#[test]
fn join_of_a_running_call_without_a_generation() {
    breaks(Scope { unanswered: true, ..VALIDATED }.with(Mutation::JoinRunningCall), law::ACK_FRESH, 12);
}

#[test]
fn canonical_key_not_compared() {
    breaks(Scope { two_keys: true, ..VALIDATED }.with(Mutation::NoKeyCheck), law::IDENTITY, 9);
}
