//! The hottest requests, kept in Redis: one value for each name.
//!
//! ```text
//! contents   saved u64 (milliseconds since 1970), requests u32, then for each: count f64, request
//! request    target bytes, changed path bytes, fields u32, then for each: name bytes, value bytes
//! bytes      length u32, then that number of bytes
//! ```
//!
//! The changed path is the one that a layer outside of the cache has made of the path of the target. It is empty if none has.
//!
//! The frame around the contents is the one of an entry, encrypted if the store encrypts. Each writer merges its list with the stored one. Counts
//! of the stored list are halved for each hour since it was saved, and of two counts for one request the higher one stays: to save a list twice
//! changes nothing.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use redis::{Cmd, Value};

use super::{
    command::{Command, bulk, get},
    error::CommandError,
    inner::{RedisInner, millis_of},
    keys::slot,
    scripts,
    store::Redis,
};
use crate::{key::replay::Replay, store::error::StoreError};

/// The largest number of requests in a list.
const MOST: usize = 256;

/// The longest request in a list, in bytes.
const LONGEST: usize = 4096;

/// The time for which a list is kept after it was saved.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The time after which a count is worth half.
const HALVED_AFTER: f64 = 3_600_000.0;

/// The number of attempts to save a list while other processes save theirs.
const ATTEMPTS: usize = 8;

/// A request in a list.
#[derive(Debug, Clone)]
pub(crate) struct KeptRequest {
    pub(crate) replay: Replay,
    /// Not an integer once it was halved.
    pub(crate) count: f64,
}

/// A stored value.
enum Stored {
    Absent,
    List(List, Bytes),
    /// No list: a string that is not empty, or something else.
    Damaged(Option<Bytes>),
}

/// A list and the time when it was saved.
#[derive(Debug, Default)]
struct List {
    saved: u64,
    requests: Vec<KeptRequest>,
}

impl List {
    /// Returns the requests with the counts of a time.
    fn at(self, now: u64) -> Vec<KeptRequest> {
        let worth = self.worth(now);
        self.requests.into_iter().map(|kept| KeptRequest { count: kept.count * worth, ..kept }).collect()
    }

    /// Returns the part of the counts that remains at a time.
    fn worth(&self, now: u64) -> f64 {
        0.5_f64.powf(now.saturating_sub(self.saved) as f64 / HALVED_AFTER)
    }
}

impl Redis {
    /// Returns the list of a name with the counts of now. Damaged contents are an empty list.
    pub(crate) async fn kept(&self, name: &str, now: u64) -> Result<Vec<KeptRequest>, StoreError> {
        let inner = self.inner();
        Ok(match inner.stored_list(&inner.keys.hottest(name)).await? {
            Stored::List(list, _) => list.at(now),
            Stored::Absent | Stored::Damaged(_) => Vec::new(),
        })
    }

    /// Merges requests into the list of a name.
    pub(crate) async fn keep(&self, name: &str, own: &[KeptRequest], now: u64) -> Result<(), StoreError> {
        let inner = self.inner();
        let key = inner.keys.hottest(name);
        for _ in 0..ATTEMPTS {
            let stored = inner.stored_list(&key).await?;
            let earlier = match &stored {
                Stored::List(list, _) => Some(list),
                Stored::Absent | Stored::Damaged(_) => None,
            };
            let contents = encoded(now, &merged(earlier, own, now));
            let sealed = inner.codec.encode_list(&key, &contents);
            let sealed =
                sealed.map_err(|reason| StoreError::new(format!("the hottest requests cannot be encoded: {reason}")))?;
            let left = millis_of(KEPT);
            let command = match &stored {
                Stored::Absent => set(&key, &sealed, left, true),
                Stored::Damaged(None) => set(&key, &sealed, left, false),
                Stored::List(_, bytes) | Stored::Damaged(Some(bytes)) => {
                    let tail = &bytes[bytes.len().saturating_sub(16)..];
                    scripts::replace(&key, tail, &sealed, left)
                }
            };
            match inner.send_one(command).await?.0 {
                Value::Nil | Value::Int(0) => {}
                _ => return Ok(()),
            }
        }
        Err(StoreError::new(
            "the hottest requests were not kept: 8 attempts failed because other processes saved at the same time",
        ))
    }
}

