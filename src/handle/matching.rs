//! The rule, the key and the namespaces of a request, for tests and operators.

use std::{error, fmt};

use http::{Method, Request, Uri};

use crate::{
    explain::most_specific, fast_path::write_key, key::Key, namespace::Namespace, rules::Rules, status::Bypass, store::Store,
};

/// The rule that covers a request, with the key and the namespaces of its response: the result of
/// [`ResponseCache::matches`](crate::ResponseCache::matches).
#[derive(Debug, Clone)]
pub struct Match {
    route: Option<String>,
    key: Key,
    namespaces: Vec<Namespace>,
}

impl Match {
    /// Returns the pattern of the route. `None` stands for the [fallback](crate::Rules::fallback).
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns the key under which the response is stored. [`Store::invalidate_key`](crate::Store::invalidate_key) invalidates it.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the namespaces that the rule names, without their ancestors. A handler can add namespaces by a
    /// [`CachePolicy`](crate::CachePolicy).
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }
}

/// The reason for which the cache does not answer a request: the error of [`ResponseCache::matches`](crate::ResponseCache::matches).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoMatch {
    /// No route matches the path, and the rules have no fallback.
    NoRule,
    /// The rule of the route is [`Rule::uncached`](crate::Rule::uncached): it only invalidates.
    Uncached,
    /// The request bypasses the cache.
    Bypass(Bypass),
}

impl fmt::Display for NoMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule covers the path"),
            Self::Uncached => f.write_str("the rule of the route caches nothing"),
            Self::Bypass(reason) => write!(f, "the request bypasses the cache: {reason}"),
        }
    }
}

impl error::Error for NoMatch {}

/// Matches a request without header fields and content against a table of rules.
pub(super) fn find<St: Store>(store: &St, rules: &Rules, method: &Method, uri: &Uri) -> Result<Match, NoMatch> {
    let mut request = Request::new(String::new());
    (*request.method_mut(), *request.uri_mut()) = (method.clone(), uri.clone());
    find_request(store, rules, &request)
}

/// Matches a request without content against a table of rules.
pub(super) fn find_request<St: Store>(store: &St, rules: &Rules, request: &Request<String>) -> Result<Match, NoMatch> {
    let found = rules.peek(request.uri(), request.extensions()).ok_or(NoMatch::NoRule)?;
    let rule = found.rule;
    if rule.is_uncached() {
        return Err(NoMatch::Uncached);
    }
    let mut canonical = Vec::new();
    let written = write_key(request, &found, &store.context().secret, &mut canonical).map_err(NoMatch::Bypass)?;
    let key = Key::new(canonical);
    let namespaces = most_specific(&rule.plan(&written.view, key.as_ref()).names);
    Ok(Match { route: rule.route().map(str::to_owned), key, namespaces })
}
