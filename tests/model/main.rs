//! The consistency protocol, explored exhaustively at small scope.
//!
//! `protocol.rs` states the protocol of `consistency.md` as atomic steps, `checker.rs` visits every state that any order
//! of them can reach, and the tests here say which laws hold where. A model that cannot fail proves nothing, so each
//! test also demands that the interesting things were seen to happen, and the second half breaks one rule at a time and
//! demands a counterexample, which it prints:
//!
//! ```text
//! cargo test --test model -- --nocapture
//! ```
//!
//! The larger scope takes minutes and gigabytes, so it is run by hand, optimized and one test at a time:
//!
//! ```text
//! cargo test --release --test model -- --ignored --nocapture --test-threads 1
//! ```
//!
//! What is modelled, what is not, and the numbers measured: `README.md` beside this file.

mod canonical;
mod checker;
mod protocol;
mod scope;
mod state;
mod words;

use std::time::Instant;

use checker::{Question, explore};
use scope::Coherence::{Alone, Leased};
use scope::Place::{Far, Near};
use scope::{Broken, Scope};
use state::{law, seen};

/// Redis may evict entries and generations whenever it likes.
const EVICTING: Scope = Scope {
    evict_entry: true,
    evict_generation: true,
    ..Scope::SMALL
};

const VALIDATED: Scope = Scope {
    readers: &[Far, Far],
    writers: &[Far, Far],
    ..EVICTING
};

const STRICT: Scope = Scope {
    strict: true,
    crash: true,
    ..VALIDATED
};

const LEASED: Scope = Scope {
    coherence: Leased,
    readers: &[Near],
    disconnect: true,
    ..EVICTING
};

const ALONE: Scope = Scope {
    coherence: Alone,
    readers: &[Near, Near, Near],
    writers: &[Near, Near],
    flights: true,
    collide: true,
    ..Scope::SMALL
};

/// The second namespace comes with the response, and the writes bump only that one.
const ADDED: Scope = Scope {
    added: true,
    namespaces: 2,
    bumps: [0b10, 0b10],
    ..VALIDATED
};

/// Two masters; one write bumps both namespaces, the other only the second.
const CLUSTER: Scope = Scope {
    split: true,
    namespaces: 2,
    bumps: [0b11, 0b10],
    ..VALIDATED
};

/// Everything that a hit in Redis may meet.
const PLAIN: u32 = seen::HIT | seen::STALE_ALLOWED | seen::INVALIDATED | seen::HIT_AT_THE_END;
const FENCES: u32 = PLAIN | seen::FENCED | seen::FENCED_SECOND | seen::FENCE_EXPIRED;
const LEASES: u32 =
    PLAIN | seen::HIT_MEMORY | seen::HIT_LOCAL | seen::STALE_LEASED | seen::DEAD_ON_ARRIVAL;

mod holds {
    use super::*;

    #[test]
    fn validated_hits_are_ack_fresh() {
        let scope = Scope {
            readers: &[Far, Far, Far],
            crash: true,
            ..VALIDATED
        };
        holds("validated", scope, law::ALL, PLAIN, 27_000);
    }

    #[test]
    fn validated_hits_are_ack_fresh_when_each_namespace_has_a_master_of_its_own() {
        holds("validated, cluster", CLUSTER, law::ALL, PLAIN, 90_000);
    }

    #[test]
    fn validated_hits_are_ack_fresh_when_memory_keeps_the_body() {
        let scope = Scope {
            readers: &[Near, Near, Far],
            writers: &[Near, Far],
            memory: true,
            ..VALIDATED
        };
        holds("validated, memory", scope, law::ALL, PLAIN, 300_000);
    }

    #[test]
    fn strict_settles_whoever_dies_and_is_monotone() {
        holds("strict", STRICT, law::ALL, FENCES, 100_000);
    }

    #[test]
    fn strict_settles_when_each_namespace_has_a_master_of_its_own() {
        let scope = Scope {
            strict: true,
            crash: true,
            writers: &[Far],
            ..CLUSTER
        };
        holds("strict, cluster", scope, law::ALL, FENCES, 100_000);
    }

    #[test]
    fn strict_is_ack_fresh_and_settles_when_fences_are_evicted_and_nobody_dies() {
        let scope = Scope {
            crash: false,
            evict_fence: true,
            ..STRICT
        };
        let seen = FENCES & !seen::FENCE_EXPIRED;
        holds(
            "strict, fences evicted",
            scope,
            law::ALL & !law::MONOTONE,
            seen,
            80_000,
        );
    }

