//! The decoder: the contents of an entry from bytes that may be anything.
//!
//! Each length is checked before it is used. Nothing is allocated that the bytes are too short to fill. Only the exact form of `encode.rs`
//! is accepted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    compression,
    header_cache::{self, CachedHeaders, Written},
    header_names,
};
use crate::{
    codec::frame::{Damaged, Moment},
    entry::{
        Content, Draft, Entry,
        stamp::{Generation, Stamp},
        times::{Http, Times},
    },
    key::KeyRef,
    namespace::set::{Name, Namespaces, Place},
    semantics::{Freshness, Vary},
};

/// Bits of the parts.
pub(crate) const VARIANTS: u8 = 1;

pub(crate) const STAR: u8 = 2;

pub(crate) const HTTP: u8 = 4;

pub(crate) const TRAILERS: u8 = 8;

pub(crate) const PACKED: u8 = 16;

/// The bit of a field's tag for several values.
pub(crate) const REPEATED: u8 = 0x80;

/// The length of a generation in bytes.
const GENERATION: usize = 24;

/// Returns `bit` if `on`, and 0 otherwise.
pub(crate) fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// Decodes the entry of this key.
///
/// `moment` translates its times. Its stamp has the epoch and time of `seen`, and shares generations that are equal. `likely` are the names
/// that it probably has. A body of more than `max_body` bytes is not decompressed.
pub(super) fn entry(
    contents: Bytes,
    compressed: bool,
    key: KeyRef<'_>,
    likely: &Namespaces,
    (seen, moment, max_body): (&Stamp, Option<Moment>, usize),
) -> Result<Arc<Entry>, Damaged> {
    let whole = contents.len();
    let (length, _) = contents.split_first_chunk::<4>().ok_or(Damaged::Truncated)?;
    let body_at = (u32::from_le_bytes(*length) as usize).checked_add(4).filter(|at| *at <= whole).ok_or(Damaged::Truncated)?;
    let body = contents.slice(body_at..);
    // A decompressed body does not use these bytes, and header values must not keep the compressed ones alive.
    let (head, held) = match compressed {
        true => (Bytes::copy_from_slice(&contents[4..body_at]), body_at - 4),
        false => (contents.slice(4..body_at), body_at),
    };
    drop(contents);

    let mut at = Cursor { whole: &head, rest: &head };
    if at.prefixed()? != key.canonical() {
        return Err(Damaged::Foreign);
    }
    let mut times = at.times()?;
    let parts = at.parts(compressed)?;
    let names = at.namespaces_like(likely)?;
    let stamp = seen.but(at.generations_like(names.count(), seen)?);
    let mut http = if parts & HTTP == 0 { None } else { Some(Box::new(at.rules()?)) };
    if let Some(moment) = moment {
        moment.reads(&mut times, http.as_deref_mut());
    }
    let content = match parts & VARIANTS {
        0 => at.response(parts, body, outermost(&names), max_body)?,
        _ if body.is_empty() => at.variants(parts)?,
        _ => return Err(Damaged::Trailing),
    };
    if !at.rest.is_empty() {
        return Err(Damaged::Trailing);
    }
    Ok(Arc::new(Entry::held(key.to_owned(), stamp, Draft { names, times, content, http }, held)))
}

/// Reads the names of an entry and their generations, without checking its key.
pub(super) fn generations(contents: &Bytes, compressed: bool) -> Result<super::frame::Stamped, Damaged> {
    let (length, _) = contents.split_first_chunk::<4>().ok_or(Damaged::Truncated)?;
    let end = (u32::from_le_bytes(*length) as usize).checked_add(4).filter(|end| *end <= contents.len());
    let head = contents.slice(4..end.ok_or(Damaged::Truncated)?);
    let mut at = Cursor { whole: &head, rest: &head };
    at.prefixed()?;
    at.times()?;
    at.parts(compressed)?;
    let names = at.namespaces()?;
    let generations = at.generations(names.count())?;
    Ok((names, generations))
}

/// Adds a value of a field. `new` states whether it must be the first one of its name.
#[inline]
fn is_new(map: &mut HeaderMap, name: HeaderName, value: HeaderValue, new: bool) -> Result<(), Damaged> {
    match map.try_append(name, value) {
        Ok(appended) if appended != new => Ok(()),
        _ => Err(Damaged::Malformed),
    }
}

/// Returns a hash of the outermost name below the root, which most entries of a rule share.
#[inline]
fn outermost(names: &Namespaces) -> u64 {
    match names.names().nth(1) {
        Some(Name::Text { hash, .. }) => hash,
        _ => 0,
    }
}

#[inline]
fn generation(bytes: &[u8; GENERATION]) -> Option<Generation> {
    let (hard, soft) = (bytes.first_chunk()?, bytes.last_chunk()?);
    Some(Generation { hard: u128::from_le_bytes(*hard), soft: u64::from_le_bytes(*soft) })
}

