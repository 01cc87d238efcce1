//! The keys of a simulated Redis, and the commands that read and write them.

use std::collections::BTreeMap;

use crate::reply::Reply;

/// A key.
pub type Key = Vec<u8>;

/// The content of a key.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    Text(Vec<u8>),
    /// Members with their scores.
    Sorted(BTreeMap<Vec<u8>, f64>),
}

#[derive(Clone, Debug, PartialEq)]
struct Stored {
    content: Content,
    /// The end of its life, in milliseconds since the Unix epoch.
    expires: Option<u64>,
}

/// All keys, and those that were changed since they were last asked for.
#[derive(Clone, Debug, Default)]
pub struct Keyspace {
    keys: BTreeMap<Key, Stored>,
    changed: Vec<Key>,
    /// Microseconds since the Unix epoch.
    now: u64,
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "ERR syntax error";
const NO_INTEGER: &str = "ERR value is not an integer or out of range";
const NO_FLOAT: &str = "ERR value is not a valid float";

type Answer = Result<Reply, String>;

impl Keyspace {
    pub fn set_time(&mut self, micros: u64) {
        self.now = micros;
    }

    /// Returns the keys that were changed since the last call.
    pub fn take_changed(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.changed)
    }

    /// Returns all keys, ended ones included.
    pub fn names(&self) -> Vec<Key> {
        self.keys.keys().cloned().collect()
    }

