//! Route patterns made of whole segments.

/// The whole segments at the beginning of a pattern.
#[derive(Clone)]
pub(crate) struct Pattern {
    segments: Box<[Segment]>,
    /// The pattern consists of these segments. Otherwise only a part of the next one is a parameter, or it has an escaped brace.
    is_whole: bool,
}

#[derive(Clone)]
pub(super) enum Segment {
    Text(Box<str>),
    Param(Box<str>),
    /// A wildcard: the rest of the path.
    Rest(Box<str>),
}

impl Pattern {
    pub(super) fn of(pattern: &str) -> Self {
        let all = || pattern.split('/').skip(1);
        let segments: Box<[_]> = all().map_while(Segment::of).collect();
        let is_whole = pattern.starts_with('/') && segments.len() == all().count();
        Self { segments, is_whole }
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Returns the parameters in a matching path: name, value, and true if a wildcard matched the value.
    pub(super) fn params<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a str, bool)> {
        let mut rest = path;
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
    fn of(segment: &str) -> Option<Self> {
        let within = |text: &str| !text.contains(['{', '}']);
        match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            None => within(segment).then(|| Self::Text(segment.into())),
            Some(name) if !within(name) => None,
            Some(name) => Some(name.strip_prefix('*').map_or_else(|| Self::Param(name.into()), |name| Self::Rest(name.into()))),
        }
    }
}

/// Splits a path behind its first segment. Returns `None` if the path does not begin with `/`.
#[inline]
pub(super) fn split_first(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = path.strip_prefix(b"/")?;
    Some(rest.split_at(rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())))
}
