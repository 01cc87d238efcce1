//! The cache status of a response: the outcome and its reason.

pub(crate) mod field;
mod remedy;

use std::{fmt, time::Duration};

use http::{HeaderValue, Response};

use crate::clock::Nanos;

/// Defines a closed list of reasons with the tokens that headers, logs and metrics show.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $reason:ident = $token:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$doc])* $reason,)* }

        impl $name {
            /// All reasons, in the order of their definition.
            pub const ALL: &'static [Self] = &[$(Self::$reason),*];

            /// Returns the token of the reason, as logs and `Cache-Status` show it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$reason => $token,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// The reason for which a request bypassed the cache although a rule covers its route. Nothing is looked up, and nothing is stored.
    Bypass {
        /// The method is neither GET nor HEAD, and the rule does not [read by it](crate::Rule::reads_by_post).
        Method = "method",
        /// The rule caches nothing. It only invalidates.
        Uncached = "uncached",
        /// The request has content, which the key does not hold.
        RequestBody = "request-body",
        /// The rule [reads by POST](crate::Rule::reads_by_post), and no [`RequestBodyLayer`](crate::RequestBodyLayer) outside has read the content.
        RequestBodyUnread = "request-body-unread",
        /// The content is larger than the rule allows, arrives too slowly, or finds no room among the bodies that are being read.
        RequestBodyTooLarge = "request-body-too-large",
        /// The content has ended with an error.
        RequestBodyError = "request-body-error",
        /// The request under a [rule for RPC](crate::Rule::rpc) is not a unary call: a stream, several messages, or another protocol.
        NotUnary = "not-unary",
        /// The request under a rule for [GraphQL](crate::guide::graphql) is not a single request in JSON or in the query of a GET, or it states a
        /// parameter twice.
        GraphqlRequest = "graphql-request",
        /// The document of a request by GraphQL is not executable, has more than 16,384 tokens, or is nested deeper than 64 levels.
        GraphqlDocument = "graphql-document",
        /// The operation of a request by GraphQL is a mutation or a subscription, or the request does not select exactly one. Also a query with an
        /// alias `__typename` or `id` under a rule with `graphql_entities`.
        GraphqlOperation = "graphql-operation",
        /// The response to a query of GraphQL may arrive in parts: its document has `@defer` or `@stream`.
        GraphqlIncremental = "graphql-incremental",
        /// The hash in a request by GraphQL is not that of its document, or it stands alone and this process does not know its document.
        GraphqlPersisted = "graphql-persisted",
        /// The request has [credentials](crate::key::CredentialFields), and the key holds no identity.
        Credentials = "credentials",
        /// The key extractor of the rule returned a bypass.
        Extractor = "extractor",
        /// The key would be longer than 8 KiB.
        KeyTooLong = "key-too-long",
        /// The request has a `Range`, and the complete response is not stored.
        Range = "range",
        /// The request has `If-Match` or `If-Unmodified-Since`, or it is a POST with `If-None-Match`. The inner service evaluates them.
        Precondition = "precondition",
        /// A header overrides the method.
        MethodOverride = "method-override",
        /// The request upgrades the connection (`Upgrade`).
        Upgrade = "upgrade",
        /// A route parameter holds a dot segment, or a wildcard holds an encoded slash or a backslash. A handler might resolve them to another
        /// route. [`Rule::path_as_text`](crate::Rule::path_as_text) states that the handler does not.
        AmbiguousPath = "ambiguous-path",
        /// The request has more than eight [forwarding fields](crate::Rule::ignore_forwarded).
        Forwarding = "forwarding",
        /// The rule requires an identity, and the request has none.
        IdentityMissing = "identity-missing",
        /// The request states its identity more than once, or in a form that not every handler accepts.
        IdentityAmbiguous = "identity-ambiguous",
        /// Caching is [turned off](crate::CacheLayer::enabled).
        Disabled = "disabled",
        /// The cache is in [shadow mode](crate::CacheLayer::shadow): the request was looked up, and the inner service has answered it.
        Shadow = "shadow",
        /// The request belongs to a fill of its own key: a layer over the same store is further outside, or a handler requests its own URI.
        Nested = "nested",
    }
}

