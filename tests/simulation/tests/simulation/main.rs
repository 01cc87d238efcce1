//! Deterministic simulation: the code of the crate over a simulated Redis, network and clock, in one thread, decided by a seed.

mod client;
mod faults;
mod fork;
mod laws;
mod machine;
mod plan;
mod process;
mod run;
mod stream;
mod trace;
mod world;

#[path = "../../../common/backend.rs"]
mod backend;
#[path = "../../../history/restamp.rs"]
mod restamp;

use std::{env, process::ExitCode, time::Instant};

use plan::Broken;
use run::Report;

/// Seeds of a run of the tests.
const SEEDS: u64 = 2_000;

/// Seeds between two reports of progress.
const PROGRESS: u64 = 10_000;

/// Seeds that are run twice.
const REPLAYED: u64 = 40;

/// Broken rules, and the number of seeds within which each is reported.
const BROKEN: [(Broken, u64); 5] =
    [(Broken::Restamp, 100), (Broken::LostPushes, 100), (Broken::Trust, 100), (Broken::NoFences, 100), (Broken::NoDelta, 100)];

type Test = (&'static str, fn() -> Result<String, String>);

const TESTS: [Test; 3] = [
    ("seeds_keep_the_laws", seeds_keep_the_laws),
    ("seed_replays_the_same_events", seed_replays_the_same_events),
    ("broken_rules_are_reported", broken_rules_are_reported),
];

fn main() -> ExitCode {
    if let Some(seed) = number("SIMULATION_SEED") {
        return replay(seed);
    }
    let filters: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        match test() {
            Ok(figures) => {
                println!("test {name} ... ok: {figures}");
                passed += 1;
            }
            Err(failure) => {
                println!("{failure}\ntest {name} ... FAILED");
                failed += 1;
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out",
        TESTS.len() - passed - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn seeds_keep_the_laws() -> Result<String, String> {
    let (first, count) = (number("SIMULATION_FIRST").unwrap_or(1), number("SIMULATION_SEEDS").unwrap_or(SEEDS));
    let began = Instant::now();
    let (mut total, mut failures) = (Report::default(), 0);
    fork::run_all(first..first + count, None, false, |seed, report| {
        total.events += report.events;
        total.reads += report.reads;
        total.hits += report.hits;
        total.writes += report.writes;
        if !report.violations.is_empty() {
            println!("{}\n", describe(seed, &report));
            failures += 1;
        }
        if (seed - first + 1).is_multiple_of(PROGRESS) {
            println!("{} seeds", seed - first + 1);
        }
        failures < 3
    });
    if failures > 0 {
        return Err(format!("{failures} seeds violate a law"));
    }
    let Report { events, reads, hits, writes, .. } = total;
    // Without hits, every law holds.
    if hits * 4 < reads {
        return Err(format!("{hits} of {reads} reads are hits: expected at least a quarter"));
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(format!("{count} seeds in {seconds:.1} s, {events} events, {reads} reads, {hits} hits, {writes} writes"))
}

fn seed_replays_the_same_events() -> Result<String, String> {
    let hashes = || {
        let mut hashes = Vec::new();
        fork::run_all(1..=REPLAYED, None, false, |seed, report| {
            hashes.push((seed, report.events, report.hash));
            true
        });
        hashes
    };
    let (first, second) = (hashes(), hashes());
    match first.iter().zip(&second).find(|(one, other)| one != other) {
        Some(((seed, ..), _)) => Err(format!("seed {seed} has other events when it is run again")),
        None => Ok(format!("{REPLAYED} seeds")),
    }
}

fn broken_rules_are_reported() -> Result<String, String> {
    let mut figures = Vec::new();
    for (broken, limit) in BROKEN {
        let mut found = None;
        fork::run_all(1..=limit, Some(broken), false, |seed, report| {
            // Violations of liveness do not show that the broken rule was seen.
            if let Some(violation) = report
                .violations
                .iter()
                .find(|violation| violation.starts_with('I') && !violation.starts_with("I8") || violation.starts_with("prompt"))
            {
                found = Some((seed, violation.clone()));
            }
            found.is_none()
        });
        match found {
            Some((seed, violation)) => figures.push(format!("\n  {broken:?} by seed {seed}: {violation}")),
            None => return Err(format!("{broken:?} is not reported by the first {limit} seeds")),
        }
    }
    Ok(figures.concat())
}

/// Runs one seed, and prints all its events.
fn replay(seed: u64) -> ExitCode {
    let mut result = ExitCode::SUCCESS;
    let broken = env::var("SIMULATION_BROKEN").ok().map(|name| {
        let found = BROKEN.into_iter().find(|(broken, _)| format!("{broken:?}") == name);
        found.unwrap_or_else(|| panic!("SIMULATION_BROKEN={name} is no broken rule")).0
    });
    fork::run_all([seed], broken, true, |seed, report| {
        println!("{}", describe(seed, &report));
        if !report.violations.is_empty() {
            result = ExitCode::FAILURE;
        }
        true
    });
    result
}

fn describe(seed: u64, report: &Report) -> String {
    let Report { hash, events, reads, hits, writes, violations, plan, trace } = report;
    let mut text = trace.join("\n");
    text.push_str(&format!(
        "\n\nseed {seed}: {events} events (hash {hash:016x}), {reads} reads, {hits} hits, {writes} writes\n{plan}\n"
    ));
    violations.iter().for_each(|violation| text.push_str(&format!("  {violation}\n")));
    text.push_str(&format!(
        "To replay: SIMULATION_SEED={seed} cargo test --manifest-path tests/simulation/Cargo.toml --test simulation"
    ));
    text
}
