//! Options of a rule for the content of requests, and the content that belongs to a key.

use http::{Extensions, Method, Uri, uri::PathAndQuery};

use super::{policy::Policy, rule::Rule};
use crate::{
    key::content::{KeyedContent, OperationRequest, RequestContent, is_query},
    status::Bypass,
};

impl Rule {
    /// States that a POST on this route reads and changes nothing, as a search or a call by RPC does. It is answered from the cache, with its
    /// content in the key. [`InvalidateLayer`](crate::InvalidateLayer) does not take it for a write.
    ///
    /// A [`RequestBodyLayer`](crate::RequestBodyLayer) must stand outside of the [`CacheLayer`](crate::CacheLayer) to read the content. Without it
    /// such a POST bypasses the cache, and a warning names the route.
    ///
    /// **Only for a route on which no POST changes anything.** Defaults to off: a POST is a write.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{KeyExtractor, Memory, ResponseCache, RouteAndQuery, Rule, key::RequestBody};
    ///
    /// let search = Rule::ttl(Duration::from_secs(60)).reads_by_post().namespace("orders");
    /// let cache = ResponseCache::new(Memory::new(64 << 20))
    ///     .route("/search", search.key(RouteAndQuery.and(RequestBody::json())));
    /// # drop(cache);
    /// ```
    #[must_use]
    pub fn reads_by_post(mut self) -> Self {
        self.content.by_post = true;
        self
    }

    /// Limits the content of requests that belongs to the key, in bytes. A request with more content bypasses the cache and passes on as it
    /// arrives. Defaults to 64 KiB.
    #[must_use]
    pub fn max_request_body(mut self, bytes: usize) -> Self {
        self.content.max = bytes;
        self
    }
}

impl Policy {
    /// Returns true if the content of requests with this method belongs to their key.
    pub(crate) fn reads_content(&self, method: &Method) -> bool {
        !self.is_uncached() && (self.reads_by_post() && *method == Method::POST || is_query(method))
    }

    /// Returns true for a rule for GraphQL.
    #[inline]
    pub(crate) fn is_graphql(&self) -> bool {
        self.content().is_graphql()
    }

    /// Returns true if a POST with these extensions is known to change nothing.
    pub(crate) fn reads(&self, extensions: &Extensions) -> bool {
        let is_read = || RequestContent::of(extensions)?.operation.as_ref().map(|operation| operation.is_read);
        self.reads_by_post() && (!self.is_graphql() || is_read().unwrap_or(false))
    }

    /// Returns true if a POST reads.
    pub(crate) fn reads_by_post(&self) -> bool {
        self.content().by_post
    }

    /// Returns the size of the largest content that belongs to a key, in bytes.
    pub(crate) fn max_request_body(&self) -> usize {
        self.content().max
    }

    /// Returns the content of a request with a method other than GET and HEAD, for its key, or the reason for which the request bypasses the
    /// cache.
    pub(crate) fn content_of<'a>(
        &self,
        method: &Method,
        uri: &Uri,
        extensions: &'a Extensions,
    ) -> Result<KeyedContent<'a>, Bypass> {
        if self.is_graphql() {
            return self.content_of_operation(method, uri, extensions);
        }
        if !self.reads_content(method) {
            return Err(Bypass::Method);
        }
        match RequestContent::of(extensions) {
            Some(RequestContent { content: Ok(content), call, is_new, .. }) => match self.is_rpc() && call.is_none() {
                true => Err(Bypass::NotUnary),
                false => Ok(KeyedContent { content, is_new_call: *is_new && self.is_rpc() }),
            },
            Some(RequestContent { content: Err(reason), .. }) => Err(*reason),
            None if *method == Method::POST => Err(Bypass::RequestBodyUnread),
            None => Err(Bypass::Method),
        }
    }

    /// Returns the content of a request under a rule for GraphQL. That of a GET is empty.
    fn content_of_operation<'a>(
        &self,
        method: &Method,
        uri: &Uri,
        extensions: &'a Extensions,
    ) -> Result<KeyedContent<'a>, Bypass> {
        if *method != Method::GET && !self.reads_content(method) {
            return Err(Bypass::Method);
        }
        let read = RequestContent::of(extensions).ok_or(Bypass::RequestBodyUnread)?;
        let content = read.content.as_ref().map_err(|reason| *reason)?;
        let OperationRequest { operation, target, .. } = read.operation.as_ref().ok_or(Bypass::RequestBodyUnread)?;
        operation.as_ref().map_err(|reason| *reason)?;
        // A layer in between may have changed the parameters.
        let query = target.as_ref().and_then(PathAndQuery::query);
        match query == uri.query() {
            true => Ok(KeyedContent { content, is_new_call: false }),
            false => Err(Bypass::GraphqlRequest),
        }
    }
}