reasons! {
    /// The reason for which the inner service was called.
    Miss {
        /// No valid response is stored for the key.
        Absent = "absent",
        /// The stored response has expired.
        Expired = "expired",
        /// A namespace of the stored response was invalidated softly.
        SoftlyInvalidated = "softly-invalidated",
        /// A response for the key could not be stored a moment ago, so that requests do not wait for each other.
        HitForMiss = "hit-for-miss",
        /// The request followed another fill, whose response may not be shared.
        NotShared = "not-shared",
        /// The request followed another fill up to the wait limit.
        WaitLimit = "wait-limit",
        /// The limit of fills or followers was reached.
        FlightLimit = "flight-limit",
        /// The method is HEAD, and no response to GET is stored.
        Head = "head",
        /// The request does not allow the use of the stored response (RFC 9111, section 5.2.1 and section 3.5).
        Request = "request",
        /// No stored variant matches the request fields (RFC 9111, section 4.1).
        Variant = "variant",
    }
}

reasons! {
    /// The reason for which a response was not stored.
    NoStore {
        /// The rule does not store this status.
        Status = "status",
        /// The response has `Cache-Control: no-store`, or the handler or a [response rule](crate::Rule::response_rule) forbade it.
        NoStore = "no-store",
        /// `Cache-Control: private`.
        Private = "private",
        /// The response has `Cache-Control: no-cache` and would have to be revalidated each time.
        NoCache = "no-cache",
        /// The response sets a cookie.
        SetCookie = "set-cookie",
        /// The response has `Vary: *`, more than 8 varying fields, or fields too long for a key of 8 KiB. Also the first response with `Vary` under a
        /// rule whose last 64 responses had none, because the fields of the request were not kept.
        Vary = "vary",
        /// The response is a part that cannot be stored.
        Partial = "partial",
        /// The response is an event stream.
        EventStream = "event-stream",
        /// The lifetime is zero.
        Lifetime = "lifetime",
        /// The body is larger than the rule or the store allows.
        TooLarge = "too-large",
        /// The length of the body differs from the announced length.
        Truncated = "truncated",
        /// The body ended with an error.
        BodyError = "body-error",
        /// The inner service failed.
        Failed = "failed",
        /// A namespace of the response was invalidated while it was computed.
        Invalidated = "invalidated",
        /// The handler named a namespace that is new to the shared store. Responses of later fills are stored.
        NewNamespace = "new-namespace",
        /// The response has more than [`MAX_NAMESPACES`](crate::namespace::MAX_NAMESPACES). A common ancestor cannot replace them, because an invalidation of
        /// one of them would not invalidate the ancestor. Also a response that lists an invalid namespace in a
        /// [header field](crate::Rule::namespaces_from_header), or malformed [cache groups](crate::Rule::cache_groups).
        Namespaces = "namespaces",
        /// The store could not store the response.
        Store = "store",
        /// The request has `no-store`.
        RequestNoStore = "request-no-store",
        /// The request has credentials, and the response does not allow other users (RFC 9111, section 3.5).
        Authorization = "authorization",
        /// The response allows no storing, or no later use (RFC 9111, section 3).
        NotAllowed = "not-allowed",
        /// The call by RPC has ended with a status that the rule does not store.
        RpcStatus = "rpc-status",
        /// The response to a call by RPC has several messages, or no status.
        NotUnary = "not-unary",
        /// The response to a query of GraphQL has `errors`.
        GraphqlErrors = "graphql-errors",
        /// The response to a query of GraphQL is not an object in JSON with `data`, or has another content type.
        GraphqlResponse = "graphql-response",
        /// The response to a query of GraphQL has no object, or one without `__typename`, and the rule takes
        /// all namespaces from objects.
        GraphqlTypename = "graphql-typename",
        /// A closure of the rule could not read the [message](crate::message) in the request or in the response.
        ContentUnreadable = "content-unreadable",
        /// A closure of the rule needs a [message](crate::message) that is compressed. Let compression stand outside of the cache.
        ContentCompressed = "content-compressed",
    }
}

