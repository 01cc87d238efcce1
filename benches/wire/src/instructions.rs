//! Instructions in user space, counted by callgrind: n requests and then 2 n, each time in a new process; what lies between is
//! n requests, and the beginning of the process is not in it.

use std::{fs, path::Path};

use crate::candidates::{Candidate, Server, check};

/// What one request costs, on one kept connection.
pub fn per_request(candidate: &Candidate, requests: u64, origin: &Server, folder: &Path) -> f64 {
    let count = |requests: u64| count(candidate, requests, origin, &folder.join(format!("{}-{requests}", candidate.name)));
    (count(2 * requests) - count(requests)) as f64 / requests as f64
}

fn count(candidate: &Candidate, requests: u64, origin: &Server, folder: &Path) -> i64 {
    fs::create_dir_all(folder).expect("a folder");
    let log = folder.join("counted");
    let mut server = candidate.start(&callgrind(&log), Some(origin.address), folder);
    // One connection for everything: another would leave its mark in the heap, now here and now there.
    let mut client = server.connect();
    check(candidate, &mut client, origin);
    candidate.by_hits(&mut client, origin, |client| client.ask_again(requests));
    server.end();
    let text = fs::read_to_string(&log).expect("what was counted");
    // One for each process, where one starts others.
    text.split("Collected : ").skip(1).map(figure).sum()
}

fn figure(rest: &str) -> i64 {
    rest.split_whitespace().next().and_then(|figure| figure.replace(',', "").parse().ok()).expect("a number")
}

fn callgrind(log: &Path) -> Vec<String> {
    let log = format!("--log-file={}", log.display());
    ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", &log].map(String::from).into()
}
