//! What no count of instructions shows: two threads at once, and many entries. Without a word all of it; a word for a part of it, and
//! `ours` behind it for this crate and its bound alone.

use std::{env, iter, sync::Arc, time::Duration};

use hitbox_backend::format::{BincodeFormat, JsonFormat, RkyvFormat};
use tower_layer::Layer;
use tower_response_cache::{Memory, Rule, Store};
use tower_response_cache_cost::{
    bounds::Correct,
    ours::{self, Told},
    work::{Nothing, drive, fresh_item, request},
};
use tower_response_cache_peers::{
    among::{self, AMONG, NAMESPACES, SPREAD},
    cases::{axum, plain},
    drive::runtime,
    inner::Inner,
    load::{Asks, Candidate, Round, TASKS, Tally},
    peers,
    times::{Times, median},
};

const SEED: u64 = 0x5eed_2026;
const KIB: usize = 1 << 10;
/// Nothing expires meanwhile.
const HOUR: Duration = Duration::from_secs(3600);

/// What is asked for, and for how much of it there is room.
const KEYS: u64 = 100_000;
const ROOM: u64 = KEYS / 10;

const ROUNDS: usize = 15;
const SPAN: Duration = Duration::from_millis(400);
/// Long enough that the slowest of them has filled its room.
const WARM_UP: Duration = Duration::from_secs(4);

type Section = (&'static str, fn(Who));

/// Who takes part.
#[derive(Clone, Copy)]
enum Who {
    All,
    Ours,
}

const SECTIONS: [Section; 4] = [("mixed", mixed), ("scaling", scaling), ("entries", entries), ("namespaces", namespaces)];

fn main() {
    let words: Vec<_> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => SECTIONS.iter().for_each(|(_, section)| section(Who::All)),
        ["run", name, calls] => among::run(name, calls.parse().expect("a number of calls")),
        [word] | [word, "ours"] => match SECTIONS.iter().find(|(name, _)| *name == word) {
            Some((_, section)) => section(if words.len() == 1 { Who::All } else { Who::Ours }),
            None => panic!("{word:?} is none of {:?}", SECTIONS.map(|(name, _)| name)),
        },
        _ => panic!("one word at most, and `ours`"),
    }
}

// ---- Two threads ---------------------------------------------------------------------------------------------------

/// Everything that is compared, with room for so many entries.
fn candidates(room: u64, who: Who) -> Vec<Candidate> {
    let inner = || Inner::of(KIB).own_bodies();
    let layer = |bytes| ours::layer(Memory::new(bytes), Rule::ttl(HOUR), Told::Age).layer(inner());
    let bound = |bytes| Correct::over(inner(), bytes);
    let mut candidates = vec![
        Candidate::new(NOTHING, Nothing, plain),
        Candidate::new(BOUND, bound(room * bytes_of_bound(bound(1 << 30))), plain),
        Candidate::new("tower-response-cache", layer((room * bytes_of_ours()) as usize), plain),
    ];
    let others = || {
        vec![
            Candidate::new("hitbox, rkyv", peers::hitbox(inner(), room, HOUR, RkyvFormat::new()), plain),
            Candidate::new("hitbox, bincode", peers::hitbox(inner(), room, HOUR, BincodeFormat), plain),
            Candidate::new("hitbox, JSON", peers::hitbox(inner(), room, HOUR, JsonFormat), plain),
            Candidate::new("tower-http-cache", peers::tower_http_cache(inner(), room, HOUR), plain),
            Candidate::new(
                "axum-response-cache",
                peers::axum_response_cache_bounded(inner().axum(), room as usize, HOUR),
                axum,
            ),
            Candidate::new(
                "http-cache-tower-server, moka",
                peers::http_cache_tower_server(inner().max_age(HOUR.as_secs()), room),
                plain,
            ),
        ]
    };
    if matches!(who, Who::All) {
        candidates.extend(others());
    }
    candidates
}

const NOTHING: &str = "an empty service";
const BOUND: &str = "bound: each duty of a correct hit";

/// How many of the entries of this size it takes to see what one takes.
const SAMPLE: u64 = 1_000;

fn bytes_of_bound(mut bound: Correct<Inner>) -> u64 {
    for n in 0..SAMPLE {
        drive(&mut bound, request(fresh_item(10_000 + n)));
    }
    let (entries, bytes) = bound.held();
    bytes / entries
}

fn bytes_of_ours() -> u64 {
    let store = Memory::new(1 << 30);
    let mut cache = ours::layer(store.clone(), Rule::ttl(HOUR), Told::Age).layer(Inner::of(KIB));
    let empty = store.stats().bytes;
    let runtime = runtime();
    let _within = runtime.enter();
    for n in 0..SAMPLE {
        drive(&mut cache, request(fresh_item(10_000 + n)));
    }
    let stats = store.stats();
    (stats.bytes - empty) / stats.entries
}

/// One thread's requests for each of the two.
fn both(asks: impl Fn(u64) -> Asks) -> [Arc<Asks>; 2] {
    [Arc::new(asks(SEED)), Arc::new(asks(SEED + 1))]
}

