//! Entries and generations as they are read from Redis, and their validity.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use super::{
    command::{Command, CommandResult, bulk, exists, get, unlink},
    error::CommandError,
    generation::{compare, parse_bytes, parse_generation},
    inner::RedisInner,
    keys::id,
    node::Route,
    read::{ReadRequest, TYPICAL_NAMES},
    resp::{BulkStrings, FastReply},
};
use crate::{
    codec::{DecodeOptions, frame::Damaged},
    entry::{
        Entry,
        stamp::{Generation, Stamp},
        validity::Validity,
    },
    key::KeyRef,
    namespace::set::{Name, Namespaces},
    stats::counters::Count,
};

impl RedisInner {
    /// Decodes the bytes of an entry and returns it with its validity under the current generations.
    pub(super) async fn decode_valid(
        &self,
        bytes: Option<Bytes>,
        request: &ReadRequest<'_, '_>,
        stamp: &Stamp,
    ) -> Result<Option<(Arc<Entry>, Validity)>, CommandError> {
        let Some(bytes) = bytes else { return Ok(None) };
        let place = || self.keys.entry(request.names, request.key.hash());
        let wanted = DecodeOptions { moment: Some(self.moment(request.key, request.names)), max_body: request.max_body, place };
        match self.codec.decode_with(bytes, request.key, request.names, stamp, wanted) {
            Ok(entry) => Ok(self.validity_under(&entry, request.names, stamp).await?.map(|life| (entry, life))),
            Err(damage) => {
                Box::pin(self.remove_damaged(damage, &request.key, request.names)).await;
                Ok(None)
            }
        }
    }

    /// Counts an entry that cannot be decoded, and removes it.
    async fn remove_damaged(&self, damage: Damaged, key: &KeyRef<'_>, names: &Namespaces) {
        let place = self.keys.entry(names, key.hash());
        self.context().counters.add(Count::Damaged, 1);
        tracing::debug!(reason = damage.as_str(), place, "entry in redis not usable");
        // Entries that another process has encrypted with an unknown key, or stored under another rule, are not for this process to remove.
        if !matches!(damage, Damaged::Sealed | Damaged::TooLong) {
            let _ = self.send_one(unlink(&place)).await;
        }
    }

    /// Returns the validity of an entry under the current generations, or `None` if it is invalidated.
    ///
    /// The entry must carry each name of the request, and each of its names must have the generation that it carries.
    pub(super) async fn validity_under(
        &self,
        entry: &Entry,
        names: &Namespaces,
        now: &Stamp,
    ) -> Result<Option<Validity>, CommandError> {
        let (Some(of_entry), Some(of_now)) = (entry.stamp().generations(), now.generations()) else { return Ok(None) };
        let count = names.count();
        let own = entry.namespaces();
        let same = own.count() >= count && own.hashes().take(count).eq(names.hashes()) && of_entry.len() == own.count();
        if !same || of_now.len() < count {
            return Ok(None);
        }
        let Some(mut life) = compare(&of_entry[..count], &of_now[..count]) else { return Ok(None) };
        if own.count() > count {
            // An invalidation by this process that is not delivered yet does not show in Redis.
            if self.outbox.is_undelivered(own) {
                return Ok(None);
            }
            // Names that only the response has named.
            let more: Vec<Name<'_>> = own.names().skip(count).collect();
            let leased = self.known(&own.since(count)).map(|(generations, _)| generations);
            let generations = match leased {
                Some(generations) => Some(generations),
                None => {
                    let epoch = self.memory.epoch();
                    let read = Box::pin(self.generations(None, more.iter().copied())).await?.1;
                    for (name, generation) in more.iter().zip(read.iter().flatten()) {
                        if let Some(generation) = generation {
                            self.known.learn(id(*name), *generation, epoch);
                        }
                    }
                    read.map(Into::into)
                }
            };
            let Some(more) = generations.and_then(|now| compare(&of_entry[count..], &now)) else { return Ok(None) };
            if more == Validity::Stale {
                life = Validity::Stale;
            }
        }
        Ok(Some(life))
    }

