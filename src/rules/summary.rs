//! A readable summary of a rule, for operators.

use std::fmt;

use super::{policy::Policy, rule::Lifetime, write_options::InvalidationRule};

/// A rule in readable form: its route, its lifetime, its namespaces and its options.
///
/// `Display` writes one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSummary {
    route: Option<String>,
    lifetime: String,
    namespaces: Vec<String>,
    invalidates: Vec<String>,
    options: Vec<String>,
    has_matched: bool,
}

impl RuleSummary {
    /// Returns the pattern of the route. `None` stands for the [fallback](crate::Rules::fallback).
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns the lifetime of responses, or its source.
    pub fn lifetime(&self) -> &str {
        &self.lifetime
    }

    /// Returns the templates of the namespaces to which responses belong. Namespaces that closures compute are not among them.
    pub fn namespaces(&self) -> &[String] {
        &self.namespaces
    }

    /// Returns the templates of the namespaces that writes invalidate, with their methods if not all methods do.
    pub fn invalidates(&self) -> &[String] {
        &self.invalidates
    }

    /// Returns the options that differ from their defaults.
    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// Returns true if the rule has matched a request.
    pub fn has_matched(&self) -> bool {
        self.has_matched
    }
}

impl fmt::Display for RuleSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.route.as_deref().unwrap_or("(fallback)"), self.lifetime)?;
        for (label, list) in [("namespaces", &self.namespaces), ("writes invalidate", &self.invalidates)] {
            if !list.is_empty() {
                write!(f, "; {label} {}", list.join(", "))?;
            }
        }
        self.options.iter().try_for_each(|option| write!(f, "; {option}"))
    }
}

impl Policy {
    /// Returns the summary of the rule.
    pub(crate) fn summary(&self) -> RuleSummary {
        let rule = &self.rule;
        let lifetime = match &rule.lifetime {
            Lifetime::Fixed(ttl) => format!("{ttl:?}"),
            Lifetime::ByRequest(_) => "computed from the request".into(),
            Lifetime::ByResponse(_) => "computed from the response".into(),
            Lifetime::Http(_) => "decided by HTTP (RFC 9111)".into(),
            Lifetime::Uncached => "uncached: the rule only invalidates".into(),
        };
        let invalidates = match &rule.writes.names {
            InvalidationRule::Own => rule.all_templates().cloned().collect(),
            InvalidationRule::Listed(list) => {
                let with_methods = |(methods, name): &(Option<Vec<http::Method>>, String)| match methods {
                    None => name.clone(),
                    Some(methods) => {
                        let methods: Vec<_> = methods.iter().map(http::Method::as_str).collect();
                        format!("{name} ({})", methods.join(", "))
                    }
                };
                list.iter().map(with_methods).collect()
            }
        };
        RuleSummary {
            route: self.route().map(str::to_owned),
            lifetime,
            namespaces: rule.namespaces.clone(),
            invalidates,
            options: self.options(),
            has_matched: self.learned().has_matched(),
        }
    }

    fn options(&self) -> Vec<String> {
        let rule = &self.rule;
        let mut options: Vec<String> = Vec::new();
        for (status, ttl) in &rule.statuses {
            options.push(format!("status {} for {ttl:?}", status.as_u16()));
        }
        options.extend(rule.responses.iter().map(ToString::to_string));
        let times = [("stale while revalidate", rule.stale_while_revalidate), ("stale if error", rule.stale_if_error)];
        options.extend(times.iter().filter(|(_, time)| !time.is_zero()).map(|(name, time)| format!("{name} {time:?}")));
        let times = [("soft timeout", rule.soft_timeout), ("distributed lock", rule.distributed_lock)];
        options.extend(times.iter().filter_map(|(name, time)| time.map(|time| format!("{name} {time:?}"))));
        let numbers = [
            ("refresh ahead", rule.refresh_ahead),
            ("jitter", rule.jitter),
            ("share of audited hits", rule.audit.share.unwrap_or_default()),
        ];
        options.extend(numbers.iter().filter(|(_, number)| *number > 0.0).map(|(name, number)| format!("{name} {number}")));
        for (name, is_set) in [
            ("shadow mode", rule.audit.shadow),
            ("identity in the key", rule.key.identity().is_some()),
            ("reads by POST", self.reads_by_post()),
            ("RPC", self.is_rpc()),
            ("GraphQL", self.is_graphql()),
            ("namespaces by a closure", !rule.namespaces_by.is_empty()),
            ("invalidates by a closure", !rule.writes.computed.is_empty()),
            ("cache groups", rule.groups),
            ("credentials ignored", rule.ignore_credentials),
            ("cookies ignored", rule.ignore_cookies),
            ("forwarding fields ignored", rule.ignore_forwarded),
            ("path as text", rule.path_as_text),
            ("invalidates softly", rule.writes.softly),
            ("no invalidation on client errors", rule.writes.skip_on_client_error),
            ("no invalidation on server errors", rule.writes.skip_on_server_error),
        ] {
            if is_set {
                options.push(name.into());
            }
        }
        options.push(format!("bodies up to {} bytes", rule.max_body));
        options
    }
}
