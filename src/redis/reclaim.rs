//! Removal of invalidated entries from Redis, and the usage of its servers.

use std::{collections::HashMap, time::Duration};

use redis::Value;

use super::{
    command::{Command, get, unlink},
    error::CommandError,
    generation::parse_generation,
    inner::RedisInner,
    node::{Node, Route},
    store::Redis,
};
use crate::{codec::frame::Damaged, entry::stamp::Generation, store::error::StoreError};

/// The number of keys in one step.
const STEP: usize = 100;

/// The longest time for a step.
const LIMIT: Duration = Duration::from_secs(5);

/// The result of [`Redis::reclaim`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// The number of entries that were checked.
    pub seen: u64,
    /// The number of invalidated entries that were removed.
    pub removed: u64,
}

/// The usage of the servers of a store, by all applications that share them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerUsage {
    /// The number of masters.
    pub masters: u64,
    /// The number of bytes in use.
    pub bytes: u64,
    /// The memory limit in bytes, added up over the masters. 0 if one of them has no limit.
    pub capacity: u64,
    /// The number of keys, including those of other applications.
    pub keys: u64,
    /// The bytes of pushes that the servers hold for this process: the output buffers of its connections for pushes. 0 without them.
    pub output_buffer: u64,
}

impl Redis {
    /// Removes the invalidated entries of this application from Redis. They would end by their lifetimes in any case: this frees their
    /// memory at once.
    ///
    /// The walk takes steps of about a hundred keys, and at most `per_second` keys per second, at least 100. It delays no requests. Run it
    /// in one process from time to time.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis cannot be reached. Entries that were removed before stay removed.
    pub async fn reclaim(&self, per_second: u32) -> Result<Reclaimed, StoreError> {
        let inner = self.inner();
        let pause = Duration::from_secs_f64(STEP as f64 / f64::from(per_second.max(STEP as u32)));
        let mut done = Reclaimed::default();
        for node in inner.topology.all() {
            let mut cursor = b"0".to_vec();
            loop {
                let (next, keys) = scan(inner, &node, &cursor).await?;
                // A few at a time, since they contain bodies.
                for keys in keys.chunks(8) {
                    inner.reclaim(&node, keys, &mut done).await?;
                }
                if next == b"0" {
                    break;
                }
                cursor = next;
                tokio::time::sleep(pause).await;
            }
        }
        Ok(done)
    }

    /// Returns the current usage of the servers.
    ///
    /// # Errors
    ///
    /// Returns an error if one of the masters cannot be reached.
    pub async fn server(&self) -> Result<ServerUsage, StoreError> {
        let inner = self.inner();
        let mut usage = ServerUsage::default();
        let mut limited = true;
        for node in inner.topology.all() {
            let server = node.server(inner.command_timeout.max(LIMIT / 5)).await?;
            let (keys, _) = node.send(&redis::cmd("DBSIZE"), Route::Pool, inner.command_timeout).await?;
            if node.control().is_some() {
                let (client, _) = node.send(redis::cmd("CLIENT").arg("INFO"), Route::Control, inner.command_timeout).await?;
                usage.output_buffer += output_buffer(&client);
            }
            usage.masters += 1;
            usage.bytes += server.memory;
            usage.capacity += server.max_memory;
            limited &= server.max_memory > 0;
            usage.keys += match keys {
                Value::Int(keys) => keys.max(0) as u64,
                _ => 0,
            };
        }
        usage.capacity = if limited { usage.capacity } else { 0 };
        Ok(usage)
    }
}

/// Returns the output buffer that `CLIENT INFO` reports, in bytes.
fn output_buffer(client: &Value) -> u64 {
    let text = match client {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    };
    let field = text.split_whitespace().find_map(|field| field.strip_prefix("omem="));
    field.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Takes one step of a walk over the keys of entries.
async fn scan(inner: &RedisInner, node: &Node, cursor: &[u8]) -> Result<(Vec<u8>, Vec<String>), CommandError> {
    let mut command = redis::cmd("SCAN");
    // The prefix contains no special character of a pattern.
    command.arg(cursor).arg("MATCH").arg(format!("{}e:*", inner.keys.base())).arg("COUNT").arg(STEP);
    let invalid = || CommandError::Protocol("a step of a scan");
    let (Value::Array(step), _) = node.send(&command, Route::Pool, LIMIT).await? else { return Err(invalid()) };
    let [Value::BulkString(next), Value::Array(keys)] = step.as_slice() else { return Err(invalid()) };
    let text = |key: &Value| match key {
        Value::BulkString(key) => String::from_utf8(key.clone()).ok(),
        _ => None,
    };
    Ok((next.clone(), keys.iter().filter_map(text).collect()))
}

impl RedisInner {
    /// Removes the invalidated ones of some entries.
    async fn reclaim(&self, node: &Node, keys: &[String], done: &mut Reclaimed) -> Result<(), CommandError> {
        let mut gets = redis::pipe();
        keys.iter().for_each(|key| _ = gets.cmd("GET").arg(key));
        let (values, _) = node.send_all(&gets, Route::Pool, LIMIT).await?;
        let mut known: HashMap<String, Option<Generation>> = HashMap::new();
        let mut entries = Vec::new();
        for (key, value) in keys.iter().zip(values) {
            let Value::BulkString(bytes) = value else { continue };
            done.seen += 1;
            let carried: Vec<(String, Generation)> = match self.codec.generations(bytes.into(), key) {
                Ok((names, of)) => {
                    names.names().map(|name| self.keys.generation(name)).zip(of.iter().copied().flatten()).collect()
                }
                // Another process may have the encryption key.
                Err(Damaged::Sealed) => continue,
                Err(_) => Vec::new(),
            };
            carried.iter().for_each(|(name, _)| _ = known.entry(name.clone()).or_default());
            entries.push((key, carried));
        }
        let names: Vec<String> = known.keys().cloned().collect();
        let commands = names.iter().map(|name| get(name)).collect();
        for (name, answer) in names.into_iter().zip(self.topology.send(commands, Route::Pool, LIMIT).await) {
            let (value, server) = answer?;
            known.insert(name, parse_generation(&value, server));
        }
        let dead = entries.iter().filter(|(_, carried)| {
            let lives = |(name, then): &(String, Generation)| {
                known.get(name).copied().flatten().is_some_and(|now| now.hard == then.hard)
            };
            carried.is_empty() || !carried.iter().all(lives)
        });
        let unlinks: Vec<Command> = dead.map(|(key, _)| unlink(key)).collect();
        done.removed += unlinks.len() as u64;
        for answer in self.topology.send(unlinks, Route::Pool, LIMIT).await {
            answer?;
        }
        Ok(())
    }
}
