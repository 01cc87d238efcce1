//! What the database keeps of passwords and tokens: PBKDF2 with SHA-256, salted and slow on purpose.

use pbkdf2::pbkdf2_hmac_array;
use sha2::Sha256;

/// Rounds of PBKDF2: some milliseconds of one processor. A service that guards more than flight delays would take more.
const ROUNDS: u32 = 20_000;

/// A secret as it is kept.
pub(crate) struct Slow {
    pub(crate) salt: [u8; 16],
    pub(crate) hash: [u8; 32],
}

impl Slow {
    /// Seals a secret with a new salt.
    pub(crate) fn new(secret: &str) -> Self {
        let salt = random();
        Self { salt, hash: pbkdf2_hmac_array::<Sha256, 32>(secret.as_bytes(), &salt, ROUNDS) }
    }

    /// Whether this is the secret that was sealed; takes as long for "yes" as for "no".
    pub(crate) fn matches(&self, secret: &str) -> bool {
        let hash = pbkdf2_hmac_array::<Sha256, 32>(secret.as_bytes(), &self.salt, ROUNDS);
        hash.iter().zip(self.hash).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
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
