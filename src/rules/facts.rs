//! Facts about a checked rule that show mistakes in the configuration.

use std::time::Duration;

use super::{policy::Policy, responses::ResponseRule, rule::Lifetime, write_options::InvalidationRule};

impl Policy {
    /// Returns the longest time for which responses are served without a call, as far as the rule states it.
    pub(crate) fn longest_service(&self) -> Option<Duration> {
        let of_rule = match &self.rule.lifetime {
            Lifetime::Fixed(ttl) => Some(*ttl),
            Lifetime::Http(options) => Some(options.default_ttl),
            Lifetime::ByRequest(_) | Lifetime::ByResponse(_) | Lifetime::Uncached => None,
        };
        let of_responses = self.rule.responses.iter().filter_map(ResponseRule::lifetime);
        let longest = self.rule.statuses.iter().map(|(_, ttl)| *ttl).chain(of_responses).chain(of_rule).max();
        longest.filter(|ttl| !ttl.is_zero()).map(|ttl| ttl.saturating_add(self.rule.stale_while_revalidate))
    }

    /// Returns the templates of the namespaces to which responses belong.
    pub(crate) fn carried(&self) -> Vec<&String> {
        match self.is_uncached() {
            true => Vec::new(),
            false => self.rule.all_templates().collect(),
        }
    }

    /// Returns true if something else than templates names namespaces of responses.
    pub(crate) fn carries_others(&self) -> bool {
        let is_open = !self.rule.namespaces_by.is_empty()
            || !self.rule.messages.reads_none_of_reads()
            || !self.rule.messages.namespaces.is_empty()
            || self.rule.content.reads_entities()
            || self.rule.reads_naming_fields()
            || self.learned().names_namespaces();
        is_open && !self.is_uncached()
    }

    /// Returns the templates of the namespaces that writes invalidate.
    pub(crate) fn invalidated(&self) -> Vec<&str> {
        match &self.rule.writes.names {
            InvalidationRule::Own => self.rule.all_templates().map(String::as_str).collect(),
            InvalidationRule::Listed(list) => list.iter().map(|(_, template)| template.as_str()).collect(),
        }
    }

    /// Returns true if something else than templates names the namespaces that writes invalidate: a closure, a field, a message, or the handler
    /// alone.
    pub(crate) fn invalidates_others(&self) -> bool {
        let writes = &self.rule.writes;
        let by_names = match &writes.names {
            InvalidationRule::Own => !self.rule.namespaces_by.is_empty(),
            InvalidationRule::Listed(list) => list.is_empty(),
        };
        by_names
            || !writes.computed.is_empty()
            || writes.field.is_some()
            || self.reads_written_requests()
            || self.reads_written_responses()
            || self.has_groups()
    }
}
