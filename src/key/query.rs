//! The query of a key: sorted where that cannot merge what differs, as it was sent elsewhere.

use super::{KeyWriter, write::Tag};
use crate::semantics::NoVarySearch;

/// Which parameters of a query count.
#[derive(Debug, Clone, Default)]
pub(crate) enum Query {
    /// All, sorted by name.
    #[default]
    Sorted,
    /// All, as they were sent.
    AsSent,
    /// Those that the list allows, sorted by name.
    Only(Names),
    /// All but those that the list names, sorted by name.
    Without(Names),
    /// What is left of them by `No-Vary-Search`.
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
            panic!("{name:?} names no query parameter: give it decoded, with at most one `*`, at its end");
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

/// Whether this names a query parameter, or all that begin as it does.
pub(crate) fn is_name(name: &str) -> bool {
    let stem = name.strip_suffix('*').unwrap_or(name);
    !name.is_empty() && !stem.contains(['*', '&', '=', '%', '+'])
}

/// More parameters than this are not sorted.
const MOST: usize = 32;

impl Query {
    /// Writes what counts of a query.
    ///
    /// Parameters are sorted by name, and those of one name keep their order: `b=1&a=2&a=3` is `a=2&a=3&b=1`. Nothing
    /// else is changed. Where a name holds `%`, `+` or a bracket, two spellings may mean one name and their order may
    /// mean something: such a query is written as it was sent, as is one of more than 32 parameters.
    pub(crate) fn write(&self, query: Option<&str>, key: &mut KeyWriter<'_>) {
        if let Self::By(variance) = self {
            let mut reduced = Vec::new();
            variance.write(query, &mut reduced);
            return key.tagged(Tag::ReducedQuery, &reduced);
        }
        let Some(query) = query else {
            return key.tagged(Tag::NoQuery, &[]);
        };
        if matches!(self, Self::AsSent) {
            return key.tagged(Tag::RawQuery, query.as_bytes());
        }
        let mut pieces = [(&[] as &[u8], &[] as &[u8]); MOST];
        let mut count = 0;
        let mut plain = true;
        for piece in query.as_bytes().split(|b| *b == b'&') {
            let name = name_of(piece);
            plain &= !name.iter().any(|b| matches!(b, b'%' | b'+' | b'[' | b']' | b';'));
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
        if !pieces.is_sorted_by_key(|(name, _)| *name) {
            // Stable: parameters of one name keep their order.
            pieces.sort_by_key(|(name, _)| *name);
        }
        key.tagged(Tag::Sections, &[count as u8]);
        for (_, piece) in pieces {
            key.tagged(Tag::QueryPiece, piece);
        }
    }

    fn counts(&self, name: &[u8]) -> bool {
        match self {
            Self::Sorted | Self::AsSent | Self::By(_) => true,
            Self::Only(names) => names.have(name),
            Self::Without(names) => !names.have(name),
        }
    }
}

fn name_of(piece: &[u8]) -> &[u8] {
    &piece[..piece.iter().position(|b| *b == b'=').unwrap_or(piece.len())]
}
