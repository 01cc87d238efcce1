//! The options of a rule for messages, as data.

use std::sync::Arc;

use crate::{error::BoxError, extensions::CachePolicy, message::MessageView, namespace::Namespace};

/// Namespaces computed from a message.
pub(super) type NamespacesFrom = dyn Fn(&MessageView<'_>) -> Result<Vec<Namespace>, BoxError> + Send + Sync;

/// A policy computed from the message of a response.
pub(super) type PolicyFrom = dyn Fn(&MessageView<'_>) -> Result<CachePolicy, BoxError> + Send + Sync;

/// The closures of a rule over messages.
#[derive(Clone, Default)]
pub(super) struct MessageOptions {
    /// The namespaces of an entry, from the request.
    pub(super) namespaces: Vec<Arc<NamespacesFrom>>,
    /// Namespaces and lifetime of an entry, from the response.
    pub(super) policies: Vec<Arc<PolicyFrom>>,
    /// The namespaces that a write invalidates, from its request.
    pub(super) invalidated_by_request: Vec<Arc<NamespacesFrom>>,
    /// The namespaces that a write invalidates, from its response.
    pub(super) invalidated_by_response: Vec<Arc<NamespacesFrom>>,
}

impl MessageOptions {
    /// Returns true if no closure reads the messages of reads.
    pub(super) fn reads_none_of_reads(&self) -> bool {
        self.namespaces.is_empty() && self.policies.is_empty()
    }
}