    #[test]
    fn a_failover_that_loses_writes_resurrects_nothing() {
        let scope = Scope {
            failover: true,
            crash: true,
            ..VALIDATED
        };
        holds(
            "failover",
            scope,
            law::ALL,
            PLAIN | seen::FAILED_OVER | seen::FOREIGN,
            100_000,
        );
    }

    #[test]
    fn a_failover_of_one_master_among_two_resurrects_nothing() {
        let scope = Scope {
            failover: true,
            evict_generation: false,
            writers: &[Far],
            ..CLUSTER
        };
        holds(
            "failover, cluster",
            scope,
            law::ALL,
            PLAIN | seen::FAILED_OVER | seen::FOREIGN,
            100_000,
        );
    }

    #[test]
    fn strict_is_ack_fresh_and_settles_over_a_failover_when_nobody_dies() {
        let scope = Scope {
            failover: true,
            crash: false,
            writers: &[Far],
            ..STRICT
        };
        let seen = PLAIN | seen::FENCED | seen::FAILED_OVER | seen::FOREIGN;
        holds(
            "strict, failover",
            scope,
            law::ALL & !law::MONOTONE,
            seen,
            100_000,
        );
    }

    #[test]
    fn leased_hits_are_ack_fresh_up_to_the_trusted_ping() {
        let scope = Scope {
            readers: &[Near, Far],
            collide: true,
            ..LEASED
        };
        holds(
            "leased",
            scope,
            law::ALL,
            LEASES | seen::LEASE_BACK,
            600_000,
        );
    }

    #[test]
    fn leased_hits_are_stale_by_at_most_delta_on_the_clock() {
        let scope = Scope { ticks: 4, ..LEASED };
        holds(
            "leased, clock",
            scope,
            law::ALL,
            LEASES | seen::LEASE_BACK,
            100_000,
        );
    }

    #[test]
    fn leased_and_strict_settles_and_is_monotone_up_to_the_trusted_ping() {
        let scope = Scope {
            strict: true,
            crash: true,
            ..LEASED
        };
        let seen = (LEASES | FENCES | seen::LEASE_BACK) & !seen::DEAD_ON_ARRIVAL;
        holds("leased, strict", scope, law::ALL, seen, 100_000);
    }

    #[test]
    fn leased_survives_a_failover() {
        let scope = Scope {
            failover: true,
            ..LEASED
        };
        let seen = LEASES | seen::LEASE_BACK | seen::FAILED_OVER | seen::FOREIGN;
        holds("leased, failover", scope, law::ALL, seen, 100_000);
    }

    #[test]
    fn leased_flights_are_ack_fresh() {
        let scope = Scope {
            readers: &[Near, Near],
            flights: true,
            disconnect: false,
            ..LEASED
        };
        holds(
            "leased, flights",
            scope,
            law::ALL,
            LEASES | seen::JOINED,
            100_000,
        );
    }

    #[test]
    fn leased_hits_are_ack_fresh_for_names_known_from_the_response() {
        let scope = Scope {
            coherence: Leased,
            readers: &[Near],
            writers: &[Far],
            disconnect: true,
            ..ADDED
        };
        let seen = LEASES | seen::LEASE_BACK | seen::ADDED_STORED | seen::NEW_NAME;
        holds("leased, added name", scope, law::ALL, seen, 100_000);
    }

    #[test]
    fn memory_alone_is_ack_fresh_and_joins_only_living_fills() {
        let seen = seen::HIT_MEMORY | seen::JOINED | seen::DEAD_ON_ARRIVAL | seen::HIT_AT_THE_END;
        holds("memory alone", ALONE, law::ALL, seen, 12_000);
    }

    #[test]
    fn memory_alone_is_ack_fresh_for_names_known_from_the_response() {
        let scope = Scope {
            added: true,
            namespaces: 2,
            bumps: [0b10, 0b11],
            ..ALONE
        };
        let seen = seen::HIT_MEMORY | seen::JOINED | seen::TURNED_AWAY | seen::DEAD_ON_ARRIVAL;
        holds("memory alone, added name", scope, law::ALL, seen, 100_000);
    }

    #[test]
    fn names_known_from_the_response_are_ack_fresh() {
        let scope = Scope {
            evict_counter: true,
            ..ADDED
        };
        holds(
            "added name",
            scope,
            law::ALL,
            PLAIN | seen::NEW_NAME | seen::ADDED_STORED,
            100_000,
        );
    }

    #[test]
    fn names_known_from_the_response_settle_under_strict() {
        let scope = Scope {
            strict: true,
            crash: true,
            writers: &[Far],
            ..ADDED
        };
        let seen = PLAIN | seen::FENCED | seen::FENCE_EXPIRED | seen::NEW_NAME | seen::ADDED_STORED;
        holds("added name, strict", scope, law::ALL, seen, 50_000);
    }

