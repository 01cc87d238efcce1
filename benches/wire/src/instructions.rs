//! Instructions in user space, counted by callgrind.
//!
//! A server answers n and then 2 n requests, each time in a new process. The difference is the cost of n requests without the start.

use std::{fs, path::Path};

use crate::candidates::{Candidate, Server, check};

/// Returns the instructions of one request on one persistent connection.
pub fn per_request(candidate: &Candidate, requests: u64, origin: &Server, directory: &Path) -> f64 {
    let count = |requests: u64| count(candidate, requests, origin, &directory.join(format!("{}-{requests}", candidate.name)));
    (count(2 * requests) - count(requests)) as f64 / requests as f64
}

fn count(candidate: &Candidate, requests: u64, origin: &Server, directory: &Path) -> i64 {
    fs::create_dir_all(directory).expect("a directory");
    let log = directory.join("counted");
    let mut server = candidate.start(&callgrind(&log), Some(origin.address), directory);
    // A second connection would change the heap by a varying amount.
    let mut client = server.connect();
    check(candidate, &mut client, origin);
    candidate.verifying_hits(&mut client, origin, |client| client.send_repeatedly(requests));
    server.end();
    let text = fs::read_to_string(&log).expect("the log of callgrind");
    // A server with several processes has several figures.
    text.split("Collected : ").skip(1).map(figure).sum()
}

fn figure(rest: &str) -> i64 {
    rest.split_whitespace().next().and_then(|figure| figure.replace(',', "").parse().ok()).expect("a number")
}

fn callgrind(log: &Path) -> Vec<String> {
    let log = format!("--log-file={}", log.display());
    ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", &log].map(String::from).into()
}
