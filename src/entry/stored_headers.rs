//! The header fields of stored responses.
//!
//! Most responses of one route have the same names and several equal values. Such a response keeps a reference to the map that they share, and one
//! block of the values that differ.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    mem, ptr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, AGE},
};

use crate::semantics::CACHE_STATUS;

/// The header fields of a stored response. The first field is `Age`, which each hit sets. The second may be an empty `Cache-Status`, which each hit
/// sets as well.
#[derive(Debug, Clone)]
pub(crate) enum StoredHeaders {
    /// All fields in a map.
    Map(HeaderMap),
    /// The values that differ from those of a map that many responses share.
    Compact(CompactHeaders),
}

/// The fields of a response that differ from those of other responses in a few values.
#[derive(Debug, Clone)]
pub(crate) struct CompactHeaders {
    common: Arc<CommonHeaders>,
    /// A bit for each field of the common map. It is set if the block has the value of the field.
    own: u32,
    /// The lengths of the own values, two bytes each, and the values.
    block: Bytes,
}

/// The map that many responses share. Each name occurs once.
#[derive(Debug)]
pub(crate) struct CommonHeaders {
    map: HeaderMap,
    /// The number of places for `Age` and `Cache-Status`.
    slots: usize,
    /// The values after these places.
    values: Box<[HeaderValue]>,
}

/// The largest number of fields in a common map.
pub(crate) const MOST: usize = 24;

/// The largest length of a value in a block.
const LONGEST_OWN: usize = u16::MAX as usize;

impl CommonHeaders {
    /// Returns the common map of responses with the fields of this one, or `None` if it has too many fields or a name twice. It has the values of
    /// [fields about the site](is_common). All others are empty.
    pub(crate) fn of(stored: &HeaderMap, slots: usize) -> Option<Self> {
        let kept = |name: &HeaderName, value: &HeaderValue| is_common(name) && is_lasting(name, value);
        let map = emptied(stored, |name, value| kept(name, value).then(|| interned(value))?)?;
        let values = map.values().skip(slots).cloned().collect();
        Some(Self { map, slots, values })
    }

    /// Returns true if the fields of a response have these names, in this order, and values that a block can hold.
    #[inline]
    pub(crate) fn fits(&self, headers: &HeaderMap) -> bool {
        headers.len() + self.slots == self.map.len()
            && headers.keys_len() == headers.len()
            && headers.keys().eq(self.map.keys().skip(self.slots))
            && headers.values().all(|value| !value.is_sensitive() && value.len() <= LONGEST_OWN)
    }

    /// Returns the stored fields of a response that [fits](Self::fits).
    #[inline]
    pub(crate) fn compact(self: &Arc<Self>, headers: &HeaderMap) -> StoredHeaders {
        let mut values: [&[u8]; MOST] = [&[]; MOST];
        let (mut own, mut count, mut len) = (0_u32, 0, 0);
        for (place, (value, common)) in headers.values().zip(&self.values).enumerate() {
            let value = value.as_bytes();
            if value != common.as_bytes() {
                values[count] = value;
                own |= 1 << place;
                count += 1;
                len += value.len();
            }
        }
        let values = &values[..count];
        let mut block = Vec::with_capacity(2 * count + len);
        values.iter().for_each(|value| block.extend_from_slice(&(value.len() as u16).to_le_bytes()));
        values.iter().for_each(|value| block.extend_from_slice(value));
        StoredHeaders::Compact(CompactHeaders { common: self.clone(), own, block: block.into() })
    }
}

impl CompactHeaders {
    /// Returns all fields in a map of exact size.
    #[inline]
    fn to_map(&self) -> HeaderMap {
        let mut map = self.common.map.clone();
        let (mut own, mut lengths, mut start) = (self.own, &self.block[..], 2 * self.own.count_ones() as usize);
        let mut places = map.values_mut();
        (0..self.common.slots).for_each(|_| _ = places.next());
        while own != 0
            && let Some(place) = places.next()
        {
            if own & 1 == 1
                && let Some((length, rest)) = lengths.split_first_chunk::<2>()
            {
                let end = start + usize::from(u16::from_le_bytes(*length));
                let value = HeaderValue::from_maybe_shared(self.block.slice(start..end));
                *place = value.expect("the block was made from values");
                (lengths, start) = (rest, end);
            }
            own >>= 1;
        }
        map
    }
}

