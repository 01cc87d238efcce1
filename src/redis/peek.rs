//! A lookup for explanations and audits: it keeps no copy, and removes nothing.

use std::sync::Arc;

use super::{error::CommandError, inner::RedisInner, read::ReadRequest};
use crate::{
    codec::DecodeOptions,
    entry::{Entry, stamp::Stamp, validity::Validity},
    namespace::set::Namespaces,
    store::backend::{Backend, StoreLookup},
};

impl RedisInner {
    /// Returns the result of [`get`](Self::get) without a trace in memory and in Redis. Unless `is_lookup`, memory does not answer alone, and
    /// an entry with a pending invalidation is not found.
    pub(super) async fn peek(&self, request: &ReadRequest<'_, '_>, is_lookup: bool) -> Result<StoreLookup, CommandError> {
        let is_hidden = |names: &Namespaces| match is_lookup {
            true => self.outbox.is_undelivered(names),
            false => self.outbox.is_pending(names),
        };
        if is_hidden(request.names) {
            return Ok(self.empty());
        }
        let in_memory = Backend::peek(&self.memory, request.key, request.names, request.max_body);
        let copy = if self.has_memory { in_memory.await.ok().and_then(|lookup| lookup.found) } else { None };
        if is_lookup
            && self.may_answer_now()
            && let Some((entry, life)) = &copy
            && self.may_serve(entry, *life)
            && let Some((generations, epoch)) = self.known(request.names)
        {
            let stamp = Stamp::local(epoch).at(self.taken()).with_generations(generations);
            return Ok(StoreLookup { found: copy, stamp });
        }
        let taken = Stamp::local(self.memory.epoch()).at(self.taken());
        let wanted = Some((request.names, request.key.hash()));
        let (bytes, generations) = self.generations(wanted, request.names.names()).await?;
        let Some(generations) = generations else { return Ok(self.empty()) };
        let stamp = taken.with_generations(generations);
        let place = || self.keys.entry(request.names, request.key.hash());
        let options =
            DecodeOptions { moment: Some(self.moment(request.key, request.names)), max_body: request.max_body, place };
        let decode = |bytes| self.codec.decode_with(bytes, request.key, request.names, &stamp, options).ok();
        let mut found: Option<(Arc<Entry>, Validity)> = None;
        for entry in bytes.and_then(decode).into_iter().chain(copy.map(|(entry, _)| entry)) {
            if is_hidden(entry.namespaces()) {
                continue;
            }
            let Some(life) = self.validity_under(&entry, request.names, &stamp).await? else { continue };
            let rank = |entry: &Entry, life| (life == Validity::Valid, entry.times().fresh_until);
            if found.as_ref().is_none_or(|(best, of_best)| rank(&entry, life) > rank(best, *of_best)) {
                found = Some((entry, life));
            }
        }
        Ok(StoreLookup { found, stamp })
    }
}
