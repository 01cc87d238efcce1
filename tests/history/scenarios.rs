//! The runs: their faults, their stores and their requirements.

use std::{env, time::Duration};

use tower_response_cache::redis::Coherence::{Leased, Ttl, Validated};

use super::{
    check::{Guarantee, Violation, tests::*},
    environment::{Environment, NODES, Plan},
    faults::Fault::{self, *},
    report::Report,
    runner::{Test, print_line},
    seen::{FIRST_SUMMED, tests::*},
};

/// Builds a list of tests by the names of their functions.
macro_rules! tests {
    ($($name:ident,)*) => { &[$((stringify!($name), $name as fn()),)*] };
}

pub const ALL: &[Test] = tests![
    read_older_than_an_acknowledged_write_is_reported,
    lease_allows_delta_except_in_the_writing_process,
    undelivered_write_counts_only_with_a_fence,
    write_of_a_disconnected_client_must_show_in_time,
    killed_write_counts_only_with_a_fence,
    older_response_is_reported_under_strict,
    uncommitted_version_is_reported,
    summary_violates_a_law_exactly_if_a_read_does,
    without_faults_leased,
    without_faults_validated,
    without_faults_ttl,
    without_faults_strict,
    clients_disconnect_leased,
    clients_disconnect_strict,
    outcomes_are_lost_leased,
    outcomes_are_lost_strict,
    processes_are_killed_leased,
    processes_are_killed_strict,
    processes_are_paused_leased,
    processes_are_paused_strict,
    clocks_are_wrong_leased,
    clocks_are_wrong_validated,
    redis_freezes_leased,
    redis_freezes_validated_strict,
    redis_restarts_empty,
    redis_restarts_with_older_data,
    redis_evicts_leased,
    redis_evicts_validated,
    redis_is_full,
    redis_kills_connections,
    redis_runs_slow_scripts_leased,
    redis_runs_slow_scripts_strict,
    connection_stalls_leased,
    connection_stalls_strict,
    connection_is_slow,
    connection_is_cut_leased,
    connection_is_cut_validated,
    locks_are_orphaned_leased,
    locks_are_orphaned_validated,
    replica_that_missed_an_invalidation_is_promoted_leased,
    replica_that_missed_an_invalidation_is_promoted_validated,
    cluster_fails_over_leased,
    cluster_fails_over_strict,
    cluster_fails_over_as_planned,
    cluster_slots_migrate_leased,
    cluster_slots_migrate_validated,
    cluster_runs_slow_scripts,
    all_faults_leased,
    all_faults_validated,
    all_faults_ttl,
    all_faults_strict,
    all_faults_in_a_cluster,
    gathered_pushes_without_faults,
    gathered_pushes_evicted,
    gathered_pushes_with_all_faults,
    proxies_leased,
    proxies_validated,
    proxies_strict,
    many_stores_leased,
    many_stores_validated,
    many_stores_ttl,
    many_stores_strict,
    many_stores_in_a_cluster,
    stamp_read_at_store_time_is_reported,
    stamp_read_at_store_time_in_many_stores_is_reported,
    entries_trusted_after_a_lossy_promotion_are_reported,
    killed_writer_without_a_fence_is_reported,
    stale_leased_hit_is_reported_without_delta,
];

/// Returns the duration of the faults of each run: `HISTORY_SECONDS`.
fn time() -> Duration {
    Duration::from_secs_f64(number("HISTORY_SECONDS").unwrap_or(1.5))
}

/// Returns `HISTORY_SEED`, or a new seed each time.
fn seed() -> u64 {
    number("HISTORY_SEED").unwrap_or_else(|| fastrand::u64(..))
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: expected a number")))
}

