//! The runs: which faults, over which store, and what is demanded of them.

use std::{env, time::Duration};

use tower_response_cache::Coherence::{Leased, Ttl, Validated};

use super::{
    check::{Promise, Violation, tests::*},
    faults::Fault::{self, *},
    runner::{Test, say},
    stage::{Plan, Report, Stage},
};

/// A list of tests by the names of their functions.
macro_rules! tests {
    ($($name:ident,)*) => { &[$((stringify!($name), $name as fn()),)*] };
}

pub const ALL: &[Test] = tests![
    a_read_older_than_an_acknowledged_write_is_reported,
    a_lease_allows_exactly_its_delta_and_none_in_the_process_that_wrote,
    an_undelivered_write_counts_only_behind_a_fence,
    a_write_whose_client_has_left_must_show_in_time,
    what_was_killed_is_excused_and_counts_only_behind_a_fence,
    what_goes_backwards_is_reported_where_that_is_promised,
    a_version_from_nowhere_is_reported,
    in_calm_weather_leased,
    in_calm_weather_validated,
    in_calm_weather_with_a_time_to_live,
    in_calm_weather_strict,
    clients_leave_leased,
    clients_leave_strict,
    processes_are_killed_leased,
    processes_are_killed_strict,
    clocks_are_wrong_leased,
    clocks_are_wrong_validated,
    redis_freezes_leased,
    redis_freezes_validated_strict,
    redis_comes_back_with_nothing,
    redis_comes_back_as_it_was_before,
    redis_evicts,
    redis_is_full,
    redis_hangs_up,
    redis_runs_slow_scripts_leased,
    redis_runs_slow_scripts_strict,
    the_way_stalls_leased,
    the_way_stalls_strict,
    the_way_is_slow,
    the_way_is_cut,
    locks_are_orphaned_leased,
    locks_are_orphaned_validated,
    a_replica_that_missed_a_bump_is_promoted,
    a_cluster_fails_over_leased,
    a_cluster_fails_over_strict,
    a_cluster_hands_over,
    slots_of_a_cluster_migrate_leased,
    slots_of_a_cluster_migrate_validated,
    everything_at_once_leased,
    everything_at_once_validated,
    everything_at_once_with_a_time_to_live,
    everything_at_once_strict,
    everything_at_once_in_a_cluster,
    a_stamp_taken_when_an_entry_is_stored_is_reported,
    entries_trusted_after_such_a_promotion_are_reported,
    a_killed_writer_without_a_fence_is_reported,
    a_leased_hit_within_delta_is_reported_where_none_is_allowed,
];

/// How long faults go on: `HISTORY_SECONDS` of each run.
fn time() -> Duration {
    Duration::from_secs_f64(number("HISTORY_SECONDS").unwrap_or(1.5))
}

