//! Compression of bodies with zstd.

#[cfg(feature = "redis-compression")]
pub(crate) use with_zstd::Compression;
#[cfg(feature = "redis-compression")]
pub(super) use with_zstd::unpack;
#[cfg(not(feature = "redis-compression"))]
pub(crate) use without::Compression;
#[cfg(not(feature = "redis-compression"))]
pub(super) use without::unpack;

/// The longest body that is compressed or decompressed. It bounds the memory that forged bytes can allocate.
#[cfg(feature = "redis-compression")]
pub(super) const MAX_UNPACKED: usize = 64 << 20;

#[cfg(feature = "redis-compression")]
mod with_zstd {
    use bytes::Bytes;
    use http::{HeaderMap, header::CONTENT_ENCODING};

    use crate::codec::compression::MAX_UNPACKED;
    use crate::codec::frame::Damaged;

    /// The choice of bodies to compress, and the level.
    ///
    /// A compressed length reveals something about the content, even if it is encrypted. Bodies that contain a secret next to text that a
    /// client chooses should not be compressed.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Compression {
        above: usize,
        level: i32,
    }

    impl Default for Compression {
        /// Compresses bodies above 4 KiB at level 1, which is about the fastest.
        fn default() -> Self {
            Self { above: 4 << 10, level: 1 }
        }
    }

    impl Compression {
        /// Sets the length in bytes above which bodies are compressed. Defaults to 4096.
        pub(crate) fn above(self, bytes: usize) -> Self {
            Self { above: bytes, ..self }
        }

        /// Sets the level of zstd. An unknown level counts as the nearest known one. Defaults to 1.
        pub(crate) fn level(self, level: i32) -> Self {
            Self { level, ..self }
        }

        /// Compresses a body. `None` if the result is not at least an eighth smaller, or if the body has a content coding.
        pub(in super::super) fn pack(&self, headers: &HeaderMap, body: &[u8]) -> Option<Vec<u8>> {
            if body.len() <= self.above || body.len() > MAX_UNPACKED || headers.contains_key(CONTENT_ENCODING) {
                return None;
            }
            let packed = zstd::bulk::compress(body, self.level).ok()?;
            (packed.len() <= body.len() - body.len() / 8).then_some(packed)
        }
    }

    /// Decompresses a frame whose body must have `len` bytes.
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

    /// There is no compression without the feature.
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
