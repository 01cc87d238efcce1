//! Encryption: without a key, entries can be neither read nor made.

use crate::codec::frame::Unstored;

#[cfg(feature = "redis-encryption")]
pub use with_keys::{KeyRing, KeyRingError};
#[cfg(not(feature = "redis-encryption"))]
pub(crate) use without::KeyRing;

/// The length of a nonce in bytes. At 24 any number of processes may draw nonces independently: two would be equal once in about 2^96.
pub(super) const NONCE: usize = 24;

/// The length of the tag at the end of encrypted contents.
pub(super) const TAG: usize = 16;

/// The place at which encrypted contents are stored.
pub(super) struct Place<'a> {
    #[cfg_attr(not(feature = "redis-encryption"), expect(dead_code))]
    database: i64,
    #[cfg_attr(not(feature = "redis-encryption"), expect(dead_code))]
    key: &'a str,
}

impl<'a> Place<'a> {
    pub(super) fn of(database: i64, key: &'a str) -> Self {
        Self { database, key }
    }
}

/// Draws a nonce.
pub(super) fn nonce() -> Result<[u8; NONCE], Unstored> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| Unstored::Randomness)?;
    Ok(nonce)
}

#[cfg(feature = "redis-encryption")]
mod with_keys {
    use std::{error, fmt, sync::Arc};

