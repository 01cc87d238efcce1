//! What is stored: a response as it will be sent, and what says whether it may be.

use std::{
    fmt, mem,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::AGE};

use super::{Life, Stamp};
use crate::{
    clock::{MS, Nanos, system_time},
    key::Key,
    namespace::Namespaces,
    semantics::{CACHE_STATUS, Freshness, Vary},
};

/// A stored response with its key, its stamp, its namespaces and its times. Never changed once made.
pub struct Entry {
    key: Key,
    stamp: Stamp,
    names: Namespaces,
    times: Times,
    content: Content,
    http: Option<Box<Http>>,
    weight: Weight,
}

/// What an entry weighs; or, as long as nobody has asked, what it keeps alive besides what it is made of.
#[derive(Debug)]
struct Weight(AtomicU64);

/// The bit that says that nobody has asked.
const UNASKED: u64 = 1 << 63;

/// What a rule under which HTTP decides has to know of a stored response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http {
    pub(crate) freshness: Freshness,
    /// It may answer requests with credentials that are not in the key (RFC 9111, section 3.5).
    pub(crate) open: bool,
    /// It has a validator of the inner service's, which can be asked about it.
    pub(crate) asks: bool,
    /// Its `ETag` is of our own making: the inner service does not know it.
    pub(crate) own_tag: bool,
}

impl Http {
    /// Its freshness, where what was cleared softly is fresh no longer.
    pub(crate) fn freshness(&self, life: Life, now: Nanos) -> Freshness {
        let mut freshness = self.freshness;
        if life == Life::Soft {
            freshness.lifetime = freshness.lifetime.min(freshness.age(now / MS));
        }
        freshness
    }
}

/// When an entry was made and until when it serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// When the response was generated, as far as is known: its age counts from here.
    pub(crate) born: Nanos,
    /// Fresh before this.
    pub(crate) fresh_until: Nanos,
    /// Servable while it is refreshed before this.
    pub(crate) while_revalidate_until: Nanos,
    /// Servable when the inner service fails before this.
    pub(crate) if_error_until: Nanos,
    /// Worth asking about before this.
    pub(crate) kept_until: Nanos,
    /// How long the inner service took: what an early refresh would cost.
    pub(crate) cost: Nanos,
}

impl Times {
    /// When nobody may serve it any more.
    pub(crate) fn expires(&self) -> Nanos {
        self.fresh_until.max(self.while_revalidate_until).max(self.if_error_until).max(self.kept_until)
    }
}

/// What an entry says.
#[derive(Clone)]
pub(crate) enum Content {
    /// A response, its header map finished: the first field is `Age`, a slot for the age of the moment; the second may be an empty
    /// `Cache-Status`, a slot for what a hit says of itself.
    Response { status: StatusCode, headers: HeaderMap, body: Bytes, trailers: Option<Box<HeaderMap>> },
    /// No response: those of this key differ by these request fields (`Vary`) and are stored under keys that hold them.
    Variants(Vary),
}

/// An entry before its key and stamp: what a fill has learned from the response.
pub(crate) struct Draft {
    pub(crate) names: Namespaces,
    pub(crate) times: Times,
    pub(crate) content: Content,
    pub(crate) http: Option<Box<Http>>,
}

impl Entry {
    #[inline(always)]
    pub(crate) fn new(key: Key, stamp: Stamp, draft: Draft) -> Self {
        let Draft { mut names, times, content, http } = draft;
        names.shrink();
        let weight = Weight(AtomicU64::new(weigh(&key, &names, &content, http.as_deref())));
        Self { key, stamp, names, times, content, http, weight }
    }

    /// An entry of the same origin under another key: of its stamp, its names and its times.
    pub(crate) fn like(&self, key: Key, content: Content) -> Self {
        let Self { stamp, names, times, http, .. } = self;
        Self::new(key, stamp.clone(), Draft { names: names.clone(), times: *times, content, http: http.clone() })
    }

    /// A copy of it under another stamp; the body is not copied. Breaks the promise of every store if that stamp was not taken
    /// before the response was computed: tests show with it that they notice.
    #[cfg(feature = "redis")]
    #[doc(hidden)]
    pub fn stamped(&self, stamp: Stamp) -> Self {
        let Self { key, names, times, content, http, weight, .. } = self;
        Self {
            key: key.clone(),
            stamp,
            names: names.clone(),
            times: *times,
            content: content.clone(),
            http: http.clone(),
            weight: Weight(AtomicU64::new(weight.0.load(Ordering::Relaxed))),
        }
    }