    #[test]
    fn names_known_from_the_response_survive_a_failover() {
        let scope = Scope {
            failover: true,
            writers: &[Far],
            evict_generation: false,
            ..ADDED
        };
        let seen = PLAIN | seen::FAILED_OVER | seen::FOREIGN | seen::NEW_NAME | seen::ADDED_STORED;
        holds("added name, failover", scope, law::ALL, seen, 24_000);
    }

    #[test]
    fn flights_join_only_while_the_stamp_is_alive() {
        let scope = Scope {
            readers: &[Near, Near, Far],
            writers: &[Far],
            flights: true,
            ..VALIDATED
        };
        holds("flights", scope, law::ALL, PLAIN | seen::JOINED, 30_000);
    }

    #[test]
    fn flights_under_strict_are_monotone() {
        let scope = Scope {
            readers: &[Near, Near],
            flights: true,
            ..STRICT
        };
        holds(
            "flights, strict",
            scope,
            law::ALL,
            FENCES | seen::JOINED,
            100_000,
        );
    }

    #[test]
    fn without_a_generation_only_a_call_yet_to_begin_is_shared() {
        let scope = Scope {
            away: true,
            ..STRICT
        };
        holds(
            "Redis away",
            scope,
            law::ALL,
            FENCES | seen::AWAY | seen::SHARED,
            300_000,
        );
    }

    #[test]
    fn the_fill_lock_decides_nothing_and_holds_nobody_up() {
        let scope = Scope {
            readers: &[Far, Far, Far],
            writers: &[Far],
            lock: true,
            away: true,
            ..VALIDATED
        };
        holds(
            "lock",
            scope,
            law::ALL,
            PLAIN | seen::WAITED | seen::AWAY,
            100_000,
        );
    }

    #[test]
    fn a_response_is_served_to_its_own_key_only() {
        let scope = Scope {
            readers: &[Near, Far],
            writers: &[Far],
            memory: true,
            two_keys: true,
            ..VALIDATED
        };
        holds("two keys", scope, law::ALL, PLAIN | seen::OTHER_KEY, 19_000);
        let scope = Scope {
            two_keys: true,
            disconnect: false,
            ..LEASED
        };
        holds(
            "two keys, leased",
            scope,
            law::ALL,
            LEASES | seen::OTHER_KEY,
            10_000,
        );
    }
}

