//! What the database keeps of passwords and tokens: PBKDF2 with SHA-256, salted and slow on purpose.

use std::num::NonZeroU32;

use ring::pbkdf2::{PBKDF2_HMAC_SHA256, derive, verify};

/// Rounds of PBKDF2: some milliseconds of one processor. A service that guards more than flight delays would take more.
const ROUNDS: NonZeroU32 = NonZeroU32::new(20_000).unwrap();

/// A secret as it is kept.
pub(crate) struct Slow {
    pub(crate) salt: [u8; 16],
    pub(crate) hash: [u8; 32],
}

impl Slow {
    /// Seals a secret with a new salt.
    pub(crate) fn new(secret: &str) -> Self {
        let mut sealed = Self { salt: random(), hash: [0; 32] };
        derive(PBKDF2_HMAC_SHA256, ROUNDS, &sealed.salt, secret.as_bytes(), &mut sealed.hash);
        sealed
    }

    /// Whether this is the secret that was sealed; takes as long for "yes" as for "no".
    pub(crate) fn matches(&self, secret: &str) -> bool {
        verify(PBKDF2_HMAC_SHA256, ROUNDS, &self.salt, secret.as_bytes(), &self.hash).is_ok()
    }
}

/// 128 bits that nobody can guess, as text.
pub(crate) fn random_hex() -> String {
    random().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
