//! The internal name by which a key is invalidated. All spellings of one target share it.
//!
//! Keys are compared byte by byte, which is safe for reads: two spellings of one URI have two entries. A write has to invalidate both. The
//! name of a key is therefore made from the target as the client sent it, normalised as follows. Names may be coarser than RFC 3986
//! requires. Two targets that share a name are invalidated together, which does no other harm.
//!
//! | part | normalised |
//! |---|---|
//! | scheme | left out |
//! | userinfo | left out |
//! | host | lower case, percent-decoded |
//! | port | empty, 80 and 443 left out; without leading zeros |
//! | `Host` beside another authority | left out |
//! | path | the path as the client sent it; dot segments removed, percent-decoded, `//` merged, a slash at the end left out |
//! | query | percent-decoded, its parameters sorted by name; empty is none |
//! | route | left out if the extractor writes the path |
//! | forwarding fields | left out |
//! | the query parameters that remain after `No-Vary-Search`, fields, cookies, identities, parts of closures | as in the key |

use std::borrow::Cow;

use http::uri::PathAndQuery;
use percent_encoding::percent_decode;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    KeyRef,
    write::{Tag, write_part},
};
use crate::percent::{decoded, has_any};

/// Returns the hash of the normalised parts of a key. Returns `None` if the bytes cannot be split into parts.
pub(super) fn name_of(key: KeyRef<'_>) -> Option<u64> {
    let mut parts = Parts(key.canonical());
    let mut first = parts.next()??;
    let is_http = first.is(Tag::Http);
    if is_http {
        first = parts.next()??;
    }
    let rest = parts.0;
    // The first part separates routes. It adds nothing if the path follows.
    match is_plain(parts.clone())? {
        Plain::WithPath { behind } => Some(xxh3_64_with_seed(&rest[..rest.len() - behind], is_http.into())),
        plain => {
            let mut name = Vec::with_capacity(rest.len() + 2 * first.bytes.len());
            if matches!(plain, Plain::WithoutPath) {
                add(&mut name, first);
            }
            add_normal(&mut name, parts)?;
            Some(xxh3_64_with_seed(&name, is_http.into()))
        }
    }
}

/// The form of the parts after the first.
enum Plain {
    /// Each part is in normal form, and one of them is the path, as for most keys. The last `behind` bytes are forwarding fields.
    WithPath {
        behind: usize,
    },
    /// Some parts may have another normal form. One of them is the path.
    Odd,
    WithoutPath,
}

#[inline]
fn is_plain(parts: Parts<'_>) -> Option<Plain> {
    let (mut paths, mut plain, mut behind, mut left) = (0, true, 0, parts.0.len());
    let mut parts = parts;
    while let Some(part) = parts.next() {
        let Part { tag, bytes } = part?;
        let len = left - parts.0.len();
        left = parts.0.len();
        if tag == Tag::Forwarded as u8 {
            behind += len;
            continue;
        }
        plain &= behind == 0;
        if tag == Tag::Path as u8 {
            paths += 1;
            plain &= is_plain_path(bytes);
        } else if tag == Tag::Host as u8 {
            // Capitals and userinfo cannot occur here, because they are written as other parts.
            plain &= !has_any(bytes, [b'%', b':']);
        } else if tag == Tag::SortedQuery as u8 {
            // An empty query equals no query.
            plain &= !bytes.is_empty() && !has_any(bytes, [b'%']);
        } else {
            plain &= tag == Tag::NoQuery as u8;
        }
    }
    Some(match paths {
        0 => Plain::WithoutPath,
        1 if plain => Plain::WithPath { behind },
        _ => Plain::Odd,
    })
}

/// Writes the normal forms of the parts that count.
fn add_normal(name: &mut Vec<u8>, mut parts: Parts<'_>) -> Option<()> {
    let (mut has_path, mut of_host, mut last) = (false, false, None::<Part<'_>>);
    while let Some(part) = parts.next() {
        let part = part?;
        of_host = (part.is(Tag::Header) && part.bytes == b"host" && last.is_some_and(|last| last.is(Tag::Host)))
            || (part.is(Tag::HeaderValue) && of_host);
        let is_userinfo = part.is(Tag::Secret) && parts.clone().next().flatten().is_some_and(|next| next.is(Tag::Host));
        let is_path_now = part.is(Tag::Path) && has_path;
        has_path |= part.is(Tag::Path);
        last = Some(part);
        let is_left_out = part.is(Tag::Scheme) || part.is(Tag::Forwarded);
        if !of_host && !is_userinfo && !is_path_now && !is_left_out {
            add(name, part);
        }
    }
    Some(())
}

fn add(name: &mut Vec<u8>, part: Part<'_>) {
    let Part { tag, bytes } = part;
    if part.is(Tag::Path) {
        return write_part(name, tag, &normal_path(bytes));
    }
    if part.is(Tag::Host) {
        return write_part(name, tag, &normal_host(bytes));
    }
    if [Tag::NoQuery, Tag::NoneCounts, Tag::RawQuery, Tag::SortedQuery].iter().any(|query| part.is(*query)) {
        return match normal_query(bytes) {
            query if query.is_empty() => write_part(name, Tag::NoQuery as u8, &[]),
            query => write_part(name, Tag::SortedQuery as u8, &query),
        };
    }
    write_part(name, tag, bytes);
}

/// A part of a key.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    tag: u8,
    pub(super) bytes: &'a [u8],
}

impl Part<'_> {
    pub(super) fn is(self, tag: Tag) -> bool {
        self.tag == tag as u8
    }
}

