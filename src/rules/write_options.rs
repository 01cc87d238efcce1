//! The options of a rule for writes, as data.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, response};

use super::failure::{OnDeliveryTimeout, OnFenceError};
use crate::{key::RequestView, namespace::Namespace};

/// The options of a rule for writes on its route.
#[derive(Clone, Default)]
pub(super) struct WriteOptions {
    pub(super) names: InvalidationRule,
    /// Namespaces computed from the request and the head of the response.
    pub(super) computed: Vec<(Methods, Arc<InvalidationsBy>)>,
    /// The field of responses that lists namespaces.
    pub(super) field: Option<HeaderName>,
    pub(super) softly: bool,
    pub(super) skip_on_client_error: bool,
    pub(super) skip_on_server_error: bool,
    pub(super) delivery_timeout: Option<(Duration, OnDeliveryTimeout)>,
    pub(super) on_fence_error: Option<OnFenceError>,
}

type InvalidationsBy = dyn Fn(&RequestView<'_>, &response::Parts) -> Vec<Namespace> + Send + Sync;

/// The namespaces that unsafe methods on the route invalidate.
#[derive(Clone, Default)]
pub(super) enum InvalidationRule {
    /// The namespaces of the rule itself.
    #[default]
    Own,
    Listed(Vec<(Methods, String)>),
}

/// The methods, or `None` for every unsafe method.
pub(super) type Methods = Option<Vec<Method>>;

impl WriteOptions {
    /// Returns the list of namespaces, in place of the rule's own.
    pub(super) fn listed(&mut self) -> &mut Vec<(Methods, String)> {
        if matches!(self.names, InvalidationRule::Own) {
            self.names = InvalidationRule::Listed(Vec::new());
        }
        match &mut self.names {
            InvalidationRule::Listed(list) => list,
            InvalidationRule::Own => unreachable!("just replaced"),
        }
    }
}
