//! Measurements that instruction counts cannot give: two threads at once, and large numbers of entries.
//!
//! Without an argument it measures all sections. An argument selects one section. A second argument `own` leaves out the peers.

use std::{env, iter, sync::Arc, time::Duration};

use hitbox_backend::format::{BincodeFormat, JsonFormat, RkyvFormat};
use tower::Layer;
use tower_response_cache::{Memory, Rule, Store};
use tower_response_cache_cost::{
    bounds::CorrectCache,
    setup::{self, Report},
    work::{EmptyService, nth_item, request, send_ready},
};
use tower_response_cache_peers::{
    cases::{axum, plain},
    client::runtime,
    inner::Inner,
    load::{Candidate, Round, RoundResult, TASKS, Workload},
    peers,
    scale::{self, NAMESPACE_CASES, NAMESPACES, SCALES},
    times::{Times, median},
};

const SEED: u64 = 0x5eed_2026;
const KIB: usize = 1 << 10;
/// A lifetime longer than the measurement.
const HOUR: Duration = Duration::from_secs(3600);

/// The number of requested keys, and the capacity in entries.
const KEYS: u64 = 100_000;
const CAPACITY: u64 = KEYS / 10;

const ROUNDS: usize = 15;
const DURATION: Duration = Duration::from_millis(400);
/// Long enough for the slowest candidate to fill its cache.
const WARM_UP: Duration = Duration::from_secs(4);

type Section = (&'static str, fn(Contenders));

/// The measured candidates.
#[derive(Clone, Copy)]
enum Contenders {
    All,
    Own,
}

const SECTIONS: [Section; 4] = [("mixed", mixed), ("scaling", scaling), ("entries", entries), ("namespaces", namespaces)];

fn main() {
    let words: Vec<_> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => SECTIONS.iter().for_each(|(_, section)| section(Contenders::All)),
        ["run", name, calls] => scale::run(name, calls.parse().expect("a number of calls")),
        [word] | [word, "own"] => match SECTIONS.iter().find(|(name, _)| *name == word) {
            Some((_, section)) => section(if words.len() == 1 { Contenders::All } else { Contenders::Own }),
            None => panic!("{word:?} is not one of {:?}", SECTIONS.map(|(name, _)| name)),
        },
        _ => panic!("expected at most one section, and `own`"),
    }
}

// ---- Two threads ---------------------------------------------------------------------------------------------------

/// Creates the candidates, with a capacity for this number of entries.
fn candidates(entries: u64, contenders: Contenders) -> Vec<Candidate> {
    let inner = || Inner::of(KIB).own_bodies();
    let layer = |bytes| setup::layer(Memory::new(bytes), Rule::ttl(HOUR), Report::Default).layer(inner());
    let bound = |bytes| CorrectCache::over(inner(), bytes);
    let mut candidates = vec![
        Candidate::new(EMPTY_SERVICE, EmptyService, plain),
        Candidate::new(BOUND, bound(entries * bytes_per_entry_of_bound(bound(1 << 30))), plain),
        Candidate::new("tower-response-cache", layer((entries * bytes_per_entry()) as usize), plain),
    ];
    let others = || {
        vec![
            Candidate::new("hitbox, rkyv", peers::hitbox(inner(), entries, HOUR, RkyvFormat::new()), plain),
            Candidate::new("hitbox, bincode", peers::hitbox(inner(), entries, HOUR, BincodeFormat), plain),
            Candidate::new("hitbox, JSON", peers::hitbox(inner(), entries, HOUR, JsonFormat), plain),
            Candidate::new("tower-http-cache", peers::tower_http_cache(inner(), entries, HOUR), plain),
            Candidate::new(
                "axum-response-cache",
                peers::axum_response_cache_bounded(inner().axum(), entries as usize, HOUR),
                axum,
            ),
            Candidate::new(
                "http-cache-tower-server, moka",
                peers::http_cache_tower_server(inner().max_age(HOUR.as_secs()), entries),
                plain,
            ),
        ]
    };
    if matches!(contenders, Contenders::All) {
        candidates.extend(others());
    }
    candidates
}

