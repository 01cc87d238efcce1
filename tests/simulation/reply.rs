//! Replies of RESP2 and RESP3, and commands as a server receives them.

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Simple(&'static str),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    /// Text that a client may show as it is.
    Verbatim(String),
    Null,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Push(Vec<Reply>),
}

impl Reply {
    pub const OK: Self = Self::Simple("OK");

    pub fn bulk(text: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(text.into())
    }

    /// Appends the reply in the form of a version of the protocol.
    pub fn encode(&self, resp3: bool, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => line(b'+', text.as_bytes(), out),
            Self::Error(text) => line(b'-', text.as_bytes(), out),
            Self::Int(number) => line(b':', number.to_string().as_bytes(), out),
            Self::Bulk(bytes) => string(b'$', bytes, out),
            Self::Verbatim(text) if resp3 => string(b'=', format!("txt:{text}").as_bytes(), out),
            Self::Verbatim(text) => string(b'$', text.as_bytes(), out),
            Self::Null if resp3 => line(b'_', b"", out),
            Self::Null => line(b'$', b"-1", out),
            Self::Array(items) => list(b'*', items, resp3, out),
            Self::Push(items) => list(if resp3 { b'>' } else { b'*' }, items, resp3, out),
            Self::Map(pairs) => {
                let count = if resp3 { pairs.len() } else { 2 * pairs.len() };
                line(if resp3 { b'%' } else { b'*' }, count.to_string().as_bytes(), out);
                for (key, value) in pairs {
                    key.encode(resp3, out);
                    value.encode(resp3, out);
                }
            }
        }
    }
}

fn line(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn string(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    line(kind, bytes.len().to_string().as_bytes(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn list(kind: u8, items: &[Reply], resp3: bool, out: &mut Vec<u8>) {
    line(kind, items.len().to_string().as_bytes(), out);
    items.iter().for_each(|item| item.encode(resp3, out));
}

/// Encodes a command.
pub fn encode_command(words: &[Vec<u8>], out: &mut Vec<u8>) {
    line(b'*', words.len().to_string().as_bytes(), out);
    words.iter().for_each(|word| string(b'$', word, out));
}

/// Removes the first command from received bytes. Returns `None` if it is incomplete.
///
/// Panics if the bytes are not an array of strings.
pub fn take_command(input: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut at = 0;
    let count = number(input, b'*', &mut at)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(input, b'$', &mut at)?;
        words.push(input.get(at..at + length)?.to_vec());
        input.get(at + length + 1)?;
        at += length + 2;
    }
    input.drain(..at);
    Some(words)
}

fn number(input: &[u8], kind: u8, at: &mut usize) -> Option<usize> {
    let rest = input.get(*at..)?;
    let first = rest.first()?;
    assert_eq!(*first, kind, "{} is no command", rest.escape_ascii());
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    *at += end + 2;
    Some(std::str::from_utf8(&rest[1..end]).expect("digits").parse().expect("a number"))
}
