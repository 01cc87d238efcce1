//! Finds the pattern of a path. Most paths are decided by their first segment. A tree decides the others.

use matchit::InsertError;

use super::{
    params::Params,
    pattern::{Pattern, Segment, first_segment},
};

/// The patterns of a table, by their places in it.
#[derive(Clone, Default)]
pub(crate) struct Router {
    /// The authority: all patterns in a tree.
    tree: matchit::Router<usize>,
    /// By place: true for a pattern that ends in a wildcard.
    wildcards: Vec<bool>,
    /// By a hash of the first segment: the place of its group plus one, or 0 if there is none.
    cells: Cells,
    groups: Vec<Group>,
    /// True if the first segment of a pattern contains a brace.
    any: bool,
}

#[derive(Clone)]
struct Cells(Box<[u16; 256]>);

/// The patterns with one first segment.
#[derive(Clone)]
struct Group {
    first: Box<[u8]>,
    patterns: Vec<Pattern>,
    /// True if one of the patterns does not consist of whole segments.
    doubtful: bool,
}

impl Default for Cells {
    fn default() -> Self {
        Self(Box::new([0; 256]))
    }
}

impl Router {
    pub(crate) fn insert(&mut self, pattern: &str, place: usize) -> Result<(), InsertError> {
        self.tree.insert(pattern, place)?;
        self.wildcards.resize(self.wildcards.len().max(place + 1), false);
        self.wildcards[place] = pattern.rsplit('/').next().is_some_and(|last| last.starts_with("{*"));
        // A brace within the first segment may be escaped, or begin a parameter. In both cases the text is not the segment of a path.
        let Some(first) = first_segment(pattern).filter(|first| !first.iter().any(|byte| b"{}".contains(byte))) else {
            self.any = true;
            return Ok(());
        };
        let at = self.groups.iter().position(|group| *group.first == *first).unwrap_or_else(|| {
            self.groups.push(Group { first: first.into(), patterns: Vec::new(), doubtful: false });
            self.groups.len() - 1
        });
        // If there are more groups than a cell can number, the tree decides.
        self.cells.0[cell(first)] = u16::try_from(at + 1).unwrap_or(u16::MAX);
        let group = &mut self.groups[at];
        match pattern[1 + first.len()..].split('/').skip(1).map(Segment::of).collect() {
            Some(segments) => group.patterns.push(Pattern { place, segments }),
            None => group.doubtful = true,
        }
        Ok(())
    }

    /// Returns false only if no pattern matches this path.
    #[inline]
    pub(crate) fn may_have(&self, path: &str) -> bool {
        self.any || first_segment(path).is_none_or(|first| self.cells.0[cell(first)] != 0)
    }

    /// Returns the pattern of a path and its parameters.
    #[inline]
    pub(crate) fn at<'a>(&'a self, path: &'a str) -> Option<(usize, Params<'a>)> {
        let first = first_segment(path);
        let known = first.map(|first| self.cells.0[cell(first)]);
        if !self.any && known == Some(0) {
            return None;
        }
        match first.zip(known).and_then(|(first, known)| self.only(path, first, known)) {
            Some(pattern) => Some((pattern.place, Params::of_pattern(pattern, path))),
            None => Some((*self.tree.at(path).ok()?.value, Params::of_tree(&self.tree, &self.wildcards, path))),
        }
    }

    /// Returns the pattern of a path, if the group of its first segment has exactly one that matches. `known` is the cell of that segment.
    #[inline]
    fn only(&self, path: &str, first: &[u8], known: u16) -> Option<&Pattern> {
        let group = self.groups.get(usize::from(known).checked_sub(1)?)?;
        if self.any || group.doubtful || *group.first != *first {
            return None;
        }
        let rest = &path[1 + first.len()..];
        let mut matching = group.patterns.iter().filter(|pattern| pattern.matches(rest));
        matching.next().filter(|_| matching.next().is_none())
    }
}

