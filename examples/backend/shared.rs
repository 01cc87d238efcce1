//! The cache in Redis, for several processes over one database. Needs the feature `redis`.

use std::{fs::File, io::Read, io::Write, path::Path, time::Duration};

use tower_response_cache::{Coherence, Redis, RedisBuilder};

use super::{
    Fault,
    args::{self, Sharing},
    hash::random_hex,
};

/// How stale memory may be under `--coherence ttl`.
const TTL: Duration = Duration::from_secs(1);

/// How long a fence stands after its process has died: longer than a statement waits for the database.
const FENCE: Duration = Duration::from_secs(30);

/// How long a request waits for Redis. The demonstration keeps the whole machine busy, Redis' own processor included: by the default
/// of 50 ms, some reads would go past the cache and, if strict, some writes would be refused for want of a fence.
const BUDGET: Duration = Duration::from_millis(500);

/// The store that the flags describe, with so many bytes of memory in front.
///
/// Whoever starts this by hand wants to know that Redis is not there; a service would rather begin without it.
pub(crate) async fn open(sharing: &Sharing, memory: usize, home: &Path) -> Result<Redis, Fault> {
    let prefix = match &sharing.prefix {
        Some(prefix) => prefix.clone(),
        None => prefix_of(home)?,
    };
    let coherence = match sharing.coherence {
        Some(args::Coherence::Ttl) => Coherence::Ttl(TTL),
        Some(args::Coherence::Validated) => Coherence::Validated,
        Some(args::Coherence::Leased) | None => Coherence::Leased,
    };
    let builder = match &sharing.urls[..] {
        [url] => Redis::builder(url),
        urls => RedisBuilder::cluster(urls),
    };
    let builder = builder.prefix(&prefix).memory(memory).coherence(coherence).command_timeout(BUDGET).require_connection();
    let builder = if sharing.strict { builder.strict(FENCE) } else { builder };
    let store = builder.build().await.map_err(|error| format!("cannot use Redis: {error}"))?;
    println!("Cache in Redis under {prefix}, {coherence:?}{}", if sharing.strict { ", strict" } else { "" });
    Ok(store)
}

/// What the keys of all processes over one database begin with, and those of no other: what is cached of a database that is gone
/// must not be served for the next one in its place.
fn prefix_of(home: &Path) -> Result<String, Fault> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(home.join("prefix"))?;
    let mut prefix = String::new();
    file.read_to_string(&mut prefix)?;
    if prefix.is_empty() {
        prefix = format!("backend-{}", random_hex());
        file.write_all(prefix.as_bytes())?;
    }
    Ok(prefix)
}
