//! Comma-separated lists, the shape of most HTTP fields (RFC 9110 §5.6.1).
//!
//! Everything here looks at each byte of a line a bounded number of times, whatever the line says.

/// The elements of one field line: split at commas outside quoted strings, trimmed, empty ones left out.
///
/// A quote that never closes cannot hide anything: it counts as an ordinary byte, and the commas after it separate.
/// That way `ext="oops, no-store` still says `no-store`.
pub(super) fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    members(line).filter(|element| !element.is_empty())
}

/// The same with the empty ones: the commas plus one, so an empty line has one empty member.
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

/// Where the first element ends: at a comma outside quotes, or at the end of the line.
///
/// A quote that never closes is searched for its end once. No quote after it closes either: each of them was passed over as an escaped
/// byte, and the search goes on behind it as it would if that quote had opened. `quotes_close` remembers this for the rest of the line.
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

/// The index after the quoted string that opens at `open`, or `None` if it never closes (RFC 9110 §5.6.4).
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

/// Whether every quoted string of a line closes.
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

/// `token` or `"token"`: the bytes inside, without undoing escapes. `None` for anything with a stray quote.
pub(super) fn unquote(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'"') => Some(inner),
        _ if value.contains(&b'"') => None,
        _ => Some(value),
    }
}

/// A whole number of seconds, saturating at 2^31 (RFC 9111 §1.2.2). `None` unless it is digits alone.
pub(super) fn delta_seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().try_fold(0_u32, |sum, digit| sum.checked_mul(10)?.checked_add(u32::from(digit - b'0')));
    Some(seconds.unwrap_or(MAX_DELTA).min(MAX_DELTA))
}

/// What an overflowing number of seconds is taken for (RFC 9111 §1.2.2): 2^31.
pub(super) const MAX_DELTA: u32 = 1 << 31;

/// Counts the bytes that a parser looks at, for tests of how that grows with its input. Elsewhere it counts nothing.
pub(crate) mod steps {
    #[cfg(any(test, fuzzing))]
    thread_local! {
        static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// So many bytes were looked at.
    #[inline(always)]
    pub(crate) fn count(bytes: usize) {
        #[cfg(any(test, fuzzing))]
        STEPS.with(|steps| steps.set(steps.get() + bytes));
        #[cfg(not(any(test, fuzzing)))]
        let _ = bytes;
    }

    /// How many bytes are looked at during a call.
    #[cfg(any(test, fuzzing))]
    #[cfg_attr(not(fuzzing), allow(unreachable_pub))]
    pub fn of(call: impl FnOnce()) -> usize {
        STEPS.with(|steps| steps.set(0));
        call();
        STEPS.with(std::cell::Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists of a line, by a search that starts anew at each quote.
    fn members_by_definition(line: &[u8]) -> Vec<&[u8]> {
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
        fn quotes_that_never_close_hide_nothing(line in "[\"\\\\,a ]{0,40}") {
            proptest::prop_assert_eq!(members(line.as_bytes()).collect::<Vec<_>>(), members_by_definition(line.as_bytes()));
        }
    }

    #[test]
    fn each_byte_of_a_list_is_looked_at_a_bounded_number_of_times() {
        for pattern in ["\"\\\"", "\\\"", "\"", "\",", ",", "a,\"b", "\"a\",", "\\", "\"\\\\\"\\\",", "a"] {
            for length in [1 << 10, 1 << 14, 1 << 18] {
                let line: Vec<u8> = pattern.bytes().cycle().take(length).collect();
                let steps = steps::of(|| _ = members(&line).count()) + steps::of(|| _ = quotes_balance(&line));
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
    fn rfc9111_4_1_members_keep_the_empty_ones() {
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
