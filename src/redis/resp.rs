//! Replies of RESP2 and RESP3 in a buffer of bytes.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use redis::{ErrorKind, PushInfo, RedisError, RedisResult, Value};
use tokio::io::{AsyncRead, ReadBuf};

/// The size of the first read buffer, and the largest size that is kept after a long reply.
pub(super) const INITIAL_BUFFER: usize = 16 << 10;
pub(super) const MAX_BUFFER: usize = 2 << 20;

/// A reply in the form that a hit needs.
#[derive(Debug)]
pub(crate) enum FastReply {
    /// A list, not parsed.
    Many(Vec<u8>),
    /// Any other reply.
    Value(Value),
}

impl FastReply {
    #[inline]
    pub(super) fn of(reply: &[u8]) -> Result<Self, RedisError> {
        Ok(if reply.first() == Some(&b'*') { Self::Many(reply.to_vec()) } else { Self::Value(value(reply)?) })
    }

    pub(super) fn into_value(self) -> RedisResult<Value> {
        match self {
            Self::Many(reply) => value(&reply),
            Self::Value(value) => Ok(value),
        }
    }
}

/// The positions of the strings in a list, one after another.
pub(crate) struct BulkStrings<'a> {
    reply: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> BulkStrings<'a> {
    /// Returns `None` if the reply is not a list.
    pub(super) fn of(reply: &'a [u8]) -> Option<Self> {
        let (count, at) = number(reply, 1).ok()??;
        Some(Self { reply, at, left: usize::try_from(count).ok()? })
    }

    /// Returns `true` if all elements were strings or nil.
    pub(super) fn are_all(&self) -> bool {
        self.left == 0
    }
}

impl Iterator for BulkStrings<'_> {
    /// `None` is nil.
    type Item = Option<Range<usize>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.left.checked_sub(1)?;
        let (span, end) = span(self.reply, self.at)?;
        (self.left, self.at) = (rest, end);
        Some(span)
    }
}

/// Received bytes that are not parsed yet.
#[derive(Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Incoming {
    /// Reads the available bytes. Returns their number, which is zero at the end of the stream.
    pub(super) fn fill<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            if self.bytes.is_empty() || self.bytes.len() > MAX_BUFFER {
                self.bytes = vec![0; INITIAL_BUFFER];
            }
        } else if self.to == self.bytes.len() {
            self.bytes.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            if self.to > self.bytes.len() / 2 {
                self.bytes.resize(self.bytes.len() * 2, 0);
            }
        }
        let mut buffer = ReadBuf::new(&mut self.bytes[self.to..]);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let filled = buffer.filled().len();
        self.to += filled;
        Poll::Ready(Ok(filled))
    }

    /// Returns the next reply if it is complete.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, RedisError> {
        let bytes = &self.bytes[self.from..self.to];
        let Some(end) = end(bytes)? else { return Ok(None) };
        self.from += end;
        Ok(Some(&bytes[..end]))
    }
}

/// Parses a complete reply.
#[inline]
pub(super) fn value(reply: &[u8]) -> RedisResult<Value> {
    match strings(reply) {
        Some(value) => Ok(value),
        None => redis::parse_redis_value(reply),
    }
}

/// Parses a complete reply that is a push.
pub(super) fn push(reply: &[u8]) -> RedisResult<PushInfo> {
    match redis::parse_redis_value(reply)? {
        Value::Push { kind, data } => Ok(PushInfo { kind, data }),
        _ => Err(invalid_reply()),
    }
}

fn invalid_reply() -> RedisError {
    (ErrorKind::Parse, "invalid reply of redis").into()
}

pub(super) fn unexpected_reply() -> RedisError {
    (ErrorKind::Parse, "reply of redis without a command").into()
}

/// Returns the number at the beginning of a line, after its type, and the end of the line. `None` if the line is incomplete.
#[inline]
fn number(bytes: &[u8], from: usize) -> Result<Option<(i64, usize)>, RedisError> {
    let Some(line) = bytes[from..].iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let end = from + line + 1;
    let is_negative = bytes[from] == b'-';
    let digits = bytes.get(from + usize::from(is_negative)..end - 2).unwrap_or_default();
    // No length has more digits.
    if digits.is_empty() || digits.len() > 10 || bytes[end - 2] != b'\r' {
        return Err(invalid_reply());
    }
    let mut number = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(invalid_reply());
        }
        number = number * 10 + i64::from(digit - b'0');
    }
    Ok(Some((if is_negative { -number } else { number }, end)))
}

