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
    #[cfg_attr(not(feature = "config"), expect(dead_code, reason = "files alone have places"))]
    part: Option<RulePart>,
}

/// The part of a rule that has a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RulePart {
    /// The pattern of the route.
    Pattern,
    /// An option, by the name of its method.
    Option(&'static str),
    /// A name in the table of an option.
    Name(&'static str, String),
    /// A text in a list.
    Text(String),
    /// An option of a response rule, or a text in its list.
    OfResponseRule { number: usize, option: &'static str, text: Option<String> },
    /// The last of these options in the file, if it has several. Only one of them can hold.
    #[cfg_attr(not(feature = "config"), expect(dead_code, reason = "in code, the later one replaces the earlier one"))]
    Last(&'static [&'static str]),
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
        Self { kind, text, part: None }
    }

    /// Names the part of the rule that has the fault.
    pub(super) fn in_part(self, part: RulePart) -> Self {
        Self { part: Some(part), ..self }
    }

    #[cfg(feature = "config")]
    pub(super) fn part(&self) -> Option<&RulePart> {
        self.part.as_ref()
    }

    #[cfg(feature = "protobuf")]
    pub(super) fn descriptors(why: &dyn fmt::Display) -> Self {
        Self { kind: RulesErrorKind::Descriptors, text: format!("descriptor set: {why}"), part: None }
    }

    pub(super) fn pattern(route: &str, why: &str) -> Self {
        Self::new(RulesErrorKind::Pattern, Some(route), why).in_part(RulePart::Pattern)
    }

    pub(super) fn namespace(route: Option<&str>, template: &str, why: &InvalidNamespace) -> Self {
        let error = Self::new(RulesErrorKind::Namespace, route, format!("template {template:?}: {why}"));
        error.in_part(RulePart::Text(template.to_owned()))
    }

    pub(super) fn insert(route: &str, why: &InsertError) -> Self {
        match why {
            InsertError::Conflict { with } => Self {
                kind: RulesErrorKind::Overlap,
                text: format!("route {route:?} overlaps with {with:?}, which was added before"),
                part: Some(RulePart::Pattern),
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
