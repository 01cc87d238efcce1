//! Measurement of cases by running this program under valgrind.

use std::{
    env,
    hint::black_box,
    mem,
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// A measured case.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// The name of a case whose cost is subtracted, or an empty string.
    pub subtract: &'static str,
    /// The number of counted calls.
    pub calls: u64,
    pub limit: Limit,
    /// Creates the measured function.
    pub make: fn() -> Box<dyn FnMut()>,
}

/// The limit of a case's instructions.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// No limit.
    None,
    /// A number of instructions.
    AtMost(f64),
    /// A multiple of another case.
    Times(&'static str, f64),
    /// A number of instructions above another case.
    Above(&'static str, f64),
}

impl Limit {
    /// Returns the limit in instructions.
    fn of(self, costs: impl Fn(&str) -> f64) -> Option<f64> {
        match self {
            Self::None => None,
            Self::AtMost(most) => Some(most),
            Self::Times(other, times) => Some(times * costs(other)),
            Self::Above(other, more) => Some(costs(other) + more),
        }
    }
}

/// The cost of one call.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    pub instructions: f64,
    pub allocations: Option<f64>,
}

/// Calls a function whose instructions are counted. Instructions outside of such a call are not counted. These calls must not be nested.
#[inline(never)]
pub fn counted_call<T>(call: impl FnOnce() -> T) -> T {
    call()
}

/// Runs the program with its command-line arguments.
///
/// Without arguments it prints a table of all cases. `limits` counts only instructions and fails if a case exceeds its limit. Names of cases
/// restrict both to these cases and to those that they are compared with. `run NAME CALLS` makes the calls to be counted.
pub fn main(cases: &[Case]) {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", name, calls] => run(case(cases, name), calls.parse().expect("a number of calls")),
        ["limits", ref names @ ..] => table(cases, names, true),
        ref names => table(cases, names, false),
    }
}

fn case<'a>(cases: &'a [Case], name: &str) -> &'a Case {
    cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("unknown case {name:?}"))
}

fn run(case: &Case, calls: u64) {
    let mut call = (case.make)();
    fill_holes();
    for _ in 0..calls {
        black_box(&mut call)();
    }
}

/// Fills the free places of the heap with memory that is never freed. The calls then allocate at the end of the heap. Otherwise the cost of
/// an allocation of more than 1 KiB depends on the free places that the preparation has left: about 210 instructions more or less.
fn fill_holes() {
    for size in (4..17).rev().map(|power| 1 << power) {
        for _ in 0..64 {
            mem::forget(black_box(Vec::<u8>::with_capacity(size)));
        }
    }
}

fn table(cases: &[Case], names: &[&str], limits_only: bool) {
    let wanted: Vec<_> = cases.iter().filter(|case| names.is_empty() || is_needed(cases, names, case.name)).collect();
    let mut counted = count_all(&wanted, limits_only);
    for _ in 0..if limits_only { RECOUNTS } else { 0 } {
        let costs = Costs { cases, counted: &counted };
        let over: Vec<_> = (0..counted.len()).filter(|n| costs.is_over_limit(counted[*n].0)).collect();
        for n in over {
            let (case, measured) = &mut counted[n];
            measured.instructions = measured.instructions.min(instructions(case));
        }
    }

    let costs = Costs { cases, counted: &counted };
    println!("| per request | instructions | at most | allocations |\n|---|---:|---:|---:|");
    let mut over = Vec::new();
    for (case, own) in &counted {
        let less = costs.raw(case.subtract);
        let difference = |own: Option<f64>, less: Option<Option<f64>>| own.map(|own| own - less.flatten().unwrap_or(0.0));
        println!(
            "| {} | {:.0} | {} | {} |",
            case.name,
            costs.of(case),
            format_figure(costs.limit(case)),
            format_figure(difference(own.allocations, less.map(|less| less.allocations))),
        );
        if costs.is_over_limit(case) {
            over.push(case.name);
        }
    }
    if !over.is_empty() {
        eprintln!("over the limit: {}", over.join(", "));
        process::exit(1);
    }
}

/// How often a case over its limit is counted again. Its smallest count is compared with the limit. A miss that evicts takes about 250
/// instructions more in about every second process. Presumably, the entries that are evicted depend on random hashes, and the cost of an
/// allocation on the places that they leave in the heap.
const RECOUNTS: usize = 8;

/// The costs of the measured cases.
struct Costs<'a> {
    cases: &'a [Case],
    counted: &'a [(&'a Case, Measurement)],
}