/// Returns the end of the first reply. `None` if it is incomplete.
fn end(bytes: &[u8]) -> Result<Option<usize>, RedisError> {
    let (mut at, mut left) = (0, 1_u64);
    while left > 0 {
        left -= 1;
        let Some(kind) = bytes.get(at) else { return Ok(None) };
        match kind {
            b'$' | b'!' | b'=' => {
                let Some((length, end)) = number(bytes, at + 1)? else { return Ok(None) };
                at = match usize::try_from(length) {
                    Ok(length) => end.checked_add(length + 2).ok_or_else(invalid_reply)?,
                    Err(_) if length < 0 => end,
                    Err(_) => return Err(invalid_reply()),
                };
                if at > bytes.len() {
                    return Ok(None);
                }
                if !bytes[..at].ends_with(b"\r\n") {
                    return Err(invalid_reply());
                }
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Some((length, end)) = number(bytes, at + 1)? else { return Ok(None) };
                let length = length.max(0) as u64;
                left += match kind {
                    b'%' => 2 * length,
                    // The value that the attribute describes follows.
                    b'|' => 2 * length + 1,
                    _ => length,
                };
                at = end;
            }
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                let Some(line) = bytes[at..].iter().position(|byte| *byte == b'\n') else { return Ok(None) };
                at += line + 1;
            }
            _ => return Err(invalid_reply()),
        }
    }
    Ok(Some(at))
}

/// Parses a complete reply that is a string, nil, or a list of these.
#[inline]
fn strings(reply: &[u8]) -> Option<Value> {
    if reply.first() != Some(&b'*') {
        return string(reply).map(|(value, _)| value);
    }
    let (count, mut at) = number(reply, 1).ok()??;
    // Each element takes at least three bytes.
    let count = usize::try_from(count).ok().filter(|count| *count <= reply.len() / 3)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let (value, length) = string(&reply[at..])?;
        values.push(value);
        at += length;
    }
    Some(Value::Array(values))
}

/// Parses a string or nil, and returns its length here.
#[inline]
fn string(reply: &[u8]) -> Option<(Value, usize)> {
    let (span, end) = span(reply, 0)?;
    Some((span.map_or(Value::Nil, |span| Value::BulkString(reply[span].to_vec())), end))
}

/// Returns the position of a string or nil that begins here, and its end.
#[inline]
fn span(reply: &[u8], at: usize) -> Option<(Option<Range<usize>>, usize)> {
    match reply.get(at)? {
        b'_' if reply.get(at + 1..at + 3)? == b"\r\n" => Some((None, at + 3)),
        b'$' => {
            let (length, start) = number(reply, at + 1).ok()??;
            let Ok(length) = usize::try_from(length) else { return Some((None, start)) };
            let end = start + length;
            (reply.get(end..end + 2)? == b"\r\n").then_some((Some(start..end), end + 2))
        }
        _ => None,
    }
}

/// Splits bytes into replies, in two pieces and in one, and parses each reply in every way. For the fuzz target `replies`.
///
/// Panics if the pieces change a reply, or if a reply differs from the one that the `redis` crate reads. Returns the number of replies.
#[cfg(any(test, fuzzing))]
pub fn fuzz_replies(input: &[u8]) -> usize {
    let Some((cut, bytes)) = input.split_first() else { return 0 };
    let mut whole = Incoming { bytes: bytes.to_vec(), from: 0, to: bytes.len() };
    let mut pieces = Incoming { to: usize::from(*cut).min(bytes.len()), ..Incoming { bytes: bytes.to_vec(), from: 0, to: 0 } };
    let mut replies = 0;
    while let Ok(Some(reply)) = whole.next() {
        let from_pieces = loop {
            match pieces.next().expect("a valid reply is valid in pieces") {
                Some(reply) => break reply.to_vec(),
                None => {
                    assert!(pieces.to < bytes.len(), "a whole reply is missing in pieces");
                    pieces.to = bytes.len();
                }
            }
        };
        assert_eq!(from_pieces, reply);
        if let (Ok(ours), Ok(theirs)) = (value(reply), redis::parse_redis_value(reply)) {
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        }
        if let Some(strings) = BulkStrings::of(reply) {
            strings.flatten().for_each(|span| assert!(reply.get(span).is_some()));
        }
        let _ = push(reply);
        replies += 1;
    }
    replies
}

