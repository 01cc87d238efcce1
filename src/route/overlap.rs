//! Patterns that may match the same path.

/// Returns false only if no path is found by both patterns. `None` is the fallback, which covers every path. A pattern for the path inside of a nested
/// router overlaps with a pattern for the whole path if its first segment is a text of the other.
pub(crate) fn may_overlap(one: Option<&str>, other: Option<&str>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return true };
    let (one, other): (Vec<_>, Vec<_>) = (one.split('/').skip(1).collect(), other.split('/').skip(1).collect());
    let is_text = |segment: &str| !segment.contains('{');
    let ends = |all: &[&str], of: &[&str]| {
        (1..all.len()).any(|at| is_text(all[at]) && of.first() == Some(&all[at]) && match_a_path(&all[at..], of))
    };
    match_a_path(&one, &other) || ends(&one, &other) || ends(&other, &one)
}

/// Returns false only if no path has both forms.
fn match_a_path(one: &[&str], other: &[&str]) -> bool {
    match (one.split_first(), other.split_first()) {
        (None, None) => true,
        (Some((segment, _)), _) | (_, Some((segment, _))) if segment.starts_with("{*") => true,
        (Some((a, one)), Some((b, other))) => (a == b || a.contains('{') || b.contains('{')) && match_a_path(one, other),
        (Some((segment, rest)), None) | (None, Some((segment, rest))) => segment.starts_with("{*") && rest.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::may_overlap;

    #[test]
    fn patterns_overlap_if_a_path_may_match_both() {
        let overlap = |one: &str, other: &str| {
            let found = may_overlap(Some(one), Some(other));
            assert_eq!(found, may_overlap(Some(other), Some(one)), "{one} {other}");
            found
        };
        for (one, other) in [
            ("/t/{table}", "/t/special"),
            ("/t/{table}", "/{x}/y"),
            ("/t/{*rest}", "/t/a/b/c"),
            ("/{*rest}", "/"),
            ("/v{n}/a", "/v1/a"),
            ("/api/t/{table}", "/t/{table}"),
        ] {
            assert!(overlap(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("/t/{table}", "/u/{table}"),
            ("/t/{table}", "/t/{table}/rows"),
            ("/a", "/b"),
            ("/a/b", "/a/c"),
            ("/t/{table}", "/u"),
        ] {
            assert!(!overlap(one, other), "{one} {other}");
        }
        assert!(may_overlap(None, Some("/a")));
    }
}
