//! Prints the table of all peers, this crate and its lower bounds. `benches/peers/README.md` describes the comparison.

use std::{collections::BTreeSet, env};

use tower_response_cache_cost::{Case, Measurement, cases::CASES, measure};
use tower_response_cache_peers::{
    cases::{CACHE_HIT, LINES, PEERS},
    table::{self, with_commas},
    times::Times,
    versions,
};

fn main() {
    let cases: Vec<Case> = CASES.iter().chain(PEERS).copied().collect();
    if env::args().nth(1).as_deref() == Some("table") {
        return table::print(&cases);
    }
    // Other arguments name cases for a table in the form of `benches/cost`, or come from the program itself.
    if env::args().len() > 1 {
        return measure::main(&cases);
    }
    let hits: BTreeSet<_> = LINES.iter().map(|line| line.hit).collect();
    let hits: BTreeSet<_> = hits.iter().flat_map(|hit| [*hit, case(&cases, hit).subtract]).collect();
    let timed: Vec<_> = hits.into_iter().map(|name| case(&cases, name)).collect();
    let times = Times::of(&timed, ROUNDS, |case| case.calls);
    let mut measured = Measured { cases, counted: Vec::new() };
    let cache = measured.of(CACHE_HIT, false).instructions;
    println!(
        "| | version | hit | × this crate | allocations | ns | hit, 1 MiB | miss, evicting |\n|---|---|---:|---:|---:|---:|---:|---:|"
    );
    for line in LINES {
        let versions: Vec<_> = line.packages.iter().map(|package| versions::of(package)).collect();
        let hit = measured.of(line.hit, false);
        let nanoseconds = times.difference(line.hit, case(&measured.cases, line.hit).subtract);
        let mut instructions = |name: &str| match name {
            "" => "–".to_owned(),
            _ => with_commas(measured.of(name, true).instructions),
        };
        println!(
            "| {} | {} | {} | {:.2} | {} | {} | {} | {} |",
            line.name,
            versions.join(", "),
            with_commas(hit.instructions),
            hit.instructions / cache,
            hit.allocations.map_or_else(String::new, with_commas),
            with_commas(nanoseconds),
            instructions(line.large),
            instructions(line.miss),
        );
    }
}

/// The number of rounds. Each round times all hits in turn.
const ROUNDS: usize = 25;

fn case(cases: &[Case], name: &str) -> Case {
    *cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("unknown case {name:?}"))
}

/// The measured cases, so that none is measured twice.
struct Measured {
    cases: Vec<Case>,
    counted: Vec<(&'static str, bool, Measurement)>,
}

impl Measured {
    /// Returns the cost of a case after subtraction.
    fn of(&mut self, name: &str, instructions_only: bool) -> Measurement {
        let case = case(&self.cases, name);
        let own = self.raw(case, instructions_only);
        if case.subtract.is_empty() {
            return own;
        }
        let less = self.raw(self::case(&self.cases, case.subtract), instructions_only);
        let difference = |own: Option<f64>, less: Option<f64>| own.zip(less).map(|(own, less)| own - less);
        Measurement {
            instructions: own.instructions - less.instructions,
            allocations: difference(own.allocations, less.allocations),
        }
    }

    fn raw(&mut self, case: Case, instructions_only: bool) -> Measurement {
        let known = self
            .counted
            .iter()
            .find(|(name, without_allocations, _)| *name == case.name && (*without_allocations <= instructions_only));
        if let Some((_, _, measurement)) = known {
            return *measurement;
        }
        let measurement = measure::count(&case, instructions_only);
        self.counted.push((case.name, instructions_only, measurement));
        measurement
    }
}
