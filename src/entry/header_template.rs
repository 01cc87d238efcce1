//! Header maps of stored responses, and the template that the responses of one route share.

use std::{
    mem,
    ops::Deref,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, AGE},
};

use crate::semantics::{self, CACHE_STATUS};

/// The header map of a stored response.
pub(crate) struct StoredHeaders {
    map: HeaderMap,
    /// The number of the template that the map was filled from; 0 without one.
    template: u64,
    /// The bytes of the map outside the struct itself.
    bytes: usize,
}

impl StoredHeaders {
    fn new(map: HeaderMap) -> Self {
        Self { template: 0, bytes: header_bytes(&map), map }
    }

    /// Inserts one more field.
    pub(crate) fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        self.map.insert(name, value);
        (self.template, self.bytes) = (0, header_bytes(&self.map));
    }

    /// Returns the map alone.
    pub(crate) fn into_map(self) -> HeaderMap {
        self.map
    }

    /// Returns the map, the number of its template, and its bytes outside the struct itself.
    #[inline]
    pub(super) fn into_parts(self) -> (HeaderMap, u64, usize) {
        (self.map, self.template, self.bytes)
    }
}

impl Deref for StoredHeaders {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.map
    }
}

/// Returns the header map that hits clone. It has exact size, with a slot for `Age` first. With `has_status_slot`, a slot for `Cache-Status` follows,
/// because hits report there. If earlier caches have written a `Cache-Status`, the field has no slot and is appended on each hit.
///
/// The map has room for `more` further fields.
pub(crate) fn stored_headers(headers: &HeaderMap, has_status_slot: bool, more: usize) -> StoredHeaders {
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
    StoredHeaders::new(finished)
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
fn copied(value: &HeaderValue) -> HeaderValue {
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

/// The meaning of a response field for storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderKind {
    /// The field has no meaning for storing.
    Plain,
    /// `Cache-Control`.
    Directives,
    /// `Content-Type`.
    Kind,
    /// `Content-Length`.
    Length,
    /// `Age`.
    Age,
    /// `Content-Range`.
    Range,
    /// `Set-Cookie`.
    Cookie,
    /// `Vary`.
    Varies,
    /// `Content-Encoding`.
    Coding,
    /// `Content-Language`.
    Language,
    /// `Access-Control-Allow-Origin`.
    AllowedOrigin,
    /// The field is meant for one connection (RFC 9110, section 7.6.1).
    Hop,
}

impl HeaderKind {
    #[inline]
    pub(crate) fn of(name: &HeaderName) -> Self {
        match *name {
            header::CACHE_CONTROL => Self::Directives,
            header::CONTENT_TYPE => Self::Kind,
            header::CONTENT_LENGTH => Self::Length,
            header::AGE => Self::Age,
            header::CONTENT_RANGE => Self::Range,
            header::SET_COOKIE => Self::Cookie,
            header::VARY => Self::Varies,
            header::CONTENT_ENCODING => Self::Coding,
            header::CONTENT_LANGUAGE => Self::Language,
            header::ACCESS_CONTROL_ALLOW_ORIGIN => Self::AllowedOrigin,
            header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRANSFER_ENCODING
            | header::UPGRADE => Self::Hop,
            // `http` represents these names by a number, so they are recognised without comparing letters.
            header::DATE
            | header::ETAG
            | header::EXPIRES
            | header::LAST_MODIFIED
            | header::LINK
            | header::LOCATION
            | header::SERVER
            | header::X_CONTENT_TYPE_OPTIONS => Self::Plain,
            _ if matches!(name.as_str(), "keep-alive" | "proxy-authentication-info" | "proxy-connection") => Self::Hop,
            _ => Self::Plain,
        }
    }

    /// Returns true if this value does not change how its response is stored under a rule with its own lifetimes.
    #[inline]
    fn is_plain(self, value: &HeaderValue) -> bool {
        match self {
            Self::Directives => !semantics::may_restrict_storing(value.as_bytes()),
            Self::Kind => !is_event_stream(value),
            Self::AllowedOrigin => value == "*",
            _ => true,
        }
    }

    /// Returns true if such a field only has to be read.
    fn is_simple(self) -> bool {
        matches!(self, Self::Plain | Self::Directives | Self::Kind | Self::Length | Self::AllowedOrigin)
    }
}

/// The largest number of fields in a template.
const MOST: usize = 24;

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

/// The names of a stored header map. Most responses of one route have the same names. One comparison recognises them, and filling in a
/// copied map costs less than inserting each field.
#[derive(Debug, Default)]
pub(crate) struct HeaderTemplate(OnceLock<TemplateParts>);

/// A template that was taken.
#[derive(Debug)]
struct TemplateParts {
    /// The number of the template, unique in this process.
    number: u64,
    map: HeaderMap,
    /// True if there is a slot for `Cache-Status`.
    has_status_slot: bool,
    /// The number of fields after the slots.
    fields: usize,
    /// The kinds of the first fields, up to the last one that is not [plain](HeaderKind::Plain), with the values that need no further
    /// reading.
    read: Box<[(HeaderKind, HeaderValue)]>,
    /// The bytes of the map outside the struct itself, without the text of its values.
    bytes: usize,
}

impl HeaderTemplate {
    /// Takes the template of a stored map, if none was taken yet, no name occurs twice, and each field only has to be read.
    pub(crate) fn take(&self, finished: &HeaderMap, has_status_slot: bool) {
        if self.0.get().is_none() {
            self.take_first(finished, has_status_slot);
        }
    }

    #[cold]
    fn take_first(&self, finished: &HeaderMap, has_status_slot: bool) {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let has_status_slot =
            has_status_slot && finished.iter().nth(1).is_some_and(|(name, slot)| *name == CACHE_STATUS && slot.is_empty());
        let kinds = || finished.keys().skip(1 + usize::from(has_status_slot)).map(HeaderKind::of);
        if !kinds().all(HeaderKind::is_simple) {
            return;
        }
        let Some(map) = emptied(finished, |_, _| None) else { return };
        let bytes = header_bytes(&map) + "0".len();
        // A value that is not kept equals no other, so that it is read each time.
        let known = |kind: HeaderKind, value: &HeaderValue| match kind {
            HeaderKind::Directives | HeaderKind::Kind | HeaderKind::AllowedOrigin if kind.is_plain(value) => copied(value),
            _ => HeaderValue::from_static(""),
        };
        let values = finished.values().skip(1 + usize::from(has_status_slot));
        let mut read: Vec<_> = kinds().zip(values).map(|(kind, value)| (kind, known(kind, value))).collect();
        let (number, fields) = (NUMBERS.fetch_add(1, Ordering::Relaxed), read.len());
        read.truncate(read.iter().rposition(|(kind, _)| *kind != HeaderKind::Plain).map_or(0, |last| last + 1));
        let _ = self.0.set(TemplateParts { number, map, has_status_slot, fields, read: read.into(), bytes });
    }

    /// Returns true if the stored map of this response will have this template.
    #[inline]
    pub(crate) fn fits(&self, headers: &HeaderMap, has_status_slot: bool) -> bool {
        self.0.get().is_some_and(|template| template.fits(headers, has_status_slot))
    }

    /// Returns the announced length, if the stored map of this response will have this template and none of its values needs further
    /// reading.
    #[inline]
    pub(crate) fn announced_length(&self, headers: &HeaderMap, has_status_slot: bool) -> Option<Option<u64>> {
        let template = self.0.get().filter(|template| template.fits(headers, has_status_slot))?;
        let mut announced = None;
        for (value, (kind, known)) in headers.values().zip(&template.read) {
            if *kind == HeaderKind::Length {
                announced = length_in(value);
            } else if value != known && !kind.is_plain(value) {
                return None;
            }
        }
        Some(announced)
    }

    /// Returns the stored map of a response that has this template, or `None` if no template was taken.
    #[inline]
    pub(crate) fn filled(&self, headers: &HeaderMap, recycled: impl FnOnce(u64) -> Option<HeaderMap>) -> Option<StoredHeaders> {
        Some(self.0.get()?.filled(headers, recycled))
    }
}

impl TemplateParts {
    #[inline]
    fn fits(&self, headers: &HeaderMap, has_status_slot: bool) -> bool {
        self.has_status_slot == has_status_slot
            && headers.len() == self.fields
            && headers.keys_len() == headers.len()
            && headers.keys().eq(self.map.keys().skip(1 + usize::from(has_status_slot)))
    }

    #[inline]
    fn filled(&self, headers: &HeaderMap, recycled: impl FnOnce(u64) -> Option<HeaderMap>) -> StoredHeaders {
        let mut map = match recycled(self.number) {
            Some(map) => map,
            None => self.map.clone(),
        };
        if let Some(age) = map.values_mut().next() {
            *age = HeaderValue::from_static("0");
        }
        fill_in(&mut map, 1 + usize::from(self.has_status_slot), headers.values());
        let bytes = self.bytes + headers.values().map(HeaderValue::len).sum::<usize>();
        StoredHeaders { map, template: self.number, bytes }
    }
}

/// Returns true for the `Content-Type` of an event stream, which does not end in a useful time.
#[inline]
pub(crate) fn is_event_stream(kind: &HeaderValue) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = kind.as_bytes();
    kind.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
}

