//! The table of all peers, beside this crate and its lower bounds: `benches/peers/README.md` says what is compared.

use std::{collections::BTreeSet, env};

use tower_response_cache_cost::{Case, Counted, cases::CASES, measure};
use tower_response_cache_peers::{
    cases::{LINES, OURS, PEERS},
    times::Times,
    versions,
};

fn main() {
    let cases: Vec<Case> = CASES.iter().chain(PEERS).copied().collect();
    // Words are what the program says to itself, or the names of cases that one wants to see as `benches/cost` shows its own.
    if env::args().len() > 1 {
        return measure::main(&cases);
    }
    let hits: BTreeSet<_> = LINES.iter().map(|line| line.hit).collect();
    let hits: BTreeSet<_> = hits.iter().flat_map(|hit| [*hit, case(&cases, hit).less]).collect();
    let timed: Vec<_> = hits.into_iter().map(|name| case(&cases, name)).collect();
    let times = Times::of(&timed, ROUNDS, |case| case.calls);
    let mut counts = Counts { cases, counted: Vec::new() };
    let ours = counts.of(OURS, false).instructions;
    println!(
        "| | version | hit | of ours | allocations | ns | hit, 1 MiB | miss, evicting |\n|---|---|---:|---:|---:|---:|---:|---:|"
    );
    for line in LINES {
        let versions: Vec<_> = line.packages.iter().map(|package| versions::of(package)).collect();
        let hit = counts.of(line.hit, false);
        let nanoseconds = times.less(line.hit, case(&counts.cases, line.hit).less);
        let mut instructions = |name: &str| match name {
            "" => "–".to_owned(),
            _ => grouped(counts.of(name, true).instructions),
        };
        println!(
            "| {} | {} | {} | {:.2} | {} | {} | {} | {} |",
            line.name,
            versions.join(", "),
            grouped(hit.instructions),
            hit.instructions / ours,
            hit.allocations.map_or_else(String::new, grouped),
            grouped(nanoseconds),
            instructions(line.large),
            instructions(line.miss),
        );
    }
}

/// How often all hits are timed, in turn.
const ROUNDS: usize = 25;

fn case(cases: &[Case], name: &str) -> Case {
    *cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case is called {name:?}"))
}

/// What was counted, so that nothing is counted twice.
struct Counts {
    cases: Vec<Case>,
    counted: Vec<(&'static str, bool, Counted)>,
}

impl Counts {
    /// What a case costs, less what is to be taken off.
    fn of(&mut self, name: &str, instructions_alone: bool) -> Counted {
        let case = case(&self.cases, name);
        let own = self.raw(case, instructions_alone);
        if case.less.is_empty() {
            return own;
        }
        let less = self.of(case.less, instructions_alone);
        let difference = |own: Option<f64>, less: Option<f64>| own.zip(less).map(|(own, less)| own - less);
        Counted {
            instructions: own.instructions - less.instructions,
            allocations: difference(own.allocations, less.allocations),
            nanoseconds: difference(own.nanoseconds, less.nanoseconds),
        }
    }

    fn raw(&mut self, case: Case, instructions_alone: bool) -> Counted {
        let known = self.counted.iter().find(|(name, alone, _)| *name == case.name && (*alone <= instructions_alone));
        if let Some((_, _, counted)) = known {
            return *counted;
        }
        let counted = measure::count(&case, instructions_alone);
        self.counted.push((case.name, instructions_alone, counted));
        counted
    }
}

/// A whole number with commas.
fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let (sign, digits) = digits.split_at(usize::from(digits.starts_with('-')));
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    format!("{sign}{}", groups.join(","))
}