/// A position in the head.
struct Cursor<'a> {
    whole: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn times(&mut self) -> Result<Times, Damaged> {
        Ok(Times {
            born: self.u64()?,
            fresh_until: self.u64()?,
            while_revalidate_until: self.u64()?,
            if_error_until: self.u64()?,
            kept_until: self.u64()?,
            cost: self.u64()?,
        })
    }

    /// Reads the parts, and checks that they agree with each other.
    fn parts(&mut self, compressed: bool) -> Result<u8, Damaged> {
        let parts = self.u8()?;
        let known = match parts & VARIANTS {
            0 => HTTP | TRAILERS | PACKED,
            _ => VARIANTS | STAR | HTTP,
        };
        let agrees = compressed == (parts & PACKED != 0);
        if parts & !known == 0 && agrees { Ok(parts) } else { Err(Damaged::Malformed) }
    }

    /// Reads the names. Returns a copy of `likely` if they are equal, which is faster.
    fn namespaces_like(&mut self, likely: &Namespaces) -> Result<Namespaces, Damaged> {
        let start = self.rest;
        if self.prefixed()? == likely.text().as_bytes() && self.count(2 + GENERATION)? == likely.count() {
            let mut places = likely.places();
            if places.all(|place| self.place().is_ok_and(|read| read == place)) {
                return Ok(likely.clone());
            }
        }
        self.rest = start;
        self.namespaces()
    }

    fn namespaces(&mut self) -> Result<Namespaces, Damaged> {
        let text = str::from_utf8(self.prefixed()?).map_err(|_| Damaged::Malformed)?;
        let count = self.count(2 + GENERATION)?;
        let mut names = Namespaces::with_text(text, count);
        for _ in 0..count {
            if !names.push_place(self.place()?) {
                return Err(Damaged::Malformed);
            }
        }
        Ok(names)
    }

    #[inline]
    fn place(&mut self) -> Result<Place, Damaged> {
        Ok(match (self.number()?, self.number()?) {
            (start @ 0..=1, 0) => Place::Key { of_http: start == 1, hash: self.u64()? },
            (start, len) => Place::Text { start, len },
        })
    }

    fn generations(&mut self, count: usize) -> Result<Arc<[Option<Generation>]>, Damaged> {
        let bytes = self.take(count.checked_mul(GENERATION).ok_or(Damaged::Truncated)?)?;
        Ok(bytes.as_chunks().0.iter().map(generation).collect())
    }

    /// Reads the generations. Returns those of `seen` if they are equal.
    fn generations_like(&mut self, count: usize, seen: &Stamp) -> Result<Arc<[Option<Generation>]>, Damaged> {
        let seen = seen.shared_generations().filter(|seen| seen.len() == count);
        let start = self.rest;
        if let Some(seen) = seen {
            let bytes = self.take(count.checked_mul(GENERATION).ok_or(Damaged::Truncated)?)?;
            if bytes.as_chunks().0.iter().zip(seen.iter()).all(|(bytes, seen)| generation(bytes) == *seen) {
                return Ok(seen.clone());
            }
            self.rest = start;
        }
        self.generations(count)
    }

    fn rules(&mut self) -> Result<Http, Damaged> {
        let flags = self.u8()?;
        if flags >= 1 << 6 {
            return Err(Damaged::Malformed);
        }
        let on = |bit: u8| flags & 1 << bit != 0;
        let freshness = Freshness {
            received: self.u64()?,
            initial_age: self.duration()?,
            lifetime: self.duration()?,
            stale_while_revalidate: self.duration()?,
            stale_if_error: self.duration()?,
            stale_if_unreachable: self.duration()?,
            forbids_stale: on(3),
            validate_always: on(4),
            immutable: on(5),
        };
        Ok(Http { freshness, open: on(0), asks: on(1), own_tag: on(2) })
    }

    fn duration(&mut self) -> Result<Duration, Damaged> {
        let (seconds, nanos) = (self.u64()?, u32::from_le_bytes(self.array()?));
        // A full second would be carried over, and might overflow.
        if nanos < 1_000_000_000 { Ok(Duration::new(seconds, nanos)) } else { Err(Damaged::Malformed) }
    }

    fn variants(&mut self, parts: u8) -> Result<Content, Damaged> {
        let count = self.count(1)?;
        let mut names = Vec::with_capacity(count);
        for _ in 0..count {
            let tag = self.u8()?;
            names.push(self.name(tag)?);
        }
        Vary::of_names(parts & STAR != 0, names).map(Content::Variants).ok_or(Damaged::Malformed)
    }

    /// Reads a response. Entries with equal `likely` mostly have the same fields.
    fn response(&mut self, parts: u8, body: Bytes, likely: u64, max_body: usize) -> Result<Content, Damaged> {
        let status = StatusCode::from_u16(u16::from_le_bytes(self.array()?)).map_err(|_| Damaged::Malformed)?;
        let likely = likely ^ u64::from(status.as_u16());
        let headers = self.fields(likely)?;
        let trailers = if parts & TRAILERS == 0 { None } else { Some(Box::new(self.fields(!likely)?)) };
        let length = if parts & PACKED == 0 { body.len() } else { self.number()? as usize };
        if length > max_body {
            return Err(Damaged::TooLong);
        }
        let body = if parts & PACKED == 0 { body } else { compression::unpack(&body, length)? };
        Ok(Content::Response { status, headers: headers.into(), body, trailers })
    }

    /// Reads fields into a copy of a cached map if it has the same names, and one by one otherwise.
    fn fields(&mut self, likely: u64) -> Result<HeaderMap, Damaged> {
        let count = self.count(2)?;
        let likely = likely ^ count as u64;
        let start = self.rest;
        if let Some(map) = header_cache::with_known(likely, |known| self.filled(known, count).transpose()) {
            return map;
        }
        self.rest = start;
        let map = self.one_by_one(count)?;
        header_cache::learn(likely, &map);
        Ok(map)
    }

    /// Reads fields into a copy of a cached map. `None` if the names differ, or an error if damage shows before that.
    #[inline]
    fn filled(&mut self, known: &CachedHeaders, count: usize) -> Result<Option<HeaderMap>, Damaged> {
        if known.names.len() != count {
            return Ok(None);
        }
        let mut map = known.shape.clone();
        for (name, place) in known.names.iter().zip(map.values_mut()) {
            match name {
                Written::Number(number) if self.u8()? == *number => {}
                Written::Text(text) if let Some(rest) = self.rest.strip_prefix(&**text) => self.rest = rest,
                _ => return Ok(None),
            }
            let number = self.number()?;
            let bytes = self.take((number / 2) as usize)?;
            // Cached values are never sensitive.
            if number % 2 == 1 || bytes != place.as_bytes() {
                *place = self.value_of(bytes, number % 2 == 1)?;
            }
        }
        Ok(Some(map))
    }

    fn one_by_one(&mut self, count: usize) -> Result<HeaderMap, Damaged> {
        let mut map = HeaderMap::try_with_capacity(count).map_err(|_| Damaged::Malformed)?;
        for _ in 0..count {
            let tag = self.u8()?;
            let name = self.name(tag & !REPEATED)?;
            if tag & REPEATED == 0 {
                let value = self.value()?;
                is_new(&mut map, name, value, true)?;
            } else {
                self.repeated(&mut map, &name)?;
            }
        }
        Ok(map)
    }

    /// Reads a field with several values.
    fn repeated(&mut self, map: &mut HeaderMap, name: &HeaderName) -> Result<(), Damaged> {
        let count = self.count(1)?;
        if count < 2 {
            return Err(Damaged::Malformed);
        }
        for index in 0..count {
            let value = self.value()?;
            is_new(map, name.clone(), value, index == 0)?;
        }
        Ok(())
    }

    #[inline]
    fn name(&mut self, number: u8) -> Result<HeaderName, Damaged> {
        if number != 0 {
            return header_names::of_number(number).cloned().ok_or(Damaged::Malformed);
        }
        HeaderName::from_lowercase(self.prefixed()?).map_err(|_| Damaged::Malformed)
    }

    #[inline]
    fn value(&mut self) -> Result<HeaderValue, Damaged> {
        let number = self.number()?;
        let bytes = self.take((number / 2) as usize)?;
        self.value_of(bytes, number % 2 == 1)
    }

    /// Returns the value with the bytes that were just taken.
    #[inline]
    fn value_of(&self, bytes: &[u8], sensitive: bool) -> Result<HeaderValue, Damaged> {
        let end = self.whole.len() - self.rest.len();
        let bytes = self.whole.slice(end - bytes.len()..end);
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| Damaged::Malformed)?;
        value.set_sensitive(sensitive);
        Ok(value)
    }

    /// Reads the number of following elements, each of which takes at least `least` bytes.
    fn count(&mut self, least: usize) -> Result<usize, Damaged> {
        let count = self.number()? as usize;
        if count <= self.rest.len() / least { Ok(count) } else { Err(Damaged::Truncated) }
    }

    /// Reads a length and that number of bytes.
    fn prefixed(&mut self) -> Result<&'a [u8], Damaged> {
        let len = self.number()? as usize;
        self.take(len)
    }

    /// Reads a LEB128 number in its shortest form.
    #[inline(always)]
    fn number(&mut self) -> Result<u32, Damaged> {
        match self.u8()? {
            first @ 0..0x80 => Ok(u32::from(first)),
            first => self.long_number(first),
        }
    }

    fn long_number(&mut self, first: u8) -> Result<u32, Damaged> {
        let mut number = u64::from(first & 0x7f);
        for shift in [7, 14, 21, 28] {
            let byte = self.u8()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // A last byte of zero would make the form longer than necessary.
                return u32::try_from(number).ok().filter(|_| byte != 0).ok_or(Damaged::Malformed);
            }
        }
        Err(Damaged::Malformed)
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, Damaged> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, Damaged> {
        self.array().map(|[byte]| byte)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Damaged::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Damaged::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }
}
