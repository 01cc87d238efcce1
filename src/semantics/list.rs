//! Comma-separated lists, the syntax of most HTTP fields (RFC 9110 §5.6.1).
//!
//! Every function reads each byte of a line a bounded number of times, for every input.

/// Returns the non-empty elements of one field line, split at commas outside of quoted strings and trimmed.
///
/// A quote without a closing quote counts as an ordinary byte, so that it hides nothing: the line `ext="oops, no-store` contains the element
/// `no-store`.
pub(super) fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    members(line).filter(|element| !element.is_empty())
}

/// Returns all members of a line, split as in [`elements`] and including empty ones. An empty line has one empty member.
pub(super) fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    let mut quotes_close = true;
    std::iter::from_fn(move || {
        let line = rest?;
        let end = element_end(line, &mut quotes_close);
        rest = line.get(end + 1..);
        Some(line[..end].trim_ascii())
    })
}

/// Returns the end of the first element: the first comma outside of quotes, or the end of the line.
///
/// The search for a missing closing quote runs once per line. It skips every later quote as an escaped byte, so none of those closes either.
/// `quotes_close` stores that result for the rest of the line.
fn element_end(line: &[u8], quotes_close: &mut bool) -> usize {
    let mut at = 0;
    while let Some(next) = line[at..].iter().position(|byte| matches!(byte, b',' | b'"')) {
        steps::count(next + 1);
        at += next;
        if line[at] == b',' {
            return at;
        }
        let end = if *quotes_close { quoted_end(line, at) } else { None };
        *quotes_close = end.is_some();
        at = end.unwrap_or(at + 1);
    }
    steps::count(line.len() - at);
    line.len()
}

/// Returns the index after the quoted string that opens at `open`, or `None` without a closing quote (RFC 9110 §5.6.4).
pub(super) fn quoted_end(line: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    while at < line.len() {
        steps::count(1);
        match line[at] {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// Returns true if every quoted string of a line is closed.
pub(super) fn quotes_balance(line: &[u8]) -> bool {
    let Some(mut at) = line.iter().position(|byte| *byte == b'"') else { return true };
    while at < line.len() {
        if line[at] == b'"' {
            match quoted_end(line, at) {
                Some(end) => at = end,
                None => return false,
            }
        } else {
            at += 1;
        }
    }
    true
}

/// Returns the content of a token or a quoted string, with escapes left in place. Returns `None` for any other use of quotes.
pub(super) fn unquote(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'"') => Some(inner),
        _ if value.contains(&b'"') => None,
        _ => Some(value),
    }
}

/// Parses a whole number of seconds, which saturates at 2^31 (RFC 9111 §1.2.2). Returns `None` unless all bytes are digits.
pub(super) fn delta_seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().try_fold(0_u32, |sum, digit| sum.checked_mul(10)?.checked_add(u32::from(digit - b'0')));
    Some(seconds.unwrap_or(MAX_DELTA).min(MAX_DELTA))
}

/// The largest number of seconds, to which larger ones are reduced (RFC 9111 §1.2.2): 2^31.
pub(super) const MAX_DELTA: u32 = 1 << 31;

/// Counts the bytes read by a parser, for tests of its complexity. In other builds it counts nothing.
pub(crate) mod steps {
    #[cfg(any(test, fuzzing))]
    thread_local! {
        static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// Adds bytes to the count.
    #[inline(always)]
    pub(crate) fn count(bytes: usize) {
        #[cfg(any(test, fuzzing))]
        STEPS.with(|steps| steps.set(steps.get() + bytes));
        #[cfg(not(any(test, fuzzing)))]
        let _ = bytes;
    }

    /// Returns the number of bytes read during a call.
    #[cfg(any(test, fuzzing))]
    #[cfg_attr(not(fuzzing), allow(unreachable_pub))]
    pub fn during(call: impl FnOnce()) -> usize {
        STEPS.with(|steps| steps.set(0));
        call();
        STEPS.with(std::cell::Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a line by a search that starts anew at each quote.
    fn members_by_naive_search(line: &[u8]) -> Vec<&[u8]> {
        let (mut members, mut start, mut at) = (Vec::new(), 0, 0);
        while at < line.len() {
            match line[at] {
                b',' => {
                    members.push(line[start..at].trim_ascii());
                    (start, at) = (at + 1, at + 1);
                }
                b'"' => at = quoted_end(line, at).unwrap_or(at + 1),
                _ => at += 1,
            }
        }
        members.push(line[start..].trim_ascii());
        members
    }

    proptest::proptest! {
        #[test]
        fn unclosed_quotes_hide_nothing(line in "[\"\\\\,a ]{0,40}") {
            proptest::prop_assert_eq!(members(line.as_bytes()).collect::<Vec<_>>(), members_by_naive_search(line.as_bytes()));
        }
    }

    #[test]
    fn list_parsing_is_linear() {
        for pattern in ["\"\\\"", "\\\"", "\"", "\",", ",", "a,\"b", "\"a\",", "\\", "\"\\\\\"\\\",", "a"] {
            for length in [1 << 10, 1 << 14, 1 << 18] {
                let line: Vec<u8> = pattern.bytes().cycle().take(length).collect();
                let steps = steps::during(|| _ = members(&line).count()) + steps::during(|| _ = quotes_balance(&line));
                assert!(steps <= 4 * length + 4, "{pattern:?}: {steps} steps for {length} bytes");
            }
        }
    }

    #[test]
    fn rfc9110_5_6_1_elements() {
        for (line, want) in [
            ("", &[][..]),
            (" , ,", &[]),
            ("a", &["a"]),
            (" a ,\tb", &["a", "b"]),
            (r#"a="1,2", b"#, &[r#"a="1,2""#, "b"]),
            (r#"a="1\",2", b"#, &[r#"a="1\",2""#, "b"]),
            (r#"a="1,2"#, &[r#"a="1"#, "2"]),
            (r#"a="b" c,d"#, &[r#"a="b" c"#, "d"]),
        ] {
            let got: Vec<_> = elements(line.as_bytes()).map(|e| std::str::from_utf8(e).unwrap()).collect();
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn rfc9111_4_1_members_include_empty_ones() {
        for (line, want) in [("", &[""][..]), ("a,,b ,", &["a", "", "b", ""]), ("\",\",", &["\",\"", ""])] {
            let got: Vec<_> = members(line.as_bytes()).map(|e| std::str::from_utf8(e).unwrap()).collect();
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn rfc9111_1_2_2_delta_seconds() {
        for (digits, want) in [
            ("0", Some(0)),
            ("003600", Some(3600)),
            ("2147483647", Some(2_147_483_647)),
            ("2147483648", Some(MAX_DELTA)),
            ("2147483649", Some(MAX_DELTA)),
            ("18446744073709551616", Some(MAX_DELTA)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            ("1 ", None),
            ("'1'", None),
            ("1a", None),
        ] {
            assert_eq!(delta_seconds(digits.as_bytes()), want, "{digits}");
        }
    }
}
