//! The remedy for each reason, for operators.

use super::{Bypass, Miss, NoStore};

impl Bypass {
    /// Returns a sentence that says what to do if requests should not bypass the cache for this reason.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Method => "Nothing, if the request writes. Give the rule `reads_by_post` if a POST of this route only reads.",
            Self::Uncached => "Give the route a rule with a lifetime, such as `Rule::ttl`.",
            Self::RequestBody => "Send the GET without content, or use `reads_by_post` or QUERY for requests with content.",
            Self::RequestBodyUnread => {
                "Put `RequestBodyLayer` outside of `CacheLayer`, as `ResponseCache::layer_with_request_bodies` does."
            }
            Self::RequestBodyTooLarge => "Raise `max_request_body` of the rule, or the limits of `RequestBodyLayer`.",
            Self::RequestBodyError => "Look at the client: its content ended with an error.",
            Self::NotUnary => "Nothing: only unary calls by RPC are cached.",
            Self::GraphqlRequest => "Send one GraphQL request in JSON, or in the query of a GET, with each parameter once.",
            Self::GraphqlDocument => "Send an executable document of at most 16,384 tokens and 64 levels.",
            Self::GraphqlOperation => {
                "Nothing for a mutation or a subscription. Otherwise name one operation, and give `__typename` and `id` no alias."
            }
            Self::GraphqlIncremental => "Leave out `@defer` and `@stream` in documents that should be cached.",
            Self::GraphqlPersisted => "Send the document with its hash once, or add it by `graphql_document`.",
            Self::Credentials => {
                "Give the rule an `identity`, so that each user has a key. Use `ignore_credentials` or `ignore_cookies` only if the response is \
                 the same for all users."
            }
            Self::Extractor => "Let the key extractor of the rule write a key for this request.",
            Self::KeyTooLong => "Shorten the URL or the fields in the key: a key has at most 8 KiB.",
            Self::Range => "Request the complete response once, so that ranges are answered from it.",
            Self::Precondition => "Nothing: the inner service evaluates `If-Match` and `If-Unmodified-Since`.",
            Self::MethodOverride => "Send the method itself, without a field that overrides it.",
            Self::Upgrade => "Nothing: a request that upgrades its connection is not cached.",
            Self::AmbiguousPath => "Send a path without encoded slashes and dot segments, or give the rule `path_as_text`.",
            Self::Forwarding => "Remove forwarding fields at the proxy, or give the rule `ignore_forwarded`.",
            Self::IdentityMissing => "Send the credentials that the identity of the rule reads, or leave out `required`.",
            Self::IdentityAmbiguous => "State the identity once, in its usual form.",
            Self::Disabled => "Turn caching on: `ResponseCache::set_enabled(true)`.",
            Self::Shadow => "End shadow mode: `ResponseCache::set_shadow(false)`, or remove `shadow` from the rule.",
            Self::Nested => "Apply the cache layer once, and let handlers not request their own URI.",
        }
    }
}

impl Miss {
    /// Returns a sentence that says what to do if there are many misses for this reason.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Absent => {
                "The first request of a key is a miss. If there are many: raise the capacity, use longer lifetimes, ignore query parameters that \
                 do not count, or invalidate more precisely."
            }
            Self::Expired => "Use a longer lifetime, `stale_while_revalidate` or `refresh_ahead`.",
            Self::SoftlyInvalidated => {
                "Give the rule `stale_while_revalidate`, so that the stale response is served while it is refreshed."
            }
            Self::HitForMiss => "Look at the reasons for which responses of the route are not stored.",
            Self::NotShared => {
                "Look at the reasons for which responses of the route are not stored: only stored responses are shared."
            }
            Self::WaitLimit => "Make the handler faster, or raise `wait_limit`.",
            Self::FlightLimit => "Raise `max_concurrent_fills` or `max_waiters`.",
            Self::Head => "Request the response by GET once: a HEAD is answered from it.",
            Self::Request => {
                "The client asked for a new response, or has credentials that the response does not allow. Look at the client."
            }
            Self::Variant => "Let responses vary by fewer fields, or use `normalise` for fields with many spellings.",
        }
    }
}

impl NoStore {
    /// Returns a sentence that says what to do if responses should be stored that are not stored for this reason.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Status => "Give the rule a lifetime for this status: `Rule::status`.",
            Self::NoStore => {
                "Let the handler send no `Cache-Control: no-store`, and the response rules match no such response, if it may be stored."
            }
            Self::Private => "Let the handler send no `Cache-Control: private`, if the response is for all users.",
            Self::NoCache => "Let the handler send no `Cache-Control: no-cache`, or use `Rule::http` with a validator.",
            Self::SetCookie => "Set the cookie on another route, or put the session layer outside of the cache.",
            Self::Vary => "Let the response vary by at most 8 fields and not by `*`.",
            Self::Partial => "Answer with the complete response, so that the cache makes the parts.",
            Self::EventStream => "Nothing: event streams are not stored.",
            Self::Lifetime => "Let the rule or the response state a lifetime above zero.",
            Self::TooLarge => "Raise `max_body` of the rule, or the capacity of the store.",
            Self::Truncated => "Look at the handler: the body has another length than `Content-Length` says.",
            Self::BodyError => "Look at the handler: its body ended with an error.",
            Self::Failed => {
                "Look at the inner service: the call failed. `stale_if_error` serves the stored response meanwhile."
            }
            Self::Invalidated => {
                "Nothing, if it is rare: a write came while the response was computed. Otherwise invalidate more precisely."
            }
            Self::NewNamespace => {
                "Nothing: the next response is stored. Let the rule name the namespace if its name follows from the request."
            }
            Self::Namespaces => "Name a common ancestor in place of many namespaces, and invalidate that with each of them.",
            Self::Store => "Look at the shared store: it could not be reached, or is full.",
            Self::RequestNoStore => "The client sent `Cache-Control: no-store`. Look at the client.",
            Self::Authorization => "Let the response say `public`, `s-maxage` or `must-revalidate`, if it is for all users.",
            Self::NotAllowed => "Let the response state a lifetime or a validator, or give the rule a `default_ttl`.",
            Self::RpcStatus => "Give the rule a lifetime for this status of a call.",
            Self::NotUnary => "Nothing: only responses of one message with a status are stored.",
            Self::GraphqlErrors => "Look at the resolvers: the response has `errors`.",
            Self::GraphqlResponse => "Let the server answer with JSON that has `data`, and its content type.",
            Self::GraphqlTypename => "Let the query select `__typename` and `id` of each object.",
            Self::ContentUnreadable => "Let the closure of the rule accept every message of the route.",
            Self::ContentCompressed => "Put compression outside of the cache.",
        }
    }
}