/// Returns the number in a `Content-Length`.
pub(crate) fn length_in(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
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

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }
    #[test]
    fn filled_in_header_map_equals_a_new_one() {
        let one = [("content-type", "a"), ("etag", "b"), ("x-c", "c")];
        let samples = [
            map(&one),
            map(&[("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("etag", "y"), ("content-type", "x"), ("x-c", "z")]),
            map(&[("content-type", "x"), ("etag", "y"), ("etag", "y2"), ("x-c", "z")]),
            map(&[("age", "7"), ("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("cache-status", "before"), ("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("cache-status", "before")]),
            map(&[("content-type", "x"), ("etag", "y"), ("x-d", "z")]),
            map(&[("content-type", "x")]),
            map(&[]),
        ];
        let lines = |map: &HeaderMap| map.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>();
        let mut filled = 0;
        for (taken, told) in samples.iter().flat_map(|taken| [(taken, false), (taken, true)]) {
            let template = HeaderTemplate::default();
            template.take(&stored_headers(taken, told, 0), told);
            for (headers, has_status_slot) in samples.iter().flat_map(|headers| [(headers, false), (headers, true)]) {
                if !template.fits(headers, has_status_slot) {
                    continue;
                }
                let (made, anew) =
                    (template.filled(headers, |_| None).expect("a template"), stored_headers(headers, has_status_slot, 0));
                assert_eq!(lines(&made), lines(&anew), "{headers:?}, {taken:?}");
                assert_eq!(made.bytes, anew.bytes, "{headers:?}");
                filled += 1;
            }
        }
        assert!(filled > samples.len(), "{filled}");
    }
    #[test]
    fn kept_values_are_no_slices_of_read_buffers() {
        let buffer = Bytes::from(b"max-age=60;application/xml;\"tag\";secret;".repeat(100));
        let value = |from: usize, to: usize| HeaderValue::from_maybe_shared(buffer.slice(from..to)).expect("a value");
        let mut secret = value(33, 39);
        secret.set_sensitive(true);
        let fields =
            [("cache-control", value(0, 10)), ("content-type", value(11, 26)), ("etag", value(27, 32)), ("x-a", secret)];
        let headers: HeaderMap = fields.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
        let template = HeaderTemplate::default();
        let made = stored_headers(&headers, false, 0);
        template.take(&made, false);
        let taken = template.0.get().expect("a template");
        for kept in [&made, &template.filled(&headers, |_| None).expect("a template").map, &own_fields(headers.clone())] {
            for (name, value) in &headers {
                assert_eq!(kept[name], value);
                assert_eq!(kept[name].is_sensitive(), value.is_sensitive());
            }
            let inside = |value: &HeaderValue| buffer.as_ptr_range().contains(&value.as_bytes().as_ptr());
            assert!(!kept.values().chain(taken.read.iter().map(|(_, value)| value)).any(inside));
        }
    }
    #[test]
    fn unusual_headers_have_no_template() {
        for name in ["vary", "set-cookie", "content-range", "connection", "keep-alive"] {
            let headers = map(&[("content-type", "a"), (name, "b")]);
            let template = HeaderTemplate::default();
            template.take(&stored_headers(&headers, false, 0), false);
            assert!(!template.fits(&headers, false), "{name}");
        }
    }
    #[test]
    fn changed_value_is_read_again() {
        let with = |control: &'static str, kind: &'static str| {
            map(&[("cache-control", control), ("content-type", kind), ("x-c", "c")])
        };
        let forbidden =
            [("no-store", "a"), ("private", "a"), ("max-age=60, no-cache", "a"), ("max-age=60", "text/event-stream")];
        for first in [with("max-age=60", "a"), with("private=\"x-c\"", "text/event-stream")] {
            let template = HeaderTemplate::default();
            template.take(&stored_headers(&first, false, 0), false);
            for (control, kind) in forbidden {
                assert_eq!(template.announced_length(&with(control, kind), false), None, "{control}, {kind}");
            }
            assert_eq!(template.announced_length(&with("max-age=60", "a"), false), Some(None));
            assert_eq!(template.announced_length(&with("max-age=5", "b"), false), Some(None));
        }
        let long = map(&[("content-length", "7"), ("x-c", "c")]);
        let template = HeaderTemplate::default();
        template.take(&stored_headers(&long, false, 0), false);
        assert_eq!(template.announced_length(&long, false), Some(Some(7)));
    }
}
