//! The name by which a key is invalidated: the same for every spelling of one target.
//!
//! Keys are compared byte by byte, which is safe for reads: two spellings of one URI have two entries. A write has to reach both. The name
//! of a key is therefore made of the target as the client sent it, normalised as follows. Names may be coarser than RFC 3986 asks for: two
//! targets that share a name are invalidated together, and nothing worse.
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
//! | what a `No-Vary-Search` leaves, fields, cookies, identities, parts of closures | as in the key |

use std::borrow::Cow;

use http::uri::PathAndQuery;
use percent_encoding::percent_decode;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    KeyRef,
    write::{Tag, write_part},
};
use crate::percent::{decoded, has_any};

/// The hash of the name of a key: that of its parts, normalised. `None` if its bytes are no parts.
pub(super) fn name_of(key: KeyRef<'_>) -> Option<u64> {
    let mut parts = Parts(key.canonical());
    let mut first = parts.next()??;
    let is_http = first.is(Tag::Http);
    if is_http {
        first = parts.next()??;
    }
    let rest = parts.0;
    // The first part keeps routes apart. Where the path follows, it says as much.
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

/// What the parts behind the first are like.
enum Plain {
    /// Each is its own normal form, and the path is one of them: most are so. The bytes of forwarding fields stand behind all others.
    WithPath {
        behind: usize,
    },
    /// Some may have another normal form, and the path is one of them.
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
            // Capitals and userinfo are known to be none: they are written otherwise.
            plain &= !has_any(bytes, [b'%', b':']);
        } else if tag == Tag::SortedQuery as u8 {
            // An empty one is none.
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

/// Writes the normal forms of parts, and leaves out those that do not count.
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
struct Part<'a> {
    tag: u8,
    bytes: &'a [u8],
}

impl Part<'_> {
    fn is(self, tag: Tag) -> bool {
        self.tag == tag as u8
    }
}

/// The parts of a key that are left, up to those of a variant. An item is `None` where there is no part in the bytes.
#[derive(Clone)]
struct Parts<'a>(&'a [u8]);

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

/// The host and the port of an authority, for comparing.
pub(crate) fn normal_host(authority: &[u8]) -> Cow<'_, [u8]> {
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    // Behind a literal address, which holds colons itself.
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

/// A path without what RFC 3986, section 6.2.2, calls a matter of spelling: dot segments and encodings of unreserved characters; also
/// without empty segments, and without a slash at its end. The hexadecimal digits of what stays encoded are capitals.
pub(crate) fn plain_path(path: &str) -> Cow<'_, str> {
    if is_plain_path(path.as_bytes()) || !path.starts_with('/') {
        return path.into();
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path[1..].split('/') {
        let segment = with_unreserved_decoded(segment);
        match segment.as_str() {
            "." => {}
            // Also an empty one, as RFC 3986, section 5.2.4, has it: these are taken out only then.
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    segments.retain(|segment| !segment.is_empty());
    format!("/{}", segments.join("/")).into()
}

/// A path and a query without what is a matter of spelling.
pub(crate) fn plain_target(target: &PathAndQuery) -> Option<PathAndQuery> {
    let path = plain_path(target.path());
    match target.query() {
        Some(query) => format!("{path}?{}", with_unreserved_decoded(query)).parse().ok(),
        None => path.parse().ok(),
    }
}

/// A target with a slash at the end of its path where it had none, or without one where it had.
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

/// Whether a path is its own normal form: nothing encoded, no segment that is empty or begins with a dot, no slash at its end. It may deny
/// one that is.
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
    // As in keys: those of one name keep their order.
    pieces.sort_by(|one, other| name_in(one).cmp(name_in(other)));
    pieces.join(&b'&')
}

fn name_in(piece: &[u8]) -> &[u8] {
    piece.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The byte that `%` and two digits at the beginning stand for.
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