    /// Removes a key, as eviction does.
    pub fn evict(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.changed.push(key.to_vec());
        }
    }

    /// Removes the keys whose life has ended.
    pub fn expire(&mut self) {
        let now = self.millis();
        let ended: Vec<Key> = self
            .keys
            .iter()
            .filter(|(_, stored)| stored.expires.is_some_and(|at| at < now))
            .map(|(key, _)| key.clone())
            .collect();
        ended.iter().for_each(|key| self.evict(key));
    }

    pub fn clear(&mut self) {
        self.keys.clear();
    }

    /// Executes a command. `None` if it is none of the keys.
    pub fn call(&mut self, words: &[Vec<u8>]) -> Option<Reply> {
        let (name, arguments) = words.split_first()?;
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        let answer = match (name.as_str(), arguments) {
            ("GET", [key]) => self.get(key),
            ("MGET", [_, ..]) => Ok(Reply::Array(arguments.iter().map(|key| self.get(key).unwrap_or(Reply::Null)).collect())),
            ("GETRANGE", [key, from, to]) => self.get_range(key, from, to),
            ("SET", [key, value, options @ ..]) => self.set(key, value, options),
            ("EXISTS", [_, ..]) => Ok(Reply::Int(arguments.iter().filter(|key| self.find(key).is_some()).count() as i64)),
            ("UNLINK" | "DEL", [_, ..]) => Ok(Reply::Int(arguments.iter().filter(|key| self.remove(key)).count() as i64)),
            ("PTTL", [key]) => Ok(Reply::Int(self.remaining(key))),
            ("PEXPIRE", [key, span, options @ ..]) => self.expire_at(key, span, self.millis(), options),
            ("PEXPIREAT", [key, at, options @ ..]) => self.expire_at(key, at, 0, options),
            ("TIME", []) => {
                Ok(Reply::Array([self.now / 1_000_000, self.now % 1_000_000].map(|n| Reply::bulk(n.to_string())).to_vec()))
            }
            ("ZADD", [key, score, member]) => self.add(key, score, member),
            ("ZREM", [key, member]) => self.remove_members(key, |name, _| name == member),
            ("ZREMRANGEBYSCORE", [key, least, most]) => self.remove_scores(key, least, most),
            ("ZRANGE", [key, from, to, with]) if with.eq_ignore_ascii_case(b"WITHSCORES") => self.range(key, from, to),
            ("ZCARD", [key]) => self.sorted(key).map(|set| Reply::Int(set.map_or(0, |set| set.len() as i64))),
            _ => return None,
        };
        Some(answer.unwrap_or_else(Reply::Error))
    }

    fn millis(&self) -> u64 {
        self.now / 1_000
    }

    /// Returns a key that lives. One whose life has ended is removed.
    fn find(&mut self, key: &[u8]) -> Option<&mut Stored> {
        let now = self.millis();
        if self.keys.get(key)?.expires.is_some_and(|at| at < now) {
            self.evict(key);
            return None;
        }
        self.keys.get_mut(key)
    }

    fn text(&mut self, key: &[u8]) -> Result<Option<&[u8]>, String> {
        match self.find(key) {
            None => Ok(None),
            Some(Stored { content: Content::Text(text), .. }) => Ok(Some(text)),
            Some(_) => Err(WRONG_TYPE.into()),
        }
    }

    fn sorted(&mut self, key: &[u8]) -> Result<Option<&mut BTreeMap<Vec<u8>, f64>>, String> {
        match self.find(key) {
            None => Ok(None),
            Some(Stored { content: Content::Sorted(set), .. }) => Ok(Some(set)),
            Some(_) => Err(WRONG_TYPE.into()),
        }
    }

    fn get(&mut self, key: &[u8]) -> Answer {
        Ok(self.text(key)?.map_or(Reply::Null, Reply::bulk))
    }

    fn get_range(&mut self, key: &[u8], from: &[u8], to: &[u8]) -> Answer {
        let (from, to) = (integer(from)?, integer(to)?);
        let text = self.text(key)?.unwrap_or_default();
        if from < 0 && to < from {
            return Ok(Reply::bulk(""));
        }
        let at = |index: i64| if index < 0 { (text.len() as i64 + index).max(0) } else { index };
        let (from, to) = (at(from), at(to).min(text.len() as i64 - 1));
        Ok(Reply::bulk(if from > to { &[] } else { &text[from as usize..=to as usize] }))
    }

    fn set(&mut self, key: &[u8], value: &[u8], options: &[Vec<u8>]) -> Answer {
        let (mut only_new, mut returns, mut keeps, mut life) = (false, false, false, None);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"NX" => only_new = true,
                b"GET" => returns = true,
                b"KEEPTTL" => keeps = true,
                b"PX" => {
                    let span = integer(options.next().ok_or(SYNTAX)?)?;
                    if span <= 0 {
                        return Err("ERR invalid expire time in 'set' command".into());
                    }
                    life = Some(self.millis() + span as u64);
                }
                _ => return Err(SYNTAX.into()),
            }
        }
        if keeps && life.is_some() {
            return Err(SYNTAX.into());
        }
        let before = if returns { Some(self.get(key)?) } else { None };
        let stored = self.find(key);
        let (exists, expires) = (stored.is_some(), stored.and_then(|stored| stored.expires));
        if only_new && exists {
            return Ok(before.unwrap_or(Reply::Null));
        }
        let stored = Stored { content: Content::Text(value.to_vec()), expires: if keeps { expires } else { life } };
        self.keys.insert(key.to_vec(), stored);
        self.changed.push(key.to_vec());
        Ok(before.unwrap_or(Reply::OK))
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let exists = self.find(key).is_some();
        self.evict(key);
        exists
    }

    /// Returns the milliseconds until a key ends: -1 without an end, -2 without the key.
    fn remaining(&mut self, key: &[u8]) -> i64 {
        let now = self.millis();
        match self.find(key) {
            None => -2,
            Some(stored) => stored.expires.map_or(-1, |at| (at - now) as i64),
        }
    }

    fn expire_at(&mut self, key: &[u8], time: &[u8], base: u64, options: &[Vec<u8>]) -> Answer {
        let at = integer(time)? + base as i64;
        let only_longer = match options {
            [] => false,
            [option] if option.eq_ignore_ascii_case(b"GT") => true,
            _ => return Err(SYNTAX.into()),
        };
        let now = self.millis() as i64;
        let Some(stored) = self.find(key) else { return Ok(Reply::Int(0)) };
        if only_longer && stored.expires.is_none_or(|before| at <= before as i64) {
            return Ok(Reply::Int(0));
        }
        if at <= now {
            self.evict(key);
        } else {
            stored.expires = Some(at as u64);
            self.changed.push(key.to_vec());
        }
        Ok(Reply::Int(1))
    }

    fn add(&mut self, key: &[u8], score: &[u8], member: &[u8]) -> Answer {
        let score = float(score)?;
        if self.sorted(key)?.is_none() {
            self.keys.insert(key.to_vec(), Stored { content: Content::Sorted(BTreeMap::new()), expires: None });
        }
        let set = self.sorted(key)?.expect("just made");
        let before = set.insert(member.to_vec(), score);
        if before != Some(score) {
            self.changed.push(key.to_vec());
        }
        Ok(Reply::Int(i64::from(before.is_none())))
    }

    fn remove_members(&mut self, key: &[u8], gone: impl Fn(&[u8], f64) -> bool) -> Answer {
        let Some(set) = self.sorted(key)? else { return Ok(Reply::Int(0)) };
        let before = set.len();
        set.retain(|name, score| !gone(name, *score));
        let (removed, empty) = (before - set.len(), set.is_empty());
        if empty {
            self.keys.remove(key);
        }
        if removed > 0 {
            self.changed.push(key.to_vec());
        }
        Ok(Reply::Int(removed as i64))
    }

    fn remove_scores(&mut self, key: &[u8], least: &[u8], most: &[u8]) -> Answer {
        let limit = |text: &[u8]| float(text).map_err(|_| "ERR min or max is not a float".to_owned());
        let (least, most) = (limit(least)?, limit(most)?);
        self.remove_members(key, |_, score| least <= score && score <= most)
    }

    fn range(&mut self, key: &[u8], from: &[u8], to: &[u8]) -> Answer {
        let (from, to) = (integer(from)?, integer(to)?);
        let mut members: Vec<(Vec<u8>, f64)> =
            self.sorted(key)?.map(|set| set.iter().map(|(name, score)| (name.clone(), *score)).collect()).unwrap_or_default();
        members.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
        let count = members.len() as i64;
        let at = |index: i64| if index < 0 { (count + index).max(0) } else { index };
        let (from, to) = (at(from), at(to).min(count - 1));
        let found = if from > to { Vec::new() } else { members.drain(from as usize..=to as usize).collect() };
        Ok(Reply::Array(
            found.into_iter().flat_map(|(name, score)| [Reply::Bulk(name), Reply::bulk(score.to_string())]).collect(),
        ))
    }
}

/// Reads an integer in its only form: without a plus sign, leading zeros and a negative zero.
fn integer(text: &[u8]) -> Result<i64, String> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
    number.filter(|number| number.to_string().as_bytes() == text).ok_or_else(|| NO_INTEGER.to_owned())
}

fn float(text: &[u8]) -> Result<f64, String> {
    match text {
        b"-inf" => Ok(f64::NEG_INFINITY),
        b"+inf" | b"inf" => Ok(f64::INFINITY),
        _ => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| NO_FLOAT.to_owned()),
    }
}
