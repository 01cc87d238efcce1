//! How the patterns of a table begin: most requests that no rule covers are known by that alone.

/// A set of first segments. It may take one for another, and then the router says no; it never denies one that is in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beginnings {
    bits: [u64; 4],
    /// There is a pattern whose first segment is not all text.
    any: bool,
}

impl Beginnings {
    pub(crate) fn add(&mut self, pattern: &str) {
        // A brace within the segment may be escaped, or begin a parameter: either way the text is not what is asked for.
        match first_segment(pattern) {
            Some(segment) if !segment.contains(&b'{') && !segment.contains(&b'}') => {
                let at = bit(segment);
                self.bits[at / 64] |= 1 << (at % 64);
            }
            _ => self.any = true,
        }
    }

    /// Whether a pattern may match this path.
    #[inline]
    pub(crate) fn may_have(&self, path: &str) -> bool {
        self.any
            || first_segment(path).is_none_or(|segment| {
                let at = bit(segment);
                self.bits[at / 64] & 1 << (at % 64) != 0
            })
    }
}

/// What stands between the first slash and the next, or the end.
#[inline]
fn first_segment(path: &str) -> Option<&[u8]> {
    let rest = path.as_bytes().strip_prefix(b"/")?;
    Some(rest.iter().position(|byte| *byte == b'/').map_or(rest, |end| &rest[..end]))
}

#[inline]
fn bit(segment: &[u8]) -> usize {
    let (first, last) = (segment.first().copied().unwrap_or(0), segment.last().copied().unwrap_or(0));
    (usize::from(first) * 31 + usize::from(last) * 7 + segment.len()) % 256
}

#[cfg(test)]
mod tests {
    use super::Beginnings;

    fn of(patterns: &[&str]) -> Beginnings {
        let mut begins = Beginnings::default();
        patterns.iter().for_each(|pattern| begins.add(pattern));
        begins
    }

    #[test]
    fn what_a_pattern_may_match_is_never_denied() {
        let patterns = ["/", "/items", "/items/{id}", "/files/{*path}", "/a/b/c"];
        let begins = of(&patterns);
        for path in ["/", "/items", "/items/", "/items/42", "/files/a/b", "/a/b/c"] {
            assert!(begins.may_have(path), "{path}");
        }
        for pattern in ["/{table}", "/{*rest}", "/{{literal}}", "/v{version}/x"] {
            let begins = of(&[pattern]);
            for path in ["/orders", "/a/b", "/{literal}", "/v2/x", "/", "*"] {
                assert!(begins.may_have(path), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn other_beginnings_are_told_apart() {
        let begins = of(&["/items/{id}", "/orders"]);
        for path in ["/other", "/", "/health", "/item/42", "/static/app.js"] {
            assert!(!begins.may_have(path), "{path}");
        }
    }
}
