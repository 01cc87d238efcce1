//! The keys of Redis by namespace, estimated from a random sample.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use redis::Value;

use super::{
    command::check_error,
    error::CommandError,
    keys::Kind,
    node::{Node, Route},
    store::Redis,
};
use crate::store::error::StoreError;

/// The number of keys in one pipeline.
const STEP: u32 = 100;

/// The longest time for a step.
const LIMIT: Duration = Duration::from_secs(1);

/// The keys of the masters by kind and namespace, estimated from a random sample: the result of [`Redis::sample_keys`].
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct KeySample {
    /// All keys of the masters, including those of other applications. This is exact.
    pub keys: u64,
    /// The number of keys in the sample. A key may be drawn several times.
    pub sampled: u64,
    /// The estimated entries by the first of their namespaces, the largest number first. Entries without a namespace are those of `None`. Namespaces
    /// that are not in the sample are left out.
    pub entries: Vec<(Option<String>, f64)>,
    /// The estimated generations of namespaces.
    pub generations: f64,
    /// The estimated other keys of this cache, such as fences, locks and the counter of creations.
    pub others: f64,
    /// The estimated keys of other applications, and of other formats or prefixes of this cache.
    pub foreign: f64,
}

impl KeySample {
    /// Adds one key that stands for `weight` keys.
    fn add(&mut self, entries: &mut BTreeMap<Option<String>, f64>, kind: Kind<'_>, weight: f64) {
        self.sampled += 1;
        match kind {
            Kind::Entry(name) => *entries.entry(name.map(str::to_owned)).or_default() += weight,
            Kind::Generation => self.generations += weight,
            Kind::Other => self.others += weight,
            Kind::Foreign => self.foreign += weight,
        }
    }
}

impl Redis {
    /// Estimates the number of entries in Redis by namespace, from `keys` random keys of each master, at most 10,000. It takes one `DBSIZE` and `keys`
    /// commands `RANDOMKEY`, a hundred in a pipeline: about 1 µs of CPU time of Redis for each command. It reads no values.
    ///
    /// An estimated share *p* has a standard error of √(*p*(1 − *p*)/`keys`): for 1,000 keys, at most 1.6 percentage points, on one master.
    ///
    /// # Errors
    ///
    /// Returns an error if one of the masters cannot be reached, or if the user may not run these commands.
    pub async fn sample_keys(&self, keys: u32) -> Result<KeySample, StoreError> {
        let inner = self.inner();
        let (mut sample, mut entries) = (KeySample::default(), BTreeMap::new());
        for node in inner.topology.all() {
            let (size, _) = node.send(&redis::cmd("DBSIZE"), Route::Pool, LIMIT).await?;
            let size = match size {
                Value::Int(size) => size.max(0) as u64,
                _ => 0,
            };
            sample.keys += size;
            let drawn = if size == 0 { Vec::new() } else { random_keys(&node, keys.min(10_000)).await? };
            let weight = size as f64 / drawn.len().max(1) as f64;
            for key in &drawn {
                sample.add(&mut entries, inner.keys.kind(key), weight);
            }
        }
        sample.entries = entries.into_iter().collect();
        sample.entries.sort_by_key(|(_, count)| Reverse(count.round() as u64));
        Ok(sample)
    }
}

/// Returns random keys of a master. There are fewer if it has lost its keys meanwhile.
async fn random_keys(node: &Node, count: u32) -> Result<Vec<Vec<u8>>, CommandError> {
    let (mut drawn, mut left) = (Vec::new(), count);
    while left > 0 {
        let step = left.min(STEP);
        let mut commands = redis::pipe();
        (0..step).for_each(|_| _ = commands.cmd("RANDOMKEY"));
        let (answers, _) = node.send_all(&commands, Route::Pool, LIMIT).await?;
        for answer in answers {
            if let Value::BulkString(key) = check_error(answer)? {
                drawn.push(key);
            }
        }
        left -= step;
    }
    Ok(drawn)
}
