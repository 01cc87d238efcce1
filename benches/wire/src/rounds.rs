//! Requests a second, and the time that the server's core spends on one: the server on one core, the load on another, every
//! candidate in turn in each round.

use std::{
    env,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    candidates::{Candidate, Server, check, is_installed},
    wire::{Client, asked},
};

const ROUNDS: usize = 9;
const SECONDS: u64 = 2;
const CONNECTIONS: u64 = 16;

/// The cores of the servers and of the load.
pub const CORES: [u32; 2] = [0, 1];

/// What was measured of one.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Requests a second.
    pub rate: f64,
    /// Microseconds of the processor for each.
    pub cpu: f64,
    /// How much of its core it used.
    pub busy: f64,
}

/// What starts a program on this core alone.
pub fn pinned(core: u32) -> Vec<String> {
    ["taskset", "-c", &core.to_string()].map(String::from).into()
}

/// The medians of all rounds.
pub fn measure(candidates: &[&Candidate], origin: &Server, folder: &Path) -> Vec<Speed> {
    let servers: Vec<_> = candidates
        .iter()
        .map(|candidate| {
            let server = candidate.start(&pinned(CORES[0]), Some(origin.address), &folder.join(candidate.name));
            check(candidate, &mut server.connect(), origin);
            server
        })
        .collect();
    let mut rounds: Vec<Vec<Speed>> = vec![Vec::new(); servers.len()];
    for round in 0..ROUNDS {
        for ((candidate, server), speeds) in candidates.iter().zip(&servers).zip(&mut rounds) {
            // What has grown stale meanwhile is fetched.
            let mut client = server.connect();
            client.ask_again(1);
            speeds.push(candidate.by_hits(&mut client, origin, |_| speed(server)));
        }
        eprintln!("round {} of {ROUNDS} is done", round + 1);
    }
    let medians = |speeds: Vec<Speed>| Speed {
        rate: median(speeds.iter().map(|speed| speed.rate)),
        cpu: median(speeds.iter().map(|speed| speed.cpu)),
        busy: median(speeds.iter().map(|speed| speed.busy)),
    };
    rounds.into_iter().map(medians).collect()
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn speed(server: &Server) -> Speed {
    let (began, before) = (Instant::now(), server.cpu());
    let load = load(server.address);
    let (took, cpu) = (began.elapsed().as_secs_f64(), server.cpu() - before);
    Speed { rate: load.rate, cpu: cpu * 1e6 / load.requests as f64, busy: cpu / took }
}

struct Load {
    requests: u64,
    rate: f64,
}

/// As many requests as are answered in a while, by wrk or by what is below.
fn load(address: SocketAddr) -> Load {
    let pinned = pinned(CORES[1]);
    let mut command = Command::new(&pinned[0]);
    command.args(&pinned[1..]);
    let url = if is_installed("wrk") {
        let (target, fields) = asked();
        command.args(["wrk", "-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &SECONDS.to_string()]);
        command.args(fields.iter().flat_map(|(name, value)| ["-H".to_owned(), format!("{name}: {value}")]));
        format!("http://{address}{target}")
    } else {
        command.arg(env::current_exe().expect("the path of this program")).arg("load");
        address.to_string()
    };
    let output = command.arg(url).output().unwrap_or_else(|why| panic!("{command:?} does not run: {why}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let well = output.status.success() && !said.contains("Non-2xx") && !said.contains("Socket errors");
    let requests = said.split(" requests in ").next().and_then(|before| before.split_whitespace().last()?.parse().ok());
    let rate = said.split("Requests/sec:").nth(1).and_then(|after| after.split_whitespace().next()?.parse().ok());
    match (well, requests, rate) {
        (true, Some(requests), Some(rate)) => Load { requests, rate },
        _ => panic!("{command:?} did not end well:\n{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// The load where there is no wrk: it says the same in the same words.
pub fn own_load(address: SocketAddr) {
    let (requests, began) = (AtomicU64::new(0), Instant::now());
    let end = Duration::from_secs(SECONDS);
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut client = Client::connect(address).expect("a connection");
                while began.elapsed() < end {
                    assert!(client.ask().expect("an answer").is_right());
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (requests, took) = (requests.into_inner(), began.elapsed().as_secs_f64());
    println!("{requests} requests in {took:.2}s\nRequests/sec: {:.2}", requests as f64 / took);
}
