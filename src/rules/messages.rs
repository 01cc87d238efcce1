//! Namespaces and lifetimes from the messages in requests and responses.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

#[cfg(feature = "graphql")]
use http::Method;
use http::{HeaderMap, StatusCode};

use super::{
    end_check::{EndCheck, Unread},
    message_options::NamespacesFrom,
    policy::Policy,
    rule::Rule,
};
use crate::{
    error::BoxError,
    extensions::CachePolicy,
    key::RequestView,
    message::{
        MessageView,
        view::{Parameters, RouteParams},
    },
    namespace::{Namespace, set::Namespaces},
    rpc::get::GetMessage,
};
#[cfg(feature = "graphql")]
use crate::{graphql::params::Params, key::content::RequestContent};

impl Rule {
    /// Adds the namespaces of an entry, computed from the [message](crate::message) of the request: the content of a POST or a QUERY, the message
    /// of a call by RPC, or the parameter `message` of a GET of Connect under a [rule for RPC](Self::rpc).
    ///
    /// The response is not stored if the closure returns an error, or if the request has no message. A GET has a message only in Connect, and under a
    /// rule for GraphQL: the JSON that a POST of its operation has as content.
    ///
    /// A write on the route does not invalidate these namespaces by itself: [`invalidates_from_request`](Self::invalidates_from_request) names
    /// them.
    #[must_use]
    pub fn namespaces_from_request<F>(mut self, names: F) -> Self
    where
        F: Fn(&MessageView<'_>) -> Result<Vec<Namespace>, BoxError> + Send + Sync + 'static,
    {
        self.messages.namespaces.push(Arc::new(names));
        self
    }

    /// Adds namespaces to an entry and may change its lifetime, computed from the [message](crate::message) of the response.
    ///
    /// The closure is called with each complete response that may be stored, of every status that the rule stores. It is not called for a call of
    /// gRPC that ends without a message. A lifetime in its [`CachePolicy`] replaces all others. With an error the response is not stored.
    /// Parts (206) are not stored under such a rule. With [cache tags](crate::CacheTags), a response that comes from the handler tells CDNs not to
    /// store it, because its namespaces are not known when its head is sent. CDNs store hits. Requests that wait for the same response get it when it
    /// is complete.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{CachePolicy, Namespace, Rule};
    ///
    /// // The first line of the response is the name of its author.
    /// let rule = Rule::ttl(Duration::from_secs(60)).policy_from_response(|response| {
    ///     let text = std::str::from_utf8(response.bytes())?;
    ///     let author = text.lines().next().ok_or("no author")?;
    ///     Ok(CachePolicy::new().namespace(Namespace::of(["author", author])))
    /// });
    /// # drop(rule);
    /// ```
    #[must_use]
    pub fn policy_from_response<F>(mut self, policy: F) -> Self
    where
        F: Fn(&MessageView<'_>) -> Result<CachePolicy, BoxError> + Send + Sync + 'static,
    {
        self.messages.policies.push(Arc::new(policy));
        self
    }

    /// Sets the namespaces that unsafe methods on this route invalidate, computed from the [message](crate::message) of the request.
    ///
    /// A [`RequestBodyLayer`](crate::RequestBodyLayer) must stand outside of the [`InvalidateLayer`](crate::InvalidateLayer), as
    /// [`ResponseCache::layer_with_request_bodies`](crate::ResponseCache::layer_with_request_bodies) puts it. It reads content up to
    /// [`max_request_body`](Self::max_request_body).
    ///
    /// **A write whose message cannot be read invalidates all entries**, because their namespaces are not known: without that layer, beyond
    /// the limit, for a stream, or if the closure returns an error, for example for a compressed message.
    /// [`Stats::unread_writes`](crate::Stats::unread_writes) counts these writes, and a warning names the route. A response with status 4xx is an
    /// exception: the write then invalidates only the namespaces that other options name. A strict store sets its fence before the status is known,
    /// and then invalidates all entries nevertheless.
    ///
    /// ```
    /// use tower_response_cache::{Namespace, Rule};
    ///
    /// let put = Rule::uncached().invalidates_from_request(|request| {
    ///     let name = std::str::from_utf8(request.bytes())?;
    ///     Ok(vec![Namespace::of(["note", name])])
    /// });
    /// # drop(put);
    /// ```
    #[must_use]
    pub fn invalidates_from_request<F>(mut self, names: F) -> Self
    where
        F: Fn(&MessageView<'_>) -> Result<Vec<Namespace>, BoxError> + Send + Sync + 'static,
    {
        self.writes.listed();
        self.messages.invalidated_by_request.push(Arc::new(names));
        self
    }

    /// Sets the namespaces that unsafe methods on this route invalidate, computed from the [message](crate::message) of the response.
    ///
    /// The response is read up to [`max_body`](Self::max_body), and for at most ten seconds, before any of it is sent.
    /// [`InvalidateLayer::max_buffered_bytes`](crate::InvalidateLayer::max_buffered_bytes) limits the bytes of all of them.
    ///
    /// The closure is called after a success: 2xx, 3xx, or status 0 of gRPC. After an error of the client (4xx) only other options name
    /// namespaces. **A write whose response cannot be read invalidates all entries**: after any other outcome, beyond the limits, for a stream, or
    /// if the closure returns an error. [`Stats::unread_writes`](crate::Stats::unread_writes) counts these writes, and a warning names the route.
    #[must_use]
    pub fn invalidates_from_response<F>(mut self, names: F) -> Self
    where
        F: Fn(&MessageView<'_>) -> Result<Vec<Namespace>, BoxError> + Send + Sync + 'static,
    {
        self.writes.listed();
        self.messages.invalidated_by_response.push(Arc::new(names));
        self
    }
}

/// Reads.
impl Policy {
    /// Adds the namespaces that the message of a request names. Returns the checks of its response, if there are any.
    pub(super) fn end_check(&self, request: &RequestView<'_>, names: &mut Namespaces) -> Option<Box<EndCheck>> {
        let framed = request.body.and_then(|_| self.framed_protocol(request.extensions));
        let unread = self.add_names_from_request(request, names).err();
        let parameters = self.reads_responses().then(|| request.params.into());
        let is_needed = framed.is_some() || unread.is_some() || parameters.is_some() || self.is_graphql();
        is_needed.then(|| Box::new(EndCheck { framed, unread, parameters }))
    }

    fn add_names_from_request(&self, request: &RequestView<'_>, names: &mut Namespaces) -> Result<(), Unread> {
        let closures = &self.messages().namespaces;
        if closures.is_empty() {
            return Ok(());
        }
        let params = RouteParams::Request(request.params);
        let get = self.message_of_get(request);
        let message = match (&get, request.body) {
            (Some(get), _) => Some(MessageView::of_query(params, request.headers, get)),
            (None, Some(content)) => MessageView::of_content(params, request.headers, content),
            (None, None) => None,
        };
        let all = computed(closures, message)?;
        all.iter().for_each(|name| names.push(name.as_str()));
        Ok(())
    }

    /// Returns the message in the query of a request: of a call by Connect, or the operation of GraphQL.
    fn message_of_get(&self, request: &RequestView<'_>) -> Option<GetMessage> {
        #[cfg(feature = "graphql")]
        if self.is_graphql() && *request.method == Method::GET {
            let bytes = Params::json_of_query(request.query()?)?;
            return Some(GetMessage { bytes, is_json: true, is_compressed: false });
        }
        if self.is_rpc() && request.body.is_none() { GetMessage::of_query(request.query()?) } else { None }
    }

    /// Returns true if the complete response to a read is checked before it is stored.
    pub(crate) fn checks_responses(&self) -> bool {
        self.reads_responses() || self.is_graphql()
    }

    /// Returns true if a closure reads the responses to reads.
    pub(crate) fn reads_responses(&self) -> bool {
        !self.messages().policies.is_empty()
    }

    /// Returns true if namespaces of an entry are known only at the end of its response.
    pub(crate) fn names_at_the_end(&self) -> bool {
        self.reads_responses() || self.content().reads_entities()
    }

    /// Returns the policies that the message of a complete response states.
    pub(crate) fn policies_of(
        &self,
        check: &EndCheck,
        status: StatusCode,
        headers: &HeaderMap,
        content: &[u8],
    ) -> Result<Vec<CachePolicy>, Unread> {
        let params = check.parameters.as_ref().map_or(RouteParams::Kept(&[]), Parameters::view);
        let message = MessageView::of_content(params, headers, content).ok_or_else(Unread::not_a_message)?;
        let message = message.with_status(status);
        self.messages().policies.iter().map(|policy| called(|| policy(&message))).collect()
    }
}

/// Writes.
impl Policy {
    /// Returns true if a closure reads the requests of writes.
    pub(crate) fn reads_written_requests(&self) -> bool {
        !self.messages().invalidated_by_request.is_empty()
    }

    /// Returns true if a closure reads the responses to writes.
    pub(crate) fn reads_written_responses(&self) -> bool {
        !self.messages().invalidated_by_response.is_empty() || self.content().reads_entities()
    }

    /// Returns the namespaces that a write invalidates by the whole content of its request.
    pub(crate) fn invalidations_in_request(&self, request: &RequestView<'_>, content: &[u8]) -> Result<Vec<Namespace>, Unread> {
        let message = MessageView::of_content(RouteParams::Request(request.params), request.headers, content);
        computed(&self.messages().invalidated_by_request, message)
    }

    /// Returns the namespaces that a write invalidates by the whole content of its response.
    pub(crate) fn invalidations_in_response(
        &self,
        request: &RequestView<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        content: &[u8],
    ) -> Result<Vec<Namespace>, Unread> {
        let message = MessageView::of_content(RouteParams::Request(request.params), headers, content);
        #[cfg_attr(not(feature = "graphql"), expect(unused_mut))]
        let mut names = computed(&self.messages().invalidated_by_response, message.map(|message| message.with_status(status)))?;
        #[cfg(feature = "graphql")]
        if self.content().reads_entities() {
            let operation = RequestContent::of(request.extensions()).and_then(|content| content.operation.as_ref());
            let is_misleading = operation.is_none_or(|operation| operation.names_mislead);
            names.extend(self.types_written(headers, content, is_misleading)?);
        }
        Ok(names)
    }
}

/// Returns the namespaces that all closures compute from a message.
fn computed(closures: &[Arc<NamespacesFrom>], message: Option<MessageView<'_>>) -> Result<Vec<Namespace>, Unread> {
    let message = message.ok_or_else(Unread::not_a_message)?;
    let mut all = Vec::new();
    for closure in closures {
        all.extend(called(|| closure(&message))?);
    }
    Ok(all)
}

/// Calls a closure. A panic is an error: clients choose the messages, and a write has happened when its response is read.
fn called<T>(closure: impl FnOnce() -> Result<T, BoxError>) -> Result<T, Unread> {
    let called = catch_unwind(AssertUnwindSafe(closure));
    called.unwrap_or_else(|_| Err("the closure panicked".into())).map_err(Unread::from)
}
