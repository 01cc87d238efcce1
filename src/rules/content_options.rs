//! The options of a rule for the content of requests, as data.

/// The options of a rule for the content of requests.
#[derive(Debug, Clone)]
pub(super) struct ContentOptions {
    /// A POST reads.
    pub(super) by_post: bool,
    /// The size of the largest content that is read, in bytes.
    pub(super) max: usize,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self { by_post: false, max: 64 << 10 }
    }
}
