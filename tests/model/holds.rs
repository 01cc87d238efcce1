//! The laws hold, in configurations small enough for every run of the tests.

use super::*;

#[test]
fn validated_hits_are_ack_fresh() {
    let scope = Scope { readers: &[Far, Far, Far], crash: true, ..VALIDATED };
    holds("validated", scope, law::ALL, PLAIN, 26_000);
}

#[test]
fn validated_hits_are_ack_fresh_with_two_masters() {
    holds("validated, cluster", CLUSTER, law::ALL, PLAIN, 85_000);
}

#[test]
fn validated_hits_are_ack_fresh_with_memory() {
    let scope = Scope { readers: &[Near, Near, Far], writers: &[Near, Far], memory: true, ..VALIDATED };
    holds("validated, memory", scope, law::ALL, PLAIN | seen::BODY_KEPT, 290_000);
}

#[test]
fn strict_settles_after_crashes_and_is_monotone() {
    holds("strict", STRICT, law::ALL, FENCES, 100_000);
}

#[test]
fn strict_settles_with_memory() {
    let scope = Scope { readers: &[Near, Far], writers: &[Far], memory: true, ..STRICT };
    holds("strict, memory", scope, law::ALL, FENCES | seen::BODY_KEPT, 42_000);
}

#[test]
fn strict_settles_with_two_masters() {
    let scope = Scope { strict: true, crash: true, evict_entry: false, evict_generation: false, writers: &[Far], ..CLUSTER };
    holds("strict, cluster", scope, law::ALL, FENCES, 350_000);
}

#[test]
fn strict_settles_with_evicted_fences_without_crashes() {
    let scope = Scope { crash: false, evict_fence: true, ..STRICT };
    let seen = FENCES & !seen::FENCE_EXPIRED;
    holds("strict, fences evicted", scope, law::ALL & !law::MONOTONE, seen, 79_000);
}

#[test]
fn lossy_failover_resurrects_nothing() {
    let scope = Scope { failover: true, crash: true, ..VALIDATED };
    holds("failover", scope, law::ALL, PLAIN | seen::FAILED_OVER | seen::FOREIGN, 100_000);
}

#[test]
fn failover_of_one_of_two_masters_resurrects_nothing() {
    let scope = Scope { failover: true, evict_generation: false, writers: &[Far], ..CLUSTER };
    holds("failover, cluster", scope, law::ALL, PLAIN | seen::FAILED_OVER | seen::FOREIGN, 110_000);
}

#[test]
fn strict_settles_over_a_failover_without_crashes() {
    let scope = Scope { failover: true, crash: false, writers: &[Far], ..STRICT };
    let seen = PLAIN | seen::FENCED | seen::FAILED_OVER | seen::FOREIGN;
    holds("strict, failover", scope, law::ALL & !law::MONOTONE, seen, 130_000);
}

#[test]
fn leased_hits_are_as_fresh_as_the_trusted_ping() {
    let scope = Scope { readers: &[Near, Far], collide: true, ..LEASED };
    holds("leased", scope, law::ALL, LEASES | seen::LEASE_BACK | seen::LOST_PUSH | seen::RECHECKED, 390_000);
}

#[test]
fn leased_hits_reflect_writes_of_their_own_process() {
    let scope = Scope { writers: &[Near, Far], disconnect: false, ..LEASED };
    holds("leased, own write", scope, law::ALL, LEASES, 58_000);
}

#[test]
fn leased_hits_are_stale_by_at_most_delta() {
    let scope = Scope { ticks: 3, ..LEASED };
    holds("leased, clock", scope, law::ALL, LEASES | seen::LEASE_BACK, 440_000);
}

#[test]
fn leased_strict_is_monotone_since_the_trusted_ping() {
    let scope = Scope { strict: true, crash: true, ..LEASED };
    let seen = (LEASES | FENCES | seen::LEASE_BACK) & !seen::DEAD_ON_ARRIVAL;
    holds("leased, strict", scope, law::ALL, seen, 80_000);
}

#[test]
fn leased_creation_steps_its_own_name_only() {
    holds("leased, two names", TWO_NAMES, law::ALL, LEASES | seen::LOST_PUSH | seen::RECHECKED, 170_000);
}

#[test]
fn leased_survives_a_failover() {
    let scope = Scope { failover: true, ..LEASED };
    let seen = LEASES | seen::LEASE_BACK | seen::FAILED_OVER | seen::FOREIGN;
    holds("leased, failover", scope, law::ALL, seen, 170_000);
}

