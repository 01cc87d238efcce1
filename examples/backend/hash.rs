//! Hashes of passwords and tokens: PBKDF2 with SHA-256 and a salt, deliberately slow.

use std::num::NonZeroU32;

use ring::pbkdf2::{PBKDF2_HMAC_SHA256, derive, verify};

/// Rounds of PBKDF2, a few milliseconds of processor time. A real service would use more.
const ROUNDS: NonZeroU32 = NonZeroU32::new(20_000).unwrap();

/// The stored form of a secret.
pub(crate) struct SecretHash {
    pub(crate) salt: [u8; 16],
    pub(crate) hash: [u8; 32],
}

impl SecretHash {
    /// Hashes a secret with a new salt.
    pub(crate) fn new(secret: &str) -> Self {
        let mut hashed = Self { salt: random(), hash: [0; 32] };
        derive(PBKDF2_HMAC_SHA256, ROUNDS, &hashed.salt, secret.as_bytes(), &mut hashed.hash);
        hashed
    }

    /// Returns whether this is the hash of the secret, in constant time.
    pub(crate) fn matches(&self, secret: &str) -> bool {
        verify(PBKDF2_HMAC_SHA256, ROUNDS, &self.salt, secret.as_bytes(), &self.hash).is_ok()
    }
}

/// Returns 128 random bits in hexadecimal.
pub(crate) fn random_hex() -> String {
    random().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    bytes
}
