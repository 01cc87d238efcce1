//! Entries that only who has a key can read, or make.

use crate::codec::frame::Unstored;

#[cfg(feature = "redis-encryption")]
pub use with_keys::{KeyRing, KeyRingError};
#[cfg(not(feature = "redis-encryption"))]
pub(crate) use without::KeyRing;

/// The random bytes of a sealing. At 24 any number of processes may draw them without a word to each other: two alike would be seen
/// once in some 2^96.
pub(super) const NONCE: usize = 24;

/// What the contents end with where they are sealed.
pub(super) const TAG: usize = 16;

/// Where sealed contents are stored.
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

/// The random bytes of one sealing.
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

    /// A key's name: it stands in the clear before what is sealed with it.
    type Id = [u8; 4];

    /// Where the contents begin.
    const CONTENTS: usize = FRAME + size_of::<Id>() + NONCE;

    /// The keys under which entries are encrypted in Redis: the first seals, each of them opens.
    ///
    /// Neither bodies nor header fields nor canonical keys can then be read there, and nothing that was changed, made up, or moved
    /// from one place in Redis to another is taken for an entry: another key, another prefix, another database. What remains in sight are the names of the Redis keys, lengths and
    /// times to live. What is not sealed is no entry any more.
    ///
    /// **To rotate.** Put the new key second and deploy; when every process has it, put it first and deploy; when the
    /// longest time to live has passed, drop the old one. To forget everything at once, put only the new one in.
    ///
    /// The cipher is XChaCha20-Poly1305: its nonces are long enough to be random, it takes the same time whatever the key on every
    /// machine, and no tables. A key is known by the first four bytes of a BLAKE3 hash of it.
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

    /// A [`KeyRing`] cannot be made of these keys.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum KeyRingError {
        /// There is none, so that nothing could be sealed.
        Empty,
        /// One is there twice, or two are known by the same four bytes, which happens to two random keys once in four
        /// billion: then draw another.
        Twice,
    }

    impl KeyRing {
        /// Of keys of 32 random bytes each, such as a password is not. The first seals.
        ///
        /// # Errors
        ///
        /// If there is none, or one is there twice.
        pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Result<Self, KeyRingError> {
            let keys: Arc<[_]> = keys.into_iter().map(|key| (id(&key), XChaCha20Poly1305::new(&key.into()))).collect();
            if keys.is_empty() {
                return Err(KeyRingError::Empty);
            }
            let twice = (1..keys.len()).any(|at| keys[..at].iter().any(|(id, _)| *id == keys[at].0));
            if twice { Err(KeyRingError::Twice) } else { Ok(Self(keys)) }
        }

        /// Appends what comes before sealed contents.
        pub(in super::super) fn begin(&self, nonce: [u8; NONCE], out: &mut Vec<u8>) {
            out.extend_from_slice(&self.0[0].0);
            out.extend_from_slice(&nonce);
        }

        /// Enciphers the contents where they are, and appends the tag.
        pub(in super::super) fn finish(&self, place: &Place<'_>, out: &mut Vec<u8>) -> Result<(), Unstored> {
            let (front, contents) = out.split_at_mut(CONTENTS);
            let bound = bound(front, place);
            let nonce = *front.last_chunk::<NONCE>().expect("the front ends with the nonce");
            let sealed = self.0[0].1.encrypt_inout_detached(&nonce.into(), &bound, contents.into());
            // The cipher's only error.
            let tag = sealed.map_err(|_| Unstored::TooLarge)?;
            out.extend_from_slice(&tag);
            Ok(())
        }

        /// The contents of what was sealed for this place; in the same memory, if nobody else has it.
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

    /// What the tag vouches for beside the contents: the form in which they are stored, and the place. All but the last part have a fixed
    /// length.
    fn bound(front: &[u8], place: &Place<'_>) -> Vec<u8> {
        let named = &front[..FRAME + size_of::<Id>()];
        [named, &place.database.to_le_bytes(), place.key.as_bytes()].concat()
    }

    fn id(key: &[u8; 32]) -> Id {
        let hash = blake3::derive_key("tower-response-cache 2026 id of a key of the ring", key);
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Shows by what the keys are known, and none of them.
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
                Self::Empty => "a key ring needs a key to seal with",
                Self::Twice => "two keys of a ring are known by the same four bytes",
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

    /// There is none without the feature.
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
