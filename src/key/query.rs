//! The query in a key: sorted if that cannot merge different queries, otherwise as it was sent.

use super::{KeyWriter, write::Tag};
use crate::semantics::NoVarySearch;

/// The query parameters that are part of the key.
#[derive(Debug, Clone, Default)]
pub(crate) enum Query {
    /// All parameters, sorted by name.
    #[default]
    Sorted,
    /// All parameters, as they were sent.
    AsSent,
    /// The listed parameters, sorted by name.
    Only(Names),
    /// All parameters except the listed ones, sorted by name.
    Without(Names),
    /// The parameters reduced by `No-Vary-Search`.
    By(NoVarySearch),
}

/// A list of parameter names, where `utm_*` names all that begin with `utm_`.
#[derive(Debug, Clone)]
pub(crate) struct Names(Box<[Box<str>]>);

impl Names {
    #[track_caller]
    pub(crate) fn new<I>(names: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let names: Box<[Box<str>]> = names.into_iter().map(|name| name.as_ref().into()).collect();
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            panic!("{name:?} is not a query parameter: expected a decoded name, with at most one `*`, at its end");
        }
        Self(names)
    }

    fn have(&self, name: &[u8]) -> bool {
        self.0.iter().any(|listed| match listed.strip_suffix('*') {
            Some(stem) => name.starts_with(stem.as_bytes()),
            None => listed.as_bytes() == name,
        })
    }
}

/// Returns true for the name of a query parameter, with at most one `*` at its end.
pub(crate) fn is_name(name: &str) -> bool {
    let stem = name.strip_suffix('*').unwrap_or(name);
    !name.is_empty() && !stem.contains(['*', '&', '=', '%', '+'])
}

/// The maximum number of parameters that are sorted.
const MOST: usize = 32;

impl Query {
    /// Writes the part of a query that belongs to the key.
    ///
    /// Parameters are sorted by name, and those of one name keep their order: `b=1&a=2&a=3` is `a=2&a=3&b=1`. Nothing
    /// else is changed. A query is written as it was sent if a name holds `%`, `+` or a bracket, since two spellings may mean
    /// one name and their order may matter; if it has more than 32 parameters; or if it holds a `;`, at which some handlers split.
    pub(crate) fn write(&self, query: Option<&str>, key: &mut KeyWriter<'_>) {
        if let Self::By(variance) = self
            && !has_semicolon(query)
        {
            let mut reduced = Vec::new();
            variance.write(query, &mut reduced);
            return key.tagged(Tag::ReducedQuery, &reduced);
        }
        let Some(query) = query else {
            return key.tagged(Tag::NoQuery, &[]);
        };
        match self {
            Self::Sorted if is_plain_and_sorted(query.as_bytes()) => key.tagged(Tag::SortedQuery, query.as_bytes()),
            Self::AsSent => key.tagged(Tag::RawQuery, query.as_bytes()),
            _ => self.write_sorted(query, key),
        }
    }

    fn write_sorted(&self, query: &str, key: &mut KeyWriter<'_>) {
        let mut pieces = [(&[] as &[u8], &[] as &[u8]); MOST];
        let mut count = 0;
        let mut plain = true;
        for piece in query.as_bytes().split(|b| *b == b'&') {
            let name = name_of(piece);
            plain &= is_plain(name) && !piece.contains(&b';');
            if !self.counts(name) {
                continue;
            }
            if count == MOST {
                plain = false;
                break;
            }
            pieces[count] = (name, piece);
            count += 1;
        }
        if !plain {
            return key.tagged(Tag::RawQuery, query.as_bytes());
        }
        let pieces = &mut pieces[..count];
        // Stable, so that parameters of one name keep their order.
        pieces.sort_by_key(|(name, _)| *name);
        match pieces {
            // Different from an empty query.
            [] => key.tagged(Tag::NoneCounts, &[]),
            pieces => key.joined(Tag::SortedQuery, b'&', pieces.iter().map(|(_, piece)| *piece)),
        }
    }

    #[inline]
    fn counts(&self, name: &[u8]) -> bool {
        match self {
            Self::Sorted | Self::AsSent | Self::By(_) => true,
            Self::Only(names) => names.have(name),
            Self::Without(names) => !names.have(name),
        }
    }
}

/// Returns true if a handler that splits at `;` would find other parameters.
fn has_semicolon(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.contains(';'))
}

/// Returns true if a query is sorted already, as most are.
fn is_plain_and_sorted(query: &[u8]) -> bool {
    let class = |byte: &u8| BYTES[usize::from(*byte)];
    let (mut last, mut count, mut rest) = (&[] as &[u8], 0, query);
    loop {
        let end = rest.iter().position(|byte| !matches!(class(byte), Byte::Other)).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        // The first letters mostly decide.
        let sorted = match (last.first(), name.first()) {
            (Some(last), Some(first)) if first != last => first > last,
            _ => name >= last,
        };
        if !sorted || count == MOST || tail.first().is_some_and(|byte| matches!(class(byte), Byte::Odd)) {
            return false;
        }
        let Some(end) = tail.iter().position(|byte| matches!(byte, b'&' | b';')) else { return true };
        if tail[end] == b';' {
            return false;
        }
        (last, count, rest) = (name, count + 1, &tail[end + 1..]);
    }
}

/// The role of a byte in a query.
#[derive(Clone, Copy)]
enum Byte {
    Other,
    /// The end of a name.
    Equals,
    /// The end of a parameter.
    End,
    /// In a name, the byte allows other spellings or meanings.
    Odd,
}

static BYTES: [Byte; 256] = {
    let mut bytes = [Byte::Other; 256];
    bytes[b'=' as usize] = Byte::Equals;
    bytes[b'&' as usize] = Byte::End;
    let mut odd: &[u8] = b"%+[];";
    while let [byte, rest @ ..] = odd {
        bytes[*byte as usize] = Byte::Odd;
        odd = rest;
    }
    bytes
};

/// Returns true if the name has one spelling and one meaning.
pub(super) fn is_plain(name: &[u8]) -> bool {
    !name.iter().any(|byte| matches!(BYTES[usize::from(*byte)], Byte::Odd))
}

pub(super) fn name_of(piece: &[u8]) -> &[u8] {
    &piece[..piece.iter().position(|b| *b == b'=').unwrap_or(piece.len())]
}
