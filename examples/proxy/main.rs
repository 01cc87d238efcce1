//! A caching reverse proxy: a server and a client of hyper with the cache between them.
//!
//! ```sh
//! cargo run --release --example proxy --features config -- --listen 127.0.0.1:8080 --origin http://127.0.0.1:3000
//! ```
//!
//! `--help` prints the flags. `README.md` describes the behaviour.

mod args;
mod headers;
mod interim;
mod origin;
#[cfg(feature = "redis")]
mod redis_store;
mod request;
mod serve;
mod upgrade;

use std::{
    fmt::Display,
    fs,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use args::Args;
use origin::Origin;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_response_cache::{
    Memory, ResponseCache, Rule, Rules,
    invalidate::OnDeliveryTimeout,
    semantics::{Normalise, Weights},
};

/// The name of the proxy in `Via` and `Cache-Status`.
const NAME: &str = "tower-response-cache";

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(2, error),
    };
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, error),
    }
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    eprintln!("proxy: {error}");
    ExitCode::from(code)
}

async fn run(args: Args) -> Result<(), String> {
    for (flag, needed) in args.redis.unused() {
        eprintln!("proxy: `--{flag}` is unused without `--{needed}`");
    }
    let rules = match &args.rules {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Rules::from_toml(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => default_rules(),
    };
    let hold = args.redis.hold.unwrap_or(Duration::from_secs(1));
    let cache = open_cache(&args)
        .await?
        .rules(rules)
        .cache_status(NAME)
        .map_invalidate_layer(|layer| layer.delivery_timeout(hold, OnDeliveryTimeout::Respond));
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(Origin::new(args.origin));

    let listener =
        TcpListener::bind(args.listen).await.map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    let stop = serve::stop_signal().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    // The reader of the pipe may have closed it.
    let _ = writeln!(io::stdout(), "listening on {address}");
    serve::serve(listener, service, stop).await;
    Ok(())
}

/// Makes the cache in memory, or also in Redis.
async fn open_cache(args: &Args) -> Result<ResponseCache, String> {
    #[cfg(feature = "redis")]
    if !args.redis.urls.is_empty() {
        return Ok(ResponseCache::new(redis_store::open(args).await?));
    }
    Ok(ResponseCache::new(Memory::new(args.memory)))
}

/// The rules without a file: HTTP caching for every route. `CDN-Cache-Control` has priority because the proxy acts for its origin
/// (RFC 9213). Unsafe methods invalidate their targets (RFC 9111, section 4.4).
fn default_rules() -> Rules {
    let mut normalise = Normalise::rfc();
    (normalise.accept_encoding, normalise.accept_language) = (Weights::Ordered, Weights::Unordered);
    let rule =
        Rule::http().targeted(["cdn-cache-control"]).heuristics(true).normalise(normalise).cache_groups().skip_on_error();
    Rules::new().fallback(rule)
}
