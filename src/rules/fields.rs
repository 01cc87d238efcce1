//! Options of a rule for header fields in which the inner service lists namespaces.

use http::HeaderMap;

use super::{end_check::Unread, policy::Policy, rule::Rule};
use crate::{
    key::header_name::header_name,
    namespace::{Namespace, fields::listed},
    status::NoStore,
};

impl Rule {
    /// Adds the namespaces of an entry that the response lists in a header field, for an inner service in another process or in another language.
    ///
    /// ```text
    /// cache-namespaces: row:orders:17, row:orders:42
    /// ```
    ///
    /// Names are written as [`Namespace`] writes them and separated by commas. [`Namespace::of`] shows the encoding of values from outside. A response
    /// without the field belongs to the other namespaces of its rule. A response with an invalid name is not stored (`namespaces`), and a warning names
    /// the route. The field is passed on to the client.
    ///
    /// The field counts as [`CachePolicy::namespace`](crate::CachePolicy::namespace) does, under every kind of rule.
    /// [`invalidates_from_header`](Self::invalidates_from_header) is its counterpart for writes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Rule;
    ///
    /// let rule = Rule::ttl(Duration::from_secs(60)).namespaces_from_header("cache-namespaces");
    /// # drop(rule);
    /// ```
    ///
    /// # Panics
    ///
    /// If the text is not a header name.
    #[must_use]
    #[track_caller]
    pub fn namespaces_from_header(mut self, field: impl AsRef<str>) -> Self {
        self.namespaces_field = Some(header_name(field.as_ref()));
        self
    }

    /// Lets unsafe methods on this route also invalidate the namespaces that the response lists in a header field, in the form of
    /// [`namespaces_from_header`](Self::namespaces_from_header).
    ///
    /// The rule's other namespaces for writes stay. A response without the field adds none. **A response with an invalid name invalidates all
    /// entries**, because its namespaces are not known. [`Stats::unread_writes`](crate::Stats::unread_writes) counts these writes, and a warning names
    /// the route.
    ///
    /// ```
    /// use tower_response_cache::Rule;
    ///
    /// let rule = Rule::uncached().invalidates_from_header("cache-invalidates");
    /// # drop(rule);
    /// ```
    ///
    /// # Panics
    ///
    /// If the text is not a header name.
    #[must_use]
    #[track_caller]
    pub fn invalidates_from_header(mut self, field: impl AsRef<str>) -> Self {
        self.writes.field = Some(header_name(field.as_ref()));
        self
    }

    /// Returns true if the heads of responses name namespaces of entries.
    pub(super) fn reads_naming_fields(&self) -> bool {
        self.groups || self.namespaces_field.is_some() || self.names_by_response()
    }
}

impl Policy {
    /// Returns true if the header of a response lists namespaces of its entry.
    #[cfg(feature = "graphql")]
    pub(super) fn lists_namespaces(&self, headers: &HeaderMap) -> bool {
        lists_some(self.rule.namespaces_field.as_ref(), headers)
    }

    /// Returns true if the header of the response to a write lists namespaces to invalidate.
    #[cfg(feature = "graphql")]
    pub(super) fn lists_invalidations(&self, headers: &HeaderMap) -> bool {
        lists_some(self.rule.writes.field.as_ref(), headers)
    }

    /// Returns the namespaces to invalidate that the header of a response lists.
    pub(super) fn listed_invalidations(&self, headers: &HeaderMap) -> Result<Vec<Namespace>, Unread> {
        let Some(field) = &self.rule.writes.field else { return Ok(Vec::new()) };
        let unread = |error| Unread { reason: NoStore::Namespaces, error: format!("the field `{field}`: {error}") };
        listed(headers, field).map_err(unread)
    }
}

#[cfg(feature = "graphql")]
fn lists_some(field: Option<&http::HeaderName>, headers: &HeaderMap) -> bool {
    field.is_some_and(|field| listed(headers, field).is_ok_and(|names| !names.is_empty()))
}
