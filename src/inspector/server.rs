//! The servers of a shared store: their usage, and their keys by namespace.

#[cfg(feature = "redis")]
use std::time::{Duration, Instant};

use maud::{Markup, html};
use serde_json::Value;
#[cfg(feature = "redis")]
use serde_json::json;

use super::{shared::Shared, table::table};
#[cfg(feature = "redis")]
use crate::Redis;
use crate::handle::any_store::AnyStore;

/// The number of random keys of each master in a sample.
#[cfg(feature = "redis")]
const SAMPLED: u32 = 1_000;

/// The longest time for a sample.
#[cfg(feature = "redis")]
const LIMIT: Duration = Duration::from_secs(2);

/// The age from which a sample is taken again, also after an error.
#[cfg(feature = "redis")]
const KEPT: Duration = Duration::from_secs(10);

/// The number of namespaces that are listed.
#[cfg(feature = "redis")]
const LISTED: usize = 50;

impl Shared {
    /// Returns the usage of a shared store, or the error if it cannot be reached. Returns null for memory alone.
    pub(super) async fn server(&self) -> Value {
        match &self.cache.state().store {
            AnyStore::Memory(_) => Value::Null,
            #[cfg(feature = "redis")]
            AnyStore::Redis(redis) => match redis.server().await {
                Ok(usage) => json!({
                    "masters": usage.masters,
                    "bytes": usage.bytes,
                    "capacity": usage.capacity,
                    "keys": usage.keys,
                    "sample": self.key_sample(redis).await,
                }),
                Err(error) => json!({ "error": error.to_string() }),
            },
        }
    }

    /// Returns the keys by namespace, or the error if they may not be read. The figures are at most ten seconds old.
    #[cfg(feature = "redis")]
    async fn key_sample(&self, redis: &Redis) -> Value {
        let mut last = self.key_sample.lock().await;
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() > KEPT) {
            let sample = match tokio::time::timeout(LIMIT, redis.sample_keys(SAMPLED)).await {
                Ok(sample) => sample.map_err(|error| error.to_string()),
                Err(_) => Err("redis has not answered in time".to_owned()),
            };
            *last = Some((Instant::now(), sample));
        }
        let sample = match &*last {
            Some((_, Ok(sample))) => sample,
            Some((_, Err(error))) => return json!({ "error": error }),
            None => return Value::Null,
        };
        let listed = sample.entries.iter().take(LISTED);
        let entries = listed.map(|(name, count)| {
            json!({ "namespace": name.as_deref().map(|name| self.shown.name(name)), "entries": count.round() as u64 })
        });
        json!({
            "sampled": sample.sampled,
            "entries": entries.collect::<Vec<_>>(),
            "generations": sample.generations.round() as u64,
            "others": sample.others.round() as u64,
            "foreign": sample.foreign.round() as u64,
        })
    }
}

/// Returns the table of the keys in a shared store, from what [`Shared::server`] returns.
pub(super) fn keys_table(server: &Value) -> Markup {
    let sample = &server["sample"];
    if let Some(error) = sample["error"].as_str() {
        return html! { p.quiet { "The keys in Redis cannot be sampled: " (error) "." } };
    }
    let Some(entries) = sample["entries"].as_array() else { return html! {} };
    let row = |name: &str, count: &Value| html! { tr { th scope="row" { (name) } td.number { (count) } } };
    let rows = html! {
        @for entry in entries {
            (row(entry["namespace"].as_str().unwrap_or("(entries without a namespace)"), &entry["entries"]))
        }
        (row("(generations of namespaces)", &sample["generations"]))
        (row("(fences, locks and others)", &sample["others"]))
        (row("(other applications)", &sample["foreign"]))
    };
    let caption =
        format!("Estimated from {} random keys. An entry counts under the first of its namespaces.", sample["sampled"]);
    table("redis-keys", "Keys in Redis", &caption, &[("Namespace", false), ("Keys", true)], &rows)
}
