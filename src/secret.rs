//! A keyed hash of secrets. Secrets enter keys in no other form.

use std::fmt;

use crate::percent;

/// The key under which tokens, cookies and other secrets are hashed before they enter a cache key or a namespace.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Wraps a key of 32 bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Returns a new key from the operating system's source of randomness.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness.
    pub fn random() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system gives random bytes");
        Self(key)
    }

    /// Returns the hash that stands for a secret in namespaces. All spellings of a secret have one hash: percent-encoded or not, with or
    /// without double quotes, with or without white space around it. A handler may accept each of them.
    pub(crate) fn name(&self, secret: &[u8]) -> IdentityHash {
        let secret = secret.trim_ascii();
        let quoted = secret.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        self.identity(&percent::decoded(quoted.unwrap_or(secret)))
    }

    /// Returns the first 128 bits of a keyed BLAKE3 hash.
    pub(crate) fn identity(&self, secret: &[u8]) -> IdentityHash {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::keyed_hash(&self.0, secret).as_bytes()[..16]);
        IdentityHash(hash)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret's hash in keys and namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdentityHash(pub(crate) [u8; 16]);

impl fmt::Display for IdentityHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}
