//! Entries: stored responses with their keys, stamps, namespaces and times.

pub(crate) mod header_template;
pub(crate) mod stamp;
pub(crate) mod stored_headers;
pub(crate) mod times;
pub(crate) mod validity;

use std::{
    cell::Cell,
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use self::{
    stamp::Stamp,
    stored_headers::{PER_ALLOCATION, StoredHeaders, own_fields, whole_map},
    times::{Http, Times},
};
use crate::{clock::system_time, key::Key, namespace::set::Namespaces, semantics::Vary};

/// A stored response with its key, its stamp, its namespaces and its times. It never changes.
pub struct Entry {
    key: Key,
    stamp: Stamp,
    names: Namespaces,
    times: Times,
    content: Content,
    http: Option<Box<Http>>,
    weight: Weight,
    removed: AtomicBool,
}

/// The weight of an entry; or, before it is computed, the bytes that the entry keeps alive beside its parts.
#[derive(Debug)]
struct Weight(AtomicU64);

/// The bit of a weight that is not computed yet.
const NOT_COMPUTED: u64 = 1 << 63;

impl Weight {
    fn of(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }
}

/// The content of an entry.
#[derive(Clone)]
pub(crate) enum Content {
    /// A response.
    Response { status: StatusCode, headers: StoredHeaders, body: Bytes, trailers: Option<Box<HeaderMap>> },
    /// The request fields by which the responses of the key vary. The responses are stored under the keys of their variants.
    Variants(Vary),
}

impl Content {
    /// Returns the bytes of the content.
    fn bytes(&self) -> usize {
        match self {
            Self::Response { headers, body, trailers, .. } => {
                headers.bytes() + body.len() + PER_ALLOCATION + trailers.as_deref().map_or(0, whole_map)
            }
            Self::Variants(fields) => {
                let names = fields.names().iter();
                names.map(|name| size_of::<HeaderName>() + name.as_str().len()).sum::<usize>() + PER_ALLOCATION
            }
        }
    }
}

/// A response before it gets its key and its stamp.
pub(crate) struct Response {
    pub(crate) names: Namespaces,
    pub(crate) times: Times,
    pub(crate) status: StatusCode,
    pub(crate) headers: StoredHeaders,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    pub(crate) http: Option<Box<Http>>,
}

thread_local! {
    /// The entry that this thread evicted last, without its body. A full store evicts about one entry for each new one.
    static ASIDE: Cell<Option<Arc<Entry>>> = const { Cell::new(None) };
}

/// The maximum size of an entry that is put aside, in bytes.
const MOST_ASIDE: u64 = 4 << 10;

/// An entry before it gets its key and its stamp.
pub(crate) struct Draft {
    pub(crate) names: Namespaces,
    pub(crate) times: Times,
    pub(crate) content: Content,
    pub(crate) http: Option<Box<Http>>,
}

impl Entry {
    pub(crate) fn new(key: Key, stamp: Stamp, draft: Draft) -> Self {
        let Draft { mut names, times, content, http } = draft;
        names.shrink();
        let weight = Weight::of(weigh(&key, &names, http.as_deref(), content.bytes()));
        Self { key, stamp, names, times, content, http, weight, removed: AtomicBool::new(false) }
    }

    /// Returns the entry of a response, in the memory of an entry that was [put aside](Self::put_aside) if there is one.
    #[inline]
    pub(crate) fn of_response(key: Key, stamp: Stamp, response: Response) -> Arc<Self> {
        let Response { mut names, times, status, headers, body, trailers, http } = response;
        names.shrink();
        let trailers = trailers.map(|trailers| Box::new(own_fields(*trailers)));
        let content = headers.bytes() + body.len() + PER_ALLOCATION + trailers.as_deref().map_or(0, whole_map);
        let weight = Weight::of(weigh(&key, &names, http.as_deref(), content));
        let content = Content::Response { status, headers, body, trailers };
        let entry = Self { key, stamp, names, times, content, http, weight, removed: AtomicBool::new(false) };
        let aside = ASIDE.try_with(Cell::take).ok().flatten();
        match aside {
            Some(mut place) => match Arc::get_mut(&mut place) {
                Some(sole) => {
                    *sole = entry;
                    place
                }
                None => Arc::new(entry),
            },
            None => Arc::new(entry),
        }
    }

    /// Puts an evicted entry aside, so that the next entry of this thread reuses its memory. The body is dropped. A large entry, one with a header map
    /// of its own, and one that is still in use are dropped completely.
    pub(crate) fn put_aside(mut entry: Arc<Self>) {
        let Some(sole) = Arc::get_mut(&mut entry) else { return };
        let whole = sole.weight();
        let Content::Response { body, headers, trailers: None, .. } = &mut sole.content else { return };
        if !headers.is_compact() || whole - body.len() as u64 > MOST_ASIDE {
            return;
        }
        drop(mem::take(body));
        let _ = ASIDE.try_with(|aside| aside.set(Some(entry)));
    }

    /// Returns an entry with the stamp, the namespaces and the times of this one, under another key.
    pub(crate) fn like(&self, key: Key, content: Content) -> Self {
        let Self { stamp, names, times, http, .. } = self;
        Self::new(key, stamp.clone(), Draft { names: names.clone(), times: *times, content, http: http.clone() })
    }

    /// Returns a copy under another stamp. The body is not copied. A stamp that was not taken before the response was computed breaks the
    /// protocol of every store. Tests use this to show that they detect it.
    #[cfg(feature = "redis")]
    pub fn stamped(&self, stamp: Stamp) -> Self {
        let Self { key, names, times, content, http, weight, .. } = self;
        Self {
            key: key.clone(),
            stamp,
            names: names.clone(),
            times: *times,
            content: content.clone(),
            http: http.clone(),
            weight: Weight::of(weight.0.load(Ordering::Relaxed)),
            removed: AtomicBool::new(false),
        }
    }

    /// Returns an entry that was decoded from a buffer. It keeps `held` bytes of the buffer alive beside its body. The weight is computed when it is
    /// needed, since most of these entries are served and dropped.
    #[cfg(feature = "redis")]
    #[inline]
    pub(crate) fn held(key: Key, stamp: Stamp, draft: Draft, held: usize) -> Self {
        let Draft { mut names, times, content, http } = draft;
        names.shrink();
        let weight = Weight::of(NOT_COMPUTED | held as u64);
        Self { key, stamp, names, times, content, http, weight, removed: AtomicBool::new(false) }
    }

    /// Returns the key. It is compared in full before the entry is served.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the stamp, which was taken before the response was computed.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Returns the namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.names
    }

    /// Returns the time after which the entry is not served, not even stale.
    pub fn expires(&self) -> SystemTime {
        system_time(self.times.expires())
    }

    /// Returns true if another entry holds the same response of the same fill. Keys and stamps may differ.
    pub(crate) fn is_same_response(&self, other: &Self) -> bool {
        let (
            Content::Response { status, headers, body, trailers },
            Content::Response { status: s, headers: h, body: b, trailers: t },
        ) = (&self.content, &other.content)
        else {
            return false;
        };
        self.times.are_those_of(&other.times) && (status, headers, trailers) == (s, h, t) && body == b
    }

    /// Returns the weight in bytes: body, header fields, key, namespaces and overhead.
    pub fn weight(&self) -> u64 {
        let weight = self.weight.0.load(Ordering::Relaxed);
        if weight & NOT_COMPUTED == 0 {
            return weight;
        }
        let held = weight & !NOT_COMPUTED;
        let weight = weigh(&self.key, &self.names, self.http(), self.content.bytes()) + held;
        self.weight.0.store(weight, Ordering::Relaxed);
        weight
    }

    /// Records that the entry was removed or replaced in its store.
    pub(crate) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    /// Returns true if the entry was removed or replaced in its store. A hot response of it is then outdated.
    #[inline]
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn times(&self) -> &Times {
        &self.times
    }

    /// Returns the HTTP data, if the entry was stored under a rule where HTTP decides.
    #[inline]
    pub(crate) fn http(&self) -> Option<&Http> {
        self.http.as_deref()
    }

    #[inline]
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Takes the response out of an entry that is dropped afterwards.
    #[inline]
    pub(crate) fn take_response(&mut self) -> Option<(StatusCode, HeaderMap, Bytes, Option<Box<HeaderMap>>)> {
        match &mut self.content {
            Content::Response { status, headers, body, trailers } => {
                Some((*status, mem::take(headers).into_map(), mem::take(body), trailers.take()))
            }
            Content::Variants(_) => None,
        }
    }
}