fn mixed(who: Who) {
    let candidates = candidates(ROOM, who);
    let asks = both(|seed| Asks::zipf(KEYS, 0.99, seed));
    for candidate in &candidates {
        candidate.run(&Round { span: WARM_UP, threads: &asks, from: 0 });
    }
    let mut tallies: Vec<Vec<Tally>> = candidates.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        for (candidate, tallies) in candidates.iter().zip(&mut tallies) {
            tallies.push(candidate.run(&Round { span: SPAN, threads: &asks, from: round * 50_000 }));
        }
    }
    println!(
        "\nTwo threads, {TASKS} tasks each, {KEYS} keys by zipf 0.99, room for {ROOM} entries; medians of {ROUNDS} rounds, ratios within \
         a round.\n"
    );
    println!(
        "| | CPU ns a request | of the bound | less an empty service | of the bound | a second | of two processors | hits |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let (nothing, bound) = (&tallies[0], &tallies[1]);
    for (candidate, own) in candidates.iter().zip(&tallies) {
        let middle = |figure: fn(&Tally) -> f64| median(own.iter().map(figure));
        let of_bound = median(iter::zip(own, bound).map(|(own, bound)| own.cpu_ns() / bound.cpu_ns()));
        let net = |of: &[Tally], n: usize| of[n].cpu_ns() - nothing[n].cpu_ns();
        println!(
            "| {} | {:.0} | {of_bound:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {} |",
            candidate.name,
            middle(Tally::cpu_ns),
            median((0..ROUNDS).map(|n| net(own, n))),
            median((0..ROUNDS).map(|n| net(own, n) / net(bound, n))),
            middle(Tally::rate),
            middle(|tally| tally.share(2)),
            hits(candidate, middle(Tally::hit_ratio)),
        );
    }
}

/// For how long a candidate is looked at, and how often in a round: others may want the processors meanwhile, and how two threads get
/// on shows only while both run. The look counts at which the threads had most of them, and the first that had nearly all.
const GLANCE: Duration = Duration::from_millis(40);
const TRIES: usize = 5;
const NEARLY_ALL: f64 = 0.97;

fn scaling(who: Who) {
    for (what, keys) in [("10,000 keys, each as often as any other", 10_000), ("a single key", 1)] {
        let candidates = candidates(2 * keys + 1_000, who);
        let asks = both(|seed| Asks::zipf(keys, 0.0, seed));
        for candidate in &candidates {
            candidate.run(&Round { span: WARM_UP, threads: &asks, from: 0 });
        }
        let mut pairs: Vec<Vec<(Tally, Tally)>> = candidates.iter().map(|_| Vec::new()).collect();
        for round in 0..ROUNDS {
            for (candidate, pairs) in candidates.iter().zip(&mut pairs) {
                let from = round * 50_000;
                pairs.push((glance(candidate, &asks[..1], from), glance(candidate, &asks, from)));
            }
        }
        println!(
            "\nHits on one thread and on two, {TASKS} tasks each, {what}; medians of {ROUNDS} rounds, ratios within a round. A second \
             of each thread's own processor time; of two processors, the threads had the share in the last column but one.\n"
        );
        println!(
            "| | one thread, a second | two threads, a second | times | of two processors | hits |\n|---|---:|---:|---:|---:|---:|"
        );
        for (candidate, pairs) in candidates.iter().zip(&pairs) {
            let middle = |figure: fn(&Tally, &Tally) -> f64| median(pairs.iter().map(|(one, two)| figure(one, two)));
            println!(
                "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {} |",
                candidate.name,
                middle(|one, _| 1e9 / one.cpu_ns()),
                middle(|_, two| 2e9 / two.cpu_ns()),
                middle(|one, two| 2.0 * one.cpu_ns() / two.cpu_ns()),
                middle(|_, two| two.share(2)),
                hits(candidate, middle(|_, two| two.hit_ratio())),
            );
        }
    }
}

fn glance(candidate: &Candidate, threads: &[Arc<Asks>], from: usize) -> Tally {
    let mut best: Option<Tally> = None;
    for _ in 0..TRIES {
        let tally = candidate.run(&Round { span: GLANCE, threads, from });
        let share = tally.share(threads.len());
        if best.is_none_or(|best| share > best.share(threads.len())) {
            best = Some(tally);
        }
        if share >= NEARLY_ALL {
            break;
        }
    }
    best.expect("there was a look")
}

/// What an empty service answers is no hit.
fn hits(candidate: &Candidate, ratio: f64) -> String {
    if candidate.name == NOTHING { "–".to_owned() } else { format!("{ratio:.3}") }
}

// ---- Many entries --------------------------------------------------------------------------------------------------

/// How many calls are timed at once.
const TIMED: u64 = 100_000;

fn entries(_: Who) {
    let cases: Vec<_> = AMONG.iter().flat_map(|among| [among.nothing, among.bound, among.ours]).map(among::case).collect();
    let times = Times::of(&cases, ROUNDS, |_| TIMED);
    println!("\nA hit among so many entries of 64 bytes, asked for in an order without rhyme; less an empty service.\n");
    println!("| entries | instructions | instructions of the bound | ns | ns of the bound |\n|---:|---:|---:|---:|---:|");
    for among in AMONG {
        let [nothing, bound, ours] = [among.nothing, among.bound, among.ours].map(among::instructions);
        let ns = |name| times.less(name, among.nothing);
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} |",
            among.entries,
            ours - nothing,
            bound - nothing,
            ns(among.ours),
            ns(among.bound)
        );
    }
}

fn namespaces(_: Who) {
    let times = Times::of(&SPREAD.map(among::case), ROUNDS, |_| TIMED);
    println!("\nA hit among {NAMESPACES} entries under a namespace by a parameter of the path; less an empty service.\n");
    println!("| namespaces in use | instructions | ns |\n|---:|---:|---:|");
    let nothing = among::instructions(SPREAD[0]);
    for (count, name) in [(1, SPREAD[1]), (NAMESPACES, SPREAD[2])] {
        println!("| {count} | {:.0} | {:.0} |", among::instructions(name) - nothing, times.less(name, SPREAD[0]));
    }
}
