//! Finds the pattern of a path. Patterns made of whole segments are found by their segments. A tree decides all others.

use matchit::InsertError;

use super::{
    params::Params,
    pattern::{Pattern, Segment, split_first},
    starts::Starts,
};

/// The patterns of a table, by their places in it.
#[derive(Clone, Default)]
pub(crate) struct Router {
    /// The authority: all patterns in a tree.
    tree: matchit::Router<usize>,
    /// By place: true for a pattern that ends in a wildcard.
    wildcards: Vec<bool>,
    /// By place.
    patterns: Vec<Option<Pattern>>,
    root: Node,
    starts: Starts,
}

/// The patterns with one beginning.
#[derive(Clone, Default)]
struct Node {
    /// The patterns whose next segment is a text, sorted by its length and its bytes.
    texts: Vec<(Box<[u8]>, Node)>,
    /// The patterns whose next segment is a parameter.
    param: Option<Box<Node>>,
    /// The pattern that continues with a wildcard.
    rest: Option<usize>,
    /// The pattern that ends here.
    end: Option<usize>,
    /// A pattern continues with a segment that is not whole, so that the tree decides.
    is_odd: bool,
}

/// The result of a search by segments.
#[derive(Clone, Copy)]
enum Found {
    /// The place of the pattern.
    Place(usize),
    /// The tree decides.
    ByTree,
}

impl Router {
    pub(crate) fn insert(&mut self, pattern: &str, place: usize) -> Result<(), InsertError> {
        self.tree.insert(pattern, place)?;
        let len = self.wildcards.len().max(place + 1);
        self.wildcards.resize(len, false);
        self.wildcards[place] = pattern.rsplit('/').next().is_some_and(|last| last.starts_with("{*"));
        let pattern = Pattern::of(pattern);
        self.starts.insert(&pattern);
        self.root.insert(pattern.segments(), pattern.is_whole().then_some(place));
        self.patterns.resize(len, None);
        self.patterns[place] = Some(pattern);
        Ok(())
    }

    /// Returns false only if no pattern matches this path.
    #[inline]
    pub(crate) fn may_have(&self, path: &str) -> bool {
        self.starts.may_begin(path)
    }

    /// Returns the pattern of a path and its parameters.
    #[inline]
    pub(crate) fn at<'a>(&'a self, path: &'a str) -> Option<(usize, Params<'a>)> {
        match self.root.find(path.as_bytes())? {
            Found::Place(place) => Some((place, Params::of_pattern(self.patterns[place].as_ref()?, path))),
            Found::ByTree => Some((*self.tree.at(path).ok()?.value, Params::of_tree(&self.tree, &self.wildcards, path))),
        }
    }
}

impl Node {
    /// Adds the segments of a pattern. `place` is `None` if another segment follows that is not whole.
    fn insert(&mut self, segments: &[Segment], place: Option<usize>) {
        let Some((segment, rest)) = segments.split_first() else {
            self.end = place.or(self.end);
            self.is_odd |= place.is_none();
            return;
        };
        match segment {
            Segment::Text(text) => {
                let at = self.text(text.as_bytes()).unwrap_or_else(|at| {
                    self.texts.insert(at, (text.as_bytes().into(), Self::default()));
                    at
                });
                self.texts[at].1.insert(rest, place);
            }
            Segment::Param(_) => self.param.get_or_insert_default().insert(rest, place),
            Segment::Rest(_) => self.rest = place,
        }
    }

    /// Returns the place of a text in `texts`, or the place where it belongs.
    #[inline]
    fn text(&self, text: &[u8]) -> Result<usize, usize> {
        self.texts.binary_search_by(|(known, _)| known.len().cmp(&text.len()).then_with(|| (**known).cmp(text)))
    }

    /// Returns the place of the pattern that matches the rest of a path. At each segment, a text comes before a parameter, and a parameter
    /// before a wildcard.
    fn find(&self, path: &[u8]) -> Option<Found> {
        if self.is_odd {
            return Some(Found::ByTree);
        }
        let Some((segment, rest)) = split_first(path) else {
            return self.end.filter(|_| path.is_empty()).map(Found::Place);
        };
        let by_text = || self.texts[self.text(segment).ok()?].1.find(rest);
        let by_param = || self.param.as_ref().filter(|_| !segment.is_empty())?.find(rest);
        by_text().or_else(by_param).or_else(|| self.rest.filter(|_| path.len() > 1).map(Found::Place))
    }
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
    fn second_segments_are_distinguished() {
        let router = of(&["/api", "/api/users/{id}", "/api/orders", "/files/{*path}"]);
        for path in ["/api", "/api/", "/api/users", "/api/users/7", "/api/orders/x", "/files/x", "/files"] {
            assert!(router.may_have(path), "{path}");
        }
        for path in ["/api/health", "/api/user", "/api/order/7", "/other/users"] {
            assert!(!router.may_have(path), "{path}");
        }
    }
    #[test]
    fn most_specific_pattern_wins_at_each_segment() {
        let router = of(&["/a/b/{x}", "/a/{x}/c", "/{x}/b/c", "/b/{*rest}", "/{x}/c/{*rest}"]);
        for (path, wanted) in [
            ("/a/b/c", Some(0)),
            ("/a/x/c", Some(1)),
            ("/x/b/c", Some(2)),
            ("/b/b/c", Some(3)),
            ("/a/c/d", Some(4)),
            ("/a", None),
            ("/b/", None),
        ] {
            assert_eq!(router.at(path).map(|(place, _)| place), wanted, "{path}");
        }
    }

    fn segment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "items", "{x}", "{y}", "p{x}", "{x}s", "{{a}}", "", "{*rest}"])
    }

    fn whole_segment() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "items", "{x}", "{y}", "", "{*rest}"])
    }

    fn patterns(segment: impl Strategy<Value = &'static str>) -> impl Strategy<Value = Vec<String>> {
        let pattern = prop::collection::vec(segment, 1..4).prop_map(|segments| format!("/{}", segments.join("/")));
        prop::collection::vec(pattern, 1..8)
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
            patterns in prop_oneof![patterns(segment()), patterns(whole_segment())],
            paths in prop::collection::vec(path(), 1..12),
        ) {
            let mut router = Router::default();
            for (place, pattern) in patterns.iter().enumerate() {
                // A failed insertion leaves a router that is not used.
                let mut more = router.clone();
                if more.insert(pattern, place).is_ok() {
                    router = more;
                }
            }
            for path in paths.iter().map(String::as_str).chain(["*", ""]) {
                let said = router.tree.at(path).ok();
                let found = router.at(path);
                prop_assert_eq!(said.as_ref().map(|at| *at.value), found.as_ref().map(|(place, _)| *place), "{}", path);
                prop_assert!(found.is_none() || router.may_have(path), "{}", path);
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
