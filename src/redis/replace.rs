//! The replacement of an entry: compared and written in one step.

use std::sync::Arc;

use redis::Value;

use super::{
    command::{bulk, get},
    inner::{RedisInner, millis},
    scripts,
};
use crate::{
    codec::DecodeOptions,
    entry::{Content, Entry},
    store::error::StoreError,
};

/// The number of bytes at the end of a stored entry that identify it: the tag of its encryption, or its checksum and the bytes before it.
const TAIL: usize = 16;

impl RedisInner {
    /// Replaces an entry in two round trips: it is read, and replaced if its bytes have not changed since.
    pub(super) async fn replace(&self, old: &Entry, entry: Arc<Entry>) -> Result<bool, StoreError> {
        let left = entry.times().expires().saturating_sub(self.context().clock.nanos());
        if !entry.stamp().is_whole() || left == 0 || self.outbox.is_undelivered(entry.namespaces()) {
            return Ok(false);
        }
        // Memory is replaced in any case, because this process serves from it.
        let replaced = self.has_memory && self.memory.replace(old, entry.clone());
        let (names, key) = (entry.namespaces(), entry.key().as_ref());
        let place = self.keys.entry(names, key.hash());
        let Some(bytes) = bulk(self.send_one(get(&place)).await?.0)? else { return Ok(replaced) };
        let Some(tail) = bytes.last_chunk::<TAIL>().copied() else { return Ok(replaced) };
        let moment = Some(self.moment(key, names));
        // An entry with a longer body is another response.
        let max_body = match old.content() {
            Content::Response { body, .. } => body.len(),
            Content::Variants(_) => 0,
        };
        let wanted = DecodeOptions { moment, max_body, place: || place.clone() };
        let found = self.codec.decode_with(bytes, key, names, entry.stamp(), wanted);
        if !found.is_ok_and(|found| found.is_same_response(old)) {
            return Ok(replaced);
        }
        let Ok(bytes) = self.codec.encode_at(&place, &entry, moment) else { return Ok(replaced) };
        let answer = self.send_one(scripts::replace(&place, &tail, &bytes, millis(left))).await?.0;
        Ok(replaced || answer == Value::Int(1))
    }
}