impl RedisInner {
    async fn stored_list(&self, key: &str) -> Result<Stored, CommandError> {
        let bytes = match self.send_one(get(key)).await {
            Ok((value, _)) => bulk(value)?,
            Err(CommandError::Server(error)) if error.code() == "WRONGTYPE" => {
                self.warn_about_list(key, "not a string");
                return Ok(Stored::Damaged(None));
            }
            Err(error) => return Err(error),
        };
        let Some(bytes) = bytes else { return Ok(Stored::Absent) };
        let tail = Some(bytes.clone()).filter(|bytes| !bytes.is_empty());
        match self.codec.decode_list(bytes.clone(), key) {
            Ok(contents) => match decoded(&contents) {
                Some(list) => return Ok(Stored::List(list, bytes)),
                None => self.warn_about_list(key, "malformed"),
            },
            Err(damaged) => self.warn_about_list(key, damaged.as_str()),
        }
        Ok(Stored::Damaged(tail))
    }

    fn warn_about_list(&self, key: &str, reason: &str) {
        if !self.context().counters.damaged_list.swap(true, Ordering::Relaxed) {
            tracing::warn!(key, reason, "the kept list of the hottest requests is damaged: it is ignored and replaced");
        }
    }
}

fn set(key: &str, value: &[u8], left: u64, only_if_absent: bool) -> Command {
    let mut command = Cmd::new();
    command.arg("SET").arg(key).arg(value).arg("PX").arg(left);
    if only_if_absent {
        command.arg("NX");
    }
    Command { slot: slot(key.as_bytes()), command }
}

/// Returns the encoded requests of a list and of this process with their counts, the most frequent first.
fn merged(earlier: Option<&List>, own: &[KeptRequest], now: u64) -> Vec<(f64, Vec<u8>)> {
    let mut all = BTreeMap::<Vec<u8>, f64>::new();
    let mut add = |replay: &Replay, count: f64| {
        let bytes = encoded_request(replay);
        if bytes.len() <= LONGEST && count > 0.5 {
            let known = all.entry(bytes).or_default();
            *known = known.max(count);
        }
    };
    for kept in own {
        add(&kept.replay, kept.count);
    }
    if let Some(list) = earlier {
        let worth = list.worth(now);
        for kept in &list.requests {
            add(&kept.replay, kept.count * worth);
        }
    }
    let mut all: Vec<_> = all.into_iter().map(|(bytes, count)| (count, bytes)).collect();
    all.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    all.truncate(MOST);
    all
}

fn encoded(now: u64, requests: &[(f64, Vec<u8>)]) -> Vec<u8> {
    let mut out = now.to_le_bytes().to_vec();
    out.extend_from_slice(&(requests.len() as u32).to_le_bytes());
    for (count, request) in requests {
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(request);
    }
    out
}