    use bytes::{Bytes, BytesMut};
    use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};

    use crate::codec::encryption::NONCE;
    use crate::codec::encryption::Place;
    use crate::codec::encryption::TAG;
    use crate::codec::frame::Damaged;
    use crate::codec::frame::FRAME;
    use crate::codec::frame::Unstored;

    /// The identifier of a key, stored in the clear before the contents.
    type Id = [u8; 4];

    /// The position of the contents.
    const CONTENTS: usize = FRAME + size_of::<Id>() + NONCE;

    /// The keys that encrypt entries in Redis. The first one encrypts, each of them decrypts.
    ///
    /// Bodies, header fields and canonical keys can then not be read in Redis. Bytes that were changed, made up, or moved to another key,
    /// prefix or database are not accepted as an entry. The names of the Redis keys, lengths and times to live remain visible. Entries that
    /// are not encrypted are not served any more.
    ///
    /// **To rotate keys.** Add the new key in second place and deploy. When every process has it, move it to first place and deploy. When
    /// the longest time to live has passed, remove the old key. A ring with only the new key makes all entries unreadable at once.
    ///
    /// The cipher is XChaCha20-Poly1305: its nonces are long enough to be random, and it uses no tables and takes the same time for every
    /// key. A key is identified by the first four bytes of its BLAKE3 hash.
    ///
    /// ```
    /// use tower_response_cache::redis::{KeyRing, KeyRingError};
    ///
    /// let keys = KeyRing::new([[2; 32], [1; 32]])?;
    /// assert_eq!(KeyRing::new([]).unwrap_err(), KeyRingError::Empty);
    /// assert_eq!(KeyRing::new([[1; 32], [1; 32]]).unwrap_err(), KeyRingError::Twice);
    /// # Ok::<(), KeyRingError>(())
    /// ```
    #[derive(Clone)]
    pub struct KeyRing(Arc<[(Id, XChaCha20Poly1305)]>);

    /// The reason why keys do not make a [`KeyRing`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum KeyRingError {
        /// There are no keys, so nothing could be encrypted.
        Empty,
        /// A key occurs twice, or two keys have equal identifiers. The latter happens to two random keys once in four billion: draw another
        /// key.
        Twice,
    }

    impl KeyRing {
        /// Creates a ring of keys of 32 random bytes each. A password is not such a key. The first one encrypts.
        ///
        /// # Errors
        ///
        /// Returns an error if there are no keys, or if a key occurs twice.
        pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Result<Self, KeyRingError> {
            let keys: Arc<[_]> = keys.into_iter().map(|key| (id(&key), XChaCha20Poly1305::new(&key.into()))).collect();
            if keys.is_empty() {
                return Err(KeyRingError::Empty);
            }
            let twice = (1..keys.len()).any(|at| keys[..at].iter().any(|(id, _)| *id == keys[at].0));
            if twice { Err(KeyRingError::Twice) } else { Ok(Self(keys)) }
        }

        /// Appends the identifier of the key and the nonce.
        pub(in super::super) fn begin(&self, nonce: [u8; NONCE], out: &mut Vec<u8>) {
            out.extend_from_slice(&self.0[0].0);
            out.extend_from_slice(&nonce);
        }

        /// Encrypts the contents in place and appends the tag.
        pub(in super::super) fn finish(&self, place: &Place<'_>, out: &mut Vec<u8>) -> Result<(), Unstored> {
            let (front, contents) = out.split_at_mut(CONTENTS);
            let bound = bound(front, place);
            let nonce = *front.last_chunk::<NONCE>().expect("the front ends with the nonce");
            let sealed = self.0[0].1.encrypt_inout_detached(&nonce.into(), &bound, contents.into());
            // The only error of the cipher.
            let tag = sealed.map_err(|_| Unstored::TooLarge)?;
            out.extend_from_slice(&tag);
            Ok(())
        }

        /// Decrypts contents that were encrypted for this place: in the same memory, if it is not shared.
        pub(in super::super) fn open(&self, sealed: Bytes, place: &Place<'_>) -> Result<Bytes, Damaged> {
            if sealed.len() < CONTENTS + TAG {
                return Err(Damaged::Truncated);
            }
            let (_, cipher) = self.0.iter().find(|(id, _)| sealed[FRAME..].starts_with(id)).ok_or(Damaged::Sealed)?;
            let mut sealed = sealed.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            let front = sealed.split_to(CONTENTS);
            let tag = sealed.split_off(sealed.len() - TAG);
            let nonce = *front.last_chunk::<NONCE>().ok_or(Damaged::Truncated)?;
            let tag = *tag.first_chunk::<TAG>().ok_or(Damaged::Truncated)?;
            let opened =
                cipher.decrypt_inout_detached(&nonce.into(), &bound(&front, place), (&mut sealed[..]).into(), &tag.into());
            opened.map_err(|_| Damaged::Sealed)?;
            Ok(sealed.freeze())
        }
    }

    /// Returns the additional data of the tag: the form of the contents, and the place. All parts but the last have a fixed length.
    fn bound(front: &[u8], place: &Place<'_>) -> Vec<u8> {
        let named = &front[..FRAME + size_of::<Id>()];
        [named, &place.database.to_le_bytes(), place.key.as_bytes()].concat()
    }

    fn id(key: &[u8; 32]) -> Id {
        let hash = blake3::derive_key("tower-response-cache 2026 id of a key of the ring", key);
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Prints the identifiers of the keys, and no key.
    impl fmt::Debug for KeyRing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let ids = self.0.iter().map(|(id, _)| format!("{:08x}", u32::from_be_bytes(*id)));
            f.write_str("KeyRing")?;
            f.debug_list().entries(ids).finish()
        }
    }

    impl fmt::Display for KeyRingError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::Empty => "empty key ring: expected at least one key",
                Self::Twice => "duplicate key: expected keys with different identifiers",
            })
        }
    }

    impl error::Error for KeyRingError {}
}

#[cfg(not(feature = "redis-encryption"))]
mod without {
    use bytes::Bytes;

    use crate::codec::encryption::NONCE;
    use crate::codec::encryption::Place;
    use crate::codec::frame::Damaged;
    use crate::codec::frame::Unstored;

    /// There are no key rings without the feature.
    #[derive(Debug, Clone)]
    pub(crate) enum KeyRing {}

    impl KeyRing {
        pub(in super::super) fn begin(&self, _: [u8; NONCE], _: &mut Vec<u8>) {
            match *self {}
        }

        pub(in super::super) fn finish(&self, _: &Place<'_>, _: &mut Vec<u8>) -> Result<(), Unstored> {
            match *self {}
        }

        pub(in super::super) fn open(&self, _: Bytes, _: &Place<'_>) -> Result<Bytes, Damaged> {
            match *self {}
        }
    }
}