reasons! {
    /// The reason for which a stale response was served.
    Stale {
        /// It is refreshed in the background (`stale_while_revalidate`).
        WhileRevalidate = "stale-while-revalidate",
        /// The inner service failed (`stale_if_error`).
        IfError = "stale-if-error",
        /// The client accepts it (`max-stale`).
        MaxStale = "max-stale",
        /// The inner service was slow (`soft_timeout`).
        SoftTimeout = "soft-timeout",
    }
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// A fresh stored response, without a call of the inner service.
    Hit,
    /// A stale stored response.
    Stale(Stale),
    /// A stored response that the inner service has just validated (304).
    Revalidated,
    /// A 504: the client accepts a stored response only (`only-if-cached`), and there is none.
    OnlyIfCached,
    /// An error of the cache: the deadline of a [call](crate::Rule::rpc) has passed before there was a response.
    DeadlineExceeded,
    /// The response of another fill that was in progress.
    Collapsed,
    /// The response of the inner service, after a lookup.
    Miss(Miss),
    /// The response of the inner service, without a lookup.
    Bypass(Bypass),
}

impl Outcome {
    /// Returns the word for the outcome in metrics. A revalidated response counts as a miss.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale(_) => "stale",
            Self::OnlyIfCached => "only-if-cached",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Collapsed => "collapsed",
            Self::Miss(_) | Self::Revalidated => "miss",
            Self::Bypass(_) => "bypass",
        }
    }

    /// Returns the token of the reason, as logs and `Cache-Status` show it. Returns `None` for an outcome without a reason.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Stale(reason) => Some(reason.as_str()),
            Self::Miss(reason) => Some(reason.as_str()),
            Self::Bypass(reason) => Some(reason.as_str()),
            Self::Hit | Self::OnlyIfCached | Self::DeadlineExceeded | Self::Collapsed | Self::Revalidated => None,
        }
    }
}

/// The fate of a response of the inner service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Storing {
    /// The response is stored.
    Stored,
    /// The response will be stored if its body, which is still being read, allows it.
    Pending,
    /// The response is not stored, for this reason.
    Not(NoStore),
}

/// A body that holds the [`CacheStatus`] of its response: [`CacheBody`](crate::CacheBody), also inside an
/// [`InvalidateBody`](crate::invalidate::InvalidateBody).
///
/// A body that wraps one of them can implement the trait as well, so that [`CacheStatus::of`] accepts its responses.
pub trait StatusBody {
    /// Returns the status of the response, or `None` if no rule covered the request.
    fn cache_status(&self) -> Option<CacheStatus>;
}

/// The outcome of a request and its reason. Every response that a rule covers has one in its [`CacheBody`](crate::CacheBody).
///
/// ```
/// use tower_response_cache::{CacheBody, CacheStatus, Outcome};
///
/// fn was_hit<B>(response: &http::Response<CacheBody<B>>) -> bool {
///     CacheStatus::of(response).is_some_and(|status| status.outcome() == Outcome::Hit)
/// }
/// # assert!(!was_hit::<()>(&http::Response::new(CacheBody::default())));
/// ```
///
/// A service that changes the type of the body hides the status. Among them are axum's `Router` and all layers that compress or limit bodies. With
/// [`CacheLayer::status_extension`](crate::CacheLayer::status_extension), the status is an extension of the response as well.
///
/// Its [`Display`](fmt::Display) is the value of a `Cache-Status` field without the name of the cache (RFC 9211).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    outcome: Outcome,
    storing: Option<Storing>,
    /// The remaining lifetime in whole seconds. Negative when stale.
    ttl: Option<i32>,
    /// The stored response was fresh, and the request did not allow its use.
    by_request: bool,
}

impl CacheStatus {
    /// Returns the status of a response that has passed a [`CacheLayer`](crate::CacheLayer), or `None` if no rule covered the request.
    ///
    /// With several cache layers around each other, this is the status of the outermost one, also if none of its rules covers the request.
    #[inline]
    pub fn of<B: StatusBody>(response: &Response<B>) -> Option<Self> {
        response.body().cache_status()
    }

    /// Returns a number that differs for most statuses of one second.
    fn hash(self) -> usize {
        let outcome = match self.outcome {
            Outcome::Hit => 0,
            Outcome::Revalidated => 1,
            Outcome::OnlyIfCached => 2,
            Outcome::Collapsed => 3,
            Outcome::DeadlineExceeded => 20,
            Outcome::Stale(reason) => 4 + reason as usize,
            Outcome::Miss(reason) => 8 + reason as usize,
            Outcome::Bypass(reason) => 24 + reason as usize,
        };
        let storing = match self.storing {
            None => 0,
            Some(Storing::Stored) => 1,
            Some(Storing::Pending) => 2,
            Some(Storing::Not(reason)) => 3 + reason as usize,
        };
        (self.ttl.unwrap_or_default() as usize).wrapping_add(outcome * 37 + storing)
    }