    /// One that was read from bytes that it keeps alive: `held` of them are not its body. Most are served and kept by nobody: it is
    /// weighed when somebody asks.
    #[cfg(feature = "redis")]
    #[inline]
    pub(crate) fn held(key: Key, stamp: Stamp, draft: Draft, held: usize) -> Self {
        let Draft { mut names, times, content, http } = draft;
        names.shrink();
        Self { key, stamp, names, times, content, http, weight: Weight(AtomicU64::new(UNASKED | held as u64)) }
    }

    /// The key it answers; compared in full before it is served.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The stamp, taken before the response was computed.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The namespaces it belongs to.
    pub fn namespaces(&self) -> &Namespaces {
        &self.names
    }

    /// When nobody may serve it any more, not even as stale.
    pub fn expires(&self) -> SystemTime {
        system_time(self.times.expires())
    }

    /// The bytes it takes: body, header fields, key, names and the overhead of keeping them.
    pub fn weight(&self) -> u64 {
        let weight = self.weight.0.load(Ordering::Relaxed);
        if weight & UNASKED == 0 {
            return weight;
        }
        let held = weight & !UNASKED;
        let weight = weigh(&self.key, &self.names, &self.content, self.http()) + held;
        self.weight.0.store(weight, Ordering::Relaxed);
        weight
    }

    #[inline]
    pub(crate) fn times(&self) -> &Times {
        &self.times
    }

    /// Present if it was stored under a rule where HTTP decides.
    #[inline]
    pub(crate) fn http(&self) -> Option<&Http> {
        self.http.as_deref()
    }

    #[inline]
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// The response, taken out of an entry that nobody else has and nobody will look at again.
    #[inline]
    pub(crate) fn take_response(&mut self) -> Option<(StatusCode, HeaderMap, Bytes, Option<Box<HeaderMap>>)> {
        match &mut self.content {
            Content::Response { status, headers, body, trailers } => {
                Some((*status, mem::take(headers), mem::take(body), trailers.take()))
            }
            Content::Variants(_) => None,
        }
    }
}

/// Shows what a log may: no field and no byte of the response, which may be one user's alone.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, stamp, names, times, .. } = self;
        let weight = &self.weight();
        let mut entry = f.debug_struct("Entry");
        entry.field("key", key).field("stamp", stamp).field("namespaces", names).field("times", times).field("weight", weight);
        match &self.content {
            Content::Response { status, body, .. } => entry.field("status", status).field("body", &body.len()),
            Content::Variants(vary) => entry.field("varies_by", vary),
        };
        entry.finish_non_exhaustive()
    }
}

/// The header map as hits will clone it: of exact size, the slot for `Age` in front, and behind it one for `Cache-Status` if hits will
/// say something there. Behind what caches before this one have said there it would not be found: there it is put on each hit anew.
///
/// There is room for so many fields `more`; where there is need of none, a map of the same `shape` is filled in.
pub(crate) fn finished(headers: &HeaderMap, tells: bool, more: usize, shape: &FirstShape) -> HeaderMap {
    let tells = tells && !headers.contains_key(CACHE_STATUS);
    if more == 0
        && let Some(finished) = shape.filled(headers, tells)
    {
        return finished;
    }
    let mut finished = HeaderMap::with_capacity(headers.keys_len() + 1 + usize::from(tells) + more);
    finished.insert(AGE, HeaderValue::from_static("0"));
    if tells {
        finished.insert(CACHE_STATUS, HeaderValue::from_static(""));
    }
    for (name, value) in headers {
        if name != AGE {
            finished.append(name.clone(), value.clone());
        }
    }
    finished
}

/// The names of a map's fields, none of them there twice. Responses to requests of one route mostly have the same, and to copy a map
/// costs less than to find a place for each field anew.
#[derive(Debug)]
pub(crate) struct Shape(HeaderMap);

impl Shape {
    /// The most fields that are kept in mind.
    const MOST: usize = 24;

    /// The shape of a map, if it is worth keeping in mind, with what of its values is `kept`.
    pub(crate) fn of(map: &HeaderMap, kept: impl Fn(&HeaderName, &HeaderValue) -> Option<HeaderValue>) -> Option<Self> {
        (map.len() == map.keys_len() && map.len() <= Self::MOST).then(|| {
            let mut shape = map.clone();
            for (name, value) in &mut shape {
                *value = kept(name, value).unwrap_or(HeaderValue::from_static(""));
            }
            Self(shape)
        })
    }