#[test]
fn leased_hits_are_ack_fresh_despite_a_replaced_master() {
    let seen = LEASES | seen::LEASE_BACK | seen::FAILED_OVER | seen::FOREIGN | seen::NOTICED;
    holds("leased, replaced", REFUSED, law::ALL, seen, 215_000);
}

#[test]
fn validated_hits_are_ack_fresh_despite_a_replaced_master() {
    let scope = Scope { coherence: scope::Coherence::Validated, readers: &[Near, Far], writers: &[Far, Far], ..REFUSED };
    holds("validated, replaced", scope, law::ALL, PLAIN | seen::FAILED_OVER | seen::NOTICED, 72_000);
}

#[test]
fn writes_of_a_replaced_master_settle_once_noticed() {
    let seen = PLAIN | seen::FAILED_OVER | seen::FOREIGN | seen::NOTICED | seen::DELIVERED_AGAIN;
    holds("replaced, accepting", ACCEPTED, law::ALL, seen, 91_000);
}

#[test]
fn leased_flights_are_ack_fresh() {
    let scope = Scope { readers: &[Near, Near], flights: true, disconnect: false, evict_generation: false, ..LEASED };
    holds("leased, flights", scope, law::ALL, LEASES | seen::JOINED, 52_000);
}

#[test]
fn leased_hits_of_added_names_are_ack_fresh() {
    let scope = Scope {
        coherence: Leased,
        readers: &[Near, Far],
        writers: &[Far],
        evict_entry: false,
        evict_generation: false,
        ..ADDED
    };
    let seen = LEASES | seen::ADDED_STORED | seen::NEW_NAME;
    holds("leased, added name", scope, law::ALL, seen, 620_000);
}

#[test]
fn touched_names_are_as_fresh_as_the_trusted_ping() {
    let scope = Scope { readers: &[Near, Far], collide: true, ..TOUCHED };
    holds("touched", scope, law::ALL, LEASES | seen::LEASE_BACK | seen::RECHECKED, 250_000);
    let scope = Scope { writers: &[Near, Far], disconnect: false, ..TOUCHED };
    holds("touched, own write", scope, law::ALL, LEASES, 48_000);
    let scope = Scope { touches: true, bumps: [0b01, 0], ..TWO_NAMES };
    holds("touched, two names", scope, law::ALL, LEASES, 6_000);
}

#[test]
fn touched_names_are_stale_by_at_most_delta() {
    let scope = Scope { ticks: 3, ..TOUCHED };
    holds("touched, clock", scope, law::ALL, LEASES | seen::LEASE_BACK, 280_000);
}

#[test]
fn touched_names_under_strict_are_monotone() {
    let scope = Scope { strict: true, crash: true, ..TOUCHED };
    let seen = (LEASES | FENCES | seen::LEASE_BACK) & !seen::DEAD_ON_ARRIVAL;
    holds("touched, strict", scope, law::ALL, seen, 80_000);
}

#[test]
fn touched_names_survive_failovers_and_replaced_masters() {
    let seen = LEASES | seen::LEASE_BACK | seen::FAILED_OVER | seen::FOREIGN;
    holds("touched, failover", Scope { failover: true, ..TOUCHED }, law::ALL, seen, 115_000);
    holds("touched, replaced", Scope { touches: true, ..REFUSED }, law::ALL, seen | seen::NOTICED, 150_000);
}

#[test]
fn touched_added_names_are_ack_fresh() {
    let scope = Scope { coherence: Leased, readers: &[Near, Far], writers: &[Far], evict_entry: false, ..ADDED };
    let scope = Scope { touches: true, evict_generation: false, ..scope };
    let seen = LEASES | seen::ADDED_STORED | seen::NEW_NAME;
    holds("touched, added name", scope, law::ALL, seen, 280_000);
}

#[test]
fn touched_names_are_ack_fresh_with_flights() {
    let scope = Scope { readers: &[Near, Near], flights: true, disconnect: false, evict_generation: false, ..TOUCHED };
    holds("touched, flights", scope, law::ALL, LEASES | seen::JOINED, 52_000);
}

#[test]
fn memory_alone_is_ack_fresh_and_joins_valid_fills() {
    let seen = seen::HIT_MEMORY | seen::JOINED | seen::DEAD_ON_ARRIVAL | seen::HIT_AT_THE_END;
    holds("memory alone", ALONE, law::ALL, seen, 31_000);
}

