//! Counts, by processes of this very program under valgrind.

use std::{
    env,
    hint::black_box,
    process::{self, Command},
    time::Instant,
};

/// Something that is measured.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// What is taken off: the case that does the same without the part of interest. Empty for none.
    pub less: &'static str,
    /// How many calls are counted.
    pub calls: u64,
    pub limit: Limit,
    /// Makes what is called again and again.
    pub make: fn() -> Box<dyn FnMut()>,
}

/// What a case may cost.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// It is only shown.
    None,
    /// So many instructions.
    Most(f64),
    /// So many times what another case costs.
    Times(&'static str, f64),
    /// So many more than another case.
    Over(&'static str, f64),
}

impl Limit {
    /// In instructions.
    fn of(self, costs: impl Fn(&str) -> f64) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Most(most) => Some(most),
            Self::Times(other, times) => Some(times * costs(other)),
            Self::Over(other, more) => Some(costs(other) + more),
        }
    }
}

/// What one call of a case costs.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub instructions: f64,
    pub allocations: Option<f64>,
    pub nanoseconds: Option<f64>,
}

/// The program: without arguments a table of all cases, with `limits` the counts alone and an error if one is over its limit, with
/// `run NAME CALLS` what is counted. Further words name the cases wanted; those that they need are counted as well.
pub fn main(cases: &[Case]) {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", name, calls] => run(case(cases, name), calls.parse().expect("a number of calls")),
        ["limits", ref names @ ..] => table(cases, names, true),
        ref names => table(cases, names, false),
    }
}

fn case<'a>(cases: &'a [Case], name: &str) -> &'a Case {
    cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case is called {name:?}"))
}

fn run(case: &Case, calls: u64) {
    let mut call = (case.make)();
    for _ in 0..calls {
        black_box(&mut call)();
    }
}

fn table(cases: &[Case], names: &[&str], limits_alone: bool) {
    let wanted: Vec<_> = cases.iter().filter(|case| names.is_empty() || needed(cases, names, case.name)).collect();
    let counted: Vec<_> = wanted.iter().map(|case| (*case, count(case, limits_alone))).collect();
    let raw = |name: &str| counted.iter().find(|(case, _)| case.name == name).map(|(_, counted)| *counted);
    let costs =
        |case: &Case| raw(case.name).map_or(0.0, |own| own.instructions - raw(case.less).map_or(0.0, |less| less.instructions));
    let costs_of = |name: &str| costs(self::case(cases, name));

    println!("| per request | instructions | at most | allocations | ns |\n|---|---:|---:|---:|---:|");
    let mut over = Vec::new();
    for (case, own) in &counted {
        let less = raw(case.less);
        let limit = case.limit.of(costs_of);
        let difference = |own: Option<f64>, less: Option<Option<f64>>| own.map(|own| own - less.flatten().unwrap_or(0.0));
        println!(
            "| {} | {:.0} | {} | {} | {} |",
            case.name,
            costs(case),
            shown(limit),
            shown(difference(own.allocations, less.map(|less| less.allocations))),
            shown(difference(own.nanoseconds, less.map(|less| less.nanoseconds))),
        );
        if limit.is_some_and(|limit| costs(case) > limit) {
            over.push(case.name);
        }
    }
    if !over.is_empty() {
        eprintln!("over the limit: {}", over.join(", "));
        process::exit(1);
    }
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(String::new, |figure| format!("{figure:.0}"))
}

/// Whether a case is among those named, or is what one of them is compared with.
fn needed(cases: &[Case], names: &[&str], name: &str) -> bool {
    let other = |limit| match limit {
        Limit::Times(other, _) | Limit::Over(other, _) => other,
        Limit::None | Limit::Most(_) => "",
    };
    names.contains(&name)
        || cases.iter().any(|case| {
            (case.less == name || other(case.limit) == name) && case.name != name && needed(cases, names, case.name)
        })
}

/// Counts a case, or its instructions alone, in processes of this program, whose `main` has to be the one above if it is told `run`.
pub fn count(case: &Case, instructions_alone: bool) -> Counted {
    let per_call = |tool: &Tool, calls: u64| {
        let (once, twice) = (tool.count(case.name, calls), tool.count(case.name, 2 * calls));
        (twice as f64 - once as f64) / calls as f64
    };
    Counted {
        instructions: per_call(&INSTRUCTIONS, case.calls),
        allocations: (!instructions_alone).then(|| per_call(&ALLOCATIONS, case.calls.div_ceil(4))),
        nanoseconds: (!instructions_alone).then(|| nanoseconds(case)),
    }
}

/// The best of five runs.
fn nanoseconds(case: &Case) -> f64 {
    let mut call = (case.make)();
    let calls = 20 * case.calls;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..calls {
            black_box(&mut call)();
        }
        best = best.min(began.elapsed().as_nanos() as f64 / calls as f64);
    }
    best
}

/// A tool of valgrind, and the words before and after the figure that it ends with.
struct Tool {
    arguments: &'static [&'static str],
    before: &'static str,
}

const INSTRUCTIONS: Tool = Tool { arguments: &["--tool=callgrind", "--callgrind-out-file=/dev/null"], before: "Collected : " };

const ALLOCATIONS: Tool = Tool { arguments: &["--tool=memcheck", "--undef-value-errors=no"], before: "total heap usage: " };

impl Tool {
    fn count(&self, name: &str, calls: u64) -> u64 {
        let program = env::current_exe().expect("the path of this program");
        let output = Command::new("valgrind")
            .args(self.arguments)
            .arg(program)
            .args(["run", name, &calls.to_string()])
            .output()
            .unwrap_or_else(|why| panic!("valgrind does not run: {why}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} did not end well:\n{said}");
        let figure = said.split(self.before).nth(1).and_then(|rest| rest.split_whitespace().next());
        let figure = figure.unwrap_or_else(|| panic!("valgrind said nothing of {:?}:\n{said}", self.before));
        figure.replace(',', "").parse().expect("a number")
    }
}
