//! The options of a rule for GraphQL, and the documents that it has seen or was given.

use std::{collections::HashMap, fmt, sync::Arc};

use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use crate::graphql::document::{Document, NotExecutable};

/// The options of a rule for GraphQL.
#[derive(Debug, Clone, Default)]
pub(super) struct GraphqlOptions {
    pub(super) documents: Arc<Documents>,
    pub(super) registered: Registered,
    /// The data in responses name namespaces.
    pub(super) reads_entities: bool,
    /// A registered text that is not a document.
    pub(super) invalid_document: Option<String>,
}

/// The number of documents that are remembered.
const MOST: usize = 1_024;

/// The largest number of operations of a document that is remembered, and the largest size of their names together.
const MOST_OPERATIONS: usize = 32;

/// A document without its text.
#[derive(Debug)]
pub(super) struct KnownDocument {
    /// The BLAKE3 hash of the text.
    pub(super) hash: [u8; 32],
    pub(super) document: Document,
}

/// The documents of a rule, which all copies of the rule share.
pub(super) struct Documents {
    /// Documents by their BLAKE3 hash. They need not be parsed again.
    parsed: Cache<[u8; 32], Arc<KnownDocument>>,
    /// Documents by their SHA-256 hash, which was verified.
    verified: Cache<[u8; 32], Arc<KnownDocument>>,
}

/// The documents that an application has registered, by their SHA-256 hash.
pub(super) type Registered = HashMap<[u8; 32], Arc<KnownDocument>>;

impl Default for Documents {
    fn default() -> Self {
        Self { parsed: Cache::new(MOST), verified: Cache::new(MOST) }
    }
}

impl Documents {
    /// Returns the document of a text.
    pub(super) fn parse(&self, text: &str) -> Result<Arc<KnownDocument>, NotExecutable> {
        let hash = *blake3::hash(text.as_bytes()).as_bytes();
        if let Some(known) = self.parsed.get(&hash) {
            return Ok(known);
        }
        let known = Arc::new(KnownDocument { hash, document: Document::parse(text)? });
        if is_small(&known.document) {
            self.parsed.insert(hash, known.clone());
        }
        Ok(known)
    }

    /// Remembers a document by the SHA-256 hash of its text. The caller has verified the hash.
    pub(super) fn remember(&self, hash: [u8; 32], known: &Arc<KnownDocument>) {
        if is_small(&known.document) && self.verified.peek(&hash).is_none() {
            self.verified.insert(hash, known.clone());
        }
    }

    /// Returns the document of a hash.
    pub(super) fn of_hash(&self, hash: &[u8; 32]) -> Option<Arc<KnownDocument>> {
        self.verified.get(hash)
    }
}

/// Returns true for a document whose operations take little memory.
fn is_small(document: &Document) -> bool {
    document.operations().len() <= MOST_OPERATIONS && document.names_len() <= 4 << 10
}

/// Returns the hash by which clients name a document.
pub(super) fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents").field("parsed", &self.parsed.len()).field("verified", &self.verified.len()).finish()
    }
}
