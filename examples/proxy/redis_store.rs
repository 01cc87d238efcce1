//! The store in Redis, which several proxies share.

use std::time::Duration;

use tower_response_cache::{
    Redis,
    redis::{Coherence, RedisBuilder},
};

use crate::args::{self, Args};

/// The maximum staleness with `--coherence ttl`.
const MAX_STALENESS: Duration = Duration::from_secs(1);

/// The default lifetime of a fence after a crash of its proxy.
const FENCE_DEADLINE: Duration = Duration::from_secs(30);

/// Opens the store that the flags describe.
pub(crate) async fn open(args: &Args) -> Result<Redis, String> {
    let flags = &args.redis;
    let mut builder = match flags.urls.as_slice() {
        [url] => Redis::builder(url),
        urls => RedisBuilder::cluster(urls.iter().map(String::as_str)),
    };
    builder = builder.memory(args.memory).coherence(match flags.coherence {
        Some(args::Coherence::Ttl) => Coherence::Ttl(MAX_STALENESS),
        Some(args::Coherence::Validated) => Coherence::Validated,
        Some(args::Coherence::Leased) | None => Coherence::Leased,
    });
    if let Some(prefix) = &flags.prefix {
        builder = builder.prefix(prefix);
    }
    if let Some(interval) = flags.heartbeat {
        builder = builder.heartbeat(interval);
    }
    if flags.strict {
        builder = builder.strict(flags.fence.unwrap_or(FENCE_DEADLINE));
    }
    builder.build().await.map_err(|error| format!("redis: {error}"))
}
