//! Runs one program after the other for a while, and reports the first that fails, made small.

use std::{
    env,
    time::{Duration, Instant},
};

use super::{
    broken::Fault,
    check::Violation,
    drive::{Outcome, run},
    generate::program,
    minimise::minimise,
    program::{Program, Step},
    redis::Server,
};

/// Laws that a run over Redis may break because the machine is slow: nothing shows that a request waits for another, so that the driver
/// goes on after a while. Such a failure counts if a replay shows it again.
const BY_TIMING: [&str; 4] = [
    "a request that must be a hit is one",
    "a burst makes one call",
    "what is served stale is refreshed",
    "every request is answered",
];

/// Programs of consecutive seeds agree with the oracle.
pub fn agree(redis: bool) {
    let number = |name: &str| {
        let text = env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
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
        total.demanded += outcome.demanded;
        if let Some(Violation { law, how }) = outcome.violation {
            if redis && BY_TIMING.contains(&law) && !(0..3).any(|_| fails(&drawn, None, url.as_deref(), law)) {
                println!("seed {seed}: {law}: {how}; not seen again");
                seed += 1;
                continue;
            }
            match failures.iter_mut().find(|(known, ..)| *known == law) {
                Some((.., count)) => *count += 1,
                None => {
                    let small = minimise(drawn, &mut |less| fails(less, None, url.as_deref(), law));
                    let report = report(&small, &run(&small, None, url.as_deref()), law, redis);
                    failures.push((law, format!("{report}\nat first: {how}"), 1));
                }
            }
        }
        if only.is_some() {
            break;
        }
        seed += 1;
    }
    let Outcome { requests, hits, demanded, .. } = total;
    println!(
        "seeds {first} to {seed}: {requests} requests, {hits} answered from the store; {demanded} were demanded to be hits"
    );
    let failures: Vec<String> =
        failures.into_iter().map(|(_, report, count)| format!("{report}\n({count} programs)")).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(only.is_some() || hits * 10 > requests, "a cache that never hits breaks no law");
}

fn fails(program: &Program, fault: Option<Fault>, url: Option<&str>, law: &str) -> bool {
    run(program, fault, url).violation.is_some_and(|violation| violation.law == law)
}

/// The law that a broken cache is caught by, and after how many requests; `None` if it is not within so many.
pub fn caught(fault: Fault, limit: usize) -> Option<(&'static str, usize)> {
    let (mut requests, mut seed) = (0, 1);
    while requests < limit {
        let outcome = run(&program(seed, false), Some(fault), None);
        requests += outcome.requests;
        if let Some(violation) = outcome.violation {
            return Some((violation.law, requests));
        }
        seed += 1;
    }
    None
}

/// The steps of the first program that catches a broken cache, before and after, and the law.
pub fn minimised(fault: Fault) -> (usize, usize, &'static str) {
    let found = (1..).find_map(|seed| {
        let program = program(seed, false);
        let law = run(&program, Some(fault), None).violation?.law;
        Some((program, law))
    });
    let (program, law) = found.expect("an end of it");
    let before = program.steps.len();
    assert!(fails(&program, Some(fault), None, law), "the seed does not replay");
    let small = minimise(program, &mut |less| fails(less, Some(fault), None, law));
    (before, small.steps.len(), law)
}

fn report(program: &Program, outcome: &Outcome, law: &str, redis: bool) -> String {
    let how = outcome.violation.as_ref().map_or("does not happen again", |violation| &violation.how);
    let steps: Vec<String> = program.steps.iter().map(|step| format!("  {}", described(step))).collect();
    let store = if redis { "redis" } else { "memory" };
    format!(
        "broken: {law}\n{how}\n{:?}\n{}\ncalls:\n  {}\nreplay: DIFFERENTIAL_SEED={} cargo test --all-features --test differential {store}",
        program.setup,
        steps.join("\n"),
        outcome.calls.join("\n  "),
        program.seed
    )
}

/// A step, with what is not usual in it.
fn described(step: &Step) -> String {
    let text = format!("{step:?}");
    let usual = ["None, ", "false, ", "[], "];
    let is_usual = |part: &&str| usual.iter().any(|usual| part.ends_with(&format!(": {usual}")));
    text.split_inclusive(", ").filter(|part| !is_usual(part)).collect()
}
