//! A caching reverse proxy: a server and a client of hyper, and the cache between them. `--help` says how it is used.

mod args;
mod fields;
mod front;
mod interim;
mod origin;
mod serve;
#[cfg(feature = "redis")]
mod shared;
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
    CacheLayer, InvalidateLayer, Memory, OnDeliveryTimeout, QueryLayer, Rule, Rules, Store,
    semantics::{Normalise, Weights},
};

/// What this proxy calls itself in `Via` and `Cache-Status`.
const NAME: &str = "tower-response-cache";

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(why) => return fail(2, why),
    };
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(1, why),
    }
}

fn fail(code: u8, why: impl Display) -> ExitCode {
    eprintln!("proxy: {why}");
    ExitCode::from(code)
}

async fn run(args: Args) -> Result<(), String> {
    for (flag, needed) in args.redis.unused() {
        eprintln!("proxy: `--{flag}` is unused without `--{needed}`");
    }
    let rules = match &args.rules {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
            Rules::from_toml(&text).map_err(|why| format!("{}: {why}", path.display()))?
        }
        None => rules_without_a_file(),
    };
    #[cfg(feature = "redis")]
    if !args.redis.urls.is_empty() {
        let store = shared::store(&args).await?;
        return serve_from(store, rules, args).await;
    }
    serve_from(Memory::new(args.memory), rules, args).await
}

async fn serve_from(store: impl Store, rules: Rules, args: Args) -> Result<(), String> {
    let hold = args.redis.hold.unwrap_or(Duration::from_secs(1));
    let writes = InvalidateLayer::new(store.clone())
        .rules(rules.clone())
        .delivery_timeout(hold, OnDeliveryTimeout::Respond)
        .cache_status(NAME);
    let service = ServiceBuilder::new()
        .layer(QueryLayer::new())
        .layer(writes)
        .layer(CacheLayer::new(store).rules(rules).cache_status(NAME))
        .service(Origin::new(args.origin));

    let listener = TcpListener::bind(args.listen).await.map_err(|why| format!("cannot listen on {}: {why}", args.listen))?;
    let stop = serve::stop_signal().map_err(|why| format!("cannot wait for signals: {why}"))?;
    let address = listener.local_addr().map_err(|why| why.to_string())?;
    // Whoever started this may have closed its end of the pipe: no reason to end.
    let _ = writeln!(io::stdout(), "listening on {address}");
    serve::serve(listener, service, stop).await;
    Ok(())
}

/// What is cached if no file says it: whatever HTTP lets a shared cache keep, for as long as it says. As a cache that acts
/// for its origin it obeys `CDN-Cache-Control` first (RFC 9213), and unsafe methods clear what they change (RFC 9111, section 4.4).
fn rules_without_a_file() -> Rules {
    let mut normalise = Normalise::rfc();
    (normalise.accept_encoding, normalise.accept_language) = (Weights::Ordered, Weights::Unordered);
    let rule =
        Rule::http().targeted(["cdn-cache-control"]).heuristics(true).normalise(normalise).cache_groups().skip_on_error();
    Rules::new().fallback(rule)
}
