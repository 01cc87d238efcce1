//! The `Cache-Status` field of responses (RFC 9211).
//!
//! The text of a status is written once. Hits with up to two hours left share static texts, so that they change no reference count. Each thread
//! remembers the last texts of all other statuses.

use std::{
    array,
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use http::{HeaderMap, HeaderName, HeaderValue, header::AGE};

use super::{CacheStatus, Outcome};

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The number of static texts that are made together, about 17 KiB.
const CHUNK: usize = 256;

/// The number of chunks of a name: for lifetimes up to two hours.
const CHUNKS: usize = 29;

/// The number of texts that a thread remembers.
const REMEMBERED: usize = 256;

/// The `Cache-Status` field of one cache.
#[derive(Clone)]
pub(crate) struct StatusField {
    texts: Arc<Texts>,
}

/// The texts of one name.
struct Texts {
    name: Arc<str>,
    /// The field values of hits, by the remaining seconds.
    hits: [OnceLock<Box<[HeaderValue]>>; CHUNKS],
}

/// A text that a thread remembers.
struct Remembered {
    field: StatusField,
    status: CacheStatus,
    value: HeaderValue,
}

thread_local! {
    static REMEMBERED_TEXTS: RefCell<Vec<Option<Remembered>>> = const { RefCell::new(Vec::new()) };
}

impl StatusField {
    /// Returns the field with the name of a cache.
    ///
    /// # Panics
    ///
    /// If the name is not a token (RFC 9110, section 5.6.2) that begins with a letter.
    #[track_caller]
    pub(crate) fn named(name: &str) -> Self {
        static KNOWN: Mutex<BTreeMap<Arc<str>, Arc<Texts>>> = Mutex::new(BTreeMap::new());
        let name = name_of_cache(name);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Texts { name: name.clone(), hits: array::from_fn(|_| OnceLock::new()) });
        Self { texts: known.entry(name.clone()).or_insert_with(new).clone() }
    }

    /// Adds the field to a response, behind the values of caches closer to the origin (RFC 9211, section 2).
    #[inline]
    pub(crate) fn put(&self, status: CacheStatus, headers: &mut HeaderMap) {
        match slot(headers) {
            Some(slot) => *slot = self.value(status),
            None => _ = headers.append(CACHE_STATUS, self.value(status)),
        }
    }

    #[inline]
    fn value(&self, status: CacheStatus) -> HeaderValue {
        match status {
            CacheStatus { outcome: Outcome::Hit, storing: None, ttl: Some(left), .. } => match self.texts.hit(left) {
                Some(value) => value.clone(),
                None => self.remembered(status),
            },
            _ => self.remembered(status),
        }
    }

    /// Returns the text of a status that this thread remembers, or writes it.
    fn remembered(&self, status: CacheStatus) -> HeaderValue {
        let value = REMEMBERED_TEXTS.try_with(|texts| {
            let texts = &mut *texts.try_borrow_mut().ok()?;
            if texts.is_empty() {
                texts.resize_with(REMEMBERED, || None);
            }
            let slot = &mut texts[status.hash() % REMEMBERED];
            if let Some(known) = slot
                && known.status == status
                && Arc::ptr_eq(&known.field.texts, &self.texts)
            {
                return Some(known.value.clone());
            }
            let value = status.header(&self.texts.name);
            *slot = Some(Remembered { field: self.clone(), status, value: value.clone() });
            Some(value)
        });
        // The memory of a thread is gone at its end.
        value.ok().flatten().unwrap_or_else(|| status.header(&self.texts.name))
    }
}

impl Texts {
    /// Returns the text of a hit with these remaining seconds, if it is one of the static ones.
    #[inline]
    fn hit(&self, left: i32) -> Option<&HeaderValue> {
        let left = usize::try_from(left).ok()?;
        self.hits.get(left / CHUNK)?.get_or_init(|| self.chunk(left / CHUNK)).get(left % CHUNK)
    }