const EMPTY_SERVICE: &str = "empty service";
const BOUND: &str = "bound: every step of a correct hit";

/// The number of entries that are stored to measure the weight of one.
const SAMPLE: u64 = 1_000;

fn bytes_per_entry_of_bound(mut bound: CorrectCache<Inner>) -> u64 {
    for n in 0..SAMPLE {
        send_ready(&mut bound, request(nth_item(10_000 + n)));
    }
    let (entries, bytes) = bound.usage();
    bytes / entries
}

fn bytes_per_entry() -> u64 {
    let store = Memory::new(1 << 30);
    let mut cache = setup::layer(store.clone(), Rule::ttl(HOUR), Report::Default).layer(Inner::of(KIB));
    let empty = store.stats().bytes;
    let runtime = runtime();
    let _within = runtime.enter();
    for n in 0..SAMPLE {
        send_ready(&mut cache, request(nth_item(10_000 + n)));
    }
    let stats = store.stats();
    (stats.bytes - empty) / stats.entries
}

/// Creates the requests of each of the two threads.
fn both(workload: impl Fn(u64) -> Workload) -> [Arc<Workload>; 2] {
    [Arc::new(workload(SEED)), Arc::new(workload(SEED + 1))]
}

fn mixed(contenders: Contenders) {
    let candidates = candidates(CAPACITY, contenders);
    let workload = both(|seed| Workload::zipf(KEYS, 0.99, seed));
    for candidate in &candidates {
        candidate.run(&Round { duration: WARM_UP, threads: &workload, from: 0 });
    }
    let mut results: Vec<Vec<RoundResult>> = candidates.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        for (candidate, results) in candidates.iter().zip(&mut results) {
            results.push(candidate.run(&Round { duration: DURATION, threads: &workload, from: round * 50_000 }));
        }
    }
    println!(
        "\nTwo threads of {TASKS} tasks, {KEYS} keys with zipf 0.99, capacity {CAPACITY} entries. Medians of {ROUNDS} rounds, ratios \
         within a round.\n"
    );
    println!(
        "| | CPU ns per request | × bound | minus empty service | × bound | requests per second | share of two processors | hits |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let (empty_service, bound) = (&results[0], &results[1]);
    for (candidate, own) in candidates.iter().zip(&results) {
        let median_of = |figure: fn(&RoundResult) -> f64| median(own.iter().map(figure));
        let of_bound = median(iter::zip(own, bound).map(|(own, bound)| own.cpu_ns() / bound.cpu_ns()));
        let net = |of: &[RoundResult], n: usize| of[n].cpu_ns() - empty_service[n].cpu_ns();
        println!(
            "| {} | {:.0} | {of_bound:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {} |",
            candidate.name,
            median_of(RoundResult::cpu_ns),
            median((0..ROUNDS).map(|n| net(own, n))),
            median((0..ROUNDS).map(|n| net(own, n) / net(bound, n))),
            median_of(RoundResult::rate),
            median_of(|result| result.share(2)),
            hits(candidate, median_of(RoundResult::hit_ratio)),
        );
    }
}

/// A short round, repeated until the threads had a sufficient share of the processors. Scaling shows only while both threads run. The attempt
/// with the largest share counts.
const SHORT_ROUND: Duration = Duration::from_millis(40);
const ATTEMPTS: usize = 5;
const SUFFICIENT_SHARE: f64 = 0.97;

