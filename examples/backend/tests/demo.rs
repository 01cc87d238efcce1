//! The demonstration ends by itself, and all its statements hold.
#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "../main.rs"]
mod backend;

use backend::args::Args;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_of_the_demonstration_holds() {
    let flags = ["--demo", "--seconds", "1", "--listen", "127.0.0.1:0", "--admin-token", "hunter2"];
    let args = Args::parse(flags.map(Into::into)).expect("valid flags");
    backend::run(args).await.expect("statements that hold");
    assert!(Args::parse(["--demo", "--serve"].map(Into::into)).is_err());
}
