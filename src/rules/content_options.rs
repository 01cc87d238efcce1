//! The options of a rule for the content of requests, as data.

use std::time::Duration;

/// The options of a rule for the content of requests.
#[derive(Debug, Clone)]
pub(super) struct ContentOptions {
    /// A POST reads.
    pub(super) by_post: bool,
    /// The size of the largest content that is read, in bytes.
    pub(super) max: usize,
    /// The options for calls by RPC, under a rule for them.
    pub(super) rpc: Option<RpcOptions>,
}

/// The options of a rule for calls by RPC.
#[derive(Debug, Clone, Default)]
pub(super) struct RpcOptions {
    /// The lifetimes of responses with a status other than 0.
    pub(super) statuses: Vec<(i32, Duration)>,
    /// Responses from the cache have an `Age`.
    pub(super) shows_age: bool,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self { by_post: false, max: 64 << 10, rpc: None }
    }
}
