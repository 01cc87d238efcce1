//! One rule broken at a time. The number is the length of the shortest counterexample.

use super::*;

#[test]
fn stamp_at_store_time() {
    let scope = VALIDATED.but(Broken::StampAtStore);
    breaks(scope, law::ACK_FRESH, 12);
    breaks(scope, law::SETTLE, 9);
    breaks(scope, law::STAMP_FIRST, 6);
}

#[test]
fn generation_as_a_counter_from_zero() {
    let scope = VALIDATED.but(Broken::CounterFromZero);
    breaks(scope, law::ACK_FRESH, 15);
    breaks(scope, law::NO_RESURRECT, 11);
}

#[test]
fn missing_generation_means_never_invalidated() {
    let scope = VALIDATED.but(Broken::MissingIsValid);
    breaks(scope, law::ACK_FRESH, 12);
    breaks(scope, law::NO_RESURRECT, 9);
}

#[test]
fn deleting_the_entry_instead_of_a_bump() {
    breaks(VALIDATED.but(Broken::DeleteInsteadOfBump), law::ACK_FRESH, 12);
}

#[test]
fn answer_before_the_bump() {
    breaks(VALIDATED.but(Broken::AnswerBeforeBump), law::ACK_FRESH, 11);
}

#[test]
fn drop_guard_that_bumps_while_the_statement_still_commits() {
    breaks(VALIDATED.but(Broken::DropGuardBumps), law::SETTLE, 10);
}

#[test]
fn single_fence_token() {
    let scope = STRICT.but(Broken::SingleFenceToken);
    breaks(scope, law::SETTLE, 16);
    breaks(scope, law::MONOTONE, 24);
}

#[test]
fn no_second_look_at_the_fence() {
    let scope = STRICT.but(Broken::NoSecondLook);
    breaks(scope, law::SETTLE, 12);
    breaks(scope, law::MONOTONE, 19);
}

#[test]
fn unfence_on_an_unknown_outcome() {
    breaks(STRICT.but(Broken::UnfenceOnUnknown), law::SETTLE, 13);
}

#[test]
fn look_at_the_fence_before_the_generations_are_read() {
    breaks(STRICT.but(Broken::LookBeforeRead), law::SETTLE, 16);
}

#[test]
fn deadline_of_a_fence_before_that_of_the_statement() {
    breaks(STRICT.but(Broken::ShortDeadline), law::SETTLE, 13);
}

#[test]
fn fence_without_a_deadline() {
    gets_stuck(STRICT.but(Broken::FenceWithoutDeadline), 3);
}

#[test]
fn no_budget_for_an_answer_of_redis() {
    let scope = Scope { away: true, absent: true, ..VALIDATED };
    gets_stuck(scope.but(Broken::NoBudget), 1);
}

#[test]
fn lock_without_a_lease() {
    gets_stuck(Scope { lock: true, away: true, ..VALIDATED }.but(Broken::LockWithoutLease), 5);
}

#[test]
fn store_id_at_store_time() {
    let scope = Scope { failover: true, writers: &[Far], ..VALIDATED }.but(Broken::StoreIdAtStore);
    breaks(scope, law::ACK_FRESH, 14);
    breaks(scope, law::NO_RESURRECT, 8);
}

#[test]
fn store_id_of_the_entrys_master_only() {
    let scope = Scope { failover: true, writers: &[Far], bumps: [0b10, 0], ..CLUSTER };
    breaks(scope.but(Broken::StoreIdOfOneMaster), law::ACK_FRESH, 17);
}

#[test]
fn install_without_epochs() {
    breaks(ALONE.but(Broken::InstallWithoutEpochs), law::ACK_FRESH, 8);
    let scope = LEASED.but(Broken::InstallWithoutEpochs);
    breaks(scope, law::ACK_FRESH, 18);
    breaks(scope, law::SETTLE, 11);
}

#[test]
fn local_bump_before_that_of_redis() {
    let scope = Scope { readers: &[Near], writers: &[Near], ..LEASED };
    breaks(scope.but(Broken::LocalBumpFirst), law::ACK_FRESH, 12);
}

#[test]
fn flush_on_reconnect_alone() {
    breaks(Scope { ticks: 3, ..LEASED }.but(Broken::FlushOnReconnectAlone), law::ACK_FRESH, 14);
}