#[inline]
fn cell(segment: &[u8]) -> usize {
    let (first, last) = (segment.first().copied().unwrap_or(0), segment.last().copied().unwrap_or(0));
    (usize::from(first) * 31 + usize::from(last) * 7 + segment.len()) % 256
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::route::router::Router;

    fn of(patterns: &[&str]) -> Router {
        let mut router = Router::default();
        for (place, pattern) in patterns.iter().enumerate() {
            router.insert(pattern, place).expect("a pattern");
        }
        router
    }
    #[test]
    fn possible_match_is_never_denied() {
        let patterns = ["/", "/items", "/items/{id}", "/files/{*path}", "/a/b/c"];
        let router = of(&patterns);
        for path in ["/", "/items", "/items/", "/items/42", "/files/a/b", "/a/b/c"] {
            assert!(router.may_have(path), "{path}");
        }
        for pattern in ["/{table}", "/{*rest}", "/{{literal}}", "/v{version}/x"] {
            let router = of(&[pattern]);
            for path in ["/orders", "/a/b", "/{literal}", "/v2/x", "/", "*"] {
                assert!(router.may_have(path), "{pattern} {path}");
            }
        }
    }
    #[test]
    fn different_prefixes_are_distinguished() {
        let router = of(&["/items/{id}", "/orders"]);
        for path in ["/other", "/", "/health", "/item/42", "/static/app.js"] {
            assert!(!router.may_have(path), "{path}");
        }
    }
    #[test]
    fn whole_segment_patterns_need_no_tree() {
        let only = |router: &Router, path: &str| {
            let first = super::first_segment(path).expect("a path");
            router.only(path, first, router.cells.0[super::cell(first)]).map(|pattern| pattern.place)
        };
        let router = of(&["/items", "/items/{id}", "/items/{id}/parts/{part}", "/files/{*path}", "/v{version}/x"]);
        assert!(only(&router, "/items/42").is_none(), "a pattern may begin in any way");
        let router = of(&["/items", "/items/{id}", "/items/new", "/items/{id}/parts/{part}", "/files/{*path}", "/w/{a}.js"]);
        for (path, wanted) in [
            ("/items", Some(0)),
            ("/items/42", Some(1)),
            ("/items/new", None),
            ("/items/42/parts/7", Some(3)),
            ("/files/a/b", Some(4)),
            ("/files/", None),
            ("/w/x.js", None),
        ] {
            assert_eq!(only(&router, path), wanted, "{path}");
        }
    }

    fn segment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "items", "{x}", "{y}", "p{x}", "{x}s", "{{a}}", "", "{*rest}"])
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop::collection::vec(segment(), 1..4).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    fn path() -> impl Strategy<Value = String> {
        let segment = prop::sample::select(vec!["a", "b", "items", "pa", "as", "{a}", "", "ä", "%41"]);
        prop::collection::vec(segment, 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// The tree is axum's own router. It decides the expected pattern and parameters.
        #[test]
        fn fast_match_equals_the_match_of_the_tree(
            patterns in prop::collection::vec(pattern(), 1..8),
            paths in prop::collection::vec(path(), 1..12),
        ) {
            let mut router = Router::default();
            for (place, pattern) in patterns.iter().enumerate() {
                // One that is no pattern, or overlaps with another, leaves no trace.
                let _ = router.insert(pattern, place);
            }
            for path in paths.iter().map(String::as_str).chain(["*", ""]) {
                let said = router.tree.at(path).ok();
                let found = router.at(path);
                prop_assert_eq!(said.as_ref().map(|at| *at.value), found.as_ref().map(|(place, _)| *place), "{}", path);
                if let (Some(said), Some((_, params))) = (said, found) {
                    for name in ["x", "y", "rest", "z"] {
                        let raw = said.params.get(name).map(|value| value.replace("%41", "A"));
                        prop_assert_eq!(raw.as_deref(), params.get(name), "{} in {}", name, path);
                    }
                }
            }
        }
    }
}
