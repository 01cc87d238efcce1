//! The table of goals: this crate beside its lower bounds and the peers, in one run.

use std::collections::BTreeSet;

use tower_response_cache_cost::{
    Case,
    measure::{self, processors, side_by_side},
};

/// The figure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Figure {
    Instructions,
    Allocations,
    /// Bytes of the heap for each entry.
    HeapBytes,
}

use Figure::{Allocations, HeapBytes, Instructions};

struct Row {
    title: &'static str,
    figure: Figure,
    goal: &'static str,
    /// The case whose net figure is subtracted, or an empty string.
    above: &'static str,
    /// The cases of each column. An empty string is a case that does not exist.
    cases: [&'static str; COLUMNS.len()],
}

const COLUMNS: [&str; 7] = [
    "**default**",
    "with `Cache-Status`",
    "bound: get of a prepared response",
    "bound: every step",
    "axum-response-cache",
    "tower-http-cache",
    "hitbox, rkyv",
];

const HIT: [&str; 7] = [
    "hit",
    "hit, Cache-Status",
    "bound: lookup by target",
    "bound: correct hit",
    "axum-response-cache",
    "tower-http-cache",
    "hitbox rkyv",
];

const ROWS: &[Row] = &[
    row("hit, 1 KiB", Instructions, "2,600", HIT),
    row("hit, 1 KiB", Allocations, "2", HIT),
    Row { above: "hit", ..row("`Cache-Status` adds to a hit", Instructions, "200", report("hit, Cache-Status")) },
    Row { above: "hit", ..row("`Cache-Status` adds to a hit", Allocations, "0", report("hit, Cache-Status")) },
    Row {
        above: "hit",
        ..row("`Cache-Status` adds to a hit, lifetime of an hour", Instructions, "200", report("hit, Cache-Status, of an hour"))
    },
    Row {
        above: "hit",
        ..row("`Cache-Status` adds to a hit, lifetime of an hour", Allocations, "0", report("hit, Cache-Status, of an hour"))
    },
    Row { above: "hit", ..row("the extension adds to a hit", Instructions, "", own("hit, extension")) },
    Row { above: "hit", ..row("the extension adds to a hit", Allocations, "", own("hit, extension")) },
    row(
        "evicting miss",
        Instructions,
        "9,000",
        [
            "miss, evicting",
            "miss, evicting, Cache-Status",
            "bound: lookup by target, evicting",
            "bound: correct miss, evicting",
            "axum-response-cache, miss",
            "tower-http-cache, miss",
            "hitbox rkyv, miss",
        ],
    ),
    row(
        "miss with room left",
        Instructions,
        "10,000",
        [
            "miss, room left",
            "",
            "bound: lookup by target, room left",
            "bound: correct miss, room left",
            "axum-response-cache, miss, room left",
            "tower-http-cache, miss, room left",
            "hitbox rkyv, miss, room left",
        ],
    ),
    row("`If-None-Match` → 304", Instructions, "3,500", own("hit, If-None-Match")),
    row("`If-None-Match` → 304", Allocations, "", own("hit, If-None-Match")),
    row("hit, `HEAD`", Instructions, "", own("hit, HEAD")),
    row("hit of the quickstart", Instructions, "3,000", report("hit, quickstart")),
    row("hit of the quickstart", Allocations, "2", report("hit, quickstart")),
    row("hit, bearer identity", Instructions, "4,500", own("hit, bearer identity")),
    row("hit, bearer identity", Allocations, "2", own("hit, bearer identity")),
    row("hit, `Vary: Accept-Encoding`", Instructions, "3,800", own("hit, Vary: Accept-Encoding")),
    row(
        "hit, 10,000 targets in turn",
        Instructions,
        "3,600",
        [
            "hit, 10,000 targets",
            "",
            "10,000 targets, bound: lookup by target",
            "10,000 targets, bound: correct hit",
            "axum-response-cache, 10,000 targets",
            "tower-http-cache, 10,000 targets",
            "hitbox rkyv, 10,000 targets",
        ],
    ),
    row("evicting miss, `Rule::http()`", Instructions, "12,500", own("miss, Rule::http()")),
    row("`InvalidateLayer`, `GET`", Instructions, "150", own("InvalidateLayer, GET")),
    row("`InvalidateLayer`, `POST`", Instructions, "4,000", own("InvalidateLayer, POST")),
    row("no rule covers the request", Instructions, "50", own("no rule")),
    row(
        "no rule covers the request, 20 routes that begin alike",
        Instructions,
        "50",
        own("no rule, 20 routes that begin alike"),
    ),
    row(
        "entry of 1 KiB",
        HeapBytes,
        "1,750",
        [
            "heap",
            "",
            "heap, bound: lookup by target",
            "heap, bound: every step",
            "axum-response-cache, heap",
            "tower-http-cache, heap",
            "hitbox rkyv, heap",
        ],
    ),
];

const fn row(title: &'static str, figure: Figure, goal: &'static str, cases: [&'static str; COLUMNS.len()]) -> Row {
    Row { title, figure, goal, above: "", cases }
}

/// A case of the default column alone.
const fn own(case: &'static str) -> [&'static str; COLUMNS.len()] {
    [case, "", "", "", "", "", ""]
}

/// A case of the column with `Cache-Status` alone.
const fn report(case: &'static str) -> [&'static str; COLUMNS.len()] {
    ["", case, "", "", "", "", ""]
}

/// Measures all rows and prints them.
pub fn print(cases: &[Case]) {
    let figures = Figures::of(cases);
    println!("| | | goal | {} |\n|---|---|---:{}|", COLUMNS.join(" | "), "|---:".repeat(COLUMNS.len()));
    for row in ROWS {
        let cells: Vec<_> = row.cases.iter().map(|case| figures.cell(row, case)).collect();
        let goal = if row.goal.is_empty() { "–" } else { row.goal };
        println!("| {} | {} | {goal} | {} |", row.title, row.figure.unit(), cells.join(" | "));
    }
}

impl Figure {
    fn unit(self) -> &'static str {
        match self {
            Instructions => "instructions",
            Allocations => "allocations",
            HeapBytes => "bytes in the heap",
        }
    }

    fn measure(self, case: &Case) -> f64 {
        match self {
            Instructions => measure::instructions(case),
            Allocations => measure::allocations(case),
            HeapBytes => measure::heap_bytes(case),
        }
    }
}

/// The measured figures of cases, before subtraction.
struct Figures<'a> {
    cases: &'a [Case],
    measured: Vec<((Figure, &'static str), f64)>,
}

impl<'a> Figures<'a> {
    fn of(cases: &'a [Case]) -> Self {
        let jobs: BTreeSet<_> =
            ROWS.iter().flat_map(|row| row.cases.iter().chain([&row.above]).map(|name| (row.figure, *name))).collect();
        let with_subtracted = |(figure, name)| [(figure, name), (figure, case(cases, name).subtract)];
        let jobs: BTreeSet<_> = jobs.into_iter().filter(is_named).flat_map(with_subtracted).filter(is_named).collect();
        let jobs: Vec<_> = jobs.into_iter().collect();
        let measured = side_by_side(&jobs, processors(), |(figure, name)| figure.measure(case(cases, name)));
        Self { cases, measured: jobs.into_iter().zip(measured).collect() }
    }

    fn cell(&self, row: &Row, name: &str) -> String {
        if name.is_empty() {
            return "–".to_owned();
        }
        with_commas(self.net(row.figure, name) - self.net(row.figure, row.above))
    }

    /// Returns the figure of a case after subtraction, or 0 without a name.
    fn net(&self, figure: Figure, name: &str) -> f64 {
        let raw =
            |name: &str| self.measured.iter().find(|(of, _)| *of == (figure, name)).map_or(0.0, |(_, measured)| *measured);
        if name.is_empty() { 0.0 } else { raw(name) - raw(case(self.cases, name).subtract) }
    }
}

fn is_named((_, name): &(Figure, &str)) -> bool {
    !name.is_empty()
}

fn case<'a>(cases: &'a [Case], name: &str) -> &'a Case {
    cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("unknown case {name:?}"))
}

/// Formats a whole number with commas.
pub fn with_commas(figure: f64) -> String {
    let digits = format!("{:.0}", figure + 0.0);
    let digits = if digits == "-0" { "0" } else { &digits };
    let (sign, digits) = digits.split_at(usize::from(digits.starts_with('-')));
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    format!("{sign}{}", groups.join(","))
}