/// Shows no header field and no byte of the body, because these may belong to one user.
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

/// The overhead of a store for each entry: its slot in the table, its index, its share of ghosts, and the record of its expiry.
const PER_ENTRY: usize = 160;

#[inline]
fn weigh(key: &Key, names: &Namespaces, http: Option<&Http>, content: usize) -> u64 {
    let http = http.map_or(0, |http| size_of_val(http) + PER_ALLOCATION);
    let fixed = size_of::<Entry>() + PER_ENTRY + 4 * PER_ALLOCATION;
    (fixed + key.heap() + names.heap() + http + content) as u64
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use http::{
        HeaderValue,
        header::{CONTENT_TYPE, ETAG},
    };

    use super::*;
    use crate::entry::{header_template::HeaderTemplate, stored_headers::stored_map};

    fn fields(kind: &str, tag: &str) -> HeaderMap {
        let value = |value: &str| HeaderValue::from_str(value).expect("a value");
        HeaderMap::from_iter([(CONTENT_TYPE, value(kind)), (ETAG, value(tag))])
    }

    fn entry(shape: &HeaderTemplate, key: &str, fields: &HeaderMap, body: &str) -> Arc<Entry> {
        let names = Namespaces::root();
        let times = Times {
            born: 1,
            fresh_until: 2,
            while_revalidate_until: 3,
            if_error_until: 4,
            kept_until: 5,
            cost: key.len() as u64,
        };
        let (status, body) = (StatusCode::OK, Bytes::copy_from_slice(body.as_bytes()));
        let headers = shape.compact(fields, false).expect("the fields fit");
        let response = Response { names, times, status, headers, body, trailers: None, http: None };
        Entry::of_response(Key::new(key.as_bytes()), Stamp::local(key.len() as u64), response)
    }

    fn shape_of(fields: &HeaderMap) -> HeaderTemplate {
        let shape = HeaderTemplate::default();
        shape.take(&stored_map(fields, false, 0), false);
        shape
    }

    /// Returns a description of the whole entry.
    fn description(entry: &Entry) -> String {
        let Content::Response { headers, body, .. } = entry.content() else { unreachable!("a response") };
        format!("{entry:?} {:?} {:?} {body:?}", entry.key().canonical(), headers.map())
    }
    #[test]
    fn recycled_entry_equals_a_new_one() {
        let shape = shape_of(&fields("a", "b"));
        let second = fields("text/html", "\"2\"");
        let anew = entry(&shape, "/second", &second, "two");
        let first = entry(&shape, "/the-first", &fields("application/json", "\"1\""), "one, which is longer");
        let at = Arc::as_ptr(&first);
        Entry::put_aside(first);
        let again = entry(&shape, "/second", &second, "two");
        assert!(ptr::eq(at, Arc::as_ptr(&again)), "it has taken its place");
        assert_eq!(description(&again), description(&anew));
    }
    #[test]
    fn shared_entry_is_not_recycled() {
        let shape = shape_of(&fields("a", "b"));
        let first = entry(&shape, "/first", &fields("a", "\"1\""), "one");
        let before = description(&first);
        Entry::put_aside(first.clone());
        let second = entry(&shape, "/second", &fields("b", "\"2\""), "two");
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(description(&first), before);
    }
}