impl StoredHeaders {
    /// Returns all fields.
    pub(crate) fn map(&self) -> Cow<'_, HeaderMap> {
        match self {
            Self::Map(map) => Cow::Borrowed(map),
            Self::Compact(compact) => Cow::Owned(compact.to_map()),
        }
    }

    /// Returns a copy of all fields, in a map of exact size.
    #[inline]
    pub(crate) fn to_map(&self) -> HeaderMap {
        match self {
            Self::Map(map) => map.clone(),
            Self::Compact(compact) => compact.to_map(),
        }
    }

    /// Returns all fields.
    #[inline]
    pub(crate) fn into_map(self) -> HeaderMap {
        match self {
            Self::Map(map) => map,
            Self::Compact(compact) => compact.to_map(),
        }
    }

    /// Inserts one more field.
    pub(crate) fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let mut map = mem::take(self).into_map();
        map.insert(name, value);
        *self = Self::Map(map);
    }

    /// Returns true if the values share a common map.
    pub(super) fn is_compact(&self) -> bool {
        matches!(self, Self::Compact(_))
    }

    /// Returns the bytes of the fields outside the struct itself, without those that other responses share.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Map(map) => header_bytes(map),
            Self::Compact(compact) => compact.block.len() + 2 * PER_ALLOCATION,
        }
    }
}

impl Default for StoredHeaders {
    fn default() -> Self {
        Self::Map(HeaderMap::new())
    }
}

impl From<HeaderMap> for StoredHeaders {
    fn from(map: HeaderMap) -> Self {
        Self::Map(map)
    }
}

impl PartialEq for StoredHeaders {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Compact(one), Self::Compact(other)) if Arc::ptr_eq(&one.common, &other.common) => {
                (one.own, &one.block) == (other.own, &other.block)
            }
            _ => self.map() == other.map(),
        }
    }
}

/// Returns the header map that hits clone. It has exact size, with a slot for `Age` first. With `has_status_slot`, a slot for `Cache-Status` follows,
/// because hits report there. If earlier caches have written a `Cache-Status`, the field has no slot and is appended on each hit.
///
/// The map has room for `more` further fields.
pub(crate) fn stored_map(headers: &HeaderMap, has_status_slot: bool, more: usize) -> HeaderMap {
    let has_status_slot = has_status_slot && !headers.contains_key(CACHE_STATUS);
    let mut finished = HeaderMap::with_capacity(headers.keys_len() + 1 + usize::from(has_status_slot) + more);
    finished.insert(AGE, HeaderValue::from_static("0"));
    if has_status_slot {
        finished.insert(CACHE_STATUS, HeaderValue::from_static(""));
    }
    let fields = || headers.iter().filter(|(name, _)| *name != AGE);
    for (name, _) in fields() {
        finished.append(name.clone(), HeaderValue::from_static(""));
    }
    fill_in(&mut finished, 1 + usize::from(has_status_slot), fields().map(|(_, value)| value));
    finished
}

/// Returns fields whose values share no memory with a read buffer.
pub(crate) fn own_fields(mut fields: HeaderMap) -> HeaderMap {
    let values: Vec<_> = fields.values().cloned().collect();
    fill_in(&mut fields, 0, values.iter());
    fields
}

/// Copies values into a map, after the first `slots` of its places.
///
/// A received value is a slice of the buffer that it was read into. The buffer may be a thousand times as large, and no weight counts it.
/// All copies share one allocation, except for values that are part of the program.
#[inline]
fn fill_in<'a>(map: &mut HeaderMap, slots: usize, values: impl Iterator<Item = &'a HeaderValue>) {
    let mut own = [const { None }; MOST];
    let (mut count, mut len) = (0, 0);
    for (place, value) in map.values_mut().skip(slots).zip(values) {
        match common(value) {
            Some(common) if ptr::eq(place.as_bytes(), common.as_bytes()) => {}
            Some(common) => *place = HeaderValue::from_static(common),
            None if count < MOST => {
                len += value.len();
                own[count] = Some((place, value));
                count += 1;
            }
            None => *place = copied(value),
        }
    }
    let own = &mut own[..count];
    let mut all = Vec::with_capacity(len);
    own.iter().flatten().for_each(|(_, value)| all.extend_from_slice(value.as_bytes()));
    let mut all = Bytes::from(all);
    for (place, value) in own.iter_mut().flatten() {
        // The last value takes the allocation itself, without another reference.
        let copy = if value.len() == all.len() { mem::take(&mut all) } else { all.split_to(value.len()) };
        let mut copy = HeaderValue::from_maybe_shared(copy).unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        **place = copy;
    }
}

/// Returns a copy of a value that shares no memory with a read buffer.
pub(super) fn copied(value: &HeaderValue) -> HeaderValue {
    match common(value) {
        Some(common) => HeaderValue::from_static(common),
        None => HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone()),
    }
}