/// The remaining parts of a key, before those of a variant. An item is `None` if the bytes are not a part.
#[derive(Clone)]
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Option<Part<'a>>;

    fn next(&mut self) -> Option<Option<Part<'a>>> {
        let (&tag, rest) = self.0.split_first().filter(|(tag, _)| **tag != Tag::Variant as u8)?;
        let part = (|| {
            let (&short, rest) = rest.split_first()?;
            let (len, rest) = match short {
                u8::MAX => {
                    let (len, rest) = rest.split_first_chunk()?;
                    (usize::try_from(u64::from_le_bytes(*len)).ok()?, rest)
                }
                len => (len.into(), rest),
            };
            let (bytes, rest) = rest.split_at_checked(len)?;
            self.0 = rest;
            Some(Part { tag, bytes })
        })();
        if part.is_none() {
            self.0 = &[];
        }
        Some(part)
    }
}

/// Returns the host and the port of an authority in a form for comparisons.
pub(crate) fn normal_host(authority: &[u8]) -> Cow<'_, [u8]> {
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    // After a literal address, which contains colons itself.
    let literal = host.iter().rposition(|byte| *byte == b']').map_or(0, |end| end + 1);
    let (name, port) = match host[literal..].iter().position(|byte| *byte == b':') {
        Some(colon) => (&host[..literal + colon], &host[literal + colon + 1..]),
        None => (host, &[] as &[u8]),
    };
    let zeros = port.iter().take_while(|byte| **byte == b'0').count();
    let port = if port.iter().all(u8::is_ascii_digit) { &port[zeros..] } else { port };
    let port = if [b"80" as &[u8], b"443"].contains(&port) { &[] } else { port };
    if !name.iter().any(|byte| *byte == b'%' || byte.is_ascii_uppercase()) {
        if port.is_empty() {
            return name.into();
        }
        if name.len() + 1 + port.len() == host.len() {
            return host.into();
        }
    }
    let mut normal = decoded(name).to_ascii_lowercase();
    if !port.is_empty() {
        normal.push(b':');
        normal.extend_from_slice(port);
    }
    normal.into()
}

/// Normalises the spelling of a path (RFC 3986, section 6.2.2): removes dot segments, empty segments and a slash at the end, decodes
/// unreserved characters, and writes other encodings with capitals.
pub(crate) fn plain_path(path: &str) -> Cow<'_, str> {
    if is_plain_path(path.as_bytes()) || !path.starts_with('/') {
        return path.into();
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path[1..].split('/') {
        let segment = with_unreserved_decoded(segment);
        match segment.as_str() {
            "." => {}
            // It also removes an empty segment (RFC 3986, section 5.2.4). The others are removed later.
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    segments.retain(|segment| !segment.is_empty());
    format!("/{}", segments.join("/")).into()
}

/// Normalises the spelling of a path and a query.
pub(crate) fn plain_target(target: &PathAndQuery) -> Option<PathAndQuery> {
    let path = plain_path(target.path());
    match target.query() {
        Some(query) => format!("{path}?{}", with_unreserved_decoded(query)).parse().ok(),
        None => path.parse().ok(),
    }
}

/// Adds a slash at the end of a target's path, or removes it.
pub(crate) fn with_other_end(target: &PathAndQuery) -> Option<PathAndQuery> {
    let path = match target.path().strip_suffix('/') {
        Some("") => return None,
        Some(path) => path.to_owned(),
        None => format!("{}/", target.path()),
    };
    match target.query() {
        Some(query) => format!("{path}?{query}").parse().ok(),
        None => path.parse().ok(),
    }
}

fn normal_path(path: &[u8]) -> Cow<'_, [u8]> {
    if is_plain_path(path) {
        return path.into();
    }
    match std::str::from_utf8(path) {
        Ok(path) => decoded(plain_path(path).as_bytes()).into_owned().into(),
        Err(_) => path.into(),
    }
}

/// Returns true only if a path is in normal form: no encoding, no empty segment or one that begins with a dot, no slash at its end.
#[inline]
fn is_plain_path(path: &[u8]) -> bool {
    let (mut odd, mut behind_slash) = (false, false);
    for byte in path {
        odd |= *byte == b'%' || behind_slash && matches!(byte, b'/' | b'.');
        behind_slash = *byte == b'/';
    }
    !odd && (!behind_slash || path.len() == 1)
}

fn normal_query(query: &[u8]) -> Vec<u8> {
    let mut pieces: Vec<_> = query.split(|byte| *byte == b'&').map(decoded).collect();
    // As in keys, parameters of one name keep their order.
    pieces.sort_by(|one, other| name_in(one).cmp(name_in(other)));
    pieces.join(&b'&')
}

fn name_in(piece: &[u8]) -> &[u8] {
    piece.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// Returns true for an unreserved character (RFC 3986, section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Decodes the `%` and two digits at the beginning of a text.
fn encoded(text: &[u8]) -> Option<u8> {
    let mut decoded = percent_decode(text.get(..3)?);
    let byte = decoded.next()?;
    decoded.next().is_none().then_some(byte)
}

fn with_unreserved_decoded(segment: &str) -> String {
    let mut plain = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(c) = rest.chars().next() {
        let taken = match encoded(rest.as_bytes()) {
            Some(byte) if is_unreserved(byte) => {
                plain.push(byte.into());
                3
            }
            Some(_) => {
                plain.push_str(&rest[..3].to_ascii_uppercase());
                3
            }
            None => {
                plain.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    plain
}

#[cfg(test)]
#[path = "tests/name.rs"]
mod tests;
