//! A cache that several proxies share, in Redis.

use std::time::Duration;

use tower_response_cache::{Coherence, Redis, RedisBuilder};

use crate::args::{self, Args};

/// With `--coherence ttl`: how stale memory may be.
const TTL: Duration = Duration::from_secs(1);

/// How long a fence stands by default after its proxy has died.
const FENCE: Duration = Duration::from_secs(30);

/// The store that the flags ask for.
pub(crate) async fn store(args: &Args) -> Result<Redis, String> {
    let sharing = &args.redis;
    let mut builder = match sharing.urls.as_slice() {
        [url] => Redis::builder(url),
        urls => RedisBuilder::cluster(urls.iter().map(String::as_str)),
    };
    builder = builder.memory(args.memory).coherence(match sharing.coherence {
        Some(args::Coherence::Ttl) => Coherence::Ttl(TTL),
        Some(args::Coherence::Validated) => Coherence::Validated,
        Some(args::Coherence::Leased) | None => Coherence::Leased,
    });
    if let Some(prefix) = &sharing.prefix {
        builder = builder.prefix(prefix);
    }
    if let Some(every) = sharing.heartbeat {
        builder = builder.heartbeat(every);
    }
    if sharing.strict {
        builder = builder.strict(sharing.fence.unwrap_or(FENCE));
    }
    builder.build().await.map_err(|why| format!("redis: {why}"))
}
