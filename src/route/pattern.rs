//! Route patterns made of whole segments.

/// A pattern made of whole segments.
#[derive(Clone)]
pub(crate) struct Pattern {
    pub(crate) place: usize,
    /// The segments after the first.
    pub(crate) segments: Box<[Segment]>,
}

#[derive(Clone)]
pub(crate) enum Segment {
    Text(Box<str>),
    Param(Box<str>),
    /// A wildcard: the rest of the path.
    Rest(Box<str>),
}

impl Pattern {
    #[inline]
    pub(crate) fn matches(&self, rest: &str) -> bool {
        let mut rest = rest.as_bytes();
        for segment in &self.segments {
            let Some(from) = rest.strip_prefix(b"/") else { return false };
            let end = from.iter().position(|byte| *byte == b'/').unwrap_or(from.len());
            let matches = match segment {
                Segment::Text(text) => from[..end] == *text.as_bytes(),
                Segment::Param(_) => end > 0,
                Segment::Rest(_) => return !from.is_empty(),
            };
            if !matches {
                return false;
            }
            rest = &from[end..];
        }
        rest.is_empty()
    }

    /// Returns the parameters in a matching path: name, value, and true if a wildcard matched the value.
    pub(crate) fn params<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a str, bool)> {
        let mut rest = path.split_at(1 + first_segment(path).map_or(0, <[u8]>::len)).1;
        self.segments.iter().filter_map(move |segment| {
            let from = rest.get(1..)?;
            let (value, tail) = from.split_at(from.find('/').unwrap_or(from.len()));
            rest = tail;
            match segment {
                Segment::Text(_) => None,
                Segment::Param(name) => Some((&**name, value, false)),
                Segment::Rest(name) => Some((&**name, from, true)),
            }
        })
    }
}

impl Segment {
    /// Parses a segment. Returns `None` if only a part of it is a parameter, or a brace is escaped.
    pub(crate) fn of(segment: &str) -> Option<Self> {
        let within = |text: &str| !text.contains(['{', '}']);
        match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            None => within(segment).then(|| Self::Text(segment.into())),
            Some(name) if !within(name) => None,
            Some(name) => Some(name.strip_prefix('*').map_or_else(|| Self::Param(name.into()), |name| Self::Rest(name.into()))),
        }
    }
}

/// Returns the first segment of a path.
#[inline]
pub(crate) fn first_segment(path: &str) -> Option<&[u8]> {
    let rest = path.as_bytes().strip_prefix(b"/")?;
    Some(rest.iter().position(|byte| *byte == b'/').map_or(rest, |end| &rest[..end]))
}
