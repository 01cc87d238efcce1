//! A filter of paths by their first two segments.

use super::pattern::{Pattern, Segment, split_first};

/// The beginnings of the paths that patterns may match. Most other paths end here, without a search.
#[derive(Clone)]
pub(super) struct Starts {
    /// By a hash of the first segment.
    first: Box<[Start; 256]>,
    /// By a hash of the first two segments: true if they begin a pattern. A missing segment counts as an empty one.
    pairs: Box<[bool; 1024]>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Start {
    /// No pattern matches.
    Nowhere,
    /// The second segment decides.
    BySecond,
    /// A pattern may match.
    Anywhere,
}

impl Default for Starts {
    fn default() -> Self {
        Self { first: Box::new([Start::Nowhere; 256]), pairs: Box::new([false; 1024]) }
    }
}

impl Starts {
    pub(super) fn insert(&mut self, pattern: &Pattern) {
        match pattern.segments() {
            [Segment::Text(first)] if pattern.is_whole() => self.add_pair(first.as_bytes(), b""),
            [Segment::Text(first), Segment::Text(second), ..] => self.add_pair(first.as_bytes(), second.as_bytes()),
            [Segment::Text(first), ..] => self.first[cell(first.as_bytes())] = Start::Anywhere,
            _ => self.first.fill(Start::Anywhere),
        }
    }

    fn add_pair(&mut self, first: &[u8], second: &[u8]) {
        let first = cell(first);
        self.first[first] = self.first[first].max(Start::BySecond);
        self.pairs[pair(first, second)] = true;
    }

    /// Returns false only if no pattern matches this path.
    #[inline]
    pub(super) fn may_begin(&self, path: &str) -> bool {
        let Some((first, rest)) = split_first(path.as_bytes()) else { return true };
        let first = cell(first);
        match self.first[first] {
            Start::Nowhere => false,
            Start::Anywhere => true,
            Start::BySecond => self.pairs[pair(first, split_first(rest).map_or(b"", |(second, _)| second))],
        }
    }
}

#[inline]
fn cell(segment: &[u8]) -> usize {
    let (first, last) = (segment.first().copied().unwrap_or(0), segment.last().copied().unwrap_or(0));
    (usize::from(first) * 31 + usize::from(last) * 7 + segment.len()) % 256
}

#[inline]
fn pair(first: usize, second: &[u8]) -> usize {
    (first * 5 + cell(second) * 4 + second.len()) % 1024
}
