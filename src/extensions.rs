//! What a handler says to the cache through its response: extensions that the layers take out again.

use std::time::Duration;

use crate::namespace::{InvalidNamespace, Namespace};

/// A handler's word on the storing of its response, left in the response's extensions.
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
    /// Nothing said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// This response is not to be stored.
    pub fn no_store() -> Self {
        Self { forbidden: true, ..Self::default() }
    }

    /// The response belongs to this namespace as well, with all its ancestors. The rule and the handler together may name
    /// [`MAX_NAMESPACES`](crate::MAX_NAMESPACES) for an entry, ancestors not counted.
    pub fn namespace(mut self, name: Namespace) -> Self {
        self.namespaces.push(name);
        self
    }

    /// The response lives for so long, whatever the rule says. Zero: it is not stored.
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

/// A handler's word on what it has changed, left in the response's extensions for
/// [`InvalidateLayer`](crate::InvalidateLayer), whatever the method of the request.
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
    /// These namespaces besides those that the rule names.
    pub fn also(names: impl IntoIterator<Item = Namespace>) -> Self {
        Self { names: names.into_iter().collect(), only: false }
    }

    /// These namespaces in place of those that the rule names: for a handler that knows better what it has touched.
    pub fn only(names: impl IntoIterator<Item = Namespace>) -> Self {
        Self { names: names.into_iter().collect(), only: true }
    }

    /// As [`only`](Self::only), from names as text.
    ///
    /// # Errors
    ///
    /// If one of them is no namespace.
    pub fn try_only<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidNamespace> {
        Ok(Self { names: names.into_iter().map(Namespace::new).collect::<Result<_, _>>()?, only: true })
    }

    pub(crate) fn into_parts(self) -> (Vec<Namespace>, bool) {
        (self.names, self.only)
    }
}
