//! The hasher of tables of keys: it places the hashes that keys already have.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Places the hashes of keys in a table. Anyone can compute these hashes, and with them targets that share half of one. A random seed keeps
/// their places in the table unpredictable.
#[derive(Clone, Copy)]
pub(crate) struct KeySeed(u64, u64);

impl KeySeed {
    /// Returns a random seed. Debug builds always use the same seed, so that tests are repeatable.
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        match cfg!(debug_assertions) {
            true => Self(0x6b65_7973, 0x7461_626c_6573),
            false => Self(random.hash_one(0), random.hash_one(1)),
        }
    }

    /// Returns the place of a key in a table.
    #[inline]
    pub(crate) fn place(self, key: u128) -> u64 {
        let product = u128::from(key as u64 ^ self.0) * u128::from((key >> 64) as u64 ^ self.1);
        (product >> 64) as u64 ^ product as u64
    }
}

impl BuildHasher for KeySeed {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { seed: *self, place: 0 }
    }
}

pub(crate) struct KeyHasher {
    seed: KeySeed,
    place: u64,
}

impl Hasher for KeyHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.place
    }

    #[inline]
    fn write_u128(&mut self, key: u128) {
        self.place = self.seed.place(key);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.place = self.place.rotate_left(8) ^ u64::from(*byte);
        }
    }
}