fn run(mut plan: Plan, faults: &[Fault]) -> Report {
    let seed = seed();
    plan.mix.writes = number("HISTORY_WRITES").unwrap_or(plan.mix.writes);
    print_line(format_args!("seed {seed}, {faults:?}, {:?}{}", plan.coherence, if plan.strict { ", strict" } else { "" }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let report = runtime.block_on(async {
        let environment = Environment::start(plan, seed).await;
        environment.run(async |environment| environment.inject_faults(faults, time()).await).await
    });
    runtime.shutdown_background();
    print_line(&report);
    report
}

/// Checks that the guarantee holds, and that enough reads are hits for this to be meaningful.
fn holds(plan: Plan, faults: &[Fault], hit_ratio: f64) -> Report {
    let report = run(plan, faults);
    for violation in report.violations.iter().take(20) {
        print_line(violation);
    }
    report.evidence.iter().for_each(print_line);
    assert!(report.violations.is_empty(), "{} violations of {:?}", report.violations.len(), plan.guarantee());
    assert!(report.hit_ratio() > hit_ratio, "hit ratio {:.2}, of more than {hit_ratio}", report.hit_ratio());
    report
}

fn without_faults_leased() {
    holds(Plan::new(Leased), &[Nothing], 0.4);
}

fn without_faults_validated() {
    holds(Plan::new(Validated), &[Nothing], 0.4);
}

fn without_faults_ttl() {
    holds(Plan::new(Ttl(Duration::from_millis(200))), &[Nothing], 0.4);
}

fn without_faults_strict() {
    holds(Plan::new(Leased).strict(), &[Nothing], 0.3);
}

/// Lets most clients of a write disconnect before its response.
fn disconnecting(mut plan: Plan) {
    plan.mix.disconnecting = 80;
    plan.mix.writes = 50;
    let report = holds(plan, &[Disconnect], 0.1);
    assert!(report.committed_without_client > 0, "no client disconnected during a write");
}

fn clients_disconnect_leased() {
    disconnecting(Plan::new(Leased));
}

fn clients_disconnect_strict() {
    disconnecting(Plan::new(Validated).strict());
}

/// Lets many handlers lose the outcomes of their writes.
fn losing(mut plan: Plan) {
    plan.mix.losing = 30;
    let report = holds(plan, &[LoseOutcome], 0.0);
    assert!(report.lost > 0, "no handler has lost the outcome of a write");
}

fn outcomes_are_lost_leased() {
    losing(Plan::new(Leased));
}

fn outcomes_are_lost_strict() {
    losing(Plan::new(Validated).strict());
}

/// Puts many fills under one namespace that every write invalidates: one fill creates its generation after others have stored
/// under it already, so that pushes are lost.
fn crowded(plan: Plan) -> Plan {
    let mut plan = Plan { one_namespace: true, ..plan };
    plan.mix.writes = 60;
    plan.mix.clients = 24;
    plan
}

fn redis_runs_slow_scripts_leased() {
    holds(crowded(Plan::new(Leased)), &[SlowScripts], 0.02);
}

fn redis_runs_slow_scripts_strict() {
    holds(crowded(Plan::new(Leased).strict()), &[SlowScripts], 0.0);
}

fn processes_are_killed_leased() {
    holds(Plan::new(Leased), &[Kill, KillWriter], 0.3);
}

fn processes_are_killed_strict() {
    holds(Plan::new(Leased).strict(), &[Kill, KillWriter], 0.1);
}

fn processes_are_paused_leased() {
    holds(Plan::new(Leased), &[Pause], 0.2);
}

fn processes_are_paused_strict() {
    holds(Plan::new(Leased).strict(), &[Pause], 0.1);
}

fn clocks_are_wrong_leased() {
    holds(Plan::new(Leased), &[ShiftClock], 0.1);
}

fn clocks_are_wrong_validated() {
    holds(Plan::new(Validated), &[ShiftClock], 0.1);
}

fn redis_freezes_leased() {
    holds(Plan::new(Leased).with_outages(), &[Freeze], 0.1);
}

fn redis_freezes_validated_strict() {
    holds(Plan::new(Validated).strict().with_outages(), &[Freeze], 0.05);
}

fn redis_restarts_empty() {
    holds(Plan::new(Leased).with_lost_fences(), &[RestartEmpty], 0.1);
}

fn redis_restarts_with_older_data() {
    holds(Plan::new(Validated).with_lost_fences(), &[RestoreOld], 0.1);
}

fn redis_evicts_leased() {
    holds(Plan::new(Leased), &[Evict], 0.1);
}

fn redis_evicts_validated() {
    holds(Plan::new(Validated), &[Evict], 0.1);
}

fn redis_is_full() {
    holds(Plan::new(Leased), &[Full], 0.1);
}

fn redis_kills_connections() {
    holds(Plan::new(Leased).with_outages(), &[KillConnections], 0.1);
}

fn connection_stalls_leased() {
    holds(Plan::new(Leased).with_outages(), &[Stall, LosePushes], 0.1);
}

fn connection_stalls_strict() {
    holds(Plan::new(Leased).strict().with_outages(), &[Stall], 0.05);
}

fn connection_is_slow() {
    holds(Plan::new(Leased).with_outages(), &[Delay], 0.1);
}

fn connection_is_cut_leased() {
    holds(Plan::new(Leased).with_outages(), &[Cut], 0.1);
}

fn connection_is_cut_validated() {
    holds(Plan::new(Validated).with_outages(), &[Cut], 0.1);
}

/// A lock that is not released would block the fill of its key and the end of the run.
fn locks_are_orphaned_leased() {
    holds(Plan::new(Leased).with_outages().with_long_locks(), &[OrphanLock], 0.1);
}

fn locks_are_orphaned_validated() {
    holds(Plan::new(Validated).with_outages().with_long_locks(), &[OrphanLock], 0.1);
}

fn replica_that_missed_an_invalidation_is_promoted_leased() {
    holds(Plan::new(Leased).with_lost_fences(), &[PromoteReplica], 0.1);
}

fn replica_that_missed_an_invalidation_is_promoted_validated() {
    holds(Plan::new(Validated).with_lost_fences(), &[PromoteReplica], 0.1);
}

fn cluster_fails_over_leased() {
    holds(Plan::new(Leased).in_a_cluster().with_lost_fences(), &[Failover], 0.02);
}

fn cluster_fails_over_strict() {
    holds(Plan::new(Validated).in_a_cluster().strict().with_lost_fences(), &[Failover], 0.01);
}

fn cluster_fails_over_as_planned() {
    // A planned failover that does not complete delays writes for five seconds, and the heartbeat with them: no lease, and few
    // hits.
    holds(Plan::new(Leased).in_a_cluster().with_lost_fences(), &[PlannedFailover], 0.02);
}

fn cluster_slots_migrate_leased() {
    holds(Plan::new(Leased).in_a_cluster(), &[Migrate], 0.1);
}

fn cluster_slots_migrate_validated() {
    holds(Plan::new(Validated).in_a_cluster(), &[Migrate], 0.1);
}

/// A generation that a process creates while another process deletes it: the deletion is not pushed (`NOLOOP`).
fn cluster_runs_slow_scripts() {
    holds(crowded(Plan::new(Leased).in_a_cluster()), &[SlowScripts], 0.0);
}

const EVERYTHING: [Fault; 18] = [
    Kill,
    KillWriter,
    LoseOutcome,
    Disconnect,
    Pause,
    ShiftClock,
    Freeze,
    RestartEmpty,
    RestoreOld,
    Evict,
    Full,
    KillConnections,
    SlowScripts,
    Stall,
    LosePushes,
    Delay,
    Cut,
    PromoteReplica,
];

fn all_faults_leased() {
    holds(Plan::new(Leased).with_lost_fences(), &EVERYTHING, 0.05);
}

fn all_faults_validated() {
    holds(Plan::new(Validated).with_lost_fences(), &EVERYTHING, 0.05);
}

fn all_faults_ttl() {
    holds(Plan::new(Ttl(Duration::from_millis(200))).with_lost_fences(), &EVERYTHING, 0.05);
}

fn all_faults_strict() {
    holds(Plan::new(Leased).strict().with_lost_fences(), &EVERYTHING, 0.02);
}

fn all_faults_in_a_cluster() {
    holds(Plan::new(Leased).in_a_cluster().with_lost_fences(), &[Kill, KillWriter, Failover, PlannedFailover, Migrate], 0.02);
}

fn gathered_pushes_without_faults() {
    holds(Plan::new(Leased).gathering(), &[Nothing], 0.05);
}

fn gathered_pushes_evicted() {
    holds(Plan::new(Leased).gathering().with_lost_fences(), &[Evict], 0.02);
}

fn gathered_pushes_with_all_faults() {
    holds(Plan::new(Leased).gathering().with_lost_fences(), &EVERYTHING, 0.02);
}

/// The faults for processes of `examples/proxy`. A wrong wall clock is none of them: all responses of the origin would be stale (RFC
/// 9111, section 4.2.3).
const OF_PROXIES: [Fault; 12] =
    [Kill, KillWriter, Disconnect, Pause, Freeze, RestartEmpty, Evict, KillConnections, Stall, LosePushes, Delay, Cut];

fn proxies_leased() {
    holds(Plan::new(Leased).of_proxies().with_lost_fences(), &OF_PROXIES, 0.05);
}

fn proxies_validated() {
    holds(Plan::new(Validated).of_proxies().with_lost_fences(), &OF_PROXIES, 0.05);
}

/// Redis keeps its fences.
fn proxies_strict() {
    holds(Plan::new(Leased).strict().of_proxies(), &[Kill, KillWriter, Disconnect, Pause], 0.05);
}

/// Returns a plan with `HISTORY_STORES` further stores, which runs until they have served `HISTORY_READS` reads. Debug builds run few.
fn many(plan: Plan) -> Plan {
    let (stores, reads) = if cfg!(debug_assertions) { (12, 4_000) } else { (100, 2_500_000) };
    let stores: u32 = number("HISTORY_STORES").unwrap_or(stores);
    plan.with_crowds(stores.div_ceil(NODES as u32), number("HISTORY_READS").unwrap_or(reads))
}

fn many_stores_leased() {
    holds(many(Plan::new(Leased).with_lost_fences()), &EVERYTHING, 0.05);
}

fn many_stores_validated() {
    holds(many(Plan::new(Validated).with_lost_fences()), &EVERYTHING, 0.05);
}

fn many_stores_ttl() {
    holds(many(Plan::new(Ttl(Duration::from_millis(200))).with_lost_fences()), &EVERYTHING, 0.05);
}

fn many_stores_strict() {
    holds(many(Plan::new(Leased).strict().with_lost_fences()), &EVERYTHING, 0.02);
}

fn many_stores_in_a_cluster() {
    let plan = Plan::new(Leased).in_a_cluster().with_lost_fences();
    holds(many(plan), &[Kill, KillWriter, Pause, Failover, PlannedFailover, Migrate], 0.02);
}

/// Checks that the checker reports a run without the guarantee.
fn is_detected(plan: Plan, faults: &[Fault], so: fn(&Violation) -> bool) {
    for attempt in 1..=5 {
        let report = run(plan, faults);
        if let Some(violation) = report.violations.iter().find(|violation| so(violation)) {
            print_line(format_args!("seen at attempt {attempt}: {violation}"));
            return;
        }
    }
    panic!("the checker reports no violation of {plan:?}");
}

fn is_stale(violation: &Violation) -> bool {
    matches!(violation, Violation::Stale { .. })
}

fn stamp_read_at_store_time_is_reported() {
    let mut plan = Plan { restamp: true, ..Plan::new(Validated) };
    plan.mix.writes = 80;
    is_detected(plan, &[Nothing], is_stale);
}

/// The reads of many stores are only summed up.
fn stamp_read_at_store_time_in_many_stores_is_reported() {
    let plan = Plan { restamp: true, ..Plan::new(Validated).with_crowds(10, 20_000) };
    let is_summed = |violation: &Violation| matches!(violation, Violation::Stale { read: FIRST_SUMMED.., .. });
    is_detected(plan, &[Nothing], is_summed);
}

fn entries_trusted_after_a_lossy_promotion_are_reported() {
    is_detected(Plan { trust: true, ..Plan::new(Validated).with_lost_fences() }, &[PromoteReplica], is_stale);
}

/// A run without fences is checked against the guarantee of fences.
fn killed_writer_without_a_fence_is_reported() {
    let mut plan = Plan::new(Validated);
    plan.checked_against = Some(Guarantee { strict: true, ..plan.guarantee() });
    let is_unseen = |violation: &Violation| matches!(violation, Violation::Late { .. } | Violation::Outdated { .. });
    is_detected(plan, &[KillWriter], is_unseen);
}

/// The runs come close to the allowed staleness.
fn stale_leased_hit_is_reported_without_delta() {
    let mut plan = Plan::new(Leased).with_outages();
    plan.checked_against = Some(Guarantee { delta: Duration::ZERO, ..plan.guarantee() });
    is_detected(plan, &[LosePushes], is_stale);
}
