//! REST, gRPC and GraphQL on one port, over one table and behind one cache. A write by any of them is visible to all of them in the next
//! read.
//!
//! ```sh
//! cargo run --release --example grpc              # serves on port 3000, and prints lines to try
//! cargo run --release --example grpc -- --demo    # runs the demonstration, and fails if a statement does not hold
//! ```
//!
//! [`caching`] has the rules. [`table`] has the data, [`rest`], [`rpc`] and [`graphql`] the three interfaces, [`demo`] the demonstration.
//! `tests.rs` includes this file as a module. Therefore the modules do not use `crate::` paths.

pub(crate) mod caching;
pub(crate) mod client;
pub(crate) mod demo;
pub(crate) mod graphql;
pub(crate) mod rest;
pub(crate) mod rpc;
pub(crate) mod table;

use std::{net::SocketAddr, process::ExitCode};

use axum::Router;
use tokio::net::TcpListener;
use tower_response_cache::{BoxError, ResponseCache};

use table::Table;

/// The lines of `--help`.
const HELP: &str = "\
REST, gRPC and GraphQL on one port, behind one cache.

  --demo          checks that a write by any interface is visible to all of them, and ends
  --port PORT     the port on 127.0.0.1, 3000 by default; 0 takes a free one
  --help          prints this";

struct Args {
    demo: bool,
    port: u16,
}

/// Returns the arguments of the command line, or `None` if they ask for help.
fn args() -> Result<Option<Args>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut args = Args { demo: false, port: 3000 };
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("demo") => args.demo = true,
            Long("port") => args.port = parser.value()?.parse()?,
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(args))
}

/// Returns the application: three interfaces and the cache around them.
pub(crate) fn app(table: &Table, cache: &ResponseCache) -> Router {
    rest::routes(table.clone())
        .merge(rpc::routes(table.clone()))
        .merge(graphql::routes(table.clone()))
        .layer(cache.layer_with_request_bodies())
}

/// Serves the application on a free port of the loopback interface, in a task.
pub(crate) async fn spawn(table: &Table) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (address, app) = (listener.local_addr()?, app(table, &caching::cache()));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn serve(port: u16) -> Result<(), BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("serving on {address}; Ctrl-C ends it. Try:\n");
    println!("  curl -i {address}/airlines/UA");
    println!(
        "  curl -i {address}/graphql -H 'content-type: application/json' -d '{{\"query\":\"{{airline(carrier:\\\"UA\\\"){{__typename id name}}}}\"}}'"
    );
    println!("  curl -X PUT {address}/airlines/UA -d 'United'");
    println!(
        "  grpcurl -plaintext -import-path examples/grpc/proto -proto airlines.proto -d '{{\"carrier\":\"UA\"}}' {address} airlines.v1.Airlines/Get"
    );
    let app = app(&Table::load()?, &caching::cache());
    let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
    Ok(axum::serve(listener, app).with_graceful_shutdown(ctrl_c).await?)
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match args() {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let done = match args.demo {
        true => demo::run().await,
        false => serve(args.port).await.map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