impl Costs<'_> {
    fn raw(&self, name: &str) -> Option<Measurement> {
        self.counted.iter().find(|(case, _)| case.name == name).map(|(_, measured)| *measured)
    }

    fn of(&self, case: &Case) -> f64 {
        let instructions = |name| self.raw(name).map_or(0.0, |measured| measured.instructions);
        instructions(case.name) - instructions(case.subtract)
    }

    fn limit(&self, case: &Case) -> Option<f64> {
        case.limit.of(|name| self.of(self::case(self.cases, name)))
    }

    fn is_over_limit(&self, case: &Case) -> bool {
        self.limit(case).is_some_and(|limit| self.of(case) > limit)
    }
}

fn format_figure(figure: Option<f64>) -> String {
    figure.map_or_else(String::new, |figure| format!("{figure:.0}"))
}

/// Returns true if a case is named, or if a named case is compared with it.
fn is_needed(cases: &[Case], names: &[&str], name: &str) -> bool {
    let other = |limit| match limit {
        Limit::Times(other, _) | Limit::Above(other, _) => other,
        Limit::None | Limit::AtMost(_) => "",
    };
    names.contains(&name)
        || cases.iter().any(|case| {
            (case.subtract == name || other(case.limit) == name) && case.name != name && is_needed(cases, names, case.name)
        })
}

/// Measures the cases, two at a time on two processors if only instructions are counted: these do not depend on other processes.
fn count_all<'a>(cases: &[&'a Case], instructions_only: bool) -> Vec<(&'a Case, Measurement)> {
    let workers = if instructions_only { processors() } else { 1 };
    let counted = side_by_side(cases, workers, |case| count(case, instructions_only));
    std::iter::zip(cases.iter().copied(), counted).collect()
}

/// Returns the number of processors.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Calls a function for each job, by this number of threads. Returns the results in the order of the jobs.
pub fn side_by_side<J: Sync, T: Send>(jobs: &[J], workers: usize, measure: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < jobs.len());
    let work = || std::iter::from_fn(take).map(|n| (n, measure(&jobs[n]))).collect::<Vec<_>>();
    let mut results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|worker| worker.join().expect("a measured case")).collect()
    });
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Measures a case by running this program with `run`. The program must call [`main`].
pub fn count(case: &Case, instructions_only: bool) -> Measurement {
    Measurement { instructions: instructions(case), allocations: (!instructions_only).then(|| allocations(case)) }
}

/// Counts the instructions of a call.
pub fn instructions(case: &Case) -> f64 {
    INSTRUCTIONS.count(case.name, case.calls) as f64 / case.calls as f64
}

/// Counts the allocations of a call.
pub fn allocations(case: &Case) -> f64 {
    let calls = case.calls.div_ceil(4);
    (ALLOCATIONS.count(case.name, 2 * calls) - ALLOCATIONS.count(case.name, calls)) as f64 / calls as f64
}

/// Counts the bytes that a call leaves in the heap at the end of the process.
pub fn heap_bytes(case: &Case) -> f64 {
    (BYTES_IN_USE.count(case.name, case.calls) - BYTES_IN_USE.count(case.name, 0)) as f64 / case.calls as f64
}

/// A tool of valgrind and the text before the figure in its output.
struct Tool {
    arguments: &'static [&'static str],
    before: &'static str,
}

const INSTRUCTIONS: Tool = Tool {
    arguments: &["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_call*"],
    before: "Collected : ",
};

const ALLOCATIONS: Tool = Tool { arguments: &["--tool=memcheck", "--undef-value-errors=no"], before: "total heap usage: " };

const BYTES_IN_USE: Tool = Tool { before: "in use at exit: ", ..ALLOCATIONS };

impl Tool {
    fn count(&self, name: &str, calls: u64) -> u64 {
        let program = env::current_exe().expect("the path of this program");
        let output = Command::new("valgrind")
            .args(self.arguments)
            .arg(program)
            .args(["run", name, &calls.to_string()])
            .output()
            .unwrap_or_else(|error| panic!("cannot run valgrind: {error}"));
        let output_text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} failed:\n{output_text}");
        let figure = output_text.split(self.before).nth(1).and_then(|rest| rest.split_whitespace().next());
        let figure = figure.unwrap_or_else(|| panic!("valgrind did not print {:?}:\n{output_text}", self.before));
        let figure = figure.replace(',', "").parse().expect("a number");
        assert!(figure > 0, "nothing of {name} was counted");
        figure
    }
}
