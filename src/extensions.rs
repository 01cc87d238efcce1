//! Instructions from a handler through its response: extensions that the layers remove.

use std::time::Duration;

use crate::namespace::{InvalidNamespace, Namespace};

/// Instructions for storing a response, set by the handler in the response's extensions.
///
/// ```
/// use std::time::Duration;
/// use http::Response;
/// use tower_response_cache::{CachePolicy, Namespace};
///
/// let mut response = Response::new("rows 17 and 42");
/// response.extensions_mut().insert(
///     CachePolicy::new()
///         .namespace(Namespace::of(["row", "orders", "17"]))
///         .namespace(Namespace::of(["row", "orders", "42"]))
///         .ttl(Duration::from_secs(30)),
/// );
/// ```
///
/// In axum, `Extension(CachePolicy::…)` as a part of the returned tuple does the same.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct CachePolicy {
    namespaces: Vec<Namespace>,
    ttl: Option<Duration>,
    forbidden: bool,
}

impl CachePolicy {
    /// Returns an empty policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a policy that forbids storing the response.
    pub fn no_store() -> Self {
        Self { forbidden: true, ..Self::default() }
    }

    /// Adds a namespace with all its ancestors. The rule and the handler together may name
    /// [`MAX_NAMESPACES`](crate::namespace::MAX_NAMESPACES) for an entry, ancestors not counted.
    pub fn namespace(mut self, name: Namespace) -> Self {
        self.namespaces.push(name);
        self
    }

    /// Sets the lifetime, in place of the rule's. With zero the response is not stored.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    pub(crate) fn forbids(&self) -> bool {
        self.forbidden
    }

    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }
}

/// The namespaces that a handler has changed, set in the response's extensions for [`InvalidateLayer`](crate::InvalidateLayer). They count with
/// every method.
///
/// ```
/// use http::Response;
/// use tower_response_cache::{Invalidations, Namespace};
///
/// let mut response = Response::new(());
/// response.extensions_mut().insert(Invalidations::only([Namespace::of(["orders_by_customer", "7"])]));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Invalidations {
    names: Vec<Namespace>,
    only: bool,
}

impl Invalidations {
    /// Returns namespaces to invalidate in addition to those of the rule.
    pub fn also(names: impl IntoIterator<Item = Namespace>) -> Self {
        Self { names: names.into_iter().collect(), only: false }
    }

    /// Returns namespaces to invalidate in place of those of the rule.
    pub fn only(names: impl IntoIterator<Item = Namespace>) -> Self {
        Self { names: names.into_iter().collect(), only: true }
    }

    /// Returns namespaces given as text, to invalidate in place of those of the rule.
    ///
    /// # Errors
    ///
    /// If one of them is not a valid namespace.
    pub fn try_only<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidNamespace> {
        Ok(Self { names: names.into_iter().map(Namespace::new).collect::<Result<_, _>>()?, only: true })
    }

    pub(crate) fn namespaces(&self) -> &[Namespace] {
        &self.names
    }

    pub(crate) fn into_parts(self) -> (Vec<Namespace>, bool) {
        (self.names, self.only)
    }
}
