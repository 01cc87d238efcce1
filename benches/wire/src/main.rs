//! The cost of a hit of 1 KiB over HTTP/1.1: a constant handler, the lower bound of a correct hit, this crate, nginx and Varnish, each in a
//! process of its own on the loopback interface.
//!
//! ```text
//! cargo run --release --manifest-path benches/wire/Cargo.toml                      # the table
//! cargo run --release --manifest-path benches/wire/Cargo.toml -- default nginx 2000  # some rows, counted by 2,000 requests
//! ```
//!
//! For profiling, `serve NAME` serves one candidate and prints its address. `send ADDR REQUESTS` sends requests on one connection.

mod candidates;
mod instructions;
mod rounds;
mod serve;
mod wire;

use std::{env, path::Path, process::Command};

use candidates::{CANDIDATES, Candidate, is_installed};
use rounds::{CORES, Speed, pinned};
use wire::Client;

/// The smaller of the two numbers of counted requests. The other is twice as large.
const REQUESTS: u64 = 10_000;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name] => serve::serve(name),
        ["load", address] => rounds::own_load(address.parse().expect("an address")),
        ["send", address, requests] => {
            let mut client = Client::connect(address.parse().expect("an address")).expect("a connection");
            client.send_repeatedly(requests.parse().expect("a number"));
        }
        ref arguments => table(arguments),
    }
}

/// A row of the table.
struct Row<'a> {
    candidate: &'a Candidate,
    instructions: Option<f64>,
    speed: Speed,
}

fn table(arguments: &[&str]) {
    let (numbers, names): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|argument| argument.parse::<u64>().is_ok());
    let requests = numbers.first().map_or(REQUESTS, |number| number.parse().expect("a number"));
    if let Some(unknown) = names.iter().find(|name| CANDIDATES.iter().all(|candidate| candidate.name != **name)) {
        panic!("unknown candidate {unknown:?}");
    }
    let wanted: Vec<_> = CANDIDATES
        .iter()
        .filter(|candidate| names.is_empty() || names.contains(&candidate.name))
        .filter(|candidate| candidate.program().is_none_or(|program| is_available(program, "its row is omitted")))
        .collect();
    let counted = is_available("valgrind", "instructions are not counted");
    if !is_installed("wrk") {
        eprintln!("wrk not found: this program generates the load");
    }

    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    let directory = tempfile::Builder::new().prefix("wire-").tempdir_in(parent).expect("a directory");
    // Only candidates without a cache call the origin during the measurement, so it shares the core of the load.
    let origin = CANDIDATES[0].start(&pinned(CORES[1]), None, directory.path());
    let instructions: Vec<_> = wanted
        .iter()
        .map(|candidate| {
            let instructions = counted.then(|| instructions::per_request(candidate, requests, &origin, directory.path()))?;
            eprintln!("{}: {instructions:.0} instructions", candidate.name);
            Some(instructions)
        })
        .collect();
    let speeds = rounds::measure(&wanted, &origin, directory.path());
    let rows = wanted.iter().zip(instructions).zip(speeds);
    print(&rows.map(|((candidate, instructions), speed)| Row { candidate, instructions, speed }).collect::<Vec<_>>());
}

fn is_available(program: &str, consequence: &str) -> bool {
    let there = is_installed(program);
    if !there {
        eprintln!("{program} not found: {consequence}");
    }
    there
}

fn print(rows: &[Row]) {
    let instructions = |name: &str| rows.iter().find(|row| row.candidate.name == name).and_then(|row| row.instructions);
    let (constant, nginx) = (instructions("constant"), instructions("nginx"));
    let times = |own: Option<f64>, other: Option<f64>| format_figure(own.zip(other).map(|(own, other)| own / other), 3);
    println!("| | instructions | × constant | × nginx | requests per second | CPU µs | share of core |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for Row { candidate, instructions, speed } in rows {
        println!(
            "| {} | {} | {} | {} | {:.0} | {:.2} | {:.0} % |",
            candidate.title,
            format_figure(*instructions, 0),
            times(*instructions, constant),
            times(*instructions, nginx),
            speed.rate,
            speed.cpu,
            100.0 * speed.busy,
        );
    }
    println!("\n{}", versions().join(", "));
}

fn format_figure(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(String::new, |figure| format!("{figure:.digits$}"))
}

/// Returns the versions of all programs and crates that influence the figures.
fn versions() -> Vec<String> {
    let locked = |name: &str| {
        let lines = include_str!("../Cargo.lock").split_once(&format!("name = \"{name}\"\nversion = \""))?.1;
        Some(format!("{name} {}", lines.split('"').next()?))
    };
    let first_line = |program: &str, flag: &str| {
        let output = Command::new(program).arg(flag).output().ok()?;
        let output = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&output).lines().next()?.to_owned())
    };
    // The version is the first number with a point in the output.
    let installed = |program: &str, flag: &str| {
        let output = first_line(program, flag)?;
        let version =
            output.split(|c: char| !c.is_ascii_digit() && c != '.').find(|word| word.contains('.') && word.len() > 2)?;
        Some(format!("{program} {version}"))
    };
    let programs = [("nginx", "-v"), ("varnishd", "-V"), ("wrk", "-v"), ("valgrind", "--version"), ("rustc", "--version")];
    let crates = ["axum", "hyper", "tokio"].into_iter().filter_map(locked);
    crates.chain(programs.into_iter().filter_map(|(program, flag)| installed(program, flag))).collect()
}
