//! Requests per second and CPU time per request, with the server on one core and the load on another. Each round measures all candidates in
//! turn.

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
    wire::{Client, request_parts},
};

const ROUNDS: usize = 9;
const SECONDS: u64 = 2;
const CONNECTIONS: u64 = 16;

/// The cores of the servers and of the load.
pub const CORES: [u32; 2] = [0, 1];

/// The speed of one server.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Requests per second.
    pub rate: f64,
    /// CPU time per request, in microseconds.
    pub cpu: f64,
    /// The used share of the core.
    pub busy: f64,
}

/// Returns a command prefix that starts a program on this core.
pub fn pinned(core: u32) -> Vec<String> {
    ["taskset", "-c", &core.to_string()].map(String::from).into()
}

/// Returns the medians of all rounds.
pub fn measure(candidates: &[&Candidate], origin: &Server, directory: &Path) -> Vec<Speed> {
    let servers: Vec<_> = candidates
        .iter()
        .map(|candidate| {
            let server = candidate.start(&pinned(CORES[0]), Some(origin.address), &directory.join(candidate.name));
            check(candidate, &mut server.connect(), origin);
            server
        })
        .collect();
    let mut rounds: Vec<Vec<Speed>> = vec![Vec::new(); servers.len()];
    for round in 0..ROUNDS {
        for ((candidate, server), speeds) in candidates.iter().zip(&servers).zip(&mut rounds) {
            // Fetches a response that has expired since the last round.
            let mut client = server.connect();
            client.send_repeatedly(1);
            speeds.push(candidate.verifying_hits(&mut client, origin, |_| speed(server)));
        }
        eprintln!("finished round {} of {ROUNDS}", round + 1);
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

/// Sends requests for a while, by wrk or by this program.
fn load(address: SocketAddr) -> Load {
    let pinned = pinned(CORES[1]);
    let mut command = Command::new(&pinned[0]);
    command.args(&pinned[1..]);
    let url = if is_installed("wrk") {
        let (target, fields) = request_parts();
        command.args(["wrk", "-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &SECONDS.to_string()]);
        command.args(fields.iter().flat_map(|(name, value)| ["-H".to_owned(), format!("{name}: {value}")]));
        format!("http://{address}{target}")
    } else {
        command.arg(env::current_exe().expect("the path of this program")).arg("load");
        address.to_string()
    };
    let output = command.arg(url).output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let succeeded = output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors");
    let requests = text.split(" requests in ").next().and_then(|before| before.split_whitespace().last()?.parse().ok());
    let rate = text.split("Requests/sec:").nth(1).and_then(|after| after.split_whitespace().next()?.parse().ok());
    match (succeeded, requests, rate) {
        (true, Some(requests), Some(rate)) => Load { requests, rate },
        _ => panic!("{command:?} failed:\n{text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Generates the load without wrk, and prints the result in wrk's format.
pub fn own_load(address: SocketAddr) {
    let (requests, began) = (AtomicU64::new(0), Instant::now());
    let end = Duration::from_secs(SECONDS);
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut client = Client::connect(address).expect("a connection");
                while began.elapsed() < end {
                    assert!(client.send().expect("a response").is_right());
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (requests, took) = (requests.into_inner(), began.elapsed().as_secs_f64());
    println!("{requests} requests in {took:.2}s\nRequests/sec: {:.2}", requests as f64 / took);
}
