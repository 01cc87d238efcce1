//! Facts about a server, read before it is trusted.

use std::collections::HashMap;

use redis::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::{error::RedisConnectError, time::Reading};
use crate::clock::Nanos;

/// Facts about a server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// Made of the identifiers of its run and of its replication: it changes with a restart and with a promotion.
    pub(super) id: u128,
    pub(super) role: String,
    /// The eviction policy for a full memory.
    pub(super) eviction: String,
    pub(super) memory: u64,
    pub(super) max_memory: u64,
    pub(super) cluster: bool,
    /// The number of connections that receive pushes.
    pub(super) tracking: u32,
    /// A reading of its clock.
    pub(super) time: Option<Reading>,
}

/// The oldest supported version. It has `SET … NX GET`.
const OLDEST_MAJOR: u64 = 7;

impl Server {
    pub(super) fn read(answer: &Value) -> Result<Self, RedisConnectError> {
        let text = match answer {
            Value::VerbatimString { text, .. } => text.as_str(),
            Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            _ => "",
        };
        let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        let version = field("redis_version");
        let major = version.split('.').next().and_then(|major| major.parse::<u64>().ok());
        if major.is_none_or(|major| major < OLDEST_MAJOR) {
            let version = if version.is_empty() { "of an unknown version" } else { version };
            let why = format!("the server is Redis {version}; 7.0 or newer, or Valkey, is needed");
            return Err(RedisConnectError::settled(why));
        }
        let server = field("server_time_usec").parse().ok().and_then(|micros: Nanos| micros.checked_mul(1_000));
        let id = format!("{} {}", field("run_id"), field("master_replid"));
        Ok(Self {
            id: xxh3_128(id.as_bytes()),
            role: field("role").into(),
            eviction: field("maxmemory_policy").into(),
            memory: field("used_memory").parse().unwrap_or_default(),
            max_memory: field("maxmemory").parse().unwrap_or_default(),
            cluster: field("cluster_enabled") == "1",
            tracking: field("tracking_clients").parse().unwrap_or_default(),
            time: server.map(|server| Reading { server, sent: 0, received: 0 }),
        })
    }

    pub(super) fn read_between(mut self, sent: Nanos, received: Nanos) -> Self {
        self.time = self.time.map(|reading| Reading { sent, received, ..reading });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn read(info: &str) -> Result<Server, String> {
        Server::read(&Value::BulkString(info.replace(' ', "\r\n").into_bytes())).map_err(|error| error.to_string())
    }
    #[test]
    fn too_old_server_is_refused_with_its_version() {
        for (info, why) in [
            ("redis_version:6.2.14 role:master", "the server is Redis 6.2.14; 7.0 or newer, or Valkey, is needed"),
            ("", "of an unknown version"),
        ] {
            let error = read(info).expect_err(info);
            assert!(error.contains(why), "{info}: {error}");
        }
        let valkey = "redis_version:7.2.4 server_name:valkey valkey_version:8.1.0 role:master run_id:a master_replid:b";
        assert!(read(valkey).is_ok());
    }
    #[test]
    fn restart_and_promotion_change_the_server_identity() {
        let id = |run: &str, replication: &str| {
            read(&format!("redis_version:7.0.15 role:master run_id:{run} master_replid:{replication}")).expect("a server").id
        };
        assert_eq!(id("a", "b"), id("a", "b"));
        assert_ne!(id("a", "b"), id("c", "b"));
        assert_ne!(id("a", "b"), id("a", "c"));
    }
}
