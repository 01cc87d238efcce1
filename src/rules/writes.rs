//! Options of a rule for writes: the namespaces that they invalidate, and the reactions to failures.

use std::{sync::Arc, time::Duration};

use http::{Method, response};

use super::{
    failure::{OnDeliveryTimeout, OnFenceError},
    rule::Rule,
    write_options::{InvalidationRule, Methods},
};
use crate::{key::RequestView, namespace::Namespace};

impl Rule {
    /// Sets a namespace that unsafe methods on this route invalidate, as a template.
    ///
    /// Without this option and its variants, they invalidate the rule's own [namespaces](Self::namespace).
    #[must_use]
    pub fn invalidates(self, template: &str) -> Self {
        self.invalidates_listed(None, template)
    }

    /// Sets a namespace that these methods on this route invalidate. Other methods then invalidate nothing.
    #[must_use]
    pub fn invalidates_on(self, methods: impl IntoIterator<Item = Method>, template: &str) -> Self {
        self.invalidates_listed(Some(methods.into_iter().collect()), template)
    }

    /// Sets the namespaces that unsafe methods on this route invalidate, computed from the request and the head of the response.
    #[must_use]
    pub fn invalidates_by<F>(mut self, names: F) -> Self
    where
        F: Fn(&RequestView<'_>, &response::Parts) -> Vec<Namespace> + Send + Sync + 'static,
    {
        self.writes.listed();
        self.writes.computed.push((None, Arc::new(names)));
        self
    }

    /// Lets unsafe methods on this route invalidate only the namespaces that the handler's response names.
    #[must_use]
    pub fn invalidates_nothing(mut self) -> Self {
        self.writes.names = InvalidationRule::Listed(Vec::new());
        self.writes.computed.clear();
        self
    }

    /// Makes invalidations of this route soft: entries become stale. Not for writes that must be visible at once.
    #[must_use]
    pub fn invalidates_softly(mut self) -> Self {
        self.writes.softly = true;
        self
    }

    /// Keeps entries if the response is 4xx, for handlers that return such a response only if they have changed nothing.
    ///
    /// By default these responses invalidate, like every outcome that may have committed a change.
    #[must_use]
    pub fn skip_on_client_error(mut self) -> Self {
        self.writes.skip_on_client_error = true;
        self
    }

    /// Keeps entries if the response is 4xx or 5xx. RFC 9111, section 4.4, requires an invalidation only for a response without an error.
    /// For handlers that return an error only if they have changed nothing: after an error behind a commit, old entries stay.
    ///
    /// By default these responses invalidate. A call that ends without a response always invalidates.
    #[must_use]
    pub fn skip_on_error(mut self) -> Self {
        (self.writes.skip_on_client_error, self.writes.skip_on_server_error) = (true, true);
        self
    }

    /// Sets the time that the response of a write on this route waits for delivery of its invalidation to a shared store, and the response
    /// after that time. Defaults to the layer's [`InvalidateLayer::delivery_timeout`](crate::InvalidateLayer::delivery_timeout).
    #[must_use]
    pub fn delivery_timeout(mut self, limit: Duration, then: OnDeliveryTimeout) -> Self {
        self.writes.delivery_timeout = Some((limit, then));
        self
    }

    /// Sets the reaction to a write on this route for which a strict store cannot set a fence. Defaults to the layer's
    /// [`InvalidateLayer::on_fence_error`](crate::InvalidateLayer::on_fence_error).
    #[must_use]
    pub fn on_fence_error(mut self, then: OnFenceError) -> Self {
        self.writes.on_fence_error = Some(then);
        self
    }

    fn invalidates_listed(mut self, methods: Methods, template: &str) -> Self {
        self.writes.listed().push((methods, template.to_owned()));
        self
    }
}
