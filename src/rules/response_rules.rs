//! The response rules of a rule, applied to responses.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::{policy::Policy, responses::ResponseRule, rule::Rule};

impl Rule {
    /// Adds a response rule: conditions over the head of a response, and their effect.
    ///
    /// **The first response rule that matches a response decides**, in the order in which they were added. Put special ones first. A response that none
    /// matches is treated as the rule says otherwise.
    ///
    /// A response rule never makes a response storable that may not be stored: `no-store`, `private`, `Set-Cookie`, `Vary`, credentials and the other
    /// conditions of the rule count as before. Lifetimes take precedence in this order:
    ///
    /// 1. the [`CachePolicy`](crate::CachePolicy) of the handler
    /// 2. under [`Rule::http`], a lifetime that the response states
    /// 3. the response rule
    /// 4. [`Rule::status`]
    /// 5. the lifetime of the rule
    ///
    /// Responses are matched as the inner service sends them. After a 304, the updated stored response is matched.
    ///
    /// A [rule of a file](crate::Rules#impl-Deserialize%3C'de%3E-for-Rules) has the same conditions and effects as `response_rules`.
    #[must_use]
    pub fn response_rule(mut self, rule: ResponseRule) -> Self {
        self.responses.push(rule);
        self
    }

    /// Returns the templates of the rule and of its response rules.
    pub(super) fn all_templates(&self) -> impl Iterator<Item = &String> {
        self.namespaces.iter().chain(self.responses.iter().flat_map(|rule| &rule.namespaces))
    }

    /// Returns true if response rules name namespaces.
    pub(super) fn names_by_response(&self) -> bool {
        self.responses.iter().any(|rule| !rule.namespaces.is_empty())
    }

    /// Returns true if both rules store the same responses and name the same namespaces for them, apart from lifetimes.
    pub(super) fn selects_responses_as(&self, other: &Self) -> bool {
        // The last ones that set lifetimes alone exclude no other.
        let selecting = |rules: &[ResponseRule]| {
            let count = rules.iter().rposition(|rule| !rule.sets_lifetimes_alone()).map_or(0, |last| last + 1);
            rules[..count].to_vec()
        };
        let (own, others) = (selecting(&self.responses), selecting(&other.responses));
        own.len() == others.len() && own.iter().zip(&others).all(|(one, other)| one.selects_as(other))
    }
}

impl Policy {
    /// Returns the response rule that matches the head of a response, with its number.
    #[inline]
    pub(crate) fn response_rule(&self, status: StatusCode, headers: &HeaderMap) -> Option<(usize, &ResponseRule)> {
        self.rule.responses.iter().enumerate().find(|(_, rule)| rule.matches(status, headers))
    }

    /// Returns true if a response rule forbids storing a response.
    #[inline]
    pub(crate) fn forbids_storing(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.response_rule(status, headers).is_some_and(|(_, rule)| rule.forbids())
    }

    /// Returns the lifetime that a response rule or the status of a response has in place of that of the rule.
    #[inline]
    pub(crate) fn own_lifetime(&self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let by_status = self.status_lifetime(status);
        let stores = |rule: &ResponseRule| {
            rule.names_statuses() || by_status.is_some_and(|ttl| !ttl.is_zero()) || self.stores_by_default(status)
        };
        let matching = self.response_rule(status, headers).filter(|(_, rule)| stores(rule));
        matching.and_then(|(_, rule)| rule.lifetime()).or(by_status)
    }
}
