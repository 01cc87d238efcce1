//! One mistake in the configuration.

use std::fmt;

use crate::{route::ANY_ROUTE, rules::policy::Policy};

/// A mistake in the configuration.
///
/// `Display` writes one line: the kind, the route, the cause and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    kind: FindingKind,
    route: Option<String>,
    problem: String,
}

impl Finding {
    /// Returns a finding about the whole cache.
    pub(super) fn new(kind: FindingKind, problem: impl Into<String>) -> Self {
        Self { kind, route: None, problem: problem.into() }
    }

    /// Returns a finding about a rule.
    pub(super) fn of(kind: FindingKind, rule: &Policy, problem: impl Into<String>) -> Self {
        let route = Some(rule.route().unwrap_or(ANY_ROUTE).to_owned());
        Self { route, ..Self::new(kind, problem) }
    }

    /// Returns the kind.
    pub fn kind(&self) -> FindingKind {
        self.kind
    }

    /// Returns the pattern of the route, or `(any)` for a [fallback](crate::Rules::fallback). `None` stands for the whole cache.
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns the cause, without a full stop.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Returns the remedy, without a full stop.
    pub fn remedy(&self) -> &'static str {
        self.kind.remedy()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(route) = &self.route {
            write!(f, " {route}")?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy())
    }
}

/// Defines the kinds with their words and their remedies.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $remedy:literal;)*) => {
        /// The kind of a mistake in the configuration.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FindingKind {
            $($(#[$doc])* $name,)*
        }

        impl FindingKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Returns the word for the kind. It is stable.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)*
                }
            }
        }
    };
}

kinds! {
    /// A rule matches no request, or can match none.
    UnmatchedRule = "unmatched-rule",
        "compare the patterns with the paths that the layer sees (outside of a nested router, with its prefix), or remove the rule";
    /// A lifetime exceeds [`Lint::max_staleness`](crate::lint::Lint::max_staleness).
    Lifetime = "lifetime",
        "shorten the lifetime of the rule, of its statuses, or its `stale_while_revalidate`";
    /// No write rule names a namespace of responses, or an ancestor of it.
    NamespaceNotInvalidated = "namespace-not-invalidated",
        "let a write rule invalidate the namespace, or name it by `Lint::invalidated_elsewhere` if a job or a handler invalidates it";
    /// A write rule names a namespace to which no response belongs.
    NamespaceNotCarried = "namespace-not-carried",
        "compare the name with those of the rules that cache, or remove it from the write rule";
    /// Most requests of a route bypass the cache, because they have credentials that its key does not hold.
    Credentials = "credentials",
        "give the rule an `identity`, or `ignore_credentials` or `ignore_cookies` if responses are the same for all users";
    /// One target has many variants.
    Vary = "vary",
        "let responses vary by fewer fields, use `normalise` for fields with many spellings, or put the part that counts into the key";
    /// Most responses of a route set a cookie.
    SetCookie = "set-cookie",
        "put the session layer outside of the cache, or let it set the cookie only when the session changes";
    /// A response has a content coding and no `Vary: Accept-Encoding`.
    Compression = "compression",
        "put compression outside of the cache, or let it send `Vary: Accept-Encoding`";
    /// A request has reached the cache twice.
    Nested = "nested",
        "apply the cache layer once, at the router or at the route, and let handlers not request their own URI";
    /// A rule reads by POST, and no layer has read the content.
    RequestBodyUnread = "request-body-unread",
        "put `RequestBodyLayer` outside of `CacheLayer`, as `ResponseCache::layer_with_request_bodies` does";
    /// Responses without a namespace are stored on a route that has writes.
    NeverInvalidated = "never-invalidated",
        "add `.namespace(\"…\")` to the rule, or `*` if only the lifetime should end its entries";
    /// Most responses of a route are not stored, because their lifetime is zero.
    NothingStored = "nothing-stored",
        "give the rule or the response a lifetime above zero, or use `Rule::uncached`";
    /// A write has run for longer than the deadline of its fence.
    SlowWrite = "slow-write",
        "raise the deadline of `RedisBuilder::strict` above the time of the longest write, or make the handler faster";
    /// Redis may evict fences of a strict store.
    Eviction = "eviction",
        "set `maxmemory-policy noeviction` in Redis";
    /// Successful writes have invalidated nothing.
    UncoveredWrites = "uncovered-writes",
        "add their routes to the rules, or let their handlers say `Invalidations`, `Invalidations::only([])` if nothing cached has changed";
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
