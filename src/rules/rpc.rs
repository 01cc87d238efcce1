//! Rules for calls by RPC.

use std::time::Duration;

use http::{Extensions, Method, Request};

use super::{content_options::RpcOptions, policy::Policy, rule::Rule};
use crate::{
    key::{RouteAndQuery, content::RequestContent},
    rpc::{Call, Protocol},
};

impl Rule {
    /// Returns a rule for methods that read, called by gRPC, gRPC-Web or Connect: for one method on the route `/package.Service/Method`, or for
    /// all methods of a service on `/package.Service/{method}`, if all of them read. A write that this rule covers is cached and invalidates
    /// nothing. Methods that no rule covers are never cached.
    ///
    /// - The response to a unary call is stored for this lifetime if the call succeeds: with exactly one message and status 0 in gRPC, or with
    ///   HTTP status 200 in Connect. Trailers are stored and replayed as they are. [`rpc_status`](Self::rpc_status) stores errors.
    /// - The key holds the path, the message byte for byte with its compression flag, and the fields `Content-Type`, `Content-Encoding`, `Accept`,
    ///   `Accept-Encoding`, `grpc-encoding`, `grpc-accept-encoding` and `connect-protocol-version`. It does not hold timeouts. Any other
    ///   metadata that a response depends on must be added: `.key(RouteAndQuery.and(Headers::new(["x-tenant"])))`, or an [identity](Self::identity) for
    ///   `authorization`.
    /// - Streams, calls of several messages, and messages beyond [`max_request_body`](Self::max_request_body) and [`max_body`](Self::max_body)
    ///   pass as they arrive. If a pattern covers a method whose requests are streams, the cache holds a request until 100 milliseconds have
    ///   passed before or after its first message.
    /// - [`stale_if_error`](Self::stale_if_error) applies if the head of a response has the gRPC status UNKNOWN (2), DEADLINE_EXCEEDED (4),
    ///   INTERNAL (13), UNAVAILABLE (14) or DATA_LOSS (15).
    /// - A call that waits for the response to an equal call gets `DEADLINE_EXCEEDED` when its own deadline has passed.
    /// - A call on the route is not a write for [`InvalidateLayer`](crate::InvalidateLayer). A method that writes has a rule of its own:
    ///   [`Rule::uncached`] with [`invalidates`](Self::invalidates).
    /// - The query of a GET (Connect) is in the key as it was sent, with the fields `Accept`, `Accept-Encoding` and `connect-protocol-version`.
    ///
    /// A [`RequestBodyLayer`](crate::RequestBodyLayer) must stand outside of the [`CacheLayer`](crate::CacheLayer), as
    /// [`ResponseCache::layer_with_request_bodies`](crate::ResponseCache::layer_with_request_bodies) puts it. Without it calls bypass the cache,
    /// and a warning names the route.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, ResponseCache, Rule};
    ///
    /// const NOT_FOUND: i32 = 5; // or `tonic::Code::NotFound`
    ///
    /// let get = Rule::rpc(Duration::from_secs(60)).rpc_status(NOT_FOUND, Duration::from_secs(5)).namespace("notes");
    /// let cache = ResponseCache::new(Memory::new(64 << 20))
    ///     .route("/notes.Notes/Get", get)
    ///     .route("/notes.Notes/Add", Rule::uncached().invalidates("notes"));
    /// # drop(cache);
    /// ```
    pub fn rpc(ttl: Duration) -> Self {
        let mut rule = Self::ttl(ttl).reads_by_post().key(RouteAndQuery.query_as_sent());
        rule.content.rpc = Some(RpcOptions::default());
        rule
    }

    /// Sets the lifetime of responses with a gRPC status other than 0 and without a message, such as a short one for `NOT_FOUND` (5). For
    /// [`rpc`](Self::rpc) rules. By default none is stored. Errors of Connect have an HTTP status, for which [`status`](Self::status) is.
    #[must_use]
    pub fn rpc_status(self, code: impl Into<i32>, ttl: Duration) -> Self {
        let code = code.into();
        self.rpc_option("rpc_status", |options| {
            options.statuses.retain(|(known, _)| *known != code);
            options.statuses.push((code, ttl));
        })
    }

    /// Adds an `Age` to the metadata of responses from the cache, for [`rpc`](Self::rpc) rules. Defaults to off: a hit is equal to the response
    /// of the method.
    #[must_use]
    pub fn rpc_age(self) -> Self {
        self.rpc_option("rpc_age", |options| options.shows_age = true)
    }

    fn rpc_option(mut self, name: &'static str, set: impl FnOnce(&mut RpcOptions)) -> Self {
        match &mut self.content.rpc {
            Some(options) => set(options),
            None => self.misplaced = Some((name, "a rule for RPC (Rule::rpc(…), or `rpc = true` in a file)")),
        }
        self
    }
}

impl Policy {
    /// Returns true for a rule for RPC.
    #[inline]
    pub(crate) fn is_rpc(&self) -> bool {
        self.content().rpc.is_some()
    }

    /// Returns true if responses to calls have an `Age`.
    pub(crate) fn shows_age(&self) -> bool {
        self.content().rpc.as_ref().is_some_and(|options| options.shows_age)
    }

    /// Returns the protocol of a call whose messages stand in frames.
    pub(super) fn framed_protocol(&self, extensions: &Extensions) -> Option<Protocol> {
        let call = RequestContent::of(extensions)?.call.filter(|_| self.is_rpc())?;
        Some(call.protocol).filter(|protocol| protocol.is_framed())
    }

    /// Returns the lifetime of responses with a gRPC status other than 0, if they are stored.
    pub(crate) fn rpc_status_lifetime(&self, status: i32) -> Option<Duration> {
        let statuses = &self.content().rpc.as_ref()?.statuses;
        let (_, ttl) = statuses.iter().find(|(listed, ttl)| *listed == status && !ttl.is_zero())?;
        Some(self.jittered(*ttl))
    }

    /// Returns the unary call that a request makes, unless the rule is for others.
    pub(crate) fn call<B>(&self, request: &Request<B>) -> Option<Call> {
        let options = self.content().rpc.as_ref().filter(|_| *request.method() == Method::POST)?;
        let protocol = Protocol::of(request.headers())?;
        Some(Call { protocol, arrived: None, shows_age: options.shows_age })
    }
}
