//! An explanation.

use std::fmt;

use super::stored::StoredResponse;
use crate::{
    key::{Key, describe::KeyPart},
    namespace::Namespace,
    rules::summary::RuleSummary,
    status::{Outcome, Stale},
};

/// The explanation of a request: the result of [`ResponseCache::explain`](crate::ResponseCache::explain).
///
/// `Display` writes it for people, one fact a line.
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    pub(crate) rule: Option<RuleSummary>,
    pub(crate) key: Option<Key>,
    pub(crate) parts: Vec<KeyPart>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) varies_by: Vec<String>,
    pub(crate) stored: Option<StoredResponse>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) if_enabled: Option<Outcome>,
    pub(crate) is_shadow: bool,
    pub(crate) revalidates: bool,
    pub(crate) falls_back: bool,
    pub(crate) store_error: Option<String>,
}

impl Explanation {
    /// Returns the rule that covers the request, or `None` if none does.
    pub fn rule(&self) -> Option<&RuleSummary> {
        self.rule.as_ref()
    }

    /// Returns the key of the request, or `None` if it bypasses the cache before it has a key.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Returns the parts of the key, in their order.
    pub fn key_parts(&self) -> &[KeyPart] {
        &self.parts
    }

    /// Returns the namespaces that the rule names, without their ancestors.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// Returns the names of the request fields by which the stored responses of the key vary.
    pub fn varies_by(&self) -> &[String] {
        &self.varies_by
    }

    /// Returns the stored response that the lookup finds, fresh or stale. An invalidated one is not found.
    pub fn stored(&self) -> Option<&StoredResponse> {
        self.stored.as_ref()
    }

    /// Returns the outcome that the request would get now, or `None` if no rule covers it.
    ///
    /// - A miss becomes [`Revalidated`](Outcome::Revalidated) if the cache [revalidates](Self::revalidates) and the inner service answers 304.
    /// - It becomes a stale hit if the inner service fails and the cache [falls back](Self::falls_back).
    /// - [`Collapsed`](Outcome::Collapsed) means that a fill is in progress. It becomes another outcome if the response of the fill cannot be
    ///   shared.
    ///
    /// A call by RPC whose deadline passes, and the [nested](crate::status::Bypass::Nested) request of a handler to its own URI, are not foreseen.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Returns the outcome that the request would get if caching were on.
    pub fn outcome_if_enabled(&self) -> Option<Outcome> {
        self.if_enabled
    }

    /// Returns true if the inner service is asked to revalidate the stored response.
    pub fn revalidates(&self) -> bool {
        self.revalidates
    }

    /// Returns true if the stored response would be served if the inner service failed.
    pub fn falls_back(&self) -> bool {
        self.falls_back
    }

    /// Returns the error of a shared store that did not answer. The request then is a miss.
    pub fn store_error(&self) -> Option<&str> {
        self.store_error.as_deref()
    }

    /// Returns the reason of a miss, a bypass or a stale hit, as logs show it.
    pub fn reason(&self) -> Option<&'static str> {
        reason_of(self.outcome?)
    }

    /// Returns a sentence that says what to do about the outcome, if it is not a hit.
    pub fn remedy(&self) -> Option<&'static str> {
        match self.outcome {
            None => Some(
                "Add a route for the path to the rules. Inside of a nested router, the layer sees the path without its prefix.",
            ),
            Some(Outcome::Miss(reason)) => Some(reason.remedy()),
            Some(Outcome::Bypass(reason)) => Some(reason.remedy()),
            Some(Outcome::OnlyIfCached) => Some("Send the request without `only-if-cached`, or fill the cache first."),
            Some(Outcome::Stale(Stale::WhileRevalidate)) => Some("Nothing: the response is refreshed in the background."),
            Some(Outcome::Stale(_)) => Some("Nothing: the client accepts a stale response."),
            Some(_) => None,
        }
    }
}

/// Returns the reason of an outcome, as logs show it.
pub(crate) fn reason_of(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Miss(reason) => Some(reason.as_str()),
        Outcome::Bypass(reason) => Some(reason.as_str()),
        Outcome::Stale(Stale::WhileRevalidate) => Some("stale-while-revalidate"),
        Outcome::Stale(Stale::IfError) => Some("stale-if-error"),
        Outcome::Stale(Stale::MaxStale) => Some("max-stale"),
        Outcome::Stale(Stale::SoftTimeout) => Some("soft-timeout"),
        _ => None,
    }
}

/// Returns the word for an outcome.
pub(crate) fn word(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        None => "uncovered",
        Some(Outcome::Hit) => "hit",
        Some(Outcome::Stale(_)) => "stale",
        Some(Outcome::Revalidated) => "revalidated",
        Some(Outcome::OnlyIfCached) => "only-if-cached",
        Some(Outcome::DeadlineExceeded) => "deadline-exceeded",
        Some(Outcome::Collapsed) => "collapsed",
        Some(Outcome::Miss(_)) => "miss",
        Some(Outcome::Bypass(_)) => "bypass",
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outcome: {}", word(self.outcome))?;
        if let Some(reason) = self.reason() {
            write!(f, " ({reason})")?;
        }
        if let Some(remedy) = self.remedy() {
            write!(f, "\nremedy: {remedy}")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "\nrule: {rule}")?;
        }
        for part in &self.parts {
            write!(f, "\nkey: {} {}", part.kind(), part.value())?;
        }
        for name in &self.namespaces {
            write!(f, "\nnamespace: {name}")?;
        }
        if let Some(stored) = &self.stored {
            write!(f, "\nstored: {stored}")?;
        }
        if let Some(error) = &self.store_error {
            write!(f, "\nstore: {error}")?;
        }
        Ok(())
    }
}