/// Returns a value that many responses have, as a static string that needs no memory.
#[inline]
pub(crate) fn common(value: &HeaderValue) -> Option<&'static str> {
    let common = match value.as_bytes() {
        b"" => "",
        b"0" => "0",
        b"accept" => "accept",
        b"accept-encoding" => "accept-encoding",
        b"application/grpc" => "application/grpc",
        b"application/json" => "application/json",
        b"application/octet-stream" => "application/octet-stream",
        b"br" => "br",
        b"bytes" => "bytes",
        b"gzip" => "gzip",
        b"max-age=300" => "max-age=300",
        b"max-age=3600" => "max-age=3600",
        b"max-age=60" => "max-age=60",
        b"no-cache" => "no-cache",
        b"nosniff" => "nosniff",
        b"origin" => "origin",
        b"public, max-age=300" => "public, max-age=300",
        b"public, max-age=3600" => "public, max-age=3600",
        b"public, max-age=60" => "public, max-age=60",
        b"text/html" => "text/html",
        b"text/html; charset=utf-8" => "text/html; charset=utf-8",
        b"text/plain" => "text/plain",
        b"text/plain; charset=utf-8" => "text/plain; charset=utf-8",
        b"zstd" => "zstd",
        _ => return None,
    };
    (!value.is_sensitive()).then_some(common)
}

/// Returns a copy of a map with the values that `kept` returns, and all others empty. `None` if the map has too many fields, or one of them
/// twice.
pub(crate) fn emptied(map: &HeaderMap, kept: impl Fn(&HeaderName, &HeaderValue) -> Option<HeaderValue>) -> Option<HeaderMap> {
    (map.len() == map.keys_len() && map.len() <= MOST).then(|| {
        let mut emptied = map.clone();
        for (name, value) in &mut emptied {
            *value = kept(name, value).unwrap_or(HeaderValue::from_static(""));
        }
        emptied
    })
}

/// The longest value that other responses probably share.
const LONGEST_LASTING: usize = 64;

/// The number of values that are kept as static strings, at most 256 KiB.
const MOST_INTERNED: usize = 4 << 10;

/// Returns true for a value that other responses probably share.
pub(crate) fn is_lasting(name: &HeaderName, value: &HeaderValue) -> bool {
    let is_of_one = matches!(
        *name,
        header::CONTENT_LENGTH
            | header::CONTENT_LOCATION
            | header::CONTENT_RANGE
            | header::DATE
            | header::ETAG
            | header::EXPIRES
            | header::LAST_MODIFIED
            | header::LOCATION
            | header::SET_COOKIE
    );
    !is_of_one && !value.is_sensitive() && value.len() <= LONGEST_LASTING
}

/// Returns true for a field about the site. Its value says nothing about one user, so that it may stay in memory after its response has left.
fn is_common(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::ACCEPT_RANGES
            | header::ACCESS_CONTROL_ALLOW_CREDENTIALS
            | header::ACCESS_CONTROL_ALLOW_HEADERS
            | header::ACCESS_CONTROL_ALLOW_METHODS
            | header::ACCESS_CONTROL_ALLOW_ORIGIN
            | header::ACCESS_CONTROL_EXPOSE_HEADERS
            | header::ACCESS_CONTROL_MAX_AGE
            | AGE
            | header::ALT_SVC
            | header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_LANGUAGE
            | header::CONTENT_SECURITY_POLICY
            | header::CONTENT_TYPE
            | header::REFERRER_POLICY
            | header::SERVER
            | header::STRICT_TRANSPORT_SECURITY
            | header::VARY
            | header::VIA
            | header::X_CONTENT_TYPE_OPTIONS
            | header::X_FRAME_OPTIONS
    )
}

/// Returns the value as a static string, so that its clones change no reference count that threads share. Returns `None` if the process has too many
/// such strings already.
fn interned(value: &HeaderValue) -> Option<HeaderValue> {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    if let Some(common) = common(value) {
        return Some(HeaderValue::from_static(common));
    }
    let text = value.to_str().ok()?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known.get(text) {
        return Some(HeaderValue::from_static(known));
    }
    if known.len() == MOST_INTERNED {
        return None;
    }
    let text: &'static str = text.to_owned().leak();
    known.insert(text);
    Some(HeaderValue::from_static(text))
}

/// The overhead of an allocation, with rounding, for common allocators on average.
pub(crate) const PER_ALLOCATION: usize = 16;

pub(crate) fn whole_map(map: &HeaderMap) -> usize {
    size_of::<HeaderMap>() + header_bytes(map)
}

/// Returns the bytes of a header map outside the struct itself.
pub(crate) fn header_bytes(map: &HeaderMap) -> usize {
    // One field in the map: its name, value, hash and link, and its share of the index.
    const FIELD: usize = size_of::<HeaderName>() + size_of::<HeaderValue>() + 24 + 8;
    let text: usize = map.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_ALLOCATION).sum();
    map.capacity() * FIELD + text + 2 * PER_ALLOCATION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_map_keeps_no_value_about_a_user() {
        let fields =
            [("content-type", "text/csv"), ("x-user", "ada"), ("etag", "\"1\""), ("location", "/users/ada"), ("server", "s")];
        let fields = fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let stored = stored_map(&HeaderMap::from_iter(fields), true, 0);
        let common = CommonHeaders::of(&stored, 2).expect("each name occurs once");
        let kept: Vec<_> = common.map.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(kept, ["age", "content-type", "server"]);
    }
}
