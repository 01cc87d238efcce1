//! The demonstration ends by itself, and all its statements hold.
#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "../main.rs"]
mod backend;

use std::process::Command;

use backend::args::Args;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_of_the_demonstration_holds() {
    let flags = ["--demo", "--seconds", "1", "--listen", "127.0.0.1:0", "--admin-token", "hunter2"];
    let args = Args::parse(flags.map(Into::into)).expect("valid flags");
    backend::run(args).await.expect("statements that hold");
    for flag in ["--demo", "--bypass-writes"] {
        let error = Args::parse([flag, "--serve"].map(Into::into)).expect_err("a contradiction");
        assert!(error.contains(&format!("leave out `--serve` or `{flag}`")), "{error}");
    }
}

#[test]
fn audit_of_the_demonstration_finds_writes_past_the_cache() {
    // A process has one recorder of metrics, and so one demonstration.
    let mut other = Command::new(std::env::current_exe().expect("this program"));
    let ended = other.args(["--ignored", "--exact", "demonstration_with_writes_past_the_cache"]).status();
    assert!(ended.expect("it runs").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "another test runs it in a process of its own"]
async fn demonstration_with_writes_past_the_cache() {
    let flags = ["--demo", "--seconds", "1", "--listen", "127.0.0.1:0", "--bypass-writes"];
    backend::run(Args::parse(flags.map(Into::into)).expect("valid flags")).await.expect("statements that hold");
}
