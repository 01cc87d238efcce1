//! Many processes on one Redis: the cost of an invalidation, of being idle, of a frozen process, of a start and of a return.
//!
//! ```text
//! cargo bench --features redis --bench scale                            # all rows, 1,000 and 100 processes
//! cargo bench --features redis --bench scale -- --json                  # one JSON line per row
//! cargo bench --features redis --bench scale -- --quick --json          # few processes: it only shows that the benchmark runs
//! cargo bench --features redis --bench scale -- bumps idle              # some of: bumps, idle, gathered, cluster, frozen, visible, start, return, generations
//! ```
//!
//! The benchmark starts its own `redis-server`. A process is a store with its own connections, memory, lease and thread; all of them run in
//! this one process, apart from the frozen one, which is a process of its own. The figures are those of Redis: `INFO`, `CLIENT LIST` and
//! `used_memory`. The rows named `naive` show a plain design in the same run: each generation is tracked itself with `NOLOOP`, each
//! process sends a `PING` every 50 ms, and its connection is an ordinary one.
#![allow(missing_docs)]

use std::{env, time::Duration};

use rig::Options;

/// The Redis servers of the tests.
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/common/redis/mod.rs"]
mod rig;

#[path = "scale/bumps.rs"]
mod bumps;
#[path = "scale/frozen.rs"]
mod frozen;
#[path = "scale/judge.rs"]
mod judge;
#[path = "scale/naive.rs"]
mod naive;
#[path = "scale/processes.rs"]
mod processes;
#[path = "scale/storm.rs"]
mod storm;

const ROWS: [&str; 9] = ["bumps", "idle", "gathered", "cluster", "frozen", "visible", "start", "return", "generations"];

/// The size of a run.
#[derive(Clone, Copy)]
struct Scale {
    /// The number of processes for the rows with many and with fewer of them.
    many: usize,
    fewer: usize,
    /// The time for which a load is measured.
    time: Duration,
    /// The number of bytes at which Redis may cut off a frozen process.
    held: usize,
    generations: usize,
    json: bool,
}

const FULL: Scale =
    Scale { many: 1_000, fewer: 100, time: Duration::from_secs(10), held: 32 << 20, generations: 1_000_000, json: false };

const QUICK: Scale =
    Scale { many: 20, fewer: 10, time: Duration::from_secs(2), held: 32 << 20, generations: 10_000, json: false };

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    if arguments.is_empty() {
        // `cargo bench` passes `--bench`. `cargo test --benches` only checks that the program starts.
        println!("run: cargo bench --features redis --bench scale");
        return;
    }
    if let ["process", url] = words[..] {
        return frozen::process(url);
    }
    let rows: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with("--")).collect();
    let known = |word: &&str| ROWS.contains(word) || ["--json", "--quick"].contains(word);
    if let Some(word) = words.iter().find(|word| !known(word)) {
        panic!("{word:?} is not one of {ROWS:?}, --json and --quick");
    }
    let scale = if words.contains(&"--quick") { QUICK } else { FULL };
    let scale = Scale { json: words.contains(&"--json"), ..scale };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(run(scale, |row| rows.is_empty() || rows.contains(&row)));
}

async fn run(scale: Scale, wanted: impl Fn(&str) -> bool) {
    let start = || Options::default().line("maxclients 16000").start();
    if wanted("bumps") || wanted("idle") {
        for many in [scale.fewer, scale.many] {
            bumps::bumps(Scale { many, ..scale }, &start().await).await;
        }
        naive::bumps(scale, &start().await).await;
    }
    if wanted("gathered") {
        bumps::gathered(scale, &start().await).await;
    }
    if wanted("cluster") {
        bumps::in_clusters(scale).await;
    }
    if wanted("frozen") {
        frozen::frozen(scale, &start().await).await;
        naive::frozen(scale, &start().await).await;
    }
    if wanted("visible") {
        bumps::visible(scale, &start().await).await;
    }
    if wanted("start") || wanted("return") {
        storm::storms(scale, start().await).await;
    }
    if wanted("generations") {
        storm::generations(scale, &start().await).await;
    }
}

/// One line of the result.
struct Row {
    row: &'static str,
    processes: usize,
    aim: Option<f64>,
    measured: f64,
    unit: &'static str,
}

impl Scale {
    fn print(&self, row: Row) {
        let Row { row, processes, aim, measured, unit } = row;
        let aim = aim.map_or("null".to_owned(), |aim| aim.to_string());
        let measured = (measured * 10_000.0).round() / 10_000.0;
        match self.json {
            true => println!(
                "{{\"row\": \"{row}\", \"processes\": {processes}, \"aim\": {aim}, \"measured\": {measured}, \"unit\": \"{unit}\"}}"
            ),
            false => println!("{row:48} {processes:>9} {aim:>8} {measured:>12} {unit}"),
        }
    }
}