    /// The names, in their order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.keys()
    }

    /// A map of this shape, whose values are those that were kept, or empty.
    #[inline]
    pub(crate) fn copy(&self) -> HeaderMap {
        self.0.clone()
    }
}

/// The shape of the first finished map that was shown to it.
#[derive(Debug, Default)]
pub(crate) struct FirstShape(OnceLock<Shape>);

impl FirstShape {
    /// Takes the shape of a finished map, if none was taken yet.
    pub(crate) fn take(&self, finished: &HeaderMap) {
        if self.0.get().is_none()
            && let Some(shape) = Shape::of(finished, |_, _| None)
        {
            let _ = self.0.set(shape);
        }
    }

    /// The finished map of a response, if it has this shape.
    fn filled(&self, headers: &HeaderMap, tells: bool) -> Option<HeaderMap> {
        let shape = self.0.get()?;
        let mut names = shape.names();
        let slots = names.next() == Some(&AGE) && (!tells || names.next() == Some(&CACHE_STATUS));
        if !slots || headers.len() != headers.keys_len() || !names.eq(headers.keys()) {
            return None;
        }
        let mut filled = shape.copy();
        let mut values = filled.values_mut();
        *values.next()? = HeaderValue::from_static("0");
        if tells {
            values.next();
        }
        values.zip(headers.values()).for_each(|(place, value)| *place = value.clone());
        Some(filled)
    }
}

/// What the map of a store keeps for each entry besides the entry: its slot, its index, its share of ghosts, and the
/// record of its expiry.
const PER_ENTRY: usize = 160;

/// An allocation's own overhead, rounding included, on the average of common allocators.
const PER_ALLOCATION: usize = 16;

fn weigh(key: &Key, names: &Namespaces, content: &Content, http: Option<&Http>) -> u64 {
    let http = http.map_or(0, |http| size_of_val(http) + PER_ALLOCATION);
    let content = match content {
        Content::Response { headers, body, trailers, .. } => {
            header_bytes(headers)
                + body.len()
                + PER_ALLOCATION
                + trailers.as_deref().map_or(0, |map| size_of::<HeaderMap>() + header_bytes(map))
        }
        Content::Variants(fields) => {
            let names = fields.names().iter();
            names.map(|name| size_of::<HeaderName>() + name.as_str().len()).sum::<usize>() + PER_ALLOCATION
        }
    };
    let fixed = size_of::<Entry>() + PER_ENTRY + 4 * PER_ALLOCATION;
    (fixed + key.heap() + names.heap() + content + http) as u64
}

fn header_bytes(map: &HeaderMap) -> usize {
    // A field in the map: its name, its value, its hash and link; and its share of the index.
    const FIELD: usize = size_of::<HeaderName>() + size_of::<HeaderValue>() + 24 + 8;
    let text: usize = map.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_ALLOCATION).sum();
    map.capacity() * FIELD + text + 2 * PER_ALLOCATION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_map_that_is_filled_in_is_the_one_that_is_made_anew() {
        let one = [("content-type", "a"), ("etag", "b"), ("x-c", "c")];
        let shapes = [
            map(&one),
            map(&[("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("etag", "y"), ("content-type", "x"), ("x-c", "z")]),
            map(&[("content-type", "x"), ("etag", "y"), ("etag", "y2"), ("x-c", "z")]),
            map(&[("age", "7"), ("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("cache-status", "before"), ("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("content-type", "x"), ("etag", "y"), ("x-d", "z")]),
            map(&[("content-type", "x")]),
            map(&[]),
        ];
        let lines = |map: &HeaderMap| map.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>();
        for (taken, told) in shapes.iter().flat_map(|taken| [(taken, false), (taken, true)]) {
            let shape = FirstShape::default();
            shape.take(&finished(taken, told, 0, &FirstShape::default()));
            for (headers, tells) in shapes.iter().flat_map(|headers| [(headers, false), (headers, true)]) {
                let anew = finished(headers, tells, 0, &FirstShape::default());
                assert_eq!(lines(&finished(headers, tells, 0, &shape)), lines(&anew), "{headers:?}, {taken:?}");
            }
        }
    }
}
