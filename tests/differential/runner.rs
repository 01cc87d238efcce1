//! Runs programs for a fixed time, and reports the first failure after minimising it.

use std::{
    env,
    time::{Duration, Instant},
};

use super::{
    check::Violation,
    driver::{Outcome, run},
    generate::program,
    minimise::minimise,
    mutations::Mutation,
    program::{Program, Step},
    redis::Server,
};

/// Laws that a run over Redis may violate on a slow machine. A request that waits for another cannot be observed, so the driver
/// continues after a timeout. Such a failure counts only if a replay shows it again.
const BY_TIMING: [&str; 4] = [
    "a request that must be a hit is a hit",
    "a burst makes one call",
    "a stale response that is served is refreshed",
    "every request is answered",
];

/// Asserts that the programs of consecutive seeds agree with the oracle.
pub fn agree(redis: bool) {
    let number = |name: &str| {
        let text = env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    let duration = Duration::from_secs(number("DIFFERENTIAL_SECONDS").unwrap_or(15));
    let only = number("DIFFERENTIAL_SEED");
    let first = only.or(number("DIFFERENTIAL_FROM")).unwrap_or(1);
    let most = number("DIFFERENTIAL_FAILURES").unwrap_or(1) as usize;
    let server = redis.then(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(Server::start())
    });
    let url = server.as_ref().map(Server::url);
    let (begin, mut seed, mut total) = (Instant::now(), first, Outcome::default());
    let mut failures: Vec<(&str, String, usize)> = Vec::new();
    while begin.elapsed() < duration && failures.len() < most {
        let drawn = program(seed, redis);
        let outcome = run(&drawn, None, url.as_deref());
        total.requests += outcome.requests;
        total.hits += outcome.hits;
        total.expected_hits += outcome.expected_hits;
        if let Some(Violation { law, detail }) = outcome.violation {
            if redis && BY_TIMING.contains(&law) && !(0..3).any(|_| fails(&drawn, None, url.as_deref(), law)) {
                println!("seed {seed}: {law}: {detail}; not reproduced");
                seed += 1;
                continue;
            }
            match failures.iter_mut().find(|(known, ..)| *known == law) {
                Some((.., count)) => *count += 1,
                None => {
                    let small = minimise(drawn, &mut |less| fails(less, None, url.as_deref(), law));
                    let report = report(&small, &run(&small, None, url.as_deref()), law, redis);
                    failures.push((law, format!("{report}\nbefore minimising: {detail}"), 1));
                }
            }
        }
        if only.is_some() {
            break;
        }
        seed += 1;
    }
    let Outcome { requests, hits, expected_hits, .. } = total;
    println!("seeds {first} to {seed}: {requests} requests, {hits} answered from the store; {expected_hits} had to be hits");
    let failures: Vec<String> =
        failures.into_iter().map(|(_, report, count)| format!("{report}\n({count} programs)")).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(only.is_some() || hits * 10 > requests, "too few hits: a cache that never hits violates no law");
}

fn fails(program: &Program, mutation: Option<Mutation>, url: Option<&str>, law: &str) -> bool {
    run(program, mutation, url).violation.is_some_and(|violation| violation.law == law)
}

/// Returns the law that a mutation violates and the number of requests until then, or `None` if `limit` requests do not detect it.
pub fn detected_by(mutation: Mutation, limit: usize) -> Option<(&'static str, usize)> {
    let (mut requests, mut seed) = (0, 1);
    while requests < limit {
        let outcome = run(&program(seed, false), Some(mutation), None);
        requests += outcome.requests;
        if let Some(violation) = outcome.violation {
            return Some((violation.law, requests));
        }
        seed += 1;
    }
    None
}

/// Minimises the first program that detects a mutation. Returns the number of steps before and after, and the law.
pub fn minimised(mutation: Mutation) -> (usize, usize, &'static str) {
    let found = (1..).find_map(|seed| {
        let program = program(seed, false);
        let law = run(&program, Some(mutation), None).violation?.law;
        Some((program, law))
    });
    let (program, law) = found.expect("the range is endless");
    let before = program.steps.len();
    assert!(fails(&program, Some(mutation), None, law), "the seed does not replay");
    let small = minimise(program, &mut |less| fails(less, Some(mutation), None, law));
    (before, small.steps.len(), law)
}

fn report(program: &Program, outcome: &Outcome, law: &str, redis: bool) -> String {
    let detail = outcome.violation.as_ref().map_or("the minimised program did not fail again", |violation| &violation.detail);
    let steps: Vec<String> = program.steps.iter().map(|step| format!("  {}", described(step))).collect();
    let store = if redis { "redis" } else { "memory" };
    format!(
        "violated: {law}\n{detail}\n{:?}\n{}\ncalls:\n  {}\nreplay: DIFFERENTIAL_SEED={} cargo test --all-features --test differential {store}",
        program.setup,
        steps.join("\n"),
        outcome.calls.join("\n  "),
        program.seed
    )
}

/// Describes a step by its fields that differ from the usual.
fn described(step: &Step) -> String {
    let text = format!("{step:?}");
    let usual = ["None, ", "false, ", "[], "];
    let is_usual = |part: &&str| usual.iter().any(|usual| part.ends_with(&format!(": {usual}")));
    text.split_inclusive(", ").filter(|part| !is_usual(part)).collect()
}
