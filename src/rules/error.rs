//! Errors of rules and routes, found when the table is built.

use std::{error, fmt};

use matchit::InsertError;

use crate::namespace::InvalidNamespace;

/// The error of an invalid route or rule. Its text contains the route, the reason, and the allowed values.
///
/// ```
/// use tower_response_cache::{Rule, Rules, rules::RulesErrorKind};
///
/// let error = Rules::new().try_route("tables", Rule::uncached()).unwrap_err();
/// assert_eq!(error.kind(), RulesErrorKind::Pattern);
/// assert_eq!(error.to_string(), "route \"tables\": a pattern begins with `/`, as in `/tables/{table}`");
/// ```
#[derive(Debug, Clone)]
pub struct RulesError {
    kind: RulesErrorKind,
    text: String,
}

/// The kind of a [`RulesError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RulesErrorKind {
    /// The route's pattern is invalid.
    Pattern,
    /// Another route matches the same paths.
    Overlap,
    /// A template names a parameter that the route does not have.
    Parameter,
    /// A namespace is empty, too long, or there are too many of them.
    Namespace,
    /// A setting is out of range.
    Setting,
    /// A descriptor set is malformed, has no method that would be cached, or has an option where it does not belong.
    Descriptors,
}

impl RulesError {
    /// Returns the kind of the error.
    pub fn kind(&self) -> RulesErrorKind {
        self.kind
    }

    pub(super) fn new(kind: RulesErrorKind, route: Option<&str>, why: impl fmt::Display) -> Self {
        let text = match route {
            Some(route) => format!("route {route:?}: {why}"),
            None => format!("rule without a route: {why}"),
        };
        Self { kind, text }
    }

    #[cfg(feature = "protobuf")]
    pub(super) fn descriptors(why: &dyn fmt::Display) -> Self {
        Self { kind: RulesErrorKind::Descriptors, text: format!("descriptor set: {why}") }
    }

    pub(super) fn pattern(route: &str, why: &str) -> Self {
        Self::new(RulesErrorKind::Pattern, Some(route), why)
    }

    pub(super) fn namespace(route: Option<&str>, template: &str, why: &InvalidNamespace) -> Self {
        Self::new(RulesErrorKind::Namespace, route, format!("template {template:?}: {why}"))
    }

    pub(super) fn insert(route: &str, why: &InsertError) -> Self {
        match why {
            InsertError::Conflict { with } => Self {
                kind: RulesErrorKind::Overlap,
                text: format!("route {route:?} overlaps with {with:?}, which was added before"),
            },
            InsertError::InvalidParamSegment => {
                Self::pattern(route, "a segment has more than one parameter; at most one, as in `/v{version}`")
            }
            InsertError::InvalidCatchAll => Self::pattern(route, "`{*name}` must be a whole segment at the end"),
            _ => Self::pattern(
                route,
                "invalid parameter: expected `{name}` or `{*name}`; write `{{` and `}}` for literal braces",
            ),
        }
    }
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl error::Error for RulesError {}