#[test]
fn memory_alone_is_ack_fresh_for_added_names() {
    let scope = Scope { added: true, namespaces: 2, bumps: [0b10, 0b11], ..ALONE };
    let seen = seen::HIT_MEMORY | seen::JOINED | seen::TURNED_AWAY | seen::DEAD_ON_ARRIVAL;
    holds("memory alone, added name", scope, law::ALL, seen, 280_000);
}

#[test]
fn added_names_are_ack_fresh() {
    let scope = Scope { evict_counter: true, ..ADDED };
    holds("added name", scope, law::ALL, PLAIN | seen::NEW_NAME | seen::ADDED_STORED, 110_000);
}

#[test]
fn added_names_settle_under_strict() {
    let scope = Scope { strict: true, crash: true, writers: &[Far], ..ADDED };
    let seen = PLAIN | seen::FENCED | seen::FENCE_EXPIRED | seen::NEW_NAME | seen::ADDED_STORED;
    holds("added name, strict", scope, law::ALL, seen, 110_000);
}

#[test]
fn added_names_survive_a_failover() {
    let scope = Scope { failover: true, writers: &[Far], evict_generation: false, ..ADDED };
    let seen = PLAIN | seen::FAILED_OVER | seen::FOREIGN | seen::NEW_NAME | seen::ADDED_STORED;
    holds("added name, failover", scope, law::ALL, seen, 23_000);
}

#[test]
fn flights_are_joined_only_while_the_stamp_is_valid() {
    let scope = Scope { readers: &[Near, Near, Far], writers: &[Far], flights: true, ..VALIDATED };
    holds("flights", scope, law::ALL, PLAIN | seen::JOINED, 41_000);
}

#[test]
fn flights_under_strict_are_monotone() {
    let scope = Scope { readers: &[Near, Near], flights: true, ..STRICT };
    holds("flights, strict", scope, law::ALL, FENCES | seen::JOINED, 270_000);
}

#[test]
fn without_a_generation_only_future_calls_are_shared() {
    let scope = Scope { unanswered: true, writers: &[Far], ..STRICT };
    holds("Redis unanswered", scope, law::ALL, FENCES | seen::UNANSWERED | seen::SHARED, 28_000);
}

#[test]
fn requests_complete_without_redis() {
    let near = Scope { readers: &[Near, Near], writers: &[Far], flights: true, unanswered: true, absent: true, ..EVICTING };
    let seen = PLAIN | seen::UNANSWERED | seen::JOINED;
    let locked = Scope { lock: true, ..near };
    holds("Redis absent", locked, law::ALL, seen | seen::WAITED, 18_000);
    let leased = Scope { coherence: Leased, evict_entry: false, evict_generation: false, ..near };
    holds("Redis absent, leased", leased, law::ALL, seen | seen::HIT_MEMORY, 140_000);
}

#[test]
fn fill_lock_decides_nothing_and_blocks_no_reader() {
    let scope = Scope { readers: &[Far, Far, Far], writers: &[Far], lock: true, ..VALIDATED };
    holds("lock", scope, law::ALL, PLAIN | seen::WAITED, 100_000);
}

#[test]
fn response_is_served_to_its_own_key_only() {
    let scope = Scope { readers: &[Near, Far], writers: &[Far], memory: true, two_keys: true, ..VALIDATED };
    holds("two keys", scope, law::ALL, PLAIN | seen::OTHER_KEY, 18_000);
    let scope = Scope { two_keys: true, disconnect: false, ..LEASED };
    holds("two keys, leased", scope, law::ALL, LEASES | seen::OTHER_KEY, 20_000);
}

/// Symmetry of readers and equality of dead entries must not hide a violation.
#[test]
fn symmetry_changes_neither_verdict_nor_coverage() {
    for scope in [STRICT, Scope { failover: true, ..VALIDATED }] {
        let question = Question { laws: law::ALL, liveness: true };
        let small = explore(&scope, &question);
        let exact = explore(&Scope { exact: true, ..scope }, &question);
        assert!(small.counterexample.is_none() && exact.counterexample.is_none());
        assert!(small.stuck.is_none() && exact.stuck.is_none());
        assert_eq!(small.seen, exact.seen);
        assert!(small.states < exact.states);
        println!("{} states stand for {}", small.states, exact.states);
    }
}