#[test]
fn flush_before_tracking_is_on() {
    let scope = LEASED.but(Broken::FlushBeforeTracking);
    breaks(scope, law::ACK_FRESH, 21);
    breaks(scope, law::SETTLE, 20);
}

#[test]
fn lease_from_the_latest_ping() {
    let scope = LEASED.but(Broken::TrustLatestPing);
    breaks(scope, law::ACK_FRESH, 14);
}

#[test]
fn replaced_master_extends_the_lease() {
    breaks(REFUSED.but(Broken::ReplacedExtendsLease), law::ACK_FRESH, 19);
}

#[test]
fn replaced_master_is_asked_for_generations() {
    let scope = Scope { coherence: scope::Coherence::Validated, readers: &[Near, Far], ..REFUSED };
    breaks(scope.but(Broken::ReplacedIsRead), law::ACK_FRESH, 14);
}

#[test]
fn invalidation_accepted_by_a_replaced_master_is_not_delivered_again() {
    let scope = ACCEPTED.but(Broken::NotDeliveredAgain);
    breaks(scope, law::ACK_FRESH, 15);
    breaks(scope, law::SETTLE, 12);
}

#[test]
fn own_deletion_of_a_generation_that_others_share_is_not_heard_of() {
    breaks(LEASED.but(Broken::OwnDeletionUnheard), law::ACK_FRESH, 18);
}

#[test]
fn push_lost_to_noloop() {
    let scope = Scope { readers: &[Near, Near], ..LEASED }.but(Broken::CreationUnstepped);
    breaks(scope, law::ACK_FRESH, 21);
    breaks(scope, law::SETTLE, 14);
}

#[test]
fn capture_taken_anew_for_other_names_than_the_created_one() {
    breaks(TWO_NAMES.but(Broken::RestampAllNames), law::SETTLE, 13);
}

#[test]
fn any_generation_for_a_name_known_from_the_response() {
    let scope = ADDED.but(Broken::AnyGenerationForAdded);
    breaks(scope, law::ACK_FRESH, 14);
    breaks(scope, law::STAMP_FIRST, 7);
}

#[test]
fn generation_of_an_added_name_created_inside_a_fence() {
    let scope = Scope { strict: true, crash: true, ..ADDED };
    breaks(scope.but(Broken::CreateAddedInsideFence), law::SETTLE, 22);
}

#[test]
fn generations_gone_before_the_fences_stand() {
    let scope =
        Scope { readers: &[Far, Far], writers: &[Far], strict: true, crash: true, split: true, namespaces: 2, ..VALIDATED };
    breaks(scope.but(Broken::UnlinkBeforeFence), law::SETTLE, 21);
}

#[test]
fn number_of_a_generation_taken_before_it_was_seen() {
    breaks(ADDED.but(Broken::NumberBeforeSeen), law::ACK_FRESH, 20);
}

#[test]
fn number_written_into_another_generation() {
    let scope = Scope { readers: &[Far, Far, Far], writers: &[Far], bumps: [0b10, 0b10], evict_counter: false, ..ADDED };
    breaks(scope.but(Broken::NumberWhatever), law::ACK_FRESH, 26);
}

#[test]
fn joining_a_flight_without_the_liveness_test() {
    breaks(ALONE.but(Broken::JoinWithoutLiveness), law::ACK_FRESH, 7);
    let scope = Scope { readers: &[Near, Near], flights: true, ..VALIDATED };
    breaks(scope.but(Broken::JoinWithoutLiveness), law::ACK_FRESH, 14);
}

#[test]
fn landing_test_that_knows_only_the_last_bump() {
    let scope = Scope { added: true, namespaces: 2, bumps: [0b10, 0b10], collide: false, ..ALONE };
    breaks(scope.but(Broken::LandingAgainstJoin), law::ACK_FRESH, 9);
}

#[test]
fn joining_an_inner_call_that_is_already_running() {
    breaks(Scope { away: true, ..VALIDATED }.but(Broken::JoinRunningCall), law::ACK_FRESH, 12);
}

#[test]
fn canonical_key_not_compared() {
    breaks(Scope { two_keys: true, ..VALIDATED }.but(Broken::NoKeyCheck), law::IDENTITY, 9);
}
