//! The store in Redis, for several processes over one database. Needs the feature `redis`.

use std::{fs::File, io::Read, io::Write, path::Path, time::Duration};

use tower_response_cache::{
    Redis,
    redis::{Coherence, RedisBuilder},
};

use super::{
    BoxError,
    args::{self, RedisArgs},
    hash::random_hex,
};

/// The maximum staleness with `--coherence ttl`.
const MAX_STALENESS: Duration = Duration::from_secs(1);

/// The lifetime of a fence after a crash of its process: longer than a statement waits for the database.
const FENCE_DEADLINE: Duration = Duration::from_secs(30);

/// The time that a command may take. The load keeps all processors busy. With the default of 50 ms, some reads would bypass the cache,
/// and some strict writes would be rejected because their fence cannot be set.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);

/// Opens the store that the flags describe, with `memory` bytes in front of it.
///
/// It returns an error when Redis is down. A real service would start anyway.
pub(crate) async fn open(args: &RedisArgs, memory: usize, home: &Path) -> Result<Redis, BoxError> {
    let prefix = match &args.prefix {
        Some(prefix) => prefix.clone(),
        None => prefix_for(home)?,
    };
    let coherence = match args.coherence {
        Some(args::Coherence::Ttl) => Coherence::Ttl(MAX_STALENESS),
        Some(args::Coherence::Validated) => Coherence::Validated,
        Some(args::Coherence::Leased) | None => Coherence::Leased,
    };
    let builder = match &args.urls[..] {
        [url] => Redis::builder(url),
        urls => RedisBuilder::cluster(urls),
    };
    let builder =
        builder.prefix(&prefix).memory(memory).coherence(coherence).command_timeout(COMMAND_TIMEOUT).require_connection();
    let builder = if args.strict { builder.strict(FENCE_DEADLINE) } else { builder };
    let store = builder.build().await.map_err(|error| format!("cannot connect to Redis: {error}"))?;
    println!("Cache in Redis under {prefix}, {coherence:?}{}", if args.strict { ", strict" } else { "" });
    Ok(store)
}

/// Returns the key prefix of this database. A new database gets a new prefix, so that entries of a deleted one are not served.
fn prefix_for(home: &Path) -> Result<String, BoxError> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(home.join("prefix"))?;
    let mut prefix = String::new();
    file.read_to_string(&mut prefix)?;
    if prefix.is_empty() {
        prefix = format!("backend-{}", random_hex());
        file.write_all(prefix.as_bytes())?;
    }
    Ok(prefix)
}
