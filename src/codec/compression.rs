//! Bodies, compressed with zstd.

#[cfg(feature = "redis-compression")]
pub(crate) use with_zstd::Compression;
#[cfg(feature = "redis-compression")]
pub(super) use with_zstd::unpack;
#[cfg(not(feature = "redis-compression"))]
pub(crate) use without::Compression;
#[cfg(not(feature = "redis-compression"))]
pub(super) use without::unpack;

/// No body longer than this is compressed, nor believed to be: so much can be allocated for a lie of the stored bytes.
#[cfg(feature = "redis-compression")]
pub(super) const MAX_UNPACKED: usize = 64 << 20;

#[cfg(feature = "redis-compression")]
mod with_zstd {
    use bytes::Bytes;
    use http::{HeaderMap, header::CONTENT_ENCODING};

    use crate::codec::compression::MAX_UNPACKED;
    use crate::codec::frame::Damaged;

    /// Which bodies are compressed, and how hard.
    ///
    /// A compressed length tells something of the contents, also where they are sealed: bodies that hold a secret beside text of
    /// a client's choosing are better left alone.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Compression {
        above: usize,
        level: i32,
    }

    impl Default for Compression {
        /// Bodies above 4 KiB, at level 1: about as fast as zstd can.
        fn default() -> Self {
            Self { above: 4 << 10, level: 1 }
        }
    }

    impl Compression {
        /// Bodies of more than so many bytes. Defaults to 4096.
        pub(crate) fn above(self, bytes: usize) -> Self {
            Self { above: bytes, ..self }
        }

        /// zstd's level; what it does not know counts as the nearest that it does. Defaults to 1.
        pub(crate) fn level(self, level: i32) -> Self {
            Self { level, ..self }
        }

        /// The body, at least an eighth smaller; `None` if that is not to be had. What has a content coding is not tried.
        pub(in super::super) fn pack(&self, headers: &HeaderMap, body: &[u8]) -> Option<Vec<u8>> {
            if body.len() <= self.above || body.len() > MAX_UNPACKED || headers.contains_key(CONTENT_ENCODING) {
                return None;
            }
            let packed = zstd::bulk::compress(body, self.level).ok()?;
            (packed.len() <= body.len() - body.len() / 8).then_some(packed)
        }
    }

    /// The body of a frame that says it is `len` bytes long, and is.
    pub(in super::super) fn unpack(packed: &[u8], len: usize) -> Result<Bytes, Damaged> {
        if len > MAX_UNPACKED {
            return Err(Damaged::Compressed);
        }
        match zstd::bulk::decompress(packed, len) {
            Ok(body) if body.len() == len => Ok(body.into()),
            _ => Err(Damaged::Compressed),
        }
    }
}

#[cfg(not(feature = "redis-compression"))]
mod without {
    use bytes::Bytes;
    use http::HeaderMap;

    use crate::codec::frame::Damaged;

    /// There is none without the feature.
    #[derive(Debug, Clone, Copy)]
    pub(crate) enum Compression {}

    impl Compression {
        pub(in super::super) fn pack(&self, _: &HeaderMap, _: &[u8]) -> Option<Vec<u8>> {
            match *self {}
        }
    }

    pub(in super::super) fn unpack(_: &[u8], _: usize) -> Result<Bytes, Damaged> {
        Err(Damaged::Compressed)
    }
}