fn encoded_request(replay: &Replay) -> Vec<u8> {
    let Replay { request, changed_path } = replay;
    let mut fields: Vec<_> = request.headers().iter().collect();
    // Stable, so that the lines of a field keep their order.
    fields.sort_by_key(|(name, _)| name.as_str());
    let mut out = Vec::new();
    put(&mut out, request.uri().to_string().as_bytes());
    put(&mut out, changed_path.as_deref().unwrap_or_default().as_bytes());
    out.extend_from_slice(&(fields.len() as u32).to_le_bytes());
    for (name, value) in fields {
        put(&mut out, name.as_str().as_bytes());
        put(&mut out, value.as_bytes());
    }
    out
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn decoded(contents: &[u8]) -> Option<List> {
    let mut rest = contents;
    let saved = u64::from_le_bytes(*take(&mut rest)?);
    let count = number(&mut rest)?;
    let mut requests = Vec::new();
    for _ in 0..Some(count).filter(|count| *count <= MOST)? {
        let count = f64::from_le_bytes(*take(&mut rest)?);
        if !count.is_finite() {
            return None;
        }
        let mut request = Request::new(());
        *request.uri_mut() = Uri::try_from(part(&mut rest)?).ok()?;
        let changed_path = std::str::from_utf8(part(&mut rest)?).ok()?;
        let changed_path = Some(changed_path.to_owned()).filter(|path| !path.is_empty());
        for _ in 0..number(&mut rest)? {
            let name = HeaderName::from_bytes(part(&mut rest)?).ok()?;
            request.headers_mut().try_append(name, HeaderValue::from_bytes(part(&mut rest)?).ok()?).ok()?;
        }
        requests.push(KeptRequest { replay: Replay { request, changed_path }, count });
    }
    rest.is_empty().then_some(List { saved, requests })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(first)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(*take(rest)?) as usize)
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = number(rest)?;
    let (part, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(target: &str, count: u64) -> KeptRequest {
        let request = Request::get(target).header("host", "api.example").header("accept-encoding", "gzip");
        let changed_path = target.strip_prefix("/api").map(str::to_owned);
        KeptRequest { replay: Replay { request: request.body(()).expect("a request"), changed_path }, count: count as f64 }
    }

    fn summary(list: &[KeptRequest]) -> Vec<(String, u64)> {
        list.iter().map(|kept| (kept.replay.request.uri().to_string(), kept.count as u64)).collect()
    }

    fn list(saved: u64, requests: &[KeptRequest]) -> List {
        decoded(&encoded(saved, &merged(None, requests, saved))).expect("a list")
    }

    #[test]
    fn list_is_read_as_written() {
        let written = list(7, &[kept("/a?b=1", 3), kept("https://api.example/c", 5)]);
        assert_eq!(
            (written.saved, summary(&written.requests)),
            (7, vec![("https://api.example/c".into(), 5), ("/a?b=1".into(), 3)])
        );
        assert_eq!(written.requests[1].replay.request.headers()["accept-encoding"], "gzip");
        let paths = list(7, &[kept("/api/t/a", 3), kept("/b", 2)]).requests;
        let paths: Vec<_> = paths.iter().map(|kept| kept.replay.changed_path.as_deref()).collect();
        assert_eq!(paths, [Some("/t/a"), None]);
    }

    #[test]
    fn truncated_or_longer_contents_are_no_list() {
        let bytes = encoded(7, &merged(None, &[kept("/a", 3), kept("/b", 5)], 7));
        for end in 0..bytes.len() {
            assert!(decoded(&bytes[..end]).is_none(), "{end}");
        }
        assert!(decoded(&[&bytes[..], b"x"].concat()).is_none());
        assert!(decoded(&encoded(7, &vec![(1.0, encoded_request(&kept("/a", 1).replay)); MOST + 1])).is_none());
    }

    #[test]
    fn merging_halves_by_the_hour_and_is_idempotent() {
        let hour = HALVED_AFTER as u64;
        let (earlier, own) = (list(0, &[kept("/a", 100), kept("/b", 40), kept("/old", 1)]), [kept("/b", 30), kept("/c", 7)]);
        let once = decoded(&encoded(hour, &merged(Some(&earlier), &own, hour))).expect("a list");
        assert_eq!(summary(&once.requests), [("/a".into(), 50), ("/b".into(), 30), ("/c".into(), 7)]);
        let twice = merged(Some(&once), &own, hour);
        assert_eq!(encoded(hour, &twice), encoded(hour, &merged(Some(&earlier), &own, hour)));
    }

    #[test]
    fn kept_counts_are_halved_by_the_hour() {
        let kept_at = |now| summary(&list(0, &[kept("/a", 100), kept("/b", 40)]).at(now));
        let hour = HALVED_AFTER as u64;
        assert_eq!(kept_at(0), [("/a".into(), 100), ("/b".into(), 40)]);
        assert_eq!(kept_at(2 * hour), [("/a".into(), 25), ("/b".into(), 10)]);
    }

    #[test]
    fn list_is_bounded() {
        let many: Vec<_> = (0..1000).map(|n| kept(&format!("/{n}"), n)).collect();
        let long = kept(&format!("/{}", "x".repeat(LONGEST)), 5000);
        let kept = list(0, &[many, vec![long]].concat()).requests;
        assert_eq!((kept.len(), kept[0].count, kept[MOST - 1].count), (MOST, 999.0, 744.0));
    }
}