    pub(crate) fn new(outcome: Outcome) -> Self {
        Self { outcome, storing: None, ttl: None, by_request: false }
    }

    fn with_ttl(self, seconds: i32) -> Self {
        Self { ttl: Some(seconds), ..self }
    }

    pub(crate) fn storing(self, storing: Storing) -> Self {
        Self { storing: Some(storing), ..self }
    }

    /// Returns the status of a validated response. `reason` is the reason of the validation.
    pub(crate) fn validated(why: Miss) -> Self {
        Self { by_request: why == Miss::Request, ..Self::new(Outcome::Revalidated) }
    }

    /// Adds the remaining lifetime in whole seconds, rounded down.
    #[inline]
    pub(crate) fn until(self, fresh_until: Nanos, now: Nanos) -> Self {
        const SECOND: Nanos = 1_000_000_000;
        let seconds = |nanos| i32::try_from(nanos).unwrap_or(i32::MAX);
        self.with_ttl(match fresh_until.checked_sub(now) {
            Some(left) => seconds(left / SECOND),
            None => -seconds((now - fresh_until).div_ceil(SECOND)),
        })
    }

    /// Returns the outcome.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Returns the fate of the inner service's response. Returns `None` if a stored response answered, or if the cache was bypassed.
    pub fn stored(&self) -> Option<Storing> {
        self.storing
    }

    /// Returns the remaining lifetime of the served entry: zero if it was stale, `None` if no stored response was served.
    pub fn time_left(&self) -> Option<Duration> {
        self.ttl.map(|seconds| Duration::from_secs(seconds.max(0) as u64))
    }

    /// Returns the value of a `Cache-Status` field with the name of the cache.
    pub(crate) fn header(&self, cache: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("{cache}; {self}")).expect("the name was checked when the layer was built")
    }
}

/// Writes the value by RFC 9211, section 2: `hit` or `fwd`, then `ttl`, `stored`, `collapsed` and `detail`.
impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Hit => f.write_str("hit")?,
            Outcome::Stale(why) => write!(f, "hit; detail={why}")?,
            Outcome::Revalidated if self.by_request => f.write_str("fwd=request; fwd-status=304")?,
            Outcome::Revalidated => f.write_str("fwd=stale; fwd-status=304")?,
            Outcome::OnlyIfCached => f.write_str("detail=only-if-cached")?,
            Outcome::DeadlineExceeded => f.write_str("detail=deadline-exceeded")?,
            Outcome::Collapsed => f.write_str("fwd=uri-miss; collapsed")?,
            Outcome::Miss(Miss::Expired | Miss::SoftlyInvalidated) => f.write_str("fwd=stale")?,
            Outcome::Miss(Miss::Request) => f.write_str("fwd=request")?,
            Outcome::Miss(Miss::Absent) => f.write_str("fwd=uri-miss")?,
            Outcome::Miss(Miss::Variant) => f.write_str("fwd=vary-miss")?,
            Outcome::Miss(why) => write!(f, "fwd=uri-miss; detail={why}")?,
            Outcome::Bypass(Bypass::Method) => f.write_str("fwd=method")?,
            Outcome::Bypass(why) => write!(f, "fwd=bypass; detail={why}")?,
        }
        match self.storing {
            Some(Storing::Stored) => f.write_str("; stored")?,
            // A member has one `detail`: the reason of the miss, if there is one.
            Some(Storing::Not(why))
                if matches!(
                    self.outcome,
                    Outcome::Miss(Miss::Absent | Miss::Expired | Miss::SoftlyInvalidated | Miss::Request | Miss::Variant)
                        | Outcome::Revalidated
                ) =>
            {
                write!(f, "; detail={why}")?;
            }
            _ => {}
        }
        match self.ttl {
            Some(ttl) => write!(f, "; ttl={ttl}"),
            None => Ok(()),
        }
    }
}
