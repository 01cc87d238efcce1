//! Canonical forms of content: JSON and forms.

use super::query::{is_plain, name_of};

/// The largest depth of a JSON document.
const MAX_DEPTH: usize = 64;

/// Returns a JSON document (RFC 8259) without white space and with its members sorted by name. Numbers and strings stay as they are written.
/// Returns `None` if the text is not JSON, is nested too deeply, or has an escape in a name: two spellings of one name must not change places.
pub(super) fn json(text: &[u8]) -> Option<Vec<u8>> {
    std::str::from_utf8(text).ok()?;
    let mut reader = Reader { rest: text };
    let mut written = Vec::with_capacity(text.len());
    reader.value(&mut written, MAX_DEPTH)?;
    reader.skip_white_space();
    reader.rest.is_empty().then_some(written)
}

/// Returns a form with its pairs sorted by name. Pairs of one name keep their order. Returns `None` if a name may have another spelling.
pub(super) fn form(text: &[u8]) -> Option<Vec<u8>> {
    let mut pairs: Vec<_> = text.split(|byte| *byte == b'&').collect();
    if text.contains(&b';') || !pairs.iter().all(|pair| is_plain(name_of(pair))) {
        return None;
    }
    pairs.sort_by_key(|pair| name_of(pair));
    Some(pairs.join(&b'&'))
}

/// The rest of a JSON text.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn skip_white_space(&mut self) {
        let end = self.rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
    }

    /// Takes a byte, if it is the next one behind white space.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip_white_space();
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    /// Takes a number of bytes.
    fn split(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn value(&mut self, written: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.skip_white_space();
        match *self.rest.first()? {
            b'{' => self.object(written, depth.checked_sub(1)?),
            b'[' => self.array(written, depth.checked_sub(1)?),
            b'"' => {
                written.extend_from_slice(self.string()?);
                Some(())
            }
            _ => {
                written.extend_from_slice(self.scalar()?);
                Some(())
            }
        }
    }

    fn array(&mut self, written: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.take(b'[')?;
        written.push(b'[');
        if self.take(b']').is_none() {
            loop {
                self.value(written, depth)?;
                if self.take(b']').is_some() {
                    break;
                }
                self.take(b',')?;
                written.push(b',');
            }
        }
        written.push(b']');
        Some(())
    }

    fn object(&mut self, written: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.take(b'{')?;
        let mut members: Vec<(&[u8], Vec<u8>)> = Vec::new();
        if self.take(b'}').is_none() {
            loop {
                self.skip_white_space();
                let name = self.string().filter(|name| !name.contains(&b'\\'))?;
                self.take(b':')?;
                let mut value = Vec::new();
                self.value(&mut value, depth)?;
                members.push((name, value));
                if self.take(b'}').is_some() {
                    break;
                }
                self.take(b',')?;
            }
        }
        // Stable, so that members of one name keep their order.
        members.sort_by_key(|(name, _)| *name);
        written.push(b'{');
        for (n, (name, value)) in members.iter().enumerate() {
            if n > 0 {
                written.push(b',');
            }
            written.extend_from_slice(name);
            written.push(b':');
            written.extend_from_slice(value);
        }
        written.push(b'}');
        Some(())
    }

    /// Takes a string with its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let mut bytes = self.rest.iter().enumerate();
        bytes.next().filter(|(_, byte)| **byte == b'"')?;
        let mut escaped = false;
        let end = loop {
            let (at, byte) = bytes.next()?;
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => break at,
                0..0x20 => return None,
                _ => {}
            }
        };
        Some(self.split(end + 1))
    }

    /// Takes a number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"+-.".contains(byte)));
        let word = self.split(end.unwrap_or(self.rest.len()));
        let is_literal = matches!(word, b"true" | b"false" | b"null");
        (is_literal || is_number(word)).then_some(word)
    }
}

/// Returns true for a number (RFC 8259, section 6).
fn is_number(word: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let word = word.strip_prefix(b"-").unwrap_or(word);
    let whole = digits(word);
    if whole == 0 || whole > 1 && word[0] == b'0' {
        return false;
    }
    let mut rest = &word[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = &fraction[len..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let len = digits(exponent);
        return len > 0 && len == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
#[path = "tests/canonical.rs"]
mod tests;