/// By hand: see the head of this file.
mod larger {
    use super::*;

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn validated_cluster() {
        let scope = Scope {
            readers: &[Far, Far, Far],
            crash: true,
            ..CLUSTER
        };
        holds("validated, cluster", scope, law::ALL, PLAIN, 1_000_000);
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn strict_three_readers() {
        holds(
            "strict",
            Scope {
                readers: &[Far, Far, Far],
                ..STRICT
            },
            law::ALL,
            FENCES,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn strict_cluster() {
        let scope = Scope {
            strict: true,
            crash: true,
            ..CLUSTER
        };
        holds_safe("strict, cluster", scope, law::ALL, FENCES, 10_000_000);
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn failover_three_readers() {
        let scope = Scope {
            readers: &[Far, Far, Far],
            failover: true,
            crash: true,
            ..VALIDATED
        };
        holds(
            "failover",
            scope,
            law::ALL,
            PLAIN | seen::FAILED_OVER | seen::FOREIGN,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn failover_cluster() {
        let scope = Scope {
            failover: true,
            ..CLUSTER
        };
        holds_safe(
            "failover, cluster",
            scope,
            law::ALL,
            PLAIN | seen::FAILED_OVER | seen::FOREIGN,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn strict_failover() {
        let scope = Scope {
            failover: true,
            crash: false,
            ..STRICT
        };
        let seen = FENCES | seen::FAILED_OVER | seen::FOREIGN;
        holds(
            "strict, failover",
            scope,
            law::ALL & !law::MONOTONE,
            seen,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn leased_two_writers() {
        let scope = Scope {
            readers: &[Near, Far],
            writers: &[Near, Far],
            collide: true,
            ..LEASED
        };
        holds(
            "leased",
            scope,
            law::ALL,
            LEASES | seen::LEASE_BACK,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn leased_clock() {
        let scope = Scope { ticks: 6, ..LEASED };
        holds(
            "leased, clock",
            scope,
            law::ALL,
            LEASES | seen::LEASE_BACK,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn leased_strict() {
        let scope = Scope {
            readers: &[Near, Far],
            strict: true,
            crash: true,
            ..LEASED
        };
        holds_safe(
            "leased, strict",
            scope,
            law::ALL,
            LEASES | FENCES | seen::LEASE_BACK,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn leased_failover() {
        let scope = Scope {
            readers: &[Near, Far],
            failover: true,
            ..LEASED
        };
        let seen = LEASES | seen::LEASE_BACK | seen::FAILED_OVER | seen::FOREIGN;
        holds_safe("leased, failover", scope, law::ALL, seen, 1_000_000);
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn leased_flights() {
        let scope = Scope {
            readers: &[Near, Near],
            writers: &[Far, Far],
            flights: true,
            ..LEASED
        };
        holds_safe(
            "leased, flights",
            scope,
            law::ALL,
            LEASES | seen::JOINED | seen::LEASE_BACK,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn added_three_readers() {
        let scope = Scope {
            readers: &[Far, Far, Far],
            evict_counter: true,
            ..ADDED
        };
        holds(
            "added name",
            scope,
            law::ALL,
            PLAIN | seen::NEW_NAME | seen::ADDED_STORED,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn added_strict() {
        let scope = Scope {
            strict: true,
            crash: true,
            evict_counter: true,
            ..ADDED
        };
        let seen = PLAIN | seen::FENCED | seen::FENCE_EXPIRED | seen::NEW_NAME | seen::ADDED_STORED;
        holds("added name, strict", scope, law::ALL, seen, 1_000_000);
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn flights_three_readers() {
        let scope = Scope {
            readers: &[Near, Near, Near],
            flights: true,
            ..STRICT
        };
        holds_safe(
            "flights, strict",
            scope,
            law::ALL,
            FENCES | seen::JOINED,
            1_000_000,
        );
    }

    #[test]
    #[ignore = "larger scope, run by hand"]
    fn lock_and_away() {
        let scope = Scope {
            readers: &[Far, Far, Far],
            lock: true,
            away: true,
            ..VALIDATED
        };
        holds(
            "lock",
            scope,
            law::ALL,
            PLAIN | seen::WAITED | seen::AWAY | seen::SHARED,
            1_000_000,
        );
    }
}

/// One rule broken at a time. The number is the length of the shortest counterexample.
mod breaks {
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
        breaks(
            VALIDATED.but(Broken::DeleteInsteadOfBump),
            law::ACK_FRESH,
            12,
        );
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
    fn fence_without_a_deadline() {
        gets_stuck(STRICT.but(Broken::FenceWithoutDeadline), 3);
    }

    #[test]
    fn lock_without_a_lease() {
        gets_stuck(
            Scope {
                lock: true,
                away: true,
                ..VALIDATED
            }
            .but(Broken::LockWithoutLease),
            5,
        );
    }

    #[test]
    fn store_id_at_store_time() {
        let scope = Scope {
            failover: true,
            writers: &[Far],
            ..VALIDATED
        }
        .but(Broken::StoreIdAtStore);
        breaks(scope, law::ACK_FRESH, 14);
        breaks(scope, law::NO_RESURRECT, 8);
    }

    #[test]
    fn store_id_of_the_entrys_master_only() {
        let scope = Scope {
            failover: true,
            writers: &[Far],
            bumps: [0b10, 0],
            ..CLUSTER
        };
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
    fn flush_on_reconnect_alone() {
        breaks(
            Scope { ticks: 4, ..LEASED }.but(Broken::FlushOnReconnectAlone),
            law::ACK_FRESH,
            14,
        );
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
    fn any_generation_for_a_name_known_from_the_response() {
        let scope = ADDED.but(Broken::AnyGenerationForAdded);
        breaks(scope, law::ACK_FRESH, 14);
        breaks(scope, law::STAMP_FIRST, 7);
    }

    #[test]
    fn generation_of_an_added_name_created_inside_a_fence() {
        let scope = Scope {
            strict: true,
            crash: true,
            ..ADDED
        };
        breaks(scope.but(Broken::CreateAddedInsideFence), law::SETTLE, 20);
    }

    #[test]
    fn joining_a_flight_without_the_liveness_test() {
        breaks(ALONE.but(Broken::JoinWithoutLiveness), law::ACK_FRESH, 7);
        let scope = Scope {
            readers: &[Near, Near],
            flights: true,
            ..VALIDATED
        };
        breaks(scope.but(Broken::JoinWithoutLiveness), law::ACK_FRESH, 14);
    }

    #[test]
    fn landing_test_that_knows_only_the_last_bump() {
        let scope = Scope {
            added: true,
            namespaces: 2,
            bumps: [0b10, 0b10],
            ..ALONE
        };
        breaks(scope.but(Broken::LandingAgainstJoin), law::ACK_FRESH, 9);
    }

    #[test]
    fn joining_an_inner_call_that_is_already_running() {
        breaks(
            Scope {
                away: true,
                ..VALIDATED
            }
            .but(Broken::JoinRunningCall),
            law::ACK_FRESH,
            12,
        );
    }

    #[test]
    fn canonical_key_not_compared() {
        breaks(
            Scope {
                two_keys: true,
                ..VALIDATED
            }
            .but(Broken::NoKeyCheck),
            law::IDENTITY,
            9,
        );
    }
}

/// The limits that `consistency.md` states, shown to be real: nothing is broken here, and yet.
mod limits {
    use super::*;

    #[test]
    fn a_fence_that_is_evicted_is_no_fence() {
        breaks(
            Scope {
                evict_fence: true,
                ..STRICT
            },
            law::SETTLE,
            13,
        );
        breaks(
            Scope {
                evict_fence: true,
                crash: false,
                ..STRICT
            },
            law::MONOTONE,
            21,
        );
    }

    #[test]
    fn fence_and_failover_and_crash_together() {
        breaks(
            Scope {
                failover: true,
                ..STRICT
            },
            law::SETTLE,
            14,
        );
    }

    #[test]
    fn a_failover_that_loses_a_fence_is_not_monotone() {
        breaks(
            Scope {
                failover: true,
                crash: false,
                ..STRICT
            },
            law::MONOTONE,
            22,
        );
    }
}

/// The laws hold in every reachable state, a quiet state stays reachable (I8), and the things in `must_see` happened.
fn holds(name: &str, scope: Scope, laws: u32, must_see: u32, at_least: usize) {
    check(
        name,
        scope,
        &Question {
            laws,
            liveness: true,
        },
        must_see,
        at_least,
    );
}

/// The same without I8, which needs every edge in memory.
fn holds_safe(name: &str, scope: Scope, laws: u32, must_see: u32, at_least: usize) {
    check(
        name,
        scope,
        &Question {
            laws,
            liveness: false,
        },
        must_see,
        at_least,
    );
}

fn check(name: &str, scope: Scope, question: &Question, must_see: u32, at_least: usize) {
    let start = Instant::now();
    let report = explore(&scope, question);
    let time = start.elapsed();
    println!(
        "{name}: {} states, {} steps, depth {}, {time:.1?}",
        report.states, report.steps, report.depth
    );
    if report.counterexample.is_some() || report.stuck.is_some() {
        // Once more without symmetry: only then does a trace replay.
        let report = explore(
            &Scope {
                exact: true,
                ..scope
            },
            question,
        );
        if let Some(trace) = report.counterexample {
            panic!("{name}: {} broken\n{trace}", law::names(trace.broken));
        }
        if let Some(trace) = report.stuck {
            panic!("{name}: I8 broken, nothing leads back to rest from here\n{trace}");
        }
        panic!("{name}: broken only when participants are exchanged, so they are not alike");
    }
    assert!(
        report.states >= at_least,
        "{name}: only {} states",
        report.states
    );
    let missed = must_see & !report.seen;
    assert!(missed == 0, "{name}: never seen: {}", seen::names(missed));
}

/// The shortest counterexample to `laws` has `length` steps.
fn breaks(scope: Scope, laws: u32, length: usize) {
    let report = explore(
        &scope,
        &Question {
            laws,
            liveness: false,
        },
    );
    let trace = report.counterexample.unwrap_or_else(|| {
        panic!(
            "{:?}: no counterexample to {} in {} states",
            scope.broken,
            law::names(laws),
            report.states
        )
    });
    println!(
        "{:?} breaks {} after {} states:\n{trace}",
        scope.broken,
        law::names(trace.broken),
        report.states
    );
    assert_eq!(
        trace.lines.len(),
        length,
        "{:?}: another counterexample than the README says",
        scope.broken
    );
}

/// The shortest way to where nobody comes to rest any more has `length` steps.
fn gets_stuck(scope: Scope, length: usize) {
    let report = explore(
        &scope,
        &Question {
            laws: law::ALL,
            liveness: true,
        },
    );
    assert!(
        report.counterexample.is_none(),
        "{:?}: unsafe, not stuck",
        scope.broken
    );
    let trace = report
        .stuck
        .unwrap_or_else(|| panic!("{:?}: nothing gets stuck", scope.broken));
    println!(
        "{:?} breaks I8 liveness, {} states:\n{trace}",
        scope.broken, report.states
    );
    assert_eq!(
        trace.lines.len(),
        length,
        "{:?}: another counterexample than the README says",
        scope.broken
    );
}