/// `HISTORY_SEED`, or another one each time.
fn seed() -> u64 {
    number("HISTORY_SEED").unwrap_or_else(|| fastrand::u64(..))
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

fn run(plan: Plan, faults: &[Fault]) -> Report {
    let seed = seed();
    say(format_args!("seed {seed}, {faults:?}, {:?}{}", plan.coherence, if plan.strict { ", strict" } else { "" }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let report = runtime.block_on(async {
        let stage = Stage::start(plan, seed).await;
        stage.run(async |stage| stage.suffer(faults, time()).await).await
    });
    runtime.shutdown_background();
    say(&report);
    report
}

/// The promise holds, and enough comes from the store for that to say something.
fn holds(plan: Plan, faults: &[Fault], hit_ratio: f64) -> Report {
    let report = run(plan, faults);
    for violation in report.violations.iter().take(20) {
        say(violation);
    }
    assert!(report.violations.is_empty(), "{} violations of {:?}", report.violations.len(), plan.promise());
    assert!(report.hit_ratio() > hit_ratio, "hit ratio {:.2}, of more than {hit_ratio}", report.hit_ratio());
    report
}

fn in_calm_weather_leased() {
    holds(Plan::new(Leased), &[Calm], 0.4);
}

fn in_calm_weather_validated() {
    holds(Plan::new(Validated), &[Calm], 0.4);
}

fn in_calm_weather_with_a_time_to_live() {
    holds(Plan::new(Ttl(Duration::from_millis(200))), &[Calm], 0.4);
}

fn in_calm_weather_strict() {
    holds(Plan::new(Leased).strict(), &[Calm], 0.3);
}

/// Most clients of a write go away before it is answered.
fn leaving(mut plan: Plan) {
    plan.mix.leavers = 80;
    plan.mix.writes = 50;
    let report = holds(plan, &[Calm], 0.2);
    assert!(report.done_without_client > 0, "nobody left while a write was under way");
}

fn clients_leave_leased() {
    leaving(Plan::new(Leased));
}

fn clients_leave_strict() {
    leaving(Plan::new(Validated).strict());
}

/// Many fills under one namespace that every write invalidates: one of them creates its generation when others have stored under it
/// already, so that pushes are lost.
fn crowded(plan: Plan) -> Plan {
    let mut plan = Plan { wide: true, ..plan };
    plan.mix.writes = 60;
    plan.mix.clients = 24;
    plan
}

fn redis_runs_slow_scripts_leased() {
    holds(crowded(Plan::new(Leased)), &[Busy], 0.02);
}

fn redis_runs_slow_scripts_strict() {
    holds(crowded(Plan::new(Leased).strict()), &[Busy], 0.0);
}

fn processes_are_killed_leased() {
    holds(Plan::new(Leased), &[Kill, KillWriter], 0.3);
}

fn processes_are_killed_strict() {
    holds(Plan::new(Leased).strict(), &[Kill, KillWriter], 0.1);
}

fn clocks_are_wrong_leased() {
    holds(Plan::new(Leased), &[Shift], 0.1);
}

fn clocks_are_wrong_validated() {
    holds(Plan::new(Validated), &[Shift], 0.1);
}

fn redis_freezes_leased() {
    holds(Plan::new(Leased).with_absences(), &[Freeze], 0.1);
}

fn redis_freezes_validated_strict() {
    holds(Plan::new(Validated).strict().with_absences(), &[Freeze], 0.05);
}

fn redis_comes_back_with_nothing() {
    holds(Plan::new(Leased).with_losses(), &[Forget], 0.1);
}

fn redis_comes_back_as_it_was_before() {
    holds(Plan::new(Validated).with_losses(), &[Relapse], 0.1);
}

fn redis_evicts() {
    holds(Plan::new(Leased), &[Evict], 0.1);
}

fn redis_is_full() {
    holds(Plan::new(Leased), &[Fill], 0.1);
}

fn redis_hangs_up() {
    holds(Plan::new(Leased).with_absences(), &[Hang], 0.1);
}

fn the_way_stalls_leased() {
    holds(Plan::new(Leased).with_absences(), &[Stall, Lag], 0.1);
}

fn the_way_stalls_strict() {
    holds(Plan::new(Leased).strict().with_absences(), &[Stall], 0.05);
}

fn the_way_is_slow() {
    holds(Plan::new(Leased).with_absences(), &[Delay], 0.1);
}

fn the_way_is_cut() {
    holds(Plan::new(Leased).with_absences(), &[Cut], 0.1);
}

/// A lock that nobody gives back would keep its key from being filled, and the run from ending.
fn locks_are_orphaned_leased() {
    holds(Plan::new(Leased).with_absences().with_long_locks(), &[Orphan], 0.1);
}

fn locks_are_orphaned_validated() {
    holds(Plan::new(Validated).with_absences().with_long_locks(), &[Orphan], 0.1);
}

fn a_replica_that_missed_a_bump_is_promoted() {
    holds(Plan::new(Leased).with_losses(), &[Promote], 0.1);
}

fn a_cluster_fails_over_leased() {
    holds(Plan::new(Leased).in_a_cluster().with_losses(), &[Failover], 0.02);
}

fn a_cluster_fails_over_strict() {
    holds(Plan::new(Validated).in_a_cluster().strict().with_losses(), &[Failover], 0.01);
}

fn a_cluster_hands_over() {
    // An agreement that does not come about holds writes back for five seconds, and with them the heartbeat: no lease, and few hits.
    holds(Plan::new(Leased).in_a_cluster().with_losses(), &[HandOver], 0.02);
}

fn slots_of_a_cluster_migrate_leased() {
    holds(Plan::new(Leased).in_a_cluster(), &[Migrate], 0.1);
}

fn slots_of_a_cluster_migrate_validated() {
    holds(Plan::new(Validated).in_a_cluster(), &[Migrate], 0.1);
}

const EVERYTHING: [Fault; 15] =
    [Kill, KillWriter, Shift, Freeze, Forget, Relapse, Evict, Fill, Hang, Busy, Stall, Lag, Delay, Cut, Promote];

fn everything_at_once_leased() {
    holds(Plan::new(Leased).with_losses(), &EVERYTHING, 0.05);
}

fn everything_at_once_validated() {
    holds(Plan::new(Validated).with_losses(), &EVERYTHING, 0.05);
}

fn everything_at_once_with_a_time_to_live() {
    holds(Plan::new(Ttl(Duration::from_millis(200))).with_losses(), &EVERYTHING, 0.05);
}

fn everything_at_once_strict() {
    holds(Plan::new(Leased).strict().with_losses(), &EVERYTHING, 0.02);
}

fn everything_at_once_in_a_cluster() {
    holds(Plan::new(Leased).in_a_cluster().with_losses(), &[Kill, KillWriter, Failover, HandOver, Migrate], 0.02);
}

/// What is not as promised, the checker has to say so.
fn fails(plan: Plan, faults: &[Fault], so: fn(&Violation) -> bool) {
    for attempt in 1..=5 {
        let report = run(plan, faults);
        if let Some(violation) = report.violations.iter().find(|violation| so(violation)) {
            say(format_args!("seen at attempt {attempt}: {violation}"));
            return;
        }
    }
    panic!("the checker does not see what is wrong with {plan:?}");
}

fn is_stale(violation: &Violation) -> bool {
    matches!(violation, Violation::Stale { .. })
}

fn a_stamp_taken_when_an_entry_is_stored_is_reported() {
    let mut plan = Plan { restamp: true, ..Plan::new(Validated) };
    plan.mix.writes = 80;
    fails(plan, &[Calm], is_stale);
}

fn entries_trusted_after_such_a_promotion_are_reported() {
    fails(Plan { trust: true, ..Plan::new(Validated).with_losses() }, &[Promote], is_stale);
}

/// The same run as without fences, where fences are promised.
fn a_killed_writer_without_a_fence_is_reported() {
    let mut plan = Plan::new(Validated);
    plan.judged_by = Some(Promise { strict: true, ..plan.promise() });
    let is_unseen = |violation: &Violation| matches!(violation, Violation::Late { .. } | Violation::Unsettled { .. });
    fails(plan, &[KillWriter], is_unseen);
}

/// So that it is known that the runs come close to what they may not exceed.
fn a_leased_hit_within_delta_is_reported_where_none_is_allowed() {
    let mut plan = Plan::new(Leased).with_absences();
    plan.judged_by = Some(Promise { delta: Duration::ZERO, ..plan.promise() });
    fails(plan, &[Lag], is_stale);
}
