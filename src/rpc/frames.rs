//! Frames of messages: a byte of flags, the length in four bytes, and the message.

use std::time::Duration;

/// Counts the frames of a body as it arrives.
#[derive(Debug, Clone, Default)]
pub(crate) struct FrameCounter {
    head: [u8; HEAD],
    /// The number of bytes of the next head that have arrived.
    filled: usize,
    /// The number of bytes of the current frame that are missing.
    missing: usize,
    messages: usize,
    has_trailers: bool,
}

/// The time in which a body must end behind its first message. After that it counts as a stream, which must not be held.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

const HEAD: usize = 5;

/// The flag of a frame of trailers (gRPC-Web).
const TRAILERS: u8 = 0x80;

/// The flag of a compressed message.
const COMPRESSED: u8 = 1;

impl FrameCounter {
    pub(crate) fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let skipped = self.missing.min(data.len());
            (self.missing, data) = (self.missing - skipped, &data[skipped..]);
            let taken = (HEAD - self.filled).min(data.len());
            self.head[self.filled..][..taken].copy_from_slice(&data[..taken]);
            (self.filled, data) = (self.filled + taken, &data[taken..]);
            if self.filled == HEAD {
                let [flags, length @ ..] = self.head;
                (self.filled, self.missing) = (0, u32::from_be_bytes(length) as usize);
                match flags & TRAILERS {
                    0 => self.messages += 1,
                    _ => self.has_trailers = true,
                }
            }
        }
    }

    /// Returns the number of bytes of the current frame that are missing.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    /// Returns true if more than one message has begun, or anything behind trailers.
    pub(crate) fn is_stream(&self) -> bool {
        self.messages > 1 || self.messages == 1 && !self.has_trailers && self.filled > 0 && self.head[0] & TRAILERS == 0
    }

    /// Returns true after exactly one complete message, with or without a frame of trailers.
    pub(crate) fn is_one_message(&self) -> bool {
        self.messages == 1 && self.is_between()
    }

    /// Returns true if a byte has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.messages > 0 || self.has_trailers || self.filled > 0
    }

    /// Returns true if a message has begun.
    pub(crate) fn has_messages(&self) -> bool {
        self.messages > 0
    }

    /// Returns true between two frames.
    pub(crate) fn is_between(&self) -> bool {
        self.filled == 0 && self.missing == 0
    }
}

/// Returns the only message of a complete body and its flag of compression. A frame of trailers may follow it. Returns `None` for other bodies.
pub(crate) fn only_message(body: &[u8]) -> Option<(&[u8], bool)> {
    let (flags, message, rest) = split(body)?;
    let is_end = || split(rest).is_some_and(|(flags, _, rest)| flags & TRAILERS != 0 && rest.is_empty());
    let is_only = flags & TRAILERS == 0 && (rest.is_empty() || is_end());
    is_only.then_some((message, flags & COMPRESSED != 0))
}

/// Splits a body behind its first frame, into flags, content and rest.
fn split(body: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = body.split_at_checked(HEAD)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    let (content, rest) = rest.split_at_checked(length)?;
    Some((head[0], content, rest))
}

/// Returns the trailers at the end of a body of gRPC-Web.
pub(crate) fn trailers(mut body: &[u8]) -> Option<&[u8]> {
    loop {
        let (flags, content, rest) = split(body)?;
        if flags & TRAILERS != 0 {
            return rest.is_empty().then_some(content);
        }
        body = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(pieces: &[&[u8]]) -> FrameCounter {
        let mut frames = FrameCounter::default();
        pieces.iter().for_each(|piece| frames.push(piece));
        frames
    }

    #[test]
    fn one_message_in_any_pieces_is_one_message() {
        let body = b"\0\0\0\0\x03abc";
        for at in 0..=body.len() {
            let frames = counted(&[&body[..at], &body[at..]]);
            assert!(frames.is_one_message() && !frames.is_stream(), "{at}");
            assert!(at == body.len() || !counted(&[&body[..at]]).is_one_message(), "{at}");
        }
        assert!(counted(&[b"\x01\0\0\0\0"]).is_one_message());
        assert_eq!(counted(&[b"\0\0\x01\0\0ab"]).missing(), 65_534);
    }

    #[test]
    fn second_message_is_a_stream() {
        let one = b"\0\0\0\0\x01a";
        for more in [&b"\0"[..], b"\0\0\0\0\0", one] {
            assert!(counted(&[one, more]).is_stream(), "{more:?}");
        }
        assert!(!counted(&[]).is_one_message());
        let web = counted(&[one, b"\x80\0\0\0\x01b"]);
        assert!(web.is_one_message() && !web.is_stream());
    }

    #[test]
    fn only_message_has_no_other_message_beside_it() {
        for (body, want) in [
            (&b"\0\0\0\0\x01a"[..], Some((&b"a"[..], false))),
            (b"\x01\0\0\0\x01a", Some((b"a", true))),
            (b"\0\0\0\0\0", Some((b"", false))),
            (b"\0\0\0\0\x01a\x80\0\0\0\x01b", Some((b"a", false))),
            (b"\0\0\0\0\x01a\0\0\0\0\x01a", None),
            (b"\0\0\0\0\x01a\x80\0\0\0\x01bc", None),
            (b"\x80\0\0\0\x01b", None),
            (b"\0\0\0\0\x02a", None),
            (b"", None),
        ] {
            assert_eq!(only_message(body), want, "{body:?}");
        }
    }

    #[test]
    fn trailers_of_grpc_web_are_the_last_frame() {
        assert_eq!(trailers(b"\0\0\0\0\x01a\x80\0\0\0\x02bc"), Some(&b"bc"[..]));
        for body in [&b""[..], b"\0\0\0\0\x01a", b"\x80\0\0\0\x02b", b"\x80\0\0\0\0\0"] {
            assert_eq!(trailers(body), None, "{body:?}");
        }
    }
}