/// Replies of every kind.
#[cfg(test)]
pub(super) const REPLIES: &[&[u8]] = &[
    b"$5\r\nhello\r\n",
    b"$0\r\n\r\n",
    b"$4\r\na\r\nb\r\n",
    b"$-1\r\n",
    b"_\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*3\r\n$1\r\na\r\n_\r\n$2\r\nbc\r\n",
    b"*3\r\n$1\r\na\r\n$-1\r\n:7\r\n",
    b"*2\r\n*1\r\n$1\r\na\r\n*0\r\n",
    b"+OK\r\n",
    b"+PONG\r\n",
    b":-42\r\n",
    b",1.5\r\n",
    b"#t\r\n",
    b"(123456789012345678901234567890\r\n",
    b"-MOVED 3999 127.0.0.1:6381\r\n",
    b"-ERR unknown\r\n",
    b"!9\r\nERR wrong\r\n",
    b"=8\r\ntxt:text\r\n",
    b"%1\r\n$1\r\na\r\n:1\r\n",
    b"~2\r\n:1\r\n:2\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n",
    b"|1\r\n+a\r\n+b\r\n:1\r\n",
];

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn replies_parse_like_those_of_the_client() {
        for reply in REPLIES {
            let mut incoming = incoming(reply);
            let ours = incoming.next().expect("a reply").map(|reply| value(reply).expect("a reply"));
            assert_eq!(ours, redis::parse_redis_value(reply).ok(), "{}", reply.escape_ascii());
            assert_eq!(incoming.from, reply.len());
        }
    }

    #[test]
    fn strings_of_a_reply_equal_those_of_the_client() {
        for reply in REPLIES.iter().filter(|reply| reply.starts_with(b"*")) {
            let found = BulkStrings::of(reply).map(|mut strings| {
                let found: Vec<_> = strings.by_ref().map(|span| span.map(|span| reply[span].to_vec())).collect();
                strings.are_all().then_some(found)
            });
            let theirs = match redis::parse_redis_value(reply).expect("a reply") {
                Value::Array(values) => Some(
                    values
                        .into_iter()
                        .map(|value| match value {
                            Value::BulkString(bytes) => Some(Some(bytes)),
                            Value::Nil => Some(None),
                            _ => None,
                        })
                        .collect::<Option<Vec<_>>>(),
                ),
                _ => None,
            };
            assert_eq!(found, theirs, "{}", reply.escape_ascii());
        }
    }

    #[test]
    fn truncated_reply_is_incomplete() {
        for reply in REPLIES {
            for len in 0..reply.len() {
                let mut incoming = incoming(&reply[..len]);
                let found = incoming.next().expect("it may go on");
                assert_eq!(found, None, "{} of {}", len, reply.escape_ascii());
            }
        }
    }

    #[test]
    fn invalid_reply_is_an_error() {
        for reply in
            [&b"HTTP/1.1 400\r\n"[..], b"$a\r\n", b"$\r\n", b"$-\r\n", b"$5\n", b"\n", b"$99999999999\r\n", b"$1\r\nab\r\n"]
        {
            assert!(incoming(reply).next().is_err(), "{}", reply.escape_ascii());
        }
    }

    fn incoming(bytes: &[u8]) -> Incoming {
        Incoming { bytes: bytes.to_vec(), from: 0, to: bytes.len() }
    }

    proptest! {
        #[test]
        fn random_bytes_parse_like_those_of_the_client(bytes in vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r'), Just(b'*'), Just(b'$'), Just(b'1')], 0..60)) {
            fuzz_replies(&bytes);
        }
    }
}
