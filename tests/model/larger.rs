//! The laws at a larger scope, run each night, or by hand as `main.rs` describes.

use super::*;

#[test]
#[ignore = "larger scope, run each night"]
fn validated_cluster() {
    let scope = Scope { readers: &[Far, Far, Far], crash: true, ..CLUSTER };
    holds("validated, cluster", scope, law::ALL, PLAIN, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn strict_three_readers() {
    holds("strict", Scope { readers: &[Far, Far, Far], ..STRICT }, law::ALL, FENCES, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn strict_cluster() {
    let scope = Scope { strict: true, crash: true, ..CLUSTER };
    holds_safe("strict, cluster", scope, law::ALL, FENCES, 10_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn failover_three_readers() {
    let scope = Scope { readers: &[Far, Far, Far], failover: true, crash: true, ..VALIDATED };
    holds("failover", scope, law::ALL, PLAIN | seen::FAILED_OVER | seen::FOREIGN, 600_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn failover_cluster() {
    let scope = Scope { failover: true, ..CLUSTER };
    holds_safe("failover, cluster", scope, law::ALL, PLAIN | seen::FAILED_OVER | seen::FOREIGN, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn strict_failover() {
    let scope = Scope { failover: true, crash: false, ..STRICT };
    let seen = FENCES | seen::FAILED_OVER | seen::FOREIGN;
    holds("strict, failover", scope, law::ALL & !law::MONOTONE, seen, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_two_writers() {
    let scope = Scope { readers: &[Near, Far], writers: &[Near, Far], collide: true, evict_entry: true, ..LEASED };
    holds("leased", scope, law::ALL, LEASES | seen::LEASE_BACK, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_clock() {
    let scope = Scope { ticks: 6, evict_entry: true, ..LEASED };
    holds("leased, clock", scope, law::ALL, LEASES | seen::LEASE_BACK, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_strict() {
    let scope = Scope { readers: &[Near, Far], strict: true, crash: true, evict_entry: true, ..LEASED };
    holds_safe("leased, strict", scope, law::ALL, LEASES | FENCES | seen::LEASE_BACK, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_failover() {
    let scope = Scope { readers: &[Near, Far], failover: true, evict_entry: true, ..LEASED };
    let seen = LEASES | seen::LEASE_BACK | seen::FAILED_OVER | seen::FOREIGN;
    holds_safe("leased, failover", scope, law::ALL, seen, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_flights() {
    let scope = Scope { readers: &[Near, Near], writers: &[Far, Far], flights: true, evict_entry: true, ..LEASED };
    holds_safe("leased, flights", scope, law::ALL, LEASES | seen::JOINED | seen::LEASE_BACK, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn added_three_readers() {
    let scope = Scope { readers: &[Far, Far, Far], evict_counter: true, ..ADDED };
    holds("added name", scope, law::ALL, PLAIN | seen::NEW_NAME | seen::ADDED_STORED, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn added_strict() {
    let scope = Scope { strict: true, crash: true, evict_counter: true, ..ADDED };
    let seen = PLAIN | seen::FENCED | seen::FENCE_EXPIRED | seen::NEW_NAME | seen::ADDED_STORED;
    holds("added name, strict", scope, law::ALL, seen, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn flights_three_readers() {
    let scope = Scope { readers: &[Near, Near, Near], flights: true, ..STRICT };
    holds_safe("flights, strict", scope, law::ALL, FENCES | seen::JOINED, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn lock_and_unanswered_commands() {
    let scope = Scope { readers: &[Far, Far, Far], lock: true, unanswered: true, ..VALIDATED };
    holds("lock", scope, law::ALL, PLAIN | seen::WAITED | seen::UNANSWERED | seen::SHARED, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_added() {
    let scope = Scope { coherence: Leased, readers: &[Near], writers: &[Far], disconnect: true, evict_counter: true, ..ADDED };
    let seen = LEASES | seen::LEASE_BACK | seen::ADDED_STORED | seen::NEW_NAME;
    holds_safe("leased, added name", scope, law::ALL, seen, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_unanswered_commands() {
    let scope = Scope { readers: &[Near, Far], unanswered: true, evict_entry: true, ..LEASED };
    let seen = LEASES | seen::LEASE_BACK | seen::UNANSWERED;
    holds_safe("leased, Redis unanswered", scope, law::ALL, seen, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn validated_memory_failover() {
    let scope =
        Scope { readers: &[Near, Near, Far], writers: &[Near, Far], memory: true, crash: true, failover: true, ..VALIDATED };
    let seen = PLAIN | seen::BODY_KEPT | seen::FAILED_OVER | seen::FOREIGN;
    holds_safe("validated, memory, failover", scope, law::ALL, seen, 1_000_000);
}

#[test]
#[ignore = "larger scope, run each night"]
fn leased_strict_flights() {
    let scope = Scope { readers: &[Near, Near], flights: true, strict: true, crash: true, disconnect: false, ..LEASED };
    holds_safe("leased, strict, flights", scope, law::ALL, LEASES | seen::FENCED | seen::JOINED, 1_000_000);
}
