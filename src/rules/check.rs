//! The check of a rule: its pattern, and its settings.

use std::time::Duration;

use http::StatusCode;

use super::{
    error::{RulePart, RulesError, RulesErrorKind},
    rule::{Lifetime, Rule},
};

/// Checks the pattern of a rule and its settings.
pub(super) fn check(route: Option<&str>, rule: &Rule) -> Result<(), RulesError> {
    let fault = |part, why: String| {
        let kind = if part == RulePart::Pattern { RulesErrorKind::Pattern } else { RulesErrorKind::Setting };
        Err(RulesError::new(kind, route, why).in_part(part))
    };
    if route.is_some_and(|route| !route.starts_with('/')) {
        return fault(RulePart::Pattern, "a pattern begins with `/`, as in `/tables/{table}`".into());
    }
    let old = |segment: &&str| segment.starts_with([':', '*']);
    if let Some(segment) = route.and_then(|route| route.split('/').find(old)) {
        let name = segment.trim_start_matches(':');
        let why = format!("{segment:?} is plain text, not a parameter: write `{{{name}}}`");
        return fault(RulePart::Pattern, why);
    }
    for (status, _) in &rule.statuses {
        if status.is_informational() || [StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED].contains(status) {
            let status = status.as_u16();
            let part = RulePart::Name("status", status.to_string());
            return fault(part, format!("a {status} response cannot be stored"));
        }
    }
    for (number, response) in rule.responses.iter().enumerate() {
        response.check(route, number)?;
    }
    if !rule.responses.is_empty() && matches!(rule.lifetime, Lifetime::Uncached) {
        return fault(RulePart::Option("response_rule"), "invalid response_rule: expected a rule that caches".into());
    }
    if !(0.0..=1.0).contains(&rule.jitter) {
        let why = format!("invalid jitter {}: expected a fraction between 0 and 1", rule.jitter);
        return fault(RulePart::Option("jitter"), why);
    }
    if !(rule.refresh_ahead >= 0.0 && rule.refresh_ahead.is_finite()) {
        let why = format!("invalid refresh_ahead {}: expected 0 (off) or a positive number", rule.refresh_ahead);
        return fault(RulePart::Option("refresh_ahead"), why);
    }
    if let Some(share) = rule.audit.share
        && !(share > 0.0 && share <= 1.0)
    {
        let why = format!("invalid audit {share}: expected a share of the hits above 0 and up to 1, such as 0.01");
        return fault(RulePart::Option("audit"), why);
    }
    if rule.distributed_lock.is_some_and(|lease| lease < Duration::from_millis(100) || lease > Duration::from_secs(300)) {
        let lease = rule.distributed_lock.unwrap_or_default();
        let why = format!("invalid distributed_lock {lease:?}: expected a duration between 100 milliseconds and 5 minutes");
        return fault(RulePart::Option("distributed_lock"), why);
    }
    if let Some((name, expected)) = rule.misplaced {
        return fault(RulePart::Option(name), format!("invalid {name}: expected {expected}"));
    }
    #[cfg(feature = "graphql")]
    if let Some(text) = rule.content.graphql.as_ref().and_then(|options| options.invalid_document.as_ref()) {
        let why = "invalid graphql_document: expected an executable document of at most 16,384 tokens and 64 levels";
        return fault(RulePart::Text(text.clone()), why.into());
    }
    Ok(())
}