    #[cold]
    fn chunk(&self, number: usize) -> Box<[HeaderValue]> {
        let hit = |left| CacheStatus::new(Outcome::Hit).with_ttl(left);
        let first = (number * CHUNK) as i32;
        static_values((first..first + CHUNK as i32).map(|left| format!("{}; {}", self.name, hit(left))))
    }
}

impl fmt::Debug for StatusField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusField").field(&self.texts.name).finish()
    }
}

/// Returns the empty `Cache-Status` field of a stored response, the second field behind `Age`.
#[inline]
pub(crate) fn slot(headers: &mut HeaderMap) -> Option<&mut HeaderValue> {
    let mut fields = headers.iter_mut();
    match (fields.next(), fields.next()) {
        (Some((first, _)), Some((name, value))) if value.is_empty() && *name == CACHE_STATUS && *first == AGE => Some(value),
        _ => None,
    }
}

/// Returns static values, whose clones change no reference count.
pub(crate) fn static_values(texts: impl Iterator<Item = String>) -> Box<[HeaderValue]> {
    let (mut all, mut ends) = (String::new(), Vec::new());
    for text in texts {
        all.push_str(&text);
        ends.push(all.len());
    }
    let all: &'static str = all.leak();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| HeaderValue::from_static(&all[start..*end])).collect()
}

/// Checks the name of a cache in `Cache-Status` (RFC 9211, section 2).
///
/// # Panics
///
/// If the name is not a token (RFC 9110, section 5.6.2) that begins with a letter.
#[track_caller]
pub(crate) fn name_of_cache(name: &str) -> Arc<str> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    assert!(
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(token),
        "{name:?} cannot name a cache in Cache-Status: letters, digits and - . _, a letter first"
    );
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Bypass, Miss, NoStore, Stale, Storing};

    #[test]
    fn miss_shows_why_its_response_is_not_stored() {
        for (reason, text) in [
            (Miss::Absent, "fwd=uri-miss; detail=set-cookie"),
            (Miss::Expired, "fwd=stale; detail=set-cookie"),
            (Miss::Request, "fwd=request; detail=set-cookie"),
            (Miss::Variant, "fwd=vary-miss; detail=set-cookie"),
            (Miss::HitForMiss, "fwd=uri-miss; detail=hit-for-miss"),
        ] {
            let status = CacheStatus::new(Outcome::Miss(reason)).storing(Storing::Not(NoStore::SetCookie));
            assert_eq!(status.to_string(), text);
        }
    }

    #[test]
    fn remembered_text_equals_a_new_one() {
        let fields = [StatusField::named("edge"), StatusField::named("inner"), StatusField::named("edge")];
        let misses = Miss::ALL.iter().map(|reason| Outcome::Miss(*reason));
        let bypasses = Bypass::ALL.iter().map(|reason| Outcome::Bypass(*reason));
        let others = [Outcome::Hit, Outcome::Stale(Stale::IfError), Outcome::Revalidated, Outcome::Collapsed];
        let storings = || NoStore::ALL.iter().map(|reason| Storing::Not(*reason)).chain([Storing::Stored, Storing::Pending]);
        let mut statuses: Vec<_> = misses.chain(bypasses).chain(others).map(CacheStatus::new).collect();
        statuses.extend(statuses.clone().into_iter().flat_map(|status| storings().map(move |storing| status.storing(storing))));
        let lifetimes = [i32::MIN, -1, 0, 1, 255, 256, 7_423, 7_424, 86_400, i32::MAX];
        statuses.extend(statuses.clone().into_iter().flat_map(|status| lifetimes.map(|left| status.with_ttl(left))));
        for status in statuses {
            for field in &fields {
                let text = format!("{}; {status}", field.texts.name);
                for _ in 0..2 {
                    assert_eq!(field.value(status), text);
                }
            }
        }
    }
}