    /// Reads an entry, if one is wanted, and generations in one round trip. Returns no generations if one of the names is fenced.
    pub(super) async fn generations<'a>(
        &self,
        entry: Option<(&Namespaces, u128)>,
        names: impl Iterator<Item = Name<'a>> + Clone,
    ) -> Result<(Option<Bytes>, Option<Vec<Option<Generation>>>), CommandError> {
        match self.topology.single() {
            Some(_) => self.generations_of_one(entry, names).await,
            None => Box::pin(self.generations_of_many(entry, names)).await,
        }
    }

    /// Reads by `MGET`. A strict store adds `EXISTS` for the fences.
    async fn generations_of_one<'a>(
        &self,
        entry: Option<(&Namespaces, u128)>,
        names: impl Iterator<Item = Name<'a>> + Clone,
    ) -> Result<(Option<Bytes>, Option<Vec<Option<Generation>>>), CommandError> {
        let node = self.topology.single().expect("asked for");
        let mget = self.keys.mget(entry, names.clone());
        let (values, server, fenced) = if self.fence.is_some() {
            let mut exists = redis::cmd("EXISTS");
            names.for_each(|name| _ = exists.arg(self.keys.fence(name)));
            let mut pipeline = redis::Pipeline::with_capacity(2);
            pipeline.add_command(mget.unpacked()).add_command(exists);
            let (mut answers, server) = Box::pin(node.send_all(&pipeline, Route::Pool, self.command_timeout)).await?;
            let fenced = answers.pop().ok_or(CommandError::Protocol("the number of fences"))?;
            (FastReply::Value(answers.pop().unwrap_or(Value::Nil)), server, !matches!(fenced, Value::Int(0)))
        } else {
            let (values, server) = node.packed(mget, self.command_timeout).await?;
            (values, server, false)
        };
        let (bytes, generations) = match values {
            FastReply::Many(reply) => strings(reply.into(), entry.is_some(), self.has_memory, server)?,
            FastReply::Value(Value::Array(values)) => {
                let mut values = values.into_iter();
                let bytes = match entry {
                    Some(_) => bulk(values.next().unwrap_or_default())?,
                    None => None,
                };
                (bytes, values.map(|value| parse_generation(&value, server)).collect())
            }
            FastReply::Value(Value::ServerError(error)) => return Err(CommandError::Server(error)),
            FastReply::Value(_) => return Err(CommandError::Protocol("values")),
        };
        Ok((bytes, (!fenced).then_some(generations)))
    }

    /// Reads from several masters by one command for each key, so that each command can follow its slot.
    async fn generations_of_many<'a>(
        &self,
        entry: Option<(&Namespaces, u128)>,
        names: impl Iterator<Item = Name<'a>> + Clone,
    ) -> Result<(Option<Bytes>, Option<Vec<Option<Generation>>>), CommandError> {
        let mut commands: Vec<Command> = entry.iter().map(|(names, hash)| get(&self.keys.entry(names, *hash))).collect();
        commands.extend(names.clone().map(|name| get(&self.keys.generation(name))));
        let count = names.clone().count();
        if self.fence.is_some() {
            commands.extend(names.map(|name| exists(&self.keys.fence(name))));
        }
        let mut answers = self.topology.send(commands, Route::Pool, self.command_timeout).await.into_iter();
        let bytes = match entry {
            Some(_) => bulk(answers.next().ok_or(CommandError::Protocol("an entry"))??.0)?,
            None => None,
        };
        let mut generations = Vec::with_capacity(count);
        for answer in answers.by_ref().take(count) {
            let (value, server) = answer?;
            generations.push(parse_generation(&value, server));
        }
        let mut fenced = false;
        for answer in answers {
            fenced |= !matches!(answer?.0, Value::Int(0));
        }
        Ok((bytes, (!fenced).then_some(generations)))
    }

    /// Reads the entry of a key.
    pub(super) async fn entry(&self, key: &KeyRef<'_>, names: &Namespaces) -> CommandResult {
        match self.topology.single() {
            Some(node) => match node.packed(self.keys.get(names, key.hash()), self.command_timeout).await? {
                (FastReply::Value(value), server) => Ok((value, server)),
                (FastReply::Many(_), _) => Err(CommandError::Protocol("an entry")),
            },
            None => Box::pin(self.send_one(get(&self.keys.entry(names, key.hash())))).await,
        }
    }

    /// Sends one command and waits for the answer within the command timeout.
    pub(super) async fn send_one(&self, command: Command) -> CommandResult {
        match self.topology.single() {
            Some(node) => node.send(&command.command, Route::Pool, self.command_timeout).await,
            None => Box::pin(self.topology.send(vec![command], Route::Pool, self.command_timeout))
                .await
                .pop()
                .unwrap_or(Err(CommandError::Unavailable)),
        }
    }
}

/// Splits a reply into an entry, if one was requested, and generations.
///
/// The entry is a slice of the reply. It is copied if memory may keep it, since a slice would keep the generations alive.
fn strings(
    reply: Bytes,
    entry: bool,
    kept: bool,
    server: u128,
) -> Result<(Option<Bytes>, Vec<Option<Generation>>), CommandError> {
    let mut strings = BulkStrings::of(&reply).ok_or(CommandError::Protocol("values"))?;
    let bytes = if entry { strings.next().flatten() } else { None };
    let bytes = bytes.map(|span| if kept { Bytes::copy_from_slice(&reply[span]) } else { reply.slice(span) });
    let mut generations = Vec::with_capacity(TYPICAL_NAMES);
    generations.extend(strings.by_ref().map(|span| parse_bytes(&reply[span?], server)));
    if strings.are_all() { Ok((bytes, generations)) } else { Err(CommandError::Protocol("values")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_entry_releases_its_reply_buffer() {
        let reply = Bytes::from_static(b"*3\r\n$2\r\nan\r\n$24\r\n0123456789abcdef01234567\r\n$-1\r\n");
        let whole = reply.as_ptr_range();
        for kept in [false, true] {
            let (bytes, generations) = strings(reply.clone(), true, kept, 0).expect("strings");
            let bytes = bytes.expect("an entry");
            assert_eq!((&bytes[..], whole.contains(&bytes.as_ptr())), (&b"an"[..], !kept));
            assert!(matches!(generations[..], [Some(_), None]), "{generations:?}");
        }
        let (bytes, generations) = strings(reply, false, false, 0).expect("strings");
        assert_eq!((bytes, generations.len()), (None, 3));
    }

    #[test]
    fn reply_without_strings_has_no_entry_or_generations() {
        for reply in [&b"*2\r\n$1\r\na\r\n:1\r\n"[..], b"*1\r\n*0\r\n", b"*-1\r\n", b"*1\r\n-ERR\r\n"] {
            assert!(strings(Bytes::from_static(reply), true, false, 0).is_err(), "{}", reply.escape_ascii());
        }
        assert_eq!(strings(Bytes::from_static(b"*0\r\n"), true, false, 0).expect("none").0, None);
    }
}