fn scaling(contenders: Contenders) {
    for (distribution, keys) in [("10,000 equally frequent keys", 10_000), ("a single key", 1)] {
        let candidates = candidates(2 * keys + 1_000, contenders);
        let workload = both(|seed| Workload::zipf(keys, 0.0, seed));
        for candidate in &candidates {
            candidate.run(&Round { duration: WARM_UP, threads: &workload, from: 0 });
        }
        let mut pairs: Vec<Vec<(RoundResult, RoundResult)>> = candidates.iter().map(|_| Vec::new()).collect();
        for round in 0..ROUNDS {
            for (candidate, pairs) in candidates.iter().zip(&mut pairs) {
                let from = round * 50_000;
                pairs.push((short_round(candidate, &workload[..1], from), short_round(candidate, &workload, from)));
            }
        }
        println!(
            "\nHits on one thread and on two threads of {TASKS} tasks, {distribution}. Requests per second of CPU time. Medians of {ROUNDS} \
             rounds, ratios within a round.\n"
        );
        println!("| | one thread | two threads | ratio | share of two processors | hits |\n|---|---:|---:|---:|---:|---:|");
        for (candidate, pairs) in candidates.iter().zip(&pairs) {
            let median_of =
                |figure: fn(&RoundResult, &RoundResult) -> f64| median(pairs.iter().map(|(one, two)| figure(one, two)));
            println!(
                "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {} |",
                candidate.name,
                median_of(|one, _| 1e9 / one.cpu_ns()),
                median_of(|_, two| 2e9 / two.cpu_ns()),
                median_of(|one, two| 2.0 * one.cpu_ns() / two.cpu_ns()),
                median_of(|_, two| two.share(2)),
                hits(candidate, median_of(|_, two| two.hit_ratio())),
            );
        }
    }
}

fn short_round(candidate: &Candidate, threads: &[Arc<Workload>], from: usize) -> RoundResult {
    let mut best: Option<RoundResult> = None;
    for _ in 0..ATTEMPTS {
        let result = candidate.run(&Round { duration: SHORT_ROUND, threads, from });
        let share = result.share(threads.len());
        if best.is_none_or(|best| share > best.share(threads.len())) {
            best = Some(result);
        }
        if share >= SUFFICIENT_SHARE {
            break;
        }
    }
    best.expect("at least one attempt")
}

/// Formats the hit ratio, which an empty service does not have.
fn hits(candidate: &Candidate, ratio: f64) -> String {
    if candidate.name == EMPTY_SERVICE { "–".to_owned() } else { format!("{ratio:.3}") }
}

// ---- Many entries --------------------------------------------------------------------------------------------------

/// The number of calls timed together.
const TIMED: u64 = 100_000;

fn entries(_: Contenders) {
    let cases: Vec<_> = SCALES.iter().flat_map(|size| [size.empty_service, size.bound, size.cache]).map(scale::case).collect();
    let times = Times::of(&cases, ROUNDS, |_| TIMED);
    println!("\nHits by number of entries of 64 bytes, requested in a scattered order, minus the empty service.\n");
    println!("| entries | instructions | instructions of the bound | ns | ns of the bound |\n|---:|---:|---:|---:|---:|");
    for size in SCALES {
        let [empty_service, bound, cache] = [size.empty_service, size.bound, size.cache].map(scale::instructions);
        let ns = |name| times.difference(name, size.empty_service);
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} |",
            size.entries,
            cache - empty_service,
            bound - empty_service,
            ns(size.cache),
            ns(size.bound)
        );
    }
}

fn namespaces(_: Contenders) {
    let times = Times::of(&NAMESPACE_CASES.map(scale::case), ROUNDS, |_| TIMED);
    println!("\nHits among {NAMESPACES} entries in namespaces by a path parameter, minus the empty service.\n");
    println!("| namespaces in use | instructions | ns |\n|---:|---:|---:|");
    let empty_service = scale::instructions(NAMESPACE_CASES[0]);
    for (count, name) in [(1, NAMESPACE_CASES[1]), (NAMESPACES, NAMESPACE_CASES[2])] {
        println!(
            "| {count} | {:.0} | {:.0} |",
            scale::instructions(name) - empty_service,
            times.difference(name, NAMESPACE_CASES[0])
        );
    }
}
