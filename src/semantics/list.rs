//! Comma-separated lists, the shape of most HTTP fields (RFC 9110 §5.6.1).

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
    std::iter::from_fn(move || {
        let line = rest?;
        let end = element_end(line);
        rest = line.get(end + 1..);
        Some(line[..end].trim_ascii())
    })
}

/// Where the first element ends: at a comma outside quotes, or at the end of the line.
fn element_end(line: &[u8]) -> usize {
    let mut at = 0;
    while let Some(next) = line[at..].iter().position(|byte| matches!(byte, b',' | b'"')) {
        at += next;
        if line[at] == b',' {
            return at;
        }
        at = quoted_end(line, at).unwrap_or(at + 1);
    }
    line.len()
}

/// The index after the quoted string that opens at `open`, or `None` if it never closes (RFC 9110 §5.6.4).
pub(super) fn quoted_end(line: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    while at < line.len() {
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

#[cfg(test)]
mod tests {
    use super::*;

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
